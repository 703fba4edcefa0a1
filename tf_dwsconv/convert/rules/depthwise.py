"""A depthwise or a separable convolution, and what follows: often a norm, a gate, a 1x1 convolution, a residual."""

from __future__ import annotations

from typing import Any, Optional

from tf_dwsconv._keras_graph import only_input
from tf_dwsconv.convert import _grow, _read
from tf_dwsconv.convert._block import Block
from tf_dwsconv.convert._search import Search, one_input


def pattern(search: Search, node: Any) -> bool:
    return _halves(node.operation) is not None


def check(search: Search, node: Any) -> str:
    if only_input(node) is None:
        return one_input(search, node)
    depthwise = _halves(node.operation)[0]
    if depthwise.activation is None:
        return f"the kernels do not know the activation {depthwise.function!r} of {node.operation.name!r}"
    return ""


def rewrite(search: Search, node: Any) -> Optional[Block]:
    x, layer = only_input(node), node.operation
    block = Block(x, x, _read.data_format(layer), _read.compute_dtype(node), layer, [])
    _grow.take_padding(search, block, search.graph.producer(x), node)
    return extend(search, block, node)


def extend(search: Search, block: Block, node: Any) -> Optional[Block]:
    """The block with the convolution of a call and what follows; None where that is not of this kind."""
    layer, halves = node.operation, _halves(node.operation)
    if halves is None or halves[0].activation is None:
        return None
    block.take(node)
    block.main = layer
    block.depthwise, block.pointwise = halves
    block.depthwise_activation = block.depthwise.activation
    block.window = {
        "kernel_size": block.depthwise.kernel.shape[:2],
        "strides": tuple(layer.strides),
        "dilation_rate": tuple(layer.dilation_rate),
        "padding": layer.padding,
        "depth_multiplier": block.depthwise.kernel.shape[3],
        **block.window,
    }
    if block.pointwise is None:
        return _grow.behind_depthwise(search, block)
    block.kind = "separable"
    return _grow.tail(search, block)


def _halves(layer: Any) -> Optional[tuple]:
    """The depthwise convolution of a layer, and its 1x1 convolution or None."""
    depthwise = _read.depthwise(layer)
    return _read.separable(layer) if depthwise is None else (depthwise, None)
