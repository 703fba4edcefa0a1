"""Goes along a graph and tries the rules at each call.

A rule (`rules/`) is a module with three functions of a search and a call:

    pattern: whether the rule is about such a call.
    check:   why it does not apply to this one, in words for the report; "" where it does.
    rewrite: what it makes of the call and its neighbours, a find of `_block.py`; None where that comes to nothing.

What comes first in the graph takes what it can use: a 1x1 convolution between two depthwise ones ends the first block,
and does not begin the second.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Optional

import keras

from tf_dwsconv._keras_graph import Graph, only_input
from tf_dwsconv.convert import _read
from tf_dwsconv.convert._block import Block

L = keras.layers

_CONVOLUTIONS = (L.Conv2D, L.DepthwiseConv2D, L.SeparableConv2D)


class Search:
    """Finds all that some rules can rewrite in one graph.

    Args:
        graph: the model's.
        passes: the rules of each way along the graph, in the order in which they are tried at a call.

    Attributes:
        found: what was found.
        reasons: why a call begins nothing, by the id of its node; for calls that could.
    """

    def __init__(self, graph: Graph, passes: Sequence[Sequence[Any]]):
        self.graph = graph
        self.found: list = []
        self.reasons: dict[int, str] = {}
        self._taken: set[int] = set()
        self._names = {node.operation.name for node in graph.nodes}
        for rules in passes:
            for node in graph.nodes:
                if id(node) not in self._taken:
                    self._try(rules, node)

    @property
    def blocks(self) -> list[Block]:
        return [found for found in self.found if isinstance(found, Block)]

    def _try(self, rules: Sequence[Any], node: Any) -> None:
        for rule in rules:
            if not rule.pattern(self, node):
                continue
            reason = rule.check(self, node)
            found = None if reason else rule.rewrite(self, node)
            # A copy of a shared layer for each call is worth its memory where each has a norm of its own.
            has_norm = found is not None and any(type(n.operation) is L.BatchNormalization for n in found.nodes)
            if isinstance(found, Block) and self.graph.shared(node) and not has_norm:
                reason, found = called_more_than_once(node), None
            if found is not None:
                self._add(found)
                self.reasons.pop(id(node), None)
                return
            if reason:
                self.reasons[id(node)] = reason
                return

    def _add(self, found: Any) -> None:
        """Puts a find among the others, under a name of its own."""
        found.name = self.graph.name(found.nodes)
        if isinstance(found, Block):
            layer = next((n.operation for n in found.nodes if n.operation.name == found.name), found.main)
            if any(n.operation is layer and self.graph.shared(n) for n in found.nodes):
                found.name = self._copy_name(layer)
        self.found.append(found)
        self._taken.update(map(id, found.nodes))

    def _copy_name(self, layer: Any) -> str:
        """A name for a copy of a layer that others call as well."""
        number = 1
        while f"{layer.name}_{number}" in self._names:
            number += 1
        self._names.add(f"{layer.name}_{number}")
        return f"{layer.name}_{number}"

    def usable(self, node: Any, block: Optional[Block] = None) -> bool:
        """Whether a call may be a part of a block: no other call uses the layer, and it computes in the same type.

        A block that begins with a copy of a shared convolution may go on with another.
        """
        if node is None or id(node) in self._taken:
            return False
        copies = block is not None and bool(block.nodes) and self.graph.shared(block.nodes[0])
        if self.graph.shared(node) and not (copies and isinstance(node.operation, _CONVOLUTIONS)):
            return False
        return block is None or _read.compute_dtype(node) == block.dtype

    def is_alone(self, node: Any) -> bool:
        """Whether a call may be taken, and is the only one of its layer."""
        return self.usable(node) and not self.graph.shared(node)

    def next(self, block: Block) -> Optional[Any]:
        """The call that reads the block's result, if it is the only one and may be taken."""
        node = self.graph.reader(block.out)
        return node if self.usable(node, block) else None

    def why_it_ends(self, block: Block) -> str:
        """Why `next` is None."""
        node = self.graph.reader(block.out)
        if node is None:
            return self.why_no_reader(block.out)
        if self.graph.shared(node):
            return called_more_than_once(node)
        if _read.compute_dtype(node) != block.dtype:
            return f"{node.operation.name!r} computes in {_read.compute_dtype(node)}"
        owner = next(found.name for found in self.found if any(n is node for n in found.nodes))
        return f"{node.operation.name!r} belongs to the block of {owner!r}"

    def why_no_reader(self, tensor: Any, last: str = "") -> str:
        """Why a tensor has no reader that may be taken; `last` where it is the model's only result."""
        if tensor is self.graph.only_output and not self.graph.readers(tensor):
            return last
        return self.graph.why_not_one_reader(tensor)


def called_more_than_once(node: Any) -> str:
    return f"{node.operation.name!r} is called more than once"


def no_objection(search: Search, node: Any) -> str:
    """The check of a rule that applies wherever its pattern is."""
    return ""


def one_input(search: Search, node: Any) -> str:
    """The check of a rule about calls with one input."""
    return f"{node.operation.name!r} is called with more than its input" if only_input(node) is None else ""
