"""Training in 16 bits: what is computed in which type, loss scaling, and how near to float32 it comes."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import op_calls

import tf_dwsconv

pytestmark = pytest.mark.usefixtures("op_library")

POLICIES = {"mixed_bfloat16": (tf.bfloat16, 2.0**-8), "mixed_float16": (tf.float16, 2.0**-11)}  # and half an ulp of 1
KINDS = {"stock": keras.layers.SeparableConv2D, "ours": tf_dwsconv.DepthwiseSepConv2D}
RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((16, 10, 10, 3)).astype(np.float32)
STEPS = 20
LABELS = (X[:, 3:7, 3:7].mean(axis=(1, 2, 3)) > 0).astype(np.int32)


def network(kind, policy):
    keras.utils.set_random_seed(0)
    with_policy = {"dtype": policy}
    return keras.Sequential(
        [
            keras.Input((10, 10, 3)),
            KINDS[kind](16, 3, padding="same", activation="relu", **with_policy),
            KINDS[kind](16, 3, strides=2, padding="same", activation="relu6", **with_policy),
            keras.layers.Flatten(**with_policy),
            keras.layers.Dense(2, dtype="float32"),
        ]
    )


def train(kind, policy, optimizer, steps):
    """Returns the model and the loss of each step."""
    model = network(kind, policy)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, jit_compile=False)
    return model, model.fit(X, LABELS, batch_size=16, epochs=steps, shuffle=False, verbose=0).history["loss"]


@pytest.mark.parametrize("policy", POLICIES)
def test_loss_falls_as_with_stock_layers(policy):
    before = op_calls()
    ours, losses = train("ours", policy, keras.optimizers.Adam(1e-2), STEPS)
    assert sum(op_calls().values()) >= sum(before.values()) + 2 * STEPS
    _, stock = train("stock", policy, keras.optimizers.Adam(1e-2), STEPS)
    _, exact = train("stock", "float32", keras.optimizers.Adam(1e-2), STEPS)
    assert np.isfinite(losses).all() and losses[-1] < 0.25 * losses[0]
    assert losses[0] == pytest.approx(exact[0], rel=0.02) and losses[0] == pytest.approx(stock[0], rel=0.02)
    assert losses[-1] < 0.05 + 1.5 * max(stock[-1], exact[-1])
    assert all(weight.dtype == "float32" for weight in ours.weights)


def test_float16_brings_its_loss_scale():
    """Keras wraps the optimizer where the model's policy is mixed_float16, and a scale asked for is used."""
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.05), initial_scale=1024.0)
    model, losses = train("ours", "mixed_float16", optimizer, 10)
    assert model.optimizer is optimizer and float(optimizer.dynamic_scale) == 1024.0
    assert losses[-1] < losses[0]
    previous = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model, losses = train("ours", "mixed_float16", keras.optimizers.SGD(0.05), 10)
    finally:
        keras.config.set_dtype_policy(previous)
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert losses[-1] < losses[0]


def gradients(kind, policy, scale=1.0):
    """dtype of the layer's output; gradients of the input and all weights of one layer, divided by the scale again."""
    keras.utils.set_random_seed(1)
    layer = KINDS[kind](12, 3, padding="same", activation="relu", dtype=policy)
    layer.build(X.shape)
    layer.bias.assign(np.linspace(-0.1, 0.1, 12))
    target = np.random.default_rng(2).standard_normal((16, 10, 10, 12)).astype(np.float32)

    @tf.function
    def compute(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x)
            loss = scale * tf.reduce_mean(tf.cast(y, tf.float32) * target)
        return y, tape.gradient(loss, [x, *[weight.value for weight in layer.trainable_weights]])

    compute_dtype = POLICIES[policy][0] if policy in POLICIES else tf.float32
    y, found = compute(tf.cast(X, compute_dtype))
    return y.dtype, found[0].dtype, [gradient.dtype for gradient in found[1:]], [np.float64(g) / scale for g in found]


@pytest.mark.parametrize("policy", POLICIES)
def test_gradients_have_the_right_types_and_values(policy):
    """Weights' gradients arrive in float32, the input's in 16 bits; all are about as good as the stock layer's."""
    compute_dtype, precision = POLICIES[policy]
    scale = 1024.0 if policy == "mixed_float16" else 1.0  # float16 underflows without, with stock layers too
    before = op_calls()
    output, of_input, of_weights, ours = gradients("ours", policy, scale)
    assert op_calls() != before
    assert output == of_input == compute_dtype and set(of_weights) == {tf.float32}
    assert [output, of_input, of_weights] == list(gradients("stock", policy, scale)[:3])
    stock = gradients("stock", policy, scale)[3]
    exact = gradients("stock", "float32")[3]
    assert len(ours) == len(exact) == 4  # input, depthwise, pointwise, bias
    for a, b, reference in zip(ours, stock, exact):
        size = np.sqrt(np.mean(reference**2))
        error, stock_error = (np.sqrt(np.mean((each - reference) ** 2)) / size for each in (a, b))
        assert error < max(24 * precision, 2 * stock_error)


def test_an_overflow_skips_the_step_and_halves_the_scale():
    """Gradients that do not fit float16 reach the optimizer as inf or NaN, not as numbers."""
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1), initial_scale=2.0**30)
    model = network("ours", "mixed_float16")
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False)
    weights = model.get_weights()
    model.train_on_batch(X, LABELS)
    for before, after in zip(weights, model.get_weights()):
        np.testing.assert_array_equal(after, before)
    assert float(optimizer.dynamic_scale) == 2.0**29
    losses = [float(model.train_on_batch(X, LABELS)) for _ in range(40)]
    assert float(optimizer.dynamic_scale) < 2.0**29 and losses[-1] < losses[0]
