"""The way back for SavedModels: stock ops in the place of ours, for what cannot load an op library."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tf_dwsconv._keras_graph import Graph
from tf_dwsconv.convert._builtin import Unfuser
from tf_dwsconv.convert._rebuild import Rebuilder
from tf_dwsconv.convert._report import Report
from tf_dwsconv.convert.graphs import _freeze, _rewrite
from tf_dwsconv.convert.graphs._nodes import Nodes
from tf_dwsconv.convert.graphs._ours import OPS, Ours
from tf_dwsconv.convert.graphs._source import Signature
from tf_dwsconv.convert.network import _layers
from tf_dwsconv.layers import FusedNetwork


def unfuse(signature: Signature) -> int:
    """Puts stock ops in the place of ours, in the graph of a signature.

    Returns:
        How many of ours there were.

    Raises:
        ValueError: one of ours is where it cannot be replaced.
    """
    nodes = signature.nodes
    ours = [op for op in nodes.operations() if op.type in OPS]
    moved: dict[str, str] = {}  # results of ours that stock ops have replaced
    for op in ours:
        moved.update(_unfuse(nodes, op, moved))
    _freeze.plain(nodes)
    _check_nothing_remains(nodes)
    return len(ours)


def _check_nothing_remains(nodes: Nodes) -> None:
    graph_def = nodes.graph_def
    inside = [(node, f"the function {f.signature.name!r}") for f in graph_def.library.function for node in f.node_def]
    for node, where in [*((node, "the graph") for node in graph_def.node), *inside]:
        if node.op.startswith("TfDwsconv>"):
            raise ValueError(f"{where} holds {node.name!r} ({node.op}), which stock ops cannot replace there.")


def _unfuse(nodes: Nodes, op: Any, moved: dict[str, str]) -> dict[str, str]:
    """Returns under which name each result is found now, of those that do not keep theirs."""
    ours = Ours(nodes, op)
    inputs = [keras.Input(batch_shape=t.shape.as_list(), dtype=t.dtype.name) for t in ours.tensors]
    stock = _stock(keras.Model(inputs, ours(inputs)))
    weights = [(v, v.numpy()) for v in stock.variables]

    def function(*given: Any) -> Any:
        with keras.StatelessScope(state_mapping=[(v, tf.constant(value)) for v, value in weights]):
            return stock(list(given), training=False)

    graph = _rewrite.trace(function, [tf.TensorSpec(t.shape, t.dtype) for t in ours.tensors])
    reads = [moved.get(t.name, t.name) for t in ours.tensors]
    return _rewrite.place(nodes, graph, reads, [t.name for t in op.outputs])


def _stock(model: Any) -> Any:
    """A model of one of our layers, of stock layers."""
    names = {layer.name for layer in model.layers}
    if any(isinstance(layer, FusedNetwork) for layer in model.layers):
        steps = _layers.Unfuser(names)
        model = Rebuilder(lambda part: steps.plan(Graph(part), False), Report()).model(model)
    unfuser = Unfuser({layer.name for layer in model.layers})
    return Rebuilder(lambda part: unfuser.plan(Graph(part)), Report()).model(model)
