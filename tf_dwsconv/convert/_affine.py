"""Scales and offsets of channels by constants, as a graph that is no Keras model has them: written out.

The rules see such a layer as they see a batch norm. It is a description: nothing calls it on numbers.
"""

from __future__ import annotations

from typing import Any, Optional

import keras
import numpy as np


class Affine(keras.layers.Layer):
    """`x * scale + shift` for each channel.

    Args:
        scale, shift: float64, a number for each channel, or one for all.
        axis: of the channels.
        passes: over memory that it takes as it is written: 2 for a scale and an offset, 1 for one of them.
    """

    def __init__(self, scale: Any, shift: Any, axis: int, passes: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.scale, self.shift = np.asarray(scale, np.float64), np.asarray(shift, np.float64)
        self.axis, self.passes = axis, passes

    def compute_output_spec(self, x: Any) -> Any:
        return keras.KerasTensor(x.shape, x.dtype)

    def call(self, x: Any) -> Any:
        raise NotImplementedError("it only describes an operation of a graph")

    def change(self, rank: int, layout: str) -> Optional[tuple[Any, Any]]:
        """(scale, shift) of the channels of a layout; None where the axis is another one."""
        channels = rank - 1 if layout == "channels_last" else 1
        return (self.scale, self.shift) if self.axis == channels or self.scale.ndim + self.shift.ndim == 0 else None
