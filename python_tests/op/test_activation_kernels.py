"""Activations with parameters, and the newer words, in the kernels: on every instruction set against NumPy in float64,
their gradients, NaN, 16-bit types, PReLU at each place of a block, configs, and the way back to stock layers.
"""

from __future__ import annotations

import math

import keras
import ml_dtypes
import numpy as np
import pytest
import reference
import tensorflow as tf
from conftest import op_calls
from convert_support import difference, functional, randomise
from native_support import DTYPES, ISAS

import tf_dwsconv
from tf_dwsconv import activations, native
from tf_dwsconv._arguments import Attributes, Tensors
from tf_dwsconv._tf import dispatch, stock
from tf_dwsconv.activations import NONE, PRELU

pytestmark = pytest.mark.usefixtures("op_library")


def bounded(slope=0.0, max_value=math.inf, threshold=0.0):
    """(as a user writes it, the function, its derivative)."""
    given = {"negative_slope": slope, "max_value": None if math.isinf(max_value) else max_value, "threshold": threshold}
    return (
        ("relu", given),
        lambda x: np.where(x > threshold, np.minimum(x, max_value), slope * (x - threshold) if slope else 0.0),
        lambda x: np.where(x > threshold, np.where(x < max_value, 1.0, 0.0), slope),
    )


def elu(alpha):
    return (
        "elu" if alpha == 1 else ("elu", alpha),
        lambda x: np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0))),
        lambda x: np.where(x > 0, 1.0, alpha * np.exp(np.minimum(x, 0))),
    )


def smooth(word):
    function = reference.ACTIVATIONS[word]
    step = 1e-5
    return word, lambda x: function(x, 0), lambda x: (function(x + step, 0) - function(x - step, 0)) / (2 * step)


CASES = [
    elu(1.0), elu(0.3), elu(-0.4), smooth("mish"), smooth("gelu_tanh"), bounded(max_value=1.25),
    bounded(max_value=0.3), bounded(0.2, 1.5), bounded(0.2, 2.0, 0.5), bounded(threshold=0.75),
    bounded(0.1, threshold=0.5),
]  # fmt: skip
NAMES = ["elu", "elu 0.3", "elu -0.4", "mish", "gelu_tanh", "relu 1.25", "relu 0.3", "leaky 1.5", "all", "threshold",
         "leaky threshold"]  # fmt: skip
cases = pytest.mark.parametrize("case", CASES, ids=NAMES)


def layer(seed=0, C=5, M=2, K=19):
    """Arrays that every element type holds nearly exactly, so that errors are the kernels' own."""
    rng = np.random.default_rng(seed)
    x, d, p = (
        rng.standard_normal((2, 9, 11, C)),
        rng.standard_normal((3, 3, C, M)),
        rng.standard_normal((1, 1, C * M, K)),
    )
    return [a.astype(ml_dtypes.bfloat16).astype(np.float64) for a in (x, d, p / np.sqrt(C * M))]


def jumps(function, at, by):
    """Where the function changes by much more than its argument."""
    return np.abs(function(at + by) - function(at - by)) > 4 * by


@cases
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_both_places_on_each_isa(case, isa, dtype):
    """One channel that fills no vector, several that do, and packed pixels (5 channels at stride 1)."""
    given, function, _ = case
    for seed, (C, M) in enumerate([(5, 2), (16, 1), (1, 1), (5, 1)]):
        x, d, p = layer(seed, C, M)
        z_before = reference.depthwise(x, reference.Layer(d, None))
        z = function(z_before)
        expected = function(z @ p[0, 0])
        y = native.depthwise_sep_conv2d(
            *(a.astype(DTYPES[dtype]) for a in (x, d, p)), depthwise_activation=given, activation=given, isa=isa
        )
        # Sums of 9 and of C*M products and two activations, whose slope is at most 1.1: some roundings of what was
        # added up; and where the type is narrow, Y's own and (bfloat16) Z's.
        sums = (np.abs(z) @ np.abs(p[0, 0])).max() + np.abs(x).max() * np.abs(d).sum((0, 1)).max()
        allowed = (9 + C * M) * np.finfo(np.float32).eps * sums
        if dtype != "float32":
            allowed += float(ml_dtypes.finfo(DTYPES[dtype]).eps) * (
                sums if dtype == "bfloat16" else np.abs(expected).max()
            )
        # Where a threshold makes the function jump, a sum beside it may fall on either side.
        narrow = float(ml_dtypes.finfo(DTYPES[dtype]).eps)
        steady = ~jumps(function, z @ p[0, 0], narrow * (np.abs(z) @ np.abs(p[0, 0])))
        steady &= ~jumps(function, z_before, 1e-6 * np.abs(z_before).max()).any(-1, keepdims=True)
        assert steady.mean() > 0.9
        assert np.abs(y.astype(np.float64) - expected)[steady].max() <= allowed


