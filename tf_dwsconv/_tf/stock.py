"""The fallback: the same call by TensorFlow's own ops.

It runs where the fused kernels cannot: inside XLA, in float64, without the op library. 16-bit floats are computed in
float32 and rounded once, at the end, as the fused kernels do. The convolutions are in `convolutions`.
"""

from __future__ import annotations

from typing import Callable, Optional

import tensorflow as tf
from tensorflow.python.framework import ops as framework_ops
from tensorflow.python.ops import control_flow_util

from tf_dwsconv import _shapes
from tf_dwsconv._arguments import Attributes, Tensors
from tf_dwsconv._tf import convolutions, guard
from tf_dwsconv._tf.convolutions import ensure_rank4
from tf_dwsconv.activations import activate


def in_xla() -> bool:
    """Whether ops made now are to be compiled by XLA."""
    return not tf.executing_eagerly() and control_flow_util.GraphOrParentsInXlaContext(
        framework_ops.get_default_graph()
    )


def compute(
    x: tf.Tensor,
    tensors: Tensors,
    attributes: Attributes,
    depthwise_function: Optional[Callable[[tf.Tensor], tf.Tensor]] = None,
) -> tf.Tensor:
    """Computes a call.

    Args:
        x: float16, bfloat16, float32 or float64.
        tensors: of `x`'s dtype.
        attributes: of the call.
        depthwise_function: applied after the depthwise convolution in place of `attributes.depthwise_activation`; it
            sees a tensor of `x`'s dtype in NHWC.

    Returns:
        A tensor of `x`'s dtype.

    Raises:
        ValueError: shapes that do not fit, as far as they are known.
        tf.errors.InvalidArgumentError: the same, for what is known only when the graph runs.
    """
    output_shape = _shapes.check(_static_shape(x), tensors.map(_static_shape), attributes)
    if not in_xla():  # XLA drops assertions, and checks shapes itself when it compiles
        x, tensors = guard.guard(x, tensors, attributes)
    dtype, t = x.dtype, tensors.map(widen)
    z = to_nhwc(widen(x), attributes)
    if t.expand_filter is not None:
        z = _plus(convolutions.pointwise(z, t.expand_filter), t.expand_bias)
        z = activate(z, attributes.expand_activation, t.expand_slopes)
    if t.depthwise_filter is not None:
        z = _plus(convolutions.depthwise(z, t.depthwise_filter, attributes), t.depthwise_bias)
        if depthwise_function is not None:
            z = widen(depthwise_function(tf.cast(z, dtype)))
        else:
            z = activate(z, attributes.depthwise_activation, t.depthwise_slopes)
    if attributes.epsilon is not None:
        z = normalize(z, attributes.epsilon)
    if t.gate is not None:
        z *= tf.reshape(t.gate, tf.concat([tf.shape(z)[:1], [1, 1], tf.shape(z)[3:]], axis=0))
    if t.is_dense:
        z = convolutions.dense(z, t.pointwise_filter, attributes)
    elif t.pointwise_filter is not None:
        z = convolutions.pointwise(z, t.pointwise_filter)
    y = _plus(z, t.bias)
    if t.residual is not None:
        residual = to_nhwc(t.residual, attributes)
        y += residual if in_xla() else guard.same_shape(residual, y)
    y = activate(y, attributes.activation, t.slopes)
    y = tf.cast(from_nhwc(y, attributes), dtype)
    y.set_shape(output_shape)
    return y


def normalize(z: tf.Tensor, epsilon: float) -> tf.Tensor:
    """Over the last axis, to a mean of 0 and a variance of 1."""
    mean = tf.reduce_mean(z, axis=-1, keepdims=True)
    variance = tf.reduce_mean(tf.math.squared_difference(z, mean), axis=-1, keepdims=True)
    return (z - mean) * tf.math.rsqrt(variance + tf.constant(epsilon, z.dtype))


def _static_shape(tensor: tf.Tensor) -> _shapes.Shape:
    return tensor.shape.as_list() if tensor.shape.rank is not None else _shapes.UNRANKED


def _plus(z: tf.Tensor, bias: Optional[tf.Tensor]) -> tf.Tensor:
    return z if bias is None else z + bias


def widen(t: tf.Tensor) -> tf.Tensor:
    """To the type that sums are kept in: float32, or float64 as it is."""
    return t if t.dtype == tf.float64 else tf.cast(t, tf.float32)


def to_nhwc(t: tf.Tensor, attributes: Attributes) -> tf.Tensor:
    t = ensure_rank4(t)
    return t if attributes.data_format == "NHWC" else tf.transpose(t, [0, 2, 3, 1])


def from_nhwc(t: tf.Tensor, attributes: Attributes) -> tf.Tensor:
    return t if attributes.data_format == "NHWC" else tf.transpose(t, [0, 3, 1, 2])
