"""Batch norm with an activation behind it, as it is trained: by the library's op, or by TensorFlow's own."""

from __future__ import annotations

import contextlib
from typing import Any

import tensorflow as tf
from tensorflow.python.framework import ops as framework_ops

from tf_dwsconv._tf import dispatch, library, stock
from tf_dwsconv._tf.library import BATCH_NORM_GRADIENT_OP_NAME, BATCH_NORM_OP_NAME
from tf_dwsconv._tf.signatures import activation_options, read_activation
from tf_dwsconv.activations import Fused, activate

DTYPES = frozenset((tf.float32, tf.bfloat16, tf.float16))


def train(x: tf.Tensor, gamma: Any, beta: Any, epsilon: float, activation: Fused) -> tuple:
    """Normalises each channel by the statistics of a batch.

    Args:
        x: [..., C], float32, bfloat16 or float16.
        gamma, beta: [C], float32.
        epsilon: added to the variance; at least 1e-5, the least that TensorFlow's op takes on a GPU.
        activation: applied to the result, by its description.

    Returns:
        `(y, mean, variance)`: y as x; the others [C], float32, the variance divided by the number of values. Gradients
        pass through y alone.

    Source: Ioffe and Szegedy, "Batch Normalization" (2015), algorithm 1.
    """
    ops = None if dispatch.fused_op(x.dtype) is None else library.batch_norm_ops()
    if ops is None:
        y, mean, variance = _by_tensorflow(x, gamma, beta, epsilon)
        return _rounded(y, activation, x.dtype), mean, _of_sample(variance, x)
    return tuple(_by_the_op(ops, x, gamma, beta, (), epsilon, activation))


def infer(
    x: tf.Tensor, gamma: Any, beta: Any, mean: Any, variance: Any, epsilon: float, activation: Fused
) -> tf.Tensor:
    """As `train`, by given statistics, to which no gradient passes; returns y alone."""
    ops = None if dispatch.fused_op(x.dtype) is None else library.batch_norm_ops()
    if ops is not None:
        return _by_the_op(ops, x, gamma, beta, (mean, variance), epsilon, activation)[0]
    y = _composed(stock.widen(x), gamma, beta, tf.stop_gradient(mean), tf.stop_gradient(variance), epsilon)
    return _rounded(y, activation, x.dtype)


def _by_the_op(
    ops: tuple, x: tf.Tensor, gamma: Any, beta: Any, statistics: tuple, epsilon: float, activation: Fused
) -> Any:
    options = {"epsilon": epsilon, "of_batch": not statistics, **activation_options(activation)}
    return ops[0](x=x, gamma=gamma, beta=beta, statistics=statistics, **options)


def _by_tensorflow(x: tf.Tensor, gamma: Any, beta: Any, epsilon: float) -> tuple:
    """By TensorFlow's op, in float32: `(y, mean, variance)`, with the variance of the population."""
    wide = stock.widen(x)
    pictures = wide if len(x.shape) == 4 else tf.reshape(wide, [-1, 1, 1, x.shape[-1]])
    y, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
        x=pictures,
        scale=gamma,
        offset=beta,
        mean=tf.zeros([0]),
        variance=tf.zeros([0]),
        epsilon=epsilon,
        is_training=True,
    )
    return y if pictures is wide else tf.ensure_shape(tf.reshape(y, tf.shape(x)), x.shape), mean, variance


def _composed(x: tf.Tensor, gamma: Any, beta: Any, mean: Any, variance: Any, epsilon: float) -> tf.Tensor:
    """By ops that TensorFlow differentiates as often as anyone likes."""
    return (x - mean) * (tf.math.rsqrt(variance + epsilon) * gamma) + beta


def _rounded(y: tf.Tensor, activation: Fused, dtype: tf.DType) -> tf.Tensor:
    return tf.cast(activate(y, activation), dtype)


def _of_sample(variance: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
    """The variance of a sample of n from that of the population, which is n/(n-1) times as large."""
    count = tf.cast(tf.size(x, out_type=tf.int64) // x.shape[-1], tf.float32)
    return variance * ((count - 1.0) / tf.maximum(count, 1.0))


def _gradient(op: Any, grad: Any, *_: Any) -> list:
    """Of the op: by x, gamma and beta, and none by statistics that were given."""
    x, gamma, beta, *given = op.inputs
    skipped = getattr(op, "skip_input_indices", None) or ()
    wanted = not given or not {1, 2} <= set(skipped)
    inputs = {"x": x, "gamma": gamma, "beta": beta, "mean": op.outputs[1], "variance": op.outputs[2], "grad": grad}
    d_x, d_gamma, d_beta = library.batch_norm_ops()[1](
        **inputs,
        epsilon=op.get_attr("epsilon"),
        of_batch=not given,
        want_parameters=int(wanted),
        **activation_options(read_activation(op)),
    )
    return [d_x, *(d_gamma or [None]), *(d_beta or [None]), *(None for _ in given)]


def _gradient_of_gradient(op: Any, *grads: Any) -> list:
    """Of the gradient op: through the same gradients composed of TensorFlow's ops, so of any order."""
    inputs = list(map(tf.identity, op.inputs))
    x, gamma, beta, mean, variance, grad = inputs
    with tf.GradientTape(watch_accessed_variables=False) as outer:
        outer.watch(inputs)
        with tf.GradientTape(watch_accessed_variables=False) as inner:
            inner.watch([x, gamma, beta])
            wide = stock.widen(x)
            if op.get_attr("of_batch"):  # mean and variance are of x, which has their part of the gradient
                axes = tf.range(tf.rank(x) - 1)
                mean = tf.reduce_mean(wide, axes)
                variance = tf.reduce_mean(tf.square(wide - mean), axes)
            before = _composed(wide, gamma, beta, mean, variance, op.get_attr("epsilon"))
            y = _rounded(before, read_activation(op), x.dtype)
        found = inner.gradient(y, [x, gamma, beta], output_gradients=grad)
    pairs = [(f, g) for f, g in zip(found, grads) if g is not None]
    return outer.gradient([f for f, _ in pairs], inputs, output_gradients=[g for _, g in pairs])


for _name, _function in ((BATCH_NORM_OP_NAME, _gradient), (BATCH_NORM_GRADIENT_OP_NAME, _gradient_of_gradient)):
    with contextlib.suppress(KeyError):  # registered already: we were reloaded
        framework_ops.RegisterGradient(_name)(_function)
