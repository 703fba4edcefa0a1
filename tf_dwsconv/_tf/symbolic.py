"""The functional op on Keras' symbolic tensors, so that Functional models can be built with it."""

from __future__ import annotations

from typing import Any, Optional

import keras
import tensorflow as tf

from tf_dwsconv import _shapes
from tf_dwsconv._arguments import Attributes, Tensors, attributes_of
from tf_dwsconv._tf import dispatch
from tf_dwsconv._tf.signatures import LAYER_INPUTS
from tf_dwsconv.activations import spelled

_OPTIONS = ("strides", "padding", "dilations", "data_format", "depthwise_activation", "activation")


@keras.saving.register_keras_serializable(package="tf_dwsconv")
class DepthwiseSepConv2DOp(keras.Operation):
    """`tf_dwsconv.depthwise_sep_conv2d` as a node of a Functional model; its arguments are the same.

    Activations are words, or pairs such as `("leaky_relu", slope)`.
    """

    def __init__(
        self, strides=1, padding="SAME", dilations=1, data_format="NHWC", depthwise_activation=None, activation=None,
        *, name=None,
    ):  # fmt: skip
        super().__init__(name=name)
        given = (strides, padding, dilations, data_format, depthwise_activation, activation)
        self.options = dict(zip(_OPTIONS, given))

    def call(self, x, depthwise_filter, pointwise_filter, depthwise_bias=None, bias=None, residual=None):
        tensors = (depthwise_filter, pointwise_filter, depthwise_bias, bias, residual)
        return dispatch.call(x, Tensors(**dict(zip(LAYER_INPUTS, tensors))), attributes_of(**self.options))

    def compute_output_spec(self, x, depthwise_filter, pointwise_filter, depthwise_bias=None, bias=None, residual=None):
        attributes = attributes_of(**self.options)
        given = (depthwise_filter, pointwise_filter, depthwise_bias, bias, residual)
        dtype = keras.backend.standardize_dtype(x.dtype)
        for name, tensor in zip(LAYER_INPUTS, given):
            if tensor is not None and keras.backend.standardize_dtype(tensor.dtype) != dtype:
                raise TypeError(f"`{name}` must be of the dtype of `x`, {dtype}; given {tensor.dtype}.")
        dispatch.check_dtype(tf.as_dtype(dtype))
        shapes = Tensors(**dict(zip(LAYER_INPUTS, given))).map(lambda tensor: tuple(tensor.shape))
        return keras.KerasTensor(_shapes.check(tuple(x.shape), shapes, attributes), dtype=dtype)


def call(x: Any, tensors: Tensors, attributes: Attributes, name: Optional[str]) -> Any:
    """Adds the op to the graph of symbolic tensors.

    Raises:
        TypeError, ValueError: as the functional op.
    """
    given = {"x": x, **{name: getattr(tensors, name) for name in LAYER_INPUTS}}
    dtype = next(tf.as_dtype(t.dtype) for t in given.values() if isinstance(t, keras.KerasTensor))
    for argument, tensor in given.items():
        is_absent = tensor is None and argument in LAYER_INPUTS[2:]
        if not isinstance(tensor, keras.KerasTensor) and not is_absent:
            given[argument] = dispatch.convert(tensor, argument, dtype)
    padding: Any = attributes.padding
    if padding == "EXPLICIT":
        numbers = attributes.explicit_paddings
        padding = [list(numbers[i : i + 2]) for i in range(0, 8, 2)]
    words = spelled(attributes.depthwise_activation), spelled(attributes.activation)
    options = attributes.strides, padding, attributes.dilations, attributes.data_format, *words
    operation = DepthwiseSepConv2DOp(*options, name=name)
    return operation.symbolic_call(*given.values())
