"""Results in 16 bits are rounded to nearest, ties to even: exact ties, bit by bit, on every path.

Tolerances let a tie that goes the wrong way pass, as it is off by the last bit alone. So everything here is exact but
the last rounding: a value plus half of its last bit, of which all terms are powers of two times what 16 bits hold.
"""

from __future__ import annotations

import os

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
from conftest import op_calls
from native_support import ISAS, rounds_between

import tf_dwsconv
from tf_dwsconv import native
from tf_dwsconv._arguments import Attributes, Tensors
from tf_dwsconv._tf import dispatch
from tf_dwsconv.activations import Fused

pytestmark = pytest.mark.usefixtures("op_library")

# NumPy type, bits of a mantissa, exponent fields to try: down to half of float16's subnormal unit, up to infinity.
TYPES = {
    "bfloat16": (ml_dtypes.bfloat16, 7, (30, 55, 97, 100, *range(116, 146), 199, 231, 254)),
    "float16": (np.float16, 10, tuple(range(31))),
}


class Ties:
    """Values of `dtype`, a row for each mantissa and a column for each exponent; each has half its last bit to go.

    value: [P, K], signs mixed; unit: [P, K], the last bit of each, with its sign; expected: what value + unit / 2 is
    rounded to.
    """

    def __init__(self, dtype, least=0):
        self.type, mantissa, exponents = TYPES[dtype]
        # Where Z is rounded, what goes up to infinity there meets the zeros of the filter.
        most = max(exponents) - rounds_between(os.environ.get("DWSCONV_ISA", ""), dtype)
        exponents = np.array([e for e in exponents if least <= e <= most])
        bits = np.arange(1 << mantissa)[:, None] + (exponents << mantissa)
        sign = (bits % 3 == 0).astype(np.uint16) << 15
        # Of two neighbours the one whose last bit is 0; past the largest number that is infinity.
        self.expected = self._of((bits + (bits & 1)).astype(np.uint16) | sign)
        self.value = self._of(bits.astype(np.uint16) | sign)
        bias = 15 if dtype == "float16" else 127
        unit = np.ldexp(1.0, np.maximum(exponents, 1) - bias - mantissa)
        self.unit = np.where(sign, -unit, unit).astype(self.type)
        self.half = (unit / 2).astype(self.type)  # [K], of those that are there with `least`
        self.K = len(exponents)

    def _of(self, bits):
        return np.ascontiguousarray(bits).view(self.type)

    def images(self, array):
        """[P, ...] as two images of as many rows as columns, or twice."""
        rows = 8 if len(array) == 128 else 16
        return array.reshape(2, rows, -1, *array.shape[1:])

    def same(self, y, expected=None):
        """Whether `y` has the bits of what is expected, image by image; -0 is 0."""
        expected = self.images(self.expected if expected is None else expected)
        y = np.asarray(y).astype(self.type, copy=False)
        assert y.shape == expected.shape
        # All values of both types are exact in float32, so equal floats are equal bits, but for the sign of zero.
        np.testing.assert_array_equal(y.astype(np.float32), expected.astype(np.float32))


def ties_with_bias(dtype):
    """Half of a last bit has to be a number of `dtype`, and a bias is of one sign: the values' is made so, too."""
    ties = Ties(dtype, least=2)
    ties.value, ties.expected, ties.unit = abs(ties.value), abs(ties.expected), abs(ties.unit)
    return ties


@pytest.fixture(params=ISAS)
def isa(request, monkeypatch):
    monkeypatch.setenv("DWSCONV_ISA", request.param)
    return request.param


def identity(ties, factor=1.0):
    return np.eye(ties.K) * factor


