"""A dense 1x1 convolution with no depthwise one in front, and what follows."""

from __future__ import annotations

from typing import Any

from tf_dwsconv._keras_graph import only_input
from tf_dwsconv.convert import _grow, _read
from tf_dwsconv.convert._block import Block
from tf_dwsconv.convert._read import Convolution
from tf_dwsconv.convert._search import Search, one_input

check = one_input


def pattern(search: Search, node: Any) -> bool:
    return _read.pointwise(node) is not None


def rewrite(search: Search, node: Any) -> Block:
    block, block.pointwise = begin(search, node)
    return _grow.tail(search, block)


def begin(search: Search, node: Any) -> tuple[Block, Convolution]:
    """A block that ends at a 1x1 convolution, with a gate or a batch norm that stands in front of it."""
    x, layer = only_input(node), node.operation
    block = Block(x, x, _read.data_format(layer), _read.compute_dtype(node), layer, [])
    convolution = _read.pointwise(node)
    before = search.graph.producer(x)
    if search.usable(before, block) and search.graph.reader(block.x) is node:
        gate = _grow.find_gate(block, before)
        change = _read.affine(before, block.layout) if only_input(before) is not None else None
        if gate is not None:
            block.gate = gate
            block.x = next(t for t in before.arguments.keras_tensors if t is not gate)
            block.nodes.append(before)
        elif change is not None:
            convolution.scale_inputs(*change)
            block.x = only_input(before)
            block.nodes.append(before)
    block.take(node)
    return block, convolution
