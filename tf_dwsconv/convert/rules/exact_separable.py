"""In training: a stock separable convolution becomes ours, with the same variables, and takes an activation along.

So gradients and updates are the same.
"""

from __future__ import annotations

from typing import Any, Optional

import keras

from tf_dwsconv import activations
from tf_dwsconv._keras_graph import only_input
from tf_dwsconv.convert import _activations, _read
from tf_dwsconv.convert._block import Emission, Step, Swap
from tf_dwsconv.convert._copy import copy_state
from tf_dwsconv.convert._search import Search, no_objection
from tf_dwsconv.layers import DepthwiseSepConv2D

L = keras.layers


check = no_objection


def pattern(search: Search, node: Any) -> bool:
    is_called_once = not search.graph.shared(node) and only_input(node) is not None
    return type(node.operation) is L.SeparableConv2D and is_called_once


def rewrite(search: Search, node: Any) -> Optional[Swap]:
    nodes = [node, *activation_after(search, node)]
    name = search.graph.name(nodes)
    new = same_layer(node.operation, name)
    if new is None:
        return None
    if len(nodes) > 1:
        new.activation = function_of(nodes[1])
    step = Step(new, lambda: copy_state(node.operation, new))
    return Swap("separable", nodes, name, Emission([only_input(node)], [step], nodes[-1].outputs[0]))


def same_layer(layer: Any, name: Optional[str] = None) -> Optional[Any]:
    """Our layer for a stock separable convolution, with the same variables; None for any other layer."""
    if type(layer) is not L.SeparableConv2D or getattr(layer, "quantization_mode", None) is not None:
        return None
    return DepthwiseSepConv2D.from_config({**layer.get_config(), "name": name or layer.name})


def activation_after(search: Search, node: Any) -> list:
    """The call of an activation that may move into the layer in front of it; as a list of one, or of none."""
    layer, after = node.operation, search.graph.reader(node.outputs[0])
    if after is None or layer.activity_regularizer is not None or not fits(search, after, layer):
        return []
    own = activations.parse(getattr(layer, "activation", None))
    if own is None or own.word != "none" or not isinstance(after.operation, keras.Layer):
        return []
    return [after] if _activations.of_one_call(after) is not None else []


def alone(search: Search, node: Any, kind: Any, pattern: str) -> Swap:
    """A layer by itself as one of ours of the same config and variables, with an activation that follows."""
    old, nodes = node.operation, [node, *activation_after(search, node)]
    name = search.graph.name(nodes)
    new = kind.from_config({**old.get_config(), "name": name})
    if len(nodes) > 1:
        new.activation = function_of(nodes[1])
    emission = Emission([only_input(node)], [Step(new, lambda: copy_state(old, new))], nodes[-1].outputs[0])
    return Swap(pattern, nodes, name, emission, search.reasons.get(id(node), ""))  # with why it goes alone


def fits(search: Search, node: Any, layer: Any) -> bool:
    """Whether a call may move into another layer."""
    is_regular = getattr(node.operation, "activity_regularizer", None) is None
    return is_regular and not search.graph.shared(node) and _read.compute_dtype(node) == layer.compute_dtype


def function_of(node: Any) -> Any:
    """What the call of an activation applies, as a function with a config of its own."""
    return keras.activations.get(activations.as_callable(_activations.of_one_call(node)))
