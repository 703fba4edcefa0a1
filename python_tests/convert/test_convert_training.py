"""`tf_dwsconv.convert(model, training=True)`: what is swapped trains exactly as before."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from convert_support import chain, check, found, functional, pictures

import tf_dwsconv

pytestmark = pytest.mark.usefixtures("op_library")

L = keras.layers


def by_path(model):
    return {variable.path: variable.numpy() for variable in model.trainable_variables}


def network(x):
    x = L.SeparableConv2D(8, 3, padding="same", depthwise_regularizer="l2", name="a")(x)
    x = L.ReLU(name="a_relu")(x)
    y = L.DepthwiseConv2D(3, padding="same", depthwise_regularizer="l2", bias_regularizer="l1", name="b")(x)
    y = L.LeakyReLU(negative_slope=0.1, name="b_leaky")(y)
    y = L.Conv2D(8, 1, kernel_regularizer="l2", activation="hard_silu", name="c")(y)
    x = L.Add()([x, y])
    x = chain(x, 8, activation="silu", name="kept")
    x = L.SeparableConv2D(8, 3, use_bias=False, name="d")(x)
    return L.Dense(3, name="head")(L.GlobalAveragePooling2D()(L.BatchNormalization(name="norm")(x)))


def test_what_is_swapped():
    fused = check(functional(network), ["separable", "depthwise + 1x1", "separable"], training=True)
    reasons = [row.reason for row in tf_dwsconv.convert.report(fused) if row.fused is None]
    assert reasons == ["'kept_dw_bn' follows, and nothing is fused across a batch norm that is trained"]
    assert sum(isinstance(layer, L.BatchNormalization) for layer in fused.layers) == 3
    assert not any(isinstance(layer, tf_dwsconv.FusedConvBlock) for layer in fused.layers)


def test_steps_of_an_optimizer_are_the_same():
    model = functional(network)
    fused = tf_dwsconv.convert(model, training=True)
    x, y = pictures(model, batch=8)[0], np.arange(8) % 3
    histories = []
    for m in (model, fused):
        m.compile(keras.optimizers.SGD(0.02), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        histories.append(m.fit(x, y, batch_size=4, epochs=3, shuffle=False, verbose=0).history["loss"])
    np.testing.assert_allclose(*histories, rtol=1e-4)
    stock = by_path(model)
    renamed = {  # a layer bears the name of the last that it takes
        **{f"a_relu/{name}": f"a/{name}" for name in ("depthwise_kernel", "pointwise_kernel", "bias")},
        "c/depthwise_kernel": "b/kernel",
        "c/pointwise_kernel": "c/kernel",
        "c/depthwise_bias": "b/bias",
        "c/bias": "c/bias",
    }
    ours = {renamed.get(path, path): value for path, value in by_path(fused).items()}
    assert ours.keys() == stock.keys()
    for path, value in ours.items():
        np.testing.assert_allclose(value, stock[path], atol=2e-4, err_msg=path)


@pytest.mark.parametrize("difference", ["trainable", "dtype", "regularizer", "padding", "shared"])
def test_what_would_train_otherwise_is_left_alone(difference):
    def make(x):
        options = {"activity_regularizer": "l2"} if difference == "regularizer" else {}
        depthwise = L.DepthwiseConv2D(3, padding="same", **options)
        pointwise = L.Conv2D(6, 1, dtype="mixed_bfloat16" if difference == "dtype" else None)
        depthwise.trainable = difference != "trainable"
        if difference == "padding":
            return L.Flatten()(pointwise(L.ZeroPadding2D()(depthwise(x))))
        y = pointwise(depthwise(x))
        return depthwise(y) if difference == "shared" else y

    tolerance = 0.02 if difference == "dtype" else 1e-5
    fused = check(functional(make), [], tolerance, training=True)
    assert any(row.reason for row in tf_dwsconv.convert.report(fused))


def test_shared_and_nested_separable_layers():
    shared = L.SeparableConv2D(6, 3, padding="same", name="shared")

    def make(x):
        return L.ReLU()(shared(keras.Sequential([L.SeparableConv2D(6, 3), L.ReLU()])(shared(x))))

    fused = check(functional(make), training=True)
    assert found(fused) == ["separable"] * 3
    assert type(fused.get_layer("shared")) is tf_dwsconv.DepthwiseSepConv2D
