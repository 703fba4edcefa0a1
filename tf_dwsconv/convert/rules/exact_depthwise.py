"""In training: a depthwise convolution that nothing is fused with becomes ours, with the same variables.

It takes an activation along. So results, gradients and updates are the same.
"""

from __future__ import annotations

from typing import Any

import keras

from tf_dwsconv.convert._block import Swap
from tf_dwsconv.convert._search import Search, called_more_than_once, one_input
from tf_dwsconv.convert.rules.exact_separable import alone
from tf_dwsconv.layers import FusedDepthwiseConv2D

L = keras.layers


def pattern(search: Search, node: Any) -> bool:
    is_float = getattr(node.operation, "quantization_mode", None) is None
    return type(node.operation) is L.DepthwiseConv2D and is_float


def check(search: Search, node: Any) -> str:
    return called_more_than_once(node) if search.graph.shared(node) else one_input(search, node)


def rewrite(search: Search, node: Any) -> Swap:
    return alone(search, node, FusedDepthwiseConv2D, "depthwise")
