"""What the tests share that run the GPU kernels' bodies on the CPU, over cuda/testing/shim.h."""

from __future__ import annotations

import ctypes
import mmap
import subprocess
from pathlib import Path
from typing import Any, Callable

import numpy as np
import pytest
from conftest import ROOT

LIBC = ctypes.CDLL(None, use_errno=True)


def build_shim() -> Path:
    """The library of all kernels for the CPU, compiled where it is older than they are."""
    done = subprocess.run([str(ROOT / "tools" / "cuda_shim.sh")], capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout + done.stderr
    return ROOT / "build" / "cuda_shim" / "libdwsconv_cuda_shim.so"


@pytest.fixture
def conflicts(library: Any) -> Callable[[], int]:
    """Counts, from now on, the matrix loads whose rows share banks of shared memory."""
    count = library.handle.dwsconv_shim_bank_conflicts
    count.restype = ctypes.c_int64
    before = count()
    return lambda: count() - before


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
