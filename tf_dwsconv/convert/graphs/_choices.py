"""Takes the branch that a constant chooses: graphs of TensorFlow 1 carry what they did in training with them."""

from __future__ import annotations

from typing import Any

import numpy as np

from tf_dwsconv.convert.graphs._inline import inline
from tf_dwsconv.convert.graphs._nodes import Nodes, node_of, tensor_of

_IFS = {"If": "StatefulPartitionedCall", "StatelessIf": "PartitionedCall"}
_SWITCHES, _MERGES = ("Switch", "RefSwitch"), ("Merge", "RefMerge")


def take_defaults(nodes: Nodes) -> list[str]:
    """Makes constants of what could be fed and is no input of the graph; says so, a line for each."""
    lines = []
    for node in nodes:
        if node.op == "PlaceholderWithDefault" and node.name not in nodes.kept:
            value = nodes.value(node.input[0])
            shown = "" if value is None or value.size != 1 else f", {value.item()!r}"
            lines.append(f"the input {node.name!r}, which has a default and always takes it{shown}")
            node.op = "Identity"
            dtype = node.attr["dtype"].type
            node.attr.clear()
            node.attr["T"].type = dtype
    return lines


def choose(nodes: Nodes) -> bool:
    """Puts branches that constants choose in the place of what chooses; whether anything went."""
    calls = _take_ifs(nodes)
    if calls:
        inline(nodes, nodes.graph)
    return _take_switches(nodes) or calls


def _take_ifs(nodes: Nodes) -> bool:
    found = False
    for node in nodes:
        value = nodes.value(node.input[0]) if node.op in _IFS else None
        if value is None or value.size != 1:
            continue
        found = True
        branch = node.attr["then_branch" if np.any(value) else "else_branch"].func.name
        kept = {key: node.attr[key].list.type[:] for key in ("Tin", "Tout")}
        node.op = _IFS[node.op]
        node.attr.clear()
        node.attr["f"].func.name = branch
        for key, types in kept.items():
            node.attr[key].list.type.extend(types)
        del node.input[0]
    return found


def _take_switches(nodes: Nodes) -> bool:
    """Of TensorFlow 1: one side of a Switch is alive, and a Merge hands on what is alive of its inputs."""
    switches = {node.name: nodes.value(node.input[1]) for node in nodes if node.op in _SWITCHES}
    loops = nodes.loops() if switches else set()
    sides = {name: int(np.any(v)) for name, v in switches.items() if v is not None and name not in loops}
    if not sides:
        return False
    count, readers = len(nodes.by_name), nodes.readers()
    dead: set[str] = set()  # nodes, and tensors of nodes that live
    instead: dict[str, str] = {}
    for node in nodes.sorted():
        alive = [ref for ref in node.input if node_of(ref) not in dead and tensor_of(ref) not in dead]
        is_merge = node.op in _MERGES and node.name not in loops
        if is_merge and 0 < len(alive) < len(node.input) and not readers.get(f"{node.name}:1"):
            _keep(node, alive)
            instead.update({f"{node.name}:0": alive[0]} if len(alive) == 1 else {})
        elif len(alive) < len(node.input) and not (is_merge and alive):
            dead.add(node.name)
        elif node.name in sides:
            instead[f"{node.name}:{sides[node.name]}"] = node.input[0]
            dead.add(f"{node.name}:{1 - sides[node.name]}")
    nodes.redirect(instead)
    nodes.kept = [name for name in nodes.kept if name not in dead]
    nodes.prune()
    return len(nodes.by_name) < count


def _keep(merge: Any, refs: list[str]) -> None:
    """Leaves a Merge some of its inputs."""
    del merge.input[:]
    merge.input.extend(refs)
    merge.attr["N"].i = sum(not ref.startswith("^") for ref in refs)
