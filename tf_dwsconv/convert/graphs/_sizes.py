"""What is known of tensors that hold sizes: the shapes that graphs compute to reshape and resize by."""

from __future__ import annotations

import dataclasses
from typing import Any, Callable, Optional, Union

import numpy as np
import tensorflow as tf

from tf_dwsconv.convert.graphs._nodes import IDENTITIES, attribute, node_of, tensor_of


@dataclasses.dataclass(frozen=True)
class Batch:
    """The number of pictures of a tensor, by what tells it from others."""

    of: Any


Size = Union[int, Batch, None]  # None: nothing is known


class Batches:
    """Which tensors of a view have as many pictures as each other, whatever that number is.

    Layers of a view keep the pictures, and go over them one by one. So what comes from a single input has its pictures.
    """

    def __init__(self) -> None:
        self._known: dict[int, Any] = {}
        self._kept: list = []  # so that no id is given out again

    def __call__(self, tensor: Any) -> Any:
        """What two tensors with as many pictures have in common."""
        if id(tensor) not in self._known:
            self._kept.append(tensor)
            self._known[id(tensor)] = self._find(tensor)
        return self._known[id(tensor)]

    def _find(self, tensor: Any) -> Any:
        operation, index, _ = tensor._keras_history
        before = {self(t) for t in operation._inbound_nodes[index].input_tensors}
        axes = np.atleast_1d(getattr(operation, "axis", 1)) if type(operation).__name__ in _BY_AXES else ()
        is_mixed = any(axis is None or axis % len(before_shape(operation, index)) == 0 for axis in axes)
        return before.pop() if len(before) == 1 and not is_mixed else id(tensor)


# What leaves its first input's shape and type as they are; and what leaves the type and the number of pictures.
_SAME_SHAPE = (
    *IDENTITIES, "BiasAdd", "FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3", "Relu", "Relu6", "LeakyRelu",
    "Elu", "Selu", "Sigmoid", "Tanh", "Softplus", "Neg", "Abs", "Square", "Rsqrt",
)  # fmt: skip
_SAME_PICTURES = (*_SAME_SHAPE, "Conv2D", "DepthwiseConv2dNative", "MaxPool", "AvgPool")


def origin(nodes: Any, ref: str, ops: tuple = _SAME_SHAPE) -> str:
    """The first tensor on the way to another one from which on nothing changes the shape."""
    node = nodes.producer(ref)
    while node is not None and node.op in ops and tensor_of(ref).endswith(":0"):
        ref = tensor_of(node.input[0])
        node = nodes.producer(ref)
    return tensor_of(ref)


def hoist(nodes: Any) -> None:
    """Takes the number of pictures from where they come in: who asks inside a chain would cut the chain."""
    shapes = [node for node in nodes if node.op == "Shape" and not any(ref.startswith("^") for ref in node.input)]
    if not shapes:
        return
    readers, loops, specs = nodes.readers(), nodes.loops(), nodes.specs()
    for node in shapes:
        source = origin(nodes, node.input[0], _SAME_PICTURES)
        shape = specs[tensor_of(node.input[0])].shape
        if source == tensor_of(node.input[0]) or node.name in loops:
            continue
        reading = readers[f"{node.name}:0"]
        if reading and f"{node.name}:0" not in nodes.fetches and all(_takes_first(nodes, r) for r in reading):
            node.input[0] = source
        elif shape.rank is not None and None not in shape.as_list()[1:]:
            _split(nodes, node, source, shape.as_list()[1:])


def _split(nodes: Any, node: Any, source: str, rest: list[int]) -> None:
    """Makes a shape of which all but the first size is known from the first size of another tensor's."""
    dtype = tf.as_dtype(attribute(node, "out_type").type or tf.int32)
    with tf.Graph().as_default() as graph:
        whole = tf.compat.v1.placeholder(dtype, [None], name="whole")
        tf.concat([whole[:1], tf.constant(rest, dtype)], 0, name="joined")
    names = {op.name: nodes.new_name(f"{node.name}/{op.name}") for op in graph.get_operations()}
    shape = tf.compat.v1.NodeDef()
    shape.CopyFrom(node)
    shape.name, shape.input[0] = names["whole"], source
    for part in graph.as_graph_def().node:
        if part.name != "whole":
            part.input[:] = [f"{names[node_of(ref)]}:0" for ref in part.input]
            part.name = node.name if part.name == "joined" else names[part.name]
            nodes.add(part)
    nodes.add(shape)


