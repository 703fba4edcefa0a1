"""Which dense convolutions our block computes at least as fast as TensorFlow's op, each by itself.

A network takes all: each that stayed out would cut it in two. A rule of sizes alone, so that a model is converted alike
on every machine. What it was made from: docs/tuning.md, "Dense convolutions that convert takes".
"""

from __future__ import annotations

import math
from collections.abc import Sequence

# From 32 input channels on TensorFlow's kernels, made for that, are up to 1.25 times as fast.
MOST_CHANNELS = 16
# Of a window, counted with its channels: the block copies what lies under each pixel's window before it multiplies. At
# strides neighbours share less of it, and stock's own copies weigh as much.
MOST_TAPS_AT_STRIDES = 7 * 7 * 3
MOST_TAPS = 5 * 5 * 3
# Fewer leave the product too little to do for each element that is copied.
FEWEST_FILTERS = 64


def dense_pays(window: Sequence[int], channels: int, filters: int, strides: Sequence[int]) -> bool:
    """Whether a dense convolution that is no plain 1x1 becomes a block.

    Args:
        window, strides: rows and columns.
        channels, filters: input and output channels.
    """
    if tuple(window) == (1, 1):
        return True
    taps = math.prod(window) * channels
    if channels > MOST_CHANNELS:
        return False
    if min(strides) > 1:
        return taps <= MOST_TAPS_AT_STRIDES
    return taps <= MOST_TAPS and filters >= FEWEST_FILTERS
