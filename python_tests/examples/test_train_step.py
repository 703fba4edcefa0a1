"""Swapping our layer into networks that are trained: what is swapped leaves loss and gradients as they were."""

from __future__ import annotations

import json
import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from common import swap
from conftest import op_calls, run_example

import tf_dwsconv

pytestmark = pytest.mark.usefixtures("op_library")
PROGRAM = "benchmarks/benchmark_training_step.py"


def block(x, filters, strides=1, activation="relu6", last=True, tap=None):
    """A chain as MobileNet has it; with stride 2 it pads by a layer of its own."""
    if strides == 2:
        x = keras.layers.ZeroPadding2D(((0, 1), (0, 1)))(x)
    padding = "valid" if strides == 2 else "same"
    x = keras.layers.DepthwiseConv2D(3, strides, padding, depth_multiplier=2, use_bias=False)(x)
    x = keras.layers.BatchNormalization(center=filters != 12)(x)
    x = keras.layers.ReLU(6.0)(x) if activation == "relu6" else keras.layers.Activation(activation)(x)
    between = x
    x = keras.layers.Conv2D(filters, 1, padding="same", use_bias=False)(x)
    x = keras.layers.BatchNormalization(scale=filters != 12)(x)
    if last:
        x = keras.layers.ReLU(6.0)(x)
    return (x, between) if tap else x


def network():
    """Two plain chains, one with a linear end in a residual, one whose middle is read twice, one separable layer."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((13, 12, 3))
    x = block(inputs, 8)
    x = block(x, 12, strides=2, activation="silu")
    x = keras.layers.add([x, block(x, 12, last=False)])
    x, between = block(x, 10, tap=True)
    x = keras.layers.SeparableConv2D(8, 3, activation="tanh")(x)
    x = keras.layers.concatenate(
        [keras.layers.GlobalAveragePooling2D()(x), keras.layers.GlobalAveragePooling2D()(between)]
    )
    model = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Dropout(0.2)(x)))
    random = np.random.default_rng(1)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            for weight in layer.weights:
                around = 0.0 if weight.name == "moving_mean" else 0.5
                weight.assign(around + 0.2 * random.random(weight.shape, np.float32))
    return model


def rounding_of(model, pixels=0):
    """What roundings may change a result by, relative to it: epsilon for each term of the sums on the way to it.

    `pixels` are the terms of a weight's gradient. Batch norms keep what one layer's error makes of the next one's in
    proportion where their statistics are of many numbers; those of two, as in MobileNet's last layers for two small
    pictures, may not.
    """
    terms = pixels
    for layer in model.layers:
        kernels = [weight.shape for weight in layer.weights if "kernel" in weight.name]
        if isinstance(layer, (keras.layers.DepthwiseConv2D, keras.layers.SeparableConv2D)):
            terms += math.prod(kernels.pop(0)[:2])
        terms += sum(math.prod(kernel[:-1]) for kernel in kernels)
    return float(np.finfo(np.float32).eps) * terms


def gradients(model, x, y):
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.square(model(x, training=True) - y))
    variables = model.trainable_variables
    return float(loss), {id(v): g.numpy() for v, g in zip(variables, tape.gradient(loss, variables))}


@pytest.mark.parametrize("frozen", [False, True])
def test_a_step_stays_what_it_was(frozen):
    random = np.random.default_rng(2)
    x = tf.constant(random.standard_normal((4, 13, 12, 3), np.float32))
    y = tf.constant(random.standard_normal((4, 3), np.float32))
    stock = network()
    if frozen:
        for layer in stock.layers:
            layer.trainable = not isinstance(layer, keras.layers.BatchNormalization)
    ours, count, pairs = swap.swap(stock, frozen)
    # Three chains (the fourth's middle has a second reader) and the separable layer; or each layer by itself.
    assert count == (4 if frozen else 1 + 4 + 8)
    assert sum(isinstance(layer, tf_dwsconv.DepthwiseSepConv2D) for layer in ours.layers) == 1
    assert sum(type(layer) is keras.layers.DepthwiseConv2D for layer in ours.layers) == (1 if frozen else 0)
    loss, expected = gradients(stock, x, y)
    before = sum(op_calls().values())
    own_loss, found = gradients(ours, x, y)
    assert sum(op_calls().values()) >= before + (4 if frozen else 1 + 4)
    assert own_loss == pytest.approx(loss, rel=rounding_of(stock))
    tolerance = rounding_of(stock, pixels=4 * 13 * 12)
    assert tolerance < 2e-4
    assert {id(b) for _, b in pairs} == set(found) and {id(a) for a, _ in pairs} == set(expected)
    for a, b in pairs:
        scale = np.abs(expected[id(a)]).max()
        assert scale > 1e-6, a.path
        assert np.abs(found[id(b)] - expected[id(a)]).max() < tolerance * scale, a.path


def test_the_table(tmp_path):
    flags = ["--size=32", "--batch_size=8", "--repeat=1", f"--output={tmp_path}"]
    done = run_example(PROGRAM, *flags)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "run.json").read_text())
    # MobileNet has 13 depthwise convolutions and 27 batch norms, one in the middle of each of its 13 chains.
    assert {way: row["swapped"] for way, row in record["results"].items()} == {"train": 40, "fit": 40, "frozen": 13}
    model = keras.applications.MobileNet((32, 32, 3), weights=None)
    assert 1e-4 < rounding_of(model) < 1e-3
    assert all(row["loss_difference"] < rounding_of(model) for row in record["results"].values())
    assert record["settings"]["tf_dwsconv_runs"] == "fused kernels"
    assert all(f"{row['stock_over_ours']:.2f}" in done.stdout for row in record["results"].values())
