"""The functional op."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import tensorflow as tf

from tf_dwsconv._arguments import Tensors, attributes_of
from tf_dwsconv._tf import dispatch

__all__ = ["depthwise_sep_conv2d"]

_Function = TypeVar("_Function", bound=Callable[..., Any])


def _not_converted(function: _Function) -> _Function:
    """Keeps AutoGraph out of a function; type checkers go on seeing its signature."""
    return tf.autograph.experimental.do_not_convert(function)


@_not_converted
def depthwise_sep_conv2d(
    x: Any,
    depthwise_filter: Any,
    pointwise_filter: Any,
    *,
    bias: Any = None,
    depthwise_bias: Any = None,
    strides: int | Sequence[int] = 1,
    padding: str | Sequence[Any] = "SAME",
    dilations: int | Sequence[int] = 1,
    data_format: str = "NHWC",
    depthwise_activation: Any = None,
    activation: Any = None,
    residual: Any = None,
    name: str | None = None,
) -> Any:
    """A depthwise-separable convolution in one fused kernel.

    Computes `activation(pointwise(depthwise_activation(depthwise(x) + depthwise_bias)) + bias + residual)` without
    writing the depthwise result to memory. Sums are kept in float32 and 16-bit results are rounded at the end (and
    bfloat16 once more between the halves, on CPUs that multiply it).

    Args:
        x: the input, `[N, H, W, C]`, or `[N, C, H, W]` with `data_format="NCHW"`. float32, bfloat16 or float16 for the
            fused kernel; float64 is computed by stock TensorFlow ops.
        depthwise_filter: `[R, S, C, M]`, of `x`'s dtype as all tensors are.
        pointwise_filter: `[1, 1, C*M, K]`.
        bias: `[K]`, or None.
        depthwise_bias: `[C*M]`, or None.
        strides: an integer, or a pair (height, width).
        padding: `"SAME"`, `"VALID"`, or four pairs [before, after], one for each axis in the order of `data_format`,
            with [0, 0] on the batch and channel axes.
        dilations: an integer, or a pair (height, width); may be combined with strides.
        data_format: `"NHWC"` or `"NCHW"`.
        depthwise_activation: applied between the halves: None, one of the words relu, relu6, hard_swish, silu, gelu,
            gelu_tanh, leaky_relu, elu, mish, sigmoid, tanh, a pair `("leaky_relu", slope)`, `("elu", alpha)` or
            `("relu", {"negative_slope": ..., "max_value": ..., "threshold": ...})`, or a Keras or TensorFlow function
            or layer that computes one of them.
        activation: applied at the end; as `depthwise_activation`.
        residual: added before `activation`; of the output's shape, or None.
        name: of the op, optional.

    Returns:
        `[N, Ho, Wo, K]`, or `[N, K, Ho, Wo]`, of `x`'s dtype. Ho is ceil(H / stride) with "SAME", and
        floor((H + pads - (R - 1) * dilation - 1) / stride) + 1 otherwise. Symbolic Keras tensors give another one.

    Raises:
        TypeError: an argument of a wrong kind or dtype.
        ValueError: an attribute out of range; shapes that do not fit, where they are found in Python.
        tf.errors.InvalidArgumentError: shapes that do not fit, where the op finds them.

    Source: the factorisation is that of Sifre, "Rigid-motion scattering for image classification" (2014) and Chollet,
    "Xception" (2017), as in `tf.nn.separable_conv2d`.

    Example:

    >>> import tensorflow as tf
    >>> import tf_dwsconv
    >>> x = tf.ones([1, 4, 4, 2])
    >>> y = tf_dwsconv.depthwise_sep_conv2d(
    ...     x, tf.ones([3, 3, 2, 1]), tf.ones([1, 1, 2, 5]), bias=tf.zeros([5]), strides=2, activation="relu6")
    >>> y.shape
    TensorShape([1, 2, 2, 5])
    >>> float(y[0, 0, 0, 0])
    6.0
    """
    attributes = attributes_of(strides, padding, dilations, data_format, depthwise_activation, activation)
    tensors = Tensors(
        depthwise_filter=depthwise_filter,
        depthwise_bias=depthwise_bias,
        pointwise_filter=pointwise_filter,
        bias=bias,
        residual=residual,
    )
    if _any_keras_tensor(x, tensors):
        from tf_dwsconv._tf import symbolic

        return symbolic.call(x, tensors, attributes, name)
    return dispatch.call(x, tensors, attributes, name)


def _any_keras_tensor(x: Any, tensors: Tensors) -> bool:
    if isinstance(x, tf.Tensor) and tensors.residual is None:
        return False  # symbolic weights alone are no use case worth a look at each eager call
    keras = sys.modules.get("keras")
    return keras is not None and any(isinstance(tensor, keras.KerasTensor) for tensor in (x, *tensors))
