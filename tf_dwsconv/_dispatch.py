"""From checked attributes and a user's tensors to the fused op or to stock ops.

The functional op, its symbolic form, the block and the gradients all call this, and it imports none of them.
"""

from __future__ import annotations

from typing import Any, Callable, Optional

import tensorflow as tf
from tensorflow.python.framework import ops as framework_ops

from tf_dwsconv import _library, _onnx, stock
from tf_dwsconv._arguments import Attributes, normalise
from tf_dwsconv.activations import op_arguments, require

_FUSED_DTYPES = frozenset((tf.float32, tf.bfloat16, tf.float16))
_DTYPES = _FUSED_DTYPES | {tf.float64}


def attributes_of(strides, padding, dilations, data_format, depthwise_activation, activation) -> Attributes:
    """The attributes of a call from a user's arguments; raises TypeError or ValueError."""
    middle, last = require(depthwise_activation, "depthwise_activation"), require(activation, "activation")
    return normalise(strides, padding, dilations, data_format, middle, last)


@tf.autograph.experimental.do_not_convert
def call(tensors: tuple, attributes: Attributes, name: Optional[str] = None) -> tf.Tensor:
    """As `depthwise_sep_conv2d`, with attributes that are checked already.

    Args:
        tensors: what a user passed for `stock.ARGUMENTS`, in that order; the last three may be None.
        attributes: of the op.
        name: of the op, optional.

    Raises:
        TypeError: a tensor of a wrong kind or dtype.
    """
    x = convert(tensors[0], "x", None)
    if x.dtype not in _DTYPES:
        raise TypeError(f"`x` must be of dtype float32, bfloat16, float16 or float64; given {x.dtype.name}.")
    depthwise_filter, pointwise_filter, depthwise_bias, bias, residual = tensors[1:]
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
        **op_arguments("depthwise_", attributes.depthwise_activation),
        **op_arguments("", attributes.activation),
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
    if op is not None and not tf.executing_eagerly():
        _onnx.refuse()
    return op


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
