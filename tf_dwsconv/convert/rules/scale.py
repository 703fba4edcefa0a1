"""Scales and offsets of channels that no convolution could take, as a 1x1 depthwise one.

One pass over memory takes the place of one for each scale, offset and activation.
"""

from __future__ import annotations

from typing import Any, Optional

import keras
import numpy as np

from tf_dwsconv._keras_graph import only_input
from tf_dwsconv.activations import NONE
from tf_dwsconv.convert import _grow, _read
from tf_dwsconv.convert._affine import Affine
from tf_dwsconv.convert._block import Block
from tf_dwsconv.convert._read import Convolution
from tf_dwsconv.convert._search import Search, no_objection

L = keras.layers


check = no_objection


def pattern(search: Search, node: Any) -> bool:
    """In a model that has a block, a layer that scales pictures whose channels are last."""
    if not search.blocks or not search.is_alone(node) or only_input(node) is None:
        return False
    x = only_input(node)
    is_picture = len(x.shape) == 4 and x.shape[3] is not None and keras.backend.is_float_dtype(x.dtype)
    return is_picture and isinstance(node.operation, keras.Layer) and _read.affine(node, "channels_last") is not None


def rewrite(search: Search, node: Any) -> Optional[Block]:
    x, layer = only_input(node), node.operation
    block = Block(x, x, "channels_last", _read.compute_dtype(node), layer, [], kind="scale")
    scale, shift, passes = 1.0, 0.0, 0
    while node is not None and (change := _read.affine(node, block.layout)) is not None:
        block.take(node)
        passes += _passes(node.operation, change)
        scale, shift = scale * change[0], shift * change[0] + change[1]
        node = search.next(block)
    _grow.take_activation(search, block, "depthwise_")
    if block.depthwise_activation == NONE:
        _grow.take_residual(search, block)
    if passes + (block.depthwise_activation != NONE) + (block.residual is not None) < 2:
        return None
    channels = x.shape[3]
    kernel = np.broadcast_to(np.reshape(scale, [1, 1, -1, 1]), [1, 1, channels, 1])
    block.depthwise = Convolution(layer, kernel, np.broadcast_to(shift, [channels]), depthwise=True)
    block.window = {"kernel_size": (1, 1)}
    return block


def _passes(layer: Any, change: tuple) -> int:
    """Passes over memory that a scale and an offset take without us."""
    if isinstance(layer, Affine):
        return layer.passes
    if isinstance(layer, (L.BatchNormalization, L.Normalization)):
        return 2  # whatever their numbers
    return int(np.any(np.not_equal(change[0], 1))) + int(np.any(change[1]))
