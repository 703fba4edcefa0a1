"""The fallback: the same call by TensorFlow's own ops.

It runs where the fused kernels cannot: inside XLA, in float64, without the op library. 16-bit floats are computed in
float32 and rounded once, at the end, as the fused kernels do. The convolutions are in `convolutions`.
"""

from __future__ import annotations

import math
from typing import Callable, Optional

import tensorflow as tf
from tensorflow.python.framework import ops as framework_ops
from tensorflow.python.ops import control_flow_util

from tf_dwsconv import _shapes
from tf_dwsconv._arguments import Attributes, Tensors
from tf_dwsconv._tf import convolutions, guard
from tf_dwsconv._tf.convolutions import ensure_rank4
from tf_dwsconv.activations import Fused


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
        mean = tf.reduce_mean(z, axis=-1, keepdims=True)
        variance = tf.reduce_mean(tf.math.squared_difference(z, mean), axis=-1, keepdims=True)
        z = (z - mean) * tf.math.rsqrt(variance + tf.constant(attributes.epsilon, z.dtype))
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


def activate(x: tf.Tensor, activation: Fused, slopes: Optional[tf.Tensor] = None) -> tf.Tensor:
    """Applies an activation of the fused kernels; `slopes` are prelu's, one for each channel of NHWC."""
    word = activation.word
    if word == "none":
        return x
    if word == "prelu":
        return tf.where(x < 0, x * slopes, x)
    if word == "elu":
        alpha = tf.constant(activation.alpha, x.dtype)
        return tf.where(x > 0, x, alpha * tf.math.expm1(tf.where(x > 0, tf.zeros_like(x), x)))
    if word in ("relu", "leaky_relu") and (activation.max_value != math.inf or activation.threshold != 0):
        return _bounded_relu(x, activation)
    if word == "leaky_relu" and x.dtype == tf.float64:
        return tf.where(x > 0, x, x * activation.alpha)  # TensorFlow's op keeps the slope in float32
    if word == "leaky_relu":
        return tf.nn.leaky_relu(x, alpha=activation.alpha)
    return _FUNCTIONS[word](x)


def _bounded_relu(x: tf.Tensor, activation: Fused) -> tf.Tensor:
    max_value, threshold = (tf.constant(n, x.dtype) for n in (activation.max_value, activation.threshold))
    slope = activation.alpha if activation.word == "leaky_relu" else 0.0
    # Zero without a slope, but a NaN stays one.
    below = (x - threshold) * tf.constant(slope, x.dtype) if slope else tf.nn.relu(tf.minimum(x, 0.0))
    return tf.where(x > threshold, tf.where(x > max_value, max_value, x), below)


def _gelu_tanh(x: tf.Tensor) -> tf.Tensor:
    # 0.5 * x * (1 + tanh(u)) without cancellation.
    return x * tf.sigmoid(2.0 * math.sqrt(2.0 / math.pi) * (x + 0.044715 * x * x * x))


_FUNCTIONS = {
    "relu": tf.nn.relu,
    "relu6": tf.nn.relu6,
    "hard_swish": lambda x: x * tf.nn.relu6(x + 3.0) / 6.0,
    # Not tf.nn.silu: its custom gradient holds no second derivative in graphs of TensorFlow 1.
    "silu": lambda x: x * tf.sigmoid(x),
    # Not tf.nn.gelu, which takes the root of two from float32 also in float64.
    "gelu": lambda x: 0.5 * x * (1.0 + tf.math.erf(x * tf.constant(math.sqrt(0.5), x.dtype))),
    "sigmoid": tf.sigmoid,
    "tanh": tf.tanh,
    "mish": lambda x: x * tf.tanh(tf.math.softplus(x)),
    "gelu_tanh": _gelu_tanh,
}
