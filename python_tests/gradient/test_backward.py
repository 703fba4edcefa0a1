"""The gradient op's kernels: every instruction set against float64, reproducible bits, odd geometries, bad input."""

from __future__ import annotations

import ctypes
import os

import numpy as np
import pytest
import tensorflow as tf
from conftest import check_python, op_calls
from gradient_cases import (
    SMALL,
    SMOOTH,
    assert_close,
    call,
    check_against_float64,
    gradients,
    in_float64,
    tensors_of,
)
from hypothesis import given, settings
from native_support import ISAS
from strategies import shapes

from tf_dwsconv._tf import library as _library

pytestmark = pytest.mark.usefixtures("op_library")


def backward_calls():
    return op_calls("dwsconv_backward_calls")


def plain_calls():
    count = ctypes.CDLL(_library.load().path).dwsconv_backward_plain_calls
    count.restype = ctypes.c_int64
    return count()


@pytest.mark.parametrize("isa", ISAS)
def test_float32_agrees_with_float64(isa, monkeypatch):
    """Stock ops compute in float64 from end to end; sums here have a few thousand terms at most."""
    monkeypatch.setenv("DWSCONV_ISA", isa)
    before = backward_calls()
    examples = 0

    @settings(max_examples=300)
    @given(shapes(words=SMOOTH, max_size=12, max_channels=40))
    def run(shape):
        nonlocal examples
        examples += 1
        check_against_float64(shape, "float32", 1e-4)

    run()
    assert examples >= 300
    # One call of the gradient op for each example, but for those whose every output is empty: there are none.
    expected = {name: count + (examples if name == isa else 0) for name, count in before.items()}
    assert backward_calls() == expected


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype, tolerance", [("bfloat16", 0.03), ("float16", 0.004)])
def test_16_bits_agree_with_float64(isa, dtype, tolerance, monkeypatch):
    """Gradients are rounded once, at the end: half a unit in the last place, and what the forward pass rounded."""
    monkeypatch.setenv("DWSCONV_ISA", isa)

    @settings(max_examples=40)
    @given(shapes(words=("none", "silu", "tanh", "gelu"), max_size=9, max_channels=20))
    def run(shape):
        check_against_float64(shape, dtype, tolerance)

    run()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(
    "sizes",
    [  # N H W C M K R S and strides: several blocks of channels, of rows, pieces of one image, all tails
        ((8, 14, 14, 160, 1, 40, 3, 3), (1, 1)),
        ((1, 61, 61, 50, 1, 70, 3, 3), (1, 1)),
        ((2, 33, 30, 96, 2, 130, 5, 5), (2, 2)),
        ((1, 40, 40, 3, 1, 33, 3, 3), (2, 1)),
        ((5, 15, 15, 200, 1, 530, 7, 7), (1, 1)),
        ((40, 7, 7, 17, 1, 257, 3, 3), (1, 2)),
        ((2, 30, 9, 20, 1, 12, 9, 1), (1, 1)),  # a window of one column: rows are its neighbours
        ((1, 90, 5, 33, 1, 20, 31, 1), (1, 1)),
    ],
)
def test_blocks_and_chunks(isa, sizes, monkeypatch):
    monkeypatch.setenv("DWSCONV_ISA", isa)
    letters, strides = sizes
    shape = {**dict(zip("NHWCMKRS", letters)), "strides": strides, "bias": True, "depthwise_bias": True}
    check_against_float64({**shape, "depthwise_activation": ("tanh", 0.2)}, "float32", 1e-4)


def check_bits(isa, dtype, letters):
    """Runs in a process that TensorFlow gives seven threads."""
    os.environ["DWSCONV_ISA"] = isa
    shape = {**dict(zip("NHWCMKRS", letters)), "bias": True, "residual": True, "activation": ("relu", 0.2)}
    tensors, keywords = tensors_of(shape, dtype)
    weights = tf.random.stateless_normal(call(tensors, keywords).shape, [1, 2])
    before = backward_calls()[isa]
    results = []
    for threads in ("1", "2", "2", "7"):
        os.environ["DWSCONV_NUM_THREADS"] = threads
        results.append([g.numpy().tobytes() for g in gradients(tensors, keywords, weights)])
    assert all(result == results[0] for result in results), (isa, dtype, letters)
    assert backward_calls()[isa] == before + 4