@cases
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_gradients_are_native_and_right(case, isa, dtype, monkeypatch):
    """Against the chain rule in float64, at points away from kinks."""
    monkeypatch.setenv("DWSCONV_ISA", isa)
    given, function, derivative = case
    x, d, p = layer(3, 6, 1, 7)
    before = reference.depthwise(x, reference.Layer(d, None))
    z = function(before)
    after = z @ p[0, 0]
    g = np.random.default_rng(4).standard_normal(after.shape).astype(ml_dtypes.bfloat16).astype(np.float64)
    edges = [0.0, 0.5, 0.75, 0.3, 1.25, 1.5, 2.0]
    g[np.min(np.abs(after[..., None] - edges), axis=-1) < 0.02] = 0  # a kink that rounding may pass
    grad = g * derivative(after)
    expected_p = np.einsum("nhwc,nhwk->ck", z, grad)
    dz = grad @ p[0, 0].T
    near = np.min(np.abs(before[..., None] - edges), axis=-1) < 1e-5
    assert not near.any()
    expected_bias = (dz * derivative(before)).sum((0, 1, 2))

    tensors = [tf.constant(a.astype(np.float32)) for a in (x, d, p)]
    tensors = [tf.cast(t, dtype) for t in (*tensors, np.zeros(6, np.float32))]
    calls = op_calls("dwsconv_backward_calls")[isa]
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        y = tf_dwsconv.depthwise_sep_conv2d(
            *tensors[:3], depthwise_bias=tensors[3], depthwise_activation=given, activation=given
        )
    _, _, d_p, d_bias = tape.gradient(y, tensors, output_gradients=tf.cast(g, dtype))
    assert op_calls("dwsconv_backward_calls")[isa] == calls + 1
    eps = float(ml_dtypes.finfo(DTYPES[dtype]).eps)
    for found, expected, terms in (
        (tf.reshape(d_p, [6, 7]), expected_p, np.einsum("nhwc,nhwk->ck", np.abs(z), np.abs(grad))),
        (d_bias, expected_bias, np.abs(dz).sum((0, 1, 2))),
    ):
        # Each term may be off by some roundings (and Y, which tells derivatives, by one of its own type).
        assert np.all(np.abs(tf.cast(found, tf.float64) - expected) <= 4 * eps * terms.max() + 32 * 6e-8 * terms.max())


@pytest.mark.parametrize("isa", ISAS)
def test_nan_and_infinity(isa):
    """A NaN stays one, in every activation; infinities go where the formula sends them."""
    one = np.ones((1, 1, 1, 1), np.float32)
    for given, function, _ in CASES:
        for value in (np.nan, np.inf, -np.inf, 0.0, -0.0, 1e30, -1e30, 1e-30, -1e-30):
            x = np.full((1, 1, 1, 1), value, np.float32)
            with np.errstate(all="ignore"):
                expected = np.nan if np.isnan(value) else float(function(np.float64(value)))
            for place in ("depthwise_activation", "activation"):
                y = float(native.depthwise_sep_conv2d(x, one, one, isa=isa, **{place: given})[0, 0, 0, 0])
                if np.isnan(expected):
                    # x * 0 at an infinity: NaN, as in stock TensorFlow, or the limit.
                    assert np.isnan(y) or (np.isinf(value) and y in (0.0, value)), (given, value, y)
                else:
                    assert y == expected or math.isclose(y, expected, rel_tol=1e-5, abs_tol=1e-37), (given, value, y)


def test_words_of_layers_with_their_own_default():
    """elu alone is Keras' elu; the op's attributes are as they were, so old graphs mean what they meant."""
    assert activations.parse("elu").alpha == 1.0
    x = tf.constant([[-2.0, 3.0]])
    np.testing.assert_allclose(stock.activate(x, activations.parse("elu")), keras.activations.elu(x), 1e-6)


# PReLU: each place of a block.

STAGES = ["edp", "dp", "p", "d", "ed", "e"]


