"""The block's op where not all is known: what its shape function infers and refuses, and what the raw ops refuse."""

from __future__ import annotations

import pytest
import tensorflow as tf

from tf_dwsconv._arguments import Attributes, Tensors
from tf_dwsconv._tf import dispatch
from tf_dwsconv._tf import library as _library

pytestmark = pytest.mark.usefixtures("op_library")

STAGES = {  # shapes of the filters, channels in and out
    "e": ({"expand_filter": (1, 1, 5, 6)}, 5, 6),
    "d": ({"depthwise_filter": (3, 2, 5, 2)}, 5, 10),
    "ed": ({"expand_filter": (1, 1, 5, 6), "depthwise_filter": (3, 2, 6, 2)}, 5, 12),
    "edp": (
        {"expand_filter": (1, 1, 5, 6), "depthwise_filter": (3, 2, 6, 2), "pointwise_filter": (1, 1, 12, 4)}, 5, 4
    ),
    "dense": ({"pointwise_filter": (3, 2, 5, 4)}, 5, 4),
}  # fmt: skip
WINDOWS = {
    "same": ("SAME", None),
    "valid": ("VALID", None),
    "explicit": ("EXPLICIT", ((2, 1), (0, 3))),
}


def attributes_of(window, data_format, strides):
    padding, pads = WINDOWS[window]
    numbers = ()
    if pads is not None:
        spatial = (*pads[0], *pads[1])
        numbers = (0, 0, 0, 0, *spatial) if data_format == "NCHW" else (0, 0, *spatial, 0, 0)
    return Attributes(strides=strides, padding=padding, explicit_paddings=numbers, data_format=data_format)


def inferred(x_shape, filters, attributes):
    """The static shape of the output in a graph."""
    with tf.Graph().as_default():
        given = {name: tf.compat.v1.placeholder(tf.float32, shape) for name, shape in filters.items()}
        y = dispatch.run(tf.compat.v1.placeholder(tf.float32, x_shape), Tensors(**given), attributes)
        assert y.op.type == "TfDwsconv>ConvBlock"
        return y.shape.as_list()


@pytest.mark.parametrize("data_format", ["NHWC", "NCHW"])
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("stages", STAGES)
def test_what_is_unknown_stays_so_and_no_more(stages, window, data_format):
    filters, channels, out = STAGES[stages]
    if stages == "e" and window == "explicit":
        pytest.skip("an expansion alone has no window")
    attributes = attributes_of(window, data_format, (1, 1) if stages == "e" else (2, 1))

    def in_layout(n, h, w, c):
        return [n, c, h, w] if data_format == "NCHW" else [n, h, w, c]

    tensors = Tensors(**{name: tf.ones(shape) for name, shape in filters.items()})
    known = dispatch.run(tf.ones(in_layout(2, 9, 8, channels)), tensors, attributes).shape.as_list()
    rows, columns = known[2:4] if data_format == "NCHW" else known[1:3]
    assert known == in_layout(2, rows, columns, out)
    assert inferred(in_layout(2, 9, 8, channels), filters, attributes) == known
    assert inferred(in_layout(None, 9, 8, channels), filters, attributes) == in_layout(None, rows, columns, out)
    assert inferred(in_layout(2, None, 8, channels), filters, attributes) == in_layout(2, None, columns, out)
    assert inferred(in_layout(2, 9, None, channels), filters, attributes) == in_layout(2, rows, None, out)
    assert inferred(in_layout(None, None, None, channels), filters, attributes) == in_layout(None, None, None, out)


@pytest.mark.parametrize("data_format", ["NHWC", "NCHW"])
def test_windows_that_do_not_fit_are_refused_while_the_graph_is_made(data_format):
    filters = {"depthwise_filter": (6, 2, 5, 1)}
    shape = [None, 5, 3, 9] if data_format == "NCHW" else [None, 3, 9, 5]
    # Three rows and two of padding above, one below: the window has six. Without the padding it does not fit.
    assert inferred(shape, filters, attributes_of("explicit", data_format, (1, 1))) is not None
    with pytest.raises(ValueError, match="larger than the input along the height"):
        inferred(shape, filters, attributes_of("valid", data_format, (1, 1)))


def test_negative_pads_of_the_raw_ops():
    """Python checks pads itself, but graphs made elsewhere come by here."""
    x, d, p = tf.ones([1, 8, 8, 2]), tf.ones([3, 3, 2, 1]), tf.ones([1, 1, 2, 4])
    for pads in ([0, 0, -1, 1, 1, 1, 0, 0], [0, 0, 1, 1, 2, -2, 0, 0]):
        window = {"padding": "EXPLICIT", "explicit_paddings": pads}
        calls = (
            lambda window=window: _library.load().op(
                input=x, depthwise_filter=d, pointwise_filter=p, depthwise_bias=[], bias=[], residual=[], **window
            ),
            lambda window=window: _library.block_op()(
                input=x, expand_filter=[], expand_bias=[], depthwise_filter=[d], depthwise_bias=[],
                pointwise_filter=[p], bias=[], scale=[], residual=[], expand_slopes=[], depthwise_slopes=[], slopes=[],
                **window,
            ),
        )  # fmt: skip
        for call in calls:
            with pytest.raises(tf.errors.InvalidArgumentError, match="explicit_paddings must not be negative"):
                call()


def test_factors_of_another_batch():
    """As many factors, but for other pictures."""
    x = tf.ones([2, 4, 4, 6])
    for shape in ([3, 6], [1, 6], [6, 2], [1, 12], [12], [2, 1, 6]):
        tensors = Tensors(pointwise_filter=tf.ones([1, 1, 6, 3]), gate=tf.ones(shape))
        with pytest.raises((ValueError, tf.errors.InvalidArgumentError), match="scale"):
            dispatch.run(x, tensors, Attributes())
