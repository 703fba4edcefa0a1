"""Swaps that change nothing in training: the same function of the same variables, so the same gradients and updates.

Batch norms that are trained need the mean and variance of what they normalise before one pixel goes on, so nothing is
fused across them, and nothing is folded.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Optional

import keras

from tf_dwsconv import activations
from tf_dwsconv.convert import _read
from tf_dwsconv.convert._graph import Graph, only_input
from tf_dwsconv.convert._rebuild import Emission, Step, copy_state, function_again
from tf_dwsconv.layers import DepthwiseSepConv2D

L = keras.layers


@dataclasses.dataclass
class Swap:
    """Some calls, and what takes their place."""

    pattern: str
    nodes: list
    emission: Emission


def same_layer(layer: Any, name: Optional[str] = None) -> Optional[Any]:
    """Our layer for a stock separable convolution, with the same variables; None for any other layer."""
    if type(layer) is not L.SeparableConv2D or getattr(layer, "quantization_mode", None) is not None:
        return None
    return DepthwiseSepConv2D.from_config({**layer.get_config(), "name": name or layer.name})


class ExactFinder:
    """Finds in one graph what may be swapped in training.

    Attributes:
        swaps: what was found.
        reasons: why a depthwise convolution is left alone, by the id of its node.
    """

    def __init__(self, graph: Graph):
        self.graph = graph
        self.reasons: dict[int, str] = {}
        self.swaps = [swap for node in graph.nodes if (swap := self._swap(node)) is not None]

    def _swap(self, node: Any) -> Optional[Swap]:
        layer = node.operation
        if type(layer) is L.SeparableConv2D and not self.graph.shared(node) and only_input(node) is not None:
            return self._separable(node)
        if type(layer) is L.DepthwiseConv2D:
            found = self._two_halves(node)
            if isinstance(found, Swap):
                return found
            self.reasons[id(node)] = found
        return None

    def _separable(self, node: Any) -> Optional[Swap]:
        nodes = [node, *self._activation_after(node)]
        new = same_layer(node.operation, self.graph.name(nodes))
        if new is None:
            return None
        if len(nodes) > 1:
            new.activation = _callable(nodes[1])
        step = Step(new, lambda: copy_state(node.operation, new))
        return Swap("separable", nodes, Emission([only_input(node)], [step], nodes[-1].outputs[0]))

    def _activation_after(self, node: Any) -> list:
        """The layer of an activation that may move into the layer in front of it; as a list of one, or of none."""
        layer, after = node.operation, self.graph.reader(node.outputs[0])
        if after is None or layer.activity_regularizer is not None or not self._fits(after, layer):
            return []
        fused = activations.parse(layer.activation)
        if fused is None or fused.word != "none" or not isinstance(after.operation, keras.Layer):
            return []
        return [after] if _read.activation(after) is not None else []

    def _fits(self, node: Any, layer: Any) -> bool:
        return (
            not self.graph.shared(node)
            and _read.compute_dtype(node) == layer.compute_dtype
            and getattr(node.operation, "activity_regularizer", None) is None
        )

    def _two_halves(self, node: Any) -> Any:
        """A depthwise and a 1x1 convolution with at most an activation between: a `Swap`, or why not."""
        depthwise = node.operation
        if self.graph.shared(node):
            return f"{depthwise.name!r} is called more than once"
        if only_input(node) is None:
            return f"{depthwise.name!r} is called with more than its input"
        nodes = [node, *self._activation_after(node)]
        own = activations.parse(depthwise.activation)
        if own is None:
            return f"the kernels do not know the activation of {depthwise.name!r}"
        middle = own if len(nodes) == 1 else _read.activation(nodes[1])
        after = self.graph.reader(nodes[-1].outputs[0])
        if after is None:
            result = nodes[-1].outputs[0]
            is_last = result is self.graph.only_output and not self.graph.readers(result)
            return "no 1x1 convolution follows" if is_last else self.graph.why_not_one_reader(result)
        if type(after.operation) is L.BatchNormalization:
            return f"{after.operation.name!r} follows, and nothing is fused across a batch norm that is trained"
        pointwise = after.operation
        if type(pointwise) is not L.Conv2D or _read.pointwise(after) is None or only_input(after) is None:
            return f"{pointwise.name!r} follows"
        if pointwise.data_format != depthwise.data_format or not self._same_training(after, depthwise):
            return f"{pointwise.name!r} differs from {depthwise.name!r} in `dtype`, `trainable` or `data_format`"
        nodes.append(after)
        if pointwise.activity_regularizer is None:
            nodes += self._activation_after(after)
        function, copy_function = function_again(pointwise.activation)
        layer = _joined(depthwise, middle, pointwise, function, self.graph.name(nodes))
        if nodes[-1] is not after:
            layer.activation = _callable(nodes[-1])

        def fill() -> None:
            copy_function()
            layer.depthwise_kernel.assign(depthwise.kernel.value)
            layer.pointwise_kernel.assign(pointwise.kernel.value)
            if depthwise.use_bias:
                layer.depthwise_bias.assign(depthwise.bias.value)
            if pointwise.use_bias:
                layer.bias.assign(pointwise.bias.value)

        emission = Emission([only_input(node)], [Step(layer, fill)], nodes[-1].outputs[0])
        return Swap("depthwise + 1x1", nodes, emission)

    def _same_training(self, node: Any, layer: Any) -> bool:
        other = node.operation
        return (
            self._fits(node, layer)
            and layer.activity_regularizer is None
            and other.dtype_policy == layer.dtype_policy
            and other.trainable == layer.trainable
        )


def _callable(node: Any) -> Any:
    """What the call of an activation applies, as a function with a config of its own."""
    return keras.activations.get(activations.as_callable(_read.activation(node)))


def _joined(depthwise: Any, middle: activations.Fused, pointwise: Any, function: Any, name: str) -> DepthwiseSepConv2D:
    options = {}
    for kind in ("initializer", "regularizer", "constraint"):
        options[f"depthwise_{kind}"] = getattr(depthwise, f"depthwise_{kind}")
        options[f"depthwise_bias_{kind}"] = getattr(depthwise, f"bias_{kind}")
        options[f"pointwise_{kind}"] = getattr(pointwise, f"kernel_{kind}")
        options[f"bias_{kind}"] = getattr(pointwise, f"bias_{kind}")
    return DepthwiseSepConv2D(
        pointwise.filters,
        depthwise.kernel_size,
        strides=depthwise.strides,
        padding=depthwise.padding,
        data_format=depthwise.data_format,
        dilation_rate=depthwise.dilation_rate,
        depth_multiplier=depthwise.depth_multiplier,
        activation=function,
        use_bias=pointwise.use_bias,
        depthwise_use_bias=depthwise.use_bias,
        depthwise_activation=activations.as_callable(middle),
        name=name,
        dtype=depthwise.dtype_policy,
        trainable=depthwise.trainable,
        **options,
    )
