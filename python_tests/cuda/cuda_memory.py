"""Memory that kernels read and write: on a card by the driver's own functions, or the host's, for the CPU shim.

Needs NumPy alone: a process that loads PyTorch first takes seconds to begin.
"""

from __future__ import annotations

import ctypes
import os

import numpy as np

GUARD = 256  # bytes on either side of a tensor, all ones: NaN in every element type


class Host:
    """The host's memory."""

    def take(self, content: np.ndarray):
        """(address, what has to be kept) of a copy of some bytes."""
        room = np.empty(content.size + 256, np.uint8)
        begin = -room.ctypes.data % 256
        room[begin : begin + content.size] = content
        return room.ctypes.data + begin, room

    def read(self, address: int, size: int) -> np.ndarray:
        return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address)).copy()

    def wait(self) -> None:
        pass


class Card:
    """The first card's memory, in the context that CUDA's runtime has for it.

    Raises:
        RuntimeError: there is no driver or card, or a call fails; the message names the call and its number.
    """

    def __init__(self):
        name = os.environ.get("DWSCONV_LIBCUDA", "libcuda.so.1")
        try:
            self._driver = ctypes.CDLL(name)
        except OSError as error:
            raise RuntimeError(f"there is no driver of NVIDIA's: {error}") from error
        device, context = ctypes.c_int(), ctypes.c_void_p()
        self._call("cuInit", 0)
        self._call("cuDeviceGet", ctypes.byref(device), 0)
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self._call("cuCtxSetCurrent", context)

    def _call(self, name: str, *arguments) -> None:
        code = getattr(self._driver, name)(*arguments)
        if code != 0:
            raise RuntimeError(f"{name} answers {code}")

    def take(self, content: np.ndarray):
        address = ctypes.c_uint64()
        content = np.ascontiguousarray(content)
        self._call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(max(content.size, 1)))
        self._call("cuMemcpyHtoD_v2", address, ctypes.c_void_p(content.ctypes.data), ctypes.c_size_t(content.size))
        return address.value, None  # the process that took it ends soon

    def read(self, address: int, size: int) -> np.ndarray:
        content = np.empty(size, np.uint8)
        self._call(
            "cuMemcpyDtoH_v2", ctypes.c_void_p(content.ctypes.data), ctypes.c_uint64(address), ctypes.c_size_t(size)
        )
        return content

    def wait(self) -> None:
        self._call("cuCtxSynchronize")


class Tensor:
    """A tensor between guards: `values`, or without them NaN."""

    def __init__(self, memory, shape: tuple, dtype, values=None):
        self._memory, self.shape, self.dtype = memory, tuple(shape), np.dtype(dtype)
        self._size = int(np.prod(shape, dtype=np.int64)) * self.dtype.itemsize
        content = np.full(self._size + 2 * GUARD, 0xFF, np.uint8)
        if values is not None:
            content[GUARD : GUARD + self._size] = np.ascontiguousarray(values.astype(dtype)).view(np.uint8).ravel()
        self._begin, self._kept = memory.take(content)
        self.address = self._begin + GUARD

    def read(self) -> np.ndarray:
        """What it holds; fails where anything around it was written."""
        content = self._memory.read(self._begin, self._size + 2 * GUARD)
        around = np.concatenate([content[:GUARD], content[GUARD + self._size :]])
        assert np.all(around == 0xFF), "memory around the output was written"
        return content[GUARD : GUARD + self._size].view(self.dtype).reshape(self.shape)