class PReluBlock:
    """A random block with PReLU at each of its activations: arrays, result in float64, and what bounds errors."""

    def __init__(self, stages, *, C=6, M=1, K=19, E=5, size=(9, 7), stride=1, residual=False, seed=0):
        rng = np.random.default_rng(seed)

        def normal(*shape):
            return rng.standard_normal(shape).astype(ml_dtypes.bfloat16).astype(np.float64)

        def prelu(z, name):
            self.arrays[name] = normal(z.shape[-1])
            return np.where(z < 0, z * self.arrays[name], z)

        self.arrays, self.stages, self.stride = {}, stages, stride
        self.x = z = normal(2, *size, E if "e" in stages else C)
        if "e" in stages:
            self.arrays["expand_filter"] = normal(1, 1, E, C)
            z = prelu(z @ self.arrays["expand_filter"][0, 0], "expand_slopes")
        if "d" in stages:
            self.arrays["depthwise_filter"] = normal(3, 3, C, M)
            self.arrays["depthwise_bias"] = normal(C * M)
            z = reference.depthwise(z, reference.Layer(self.arrays["depthwise_filter"], None, strides=(stride, stride)))
            z = prelu(z + self.arrays["depthwise_bias"], "depthwise_slopes")
        if "p" in stages:
            self.arrays["pointwise_filter"] = normal(1, 1, z.shape[-1], K) / 2
            z = z @ self.arrays["pointwise_filter"][0, 0]
        if residual:
            self.arrays["residual"] = normal(*z.shape)
            z = z + self.arrays["residual"]
        self.y = prelu(z, "slopes") if "p" in stages else z

    def run(self, dtype="float32", data_format="NHWC"):
        def cast(a):
            a = a.transpose(0, 3, 1, 2) if data_format == "NCHW" else a
            return tf.cast(tf.constant(a), dtype)

        attributes = Attributes(
            (self.stride, self.stride),
            data_format=data_format,
            depthwise_activation=PRELU if "d" in self.stages else NONE,
            activation=PRELU if "p" in self.stages else NONE,
            expand_activation=PRELU if "e" in self.stages else NONE,
        )
        tensors = {n: cast(a) if n == "residual" else tf.cast(tf.constant(a), dtype) for n, a in self.arrays.items()}
        y = dispatch.run(cast(self.x), Tensors(**tensors), attributes)
        y = tf.cast(y, tf.float64).numpy()
        return y.transpose(0, 2, 3, 1) if data_format == "NCHW" else y


@pytest.mark.parametrize("stages", STAGES)
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_prelu(stages, isa, dtype, monkeypatch):
    monkeypatch.setenv("DWSCONV_ISA", isa)
    options = [
        {"C": 6}, {"C": 3, "stride": 2 if "d" in stages else 1}, {"C": 33, "residual": True},
        {"C": 8, "M": 2 if "d" in stages else 1},
        {"C": 3, "M": 3 if "d" in stages else 1, "K": 40},
    ]  # fmt: skip
    for seed, option in enumerate(options):
        block = PReluBlock(stages, seed=seed, **option)
        for data_format in ("NHWC", "NCHW"):
            before = op_calls()[isa]
            y = block.run(dtype, data_format)
            assert op_calls()[isa] == before + 1
            # Every sum in float; 16-bit types round A and Z between (bfloat16, float16) and Y: a few units of the
            # largest results.
            eps = 64 * 6e-8 if dtype == "float32" else 4 * float(ml_dtypes.finfo(DTYPES[dtype]).eps)
            assert np.abs(y - block.y).max() <= eps * np.abs(block.y).max()


@pytest.mark.parametrize("isa", ISAS)
def test_prelu_in_an_expanded_block_cut_into_strips(isa, monkeypatch):
    """More rows of A than L2 keeps: strips of rows and pieces of channels have the slopes of their own channels."""
    monkeypatch.setenv("DWSCONV_ISA", isa)
    block = PReluBlock("edp", C=200, E=24, K=24, size=(64, 60), residual=True)
    y = block.run()
    assert np.abs(y - block.y).max() <= 256 * 6e-8 * np.abs(block.y).max()


@pytest.mark.parametrize("stages", STAGES)
def test_gradients_of_prelu(stages):
    """Composed of stock ops: slopes, filters and input against float64, which stock ops compute forward as well."""
    block = PReluBlock(stages, residual=True)

    def gradients(dtype):
        names = ["x", *block.arrays]
        values = {name: tf.cast(tf.constant(a), dtype) for name, a in {"x": block.x, **block.arrays}.items()}
        attributes = Attributes(
            depthwise_activation=PRELU if "d" in stages else NONE,
            activation=PRELU if "p" in stages else NONE,
            expand_activation=PRELU if "e" in stages else NONE,
        )
        with tf.GradientTape() as tape:
            tape.watch(list(values.values()))
            y = dispatch.run(values["x"], Tensors(**{n: values[n] for n in names[1:]}), attributes)
            weights = np.cos(np.arange(block.y.size)).reshape(block.y.shape)
            loss = tf.reduce_sum(y * tf.cast(tf.constant(weights), dtype))
        return dict(zip(names, tape.gradient(loss, list(values.values()))))

    ours, exact = gradients(tf.float32), gradients(tf.float64)
    assert any(name.endswith("slopes") for name in exact)
    for name, gradient in exact.items():
        allowed = 1e-4 * np.abs(gradient).max()
        np.testing.assert_allclose(ours[name].numpy(), gradient.numpy(), rtol=0, atol=allowed, err_msg=name)


