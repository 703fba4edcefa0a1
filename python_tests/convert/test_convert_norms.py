"""`tf_dwsconv.convert`: dense convolutions, batch norms and scales around them, activations that are written out."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from convert_support import chain, check, difference, found, functional, pictures

import tf_dwsconv

pytestmark = pytest.mark.usefixtures("op_library")

L = keras.layers


NORMS = pytest.mark.parametrize("norm", [{}, {"scale": False}, {"center": False}], ids=str)


@NORMS
@pytest.mark.parametrize("options", [{}, {"strides": 2, "kernel_size": 1}, {"padding": "same", "dilation_rate": 2}])
def test_dense_convolutions(options, norm):
    def make(x):
        y = L.Conv2D(**{"filters": 64, "kernel_size": 3, "kernel_regularizer": "l2", "name": "conv", **options})(x)
        return L.Activation("hard_silu", name="last")(L.BatchNormalization(**norm)(y))

    assert [layer.name for layer in check(functional(make), ["convolution"]).layers] == ["in0", "last"]


def test_dense_convolutions_of_many_channels_stay_with_their_norm_folded():
    def make(x):
        y = L.Conv2D(6, 3, name="few")(L.Conv2D(64, 3, name="many", use_bias=False)(L.DepthwiseConv2D(3)(x)))
        y = L.Conv2D(6, 3, name="other_conv")(L.Conv2D(64, 3, name="more")(y))
        return L.ReLU()(L.BatchNormalization(name="other")(y))

    fused = check(functional(make))
    kinds = {layer.name: type(layer) for layer in fused.layers}
    assert kinds["few"] is kinds["other"] is L.Conv2D
    assert kinds["many"] is kinds["more"] is tf_dwsconv.FusedConvBlock
    assert not any(isinstance(layer, L.BatchNormalization) for layer in fused.layers)


def test_dense_convolutions_with_padding_in_front_and_a_residual():
    def make(x):
        y = L.Conv2D(6, 3, strides=2, use_bias=False)(L.ZeroPadding2D(1)(x))
        short = L.AveragePooling2D(2, padding="same")(x)
        return L.ReLU()(L.Add()([short, L.BatchNormalization()(y)]))

    assert len(check(functional(make), ["convolution + residual"]).layers) == 3


@NORMS
def test_batch_norm_of_convolutions_in_groups(norm):
    def make(x):
        x = L.Conv2D(8, 3, groups=2, use_bias=False, kernel_regularizer="l2", name="conv")(x)
        return L.Activation("elu")(L.BatchNormalization(**norm, name="norm")(x))

    fused = check(functional(make), ["convolution + batch norm"])
    assert [type(layer) for layer in fused.layers] == [L.InputLayer, L.Conv2D, L.Activation]
    assert fused.get_layer("norm").use_bias


def test_batch_norm_that_cannot_be_folded():
    def in_front_of_padding(x):
        return L.Conv2D(64, 3, padding="same")(L.BatchNormalization()(x))

    def behind_an_activation(x):
        return L.BatchNormalization()(L.Conv2D(64, 3, activation="relu")(x))

    def in_training(x):
        return L.BatchNormalization()(L.Conv2D(64, 3)(x), training=True)

    def of_another_axis(x):
        return L.BatchNormalization(axis=1)(L.Conv2D(64, 3)(x))

    def renormalised(x):
        return L.BatchNormalization(renorm=True)(L.Conv2D(64, 3)(x))

    for make in (in_training, of_another_axis, renormalised):
        fused = check(functional(make), ["convolution"])
        assert any(isinstance(layer, L.BatchNormalization) for layer in fused.layers)
    check(functional(in_front_of_padding), ["scale", "convolution"])
    check(functional(behind_an_activation), ["convolution", "scale"])


@pytest.mark.parametrize(
    "swish",
    [
        lambda x: x * keras.ops.relu6(x + 3) / 6,
        lambda x: keras.ops.relu6(3.0 + x) / 6.0 * x,
        lambda x: L.Multiply()([L.ReLU(6.0)(x + 3.0) * (1 / 6), x]),
        lambda x: L.Multiply()([x, L.Activation("hard_sigmoid")(x)]),
        lambda x: x * keras.ops.hard_sigmoid(x),
        lambda x: x * keras.ops.sigmoid(x),
        lambda x: L.Multiply()([L.Activation("sigmoid")(x), x]),
        keras.ops.silu,
        keras.ops.hard_silu,
        keras.activations.relu6,
        lambda x: keras.ops.gelu(x, approximate=False),
        lambda x: keras.ops.leaky_relu(x, 0.3),
    ],
)
def test_activations_written_out(swish):
    fused = check(functional(lambda x: swish(chain(x, 8))), ["depthwise + 1x1"])
    assert len(fused.operations) == 2


@pytest.mark.parametrize(
    "almost",
    [
        lambda x: x * keras.ops.relu6(x + 2) / 6,
        lambda x: x * keras.ops.relu6(x + 3) / 5,
        lambda x: x * keras.ops.relu6(x + 3),
        lambda x: x * keras.ops.relu(x + 3) / 6,
        lambda x: x * keras.ops.sigmoid(x) + x,
        lambda x: keras.ops.gelu(x),
        lambda x: keras.ops.relu6(x + 3) * (x + 1) / 6,
    ],
)
def test_what_is_almost_an_activation(almost):
    check(functional(lambda x: almost(chain(x, 8))), ["depthwise + 1x1"])


def picture_norm(**arguments):
    return L.Normalization(mean=[0.4, 0.5, 0.3], variance=[0.04, 0.1, 0.09], **arguments)


@pytest.mark.parametrize(
    "front",
    [
        [L.Rescaling(1 / 255), picture_norm(axis=-1), L.Rescaling([1.1, 1.2, 1.3], [0.0, 0.1, 0.2])],
        [L.Rescaling(2.0, offset=-1)],
        [picture_norm(axis=3, invert=True), L.ReLU()],
        [L.Normalization(axis=None, mean=0.3, variance=2.0)],
        [L.Normalization()],  # adapted
    ],
    ids=lambda layers: "+".join(type(layer).__name__ for layer in layers),
)
def test_scales_in_front(front):
    def make(x):
        for layer in front:
            x = layer.from_config(layer.get_config())(x)
        return chain(x, 8)

    model = functional(make, (16, 16, 3))
    if not front[0].get_config().get("mean"):
        for layer in model.layers:
            if isinstance(layer, L.Normalization):
                layer.finalize_state()
    fused = check(model, ["scale", "depthwise + 1x1"])
    assert fused.layers[1].name == model.layers[len(front)].name
    assert difference(tf_dwsconv.to_builtin(fused), model, pictures(model)) < 1e-5


def test_scales_that_stay():
    check(functional(lambda x: chain(L.Rescaling(0.5)(x), 8)), ["depthwise + 1x1"])  # one pass over memory as it is

    def of_integers(x):
        return chain(picture_norm(axis=-1)(L.Rescaling(1 / 255, offset=0.1)(x)), 8)

    x = keras.Input((8, 8, 3), dtype="uint8")
    model = tf_dwsconv.convert(keras.Model(x, of_integers(x)))
    assert found(model) == ["scale", "depthwise + 1x1"]
    assert isinstance(model.layers[1], L.Rescaling)

    # Near its mean x - mean is exact, and x * scale + shift is not.
    far = L.Normalization(mean=1000.0, variance=1.0, axis=None)
    check(functional(lambda x: chain(far(x), 8)), ["depthwise + 1x1"])
    rows = L.Normalization(mean=np.zeros(16), variance=np.ones(16), axis=1)
    check(functional(lambda x: chain(rows(x), 8)), ["depthwise + 1x1"])
    assert found(tf_dwsconv.convert(functional(lambda x: L.ReLU()(L.BatchNormalization()(x))))) == []


def test_batch_norm_in_front_of_an_activation_is_one_pass():
    def make(x):
        y = L.ReLU()(L.BatchNormalization(name="norm")(x))
        return L.Add()([chain(y, 6), L.Conv2D(6, 3, padding="same")(y), x])

    check(functional(make), ["scale", "depthwise + 1x1"])


def test_dense_behind_the_pictures():
    def make(x):
        x = L.GlobalAveragePooling2D()(chain(x, 12))
        x = L.Dropout(0.2)(L.BatchNormalization()(L.Dense(20, activation="relu", name="hidden")(x)))
        y = L.Dense(20, use_bias=False)(x)
        y = L.Add()([L.BatchNormalization()(y), x])
        return L.Dense(4, activation="softmax", name="predictions")(L.Activation("gelu")(y))

    fused = check(functional(make), ["depthwise + 1x1", "dense", "dense", "dense"])
    assert fused.layers[-1].name == "predictions" and fused.output_shape == (None, 4)
    big = check(functional(lambda x: L.Dense(2049)(L.Flatten()(chain(x, 8)))), ["depthwise + 1x1"])  # 2048 x 2049
    assert isinstance(big.layers[-1], L.Dense)
    assert found(tf_dwsconv.convert(functional(lambda x: L.Dense(3)(x), (6,)))) == []
