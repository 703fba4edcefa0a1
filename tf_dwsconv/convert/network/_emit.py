"""A `FusedNetwork` for each part of a graph, as the rebuilding takes it."""

from __future__ import annotations

from typing import Any, Optional

import keras

from tf_dwsconv._keras_graph import Graph, is_graph
from tf_dwsconv.convert._block import Assembly, Step
from tf_dwsconv.convert._copy import assign
from tf_dwsconv.convert._rebuild import Plan
from tf_dwsconv.convert._report import Report
from tf_dwsconv.convert.network import _parts
from tf_dwsconv.convert.network._builder import Builder
from tf_dwsconv.convert.network._parts import Part, Translator
from tf_dwsconv.convert.network._tidy import tidy
from tf_dwsconv.layers import FusedNetwork


def plan(graph: Graph, translator: Translator, report: Report) -> Plan:
    """What is to become of a graph's calls; the report learns into which networks its blocks go."""
    found: Plan = {}
    names = _Names(graph)
    for part in _parts.find(graph, translator):
        name = names.of_network(part)
        found.update({id(node): None for node in part.nodes})
        found[id(part.nodes[-1])] = _assembly(graph, part, name, names, translator)
        report.in_network([layer for node in part.nodes for layer in _layers(node)], name)
    return found


class _Names:
    """Names of the networks of a graph, and of its results: Keras finds those by the layers that they come from."""

    def __init__(self, graph: Graph):
        self._graph, self._given = graph, set()
        results = [node.operation.name for node in graph.nodes for t in node.outputs if id(t) in graph.outputs]
        # Of a layer that gives several results, which may come from several networks.
        self._shared = {name for name in results if results.count(name) > 1}
        self._ends: dict[str, Any] = {}

    def of_network(self, part: Part) -> str:
        """That of the last layer, if the network can stand for it; of several results each keeps its own."""
        graph, inside = self._graph, {id(node) for node in part.nodes}
        others = {node.operation.name for node in graph.nodes if id(node) not in inside} | self._given | self._shared
        name = ""
        if len(part.outs) == 1:
            producer = graph.producer(part.outs[0])
            is_named = id(part.outs[0]) in graph.outputs or isinstance(producer.operation, keras.Layer)
            name = producer.operation.name if is_named else graph.name(part.nodes)
        if not name or name in others:
            name, number = "network", 1
            taken = others | {graph.producer(t).operation.name for t in part.outs}
            while name in taken:
                number += 1
                name = f"network_{number}"
        self._given.add(name)
        return name

    def end(self, result: Any, network: Any) -> Optional[Any]:
        """A layer that has the name of a result behind a network of another name; None where none is needed."""
        if id(result) not in self._graph.outputs:
            return None
        name = self._graph.producer(result).operation.name
        if name == network.name:
            return None
        if name not in self._ends:
            self._ends[name] = keras.layers.Identity(name=name, dtype=network.compute_dtype)
            self._given.add(name)
        return self._ends[name]


def network(graph: Graph, part: Part, translator: Translator, name: str) -> tuple[FusedNetwork, Any]:
    """The layer of a part, and its weights, which it gets once it is called."""
    builder = Builder()
    tensors = {id(t): builder.input(t.name, t.shape) for t in part.inputs}
    for node in part.nodes:
        if not translator.add(builder, node, tensors):
            raise AssertionError(f"{node.operation.name!r} was to be a step of a program")
    outputs = [(graph.producer(t).operation.name, tensors[id(t)]) for t in part.outs]
    tidy(builder, [tensor for _, tensor in outputs])
    program, values = builder.finish(part.dtype, outputs)
    layers = [layer for node in part.nodes for layer in _layers(node)]
    with_weights = [layer for layer in layers if layer.weights] or layers
    policy = with_weights[0].dtype_policy if with_weights else part.dtype
    made = FusedNetwork(program, name=name, dtype=policy, trainable=all(layer.trainable for layer in with_weights))
    return made, values


def _assembly(graph: Graph, part: Part, name: str, names: _Names, translator: Translator) -> Assembly:
    made, values = network(graph, part, translator, name)
    step = Step(made, lambda: assign(made.values, values))
    ends = [names.end(result, made) for result in part.outs]

    def call(inputs: list) -> list:
        results = keras.tree.flatten(made(inputs if len(inputs) > 1 else inputs[0]))
        return [y if end is None else end(y) for y, end in zip(results, ends)]

    return Assembly(part.inputs, part.outs, call, [step, *(Step(end) for end in ends if end is not None)])


def _layers(node: Any) -> list:
    operation = node.operation
    if is_graph(operation):
        return [layer for layer in operation._flatten_layers(include_self=False) if not is_graph(layer)]
    return [operation] if isinstance(operation, keras.Layer) else []