def layers(dtype):
    """(name, ties, x, arguments of the layer) for each place where the half may come from."""
    ties = Ties(dtype)
    images = ties.images
    ones = np.ones((1, 1, ties.K, 1))
    both = np.concatenate([ties.value, ties.unit], axis=-1)
    halves = np.concatenate([identity(ties), identity(ties, 0.5)])
    yield (
        "pointwise",
        ties,
        images(both),
        {"depthwise_filter": np.ones((1, 1, 2 * ties.K, 1)), "pointwise_filter": halves},
    )
    # The unit is the pixel to the right, out of every second of which comes an output.
    pairs = images(np.stack([ties.value, ties.unit], axis=1)).reshape(2, -1, 2 * images(ties.value).shape[2], ties.K)
    taps = np.concatenate([ones, ones / 2], axis=1)
    window = {"depthwise_filter": taps, "strides": (1, 2), "padding": "VALID"}
    yield "depthwise", ties, pairs, {**window, "pointwise_filter": identity(ties)}
    ties = ties_with_bias(dtype)
    plain = {"depthwise_filter": ones[:, :, : ties.K], "pointwise_filter": identity(ties)}
    yield "bias", ties, images(ties.value), {**plain, "bias": ties.half}
    yield "depthwise_bias", ties, images(ties.value), {**plain, "depthwise_bias": ties.half}
    half = np.broadcast_to(ties.half, ties.value.shape)
    for word in ("none", "relu"):
        yield "residual", ties, images(ties.value), {**plain, "residual": images(half), "activation": word}


def cast(ties, arguments):
    """Arrays of the layer in its dtype, the pointwise filter with its four axes."""
    arguments = dict(arguments)
    arguments["pointwise_filter"] = arguments["pointwise_filter"][None, None]
    return {
        name: np.ascontiguousarray(value.astype(ties.type)) if isinstance(value, np.ndarray) else value
        for name, value in arguments.items()
    }


@pytest.mark.parametrize("dtype", TYPES)
def test_the_layer(isa, dtype):
    """Whole vectors and tails, stores around the caches, between transpositions, the plain loops."""
    for _, ties, x, arguments in layers(dtype):
        x, arguments = x.astype(ties.type), cast(ties, arguments)
        residual = arguments.pop("residual", None)
        before = native.calls()[isa]
        layer = native.Layer(**arguments, isa=isa)
        ties.same(layer(x, residual=residual))
        pixels = ties.images(ties.value)[0, ..., 0].size
        for plan in ({"block_pixels": 5, "stream": False}, {"block_pixels": pixels, "stream": True}):
            plan = {**plan, "block_channels": ties.K, "threads": 1}
            ties.same(layer(x, residual=residual, plan=plan, num_threads=1))
        first = {**arguments, "data_format": "NCHW", "isa": isa}
        moved = None if residual is None else residual.transpose(0, 3, 1, 2)
        y = native.depthwise_sep_conv2d(x.transpose(0, 3, 1, 2), **first, residual=moved)
        ties.same(y.transpose(0, 2, 3, 1))
        assert native.calls()[isa] == before + 4
        ties.same(native.depthwise_sep_conv2d(x, **arguments, residual=residual, variant="reference"))


@pytest.mark.parametrize("dtype", TYPES)
def test_whole_tiles_around_the_caches(isa, dtype):
    """Rows of Y that are whole cache lines, as many channels as two tiles of any kernel have."""
    ties = Ties(dtype)
    columns = np.arange(128) % ties.K
    x = ties.images(np.concatenate([ties.value[:, columns], ties.unit[:, columns]], axis=-1))
    pointwise = np.concatenate([np.eye(128), np.eye(128) / 2])[None, None].astype(ties.type)
    depthwise = np.ones((1, 1, 256, 1), ties.type)
    for stream in (False, True):
        plan = {"block_pixels": 64, "block_channels": 128, "threads": 1, "stream": stream}
        y = native.depthwise_sep_conv2d(x, depthwise, pointwise, isa=isa, plan=plan, num_threads=1)
        ties.same(y, ties.expected[:, columns])


