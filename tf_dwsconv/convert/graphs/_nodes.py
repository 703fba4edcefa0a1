"""A GraphDef by name: what each node reads, what is constant, what shapes tensors have.

A tensor is named as in TensorFlow, "node:0"; "^node" is a control input.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable
from typing import Any, Optional

import numpy as np
import tensorflow as tf
from tensorflow.python.framework import op_def_registry

# What hands on its first input and nothing else.
IDENTITIES = ("Identity", "IdentityN", "StopGradient", "PreventGradient", "Snapshot")

# Places, which nodes that go would leave dangling; and gradients of users, which are about a training that is over.
_STALE = ("_class", "_gradient_op_type")


def node_of(ref: str) -> str:
    """The name of the node that an input comes from."""
    return ref.lstrip("^").partition(":")[0]


def tensor_of(ref: str) -> str:
    """The name of a tensor, with its number."""
    return ref if ref.startswith("^") or ":" in ref else f"{ref}:0"


def outside(ref: str, given: dict[str, str], names: dict[str, str]) -> str:
    """What an input in a part of its own is in the graph around it.

    `given` has the tensor that an input of the part stands for, `names` the name that a node of the part has there.
    """
    name, control = node_of(ref), ref.startswith("^")
    if name in given:
        return f"^{node_of(given[name])}" if control else given[name]
    return f"^{names[name]}" if control else f"{names[name]}:{tensor_of(ref).rpartition(':')[2]}"


def attribute(node: Any, name: str) -> Any:
    """An attribute of a node, without a value where it has none: the message itself would get an empty one."""
    return node.attr[name] if name in node.attr else tf.compat.v1.AttrValue()


def is_stateful(op: str) -> bool:
    """Whether an op has effects or a state, or is one that nobody registered."""
    definition = op_def_registry.get(op)
    return definition is None or definition.is_stateful


class Nodes:
    """The nodes of a graph, to be looked at and changed.

    Args:
        graph_def: is copied.
        fetches: tensors that somebody reads, by name; each stays under its name.
        kept: names of nodes that stay, whether they are read or not.

    Attributes:
        graph: the TensorFlow graph that it was taken from, which knows its ops and functions; None where nobody said.
    """

    def __init__(self, graph_def: Any, fetches: Iterable[str], kept: Iterable[str] = ()):
        self.by_name: dict[str, Any] = {}
        for node in graph_def.node:
            copy = tf.compat.v1.NodeDef()
            copy.CopyFrom(node)
            for attribute in _STALE:
                copy.attr.pop(attribute, None)
            self.by_name[copy.name] = copy
        self.fetches = [tensor_of(ref) for ref in fetches]
        self.kept = list(kept)
        self.graph: Any = None
        self._library = graph_def.library
        self._versions = graph_def.versions

    def __iter__(self) -> Any:
        return iter(self.by_name.values())

    @property
    def graph_def(self) -> Any:
        """The graph as a message, with the functions that it calls."""
        result = tf.compat.v1.GraphDef(versions=self._versions)
        result.node.extend(self.by_name.values())
        result.library.function.extend(self._called())
        return result

    def _called(self) -> list[Any]:
        functions, todo, found = self.functions, list(self), {}
        while todo:
            node = todo.pop()
            values = list(node.attr.values())
            names = [node.op, *(v.func.name for v in values), *(f.name for v in values for f in v.list.func)]
            for name in names:
                if name in functions and name not in found:
                    found[name] = functions[name]
                    todo += functions[name].node_def
        return list(found.values())

    def copy(self) -> Nodes:
        """Another graph of the same nodes."""
        result = Nodes(self.graph_def, self.fetches, self.kept)
        result.graph = self.graph
        return result

    @property
    def functions(self) -> dict[str, Any]:
        """The functions of the graph's library, by name."""
        return {function.signature.name: function for function in self._library.function}

    def producer(self, ref: str) -> Optional[Any]:
        """The node that a tensor comes from."""
        return self.by_name.get(node_of(ref))

    def add(self, node: Any) -> None:
        """Adds a node under a name that no other has, or in the place of the one that has it."""
        self.by_name[node.name] = node

    def new_name(self, name: str) -> str:
        """A name that no node has."""
        found, number = name, 0
        while found in self.by_name:
            number += 1
            found = f"{name}_{number}"
        return found

    def redirect(self, instead: dict[str, str], fetches: bool = True) -> None:
        """Reads other tensors: those that `instead` has for some; chains of it are followed."""

        def follow(ref: str) -> str:
            seen = set()
            while (to := instead.get(tensor_of(ref))) is not None and to not in seen:
                seen.add(to)
                ref = to
            return ref

        for node in self:
            refs = [follow(ref) for ref in node.input]
            if refs != list(node.input):
                # Data first; a control input that is there twice, or that a data input implies, says nothing new.
                data = [ref for ref in refs if not ref.startswith("^")]
                controls = dict.fromkeys(ref for ref in refs if ref.startswith("^") and ref[1:] != node.name)
                del node.input[:]
                node.input.extend([*data, *controls])
        if fetches:
            self.fetches = [follow(ref) for ref in self.fetches]

    def prune(self) -> None:
        """Leaves out nodes that nothing which is fetched or kept needs."""
        todo = [*map(node_of, self.fetches), *self.kept]
        live: set[str] = set()
        while todo:
            name = todo.pop()
            if name not in live:
                live.add(name)
                todo += map(node_of, self.by_name[name].input)
        self.by_name = {name: node for name, node in self.by_name.items() if name in live}

    def readers(self) -> dict[str, list[Any]]:
        """The nodes that read each tensor, one entry for each time; control inputs are there as "^node"."""
        found: dict[str, list] = collections.defaultdict(list)
        for node in self:
            for ref in node.input:
                found[tensor_of(ref)].append(node)
        return found

    def value(self, ref: str) -> Optional[np.ndarray]:
        """The value of a tensor that is a constant; None for any other."""
        node = self.producer(ref)
        while node is not None and node.op in IDENTITIES:
            ref = node.input[int(tensor_of(ref).rpartition(":")[2])]
            node = self.producer(ref)
        if node is None or node.op != "Const" or ref.startswith("^"):
            return None
        return tf.make_ndarray(attribute(node, "value").tensor)

    def sorted(self) -> list[Any]:
        """The nodes, each behind those that it reads; the ring of a loop is cut where it goes back."""
        order: list = []
        state: dict[str, bool] = {}  # False while what a node reads is looked at
        for start in self.by_name:
            todo = [(start, False)]
            while todo:
                name, is_done = todo.pop()
                if is_done:
                    state[name] = True
                    order.append(self.by_name[name])
                elif name not in state:
                    state[name] = False
                    todo.append((name, True))
                    if self.by_name[name].op not in ("NextIteration", "RefNextIteration"):
                        todo += [(node_of(ref), False) for ref in self.by_name[name].input if node_of(ref) not in state]
        return order

    def loops(self) -> set[str]:
        """Names of the nodes inside loops of TensorFlow 1, where nothing may be read from outside but by an Enter."""
        depth: dict[str, int] = {}
        for node in self.sorted():
            inner = max((depth.get(node_of(ref), 0) for ref in node.input), default=0)
            inner += {"Enter": 1, "RefEnter": 1, "Exit": -1, "RefExit": -1}.get(node.op, 0)
            depth[node.name] = max(inner, 0)
        return {name for name, number in depth.items() if number}

    def operations(self) -> list[Any]:
        """The nodes as TensorFlow has them, with all their attributes."""
        with tf.Graph().as_default() as graph:
            tf.import_graph_def(self.graph_def, name="")
        return graph.get_operations()

    def specs(self) -> dict[str, tf.TensorSpec]:
        """Shape and dtype of each tensor, as far as TensorFlow knows them."""
        tensors = [tensor for op in self.operations() for tensor in op.outputs]
        return {tensor.name: tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in tensors}
