"""What the tests share that run the GPU kernels' bodies on the CPU, over cuda/testing/shim.h."""

from __future__ import annotations

import ctypes
import mmap
import subprocess
from pathlib import Path
from typing import Any, Callable

import cuda_cases
import numpy as np
import pytest
import reference
from conftest import ROOT
from cuda_library import Call

LIBC = ctypes.CDLL(None, use_errno=True)


def build_shim() -> Path:
    """The library of all kernels for the CPU, compiled where it is older than they are."""
    done = subprocess.run([str(ROOT / "tools" / "cuda_shim.sh")], capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout + done.stderr
    return ROOT / "build" / "cuda_shim" / "libdwsconv_cuda_shim.so"


def check_path_refused(library: Any, path: str, shape: dict, dtype: str, options: dict) -> None:
    """Holds that a layer that a path does not take is an error that names the path."""
    filters = ((shape["R"], shape["S"], shape["C"], shape["M"]), (1, 1, shape["C"] * shape["M"], shape["K"]))
    options = {**options, **({"dilations": shape["dilations"]} if "dilations" in shape else {})}
    with pytest.raises(ValueError, match=f"path {path}"):
        Call(library, tuple(shape[letter] for letter in "NHWC"), *filters, dtype, path=path, **options)


@pytest.fixture
def conflicts(library: Any) -> Callable[[], int]:
    """Counts, from now on, the matrix loads whose rows share banks of shared memory."""
    count = library.handle.dwsconv_shim_bank_conflicts
    count.restype = ctypes.c_int64
    before = count()
    return lambda: count() - before


def repairs(library: Any) -> int:
    """How often so far a kernel computed again by plain loops what was not finite: never what is."""
    count = library.handle.dwsconv_shim_repairs
    count.restype = ctypes.c_int64
    return count()


POISONS = ("x", "tap", "both")


def poisoned_case(shape: dict, dtype: str, poison: str) -> tuple:
    """A random case (at least 19x21x31) with infinities and a NaN in the input, in two taps, or in both."""
    case = x, layer, _ = reference.random_case(np.random.default_rng(0), cuda_cases.NUMPY[dtype], shape)
    if poison != "tap":
        x[0, 9, 11, 13], x[0, 2, 0, 7], x[0, 18, 20, 21] = np.inf, np.nan, -np.inf
    if poison != "x":
        layer.depthwise_filter[0, 0, 5, 0], layer.depthwise_filter[-1, shape["S"] // 2, 30, 0] = np.inf, np.nan
    return case


def compare_poisoned(actual: np.ndarray, case: tuple, dtype: str) -> None:
    """The same outputs are finite and the same are NaN as in float64; the finite ones are near."""
    with np.errstate(invalid="ignore"):
        expected = reference.forward(*case)
    finite = np.isfinite(expected)
    assert 0 < finite.sum() < finite.size
    actual = actual.astype(np.float64)
    np.testing.assert_array_equal(np.isnan(actual), np.isnan(expected))
    np.testing.assert_array_equal(np.isfinite(actual), finite)
    np.testing.assert_allclose(actual[finite], expected[finite], rtol=0.1, atol=0.5 if dtype == "bfloat16" else 0.06)


class Fenced:
    """A copy of an array that ends, or with `offset` bytes after it, where a page begins that nobody may touch."""

    def __init__(self, array: np.ndarray, offset: int = 0):
        page = mmap.PAGESIZE
        size = -(-(array.nbytes + offset + 16) // page) * page
        self._map = mmap.mmap(-1, size + page)
        self._base = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        assert LIBC.mprotect(ctypes.c_void_p(self._base + size), page, 0) == 0
        # Aligned to 16 bytes unless the offset says otherwise.
        start = (size - array.nbytes) // 16 * 16 - offset
        self.address = self._base + start
        ctypes.memset(self._base, 0xFF, size)
        ctypes.memmove(self.address, array.tobytes(), array.nbytes)
        self._size = page

    def close(self):
        # Readable again, or whoever clears the mapping's pages faults.
        LIBC.mprotect(ctypes.c_void_p(self._base), len(self._map), 3)
