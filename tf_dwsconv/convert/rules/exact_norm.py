"""In training: a stock batch norm becomes ours, with the same variables, and takes an activation along.

So results, gradients and updates are the same.
"""

from __future__ import annotations

from typing import Any

import keras

from tf_dwsconv._keras_graph import only_input
from tf_dwsconv.convert._block import Swap
from tf_dwsconv.convert._search import Search, called_more_than_once, one_input
from tf_dwsconv.convert.rules.exact_separable import alone
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
    return alone(search, node, FusedBatchNormalization, "batch norm")
