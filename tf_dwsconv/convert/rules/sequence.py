"""A depthwise convolution of one dimension, which is one of pictures of one row, and what follows."""

from __future__ import annotations

from typing import Any

from tf_dwsconv._keras_graph import only_input
from tf_dwsconv.convert import _grow, _read
from tf_dwsconv.convert._block import Block
from tf_dwsconv.convert._search import Search


def pattern(search: Search, node: Any) -> bool:
    is_alone = not search.graph.shared(node) and only_input(node) is not None
    return is_alone and _read.sequence(node.operation) is not None


def check(search: Search, node: Any) -> str:
    is_known = _read.sequence(node.operation)[0].activation is not None
    return "" if is_known else f"the kernels do not know the activation of {node.operation.name!r}"


def rewrite(search: Search, node: Any) -> Block:
    layer, x = node.operation, only_input(node)
    block = Block(x, x, "channels_last", _read.compute_dtype(node), layer, [], is_sequence=True)
    block.take(node)
    block.depthwise, block.pointwise = _read.sequence(layer)
    block.depthwise_activation = block.depthwise.activation
    block.window = {
        "kernel_size": block.depthwise.kernel.shape[:2],
        "strides": (1, *layer.strides),
        "dilation_rate": (1, *layer.dilation_rate),
        "padding": layer.padding,
        "depth_multiplier": block.depthwise.kernel.shape[3],
    }
    if block.pointwise is None:
        return _grow.behind_depthwise(search, block)
    block.kind = "separable"
    return _grow.tail(search, block)