def test_slopes_are_packed_anew_when_they_change():
    block = PReluBlock("dp")
    for _ in range(3):
        np.testing.assert_allclose(block.run(), block.y, atol=1e-4)
    variables = {n: tf.Variable(a.astype(np.float32)) for n, a in block.arrays.items()}
    attributes = Attributes(depthwise_activation=PRELU, activation=PRELU)
    x = tf.constant(block.x.astype(np.float32))
    for value in (0.5, -0.25, 2.0, 2.0):
        variables["slopes"].assign(np.full(19, value, np.float32))
        y = dispatch.run(x, Tensors(**variables), attributes)
        stock = dispatch.run_stock(x, Tensors(**variables), attributes)
        np.testing.assert_allclose(y, stock, atol=1e-4)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"slopes": np.zeros(3)}, "slopes"),
        ({"depthwise_slopes": np.zeros((6, 1))}, "depthwise_slopes"),
        ({"slopes": None}, "slopes"),
    ],
    ids=str,
)
def test_wrong_slopes(change, message):
    block = PReluBlock("dp")
    block.arrays = {n: a for n, a in {**block.arrays, **change}.items() if a is not None}
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError), match=message):
        block.run()
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError), match=message):
        block.run("float64")


@pytest.mark.parametrize(
    "attribute, message",
    [
        ({"activation": "prelu"}, "slopes"),
        ({"activation": "relu", "max_value": -1.0}, "max_value must be at least 0"),
        ({"activation": "relu", "threshold": float("nan")}, "threshold must be finite"),
        ({"activation": "elu", "alpha": float("inf")}, "the factor of elu"),
    ],
    ids=str,
)
def test_the_op_refuses(attribute, message):
    op = tf_dwsconv._tf.library.op()
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError), match=message):
        op(
            input=tf.ones([1, 3, 3, 2]), depthwise_filter=tf.ones([1, 1, 2, 1]), pointwise_filter=tf.ones([1, 1, 2, 2]),
            depthwise_bias=(), bias=(), residual=(), **attribute,
        )  # fmt: skip


# The layers.


@cases
def test_layers_and_the_way_back(case):
    """Answers, configs, and stock layers that answer alike."""
    given = case[0]
    block = {"filters": 4, "expand_filters": 7, "kernel_size": 3, "expand_activation": given}
    made = [
        tf_dwsconv.DepthwiseSepConv2D(4, 3, activation=given, depthwise_activation=given, name="ours"),
        tf_dwsconv.FusedConvBlock(**block, depthwise_activation=given, activation=given, name="block"),
    ]
    for new in made:
        model = functional(lambda x, new=new: new(x), (9, 8, 6))
        again = keras.Model.from_config(model.get_config())
        again.set_weights(model.get_weights())
        x = np.random.default_rng(0).standard_normal((2, 9, 8, 6)).astype("float32")
        np.testing.assert_array_equal(again(x), model(x))
        stock = tf_dwsconv.to_builtin(model)
        assert not any(type(layer).__module__.startswith("tf_dwsconv") for layer in stock._flatten_layers())
        assert difference(stock, model, [x]) < 1e-5


def test_prelu_layers_and_the_way_back(tmp_path):
    for shape, data_format, options in (
        ((9, 8, 6), "channels_last", {"expand_filters": 7, "kernel_size": 3, "filters": 4}),
        ((9, 8, 6), "channels_last", {"kernel_size": 3, "filters": 4}),
        ((6,), "channels_last", {"filters": 4}),
    ):
        words = {"activation": "prelu"}
        if "kernel_size" in options:
            words["depthwise_activation"] = "prelu"
        if "expand_filters" in options:
            words["expand_activation"] = "prelu"
        block = tf_dwsconv.FusedConvBlock(**options, **words, data_format=data_format, name="block")
        model = randomise(keras.Sequential([keras.Input(shape), block]))
        x = np.random.default_rng(0).standard_normal((2, *shape)).astype("float32")
        assert sum("slopes" in weight.path for weight in model.weights) == len(words)
        model.save(tmp_path / "m.keras")
        np.testing.assert_array_equal(keras.saving.load_model(tmp_path / "m.keras")(x), model(x))
        stock = tf_dwsconv.to_builtin(model)
        assert sum(isinstance(layer, keras.layers.PReLU) for layer in stock.layers) == len(words)
        assert difference(stock, model, [x]) < 1e-5
    with pytest.raises(ValueError, match="`activation`"):
        tf_dwsconv.FusedConvBlock(kernel_size=3, activation="prelu")
    with pytest.raises(ValueError, match="prelu"):
        tf_dwsconv.DepthwiseSepConv2D(4, 3, activation="prelu")
