"""Random layers as tensors, and their gradients: what the tests of gradients share."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import reference
import tensorflow as tf
from strategies import WORDS

import tf_dwsconv

NAMES = ("x", "depthwise_filter", "pointwise_filter", "depthwise_bias", "bias", "residual")
SMALL = {
    **dict(zip("NHWCMKRS", (2, 5, 6, 3, 2, 4, 3, 2))),
    "depthwise_bias": True,
    "bias": True,
    "residual": True,
    "strides": (2, 1),
    "depthwise_activation": ("tanh", 0.2),
    "activation": ("silu", 0.2),
}


def tensors_of(shape, dtype="float32"):
    """(tensors in the order of NAMES, keywords of the op); absent ones are None."""
    numpy_dtype = {"bfloat16": ml_dtypes.bfloat16}.get(dtype, dtype)
    x, layer, residual = reference.random_case(np.random.default_rng(shape.get("seed", 0)), numpy_dtype, shape)
    arrays = (x, layer.depthwise_filter, layer.pointwise_filter, layer.depthwise_bias, layer.bias, residual)
    return [None if a is None else tf.constant(a.astype(numpy_dtype)) for a in arrays], layer.keywords()


def call(tensors, keywords):
    x, depthwise_filter, pointwise_filter, depthwise_bias, bias, residual = tensors
    return tf_dwsconv.depthwise_sep_conv2d(
        x,
        depthwise_filter,
        pointwise_filter,
        depthwise_bias=depthwise_bias,
        bias=bias,
        residual=residual,
        **keywords,
    )


def gradients(tensors, keywords, weights):
    """Gradients of sum(weights * y) by the tensors that are there."""
    given_tensors = [t for t in tensors if t is not None]
    with tf.GradientTape() as tape:
        tape.watch(given_tensors)
        y = call(tensors, keywords)
        loss = tf.reduce_sum(y * tf.cast(weights, y.dtype))
    return tape.gradient(loss, given_tensors)


def in_float64(tensors):
    return [None if t is None else tf.cast(t, tf.float64) for t in tensors]


def assert_close(actual, expected, tolerance):
    """By the largest element of each tensor."""
    assert len(actual) == len(expected)
    for a, e in zip(actual, expected):
        a, e = a.numpy().astype(np.float64), e.numpy()
        assert a.shape == e.shape
        assert np.abs(a - e).max(initial=0.0) <= tolerance * max(1.0, np.abs(e).max(initial=0.0))


# Away from kinks, where gradients jump and any rounding decides which side an output is on.
SMOOTH = tuple(word for word in WORDS if word not in ("relu", "relu6", "leaky_relu", "hard_swish", "elu"))


def check_against_float64(shape, dtype, tolerance):
    """float64 runs on stock ops from end to end, so none of our op's gradient code judges itself."""
    tensors, keywords = tensors_of(shape, dtype)
    y = call(in_float64(tensors), keywords)
    weights = tf.constant(np.random.default_rng(1).standard_normal(y.shape))
    assert_close(gradients(tensors, keywords, weights), gradients(in_float64(tensors), keywords, weights), tolerance)