_BITS = """
import itertools
from test_backward import ISAS, check_bits
sizes = (3, 20, 20, 150, 1, 70, 3, 3), (1, 50, 13, 24, 2, 40, 5, 3)
for case in itertools.product(ISAS, ("float32", "bfloat16"), sizes):
    check_bits(*case)
print("same")
"""


def test_same_bits_for_any_number_of_threads():
    """Of each instruction set; more threads than this machine may have cores."""
    assert "same" in check_python(_BITS, TF_NUM_INTRAOP_THREADS="7")


_DETERMINISTIC = """
import hashlib, sys
import keras, numpy as np, tensorflow as tf
import tf_dwsconv

keras.utils.set_random_seed(7)
tf.config.experimental.enable_op_determinism()
model = keras.Sequential([
    keras.Input((20, 20, 3)),
    tf_dwsconv.DepthwiseSepConv2D(40, 3, activation="relu", padding="same"),
    tf_dwsconv.DepthwiseSepConv2D(70, 5, strides=2, activation="silu"),
    keras.layers.GlobalAveragePooling2D(),
    keras.layers.Dense(4),
])
model.compile("sgd", "mse")
rng = np.random.default_rng(0)
model.fit(rng.standard_normal((32, 20, 20, 3)), rng.standard_normal((32, 4)), batch_size=8, epochs=2, verbose=0)
print(hashlib.sha256(b"".join(w.tobytes() for w in model.get_weights())).hexdigest())
"""


def test_training_is_reproducible_under_op_determinism():
    """Two processes, with one and two threads, end at the same weights."""
    first, second = (
        check_python(_DETERMINISTIC, DWSCONV_NUM_THREADS=threads, TF_NUM_INTRAOP_THREADS="2") for threads in "12"
    )
    assert len(first.split()[-1]) == 64
    assert first.split()[-1] == second.split()[-1]


@pytest.mark.parametrize("data_format", ["NHWC", "NCHW"])
def test_geometry_that_no_block_holds(data_format):
    """A dilation of tens of thousands would need tens of megabytes for a block: plain loops compute it."""
    shape = {
        **dict(zip("NHWCMKRS", (1, 60000, 3, 20, 1, 2, 2, 2))),
        "padding": "VALID",
        "dilations": (59995, 1),
        "data_format": data_format,
        "depthwise_bias": True,
        "bias": True,
        "residual": True,
        "depthwise_activation": ("silu", 0.2),
        "activation": ("tanh", 0.2),
    }
    before = plain_calls()
    check_against_float64(shape, "float32", 1e-4)
    assert plain_calls() == before + 1


def test_weights_that_no_output_uses_do_not_spoil_gradients():
    """A tap that lies in the padding for every output multiplies nothing, whatever it holds."""
    tensors, keywords = tensors_of({**dict(zip("NHWCMKRS", (2, 1, 1, 3, 1, 4, 3, 3))), "padding": "SAME"})
    expected = gradients(tensors, keywords, tf.ones(1))
    spoiled = tensors[1].numpy()
    spoiled[0], spoiled[2], spoiled[1, 0] = np.nan, np.inf, np.nan
    actual = gradients([tensors[0], tf.constant(spoiled), *tensors[2:]], keywords, tf.ones(1))
    for a, e in zip(actual, expected):
        np.testing.assert_array_equal(a, e)


def test_gradients_of_infinite_inputs_stay_local():
    """An infinity in one image reaches the filters' gradients and that image's own, and no other image's."""
    tensors, keywords = tensors_of({**dict(zip("NHWCMKRS", (2, 6, 6, 3, 1, 4, 3, 3))), "activation": ("silu", 0.2)})
    x = tensors[0].numpy()
    clean = gradients(tensors, keywords, tf.ones(1))[0].numpy()
    x[1, 2, 2, 1] = np.inf
    found = gradients([tf.constant(x), *tensors[1:]], keywords, tf.ones(1))
    np.testing.assert_array_equal(found[0].numpy()[0], clean[0])
    assert not np.isfinite(found[1].numpy()[..., 1, :]).all()


