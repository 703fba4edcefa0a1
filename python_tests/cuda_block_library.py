"""The block's GPU kernels by their C functions (cuda/capi/c_api_block.h): on device pointers, or on NumPy arrays."""

from __future__ import annotations

import ctypes
import dataclasses
from pathlib import Path

from cuda_library import DTYPES, MATHS, PATHS

# The tensors of a block by the names of `conv_block.Tensors`, and what the C functions call their addresses.
ADDRESSES = {
    "expand_filter": "expand",
    "expand_bias": "expand_b",
    "depthwise_filter": "d",
    "depthwise_bias": "db",
    "pointwise_filter": "p",
    "bias": "b",
    "scale": "s",
    "residual": "r",
}
FUSIONS = {"auto": 0, "always": 1, "never": 2}
_SHAPES = {"expand_filter": 4, "depthwise_filter": 4, "pointwise_filter": 4, "scale": 2, "residual": 4}
_SIZES = ("expand_bias", "depthwise_bias", "bias")


class _Call(ctypes.Structure):
    _fields_ = (
        ("input", ctypes.c_int64 * 4),
        *((name, ctypes.c_int64 * rank) for name, rank in _SHAPES.items()),
        *((f"{name}_size", ctypes.c_int64) for name in _SIZES),
        ("strides", ctypes.c_int64 * 2),
        ("dilations", ctypes.c_int64 * 2),
        ("explicit_paddings", ctypes.c_int64 * 8),
        *(
            (name, ctypes.c_char_p)
            for name in ("padding", "data_format", "expand_activation", "depthwise_activation", "activation")
        ),
        *((name, ctypes.c_float) for name in ("expand_alpha", "depthwise_alpha", "alpha", "epsilon")),
        *((name, ctypes.c_int32) for name in ("normalize", "dtype", "path", "math", "general", "fusion")),
        *((name, ctypes.c_void_p) for name in ("x", "expand", "expand_b", "d", "db", "p", "b", "s", "r")),
        *((name, ctypes.c_void_p) for name in ("y", "workspace")),
        ("workspace_bytes", ctypes.c_int64),
        ("stream", ctypes.c_void_p),
    )


class _Plan(ctypes.Structure):
    _fields_ = (
        ("output", ctypes.c_int64 * 4),
        ("workspace_bytes", ctypes.c_int64),
        ("modelled_us", ctypes.c_double),
        ("text", ctypes.c_char * 256),
    )


@dataclasses.dataclass
class BlockPlan:
    """What dwsconv_cuda_block_plan answers."""

    output: tuple
    workspace_bytes: int
    modelled_us: float
    text: str


class BlockLibrary:
    """A library with the functions of cuda/capi/c_api_block.h."""

    def __init__(self, path: Path):
        self.handle = ctypes.CDLL(str(path))
        self.plan, self.forward = self.handle.dwsconv_cuda_block_plan, self.handle.dwsconv_cuda_block_forward
        self.plan.restype = self.forward.restype = ctypes.c_char_p
        self.handle.dwsconv_cuda_block_calls.restype = ctypes.c_int64

    def calls(self) -> int:
        """Calls so far that launched anything."""
        return self.handle.dwsconv_cuda_block_calls()


class BlockCall:
    """One block's shapes and attributes: planned, then run on pointers as often as one likes.

    Args:
        library: a `BlockLibrary`.
        x: the input's shape.
        shapes: those of the tensors that there are, by the names of ADDRESSES; `scale` is [N, C*M].
        dtype: "float32", "bfloat16" or "float16".
        strides, dilations: (height, width).
        padding: "SAME", "VALID" or ((top, bottom), (left, right)).
        data_format: "NHWC" or "NCHW".
        words: (word, alpha) of the activations after expansion, depthwise and last convolution.
        epsilon: of the norm, or None for no norm.
        path: of depthwise and pointwise convolution alone, a key of PATHS.
        math: a key of MATHS.
        general: whether kernels that take anything run alone.
        fusion: of expansion and depthwise convolution, a key of FUSIONS.

    Raises:
        ValueError: the library refuses the call; the message is its own.
    """

    def __init__(
        self,
        library: BlockLibrary,
        x: tuple,
        shapes: dict,
        dtype: str,
        *,
        strides: tuple = (1, 1),
        dilations: tuple = (1, 1),
        padding: object = "SAME",
        data_format: str = "NHWC",
        words: tuple = (("none", 0.2),) * 3,
        epsilon: object = None,
        path: str = "auto",
        math: str = "exact",
        general: bool = False,
        fusion: str = "auto",
    ):
        self._library = library
        self._call = call = _Call()
        call.input[:] = x
        for name, rank in _SHAPES.items():
            getattr(call, name)[:] = shapes.get(name, (-1,) * rank)
        for name in _SIZES:
            setattr(call, f"{name}_size", shapes[name][0] if name in shapes else -1)
        call.strides[:], call.dilations[:] = strides, dilations
        if isinstance(padding, str):
            call.padding = padding.encode()
        else:
            call.padding = b"EXPLICIT"
            spatial = (*padding[0], *padding[1])
            call.explicit_paddings[:] = (0, 0, *spatial, 0, 0) if data_format == "NHWC" else (0, 0, 0, 0, *spatial)
        call.data_format = data_format.encode()
        for name, (word, alpha) in zip(("expand_", "depthwise_", ""), words):
            setattr(call, f"{name}activation", word.encode())
            setattr(call, f"{name}alpha", alpha)
        call.normalize, call.epsilon = int(epsilon is not None), epsilon or 0.0
        call.dtype, call.path, call.math, call.general = DTYPES[dtype], PATHS[path], MATHS[math], int(general)
        call.fusion = FUSIONS[fusion]
        plan = _Plan()
        self._check(library.plan(ctypes.byref(call), ctypes.byref(plan)))
        self.plan = BlockPlan(tuple(plan.output), plan.workspace_bytes, plan.modelled_us, plan.text.decode())

    def run(self, *, x: int, y: int, workspace: int, stream: int = 0, **tensors: int) -> None:
        """Enqueues the block. All are addresses, those of the tensors by the names of ADDRESSES.

        Raises:
            ValueError: the launch failed.
        """
        call = self._call
        call.x, call.y, call.workspace, call.stream = x, y, workspace, stream
        for name, field in ADDRESSES.items():
            setattr(call, field, tensors.get(name))
        call.workspace_bytes = self.plan.workspace_bytes
        self._check(self._library.forward(ctypes.byref(call)))

    @staticmethod
    def _check(error: bytes) -> None:
        if error:
            raise ValueError(error.decode())
