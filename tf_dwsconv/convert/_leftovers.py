"""What a search for blocks takes last: scales of pictures, Dense layers on rows, batch norms to fold."""

from __future__ import annotations

from typing import Any, Optional

import keras
import numpy as np

from tf_dwsconv.activations import NONE
from tf_dwsconv.convert import _read
from tf_dwsconv.convert._block import Block, FoldedConvolution
from tf_dwsconv.convert._graph import called_in_training, only_input
from tf_dwsconv.convert._read import Convolution

L = keras.layers


class Leftovers:
    """Methods of `Finder` (`_match.py`), which has the graph and the search along it."""

    graph: Any
    _usable: Any
    _next: Any
    _affine: Any
    _activation: Any
    _with_residual: Any
    _tail: Any

    def _scale(self, node: Any) -> Optional[Block]:
        """Scales and offsets of channels that no convolution could take, as a 1x1 depthwise one.

        One pass over memory in the place of one for each scale, offset and activation.
        """
        x, layer = only_input(node), node.operation
        is_picture = len(x.shape) == 4 and x.shape[3] is not None and keras.backend.is_float_dtype(x.dtype)
        if not is_picture or not isinstance(layer, keras.Layer) or _read.affine(node, "channels_last") is None:
            return None
        block = Block(x, x, "channels_last", _read.compute_dtype(node), layer, [])
        scale, shift, passes = 1.0, 0.0, 0
        while node is not None and (change := _read.affine(node, block.layout)) is not None:
            block.take(node)
            is_norm = isinstance(node.operation, (L.BatchNormalization, L.Normalization))  # two whatever their numbers
            passes += 2 if is_norm else int(np.any(np.not_equal(change[0], 1))) + int(np.any(change[1]))
            scale, shift = scale * change[0], shift * change[0] + change[1]
            node = self._next(block)
        self._activation(block, "depthwise_")
        if block.depthwise_activation == NONE:
            block = self._with_residual(block)
        if passes + (block.depthwise_activation != NONE) + (block.residual is not None) < 2:
            return None
        channels = x.shape[3]
        kernel = np.broadcast_to(np.reshape(scale, [1, 1, -1, 1]), [1, 1, channels, 1])
        block.depthwise = Convolution(layer, kernel, np.broadcast_to(shift, [channels]), NONE, depthwise=True)
        block.window = {"kernel_size": (1, 1)}
        block.is_scale = True
        return block

    def _rows(self, node: Any) -> Optional[Block]:
        """A Dense behind the last pictures, whose rows are pictures of one pixel."""
        convolution = _read.rows(node)
        if convolution is None:
            return None
        block = Block(only_input(node), None, "channels_last", _read.compute_dtype(node), node.operation, [])
        block.take(node)
        block.pointwise, block.is_rows = convolution, True
        return self._tail(block)

    def _fold(self, node: Any) -> Optional[FoldedConvolution]:
        """A convolution that no block takes, with batch norms behind it."""
        layer = node.operation
        convolution = _read.foldable(layer)
        if convolution is None or not self._usable(node) or only_input(node) is None or called_in_training(node):
            return None
        if self.graph.shared(node):
            return None
        block = Block(only_input(node), None, _read.data_format(layer), _read.compute_dtype(node), layer, [])
        block.take(node)
        before = len(block.nodes)
        while (following := self._next(block)) is not None and type(following.operation) is L.BatchNormalization:
            change = _read.affine(following, block.layout)
            if change is None:
                break
            convolution.scale_outputs(*change)
            block.take(following)
        if len(block.nodes) == before:
            return None
        return FoldedConvolution(block.x, block.out, block.nodes, convolution)