def run_block(ties, x, attributes, **arrays):
    """The block's op, and stock ops."""
    given = {name: tf.constant(array.astype(ties.type)) for name, array in arrays.items()}
    x = tf.constant(x.astype(ties.type))
    before = op_calls()
    y = dispatch.run(x, Tensors(**given), attributes)
    assert sum(op_calls().values()) == sum(before.values()) + 1
    return [y.numpy(), dispatch.run_stock(x, Tensors(**given), attributes).numpy()]


@pytest.mark.parametrize("dtype", TYPES)
def test_blocks(isa, dtype):
    """With and without each of the convolutions, which are other ways to Y."""
    for name, ties, x, arguments in layers(dtype):
        separable = Attributes(
            strides=arguments.get("strides", (1, 1)),
            padding=arguments.get("padding", "SAME"),
            activation=Fused(arguments.get("activation", "none")),
        )
        arrays = {key: value for key, value in arguments.items() if isinstance(value, np.ndarray)}
        arrays["pointwise_filter"] = arrays["pointwise_filter"][None, None]
        expand = {"expand_filter": np.eye(x.shape[-1])[None, None]}
        runs = [({**arrays, **expand}, separable)]
        if name in ("pointwise", "bias", "residual"):
            without = {key: value for key, value in arrays.items() if key != "depthwise_filter"}
            runs.append((without, separable))
        if name in ("depthwise", "depthwise_bias", "residual"):
            without = {key: value for key, value in arrays.items() if key != "pointwise_filter"}
            runs.append((without, separable._replace(activation=Fused("none"))))
        for given, attributes in runs:
            for y in run_block(ties, x, attributes, **given):
                ties.same(y)


@pytest.mark.parametrize("dtype", TYPES)
def test_the_expansion_and_dense_windows(isa, dtype):
    ties = Ties(dtype)
    x = ties.images(np.concatenate([ties.value, ties.unit], axis=-1))
    halves = np.concatenate([identity(ties), identity(ties, 0.5)])[None, None]
    one = {"depthwise_filter": np.ones((1, 1, ties.K, 1)), "pointwise_filter": identity(ties)[None, None]}
    for y in run_block(ties, x, Attributes(), expand_filter=halves, **one):
        ties.same(y)
    # A window of one row and two columns, the second of which is zero.
    dense = np.concatenate([halves, np.zeros_like(halves)], axis=1)
    for y in run_block(ties, x, Attributes(padding="SAME"), pointwise_filter=dense):
        ties.same(y)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("channels", [1, 3, 8])
def test_scales_of_few_channels(isa, dtype, channels):
    ties = ties_with_bias(dtype)
    for first in range(0, ties.K - channels + 1, 7):
        some = slice(first, first + channels)
        x, half = ties.images(np.ascontiguousarray(ties.value[:, some])), ties.half[some]
        arrays = {"depthwise_filter": np.ones((1, 1, channels, 1)), "depthwise_bias": half}
        for y in run_block(ties, x, Attributes(), **arrays):
            ties.same(y, ties.expected[:, some])


