"""The forward op against float64 NumPy and against stock TensorFlow, on every instruction set of this machine."""

from __future__ import annotations

import ml_dtypes
import native_support
import numpy as np
import pytest
import reference
import tensorflow as tf
from conftest import check_python, label, op_calls
from hypothesis import given, settings
from native_support import ISAS
from strategies import shapes

import tf_dwsconv
import tf_dwsconv.native

pytestmark = pytest.mark.usefixtures("op_library")

DTYPES = {**native_support.DTYPES, "float64": np.float64}


def run(x, layer, residual, dtype):
    """Our op, on what `reference.random_case` made."""

    def cast(array):
        return None if array is None else tf.constant(array.astype(DTYPES[dtype]))

    return tf_dwsconv.depthwise_sep_conv2d(
        cast(x),
        cast(layer.depthwise_filter),
        cast(layer.pointwise_filter),
        bias=cast(layer.bias),
        depthwise_bias=cast(layer.depthwise_bias),
        residual=cast(residual),
        **layer.keywords(),
    )


def tolerance(x, layer, residual, expected, dtype):
    """What rounding may do to the largest output.

    float32: 2e-5 of the largest output, which is the project's promise, and a few roundings of the largest sum of
    absolute values, for outputs that are all small because they cancel. 16-bit results are rounded once more: half a
    unit in the last place, eps/2, of the largest output; eps is given, for sums that lie at a rounding boundary.
    bfloat16 is rounded between the halves too, where the CPU multiplies it: up to eps/2 in each term of the pointwise
    sum, at random, so 0.3 eps of the root of the sum of squares is one standard deviation; seven of them are given.
    """
    largest = np.abs(expected).max(initial=0.0)
    magnitude = reference.magnitude(x, layer, residual)
    if dtype == "float64":
        return 1e-12 * max(largest, magnitude)
    allowed = 2e-5 * largest + 4 * np.finfo(np.float32).eps * magnitude
    if dtype == "float32":
        return allowed
    eps = float(ml_dtypes.finfo(DTYPES[dtype]).eps)
    return allowed + eps * largest + (2 * eps * reference.root_sum_square(x, layer) if dtype == "bfloat16" else 0)


def check(shape, dtype):
    rng = np.random.default_rng(shape["seed"])
    x, layer, residual = reference.random_case(rng, DTYPES[dtype], shape)
    expected = reference.forward(x, layer, residual)
    actual = run(x, layer, residual, dtype)
    assert actual.dtype == dtype
    assert tuple(actual.shape) == expected.shape
    error = np.abs(actual.numpy().astype(np.float64) - expected).max(initial=0.0)
    assert error <= tolerance(x, layer, residual, expected, dtype)


@pytest.fixture
def isa(request, monkeypatch):
    """Forces one instruction set, and sees to it that the calls of the test ran on it and on no other."""
    monkeypatch.setenv("DWSCONV_ISA", request.param)
    before = op_calls()
    yield request.param
    ran = {isa for isa, calls in op_calls().items() if calls > before[isa]}
    assert ran == {request.param}


@pytest.mark.parametrize("isa", ISAS, indirect=True)
def test_float32_agrees_with_float64(isa):
    @settings(max_examples=500)
    @given(shapes())
    def agrees(shape):
        check(shape, "float32")

    agrees()


@pytest.mark.parametrize("isa", ISAS, indirect=True)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_16_bits_agree_with_float64(isa, dtype):
    @settings(max_examples=120)
    @given(shapes())
    def agrees(shape):
        check(shape, dtype)

    agrees()


@pytest.mark.parametrize("dtype", list(DTYPES))
def test_stock_path_agrees_with_float64(stock_only, dtype):
    @settings(max_examples=150)
    @given(shapes())
    def agrees(shape):
        check(shape, dtype)

    agrees()


def test_every_instruction_set_has_kernels_of_its_own(monkeypatch):
    """That the variable really switches: the paths sum in different orders, so some bits differ."""
    shape = {**dict(zip("NHWCMKRS", (1, 20, 20, 64, 1, 64, 3, 3))), "activation": ("gelu", 0.2)}
    x, layer, residual = reference.random_case(np.random.default_rng(0), np.float32, shape)
    outputs = {}
    for isa in ISAS:
        monkeypatch.setenv("DWSCONV_ISA", isa)
        outputs[isa] = run(x, layer, residual, "float32").numpy()
    if "avx2" in ISAS:
        assert np.any(outputs["generic"] != outputs["avx2"])
    expected = reference.forward(x, layer, residual)
    for output in outputs.values():
        assert np.abs(output - expected).max() <= 2e-5 * np.abs(expected).max()


