"""Reads a GraphDef as a graph of stock Keras layers, in which the rules of `convert` then search.

Nothing ever calls that graph: it is a view of the GraphDef in the words that the rules know. A node that has no such
word is opaque. Its results are inputs of the Keras graph, and what it reads are outputs, so no rule looks past it. Each
tensor of the view knows which tensor of the GraphDef it stands for; `_rewrite.py` puts what was found there.
"""

from __future__ import annotations

from typing import Any, Optional

import keras
import tensorflow as tf

from tf_dwsconv.convert.graphs import _ops, _ours
from tf_dwsconv.convert.graphs._nodes import Nodes, attribute, node_of, tensor_of
from tf_dwsconv.convert.graphs._patterns import Patterns
from tf_dwsconv.convert.graphs._sizes import Batches, Sizes

# Keras takes no "/" in names, and TensorFlow writes no "\" into them.
_SLASH = "\\"


def keras_name(name: str) -> str:
    """A node's name as that of a Keras layer."""
    return name.replace("/", _SLASH)


def node_names(text: str) -> str:
    """A text with names of layers in it, with those of the nodes in their place."""
    return text.replace(2 * _SLASH, "/").replace(_SLASH, "/")


class Reader:
    """The view of one graph.

    Args:
        nodes: the graph, frozen and tidy.
        ours: whether ops of this package are read, as the layers that call them.

    Attributes:
        model: the Keras graph; None where nothing could be read.
        reasons: why a convolution is opaque, by its node's name.
        read: names of the nodes that are in the view.
        for_programs: whether a program will be made of the view; else blocks are searched in it.
        sizes: tells what is known of a tensor that holds sizes.
    """

    def __init__(self, nodes: Nodes, ours: bool = False):
        self.nodes, self.readers, self._specs = nodes, nodes.readers(), nodes.specs()
        self.ours = {op.name: op for op in nodes.operations() if op.type in _ours.OPS} if ours else {}
        self.for_programs = ours
        self.reasons: dict[str, str] = {}
        self.read: set[str] = set()
        self._known = _shapes_by_filters(nodes)
        self._tensors: dict[str, Any] = {}
        self._refs: dict[int, str] = {}
        self._inputs: list = []
        self._batches = Batches()
        self.sizes = Sizes(nodes, self.shape, self._batch)
        patterns = Patterns(nodes, self.readers, {ref: spec.shape for ref, spec in self._specs.items()})
        # A node in a loop of TensorFlow 1 may read nothing from outside, so nothing new either.
        opaque, self._fetched = nodes.loops(), {*map(node_of, nodes.fetches), *nodes.kept}
        for node in nodes.sorted():
            if node.name in patterns.inner or node.name in self.read:
                continue
            if node.name in opaque:
                self.reasons[node.name] = "it is inside a loop"
                continue
            if any(ref.startswith("^") for ref in node.input) or f"^{node.name}" in self.readers:
                self.reasons[node.name] = "it waits for nodes that have effects, or they for it"
                continue
            self._read(node, patterns.by_end.get(node.name))
        self.read |= {name for end in self.read & set(patterns.by_end) for name in patterns.by_end[end].inner}
        self.model = self._model()

    def _read(self, node: Any, pattern: Any) -> None:
        try:
            reason = _ops.read(self, node, pattern)
        except (ValueError, TypeError, NotImplementedError) as error:  # of Keras, about what it cannot describe
            reason = f"Keras has no layer for it: {' '.join(str(error).split())[:120]}"
        if reason is not None:
            self.reasons[node.name] = reason

    def tensor(self, ref: str) -> Any:
        """The tensor of the view that stands for one of the graph."""
        ref = tensor_of(ref)
        if ref not in self._tensors:
            if self.shape(ref).rank is None:
                raise ValueError(f"the rank of {ref!r} is not known")
            made = keras.Input(batch_shape=self.shape(ref).as_list(), dtype=self.dtype(ref))
            self._inputs.append(made)
            self.put(ref, made)
        return self._tensors[ref]

    def put(self, ref: str, tensor: Any) -> None:
        """Says that a tensor of the view stands for one of the graph."""
        self._tensors[tensor_of(ref)] = tensor
        self._refs[id(tensor)] = tensor_of(ref)
        self._batches(tensor)

    def _batch(self, ref: str) -> Any:
        """What tells the number of a tensor's pictures: of the view's, or of its own."""
        tensor = self._tensors.get(tensor_of(ref))
        return tensor_of(ref) if tensor is None else self._batches(tensor)

    def ref(self, tensor: Any) -> Optional[str]:
        """The tensor of the graph for which one of the view stands; None for one between two of them."""
        return self._refs.get(id(tensor))

    def shape(self, ref: str) -> Any:
        """A tensor's shape, as far as it is known."""
        ref = tensor_of(ref)
        shape = self._specs[ref].shape
        known = self._known.get(ref)
        # The filter of a grouped convolution has a part of the channels: where they are known, they count.
        return shape if known is None or not shape.is_compatible_with(known) else shape.merge_with(known)

    def dtype(self, ref: str) -> str:
        """The name of a tensor's dtype."""
        return self._specs[tensor_of(ref)].dtype.name

    def only_reader(self, ref: str) -> Optional[Any]:
        """The node that alone reads a tensor, which nobody fetches."""
        readers = self.readers.get(tensor_of(ref), ())
        return readers[0] if len(readers) == 1 and node_of(ref) not in self._fetched else None

    def _model(self) -> Any:
        """The Keras graph: its outputs are what opaque nodes read, what is fetched, and what nobody reads."""
        outside = {tensor_of(ref) for node in self.nodes if node.name not in self.read for ref in node.input}
        outside |= set(self.nodes.fetches)
        made = {ref: t for ref, t in self._tensors.items() if not any(t is i for i in self._inputs)}
        outputs = [t for ref, t in made.items() if ref in outside or not self.readers.get(ref)]
        if not outputs:
            return None
        needed = _inputs_of(outputs)
        return keras.Model([t for t in self._inputs if id(t) in needed], outputs)


def _shapes_by_filters(nodes: Nodes) -> dict[str, tf.TensorShape]:
    """What filters tell of what convolutions read: graphs whose input has no shape are common."""
    known = {}
    for node in nodes:
        kernel = nodes.value(node.input[1]) if node.op in _ops.CONVOLUTIONS else None
        if kernel is not None:
            axis = 1 if attribute(node, "data_format").s == b"NCHW" else 3
            shape = [kernel.shape[2] if i == axis else None for i in range(4)]
            known[tensor_of(node.input[0])] = tf.TensorShape(shape)
    return known


def _inputs_of(outputs: list) -> set[int]:
    """The inputs, by id, that lead to some tensors."""
    seen: set[int] = set()
    todo = list(outputs)
    while todo:
        tensor = todo.pop()
        if id(tensor) not in seen:
            seen.add(id(tensor))
            operation, index, _ = tensor._keras_history
            todo += operation._inbound_nodes[index].input_tensors
    return seen
