"""Ops of this package in a graph, as the Keras layers that call them."""

from __future__ import annotations

from typing import Any, Optional

import numpy as np

from tf_dwsconv._arguments import Attributes
from tf_dwsconv._tf import signatures
from tf_dwsconv._tf.library import NETWORK_OP_NAME
from tf_dwsconv.activations import spelled
from tf_dwsconv.convert._copy import assign
from tf_dwsconv.convert.graphs._nodes import Nodes
from tf_dwsconv.layers import FusedConvBlock, FusedNetwork

_BLOCKS = {"TfDwsconv>DepthwiseSepConv2D": signatures.read_layer, "TfDwsconv>ConvBlock": signatures.read_block}
OPS = (*_BLOCKS, NETWORK_OP_NAME)
_FILTERS = ("expand_filter", "depthwise_filter", "pointwise_filter")
_VECTORS = ("expand_bias", "depthwise_bias", "bias", "expand_slopes", "depthwise_slopes", "slopes")


class Ours:
    """An op of this package and its weights, which are constants.

    Args:
        nodes: the graph.
        op: of it, as TensorFlow has it.
        name: of the layer; None for one of Keras' own.

    Attributes:
        layer: calls such an op; has no weights before it is called.
        tensors: what goes into the layer.

    Raises:
        ValueError: a weight is no constant.
    """

    def __init__(self, nodes: Nodes, op: Any, name: Optional[str] = None):
        self._values: dict[str, Optional[np.ndarray]] = {}
        dtype = op.outputs[0].dtype.name
        self.layer: Any
        if op.type == NETWORK_OP_NAME:
            *self.tensors, weights = op.inputs
            self._values["values"] = _value(nodes, op, weights.name)
            self.layer = FusedNetwork(op.get_attr("program").decode(), name=name, dtype=dtype)
            return
        call = _BLOCKS[op.type](op, [tensor.name for tensor in op.inputs])
        found = {key: _value(nodes, op, call.tensor(key)) for key in (*_FILTERS, *_VECTORS)}
        places = ["input", *(key for key in ("gate", "residual") if key in call.places)]
        self.tensors = [op.inputs[call.places[key]] for key in places]
        self.layer = _block(call.attributes, found, places, name, dtype)
        self._values = {key.replace("filter", "kernel"): value for key, value in found.items()}

    @property
    def program_values(self) -> Optional[np.ndarray]:
        """The flat weights of a program."""
        return self._values.get("values")

    def __call__(self, tensors: list) -> list:
        """Calls the layer, which then has the weights; returns its results."""
        result = self.layer(tensors if len(tensors) > 1 else tensors[0])
        for key, value in self._values.items():
            if value is not None:
                assign(getattr(self.layer, key), value)
        return list(result) if isinstance(result, (list, tuple)) else [result]


def _value(nodes: Nodes, op: Any, ref: Optional[str]) -> Optional[np.ndarray]:
    value = None if ref is None else nodes.value(ref)
    if ref is not None and value is None:
        raise ValueError(f"{op.name!r} ({op.type}) reads {ref!r}, which is no constant: stock layers have weights.")
    return value


def _block(attributes: Attributes, values: dict, names: list, name: Optional[str], dtype: str) -> FusedConvBlock:
    """The layer that calls a block's op with such attributes and filters."""
    depthwise, pointwise, expand = (values[f"{stage}_filter"] for stage in ("depthwise", "pointwise", "expand"))
    padding: Any = attributes.padding.lower()
    if padding == "explicit":
        padding = tuple(attributes.pads(axis) for axis in attributes.spatial_axes)
    is_dense = pointwise is not None and depthwise is None and expand is None
    has_window = is_dense and (pointwise.shape[:2] != (1, 1) or attributes.strides != (1, 1))
    options: dict = {}
    if depthwise is not None or has_window:
        options = {"strides": attributes.strides, "dilation_rate": attributes.dilations, "padding": padding}
    if depthwise is not None:
        options.update(kernel_size=depthwise.shape[:2], depth_multiplier=depthwise.shape[3])
    elif has_window:
        options["dense_kernel_size"] = pointwise.shape[:2]
    return FusedConvBlock(
        filters=None if pointwise is None else pointwise.shape[3],
        data_format="channels_last" if attributes.data_format == "NHWC" else "channels_first",
        activation=spelled(attributes.activation),
        use_bias=values["bias"] is not None,
        expand_filters=None if expand is None else expand.shape[3],
        expand_use_bias=values["expand_bias"] is not None,
        expand_activation=spelled(attributes.expand_activation),
        depthwise_use_bias=values["depthwise_bias"] is not None,
        depthwise_activation=spelled(attributes.depthwise_activation),
        epsilon=attributes.epsilon,
        gated="gate" in names,
        residual="residual" in names,
        name=name,
        dtype=dtype,
        **options,
    )
