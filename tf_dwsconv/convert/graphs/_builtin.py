"""The way back for SavedModels: stock ops in the place of ours, for what cannot load an op library."""

from __future__ import annotations

from typing import Any, Optional

import keras
import numpy as np
import tensorflow as tf

from tf_dwsconv._arguments import Attributes
from tf_dwsconv._keras_graph import Graph
from tf_dwsconv._tf import signatures
from tf_dwsconv.activations import spelled
from tf_dwsconv.convert._builtin import Unfuser
from tf_dwsconv.convert._copy import assign
from tf_dwsconv.convert._rebuild import Rebuilder
from tf_dwsconv.convert._report import Report
from tf_dwsconv.convert.graphs import _freeze, _rewrite
from tf_dwsconv.convert.graphs._nodes import Nodes
from tf_dwsconv.convert.graphs._source import Signature
from tf_dwsconv.layers import FusedConvBlock

_READ = {"TfDwsconv>DepthwiseSepConv2D": signatures.read_layer, "TfDwsconv>ConvBlock": signatures.read_block}
_FILTERS = ("expand_filter", "depthwise_filter", "pointwise_filter")
_VECTORS = ("expand_bias", "depthwise_bias", "bias", "expand_slopes", "depthwise_slopes", "slopes")


def unfuse(signature: Signature) -> int:
    """Puts stock ops in the place of ours, in the graph of a signature.

    Returns:
        How many of ours there were.

    Raises:
        ValueError: one of ours is where it cannot be replaced.
    """
    nodes = signature.nodes
    with tf.Graph().as_default() as graph:
        tf.import_graph_def(nodes.graph_def, name="")
    ours = [op for op in graph.get_operations() if op.type in _READ]
    for op in ours:
        _unfuse(nodes, op)
    _freeze.plain(nodes)
    _check_nothing_remains(nodes)
    return len(ours)


def _check_nothing_remains(nodes: Nodes) -> None:
    graph_def = nodes.graph_def
    inside = [(node, f"the function {f.signature.name!r}") for f in graph_def.library.function for node in f.node_def]
    for node, where in [*((node, "the graph") for node in graph_def.node), *inside]:
        if node.op.startswith("TfDwsconv>"):
            raise ValueError(f"{where} holds {node.name!r} ({node.op}), which stock ops cannot replace there.")


def _unfuse(nodes: Nodes, op: Any) -> None:
    call = _READ[op.type](op, [tensor.name for tensor in op.inputs])
    values = {name: _value(nodes, op, call.tensor(name)) for name in (*_FILTERS, *_VECTORS)}
    names = ["input", *(name for name in ("gate", "residual") if name in call.places)]
    tensors = [op.inputs[call.places[name]] for name in names]
    inputs = [keras.Input(batch_shape=t.shape.as_list(), dtype=t.dtype.name) for t in tensors]
    layer = _layer(call.attributes, values, names, tensors[0].dtype.name)
    block = keras.Model(inputs, layer(inputs if len(inputs) > 1 else inputs[0]))
    for name in _FILTERS:
        if values[name] is not None:
            assign(getattr(layer, name.replace("filter", "kernel")), values[name])
    for name in _VECTORS:
        if values[name] is not None:
            assign(getattr(layer, name), values[name])
    unfuser = Unfuser({layer.name})
    stock = Rebuilder(lambda part: unfuser.plan(Graph(part)), Report()).model(block)
    weights = [(v, v.numpy()) for v in stock.variables]

    def function(*given: Any) -> Any:
        with keras.StatelessScope(state_mapping=[(v, tf.constant(value)) for v, value in weights]):
            return stock(list(given) if len(given) > 1 else given[0], training=False)

    graph = _rewrite.trace(function, [tf.TensorSpec(t.shape, t.dtype) for t in tensors])
    _rewrite.place(nodes, graph, [t.name for t in tensors], op.outputs[0].name)


def _value(nodes: Nodes, op: Any, ref: Optional[str]) -> Optional[np.ndarray]:
    value = None if ref is None else nodes.value(ref)
    if ref is not None and value is None:
        raise ValueError(f"{op.name!r} ({op.type}) reads {ref!r}, which is no constant: stock layers have weights.")
    return value


def _layer(attributes: Attributes, values: dict, names: list, dtype: str) -> FusedConvBlock:
    """The layer that calls our op with such attributes and filters."""
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
        dtype=dtype,
        **options,
    )
