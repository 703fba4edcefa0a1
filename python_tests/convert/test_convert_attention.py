"""Attention in Keras models: a network that has it becomes one program all the same."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from convert_support import check, check_network, difference, functional, pictures
from follow_support import one_program

import tf_dwsconv
from tf_dwsconv import FusedNetwork

pytestmark = pytest.mark.usefixtures("op_library")

L = keras.layers
ops = keras.ops


def conv(x, filters, size=3, strides=1):
    return L.Conv2D(filters, size, strides, padding="same", activation="swish")(x)


def inverted_residual(x, filters, strides=1):
    y = L.Conv2D(2 * x.shape[-1], 1, use_bias=False)(x)
    y = L.Activation("swish")(L.BatchNormalization()(y))
    y = L.DepthwiseConv2D(3, strides, padding="same", use_bias=False)(y)
    y = L.Activation("swish")(L.BatchNormalization()(y))
    y = L.BatchNormalization()(L.Conv2D(filters, 1, use_bias=False)(y))
    return L.Add()([x, y]) if strides == 1 and x.shape[-1] == filters else y


def transformer(x, heads=2):
    dim = x.shape[-1]
    y = L.LayerNormalization(epsilon=1e-6)(x)
    y = L.Add()([L.MultiHeadAttention(heads, dim, dropout=0.1)(y, y), x])
    z = L.LayerNormalization(epsilon=1e-6)(y)
    for units in (2 * dim, dim):
        z = L.Dropout(0.1)(L.Dense(units, activation=keras.activations.swish)(z))
    return L.Add()([z, y])


def mobilevit_block(x, dim, blocks=2):
    local = conv(conv(x, dim), dim, 1)
    height, width = local.shape[1:3]
    y = L.Reshape((4, height * width // 4, dim))(local)
    for _ in range(blocks):
        y = transformer(y)
    y = conv(L.Reshape((height, width, dim))(y), x.shape[-1], 1)
    return conv(L.Concatenate()([x, y]), dim)


def mobilevit(x):
    """As keras.io's example, only smaller."""
    x = conv(L.Rescaling(1 / 255)(x), 8, strides=2)
    x = inverted_residual(inverted_residual(x, 12, 2), 12)
    x = mobilevit_block(x, 16)
    x = mobilevit_block(inverted_residual(x, 24, 2), 20, 1)
    return L.Dense(5, activation="softmax")(L.GlobalAveragePooling2D()(conv(x, 24, 1)))


@pytest.fixture(scope="module")
def mobile_vit():
    return functional(mobilevit, (32, 32, 3))


def test_a_mobilevit_is_one_program(mobile_vit, tmp_path):
    converted = one_program(mobile_vit)
    for batch in (1, 3):
        inputs = pictures(mobile_vit, batch)
        assert difference(converted, mobile_vit, inputs) < 1e-5
    converted.save(tmp_path / "vit.keras")
    again = keras.saving.load_model(tmp_path / "vit.keras")
    np.testing.assert_array_equal(again(inputs[0]), converted(inputs[0]))
    check_network(mobile_vit, inputs)
    stock = tf_dwsconv.to_builtin(converted)
    assert not any(isinstance(layer, FusedNetwork) for layer in stock._flatten_layers())


def test_gradients_are_those_of_the_stock_model(mobile_vit):
    [x], converted = pictures(mobile_vit), one_program(mobile_vit)
    x, found = tf.constant(x), []
    for model in (converted, mobile_vit):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(tf.square(model(x, training=False)))
        found.append(tape.gradient(loss, x).numpy())
    np.testing.assert_allclose(found[0], found[1], atol=1e-4 * np.abs(found[1]).max())


@pytest.mark.parametrize(("policy", "tolerance"), [("mixed_float16", 1e-2), ("mixed_bfloat16", 6e-2)])
def test_mixed_precision(policy, tolerance):
    keras.config.set_dtype_policy(policy)
    try:
        model = functional(lambda x: among_pictures(transformer)(x), (8, 8, 4))
    finally:
        keras.config.set_dtype_policy("float32")
    assert difference(one_program(model), model, pictures(model)) < tolerance


@pytest.mark.parametrize("options", [{"training": True}, {"fuse": "blocks"}], ids=["training", "blocks"])
def test_elsewhere_it_stays_a_layer(mobile_vit, options):
    converted = tf_dwsconv.convert(mobile_vit, **options)
    assert sum(isinstance(layer, L.MultiHeadAttention) for layer in converted.layers) == 3
    assert difference(converted, mobile_vit, pictures(mobile_vit)) < 1e-5


