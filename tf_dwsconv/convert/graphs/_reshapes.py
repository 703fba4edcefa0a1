"""Reshapes by constants, where a graph computes a shape of which only the number of pictures is open.

`tf.tensordot` writes seven nodes for each Dense layer over tokens, and TensorFlow infers no shape behind some of them.
"""

from __future__ import annotations

from typing import Any, Optional

import numpy as np
import tensorflow as tf

from tf_dwsconv.convert.graphs._nodes import Nodes, attribute, tensor_of
from tf_dwsconv.convert.graphs._sizes import Sizes

# Each round knows more shapes than the one before; real graphs need two or three.
_MOST_ROUNDS = 8


def settle(nodes: Nodes) -> None:
    """Gives each Reshape a constant where no more than one of the sizes is open: -1 stands for it."""
    _slice_shapes(nodes)
    for _ in range(_MOST_ROUNDS):
        loops = nodes.loops()
        open_ones = [
            node for node in nodes
            if node.op == "Reshape" and nodes.value(node.input[1]) is None and node.name not in loops
        ]  # fmt: skip
        if not open_ones or not _settled(nodes, open_ones):
            break
        nodes.prune()


def _settled(nodes: Nodes, reshapes: list) -> bool:
    """Whether any of some Reshapes has a constant now."""
    specs = nodes.specs()
    sizes = Sizes(nodes, lambda ref: specs[tensor_of(ref)].shape, tensor_of)
    changed = False
    for node in reshapes:
        found = _constant(sizes, node)
        if found is not None:
            node.input[1] = constant(nodes, f"{node.name}/shape", np.asarray(found, np.int32))
            changed = True
    return changed


def _constant(sizes: Sizes, node: Any) -> Optional[list[int]]:
    """The shape by which a Reshape does what it does, with one -1 at most; None where that is not known."""
    shape = sizes(node.input[1])
    if shape is None or shape.ndim != 1 or any(size == 0 for size in shape):
        return None
    before = sizes.of(node.input[0])
    found = [size if isinstance(size, (int, np.integer)) else -1 for size in shape]
    if found.count(-1) > 1 and found[0] == -1 and found[1:].count(-1) == 1 and before is not None:
        # [the number of pictures of what is reshaped, ..., -1, ...]: what a picture holds tells the latter.
        rest = list(before[1:])
        known = int(np.prod([size for size in found if size != -1]))
        if shape[0] == before[0] and all(isinstance(size, int) for size in rest) and np.prod(rest) % known == 0:
            found[found.index(-1, 1)] = int(np.prod(rest)) // known
    return found if found.count(-1) <= 1 else None


def constant(nodes: Nodes, name: str, value: np.ndarray) -> str:
    """A new node with a constant: the tensor's name."""
    node = tf.compat.v1.NodeDef(name=nodes.new_name(name), op="Const")
    node.attr["dtype"].type = tf.as_dtype(value.dtype).as_datatype_enum
    node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value))
    nodes.add(node)
    return f"{node.name}:0"


def _slice_shapes(nodes: Nodes) -> None:
    """Takes sizes that are neighbours by a slice, through which TensorFlow infers shapes as through no gather."""
    for node in list(nodes):
        if node.op != "GatherV2" or any(ref.startswith("^") for ref in node.input):
            continue
        shape, places, axis = nodes.producer(node.input[0]), *map(nodes.value, node.input[1:3])
        if shape is None or shape.op != "Shape" or places is None or axis is None or places.ndim != 1 or np.any(axis):
            continue
        first = int(places[0]) if places.size else -1
        if first < 0 or places.tolist() != list(range(first, first + len(places))):
            continue
        bounds = ([first], [first + len(places)], [1])
        made = [constant(nodes, f"{node.name}/bound", np.array(bound, np.int32)) for bound in bounds]
        dtype = attribute(node, "Tparams").type
        node.op = "StridedSlice"
        node.attr.clear()
        node.attr["T"].type = dtype
        node.attr["Index"].type = tf.int32.as_datatype_enum
        node.input[:] = [node.input[0], *made]
