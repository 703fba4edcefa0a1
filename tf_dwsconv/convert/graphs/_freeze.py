"""Makes a graph as plain as it can be: constants for variables that nobody writes, no detours, no idle orders.

What is computed from constants alone is computed here. Nothing changes what the graph answers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tf_dwsconv.convert.graphs._choices import choose
from tf_dwsconv.convert.graphs._merged import take_apart
from tf_dwsconv.convert.graphs._nodes import IDENTITIES, Nodes, attribute, is_stateful, node_of, tensor_of
from tf_dwsconv.convert.graphs._packs import add_packed
from tf_dwsconv.convert.graphs._reshapes import constant, settle
from tf_dwsconv.convert.graphs._sizes import hoist
from tf_dwsconv.convert.graphs._uniform import name_uniform

# What reads a variable's handle and leaves the variable as it is.
_READING = ("ReadVariableOp", "ResourceGather", "ResourceGatherNd", "VariableShape", "VarIsInitializedOp")
_NOT_FOLDED = (
    "Const", "NoOp", "Placeholder", "PlaceholderWithDefault", "PlaceholderV2", "PartitionedCall", "StatelessIf",
    "StatelessWhile", "StatelessCase", "Switch", "Merge", "Enter", "Exit", "NextIteration", "LoopCond",
)  # fmt: skip
# A result of constants may be this many bytes, or so many times what it is computed from, as weights that are stored in
# 8 bits are: a filled array stays an op.
_LARGE = 1 << 16
_GROWTH = 8


def written(nodes: Nodes, captures: Mapping[str, Any]) -> set[int]:
    """The variables, by the id of what was captured, that the graph writes, or hands to what might."""
    readers = nodes.readers()
    found = set()
    for name, outside in captures.items():
        todo = [f"{name}:0"]
        while todo:
            for node in readers.get(todo.pop(), ()):
                if node.op in IDENTITIES:
                    todo.append(f"{node.name}:0")
                elif node.op not in _READING and not _only_reads(nodes, node):
                    found.add(id(outside))
    return found


def _only_reads(nodes: Nodes, node: Any) -> bool:
    """Whether a node that calls functions can write no variable."""
    todo, seen, functions = [node], set(), nodes.functions
    is_call = False
    while todo:
        inner = todo.pop()
        called = [
            name
            for value in inner.attr.values()
            for name in [value.func.name, *(f.name for f in value.list.func)]
            if name in functions
        ]
        is_call = is_call or bool(called)
        if not called and inner is not node and is_stateful(inner.op) and inner.op not in _READING:
            return False
        for name in called:
            if name not in seen:
                seen.add(name)
                todo += functions[name].node_def
    return is_call


def freeze(nodes: Nodes, captures: dict[str, Any], stay: set[int]) -> None:
    """Makes constants of variables and of captured numbers; what became one is a capture no more.

    Args:
        nodes: the graph; is changed.
        captures: what is captured, by the name of its placeholder; is changed.
        stay: variables, by the id of what was captured, that stay variables.
    """
    readers = nodes.readers()
    for name, outside in list(captures.items()):
        if outside.dtype == tf.resource and id(outside) not in stay:
            todo = [f"{name}:0"]
            while todo:
                for node in readers.get(todo.pop(), ()):
                    if node.op in IDENTITIES:
                        todo.append(f"{node.name}:0")
                    elif node.op == "ReadVariableOp":
                        dtype = tf.as_dtype(node.attr["dtype"].type)
                        make_constant(node, tf.raw_ops.ReadVariableOp(resource=outside, dtype=dtype).numpy())
                    elif node.op == "ResourceGather":
                        dtype = tf.as_dtype(node.attr["dtype"].type)
                        _gather(nodes, node, tf.raw_ops.ReadVariableOp(resource=outside, dtype=dtype).numpy())
        elif outside.dtype not in (tf.resource, tf.variant, tf.string):
            make_constant(nodes.by_name[name], outside.numpy())
            del captures[name]


def _gather(nodes: Nodes, node: Any, table: np.ndarray) -> None:
    """Makes a gather from a variable one from a constant."""
    axis = int(attribute(node, "batch_dims").i)
    given = {"Tparams": node.attr["dtype"].type, "Tindices": node.attr["Tindices"].type}
    node.op = "GatherV2"
    node.attr.clear()
    for key, dtype in {**given, "Taxis": tf.int32.as_datatype_enum}.items():
        node.attr[key].type = dtype
    node.attr["batch_dims"].i = axis
    controls = [ref for ref in node.input if ref.startswith("^")]
    made = [constant(nodes, f"{node.name}/{word}", v) for word, v in (("table", table), ("axis", np.int32(axis)))]
    node.input[:] = [made[0], node.input[1], made[1], *controls]


def make_constant(node: Any, value: Any) -> None:
    """Makes a node a constant."""
    value = np.asarray(value)
    node.op = "Const"
    node.attr.clear()
    node.attr["dtype"].type = tf.as_dtype(value.dtype).as_datatype_enum
    node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value))
    del node.input[:]


def tidy(nodes: Nodes) -> None:
    """Takes out control inputs that order nothing, nodes that hand on their input, and what nobody needs."""
    nodes.prune()
    _drop_idle_controls(nodes)
    controlling = {node_of(ref) for node in nodes for ref in node.input if ref.startswith("^")}
    fetched = {node_of(ref) for ref in nodes.fetches} | set(nodes.kept)
    instead = {}
    for node in nodes:
        plain = node.op in IDENTITIES and not any(ref.startswith("^") for ref in node.input)
        # A branch of TensorFlow 1 begins at the Identity of a Switch.
        if plain and node.name not in controlling | fetched and nodes.producer(node.input[0]).op != "Switch":
            instead.update({f"{node.name}:{i}": ref for i, ref in enumerate(node.input)})
    nodes.redirect(instead)
    nodes.prune()


def _drop_idle_controls(nodes: Nodes) -> None:
    """Takes out control inputs from nodes that have no effects, nor wait for any, nor depend on a branch."""
    matters: dict[str, bool] = {}
    branching = {"Switch", "Merge", "Enter", "Exit", "NextIteration", "LoopCond", "RefSwitch", "RefMerge"}
    if branching & {node.op for node in nodes}:
        return  # there, which branch is alive travels along control inputs
    for node in nodes.sorted():
        is_call = any(value.HasField("func") for value in node.attr.values())
        own = is_call or is_stateful(node.op)
        matters[node.name] = own or any(matters[node_of(ref)] for ref in node.input)
    for node in nodes:
        refs = [ref for ref in node.input if not ref.startswith("^") or matters[node_of(ref)]]
        if len(refs) < len(node.input):
            del node.input[:]
            node.input.extend(refs)
    inputs = {node.name for node in nodes if node.op.startswith("Placeholder")}
    nodes.kept = [name for name in nodes.kept if matters[name] or name in inputs]


def fold(nodes: Nodes) -> None:
    """Computes what depends on constants alone. Simulated quantisation stays: it is what a graph says of itself."""
    constant: set[str] = {node.name for node in nodes if node.op == "Const"}
    loops = nodes.loops()
    for node in nodes.sorted():
        if node.op in _NOT_FOLDED or not node.input or is_stateful(node.op) or "FakeQuant" in node.op:
            continue
        is_call = any(value.HasField("func") for value in node.attr.values())
        if not is_call and node.name not in loops and all(ref in constant for ref in map(_source, node.input)):
            constant.add(node.name)
    readers = nodes.readers()
    fetched = {node_of(ref) for ref in nodes.fetches}
    wanted = [
        node
        for node in nodes
        if node.name in constant
        and node.op != "Const"
        and (node.name in fetched or any(r.name not in constant for r in readers.get(f"{node.name}:0", ())))
    ]
    if wanted:
        _compute(nodes, wanted, constant)
        nodes.prune()


def _source(ref: str) -> str:
    """The node of a data input; of a control input a name that none has."""
    return ref if ref.startswith("^") else node_of(ref)


def _compute(nodes: Nodes, wanted: list, constant: set[str]) -> None:
    part = Nodes(nodes.graph_def, [f"{node.name}:0" for node in wanted])
    part.prune()
    with tf.Graph().as_default() as graph:
        tf.import_graph_def(part.graph_def, name="")
    tensors = [graph.get_tensor_by_name(f"{node.name}:0") for node in wanted]
    few = []
    for node, tensor in zip(wanted, tensors):
        is_small = tensor.shape.is_fully_defined() and tensor.dtype not in (tf.resource, tf.variant)
        if is_small and len(tensor.op.outputs) == 1:
            size = math.prod(tensor.shape) * (tensor.dtype.size or 64)
            if size <= max(_LARGE, _GROWTH * _bytes_below(nodes, node)):
                few.append((node, tensor))
    with tf.compat.v1.Session(graph=graph, config=tf.compat.v1.ConfigProto(device_count={"GPU": 0})) as session:
        for (node, _), value in zip(few, session.run([tensor for _, tensor in few])):
            make_constant(node, value)


def _bytes_below(nodes: Nodes, node: Any) -> int:
    """Bytes of the constants that a node is computed from."""
    total, seen, todo = 0, set(), [node.name]
    while todo:
        name = todo.pop()
        if name not in seen:
            seen.add(name)
            inner = nodes.by_name[name]
            total += inner.attr["value"].tensor.ByteSize() if inner.op == "Const" else 0
            todo += map(node_of, inner.input)
    return total


def plain(nodes: Nodes) -> None:
    """All of it: `tidy`, `fold`, the branches that constants choose, and once more what that leaves."""
    tidy(nodes)
    _drop_whole_transposes(nodes)
    _take_known_sizes(nodes)
    fold(nodes)
    while choose(nodes):
        tidy(nodes)
        fold(nodes)
    settle(nodes)
    name_uniform(nodes)
    add_packed(nodes)
    take_apart(nodes)
    hoist(nodes)
    _drop_whole_transposes(nodes)
    tidy(nodes)


def _take_known_sizes(nodes: Nodes) -> None:
    """Makes constants of the sizes that the graph takes from shapes though they are known, of rows and columns say."""
    shapes = {f"{node.name}:0": node for node in nodes if node.op == "Shape"}
    slices = [node for node in nodes if node.op == "StridedSlice" and tensor_of(node.input[0]) in shapes]
    specs = nodes.specs() if slices else {}
    for node in slices:
        bounds = [nodes.value(ref) for ref in node.input[1:4]]
        masks = [int(attribute(node, f"{word}_mask").i) for word in ("begin", "end", "ellipsis", "new_axis")]
        shape = specs[tensor_of(shapes[tensor_of(node.input[0])].input[0])].shape
        if any(bound is None or bound.size != 1 for bound in bounds) or any(masks) or shape.rank is None:
            continue
        begin, end, step = (int(bound.reshape(())) for bound in bounds)
        is_one = bool(attribute(node, "shrink_axis_mask").i)
        taken = [shape.as_list()[begin]] if is_one and begin < shape.rank else shape.as_list()[begin:end:step]
        if None in taken or (is_one and len(taken) != 1):
            continue
        dtype = specs[f"{node.name}:0"].dtype.as_numpy_dtype
        make_constant(node, np.asarray(taken[0] if is_one else taken, dtype))


def _drop_whole_transposes(nodes: Nodes) -> None:
    """Takes out transpositions that leave each axis where it is."""
    instead = {}
    for node in nodes:
        order = nodes.value(node.input[1]) if node.op == "Transpose" and len(node.input) == 2 else None
        if order is not None and order.tolist() == list(range(len(order))):
            instead[f"{node.name}:0"] = tensor_of(node.input[0])
    fetched = set(nodes.fetches)
    nodes.redirect({ref: to for ref, to in instead.items() if ref not in fetched})
