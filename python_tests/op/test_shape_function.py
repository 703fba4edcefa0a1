"""The op's shape function: what it infers from what is known, and what it refuses while the graph is made."""

from __future__ import annotations

import pytest
import tensorflow as tf

import tf_dwsconv

pytestmark = pytest.mark.usefixtures("op_library")

U = None  # an unknown dimension


def infer(x, depthwise, pointwise, biases=(), residual="absent", **attributes):
    """The static shape of the output, as a list, or None for an unknown rank."""
    with tf.Graph().as_default():

        def placeholder(shape):
            return tf.compat.v1.placeholder(tf.float32, shape)

        depthwise_bias, bias = (*biases, "absent", "absent")[:2]
        y = tf_dwsconv.depthwise_sep_conv2d(
            placeholder(x),
            placeholder(depthwise),
            placeholder(pointwise),
            depthwise_bias=None if depthwise_bias == "absent" else placeholder(depthwise_bias),
            bias=None if bias == "absent" else placeholder(bias),
            residual=None if residual == "absent" else placeholder(residual),
            **attributes,
        )
        return y.shape.as_list()


EXPLICIT = [[0, 0], [1, 2], [3, 0], [0, 0]]
KNOWN = [
    # x, depthwise, pointwise, attributes, output
    ([2, 9, 8, 3], [3, 3, 3, 2], [1, 1, 6, 5], {}, [2, 9, 8, 5]),
    ([2, 9, 8, 3], [3, 3, 3, 2], [1, 1, 6, 5], {"strides": (2, 3)}, [2, 5, 3, 5]),
    ([2, 9, 8, 3], [3, 5, 3, 2], [1, 1, 6, 5], {"padding": "VALID", "dilations": (2, 1)}, [2, 5, 4, 5]),
    ([2, 9, 8, 3], [3, 3, 3, 2], [1, 1, 6, 5], {"padding": EXPLICIT, "strides": 2}, [2, 5, 5, 5]),
    ([2, 3, 9, 8], [3, 3, 3, 2], [1, 1, 6, 5], {"data_format": "NCHW", "strides": (1, 2)}, [2, 5, 9, 4]),
    ([0, 9, 8, 3], [3, 3, 3, 2], [1, 1, 6, 5], {"padding": "VALID"}, [0, 7, 6, 5]),
    # Unknown dimensions stay unknown, and no others.
    ([U, 9, 8, 3], [3, 3, 3, 2], [1, 1, 6, 5], {}, [U, 9, 8, 5]),
    ([U, U, 8, 3], [3, 3, 3, 2], [1, 1, 6, 5], {"strides": 2}, [U, U, 4, 5]),
    ([2, U, U, U], [3, 3, 3, 2], [1, 1, 6, 5], {"padding": "VALID"}, [2, U, U, 5]),
    ([2, 9, 8, U], [3, 3, U, U], [1, 1, U, U], {}, [2, 9, 8, U]),
    # SAME needs no filter size; VALID does.
    ([2, 9, 8, 3], [U, U, 3, 2], [1, 1, 6, 5], {"strides": 2}, [2, 5, 4, 5]),
    ([2, 9, 8, 3], [U, 3, 3, 2], [1, 1, 6, 5], {"padding": "VALID"}, [2, U, 6, 5]),
    ([U, 3, U, 8], [3, 3, 3, 1], [1, 1, 3, 5], {"data_format": "NCHW"}, [U, 5, U, 8]),
    # Unknown ranks.
    (None, [3, 3, 3, 2], [1, 1, 6, 5], {}, [U, U, U, 5]),
    ([2, 9, 8, 3], None, [1, 1, 6, 5], {}, [2, 9, 8, 5]),
    ([2, 9, 8, 3], [3, 3, 3, 2], None, {}, [2, 9, 8, U]),
    (None, None, None, {}, [U, U, U, U]),
]


@pytest.mark.parametrize("path", ["fused", "stock"])
@pytest.mark.parametrize("x, depthwise, pointwise, attributes, expected", KNOWN, ids=str)
def test_inferred(monkeypatch, path, x, depthwise, pointwise, attributes, expected):
    if path == "stock":
        monkeypatch.setenv("DWSCONV_DISABLE", "1")
    assert infer(x, depthwise, pointwise, **attributes) == expected


def test_biases_and_residual_tell_more():
    assert infer([2, 9, 8, 3], [3, 3, 3, U], [1, 1, U, U], [[6], [5]]) == [2, 9, 8, 5]
    assert infer(None, [3, 3, 3, 2], [1, 1, 6, U], residual=[2, 9, U, 5]) == [2, 9, U, 5]
    assert infer(None, [3, 3, 3, 2], [1, 1, 6, U], residual=[2, 5, 9, U], data_format="NCHW") == [2, 5, 9, U]


REFUSED = [
    # x, depthwise, pointwise, further arguments, a word of the message
    ([9, 8, 3], [3, 3, 3, 2], [1, 1, 6, 5], {}, "input"),
    ([2, 9, 8, 4], [3, 3, 3, 2], [1, 1, 6, 5], {}, "depthwise_filter"),
    ([U, U, U, 4], [3, 3, 3, U], [1, 1, U, U], {}, "depthwise_filter"),
    ([U, 4, U, U], [3, 3, 3, U], [1, 1, U, U], {"data_format": "NCHW"}, "depthwise_filter"),
    ([U, U, U, U], [3, 3, 3, 2], [1, 1, 3, U], {}, "pointwise_filter"),
    ([U, U, U, U], [U, U, U, U], [2, 1, U, U], {}, "pointwise_filter"),
    ([U, U, U, U], [U, U, U, U], [1, 1, U], {}, "pointwise_filter"),
    ([U, U, U, U], [0, U, U, U], [1, 1, U, U], {}, "depthwise_filter"),
    ([U, U, U, U], [U, U, U, U], [1, 1, U, 0], {}, "pointwise_filter"),
    ([U, U, U, 3], [3, 3, 3, 2], [1, 1, U, 5], {"biases": [[5]]}, "depthwise_bias"),
    ([U, U, U, 3], [3, 3, 3, 2], [1, 1, U, 5], {"biases": ["absent", [6]]}, "bias"),
    ([U, U, U, 3], [3, 3, 3, 2], [1, 1, U, 5], {"biases": ["absent", [U, U]]}, "bias"),
    ([2, 9, U, 3], [3, 3, 3, 2], [1, 1, U, 5], {"residual": [2, 8, U, U]}, "residual"),
    ([2, 9, U, 3], [3, 3, 3, 2], [1, 1, U, 5], {"residual": [2, 9, U]}, "residual"),
    ([U, 2, U, 3], [3, 3, 3, 2], [1, 1, U, 5], {"padding": "VALID"}, "height"),
    ([U, U, 4, 3], [1, 3, 3, 2], [1, 1, U, 5], {"padding": "VALID", "dilations": 2}, "width"),
    ([U, U, 3, 3], [1, 7, 3, 2], [1, 1, U, 5], {"padding": EXPLICIT}, "width"),
]


@pytest.mark.parametrize("x, depthwise, pointwise, more, word", REFUSED, ids=str)
def test_refused_while_the_graph_is_made(x, depthwise, pointwise, more, word):
    with pytest.raises(ValueError, match=word):
        infer(x, depthwise, pointwise, **more)


@pytest.mark.parametrize("x, depthwise, pointwise, more, word", REFUSED, ids=str)
def test_stock_path_refuses_the_same(stock_only, x, depthwise, pointwise, more, word):
    with pytest.raises(ValueError, match="x" if word == "input" else word):
        infer(x, depthwise, pointwise, **more)
