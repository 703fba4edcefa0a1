"""The GPU kernels by their C functions (cuda/capi/c_api.h): on device pointers, or built for the CPU on arrays."""

from __future__ import annotations

import ctypes
import dataclasses
from pathlib import Path
from typing import Optional

import numpy as np

PATHS = {"auto": 0, "direct": 1, "two_step": 2, "stream": 3, "tensor_stream": 7, "deep": 8, "two_step_wgmma": 9}
BLOCK_PATHS = {"general": 4, "steps": 5, "fused": 6}  # of blocks with other stages, and of gradients
MATHS = {"exact": 0, "tf32": 1}
DTYPES = {"float32": 0, "bfloat16": 1, "float16": 2}
FUSIONS = {"auto": 0, "always": 1, "never": 2}

# Tensors with shapes, in the order of the C interface, then the others.
TENSORS = (
    "x", "expand_filter", "expand_bias", "depthwise_filter", "depthwise_bias", "pointwise_filter", "bias", "scale",
    "residual",
)  # fmt: skip
POINTERS = (
    *TENSORS, "y", "grad",
    "d_x", "d_depthwise_filter", "d_pointwise_filter", "d_depthwise_bias", "d_bias", "d_residual",
)  # fmt: skip
# What a layer's tensors are called for short.
SHORT = {"d": "depthwise_filter", "p": "pointwise_filter", "db": "depthwise_bias", "b": "bias", "r": "residual"}


