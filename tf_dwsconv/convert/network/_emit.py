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
    given: set[str] = set()
    for part in _parts.find(graph, translator):
        name = _name(graph, part, given)
        given.add(name)
        found.update({id(node): None for node in part.nodes})
        found[id(part.nodes[-1])] = _assembly(graph, part, name, given, translator)
        report.in_network([layer for node in part.nodes for layer in _layers(node)], name)
    return found


def _name(graph: Graph, part: Part, given: set[str]) -> str:
    """That of the last layer, by which a result of the model is found; of several results each keeps its own.

    given: the names of networks that this graph has already.
    """
    inside = {id(node) for node in part.nodes}
    others = {node.operation.name for node in graph.nodes if id(node) not in inside} | given
    if len(part.outs) == 1:
        producer = graph.producer(part.outs[0])
        is_named = id(part.outs[0]) in graph.outputs or isinstance(producer.operation, keras.Layer)
        name = producer.operation.name if is_named else graph.name(part.nodes)
        if name not in others:
            return name
    name, number = "network", 1
    taken = others | {graph.producer(t).operation.name for t in part.outs}
    while name in taken:
        number += 1
        name = f"network_{number}"
    return name


def _assembly(graph: Graph, part: Part, name: str, given: set[str], translator: Translator) -> Assembly:
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
    network = FusedNetwork(
        program, name=name, dtype=with_weights[0].dtype_policy, trainable=all(layer.trainable for layer in with_weights)
    )
    step = Step(network, lambda: assign(network.values, values))
    # Keras finds results of the model by the names of the layers that they come from.
    names = [graph.producer(t).operation.name if id(t) in graph.outputs else None for t in part.outs]
    ends = []
    for of_result in names:
        # A layer that is called twice may be the last of two networks, and its name can be there only once.
        is_named = len(names) == 1 and of_result == name
        ends.append(None if is_named or of_result in given - {name} else _end(of_result, network))
        given |= {of_result} - {None}

    def call(inputs: list) -> list:
        results = keras.tree.flatten(network(inputs if len(inputs) > 1 else inputs[0]))
        return [y if end is None else end(y) for y, end in zip(results, ends)]

    return Assembly(part.inputs, part.outs, call, [step, *(Step(end) for end in ends if end is not None)])


def _end(name: Optional[str], network: Any) -> Optional[Any]:
    return None if name is None else keras.layers.Identity(name=name, dtype=network.compute_dtype)


def _layers(node: Any) -> list:
    operation = node.operation
    if is_graph(operation):
        return [layer for layer in operation._flatten_layers(include_self=False) if not is_graph(layer)]
    return [operation] if isinstance(operation, keras.Layer) else []
