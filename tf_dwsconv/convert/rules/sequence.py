"""A depthwise convolution of one dimension, which is one of pictures of one row, and what follows."""

from __future__ import annotations

from typing import Any

from tf_dwsconv._keras_graph import only_input
from tf_dwsconv.convert import _read
from tf_dwsconv.convert._block import Block
from tf_dwsconv.convert._search import Search
from tf_dwsconv.convert.rules import depthwise


def pattern(search: Search, node: Any) -> bool:
    is_alone = not search.graph.shared(node) and only_input(node) is not None
    return is_alone and _read.halves(node.operation, rank=3) is not None


def check(search: Search, node: Any) -> str:
    is_known = _read.halves(node.operation, rank=3)[0].activation is not None
    return "" if is_known else f"the kernels do not know the activation of {node.operation.name!r}"


def rewrite(search: Search, node: Any) -> Block:
    x, layer = only_input(node), node.operation
    block = Block(x, x, "channels_last", _read.compute_dtype(node), layer, [], is_sequence=True)
    return depthwise.extend(search, block, node, _read.halves(layer, rank=3))
