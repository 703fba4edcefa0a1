"""A depthwise convolution gives each channel the bits that it has alone, however many channels go together."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from native_support import ISAS

from tf_dwsconv import native

WINDOWS = [  # filter rows and columns, strides; the last ones have more taps than are kept for a strip of columns
    ((3, 3), (1, 1)),
    ((3, 3), (2, 2)),
    ((3, 3), (1, 2)),
    ((5, 5), (1, 1)),
    ((5, 5), (2, 2)),
    ((2, 5), (1, 1)),
    ((7, 7), (1, 1)),
    ((7, 7), (2, 2)),
    ((1, 3), (1, 1)),
    ((8, 7), (1, 1)),
    ((17, 3), (1, 1)),
    ((11, 5), (2, 2)),
]
DTYPES = {"bfloat16": ml_dtypes.bfloat16, "float16": np.float16, "float32": np.float32}


LAYERS = [(32, 1, 21, None), (64, 2, 9, "relu"), (80, 1, 30, "relu6"), (117, 1, 7, None)]  # channels, M, size


def run(x, d, bias, channels, **options):
    """The convolution of some of the channels alone."""
    part = np.ascontiguousarray(d[:, :, channels])
    layer = native.Layer(part, None, depthwise_bias=bias[channels].ravel(), **options)
    return layer(np.ascontiguousarray(x[..., channels]))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_each_channel_is_as_alone(window, dtype, isa):
    """Sixteen channels at a time give what all of them give; with multipliers, biases, a clamp and a NaN."""
    (rows, columns), strides = window
    rng = np.random.default_rng([rows, columns])
    for channels, multiplier, size, activation in LAYERS:
        shapes = (2, size, size + 1, channels), (rows, columns, channels, multiplier), (channels, multiplier)
        x, d, bias = (rng.standard_normal(shape).astype(DTYPES[dtype]) for shape in shapes)
        x[1, size // 2, 3, channels - 5] = np.nan
        options = {"strides": strides, "depthwise_activation": activation, "isa": isa}
        together = run(x, d, bias, slice(0, channels), **options)
        assert np.isnan(together.astype(np.float32)).any()
        alone = [run(x, d, bias, slice(c, c + 16), **options) for c in range(0, channels, 16)]
        assert together.tobytes() == np.concatenate(alone, axis=-1).tobytes(), (channels, multiplier)