def among_pictures(attend):
    """`attend` on places of a picture between convolutions, which make it worth a program."""

    def make(x):
        x = L.Conv2D(6, 3, padding="same")(x)
        height, width = x.shape[1:3]
        y = attend(L.Reshape((height * width, 6))(x))
        return L.DepthwiseConv2D(3)(L.Reshape((height, width, y.shape[-1]))(y))

    return make


@pytest.mark.parametrize("attend", [
    lambda y: L.MultiHeadAttention(2, 5)(y, y),
    lambda y: L.MultiHeadAttention(3, 4, value_dim=7, output_shape=10)(query=y, value=y[:, 3:], key=y[:, :-3]),
    lambda y: L.MultiHeadAttention(1, 5, use_bias=False, dropout=0.5)(y, y, key=y + 1.0, training=False),
    lambda y: L.MultiHeadAttention(2, 1, value_dim=1, attention_axes=(1,))(y, y),
    lambda y: L.GroupQueryAttention(5, 4, 2)(y, y),
    lambda y: L.GroupQueryAttention(5, 3, 3, use_bias=False)(y, y[:, :9]),
    lambda y: L.GroupQueryAttention(3, 4, 1)(y, y),
    lambda y: L.Attention()([y, y[:, 1:-2]]),
    lambda y: L.Attention(use_scale=True)([y, L.Dense(4)(y), y]),
], ids=["heads", "dims", "one head", "one channel", "groups", "no groups", "one group", "dot", "scale"])  # fmt: skip
def test_kinds_of_attention(attend):
    model = functional(among_pictures(attend), (6, 5, 3))
    one_program(model)
    check(model)


@pytest.mark.parametrize(("axes", "other"), [
    (None, (3, 8)), ((1, 2), (3, 8)), ((2, 1), (3, 8)), (2, (5, 7)), (-2, (5, 7)), (1, (2, 4)),
])  # fmt: skip
def test_axes_of_places(axes, other):
    def make(x, z):
        x, z = (L.DepthwiseConv2D(3, padding="same")(t) for t in (x, z))
        return L.Conv2D(3, 3)(L.MultiHeadAttention(2, 5, attention_axes=axes, output_shape=7)(x, z))

    model = functional(make, (5, 4, 6), (*other, 6))
    one_program(model)
    check(model)


def test_cross_attention_of_two_inputs():
    def make(x, z):
        x, z = L.Conv2D(8, 3, strides=2)(x), L.DepthwiseConv2D(3)(z)
        y = L.MultiHeadAttention(2, 4, output_shape=6)(x, z)
        return L.DepthwiseConv2D(3, padding="same")(y)

    model = functional(make, (11, 9, 3), (6, 7, 4))
    one_program(model)
    check(model)


@pytest.mark.parametrize(("shape", "fits"), [((None, 8), True), ((8, None), True), ((None, None), False)])
def test_sizes_that_only_a_call_knows(shape, fits):
    def make(x):
        x = L.Conv2D(6, 3, padding="same")(x)
        return L.DepthwiseConv2D(3)(L.ReLU()(L.MultiHeadAttention(2, 5)(x, x)))

    model = functional(make, (*shape, 3))
    converted = tf_dwsconv.convert(model)
    assert any(isinstance(layer, L.MultiHeadAttention) for layer in converted.layers) != fits
    for size in (4, 7):
        x = np.random.default_rng(size).standard_normal([2, *(n or size for n in shape), 3]).astype("float32")
        assert difference(converted, model, [x]) < 1e-5
        assert difference(tf_dwsconv.to_builtin(converted), model, [x]) < 1e-5


def attentions(model):
    return [layer for layer in model._flatten_layers() if isinstance(layer, L.MultiHeadAttention)]


@pytest.mark.parametrize("attend", [
    lambda y: L.MultiHeadAttention(2, 5)(y, y, use_causal_mask=True),
    lambda y: L.MultiHeadAttention(2, 5)(y, y, return_attention_scores=True)[0],
    lambda y: L.MultiHeadAttention(2, 5)(y, y, attention_mask=ops.ones((1, 30, 30)) > ops.eye(30)),
    lambda y: L.MultiHeadAttention(2, 5)(y, y, training=True),
    lambda y: L.MultiHeadAttention(2, 5, sliding_window=3)(y, y),
    lambda y: L.MultiHeadAttention(2, 5, use_gate=True)(y, y),
], ids=["causal", "scores", "mask", "training", "window", "gate"])  # fmt: skip
def test_what_stays(attend):
    model = functional(among_pictures(attend), (6, 5, 3))
    converted = tf_dwsconv.convert(model)
    assert attentions(converted) and difference(converted, model, pictures(model)) < 1e-5


