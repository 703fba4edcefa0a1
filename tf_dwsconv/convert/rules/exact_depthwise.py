"""In training: a depthwise convolution that nothing is fused with becomes ours, with the same variables.

It takes an activation along. So results, gradients and updates are the same.
"""

from __future__ import annotations

from typing import Any

import keras

from tf_dwsconv._keras_graph import only_input
from tf_dwsconv.convert._block import Emission, Step, Swap
from tf_dwsconv.convert._copy import copy_state
from tf_dwsconv.convert._search import Search, called_more_than_once, one_input
from tf_dwsconv.convert.rules.exact_separable import activation_after, function_of
from tf_dwsconv.layers import FusedDepthwiseConv2D

L = keras.layers


def pattern(search: Search, node: Any) -> bool:
    is_float = getattr(node.operation, "quantization_mode", None) is None
    return type(node.operation) is L.DepthwiseConv2D and is_float


def check(search: Search, node: Any) -> str:
    return called_more_than_once(node) if search.graph.shared(node) else one_input(search, node)


def rewrite(search: Search, node: Any) -> Swap:
    depthwise, nodes = node.operation, [node, *activation_after(search, node)]
    name = search.graph.name(nodes)
    new = FusedDepthwiseConv2D.from_config({**depthwise.get_config(), "name": name})
    if len(nodes) > 1:
        new.activation = function_of(nodes[1])
    step = Step(new, lambda: copy_state(depthwise, new))
    note = search.reasons.get(id(node), "")  # why it goes alone
    return Swap("depthwise", nodes, name, Emission([only_input(node)], [step], nodes[-1].outputs[0]), note)
