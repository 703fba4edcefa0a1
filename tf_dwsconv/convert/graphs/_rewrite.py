"""Puts what the search found into a GraphDef: our op, or a folded convolution, in the place of some nodes.

The layers of a find are called once in a graph of their own, with their weights as constants. The nodes of that graph
take the place of the old ones: the last of them gets the old name, so what reads it need not be changed, and what
nothing reads any more is left out.
"""

from __future__ import annotations

from typing import Any, Optional

import keras
import numpy as np
import tensorflow as tf

from tf_dwsconv._arguments import numpy_dtype
from tf_dwsconv.convert._block import Emission, Folded
from tf_dwsconv.convert.graphs import _freeze
from tf_dwsconv.convert.graphs._nodes import Nodes, node_of, outside, tensor_of


def put(nodes: Nodes, found: Any, emission: Emission, inputs: list[str], out: str) -> None:
    """Puts a find into a graph.

    Args:
        nodes: the graph; is changed. `_freeze.plain` takes out what it leaves behind.
        found, emission: of the search.
        inputs: tensors of the graph, as the find reads them.
        out: the tensor whose place its result takes.
    """
    specs = [tf.TensorSpec(t.shape, t.dtype) for t in emission.inputs]
    if isinstance(found, Folded):
        place(nodes, trace(lambda x: _folded(found, x), specs), inputs, [out])
    else:
        put_layers(nodes, emission, specs, inputs, out)


def put_layers(nodes: Nodes, emission: Emission, specs: list, inputs: list[str], out: str) -> None:
    """Puts layers into a graph, as `put`; `specs` are those of the inputs."""
    emission.call([keras.Input(batch_shape=spec.shape.as_list(), dtype=spec.dtype.name) for spec in specs])
    layers = [step.layer for step in emission.steps]
    prepared = [step.prepare for step in emission.steps if step.prepare is not None]
    values = [(v, v.numpy()) for layer in (*layers, *prepared) for v in layer.variables]

    def call(*tensors: Any) -> Any:
        with keras.StatelessScope(state_mapping=[(v, tf.constant(value)) for v, value in values]):
            return emission.call(list(tensors))

    place(nodes, trace(call, specs), inputs, [out])


def _folded(found: Folded, x: Any) -> Any:
    """A stock convolution with what was folded into it."""
    layer, convolution = found.convolution.layer, found.convolution
    settings = {key: getattr(layer, key) for key in ("strides", "padding", "dilation_rate", "data_format")}
    settings.update({key: value for key, value in found.window.items() if key in settings})
    kernel, bias = (
        None if value is None else np.asarray(value, np.float64).astype(numpy_dtype(x.dtype.name))
        for value in (convolution.kernel, convolution.bias)
    )
    layout = "NHWC" if settings["data_format"] == "channels_last" else "NCHW"
    padding, dilations = settings["padding"].upper(), list(settings["dilation_rate"])
    if convolution.depthwise:
        ones = (lambda pair: [1, *pair, 1]) if layout == "NHWC" else (lambda pair: [1, 1, *pair])
        y = tf.nn.depthwise_conv2d(x, kernel, ones(settings["strides"]), padding, layout, dilations)
    else:
        y = tf.nn.conv2d(x, kernel, list(settings["strides"]), padding, layout, dilations)
    return y if bias is None else tf.nn.bias_add(y, bias, layout)


def trace(function: Any, specs: list) -> Any:
    """The graph of a function, as TensorFlow traces it."""
    return tf.function(function, autograph=False).get_concrete_function(*specs).graph


def place(nodes: Nodes, graph: Any, inputs: list[str], outs: list[str]) -> dict[str, str]:
    """Puts a traced graph into another one, in the place of the nodes of some tensors.

    Args:
        nodes: the graph; is changed.
        graph: without captures.
        inputs: what it reads, as tensors of `nodes`.
        outs: the tensors that its results replace.

    Returns:
        Under which name each of `outs` is found now, of those that do not keep theirs.
    """
    old = node_of(outs[-1])
    if graph.captures:
        raise ValueError(f"what takes the place of {old!r} holds state")
    part = Nodes(graph.as_graph_def(), [t.name for t in graph.outputs], [t.op.name for t in graph.inputs])
    _freeze.tidy(part)
    results = [_without_identities(part, ref) for ref in part.fetches]
    given = dict(zip((t.op.name for t in graph.inputs), inputs))
    # A result that is one of several, or an input itself, is handed on by a node of the old name.
    takes_name = len(outs) == 1 and results[0] not in {f"{name}:0" for name in given}
    takes_name = takes_name and results[0].endswith(":0") and outs[0].endswith(":0")
    names: dict[str, str] = {}
    for node in part:
        if node.name not in given:
            is_last = takes_name and node.name == node_of(results[0])
            names[node.name] = old if is_last else nodes.new_name(f"{old}/{node.name.rpartition('/')[2]}")
            if not is_last:
                nodes.add(tf.compat.v1.NodeDef(name=names[node.name]))

    for node in part:
        if node.name in names:
            node.input[:] = [outside(ref, given, names) for ref in node.input]
            node.name = names[node.name]
            nodes.add(node)
    if takes_name:
        return {}
    moved = {out: outside(result, given, names) for out, result in zip(outs, results)}
    nodes.redirect(moved)
    return moved


def _without_identities(part: Nodes, ref: str) -> str:
    """The tensor that a result is, behind nodes that hand it on."""
    node: Optional[Any] = part.producer(ref)
    while node is not None and node.op == "Identity" and len(node.input) == 1:
        ref = tensor_of(node.input[0])
        node = part.producer(ref)
    return ref
