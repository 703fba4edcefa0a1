"""A dense 1x1 convolution in front of a depthwise one, and what follows: an inverted residual, say."""

from __future__ import annotations

from typing import Any, Optional

from tf_dwsconv._keras_graph import only_input
from tf_dwsconv.convert import _grow, _read
from tf_dwsconv.convert._block import Block
from tf_dwsconv.convert._search import Search
from tf_dwsconv.convert.rules import depthwise, pointwise

pattern, check = pointwise.pattern, pointwise.check


def rewrite(search: Search, node: Any) -> Optional[Block]:
    block, expand = pointwise.begin(search, node)
    if block.gate is not None or expand.activation is None:
        return None
    block.expand = expand
    if expand.is_linear:
        _grow.take_scales(search, block, expand)
        _grow.take_activation(search, block, "expand_")
    else:
        block.expand_activation = expand.activation
    following = search.next(block)
    if following is not None and _read.zero_padding(following) is not None:
        after = search.graph.reader(following.outputs[0])
        if after is None or not _grow.take_padding(search, block, following, after, forward=True):
            return None
        following = after
    if not search.usable(following, block) or only_input(following) is None:
        return None
    if _read.data_format(following.operation) != block.layout:
        return None
    halves = _read.halves(following.operation)
    if halves is None or halves[0].activation is None:
        return None
    return depthwise.extend(search, block, following, halves)