class Masks(L.Layer):
    """Hides places that are 0 from what attends to them."""

    supports_masking = True

    def call(self, x):
        return x

    def compute_mask(self, x, mask=None):
        return ops.any(ops.not_equal(x, 0), axis=-1)


def inner_model():
    y = keras.Input((16, 6))
    z = L.MultiHeadAttention(2, 5)(y, y)
    return keras.Model(y, L.Dense(4)(L.Reshape((4, 4, 6))(z)), name="inner")


class Attends(L.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.attention, self.last = L.MultiHeadAttention(2, 5), L.DepthwiseConv2D(3)

    def build(self, shape):
        self.attention.build(shape, shape)
        self.last.build((None, 4, 4, 6))
        self.built = True

    def call(self, y):
        return self.last(ops.reshape(self.attention(y, y), (-1, 4, 4, 6)))

    def compute_output_spec(self, y):
        return keras.KerasTensor((None, 2, 2, 6), self.compute_dtype)

    def get_config(self):
        return super().get_config()


@pytest.mark.parametrize("masks", [lambda: L.Masking(), Masks], ids=["keras", "own"])
@pytest.mark.parametrize("attend", [
    lambda y: L.Reshape((4, 4, 6))(L.MultiHeadAttention(2, 5)(y, y)),
    lambda y: L.Reshape((4, 4, 6))(L.Attention()([y, y])),
    lambda y: inner_model()(y),
    lambda y: keras.Sequential([inner_model(), L.ReLU()])(y),
    lambda y: Attends()(y),
], ids=["heads", "dot", "model", "models", "custom"])  # fmt: skip
def test_no_mask_is_lost(masks, attend):
    def make(x):
        return L.ReLU()(L.DepthwiseConv2D(2)(attend(masks()(x))))

    model = functional(make, (16, 6))
    [x] = pictures(model)
    x[:, 9:] = 0
    for options in ({}, {"fuse": "blocks"}):
        assert difference(tf_dwsconv.convert(model, **options), model, [x]) < 1e-5


class Ends(L.Layer):
    """Says that it hands no mask on, but the layer in it does."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inner = L.Dense(6)

    def call(self, x):
        return self.inner(x)


def test_masks_go_where_they_did():
    def make(x):
        y = Ends()(L.Masking()(x))
        return L.ReLU()(L.DepthwiseConv2D(2)(L.Reshape((4, 4, 6))(L.MultiHeadAttention(2, 5)(y, y))))

    model = functional(make, (16, 6))
    [x] = pictures(model)
    x[:, 9:] = 0
    assert difference(tf_dwsconv.convert(model), model, [x]) < 1e-5


@pytest.mark.parametrize("axis", [1, -2, [2], (3,), -1])
@pytest.mark.parametrize("apply", [
    lambda x, axis: L.Softmax(axis)(x),
    lambda x, axis: ops.softmax(x, axis[0] if isinstance(axis, (list, tuple)) else axis),
], ids=["layer", "op"])  # fmt: skip
def test_softmax_over_any_axis(apply, axis):
    model = functional(lambda x: L.DepthwiseConv2D(3)(apply(L.DepthwiseConv2D(3)(x), axis)), (9, 8, 4))
    one_program(model)
    check(model)


def test_softmax_over_two_axes_stays():
    model = functional(lambda x: L.DepthwiseConv2D(3)(L.Softmax((1, 2))(L.DepthwiseConv2D(3)(x))), (9, 8, 4))
    assert any(isinstance(layer, L.Softmax) for layer in tf_dwsconv.convert(model).layers)
    check(model)


def test_transformers_of_sequences_alone_are_no_programs():
    model = functional(lambda x, y: (transformer(x), L.ReLU()(L.MultiHeadAttention(2, 5)(y, y))), (7, 8), (2, 3, 8))
    assert not any(isinstance(layer, FusedNetwork) for layer in tf_dwsconv.convert(model).layers)


def steps(model):
    [network] = [layer for layer in model.layers if isinstance(layer, FusedNetwork)]
    return [step["op"] for step in json.loads(network.program)["steps"]]


def test_the_scale_of_the_queries_is_in_their_filter():
    model = functional(among_pictures(lambda y: L.MultiHeadAttention(2, 5)(y, y)), (6, 5, 3))
    found = steps(one_program(model))
    assert found.count("matmul") == 2 and found.count("dense") == 4 and "multiply" not in found
