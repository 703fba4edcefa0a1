"""Finds the depthwise-separable layers in the graph of a Keras model. Keras is imported where a model is read."""

from __future__ import annotations

import dataclasses
from typing import Any

from tf_dwsconv.analysis.problem import Problem

# Layers of Keras that may stand between a depthwise and a pointwise convolution.
_PASSED_OVER = (
    "BatchNormalization", "Activation", "ReLU", "LeakyReLU", "ELU", "PReLU", "Dropout", "SpatialDropout2D",
)  # fmt: skip
# By name: the classes wake TensorFlow, which a stock model on another backend does not need.
_BLOCK, _NETWORK = "tf_dwsconv>FusedConvBlock", "tf_dwsconv>FusedNetwork"


@dataclasses.dataclass(frozen=True)
class Call:
    """One call of a DWS layer: kind "dws", or "depthwise" without a pointwise half.

    E: channels in front of a fused block's expansion to `problem.C`, which `problem` does not count; else 0.
    """

    name: str
    kind: str
    problem: Problem
    dtype: str
    E: int = 0


def dws_calls(model: Any, batch_size: int, prefix: str = "") -> list[Call]:
    """The calls in a built Functional or Sequential model, inner models included, in the order of its graph."""
    import keras

    from tf_dwsconv import _keras_graph

    if not _keras_graph.has_nodes(model):
        raise ValueError(
            f"model must be a built Functional or Sequential model; given {type(model).__name__} "
            f"{model.name!r}, which has no graph of layers"
        )
    graph = _keras_graph.Graph(model)
    passed_over = tuple(getattr(keras.layers, name) for name in _PASSED_OVER)
    calls = []
    for node in graph.nodes:
        layer = node.operation
        if isinstance(layer, keras.Model):
            calls += dws_calls(layer, batch_size, f"{prefix}{layer.name}/")
        elif keras.saving.get_registered_name(type(layer)) == _BLOCK:
            if layer.kernel_size is not None:
                calls.append(_block_call(node, batch_size, prefix))
        elif keras.saving.get_registered_name(type(layer)) == _NETWORK:
            calls += _network_calls(node, batch_size, prefix)
        elif isinstance(layer, keras.layers.SeparableConv2D):
            calls.append(_call(graph, node, batch_size, prefix, layer.filters))
        elif isinstance(layer, keras.layers.DepthwiseConv2D):
            last = graph.reader(node.outputs[0])
            while last is not None and isinstance(last.operation, passed_over):
                last = graph.reader(last.outputs[0])
            is_conv = last is not None and isinstance(last.operation, keras.layers.Conv2D)
            is_pointwise = is_conv and _keras_graph.is_one_by_one(last.operation)
            calls.append(_call(graph, node, batch_size, prefix, last.operation.filters if is_pointwise else None))
    return calls


def _call(graph, node, batch_size, prefix, filters):
    """`filters`: of the pointwise half; None where there is none."""
    from keras.layers import ZeroPadding2D

    layer, tensor, padding = node.operation, node.input_tensors[0], node.operation.padding.upper()
    before = graph.producer(tensor)
    pads = before is not None and isinstance(before.operation, ZeroPadding2D)
    if padding == "VALID" and pads and before.operation.data_format == layer.data_format:
        padding = before.operation.padding
        tensor = before.input_tensors[0]
    problem = _problem(layer, tensor, batch_size, filters, padding)
    return Call(prefix + layer.name, "dws" if filters else "depthwise", problem, layer.compute_dtype)


def _block_call(node, batch_size, prefix):
    """Of a `FusedConvBlock` with a depthwise convolution."""
    layer, tensor = node.operation, node.input_tensors[0]
    padding = layer.padding.upper() if isinstance(layer.padding, str) else layer.padding
    problem = _problem(layer, tensor, batch_size, layer.filters, padding, layer.expand_filters)
    channels = tensor.shape[1 if layer.data_format == "channels_first" else 3]
    kind = "dws" if layer.filters else "depthwise"
    return Call(prefix + layer.name, kind, problem, layer.compute_dtype, channels if layer.expand_filters else 0)


def _network_calls(node, batch_size, prefix):
    """Of a `FusedNetwork`: its chains that have a depthwise convolution, by the names of their steps."""
    from tf_dwsconv import _program, _program_shapes

    layer = node.operation
    program = _program.Program.from_text(layer.program)
    shapes = [(tensor.shape[0] or batch_size, *tensor.shape[1:]) for tensor in node.input_tensors]
    found = _program_shapes.infer(program, shapes)
    calls = []
    for step in program.steps:
        filters = {name: program.weights[index].shape for name, index in step.weights.items()}
        if "depthwise_filter" not in filters:
            continue
        n, height, width, channels = found[step.reads["x"]]
        if None in (height, width):
            raise ValueError(
                f"model must have a fixed input size for its costs to be known, but step {step.name!r} of layer "
                f"{layer.name!r} has an input of shape {(n, height, width, channels)}"
            )
        window, options = filters["depthwise_filter"], step.options
        projects = "pointwise_filter" in filters
        K = filters["pointwise_filter"][3] if projects else 1
        padding = options["padding"].upper() if isinstance(options["padding"], str) else options["padding"]
        sizes = n, height, width, window[2], K, window[0], window[1], window[3]
        problem = Problem(*sizes, options["strides"], options["dilations"], padding)
        E = channels if "expand_filter" in filters else 0
        calls.append(Call(prefix + step.name, "dws" if projects else "depthwise", problem, layer.compute_dtype, E))
    return calls


def _problem(layer, tensor, batch_size, filters, padding, expanded=None):
    """`expanded`: channels behind an expansion, which are the problem's."""
    n, *sizes = tensor.shape
    channels, height, width = sizes if layer.data_format == "channels_first" else (sizes[2], *sizes[:2])
    if None in (channels, height, width):
        raise ValueError(
            f"model must have a fixed input size for its costs to be known, but layer {layer.name!r} has "
            f"an input of shape {tuple(tensor.shape)}"
        )
    sizes = n or batch_size, height, width, expanded or channels, filters or 1, *layer.kernel_size
    return Problem(*sizes, layer.depth_multiplier, tuple(layer.strides), tuple(layer.dilation_rate), padding)
