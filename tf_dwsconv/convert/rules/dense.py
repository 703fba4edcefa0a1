"""A dense convolution of few channels, as a network's first is, and what follows."""

from __future__ import annotations

from typing import Any

from tf_dwsconv._keras_graph import only_input
from tf_dwsconv.convert import _grow, _read
from tf_dwsconv.convert._block import Block
from tf_dwsconv.convert._search import Search, one_input

check = one_input


def pattern(search: Search, node: Any) -> bool:
    """One that the kernel computes as fast as TensorFlow's; `_cost` has the sizes."""
    return _read.dense(node.operation) is not None


def rewrite(search: Search, node: Any) -> Block:
    x, layer = only_input(node), node.operation
    block = Block(x, x, _read.data_format(layer), _read.compute_dtype(node), layer, [], kind="convolution")
    _grow.take_padding(search, block, search.graph.producer(x), node)
    block.take(node)
    block.pointwise = _read.dense(layer)
    block.window = {
        "dense_kernel_size": tuple(layer.kernel_size),
        "strides": tuple(layer.strides),
        "dilation_rate": tuple(layer.dilation_rate),
        "padding": layer.padding,
        **block.window,
    }
    return _grow.tail(search, block)
