"""The functional op."""

from __future__ import annotations

import sys
from typing import Any, Callable, Optional

import tensorflow as tf
from tensorflow.python.framework import ops as framework_ops

from tf_dwsconv import _library, gradients, stock
from tf_dwsconv._arguments import Attributes, normalise
from tf_dwsconv.activations import op_arguments, require

gradients.register()

_FUSED_DTYPES = frozenset((tf.float32, tf.bfloat16, tf.float16))
_DTYPES = _FUSED_DTYPES | {tf.float64}


@tf.autograph.experimental.do_not_convert
def depthwise_sep_conv2d(
    x,
    depthwise_filter,
    pointwise_filter,
    *,
    bias=None,
    depthwise_bias=None,
    strides=1,
    padding="SAME",
    dilations=1,
    data_format="NHWC",
    depthwise_activation=None,
    activation=None,
    residual=None,
    name=None,
):
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
    tensors = (x, depthwise_filter, pointwise_filter, depthwise_bias, bias, residual)
    if _any_keras_tensor(tensors):
        from tf_dwsconv import symbolic

        return symbolic.call(tensors, attributes, name)
    x = convert(x, "x", None)
    if x.dtype not in _DTYPES:
        raise TypeError(f"`x` must be of dtype float32, bfloat16, float16 or float64; given {x.dtype.name}.")
    return run(
        x,
        convert(depthwise_filter, "depthwise_filter", x.dtype),
        convert(pointwise_filter, "pointwise_filter", x.dtype),
        None if depthwise_bias is None else convert(depthwise_bias, "depthwise_bias", x.dtype),
        None if bias is None else convert(bias, "bias", x.dtype),
        None if residual is None else convert(residual, "residual", x.dtype),
        attributes,
        name,
    )


def attributes_of(strides, padding, dilations, data_format, depthwise_activation, activation) -> Attributes:
    """The attributes of a call from a user's arguments; raises TypeError or ValueError."""
    middle, last = require(depthwise_activation, "depthwise_activation"), require(activation, "activation")
    return normalise(strides, padding, dilations, data_format, middle, last)


def run(
    x: tf.Tensor,
    depthwise_filter: tf.Tensor,
    pointwise_filter: tf.Tensor,
    depthwise_bias: Optional[tf.Tensor],
    bias: Optional[tf.Tensor],
    residual: Optional[tf.Tensor],
    attributes: Attributes,
    name: Optional[str] = None,
) -> tf.Tensor:
    """As `depthwise_sep_conv2d`, with tensors or variables of one dtype and attributes that are checked already.

    The layer calls this, so nothing here is paid for twice. Shapes are checked by the op, or by the stock path.
    """
    op = fused_op(x.dtype)
    if op is None:
        return run_stock(x, depthwise_filter, pointwise_filter, depthwise_bias, bias, residual, attributes, name)
    middle, last = attributes.depthwise_activation, attributes.activation
    return op(
        input=x,
        depthwise_filter=depthwise_filter,
        pointwise_filter=pointwise_filter,
        depthwise_bias=() if depthwise_bias is None else (depthwise_bias,),
        bias=() if bias is None else (bias,),
        residual=() if residual is None else (residual,),
        strides=attributes.strides,
        dilations=attributes.dilations,
        padding=attributes.padding,
        explicit_paddings=attributes.explicit_paddings,
        data_format=attributes.data_format,
        **op_arguments("depthwise_", middle),
        **op_arguments("", last),
        # Only variables of TensorFlow 1's graphs are written into while others hold their buffers.
        stable_filters=framework_ops.executing_eagerly_outside_functions(),
        name=name,
    )


def run_stock(
    x: tf.Tensor,
    depthwise_filter: tf.Tensor,
    pointwise_filter: tf.Tensor,
    depthwise_bias: Optional[tf.Tensor],
    bias: Optional[tf.Tensor],
    residual: Optional[tf.Tensor],
    attributes: Attributes,
    name: Optional[str] = None,
    depthwise_function: Optional[Callable[[tf.Tensor], tf.Tensor]] = None,
) -> tf.Tensor:
    """As `run`, by stock TensorFlow ops; `depthwise_function`, if given, is the activation between the halves."""
    with tf.name_scope(name or "depthwise_sep_conv2d"):
        tensors = (x, depthwise_filter, pointwise_filter, depthwise_bias, bias, residual)
        tensors = (None if tensor is None else tf.convert_to_tensor(tensor) for tensor in tensors)
        return stock.depthwise_sep_conv2d(*tensors, attributes, depthwise_function)


def fused_op(dtype: tf.DType):
    """The op's wrapper, or None where stock ops have to compute; warns once of each reason that nobody chose."""
    if dtype not in _FUSED_DTYPES:
        return None
    op = _library.op()
    if op is not None and stock.in_xla():
        _library.warn_once(
            "xla",
            "tf_dwsconv computes with stock TensorFlow ops inside XLA (jit_compile=True), which cannot call the fused "
            "kernel; leave jit_compile at 'auto' or False to run it.",
        )
        return None
    return op


def _any_keras_tensor(tensors: tuple) -> bool:
    if isinstance(tensors[0], tf.Tensor) and tensors[5] is None:
        return False  # symbolic weights alone are no use case worth a look at each eager call
    keras = sys.modules.get("keras")
    return keras is not None and any(isinstance(tensor, keras.KerasTensor) for tensor in tensors)


def convert(value: Any, argument: str, dtype: Optional[tf.DType]) -> tf.Tensor:
    """To a dense tensor of `dtype`; values that are no tensors yet may be cast to it, as TensorFlow's own ops do."""
    if not isinstance(value, tf.Tensor):
        if value is None or isinstance(value, (tf.SparseTensor, tf.RaggedTensor, tf.IndexedSlices)):
            raise TypeError(f"`{argument}` must be a dense tensor; given {_kind(value)}.")
        try:
            value = tf.convert_to_tensor(value, dtype=None if hasattr(value, "handle") else dtype)
        except (TypeError, ValueError, tf.errors.OpError) as error:
            raise TypeError(f"`{argument}` must convert to a dense tensor of floats; given {_kind(value)}.") from error
    if dtype is not None and value.dtype is not dtype and value.dtype != dtype:
        raise TypeError(f"`{argument}` must be of the dtype of `x`, {dtype.name}; given {value.dtype.name}.")
    return value


def _kind(value: Any) -> str:
    return "None" if value is None else f"{type(value).__name__} {value!r:.80}"
