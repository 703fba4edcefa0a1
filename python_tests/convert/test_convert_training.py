"""`tf_dwsconv.convert(model, training=True)`: what is swapped trains exactly as before."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from convert_support import chain, check, difference, found, functional, pictures

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
    patterns = ["separable", "depthwise + 1x1", "depthwise", "batch norm", "batch norm", "separable", "batch norm"]
    fused = check(functional(network), patterns, training=True)
    rows = {row.layers[0]: row for row in tf_dwsconv.convert.report(fused)}
    assert all(row.fused for row in rows.values())
    assert rows["kept_dw"].reason == "'kept_dw_bn' follows, and nothing is fused across a batch norm that is trained"
    assert rows["kept_dw_bn"].layers == ("kept_dw_bn", "kept_dw_relu") and rows["kept_dw_bn"].fused == "kept_dw_relu"
    kinds = [type(layer) for layer in fused.layers]
    assert kinds.count(tf_dwsconv.FusedBatchNormalization) == 3 and kinds.count(tf_dwsconv.FusedDepthwiseConv2D) == 1
    assert not {L.BatchNormalization, L.DepthwiseConv2D, tf_dwsconv.FusedConvBlock} & set(kinds)


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
        "kept_dw/depthwise_kernel": "kept_dw/kernel",
        **{f"kept_dw_relu/{name}": f"kept_dw_bn/{name}" for name in ("gamma", "beta")},
        **{f"kept_act/{name}": f"kept_pw_bn/{name}" for name in ("gamma", "beta")},
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
    alone = [] if difference == "shared" else ["depthwise"]
    fused = check(functional(make), alone, tolerance, training=True)
    assert any(row.reason for row in tf_dwsconv.convert.report(fused))


def test_shared_and_nested_separable_layers():
    shared = L.SeparableConv2D(6, 3, padding="same", name="shared")

    def make(x):
        return L.ReLU()(shared(keras.Sequential([L.SeparableConv2D(6, 3), L.ReLU()])(shared(x))))

    fused = check(functional(make), training=True)
    assert found(fused) == ["separable"] * 3
    assert type(fused.get_layer("shared")) is tf_dwsconv.DepthwiseSepConv2D


@pytest.mark.parametrize("name", ["MobileNet", "MobileNetV2", "EfficientNetB0", "MobileNetV3Small"])
def test_whole_networks(name):
    """A step's loss, gradients and statistics are stock's; the trained network converts for inference, and back."""
    keras.utils.set_random_seed(0)
    stock = getattr(keras.applications, name)(
        weights=None, input_shape=(64, 64, 3), classes=5, classifier_activation=None
    )
    fused = tf_dwsconv.convert(stock, training=True)
    for kind in (L.BatchNormalization, L.DepthwiseConv2D):
        assert not any(type(layer) is kind for layer in fused.layers)
    x, y = pictures(stock, batch=8)[0], np.arange(8) % 5
    steps = []
    for model in (stock, fused):
        drops = {layer: layer.rate for layer in model.layers if isinstance(layer, L.Dropout)}
        for layer in drops:
            layer.rate = 0.0
        with tf.GradientTape() as tape:
            logits = model(x, training=True)
            loss = tf.reduce_mean(keras.losses.sparse_categorical_crossentropy(y, logits, from_logits=True))
        for layer, rate in drops.items():
            layer.rate = rate
        gradients = tape.gradient(loss, model.trainable_variables)
        steps.append((loss, gradients, [v.numpy() for v in model.non_trainable_variables if "seed" not in v.path]))
    np.testing.assert_allclose(*(step[0] for step in steps), rtol=1e-4)
    apart = sum(float(tf.reduce_sum((a - b) ** 2)) for a, b in zip(steps[0][1], steps[1][1]))
    whole = sum(float(tf.reduce_sum(a**2)) for a in steps[0][1])
    assert apart < 5e-2**2 * whole  # where an argument of relu6 is at a kink but for a rounding a gradient differs
    for a, b in zip(steps[0][2], steps[1][2]):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
    assert difference(tf_dwsconv.convert(fused), stock, [x]) < 1e-3
    back = tf_dwsconv.to_builtin(fused)
    assert difference(back, stock, [x]) < 1e-3
    assert all(type(layer).__module__.startswith("keras.") for layer in back.layers)


def test_training_and_converting_go_round(tmp_path):
    """Stock, for training, a file, for training once more, for inference: always the same function."""
    model = functional(network)
    fused = tf_dwsconv.convert(model, training=True)
    fused.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    x = pictures(model, batch=8)
    fused.fit(x[0], np.arange(8) % 3, verbose=0)
    fused.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    for other in (loaded, tf_dwsconv.convert(loaded, training=True), tf_dwsconv.convert(loaded)):
        assert difference(other, fused, x) < 1e-5
    blocks = tf_dwsconv.convert(loaded, fuse="blocks")
    assert not any(isinstance(layer, L.BatchNormalization) for layer in blocks.layers[:-3])
