"""Convolutions of one dimension, read as those of pictures of one row.

The block that takes their place stands between two reshapes, which move nothing. Channels are last: with channels first
a row would not lie as the kernels read it.
"""

from __future__ import annotations

from typing import Any, Optional

import keras

from tf_dwsconv.convert import _read
from tf_dwsconv.convert._block import Block
from tf_dwsconv.convert._graph import only_input
from tf_dwsconv.convert._read import Convolution

L = keras.layers


def halves(layer: Any) -> Optional[tuple[Convolution, Optional[Convolution]]]:
    """The depthwise convolution of a layer of one dimension, and the 1x1 one behind it where that is in the layer."""
    if type(layer) not in (L.DepthwiseConv1D, L.SeparableConv1D) or not _read.is_plain(layer):
        return None
    if layer.data_format != "channels_last":
        return None
    if type(layer) is L.DepthwiseConv1D:
        kernel = _read.array(layer.kernel)[None]
        return _read.convolution(layer, kernel, layer.activation, layer.bias, depthwise=True), None
    first = _read.convolution(layer, _read.array(layer.depthwise_kernel)[None], None, depthwise=True)
    kernel = _read.array(layer.pointwise_kernel)[None]
    return first, _read.convolution(layer, kernel, layer.activation, layer.bias)


def window(layer: Any, depthwise: Convolution) -> dict:
    """What a block takes of a layer of one dimension: one row high."""
    return {
        "kernel_size": depthwise.kernel.shape[:2],
        "strides": (1, *layer.strides),
        "dilation_rate": (1, *layer.dilation_rate),
        "padding": layer.padding,
        "depth_multiplier": depthwise.kernel.shape[3],
    }


def pointwise(node: Any) -> Optional[Convolution]:
    """A 1x1 convolution of sequences, by Conv1D or by Dense."""
    layer = node.operation
    if type(layer) is L.Conv1D and layer.kernel_size == (1,) and tuple(layer.strides) == (1,) and layer.groups == 1:
        if layer.data_format != "channels_last" or not _read.is_plain(layer):
            return None
        return _read.convolution(layer, _read.array(layer.kernel)[None], layer.activation, layer.bias)
    if type(layer) is L.Dense and _read.is_plain(layer) and len(node.outputs[0].shape) == 3:
        return _read.convolution(layer, _read.array(layer.kernel)[None, None], layer.activation, layer.bias)
    return None


def to_row(channels: int, name: str, dtype: Any) -> Any:
    """The reshape in front of a block."""
    return L.Reshape((1, -1, channels), name=name, dtype=dtype)


def from_row(channels: int, name: str, dtype: Any) -> Any:
    """The reshape behind a block."""
    return L.Reshape((-1, channels), name=name, dtype=dtype)


class Sequences:
    """Methods of `Finder` (`_match.py`), which has the graph and the search along it."""

    reasons: dict[int, str]
    _behind_depthwise: Any
    _tail: Any

    def _sequence(self, node: Any) -> Optional[Block]:
        """A convolution of one dimension."""
        layer, x = node.operation, only_input(node)
        block = Block(x, x, "channels_last", _read.compute_dtype(node), layer, [], is_sequence=True)
        block.take(node)
        block.depthwise, block.pointwise = halves(layer)
        if block.depthwise.activation is None:
            self.reasons[id(node)] = f"the kernels do not know the activation of {layer.name!r}"
            return None
        block.window = window(layer, block.depthwise)
        block.depthwise_activation = block.depthwise.activation
        if block.pointwise is None:
            return self._behind_depthwise(block)
        block.is_separable = True
        return self._tail(block)
