"""A depthwise or a separable convolution, and what follows: often a norm, a gate, a 1x1 convolution, a residual."""

from __future__ import annotations

from typing import Any

from tf_dwsconv._keras_graph import only_input
from tf_dwsconv.convert import _grow, _read
from tf_dwsconv.convert._block import Block
from tf_dwsconv.convert._search import Search, one_input


def pattern(search: Search, node: Any) -> bool:
    return _read.halves(node.operation) is not None


def check(search: Search, node: Any) -> str:
    depthwise = _read.halves(node.operation)[0]
    if depthwise.activation is None:
        reason = f"the kernels do not know the activation {depthwise.function!r} of {node.operation.name!r}"
        return one_input(search, node) or reason
    return one_input(search, node)


def rewrite(search: Search, node: Any) -> Block:
    x, layer = only_input(node), node.operation
    block = Block(x, x, _read.data_format(layer), _read.compute_dtype(node), layer, [])
    _grow.take_padding(search, block, search.graph.producer(x), node)
    return extend(search, block, node, _read.halves(layer))


def extend(search: Search, block: Block, node: Any, halves: tuple) -> Block:
    """The block with the convolutions of a call and what follows."""
    layer, rows = node.operation, (1,) if block.is_sequence else ()
    block.take(node)
    block.main = layer
    block.depthwise, block.pointwise = halves
    block.depthwise_activation = block.depthwise.activation
    block.window = {
        "kernel_size": block.depthwise.kernel.shape[:2],
        "strides": (*rows, *layer.strides),
        "dilation_rate": (*rows, *layer.dilation_rate),
        "padding": layer.padding,
        "depth_multiplier": block.depthwise.kernel.shape[3],
        **block.window,
    }
    if block.pointwise is None:
        return _grow.behind_depthwise(search, block)
    block.kind = "separable"
    return _grow.tail(search, block)
