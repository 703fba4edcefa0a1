"""The padding of dilated convolutions whose input has sizes that each call brings.

TensorFlow then computes what SpaceToBatchND pads, and what BatchToSpaceND crops, in some thirty nodes from the shape.
Here those nodes are run for pictures of many sizes.
"""

from __future__ import annotations

from typing import Any, Optional

import numpy as np
import tensorflow as tf

from tf_dwsconv.convert.graphs._nodes import Nodes, is_stateful, node_of, tensor_of
from tf_dwsconv.convert.graphs._sizes import origin

_MOST_NODES = 100
# Sizes that are tried: what is padded depends on the remainders by the dilations.
_FEWEST, _MOST = 16, 64


def of_sizes(
    nodes: Nodes, readers: dict, ends: tuple[Any, Any], block: np.ndarray
) -> tuple[Optional[np.ndarray], set[str]]:
    """The padding around the picture, and the nodes that compute it and are of no other use.

    Args:
        nodes, readers: the graph, and who reads its tensors.
        ends: SpaceToBatchND and BatchToSpaceND.
        block: the dilations.

    Returns:
        (None, nothing) where it is not the same for pictures of all sizes, or depends on something else.
    """
    start, end = ends
    inner = _between(nodes, start, [start.input[2], end.input[2]])
    shapes = {name for name in inner if nodes.by_name[name].op == "Shape"}
    if not shapes:
        return None, set()
    found = _run(nodes, shapes, (start.input[2], end.input[2]), _sizes(block))
    pads = found[0][1] - found[0][2]
    for size, padded, cropped in found:
        is_same = np.array_equal(padded - cropped, pads) and not np.any(cropped[:, 0])
        if not is_same or np.any((np.array(size) + padded.sum(1)) % block):
            return None, set()
    names = {start.name, end.name}
    while True:
        alone = {n for n in inner if all(r.name in inner | names for r in readers.get(f"{n}:0", ()))}
        if alone == inner:
            return pads, {name for name in inner if nodes.by_name[name].op != "Const"}
        inner = alone


def _sizes(block: np.ndarray) -> list[tuple[int, int]]:
    """Rows and columns with all remainders."""
    long = int(min(max(4 * block.max(), _FEWEST), _MOST))
    return [(size, long + 1 - size) for size in range(1, long + 1)]


def _between(nodes: Nodes, start: Any, refs: list[str]) -> set[str]:
    """The nodes that compute some tensors from the shape of what `start` reads; none where they read something else."""
    source, found = origin(nodes, start.input[0]), set()
    todo = [node_of(ref) for ref in refs]
    while todo:
        name = todo.pop()
        node = nodes.by_name[name]
        if name in found:
            continue
        found.add(name)
        is_shape = node.op == "Shape" and origin(nodes, node.input[0]) == source
        if len(found) > _MOST_NODES or is_stateful(node.op) or (node.op == "Shape" and not is_shape):
            return set()
        if not is_shape:
            if not node.input and node.op != "Const":
                return set()
            todo += [node_of(ref) for ref in node.input]
    return found


def _run(nodes: Nodes, shapes: set[str], refs: tuple[str, str], sizes: list[tuple[int, int]]) -> list[tuple]:
    """(size, pads, crops) for pictures of some sizes."""
    part = Nodes(nodes.graph_def, map(tensor_of, refs))
    for name in shapes:
        node = tf.compat.v1.NodeDef(name=name, op="Placeholder")
        node.attr["dtype"].type = part.by_name[name].attr["out_type"].type or tf.int32.as_datatype_enum
        part.add(node)
    part.prune()
    with tf.Graph().as_default() as graph:
        tf.import_graph_def(part.graph_def, name="")
    fetches = [graph.get_tensor_by_name(tensor_of(ref)) for ref in refs]
    with tf.compat.v1.Session(graph=graph, config=tf.compat.v1.ConfigProto(device_count={"GPU": 0})) as session:
        return [(size, *session.run(fetches, {f"{name}:0": [1, *size, 1] for name in shapes})) for size in sizes]
