"""Norms that are written out: powers, sums over pixels, means over channels, and factors that become gates."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from convert_support import check_network, functional, pictures, randomise
from native_support import ISAS
from program_reference import DTYPES, Builder

import tf_dwsconv
from tf_dwsconv import FusedNetwork, native
from tf_dwsconv._program import Program
from tf_dwsconv._tf import program_stock

pytestmark = pytest.mark.usefixtures("op_library")

L = keras.layers
ops = keras.ops
UNIT = {"float32": 2.0**-24, "bfloat16": 2.0**-8, "float16": 2.0**-11}


@pytest.mark.parametrize("exponent", [0.5, -0.5, -1.0, 2.0, 0.3])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [[None, 3, 5, 7], [None, 40000], [None, 1]])
def test_powers(shape, dtype, exponent):
    b = Builder(dtype)
    b.output(b.step("power", b.step("add", *[b.input(shape)] * 2), exponent=exponent))
    x = np.random.default_rng(0).uniform(0.1, 3.0, [2, *shape[1:]]).astype(DTYPES[dtype])
    [expected] = b.expect(x)
    found = [native.Network.from_program(b.text, b.weights, isa=isa)(x) for isa in ISAS]
    found += [program_stock.compute(Program.from_text(b.text), [tf.constant(x)], tf.constant(b.weights))[0].numpy()]
    for y in found:
        np.testing.assert_allclose(y.astype(np.float64), expected, rtol=8 * UNIT[dtype])


@pytest.mark.parametrize("step, message", [
    ({}, "exponent must be given|needs 'exponent'"),
    ({"exponent": "2"}, "exponent must be"),
    ({"exponent": 2.0, "axis": 1}, "axis"),
])  # fmt: skip
def test_what_a_power_needs(step, message):
    b = Builder()
    b.output(b.step("power", b.input([None, 4]), **step))
    for make in (Program.from_text, lambda text: native.Network.from_program(text, b.weights)):
        with pytest.raises(ValueError, match=message):
            make(b.text)


class ResponseNorm(L.Layer):
    """Of ConvNeXt V2, in several words."""

    def __init__(self, how, **kwargs):
        super().__init__(**kwargs)
        self.how = how

    def build(self, shape):
        self.gamma = self.add_weight(name="gamma", shape=(1, 1, 1, shape[-1]), initializer="ones")
        self.beta = self.add_weight(name="beta", shape=(1, 1, 1, shape[-1]), initializer="zeros")

    def call(self, x):
        g = NORMS[self.how](x)
        n = g / (ops.mean(g, axis=-1, keepdims=True) + 1e-6)
        if self.how == "tensorflow":
            return (x + self.beta) + self.gamma * (x * n)
        return self.gamma * (x * n) + self.beta + x if self.how != "no beta" else x + x * n


NORMS = {
    "ops": lambda x: ops.sqrt(ops.sum(ops.square(x), axis=(1, 2), keepdims=True)),
    "norm": lambda x: ops.norm(x, axis=(1, 2), keepdims=True),
    "tensorflow": lambda x: tf.norm(x, axis=[1, 2], keepdims=True),
    "mean": lambda x: tf.sqrt(tf.reduce_mean(x * x, axis=[1, 2], keepdims=True)) * 12.0,
    "power": lambda x: ops.sum(x**2, axis=[1, 2], keepdims=True) ** 0.5,
    "no beta": lambda x: ops.sqrt(ops.mean(ops.square(x), axis=(1, 2), keepdims=True)),
}


def convnext(x, how):
    x = L.Conv2D(12, 2, 2)(x)
    y = L.LayerNormalization(epsilon=1e-6)(L.DepthwiseConv2D(5, padding="same")(x))
    y = ResponseNorm(how)(L.Activation("gelu")(L.Dense(24)(y)))
    return L.GlobalAveragePooling2D()(L.Add()([x, L.Dense(12)(y)]))


def steps_of(model):
    converted = tf_dwsconv.convert(model)
    [network] = [layer for layer in converted.layers if not isinstance(layer, L.InputLayer)]
    assert isinstance(network, FusedNetwork)
    return Program.from_text(network.program).steps


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("how", NORMS)
def test_response_norms_cost_the_convolution_behind_them_a_gate(how, policy):
    keras.config.set_dtype_policy(policy)
    try:
        model = functional(lambda x: convnext(x, how), (24, 24, 3))
    finally:
        keras.config.set_dtype_policy("float32")
    check_network(model, pictures(model), 1e-5 if policy == "float32" else 3e-2)
    last = [step for step in steps_of(model) if step.op == "chain"][-1]
    assert set(last.reads) == {"x", "gate", "residual"}
    # On pictures nothing is left of it but the squares.
    sizes = [step.op for step in steps_of(model) if step.op in ("multiply", "add") and "y" in step.reads]
    assert sizes.count("multiply") <= 2


@pytest.mark.parametrize("make", [
    lambda x: x * ops.rsqrt(ops.mean(ops.square(x), axis=-1, keepdims=True) + 1e-5),
    lambda x: x / ops.sqrt(ops.mean(ops.square(x), axis=3, keepdims=True) + 1e-5),
    lambda x: x * ops.reciprocal(ops.mean(ops.square(x) + 0.1, axis=-1, keepdims=True)),
    lambda x: L.RMSNormalization()(x) if hasattr(L, "RMSNormalization") else x,
], ids=["rsqrt", "divide", "reciprocal", "layer"])  # fmt: skip
@pytest.mark.parametrize("sizes", [(12, 14, 8), (None, None, 8)])
def test_norms_over_channels(make, sizes):
    model = functional(lambda x: L.Conv2D(5, 1)(L.ReLU()(make(L.SeparableConv2D(6, 3, padding="same")(x)))), sizes)
    check_network(model, pictures(model))
    steps_of(model)


def test_a_mean_over_channels_without_their_axis():
    model = functional(
        lambda x: L.Dense(5)(ops.mean(L.SeparableConv2D(6, 3)(L.SeparableConv2D(6, 3)(x)), -1)), (9, 8, 4)
    )
    check_network(model, pictures(model))
    assert [step.op for step in steps_of(model)][-3:] == ["dense", "reshape", "dense"]


@pytest.mark.parametrize("make, sizes", [
    (lambda x: x + ops.sum(x, axis=(1, 2), keepdims=True), (None, None, 8)),  # of a size that nobody knows
    (lambda x: x + ops.norm(x, 2, axis=(1, 2), keepdims=True), (6, 6, 8)),  # a norm of matrices
    (lambda x: ops.power(2.0, x), (6, 6, 8)),
    (lambda x: ops.mean(x, axis=(1, 3), keepdims=True) + x, (6, 6, 8)),
], ids=["sum", "matrix", "exponential", "axes"])  # fmt: skip
def test_what_stays(make, sizes):
    model = functional(lambda x: L.Conv2D(5, 1)(make(L.SeparableConv2D(6, 3, padding="same")(x))), sizes)
    converted = check_network(model, pictures(model))
    assert len(converted.operations) > 2


class Product(L.Layer):
    """A product with factors of its own kind, in front of a convolution."""

    def call(self, x):
        return x * ops.sigmoid(ops.mean(x, axis=(1, 2), keepdims=True)) * 0.5


@pytest.mark.parametrize("convolution, gated", [
    (lambda: L.Conv2D(6, 1), True),
    (lambda: L.Conv2D(6, 1, strides=2), False),
    (lambda: L.Conv2D(6, 3), False),
    (lambda: L.Conv2D(6, 1, groups=2), False),
])  # fmt: skip
def test_factors_become_the_gate_of_a_convolution_of_pixels(convolution, gated):
    def make(x):
        x = L.MaxPooling2D()(L.SeparableConv2D(8, 3)(x))
        return convolution()(Product()(x))

    model = functional(make, (13, 14, 4))
    check_network(model, pictures(model))
    [*_, last] = steps_of(model)
    assert ("gate" in last.reads) == gated


def test_a_product_that_is_a_result_stays_one():
    def make(x):
        y = Product(name="product")(L.MaxPooling2D()(L.SeparableConv2D(8, 3)(x)))
        return y, L.Conv2D(6, 1)(y)

    model = functional(make, (13, 14, 4))
    check_network(model, pictures(model))


def test_graphs_take_sizes_that_they_know(tmp_path):
    """The number of pixels from the shape of a picture, as some write such norms."""
    model = functional(lambda x: L.Conv2D(8, 1)(L.SeparableConv2D(8, 3, padding="same")(x)), (10, 12, 3))
    end = randomise(keras.Sequential([keras.Input((10, 12, 8)), L.Conv2D(4, 1), L.GlobalAveragePooling2D()]))

    @tf.function(input_signature=[tf.TensorSpec([None, 10, 12, 3])])
    def serve(x):
        y = model(x, training=False)
        pixels = tf.cast(tf.shape(y)[1] * tf.shape(y)[2], tf.float32) ** 0.5
        g = tf.sqrt(tf.reduce_mean(tf.square(y), [1, 2], keepdims=True)) * pixels
        n = g * tf.math.reciprocal(tf.reduce_mean(g, -1, keepdims=True) + 1e-6)
        return {"y": end(y * n * 0.5 + y + tf.pow(y, 2.0), training=False)}

    module = tf.Module()
    module.parts, module.serve = [model, end], serve
    tf.saved_model.save(module, str(tmp_path / "saved"), signatures=serve)
    tf_dwsconv.convert_saved_model(tmp_path / "saved", tmp_path / "fused")
    tf_dwsconv.save_network(tmp_path / "fused", tmp_path / "net.safetensors")  # one network, as a whole
    x = np.random.default_rng(0).standard_normal((3, 10, 12, 3)).astype("float32")
    found = native.Network(tmp_path / "net.safetensors")(x)
    np.testing.assert_allclose(found, serve(tf.constant(x))["y"], rtol=1e-4, atol=1e-5)