def test_unknown_instruction_set_is_an_error(monkeypatch):
    x = tf.ones([1, 4, 4, 2])
    monkeypatch.setenv("DWSCONV_ISA", "sse9")
    with pytest.raises(tf.errors.OpError, match="DWSCONV_ISA"):
        tf_dwsconv.depthwise_sep_conv2d(x, tf.ones([3, 3, 2, 1]), tf.ones([1, 1, 2, 3]))


LARGE = [  # past one block of pixels, one tile of channels and one cache level, with remainders
    dict(zip("NHWCMKRS", (2, 57, 61, 67, 1, 131, 3, 3))),
    {**dict(zip("NHWCMKRS", (1, 33, 29, 300, 1, 523, 5, 5))), "strides": (2, 2)},
    {**dict(zip("NHWCMKRS", (3, 7, 7, 515, 1, 259, 3, 3))), "data_format": "NCHW"},
    {**dict(zip("NHWCMKRS", (1, 112, 113, 3, 4, 17, 7, 7))), "strides": (2, 1), "dilations": (1, 2)},
    dict(zip("NHWCMKRS", (1, 1, 1, 1025, 1, 1, 1, 1))),
]


@pytest.mark.parametrize("isa", ISAS, indirect=True)
@pytest.mark.parametrize("shape", LARGE, ids=lambda shape: "x".join(str(shape[letter]) for letter in "NHWCMKRS"))
def test_large_layers(isa, shape):
    fused = {"bias": True, "activation": ("relu6", 0.2), "depthwise_bias": True, "depthwise_activation": ("silu", 0.2)}
    check({**fused, **shape, "seed": 5}, "float32")


@settings(max_examples=60)
@given(shapes(words=("none",)))
def test_agrees_with_stock_tensorflow(shape):
    """Where TensorFlow has the same op, an independent second opinion on padding and layouts."""
    if shape["strides"][0] != shape["strides"][1] or max(shape["dilations"]) > 1:
        return
    shape = {**shape, "data_format": "NHWC", "depthwise_bias": False, "residual": False, "bias": False}
    x, layer, _ = reference.random_case(np.random.default_rng(shape["seed"]), np.float32, shape)
    padding = layer.keywords()["padding"]
    z = tf.nn.depthwise_conv2d(
        x.astype(np.float32), layer.depthwise_filter.astype(np.float32), [1, *layer.strides, 1], padding
    )
    expected = tf.tensordot(z, tf.constant(layer.pointwise_filter[0, 0], tf.float32), axes=1).numpy()
    actual = run(x, layer, None, "float32").numpy()
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max() <= 2 * tolerance(x, layer, None, expected, "float32")


