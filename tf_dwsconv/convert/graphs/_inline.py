"""Puts the bodies of functions in the place of their calls, so that what a graph computes lies in one graph.

What stays a call: functions that XLA is to compile, those of `While` and `If`, and what calls itself. A function for
XLA that is one convolution is put in place too: Keras wraps grouped ones so, as ConvNeXt's depthwise convolutions are.
"""

from __future__ import annotations

from typing import Any

from tensorflow.python.framework.function_def_to_graph import function_def_to_graph_def

from tf_dwsconv.convert.graphs._nodes import Nodes, attribute, is_stateful, node_of, outside

# What the body of one convolution consists of.
_ONE_CONVOLUTION = {"Conv2D", "ReadVariableOp", "Identity", "Const", "NoOp"}
_CALLS = ("PartitionedCall", "StatefulPartitionedCall")
# Deeper than this only what calls itself goes.
_MOST_PASSES = 32


def inline(nodes: Nodes, graph: Any) -> None:
    """Inlines all calls.

    Args:
        nodes: the graph; is changed.
        graph: the TensorFlow graph that it was taken from, which knows its ops and functions.
    """
    nodes.graph = graph
    for _ in range(_MOST_PASSES):
        calls = [node for node in nodes if _body_name(nodes, node)]
        if not calls:
            return
        for call in calls:
            _inline(nodes, graph, call)


def _body_name(nodes: Nodes, node: Any) -> str:
    """The function that a node calls and that may take its place; "" for none."""
    name = attribute(node, "f").func.name if node.op in _CALLS else node.op
    function = nodes.functions.get(name)
    if function is None or function.signature.attr:
        return ""
    ops = [inner.op for inner in function.node_def]
    if ops.count("Conv2D") == 1 and set(ops) <= _ONE_CONVOLUTION:
        return name
    stays = attribute(node, "_XlaMustCompile").b or attribute(function, "_XlaMustCompile").b
    return "" if stays or attribute(function, "_noinline").b else name


def _inline(nodes: Nodes, graph: Any, call: Any) -> None:
    function = nodes.functions[_body_name(nodes, call)]
    with graph.as_default():
        body, flat = function_def_to_graph_def(function)
    arguments = [argument.name for argument in function.signature.input_arg]
    given = dict(zip(arguments, (ref for ref in call.input if not ref.startswith("^"))))
    controls = [ref for ref in call.input if ref.startswith("^")]
    names = {node.name: nodes.new_name(f"{call.name}/{node.name}") for node in body.node if node.name not in given}

    for node in body.node:
        if node.name in given:
            continue
        refs = [outside(ref, given, names) for ref in node.input]
        # What has effects waits for what the call waited for.
        refs += [ref for ref in controls if ref not in refs] if is_stateful(node.op) else []
        node.name = names[node.name]
        del node.input[:]
        node.input.extend(refs)
        nodes.add(node)
    results = [outside(flat[function.ret[result.name]], given, names) for result in function.signature.output_arg]
    effects = [f"^{names[name]}" for name in function.control_ret.values() if name in names]
    nodes.redirect({f"{call.name}:{i}": ref for i, ref in enumerate(results)})
    # Others may wait for the call: they wait for this.
    call.op = "NoOp"
    call.attr.clear()
    del call.input[:]
    call.input.extend(dict.fromkeys([*effects, *(f"^{node_of(ref)}" for ref in results), *controls]))
