"""Parallel branches that add, as one convolution: the blocks of RepVGG and MobileOne as they are trained."""

from __future__ import annotations

from typing import Any, Optional, Union

from tf_dwsconv._keras_graph import only_input
from tf_dwsconv.convert import _branches, _cost, _grow, _read
from tf_dwsconv.convert._block import Block, Folded
from tf_dwsconv.convert._search import Search, one_input

check = one_input


def pattern(search: Search, node: Any) -> bool:
    """Any convolution: the first that a tensor's readers come to."""
    layer = node.operation
    kinds = (_read.halves, _read.dense, _read.foldable)
    return any(kind(layer) is not None for kind in kinds) or _read.pointwise(node) is not None


def rewrite(search: Search, node: Any) -> Optional[Union[Block, Folded]]:
    x, layout, dtype = only_input(node), _read.data_format(node.operation), _read.compute_dtype(node)
    before = search.graph.producer(x)
    if before is not None and _read.zero_padding(before) is not None:
        x = only_input(before)
    found = _branches.find(search, x, layout, dtype)
    if found is None or not any(n is node for n in found.nodes):
        return None
    convolution, window = found.convolution, found.window
    block = Block(x, found.out, layout, dtype, convolution.layer, list(found.nodes))
    if convolution.depthwise:
        block.depthwise = convolution
        block.window = {**window, "depth_multiplier": convolution.kernel.shape[3]}
        return _grow.behind_depthwise(search, block)
    if not _cost.dense_pays(window["kernel_size"], *convolution.kernel.shape[2:], window["strides"]):
        return found if isinstance(window["padding"], str) else None  # TensorFlow's own computes it faster
    block.pointwise = convolution
    if window["kernel_size"] != (1, 1) or window["strides"] != (1, 1):
        block.kind = "convolution"
        block.window = {**window, "dense_kernel_size": window["kernel_size"]}
        del block.window["kernel_size"]
    return _grow.tail(search, block)