def gradients(ties, x, arrays, grad, **keywords):
    """Gradients of the op by its tensors, of y's gradient `grad`; and that the gradient op computed them."""
    tensors = {name: tf.constant(np.asarray(array).astype(ties.type)) for name, array in arrays.items()}
    x = tf.constant(x.astype(ties.type))
    before = op_calls("dwsconv_backward_calls")
    with tf.GradientTape() as tape:
        tape.watch([x, tensors])
        y = tf_dwsconv.depthwise_sep_conv2d(x, **tensors, **keywords)
    found = tape.gradient(y, {"x": x, **tensors}, output_gradients=tf.constant(grad.astype(ties.type)))
    assert sum(op_calls("dwsconv_backward_calls").values()) == sum(before.values()) + 1
    return {name: gradient.numpy() for name, gradient in found.items()}


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("data_format", ["NHWC", "NCHW"])
def test_gradients_of_the_input(isa, dtype, data_format):
    """Each pixel's gradient is a tie, in whole vectors and tails of channels."""
    ties = Ties(dtype)
    grad = ties.images(np.concatenate([ties.value, ties.unit], axis=-1))
    halves = np.concatenate([identity(ties), identity(ties, 0.5)], axis=1)[None, None]
    x = np.ones_like(ties.images(ties.value))
    if data_format == "NCHW":
        x, grad = x.transpose(0, 3, 1, 2), grad.transpose(0, 3, 1, 2)
    # The list of taps (1x1), and a grid of them (3x3, of which the middle one counts).
    for size in (1, 3):
        depthwise = np.zeros((size, size, ties.K, 1))
        depthwise[size // 2, size // 2] = 1
        arrays = {"depthwise_filter": depthwise, "pointwise_filter": halves}
        found = gradients(ties, x, arrays, grad, data_format=data_format)["x"]
        ties.same(found.transpose(0, 2, 3, 1) if data_format == "NCHW" else found)


@pytest.mark.parametrize("dtype", TYPES)
def test_gradients_of_filters_and_biases(isa, dtype):
    """Sums over two pixels: of a value, and of half of its last bit, which are all signs and last bits."""
    ties = ties_with_bias(dtype)
    for row in (0, 1, 2, len(ties.value) - 2, len(ties.value) - 1):
        value, unit, expected = ties.value[row], ties.unit[row], ties.expected[row].astype(np.float32)
        # Pixels are 1 and 1/2, gradients the value and its last bit: the filters' sums.
        x = np.broadcast_to(np.array([1.0, 0.5])[:, None], (1, 1, 2, ties.K))
        arrays = {"depthwise_filter": np.ones((1, 1, ties.K, 1)), "pointwise_filter": identity(ties)[None, None]}
        found = gradients(ties, x, arrays, np.stack([value, unit])[None, None])
        np.testing.assert_array_equal(found["depthwise_filter"].reshape(-1).astype(np.float32), expected)
        of_pointwise = found["pointwise_filter"][0, 0].astype(np.float32)
        np.testing.assert_array_equal(of_pointwise, np.broadcast_to(expected, of_pointwise.shape))
        # The biases' gradients are sums of what comes to them.
        biases = {"depthwise_bias": np.zeros(ties.K), "bias": np.zeros(ties.K)}
        found = gradients(ties, x, {**arrays, **biases}, np.stack([value, ties.half])[None, None])
        for name in biases:
            np.testing.assert_array_equal(found[name].astype(np.float32), expected)


@pytest.mark.parametrize("dtype", TYPES)
def test_gradients_of_the_residual(isa, dtype):
    """Through a slope of 1.5, which makes a tie of each odd significand."""
    ties = Ties(dtype)
    mantissa = TYPES[dtype][1]
    odd = np.arange(1, (1 << mantissa) // 3, 2) + (1 << mantissa)
    sums = 3 * odd // 2
    grad, expected = (numbers.reshape(1, 1, -1, 1) / (1 << mantissa) for numbers in (odd, sums + (sums & 1)))
    arrays = {
        "depthwise_filter": np.ones((1, 1, 1, 1)),
        "pointwise_filter": np.ones((1, 1, 1, 1)),
        "residual": np.zeros(grad.shape),
    }
    found = gradients(ties, -np.ones(grad.shape), arrays, grad, activation=("leaky_relu", 1.5))
    np.testing.assert_array_equal(found["residual"].astype(np.float32), expected)
    assert np.ptp(sums & 1) == 1  # down and up


@pytest.mark.parametrize("dtype", TYPES)
def test_the_fallback(dtype, stock_only):
    """Stock ops round so, too."""
    for _, ties, x, arguments in layers(dtype):
        before = op_calls()
        y = tf_dwsconv.depthwise_sep_conv2d(tf.constant(x.astype(ties.type)), **cast(ties, arguments))
        ties.same(y.numpy())
        assert op_calls() == before