@pytest.mark.parametrize("stock", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
@pytest.mark.parametrize("padding", ["SAME", "VALID", ((1, 2), (0, 1))])
@pytest.mark.parametrize("batch_known", [True, False])
def test_empty_batch(monkeypatch, stock, dtype, padding, batch_known):
    monkeypatch.setenv("DWSCONV_DISABLE", "1" if stock else "0")
    shape = {**dict(zip("NHWCMKRS", (0, 9, 8, 3, 2, 5, 3, 3))), "padding": padding, "strides": (2, 2), "bias": True}
    x, layer, _ = reference.random_case(np.random.default_rng(0), np.float32, shape)
    expected = reference.forward(x, layer)
    function = tf.function(
        lambda x: run_tensors(x, layer, dtype),
        input_signature=[tf.TensorSpec([0 if batch_known else None, *x.shape[1:]], dtype)],
    )
    assert tuple(function(tf.constant(x, dtype)).shape) == expected.shape
    assert tuple(run(x, layer, None, dtype).shape) == expected.shape


def run_tensors(x, layer, dtype):
    def cast(array):
        return None if array is None else tf.constant(array, dtype)

    return tf_dwsconv.depthwise_sep_conv2d(
        x,
        cast(layer.depthwise_filter),
        cast(layer.pointwise_filter),
        bias=cast(layer.bias),
        depthwise_bias=cast(layer.depthwise_bias),
        **layer.keywords(),
    )


@pytest.mark.parametrize("stock", [False, True])
@pytest.mark.parametrize("shape", [(2, 0, 6, 3), (2, 6, 0, 3), (0, 0, 0, 3)])
def test_empty_image_with_same_padding(monkeypatch, stock, shape):
    monkeypatch.setenv("DWSCONV_DISABLE", "1" if stock else "0")
    y = tf_dwsconv.depthwise_sep_conv2d(tf.ones(shape), tf.ones([3, 3, 3, 1]), tf.ones([1, 1, 3, 4]), strides=2)
    assert tuple(y.shape) == (shape[0], (shape[1] + 1) // 2, (shape[2] + 1) // 2, 4)


@pytest.mark.parametrize("stock", [False, True])
@pytest.mark.parametrize(
    "attributes",
    [
        {"strides": 2**31 - 1},
        {"dilations": 2**31 - 1},
        {"strides": 2**31 - 1, "dilations": 2**30},
        {"strides": (1, 2**20), "dilations": (2**20, 1)},
        {"strides": 10**6, "padding": [[0, 0], [10**6, 10**6], [0, 10**6], [0, 0]]},
    ],
    ids=label,
)
def test_huge_steps_cost_no_memory(monkeypatch, stock, attributes):
    """Only what lies under a tap is read: pads and holes of a gigabyte are arithmetic, not memory."""
    monkeypatch.setenv("DWSCONV_DISABLE", "1" if stock else "0")
    rng = np.random.default_rng(3)
    x, layer, _ = reference.random_case(rng, np.float32, dict(zip("NHWCMKRS", (1, 5, 6, 3, 2, 4, 3, 3))))
    pair = {k: v if isinstance(v, tuple) else (v, v) for k, v in attributes.items() if k != "padding"}
    padding = attributes.get("padding", "SAME")
    layer = reference.dataclasses.replace(
        layer, padding=padding if padding == "SAME" else tuple(map(tuple, padding[1:3])), **pair
    )
    actual = run(x, layer, None, "float32").numpy()
    np.testing.assert_allclose(actual, reference.forward(x, layer), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("word", ["none", "relu", "relu6", "leaky_relu", "sigmoid", "tanh"])
@pytest.mark.parametrize("isa", ISAS, indirect=True)
def test_nan_and_infinity_propagate_as_in_stock_ops(monkeypatch, isa, word, value):
    """One bad pixel, in a case wide enough for full vectors and with remainders."""
    shape = {**dict(zip("NHWCMKRS", (1, 9, 9, 37, 1, 41, 3, 3))), "bias": True}
    for which in ("depthwise_activation", "activation"):
        x, layer, _ = reference.random_case(np.random.default_rng(1), np.float32, {**shape, which: (word, 0.2)})
        x[0, 4, 4, :] = value
        ours = run(x, layer, None, "float32").numpy()
        monkeypatch.setenv("DWSCONV_DISABLE", "1")
        stock = run(x, layer, None, "float32").numpy()
        monkeypatch.delenv("DWSCONV_DISABLE")
        np.testing.assert_array_equal(np.isnan(ours), np.isnan(stock))
        np.testing.assert_array_equal(np.isposinf(ours), np.isposinf(stock))
        np.testing.assert_array_equal(np.isneginf(ours), np.isneginf(stock))
        assert np.isnan(ours).any() or word != "none" or value != value


def test_nan_in_the_input_reaches_every_output_that_reads_it():
    x = np.ones((1, 5, 5, 4), np.float32)
    x[0, 0, 0, 0] = np.nan
    for word in ("none", "relu", "relu6", "hard_swish", "silu", "gelu", "leaky_relu", "sigmoid", "tanh"):
        y = tf_dwsconv.depthwise_sep_conv2d(
            x, np.ones((3, 3, 4, 1)), np.ones((1, 1, 4, 3)), depthwise_activation=word, activation=word
        ).numpy()
        expected = np.zeros((1, 5, 5, 3), bool)
        expected[0, :2, :2] = True
        np.testing.assert_array_equal(np.isnan(y), expected, err_msg=word)


def test_results_are_the_same_bits_for_any_number_of_threads():
    program = """
import hashlib, sys, numpy as np, tensorflow as tf, tf_dwsconv
rng = np.random.default_rng(0)
x, d, p = (rng.standard_normal(s).astype("float32") for s in ((2, 40, 40, 48), (3, 3, 48, 1), (1, 1, 48, 96)))
y = tf_dwsconv.depthwise_sep_conv2d(x, d, p, activation="gelu").numpy()
print(hashlib.sha256(y.tobytes()).hexdigest())
"""
    outputs = (check_python(program, DWSCONV_NUM_THREADS=threads, TF_NUM_INTRAOP_THREADS="4") for threads in "124")
    assert len({output.split()[-1] for output in outputs}) == 1


def test_results_are_the_same_bits_in_graph_and_eager():
    rng = np.random.default_rng(0)
    x, layer, _ = reference.random_case(rng, np.float32, dict(zip("NHWCMKRS", (2, 14, 14, 24, 1, 40, 3, 3))))
    eager = run(x, layer, None, "float32").numpy()
    graph = tf.function(lambda x: run_tensors(x, layer, "float32"))(tf.constant(x, tf.float32)).numpy()
    np.testing.assert_array_equal(eager, graph)
