"""A Dense behind the last pictures, whose rows are pictures of one pixel."""

from __future__ import annotations

from typing import Any

from tf_dwsconv._keras_graph import only_input
from tf_dwsconv.convert import _grow, _read
from tf_dwsconv.convert._block import Block
from tf_dwsconv.convert._search import Search, no_objection

check = no_objection


def pattern(search: Search, node: Any) -> bool:
    """In a model that has a block, a Dense of one vector of channels for each picture, as behind a global pooling."""
    is_alone = bool(search.blocks) and search.is_alone(node) and only_input(node) is not None
    return is_alone and _read.pointwise(node, rank=2) is not None


def rewrite(search: Search, node: Any) -> Block:
    block = Block(only_input(node), None, "channels_last", _read.compute_dtype(node), node.operation, [], kind="dense")
    block.take(node)
    block.pointwise = _read.pointwise(node, rank=2)
    return _grow.tail(search, block)
