"""Sums of tensors that are first packed along a new axis, as `tf.reduce_sum([a, b], axis=0)` writes them."""

from __future__ import annotations

from typing import Any

from tf_dwsconv.convert.graphs._nodes import Nodes, attribute


def add_packed(nodes: Nodes) -> None:
    """Adds such tensors one to another: programs have no axis in front of the batch."""
    readers, changed = nodes.readers(), False
    for node in nodes:
        pack = nodes.producer(node.input[0]) if node.op == "Sum" and len(node.input) == 2 else None
        if pack is None or pack.op != "Pack" or not _goes_over(nodes, node, pack):
            continue
        if len(readers.get(f"{pack.name}:0", ())) != 1 or any(ref.startswith("^") for ref in pack.input):
            continue
        dtype = attribute(node, "T").type
        node.op = "AddN"
        node.attr.clear()
        node.attr["T"].type, node.attr["N"].i = dtype, len(pack.input)
        node.input[:] = pack.input[:]
        changed = True
    if changed:
        nodes.prune()


def _goes_over(nodes: Nodes, node: Any, pack: Any) -> bool:
    """Whether a sum is over the axis that is new, and over no other."""
    axes = nodes.value(node.input[1])
    if axes is None or axes.size != 1 or attribute(node, "keep_dims").b or f"{pack.name}:0" in nodes.fetches:
        return False
    given, new = int(axes.reshape(())), int(attribute(pack, "axis").i)
    rank = nodes.specs()[f"{pack.name}:0"].shape.rank if (given < 0) != (new < 0) else 0
    return given == new or (rank is not None and rank > 0 and given % rank == new % rank)