def raw(**changes):
    """The gradient op itself, on small tensors; changes replace arguments."""
    arguments = {
        "input": tf.ones([1, 4, 4, 2]),
        "depthwise_filter": tf.ones([3, 3, 2, 1]),
        "pointwise_filter": tf.ones([1, 1, 2, 5]),
        "depthwise_bias": (),
        "bias": (),
        "residual": (),
        "output": (),
        "grad": tf.ones([1, 4, 4, 5]),
        **{f"want_{name}": 1 for name in ("input", "depthwise_filter", "pointwise_filter")},
        **{f"want_{name}": 0 for name in ("depthwise_bias", "bias", "residual")},
    }
    return _library.gradient_op()(**{**arguments, **changes})


def test_raw_op_agrees_with_the_tape():
    found = raw(want_bias=1)
    tensors = [tf.ones([1, 4, 4, 2]), tf.ones([3, 3, 2, 1]), tf.ones([1, 1, 2, 5]), None, tf.zeros([5]), None]
    expected = gradients(in_float64(tensors), {}, tf.ones(1))
    assert_close(
        [g[0] for g in (found.d_input, found.d_depthwise_filter, found.d_pointwise_filter, found.d_bias)],
        expected,
        1e-5,
    )
    assert not found.d_residual and not found.d_depthwise_bias


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize(
    "changes, words",
    [
        ({"grad": tf.ones([1, 4, 4, 4])}, ["grad", "[1,4,4,5]", "[1,4,4,4]"]),
        ({"grad": tf.ones([1, 4, 4])}, ["grad", "[1,4,4,5]", "[1,4,4]"]),
        ({"grad": tf.ones([0, 4, 4, 5])}, ["grad", "[1,4,4,5]", "[0,4,4,5]"]),
        ({"activation": "relu"}, ["output", "missing"]),
        ({"activation": "relu", "output": (tf.ones([1, 4, 5, 5]),)}, ["output", "[1,4,5,5]"]),
        ({"output": (tf.ones([1, 4, 4, 5]),) * 2}, ["output", "at most 1", "2"]),
        ({"depthwise_filter": tf.ones([3, 3, 3, 1])}, ["depthwise_filter"]),
        ({"input": tf.ones([4, 4, 2])}, ["input", "rank 4"]),
        ({"pointwise_filter": tf.ones([1, 1, 3, 5])}, ["pointwise_filter"]),
        ({"pointwise_filter": tf.ones([2, 5])}, ["rank 4"]),
        ({"bias": (tf.ones([4]),), "activation": "silu"}, ["bias"]),
        ({"depthwise_bias": (tf.ones([3]),)}, ["depthwise_bias"]),
        ({"residual": (tf.ones([1, 4, 4, 4]),), "activation": "silu"}, ["residual"]),
        ({"want_input": 2}, ["want_input", "0 or 1", "2"]),
        ({"strides": [0, 1]}, ["strides"]),
        ({"activation": "softmax"}, ["activation", "softmax"]),
        ({"padding": "FULL"}, ["padding", "FULL"]),
    ],
)
def test_bad_input_of_the_raw_op(changes, words, graph):
    run = tf.function(lambda: raw(**changes)) if graph else lambda: raw(**changes)
    with pytest.raises((tf.errors.InvalidArgumentError, ValueError)) as error:
        run()
    for word in words:
        assert word in str(error.value)


def test_forward_output_is_not_kept_where_nobody_needs_it():
    """Graphs hold the inputs of gradient ops in memory: without an activation the forward op's result is not one."""

    def inputs_of(activation):
        tensors, keywords = tensors_of({**SMALL, "activation": (activation, 0.2), "bias": False, "residual": False})
        function = tf.function(lambda *t: gradients([*t[:4], None, None], keywords, tf.ones(1)))
        graph = function.get_concrete_function(*tensors[:4]).graph
        (gradient,) = [op for op in graph.get_operations() if op.type == "TfDwsconv>DepthwiseSepConv2DGrad"]
        (forward,) = [op for op in graph.get_operations() if op.type == "TfDwsconv>DepthwiseSepConv2D"]
        return [t.name for t in gradient.inputs], forward.outputs[0].name

    for activation, needed in (("none", False), ("relu", True), ("silu", False)):
        names, output = inputs_of(activation)
        assert (output in names) == needed, activation
