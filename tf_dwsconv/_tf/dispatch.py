"""Where a call is dispatched: to the layer's op, to the block's op, or to stock ops.

`run` takes every call. The layer's op computes those of nothing but a depthwise and a pointwise convolution, and has a
native gradient. The block's op computes all others; its gradient is that of stock ops. Stock ops compute the call
itself in XLA, in float64 and where the library does not load.
"""

from __future__ import annotations

from typing import Any, Callable, Optional

import tensorflow as tf
from tensorflow.python.framework import ops as framework_ops

from tf_dwsconv._arguments import Attributes, Tensors
from tf_dwsconv._tf import library, onnx, signatures, stock

_FUSED_DTYPES = frozenset((tf.float32, tf.bfloat16, tf.float16))
DTYPES = _FUSED_DTYPES | {tf.float64}


@tf.autograph.experimental.do_not_convert
def call(x: Any, tensors: Tensors, attributes: Attributes, name: Optional[str] = None) -> tf.Tensor:
    """As `tf_dwsconv.depthwise_sep_conv2d`, with attributes that are checked already.

    Raises:
        TypeError: a tensor of a wrong kind or dtype.
    """
    x = convert(x, "x", None)
    check_dtype(x.dtype)
    depthwise_bias, bias, residual = tensors.depthwise_bias, tensors.bias, tensors.residual
    converted = Tensors(
        depthwise_filter=convert(tensors.depthwise_filter, "depthwise_filter", x.dtype),
        depthwise_bias=None if depthwise_bias is None else convert(depthwise_bias, "depthwise_bias", x.dtype),
        pointwise_filter=convert(tensors.pointwise_filter, "pointwise_filter", x.dtype),
        bias=None if bias is None else convert(bias, "bias", x.dtype),
        residual=None if residual is None else convert(residual, "residual", x.dtype),
    )
    return run(x, converted, attributes, name)


def run(x: tf.Tensor, tensors: Tensors, attributes: Attributes, name: Optional[str] = None) -> tf.Tensor:
    """Computes a call. The layers call this, so nothing here is paid for twice.

    Args:
        x: `[N, H, W, C]`, or `[N, C, H, W]` with NCHW. float32, bfloat16, float16, or float64, which stock ops compute.
        tensors: of `x`'s dtype, tensors or variables.
        attributes: of the call, checked already.
        name: of the op, optional.

    Returns:
        `[N, Ho, Wo, K]`, or `[N, K, Ho, Wo]`, of `x`'s dtype; C*M channels where there is no pointwise convolution.

    Raises:
        ValueError: stages that do not go together, or shapes that do not fit, where they are found in Python.
        tf.errors.InvalidArgumentError: shapes that do not fit, where the op finds them.

    Source: Chollet, "Xception" (2017); Sandler et al., "MobileNetV2" (2018); Howard et al., "Searching for MobileNetV3"
    (2019) for the gate; Liu et al., "A ConvNet for the 2020s" (2022) for the norm.
    """
    op = fused_op(x.dtype)
    # Only variables of TensorFlow 1's graphs are written into while others hold their buffers.
    stable = framework_ops.executing_eagerly_outside_functions()
    if op is not None and tensors.is_separable(attributes):
        inputs, options = signatures.layer_inputs(tensors), signatures.layer_options(attributes)
        return op(input=x, **inputs, **options, stable_filters=stable, name=name)
    if op is None or (op := library.block_op()) is None:
        return run_stock(x, tensors, attributes, name)
    inputs, options = signatures.block_inputs(tensors, attributes), signatures.block_options(attributes)
    return op(input=x, **inputs, **options, stable_filters=stable, name=name)


def run_stock(
    x: Any,
    tensors: Tensors,
    attributes: Attributes,
    name: Optional[str] = None,
    depthwise_function: Optional[Callable[[tf.Tensor], tf.Tensor]] = None,
) -> tf.Tensor:
    """As `run`, by stock TensorFlow ops; `depthwise_function`, if given, is the activation after the depthwise half."""
    with tf.name_scope(name or ("depthwise_sep_conv2d" if tensors.is_separable(attributes) else "conv_block")):
        tensors = tensors.map(tf.convert_to_tensor)
        return stock.compute(tf.convert_to_tensor(x), tensors, attributes, depthwise_function)


def fused_op(dtype: tf.DType):
    """The layer's op, or None where stock ops have to compute; warns once of a reason that no user chose."""
    if dtype not in _FUSED_DTYPES:
        return None
    op = library.op()
    if op is not None and stock.in_xla():
        library.warn_once(
            "xla",
            "tf_dwsconv computes with stock TensorFlow ops inside XLA (jit_compile=True), which cannot call the fused "
            "kernel; leave jit_compile at 'auto' or False to run it.",
        )
        return None
    if op is not None and not tf.executing_eagerly():
        onnx.refuse()
    return op


def check_dtype(dtype: tf.DType) -> None:
    """Raises TypeError where a call cannot compute in a dtype."""
    if dtype not in DTYPES:
        raise TypeError(f"`x` must be of dtype float32, bfloat16, float16 or float64; given {dtype.name}.")


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
