"""Pools of programs: any number of channels, pixels at once, windows past the edges; NaN goes through."""

from __future__ import annotations

import numpy as np
import pytest
from native_support import ISAS
from program_reference import DTYPES, Builder

from tf_dwsconv import native

CHANNELS = [1, 3, 8, 11, 16, 17, 33, 44, 49, 64, 88]
WINDOWS = [  # window, strides, padding, sizes of the picture
    ([3, 3], [1, 1], "same", (6, 13)),
    ([3, 3], [2, 2], "same", (9, 20)),
    ([2, 2], [2, 2], "valid", (5, 23)),
    ([1, 1], [2, 3], "valid", (5, 23)),
    ([5, 4], [1, 3], [[4, 1], [3, 2]], (7, 29)),
    ([3, 7], [1, 1], "same", (4, 5)),
    ([4, 9], [2, 1], [[0, 3], [8, 8]], (4, 3)),
]


def pool(op, dtype, window, strides, padding, sizes, channels, seed=0):
    b = Builder(dtype)
    x = b.input([None, *sizes, channels])
    b.output(b.step(op, x, window=window, strides=strides, padding=padding))
    return b, np.random.default_rng(seed).standard_normal([2, *sizes, channels]).astype(DTYPES[dtype])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", WINDOWS, ids=str)
@pytest.mark.parametrize("op", ["max_pool", "average_pool"])
def test_any_channels(op, case, dtype, isa):
    """The largest value to the bit; a mean within the roundings of its sum."""
    window, strides, padding, sizes = case
    for channels in CHANNELS:
        b, x = pool(op, dtype, window, strides, padding, sizes, channels)
        network = native.Network.from_program(b.text, b.weights, isa=isa)
        y = network(x, num_threads=1)
        assert network(x, num_threads=3).tobytes() == y.tobytes()
        (expected,) = b.expect(x)
        result = {"float32": 0, "bfloat16": 2.0**-8, "float16": 2.0**-11}[dtype]
        sums = 0 if op == "max_pool" else 4 * (window[0] + window[1]) * 2.0**-24
        bound = np.abs(expected).max() * result + np.abs(x.astype(np.float32)).max() * sums
        np.testing.assert_allclose(y.astype(np.float64), expected, rtol=0, atol=0 if op == "max_pool" else bound)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("channels", [3, 20, 70])
@pytest.mark.parametrize("op", ["max_pool", "average_pool"])
def test_a_nan_spoils_the_windows_that_it_is_in(op, channels, isa):
    b, x = pool(op, "float32", [3, 3], [1, 1], "same", (6, 19), channels)
    for place in ((0, 0, 0), (2, 9, channels - 1), (5, 18, 1)):
        spoilt = x.copy()
        spoilt[(1, *place)] = np.nan
        y = native.Network.from_program(b.text, b.weights, isa=isa)(spoilt)
        wanted = np.zeros(y.shape, bool)
        rows, columns = (slice(max(at - 1, 0), at + 2) for at in place[:2])
        wanted[1, rows, columns, place[2]] = True
        assert np.array_equal(np.isnan(y), wanted)
