"""Which calls of a graph one program can compute: parts that no path leaves and comes back to."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable
from typing import Any, Callable, Optional

import keras

from tf_dwsconv._keras_graph import (
    Graph,
    called_in_training,
    calls,
    flat,
    functional,
    has_mask,
    inputs_called,
    is_graph,
)
from tf_dwsconv._program import DTYPES
from tf_dwsconv.convert import _read
from tf_dwsconv.convert.network import _operations, _translate
from tf_dwsconv.convert.network._builder import Builder
from tf_dwsconv.convert.network._call import Call

# Fewer gain nothing: a block is an op of its own already.
FEWEST_STEPS = 2


@dataclasses.dataclass
class Part:
    """Calls that become one program.

    nodes: in the graph's order. inputs, outs: tensors that are made elsewhere, and that are read elsewhere.
    """

    nodes: list
    dtype: str
    inputs: list
    outs: list


class Translator:
    """Makes steps of calls, of models inside models too."""

    def __init__(self) -> None:
        self._kinds: dict[int, Optional[str]] = {}
        self._kept: list = []  # so that no id is given out again

    def kind(self, node: Any) -> Optional[str]:
        """The dtype of the program that can compute a call; None where there is none."""
        if id(node) not in self._kinds:
            self._kept.append(node)
            self._kinds[id(node)] = self._kind(node)
        return self._kinds[id(node)]

    def _kind(self, node: Any) -> Optional[str]:
        if is_graph(node.operation):
            kinds = {self.kind(inner) for inner in calls(node.operation)}
            dtype = kinds.pop() if len(kinds) == 1 else None
        else:
            dtype = _read.compute_dtype(node)
        if dtype not in DTYPES or not self._fits(node, dtype):
            return None
        builder = Builder()
        tensors = {id(t): builder.input("", t.shape) for t in node.arguments.keras_tensors}
        return dtype if self.add(builder, node, tensors) else None

    def _fits(self, node: Any, dtype: str) -> bool:
        """Whether a call reads and gives what programs have."""
        tensors = node.arguments.keras_tensors
        if has_mask(node):
            return False
        if not tensors or any(len(t.shape) < 2 for t in (*tensors, *node.outputs)):
            return False
        casts = isinstance(node.operation, keras.Layer) and getattr(node.operation, "autocast", True)
        given = [keras.backend.standardize_dtype(t.dtype) for t in tensors]
        if not all(keras.backend.is_float_dtype(name) if casts else name == dtype for name in given):
            return False
        return all(keras.backend.standardize_dtype(t.dtype) == dtype for t in node.outputs)

    def add(self, builder: Builder, node: Any, tensors: dict[int, int]) -> bool:
        """Adds the steps of a call, and the numbers of its results to `tensors`; whether programs have such steps."""
        operation = node.operation
        x = [tensors[id(t)] for t in node.arguments.keras_tensors]
        if is_graph(operation):
            return self._add_model(builder, node, x, tensors)
        call = Call(node, builder, x)
        is_layer = isinstance(operation, keras.Layer)
        made = _translate.layer_step(call) if is_layer else _operations.operation_step(call)
        results = made if isinstance(made, tuple) else (made,)
        if made is None or len(results) != len(node.outputs):
            return False
        tensors.update((id(t), result) for t, result in zip(node.outputs, results))
        return True

    def _add_model(self, builder: Builder, node: Any, x: list[int], tensors: dict[int, int]) -> bool:
        model = node.operation
        inputs = inputs_called(node)
        kwargs = [value for key, value in node.arguments.kwargs.items() if key != "training"]
        if called_in_training(node) or any(v is not None for v in kwargs) or inputs is None:
            return False
        for inner, number in zip(inputs, x):
            if len(inner.shape) != len(builder.shapes[number]):
                return False
        inside = {id(inner): number for inner, number in zip(inputs, x)}
        if not all(self.kind(call) is not None and self.add(builder, call, inside) for call in calls(model)):
            return False
        tensors.update({id(out): inside[id(inner)] for out, inner in zip(node.outputs, functional(model).outputs)})
        return True


def find(
    graph: Graph, translator: Translator, order: Optional[list] = None, beyond: Callable[[Any], Iterable] = lambda t: ()
) -> list[Part]:
    """The largest parts of a graph that programs can compute.

    Args:
        order: the graph's calls, each behind all that it needs; None for the graph's own order.
        beyond: the calls that an input of the graph comes from, where the graph is a view of something larger.

    Each call gets a stage: as many times as the path that leads to it, at its worst, goes from calls that one kind of
    program computes to others. Neighbours of one kind and stage make a part. A path that leaves a part goes on in later
    stages, and so never comes back.
    """
    stages: dict[int, int] = {}
    groups = Groups()
    for node in graph.nodes if order is None else order:
        kind = translator.kind(node)
        tensors = node.arguments.keras_tensors
        before = [producer for t in tensors if (producer := graph.producer(t)) is not None]
        outside = [call for t in tensors if graph.producer(t) is None for call in beyond(t)]
        stage = max((stages.get(id(call), -1) + 1 for call in outside), default=0)
        for producer in before:
            stage = max(stage, stages[id(producer)] + (translator.kind(producer) != kind))
        stages[id(node)] = stage
        for producer in before if kind is not None else ():
            if translator.kind(producer) == kind and stages[id(producer)] == stage:
                groups.join(id(producer), id(node))
    members: dict[int, list] = collections.defaultdict(list)
    for node in graph.nodes:
        if translator.kind(node) is not None:
            members[groups.root(id(node))].append(node)
    return [_part(graph, nodes, translator.kind(nodes[0])) for nodes in members.values() if _pays(nodes)]


class Groups:
    """Sets of ids, or names, that are joined."""

    def __init__(self) -> None:
        self._parents: dict[Any, Any] = {}

    def root(self, key: Any) -> Any:
        while self._parents.get(key, key) != key:
            key = self._parents[key]
        return key

    def join(self, a: Any, b: Any) -> None:
        self._parents[self.root(a)] = self.root(b)


def _part(graph: Graph, nodes: list, dtype: Any) -> Part:
    inside = {id(t) for node in nodes for t in node.outputs}
    ids = {id(node) for node in nodes}
    inputs = {id(t): t for node in nodes for t in node.arguments.keras_tensors if id(t) not in inside}
    outs = [
        t
        for node in nodes
        for t in node.outputs
        if id(t) in graph.outputs or any(id(reader) not in ids for reader in graph.readers(t))
    ]
    return Part(nodes, dtype, list(inputs.values()), outs)


def _pays(nodes: list) -> bool:
    """Whether a part is worth a program: with a convolution in it, and something else that computes."""
    inner = flat(nodes)
    steps = [node for node in inner if not _read.is_identity(node) and not _only_moves(node.operation)]
    return len(steps) >= FEWEST_STEPS and any(_is_convolution(node.operation) for node in inner if _is_picture(node))


def _only_moves(operation: Any) -> bool:
    moves = (keras.layers.Reshape, keras.layers.Flatten, keras.layers.Permute)
    return isinstance(operation, moves) or _read.op_word(operation) in _MOVES


# Of filters with many axes, which are no windows.
_PRODUCTS = tuple(
    getattr(keras.layers, name)
    for name in ("EinsumDense", "MultiHeadAttention", "GroupQueryAttention")
    if hasattr(keras.layers, name)
)

_MOVES = ("Transpose", "Swapaxes", "Moveaxis", "Split", "GetItem")


def _is_picture(node: Any) -> bool:
    return len(node.outputs[0].shape) == 4


def _is_convolution(operation: Any) -> bool:
    if isinstance(operation, _PRODUCTS):
        return False
    return isinstance(operation, keras.Layer) and any(len(weight.shape) >= 3 for weight in operation.weights)
