"""One layer with stock Keras and with tf_dwsconv: built alike, compared, and timed in turn."""

from __future__ import annotations

import functools

import keras
import numpy as np
import tensorflow as tf
from timing import time_in_turn

import tf_dwsconv

LAYERS = {"stock": keras.layers.SeparableConv2D, "ours": tf_dwsconv.DepthwiseSepConv2D}


def forward_step(layer: keras.layers.Layer) -> tf.types.experimental.PolymorphicFunction:
    return tf.function(layer, jit_compile=False)


def training_step(layer: keras.layers.Layer) -> tf.types.experimental.PolymorphicFunction:
    """Forward, then the gradients of the input and of every weight for a given gradient of the output."""

    @tf.function(jit_compile=False)
    def step(x, output_gradient):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x)
        return y, tape.gradient(y, [x, *[weight.value for weight in layer.trainable_weights]], output_gradient)

    return step


def largest_relative_difference(results: list) -> float:
    """max |a - b| / max |a| over all tensors of two results of the same structure."""
    pairs = zip(*(tf.nest.flatten(result) for result in results))
    arrays = [[np.asarray(tf.cast(tensor, tf.float32)) for tensor in pair] for pair in pairs]
    return max(float(np.abs(a - b).max() / max(np.abs(a).max(), 1e-30)) for a, b in arrays)


def time_layers(
    shape: tuple[int, ...],
    filters: int,
    *,
    names: list[str],
    kernel: int,
    strides: int,
    dtype: str,
    train: bool,
    repeat: int,
) -> tuple[dict[str, float], float]:
    """Times the named `LAYERS` on a random input, all with the same weights and padding "same".

    Args:
        shape: of the input, N, H, W, C.
        filters: output channels.
        names: keys of `LAYERS`.
        kernel: rows and columns of the depthwise filter.
        strides: along both axes.
        dtype: of input and weights.
        train: forward and backward, or forward alone.
        repeat: timed calls of each.

    Returns:
        Milliseconds of a call by name (medians), and the largest relative difference of the results (0 for one layer).
    """
    random = np.random.default_rng(0)
    x = tf.cast(random.standard_normal(shape, np.float32), dtype)
    layers = {name: LAYERS[name](filters, kernel, strides=strides, padding="same", dtype=dtype) for name in names}
    for layer in layers.values():
        layer.build(x.shape)
    first = layers[names[0]]
    for layer in layers.values():
        layer.set_weights(first.get_weights())
    arguments = [x]
    if train:
        output_shape = first.compute_output_shape(x.shape)
        arguments.append(tf.cast(random.standard_normal(output_shape, np.float32), dtype))
    steps = {name: (training_step if train else forward_step)(layer) for name, layer in layers.items()}
    calls = {name: functools.partial(step, *arguments) for name, step in steps.items()}
    results = [call() for call in calls.values()]
    worst = largest_relative_difference(results) if len(results) == 2 else 0.0
    del results
    return time_in_turn(calls, repeat), worst
