"""What the tests of the filter cache share: filters, the op on its own, what it must give, the library's counters."""

from __future__ import annotations

import ctypes
import gc
import itertools

import numpy as np

from tf_dwsconv._tf import library as _library


class Counters:
    """The counters of the op's library."""

    def __init__(self):
        self.library = ctypes.CDLL(_library.load().path)
        self.library.dwsconv_pack_calls.restype = ctypes.c_int64

    def packs(self):
        return self.library.dwsconv_pack_calls()

    def cache(self):
        values = (ctypes.c_int64 * 6)()
        self.library.dwsconv_filter_cache(values)
        return dict(zip(("entries", "bytes", "held", "hits", "misses", "inserts"), values))

    def sweep(self):
        self.library.dwsconv_filter_cache_sweep()


def cleared_counters():
    """Counters of a cache that is empty: what other tests left there might have to go for what this one adds."""
    counters = Counters()
    gc.collect()
    counters.library.dwsconv_filter_cache_clear()
    return counters


def aligned(array):
    """A copy at a multiple of 64 bytes, which TensorFlow may take without copying it."""
    memory = np.empty(array.nbytes + 64, np.uint8)
    start = -memory.ctypes.data % 64
    view = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    view[...] = array
    return view


_seeds = itertools.count(1000)


def fresh(*shape):
    """Filters that no other test has: the cache knows contents wherever they come from."""
    return draw(next(_seeds), *shape)


def draw(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


X = draw(0, 2, 6, 7, 12)


D_SHAPE, P_SHAPE = (3, 3, 12, 1), (1, 1, 12, 20)


def op(x, depthwise_filter, pointwise_filter, bias=None, stable_filters=True, **attributes):
    """The op itself, past everything that Python does to its inputs."""
    return _library.load().op(
        input=x,
        depthwise_filter=depthwise_filter,
        pointwise_filter=pointwise_filter,
        depthwise_bias=[],
        bias=[] if bias is None else [bias],
        residual=[],
        stable_filters=stable_filters,
        **attributes,
    )


def expect(actual, x, depthwise_filter, pointwise_filter, bias=None):
    """Compares with plain arithmetic on the present values."""
    d, p = (f.numpy() if hasattr(f, "numpy") else np.array(f) for f in (depthwise_filter, pointwise_filter))
    bias = bias.numpy() if hasattr(bias, "numpy") else bias
    padded = np.pad(np.asarray(x, np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))
    height, width = x.shape[1:3]
    taps = [padded[:, r : r + height, s : s + width, :, None] * d[r, s] for r in range(3) for s in range(3)]
    z = sum(taps).reshape(*x.shape[:3], -1)
    y = z @ p[0, 0].astype(np.float64) + (0 if bias is None else bias)
    np.testing.assert_allclose(actual, y, rtol=0, atol=1e-4 * np.abs(y).max())


def warm(function, counters):
    """Calls until the cache knows the filters by their addresses, and asserts that it does."""
    for _ in range(4):
        function()
    before = counters.packs(), counters.cache()["hits"]
    function()
    assert (counters.packs(), counters.cache()["hits"]) == (before[0], before[1] + 1)