def _takes_first(nodes: Any, node: Any) -> bool:
    """Whether a node takes the first size of a shape, and no other."""
    if node.op == "GatherV2":
        places, axis = (nodes.value(ref) for ref in node.input[1:3])
        return places is not None and axis is not None and not np.any(places) and not np.any(axis)
    bounds = [nodes.value(ref) for ref in node.input[1:4]] if node.op == "StridedSlice" else [None]
    if any(bound is None or bound.size != 1 for bound in bounds):
        return False
    begin, end, step = (int(bound.reshape(())) for bound in bounds)
    starts = begin == 0 or bool(attribute(node, "begin_mask").i)
    ends = bool(attribute(node, "shrink_axis_mask").i) or (end == 1 and not attribute(node, "end_mask").i)
    return starts and ends and step == 1 and not attribute(node, "new_axis_mask").i


# Ops of views that may go along the batch.
_BY_AXES = ("Concatenate", "Mean", "Max")


def before_shape(operation: Any, index: int) -> tuple:
    """The shape of the first tensor that an operation reads."""
    return tuple(operation._inbound_nodes[index].input_tensors[0].shape)


class Sizes:
    """Evaluates what is computed from shapes and constants.

    Args:
        nodes: the graph.
        shape: gives a tensor's shape, as far as it is known.
        batch: gives what tells a tensor's number of pictures.
    """

    def __init__(self, nodes: Any, shape: Callable[[str], Any], batch: Callable[[str], Any]):
        self._nodes, self._shape, self._batch = nodes, shape, batch

    def __call__(self, ref: str) -> Optional[np.ndarray]:
        """The sizes in a tensor, a number or a vector of objects (`Size`); None where it holds something else."""
        value = self._nodes.value(ref)
        if value is not None:
            return value.astype(object) if value.ndim < 2 and value.dtype.kind == "i" else None
        node = self._nodes.producer(ref)
        if node is None or not tensor_of(ref).endswith(":0"):
            return None
        return _RULES[node.op](self, node) if node.op in _RULES else None

    def of(self, ref: str) -> Optional[np.ndarray]:
        """A tensor's shape."""
        shape = self._shape(ref)
        if shape.rank is None:
            return None
        sizes: list[Size] = shape.as_list()
        if sizes and sizes[0] is None:
            sizes[0] = Batch(self._batch(ref))
        return np.array([None, *sizes], object)[1:]


def _slice(sizes: Sizes, node: Any) -> Optional[np.ndarray]:
    whole = sizes(node.input[0])
    bounds = [sizes._nodes.value(ref) for ref in node.input[1:4]]
    masks = [attribute(node, f"{word}_mask").i for word in ("begin", "end", "shrink_axis", "ellipsis", "new_axis")]
    if whole is None or whole.ndim != 1 or any(b is None or b.size != 1 for b in bounds) or masks[3] or masks[4]:
        return None
    begin, end, step = (int(bound.reshape(())) for bound in bounds)
    if masks[2]:
        return whole[begin : begin + 1 or None].reshape(()) if -len(whole) <= begin < len(whole) else None
    return whole[None if masks[0] & 1 else begin : None if masks[1] & 1 else end : step]


def _pack(sizes: Sizes, node: Any) -> Optional[np.ndarray]:
    values = [sizes(ref) for ref in node.input]
    if any(value is None or value.ndim for value in values):
        return None
    return np.array([None, *(value.item() for value in values if value is not None)], object)[1:]


def _joined(sizes: Sizes, node: Any) -> Optional[np.ndarray]:
    values = [sizes(ref) for ref in node.input[:-1]]
    return None if any(value is None or value.ndim != 1 for value in values) else np.concatenate(values)


def _gathered(sizes: Sizes, node: Any) -> Optional[np.ndarray]:
    whole, places, axis = sizes(node.input[0]), sizes._nodes.value(node.input[1]), sizes._nodes.value(node.input[2])
    if whole is None or whole.ndim != 1 or places is None or places.ndim > 1 or axis is None or np.any(axis):
        return None
    return np.asarray(whole[places], object) if np.all((places >= 0) & (places < len(whole))) else None


def _product(sizes: Sizes, node: Any) -> Optional[np.ndarray]:
    values = [sizes(ref) for ref in (node.input[:1] if node.op == "Prod" else node.input)]
    flat = [size for value in values if value is not None for size in np.atleast_1d(value)]
    if any(value is None or value.dtype != object for value in values):
        return None
    if any(not isinstance(size, int) for size in flat):
        return np.array(None, object) if node.op == "Prod" or not any(value.ndim for value in values) else None
    product = np.prod(values[0]) if node.op == "Prod" else values[0] * values[1]
    return np.asarray(product, object)


_RULES: dict[str, Callable[[Sizes, Any], Optional[np.ndarray]]] = {
    "Shape": lambda sizes, node: sizes.of(node.input[0]),
    "StridedSlice": _slice,
    "Pack": _pack,
    "ConcatV2": _joined,
    "GatherV2": _gathered,
    "Prod": _product,
    "Mul": _product,
    **dict.fromkeys(("Cast", *IDENTITIES), lambda sizes, node: sizes(node.input[0])),
}
