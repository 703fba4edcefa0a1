"""Puts a program into a GraphDef in the place of each large part that one can compute."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tf_dwsconv._keras_graph import Graph
from tf_dwsconv.convert.graphs import _rewrite
from tf_dwsconv.convert.graphs._nodes import Nodes, node_of
from tf_dwsconv.convert.graphs._reader import Reader, node_names
from tf_dwsconv.convert.graphs._rows import Rows
from tf_dwsconv.convert.network import _emit, _parts

# A layer's share of the way between two nodes: a node of the graph may be many layers of the view.
_STEP = 1 / 1024


def join(nodes: Nodes, rows: Rows) -> None:
    """Makes programs of a graph's blocks and of what is between them.

    Args:
        nodes: the graph, with its blocks fused; is changed.
        rows: of the report; learn into which program each convolution goes.
    """
    reader = Reader(nodes, ours=True)
    if reader.model is None:
        return
    graph, translator = Graph(reader.model), _parts.Translator()
    moved: dict[str, str] = {}  # tensors that results of programs have replaced
    for part in _parts.find(graph, translator, _order(graph, reader), _Beyond(graph, reader)):
        inputs, outs = ([reader.ref(t) for t in tensors] for tensors in (part.inputs, part.outs))
        if None in inputs or None in outs:
            continue  # it begins or ends inside a node
        reads = [moved.get(ref, ref) for ref in inputs if ref is not None]
        results = [ref for ref in outs if ref is not None]
        # What would wait for itself, whatever the search has thought of.
        if any(node_of(ref) in _before(nodes, reads) for ref in results):
            continue
        name = node_of(results[-1])
        network, values = _emit.network(graph, part, translator, name=part.outs[-1]._keras_history.operation.name)
        specs = [tf.TensorSpec(t.shape, t.dtype) for t in part.inputs]
        moved.update(_rewrite.place(nodes, _traced(network, values, specs), reads, results))
        names = {node_names(node.operation.name) for node in part.nodes}
        results_inside = [
            reader.ref(t) for node in part.nodes for t in node.outputs
        ]  # of a layer of several nodes, too
        rows.in_network(names | {node_of(ref) for ref in results_inside if ref is not None}, name)


def _order(graph: Graph, reader: Reader) -> list:
    """The calls of a view in the order of the graph, where paths lead through nodes that the view has no layers for."""
    places = {node.name: place for place, node in enumerate(reader.nodes.sorted())}
    found: dict[int, float] = {}
    for node in reversed(graph.nodes):
        refs = [ref for t in node.outputs if (ref := reader.ref(t)) is not None]
        readers = [found[id(call)] for t in node.outputs for call in graph.readers(t)]
        # What is between two nodes comes right before the first that reads it, and behind any other node.
        found[id(node)] = min((float(places[node_of(ref)]) for ref in refs), default=min(readers, default=0.0) - _STEP)
    return sorted(graph.nodes, key=lambda node: found[id(node)])


class _Beyond:
    """The calls of a view that lead to one of its inputs, through nodes that it has no layers for."""

    def __init__(self, graph: Graph, reader: Reader):
        self._nodes, self._reader = reader.nodes, reader
        self._calls = {node_of(ref): c for c in graph.nodes for t in c.outputs if (ref := reader.ref(t)) is not None}
        self._known: dict[str, list] = {}

    def __call__(self, tensor: Any) -> list:
        ref = self._reader.ref(tensor)
        if ref is None:
            return []
        if ref not in self._known:
            self._known[ref] = [self._calls[name] for name in _before(self._nodes, [ref]) if name in self._calls]
        return self._known[ref]


def _traced(network: Any, values: Any, specs: list) -> Any:
    """The graph of a network, with its weights as a constant."""
    network([keras.Input(batch_shape=spec.shape.as_list(), dtype=spec.dtype.name) for spec in specs])

    def call(*tensors: Any) -> Any:
        with keras.StatelessScope(state_mapping=[(network.values, tf.constant(values, network.values.dtype))]):
            return network(list(tensors))

    return _rewrite.trace(call, specs)


def _before(nodes: Nodes, refs: list[str]) -> set[str]:
    """The nodes that some tensors come from, at any distance."""
    todo, seen = [node_of(ref) for ref in refs], set()
    while todo:
        name = todo.pop()
        if name not in seen:
            seen.add(name)
            todo += [node_of(ref) for ref in nodes.by_name[name].input]
    return seen
