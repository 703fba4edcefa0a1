"""The functional op on Keras' symbolic tensors, so that Functional models can be built with it."""

from __future__ import annotations

from typing import Any, Optional

import keras
import tensorflow as tf

from tf_dwsconv import _dispatch, _shapes
from tf_dwsconv._arguments import Attributes
from tf_dwsconv.activations import spelled
from tf_dwsconv.stock import ARGUMENTS


@keras.saving.register_keras_serializable(package="tf_dwsconv")
class DepthwiseSepConv2DOp(keras.Operation):
    """`tf_dwsconv.depthwise_sep_conv2d` as a node of a Functional model; its arguments are the same.

    Activations are words, or pairs such as `("leaky_relu", slope)`.
    """

    def __init__(
        self,
        strides=1,
        padding="SAME",
        dilations=1,
        data_format="NHWC",
        depthwise_activation=None,
        activation=None,
        *,
        name=None,
    ):
        super().__init__(name=name)
        self.options = {
            "strides": strides,
            "padding": padding,
            "dilations": dilations,
            "data_format": data_format,
            "depthwise_activation": depthwise_activation,
            "activation": activation,
        }

    def call(self, x, depthwise_filter, pointwise_filter, depthwise_bias=None, bias=None, residual=None):
        tensors = (x, depthwise_filter, pointwise_filter, depthwise_bias, bias, residual)
        return _dispatch.call(tensors, _dispatch.attributes_of(**self.options))

    def compute_output_spec(self, x, depthwise_filter, pointwise_filter, depthwise_bias=None, bias=None, residual=None):
        attributes = _dispatch.attributes_of(**self.options)
        tensors = (x, depthwise_filter, pointwise_filter, depthwise_bias, bias, residual)
        dtype = keras.backend.standardize_dtype(x.dtype)
        for name, tensor in zip(ARGUMENTS, tensors):
            if tensor is not None and keras.backend.standardize_dtype(tensor.dtype) != dtype:
                raise TypeError(f"`{name}` must be of the dtype of `x`, {dtype}; given {tensor.dtype}.")
        if dtype not in ("float32", "bfloat16", "float16", "float64"):
            raise TypeError(f"`x` must be of dtype float32, bfloat16, float16 or float64; given {dtype}.")
        shapes = [_shapes.absent if tensor is None else tuple(tensor.shape) for tensor in tensors]
        return keras.KerasTensor(_shapes.check(_shapes.Operands(*shapes), attributes), dtype=dtype)


def call(tensors: tuple, attributes: Attributes, name: Optional[str]) -> Any:
    """Adds the op to the graph of symbolic tensors.

    Raises:
        TypeError, ValueError: as the functional op.
    """
    dtype = next(tf.as_dtype(t.dtype) for t in tensors if isinstance(t, keras.KerasTensor))
    converted = []
    for i, (argument, tensor) in enumerate(zip(ARGUMENTS, tensors)):
        if not isinstance(tensor, keras.KerasTensor) and not (tensor is None and i >= 3):
            tensor = _dispatch.convert(tensor, argument, dtype)
        converted.append(tensor)
    padding: Any = attributes.padding
    if padding == "EXPLICIT":
        numbers = attributes.explicit_paddings
        padding = [list(numbers[i : i + 2]) for i in range(0, 8, 2)]
    operation = DepthwiseSepConv2DOp(
        attributes.strides,
        padding,
        attributes.dilations,
        attributes.data_format,
        spelled(attributes.depthwise_activation),
        spelled(attributes.activation),
        name=name,
    )
    return operation.symbolic_call(*converted)
