"""In training: a stock batch norm becomes ours, with the same variables, and takes an activation along.

So results, gradients and updates are the same.
"""

from __future__ import annotations

from typing import Any

import keras

from tf_dwsconv._keras_graph import only_input
from tf_dwsconv.convert._block import Emission, Step, Swap
from tf_dwsconv.convert._copy import copy_state
from tf_dwsconv.convert._search import Search, called_more_than_once, one_input
from tf_dwsconv.convert.rules.exact_separable import activation_after, function_of
from tf_dwsconv.layers import FusedBatchNormalization

L = keras.layers


def pattern(search: Search, node: Any) -> bool:
    return type(node.operation) is L.BatchNormalization


def check(search: Search, node: Any) -> str:
    norm = node.operation
    if search.graph.shared(node):
        return called_more_than_once(node)
    if only_input(node) is None:
        return one_input(search, node)
    if norm.axis not in (-1, len(node.outputs[0].shape) - 1):
        return f"the channels of {norm.name!r} are not its last axis"
    word = next((word for word in ("renorm", "synchronized") if getattr(norm, word)), None)
    return "" if word is None else f"{norm.name!r} has `{word}`"


def rewrite(search: Search, node: Any) -> Swap:
    norm, nodes = node.operation, [node, *activation_after(search, node)]
    name = search.graph.name(nodes)
    new = FusedBatchNormalization.from_config({**norm.get_config(), "name": name})
    if len(nodes) > 1:
        new.activation = function_of(nodes[1])
    step = Step(new, lambda: copy_state(norm, new))
    return Swap("batch norm", nodes, name, Emission([only_input(node)], [step], nodes[-1].outputs[0]))