class _Call(ctypes.Structure):
    _fields_ = (
        ("shapes", ctypes.c_int64 * 4 * len(TENSORS)),
        ("strides", ctypes.c_int64 * 2),
        ("dilations", ctypes.c_int64 * 2),
        ("explicit_paddings", ctypes.c_int64 * 8),
        *(
            (name, ctypes.c_char_p)
            for name in ("padding", "data_format", "expand_activation", "depthwise_activation", "activation")
        ),
        *((name, ctypes.c_float) for name in ("expand_alpha", "depthwise_alpha", "alpha", "epsilon")),
        *(
            (name, ctypes.c_int32)
            for name in ("normalize", "dtype", "gradients", "path", "math", "fusion", "unaligned", "groups")
        ),
        *((name, ctypes.c_int64) for name in ("tile_rows", "tile_columns", "segments")),
        ("tensors", ctypes.c_void_p * len(POINTERS)),
        ("workspace", ctypes.c_void_p),
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
class Plan:
    """What dwsconv_cuda_plan answers."""

    output: tuple
    workspace_bytes: int
    modelled_us: float
    text: str


class Library:
    """A library with the functions of cuda/capi/c_api.h."""

    def __init__(self, path: Path):
        self.handle = ctypes.CDLL(str(path))
        self.handle.dwsconv_cuda_plan.restype = self.handle.dwsconv_cuda_run.restype = ctypes.c_char_p
        self.handle.dwsconv_cuda_calls.restype = ctypes.c_int64

    def calls(self, paths=("direct", "two_step", "stream", "tensor_stream", "deep")) -> dict:
        """Calls so far by path."""
        return {path: self.handle.dwsconv_cuda_calls({**PATHS, **BLOCK_PATHS}[path]) for path in paths}

    def all_calls(self) -> int:
        """Calls so far that launched anything."""
        return self.handle.dwsconv_cuda_calls(0)


class Planned:
    """A call of the C interface: planned when it is made, then run on pointers as often as one likes.

    Args:
        library: a `Library`.
        shapes: those of the tensors that there are, by the names of TENSORS.
        dtype: "float32", "bfloat16" or "float16".
        strides, dilations: (height, width).
        padding: "SAME", "VALID" or ((top, bottom), (left, right)).
        data_format: "NHWC" or "NCHW".
        words: (word, alpha) of the activations after expansion, depthwise and last convolution.
        epsilon: of the norm, or None for no norm.
        gradients: bits of those that are wanted, or -1 for y.
        path: a key of PATHS or BLOCK_PATHS.
        math, fusion: keys of MATHS and FUSIONS.
        tile: (rows, columns), or None for the planner's choice.
        segments: pieces of an image's rows; 0 is the planner's choice.
        groups: of a block's threads; 0 is the planner's choice.
        aligned: whether all tensors begin at multiples of 16 bytes, which path fused wants.

    Raises:
        ValueError: the library refuses the call; the message is its own.
    """

    def __init__(
        self,
        library: Library,
        shapes: dict,
        dtype: str,
        *,
        strides: tuple = (1, 1),
        dilations: tuple = (1, 1),
        padding: object = "SAME",
        data_format: str = "NHWC",
        words: tuple = (("none", 0.2),) * 3,
        epsilon: Optional[float] = None,
        gradients: int = -1,
        path: str = "auto",
        math: str = "exact",
        fusion: str = "auto",
        tile: Optional[tuple] = None,
        segments: int = 0,
        groups: int = 0,
        aligned: bool = True,
    ):
        self._library = library
        self._call = call = _Call()
        for at, name in enumerate(TENSORS):
            shape = shapes.get(name, (-1,))
            call.shapes[at][: len(shape)] = shape
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
        call.dtype, call.path, call.math = DTYPES[dtype], {**PATHS, **BLOCK_PATHS}[path], MATHS[math]
        call.fusion, call.gradients, call.unaligned = FUSIONS[fusion], gradients, int(not aligned)
        call.tile_rows, call.tile_columns = tile or (0, 0)
        call.segments, call.groups = segments, groups
        self._plan()

    def _plan(self) -> None:
        plan = _Plan()
        self._check(self._library.handle.dwsconv_cuda_plan(ctypes.byref(self._call), ctypes.byref(plan)))
        self.plan = Plan(tuple(plan.output), plan.workspace_bytes, plan.modelled_us, plan.text.decode())

    def run(self, *, workspace=None, stream: int = 0, **tensors) -> None:
        """Enqueues it. All are addresses, by the names of POINTERS or SHORT; `workspace` has plan.workspace_bytes.

        Raises:
            ValueError: the launch failed.
        """
        call = self._call
        tensors = {SHORT.get(name, name): address for name, address in tensors.items()}
        call.tensors[:] = [tensors.pop(name, None) for name in POINTERS]
        assert not tensors, tensors
        call.workspace, call.workspace_bytes, call.stream = workspace, self.plan.workspace_bytes, stream
        self._check(self._library.handle.dwsconv_cuda_run(ctypes.byref(call)))

    @staticmethod
    def _check(error: bytes) -> None:
        if error:
            raise ValueError(error.decode())


class Call(Planned):
    """One layer: its shapes, whether there are biases, the residual's shape or None, and `Planned`'s options."""

    def __init__(
        self, library: Library, x: tuple, depthwise_filter: tuple, pointwise_filter: tuple, dtype: str, *,
        depthwise_bias: bool = False, bias: bool = False, residual: Optional[tuple] = None,
        depthwise_activation: tuple = ("none", 0.2), activation: tuple = ("none", 0.2), **options,
    ):  # fmt: skip
        shapes = {"x": x, "depthwise_filter": depthwise_filter, "pointwise_filter": pointwise_filter}
        if depthwise_bias:
            shapes["depthwise_bias"] = (depthwise_filter[2] * depthwise_filter[3],)
        if bias:
            shapes["bias"] = (pointwise_filter[3],)
        if residual is not None:
            shapes["residual"] = residual
        words = (("none", 0.2), depthwise_activation, activation)
        super().__init__(library, shapes, dtype, words=words, **options)


def call_of(library: Library, x: np.ndarray, layer, residual, dtype: str, **options) -> Call:
    """The call that computes what `reference.random_case` made."""
    return Call(
        library,
        x.shape,
        layer.depthwise_filter.shape,
        layer.pointwise_filter.shape,
        dtype,
        depthwise_bias=layer.depthwise_bias is not None,
        bias=layer.bias is not None,
        residual=None if residual is None else residual.shape,
        strides=layer.strides,
        dilations=layer.dilations,
        padding=layer.padding,
        data_format=layer.data_format,
        depthwise_activation=layer.depthwise_activation,
        activation=layer.activation,
        **options,
    )


def tensors_of(x: np.ndarray, layer, residual) -> dict:
    """The arrays that a call reads, by `Call.run`'s names."""
    arrays = {
        "x": x,
        "d": layer.depthwise_filter,
        "p": layer.pointwise_filter,
        "db": layer.depthwise_bias,
        "b": layer.bias,
        "r": residual,
    }
    return {name: array for name, array in arrays.items() if array is not None}
