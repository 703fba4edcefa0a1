"""The GPU kernels by their C functions (cuda/capi/c_api.h): on device pointers, or built for the CPU on arrays."""

from __future__ import annotations

import ctypes
import dataclasses
from pathlib import Path
from typing import Optional

import numpy as np

PATHS = {"auto": 0, "direct": 1, "two_step": 2, "stream": 3}
MATHS = {"exact": 0, "tf32": 1}
DTYPES = {"float32": 0, "bfloat16": 1, "float16": 2}


class _Call(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64 * 4) for name in ("input", "depthwise_filter", "pointwise_filter")),
        ("depthwise_bias_size", ctypes.c_int64),
        ("bias_size", ctypes.c_int64),
        ("residual", ctypes.c_int64 * 4),
        ("strides", ctypes.c_int64 * 2),
        ("dilations", ctypes.c_int64 * 2),
        ("explicit_paddings", ctypes.c_int64 * 8),
        *((name, ctypes.c_char_p) for name in ("padding", "data_format", "depthwise_activation", "activation")),
        ("depthwise_alpha", ctypes.c_float),
        ("alpha", ctypes.c_float),
        *((name, ctypes.c_int32) for name in ("dtype", "path", "math", "groups")),
        *((name, ctypes.c_int64) for name in ("tile_rows", "tile_columns", "segments")),
        *((name, ctypes.c_void_p) for name in ("x", "d", "p", "db", "b", "r", "y", "workspace")),
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


class Call:
    """One layer's shapes and attributes: planned, then run on pointers as often as one likes.

    Args:
        library: a `Library`.
        x, depthwise_filter, pointwise_filter: their shapes.
        dtype: "float32", "bfloat16" or "float16".
        depthwise_bias, bias: whether there is one.
        residual: its shape, or None.
        strides, dilations: (height, width).
        padding: "SAME", "VALID" or ((top, bottom), (left, right)).
        data_format: "NHWC" or "NCHW".
        depthwise_activation, activation: (word, alpha).
        path, math: keys of PATHS and MATHS.
        tile: (rows, columns), or None for the planner's choice.
        segments: pieces of an image's rows; 0 is the planner's choice.
        groups: of a block's threads; 0 is the planner's choice.

    Raises:
        ValueError: the library refuses the call; the message is its own.
    """

    def __init__(
        self,
        library: Library,
        x: tuple,
        depthwise_filter: tuple,
        pointwise_filter: tuple,
        dtype: str,
        *,
        depthwise_bias: bool = False,
        bias: bool = False,
        residual: Optional[tuple] = None,
        strides: tuple = (1, 1),
        dilations: tuple = (1, 1),
        padding: object = "SAME",
        data_format: str = "NHWC",
        depthwise_activation: tuple = ("none", 0.2),
        activation: tuple = ("none", 0.2),
        path: str = "auto",
        math: str = "exact",
        tile: Optional[tuple] = None,
        segments: int = 0,
        groups: int = 0,
    ):
        self._library = library
        self._call = call = _Call()
        call.input[:], call.depthwise_filter[:], call.pointwise_filter[:] = x, depthwise_filter, pointwise_filter
        call.depthwise_bias_size = depthwise_filter[2] * depthwise_filter[3] if depthwise_bias else -1
        call.bias_size = pointwise_filter[3] if bias else -1
        call.residual[:] = (-1, 0, 0, 0) if residual is None else residual
        call.strides[:], call.dilations[:] = strides, dilations
        if isinstance(padding, str):
            call.padding = padding.encode()
        else:
            call.padding = b"EXPLICIT"
            (top, bottom), (left, right) = padding
            spatial = (top, bottom, left, right)
            call.explicit_paddings[:] = (0, 0, *spatial, 0, 0) if data_format == "NHWC" else (0, 0, 0, 0, *spatial)
        call.data_format = data_format.encode()
        call.depthwise_activation, call.depthwise_alpha = depthwise_activation[0].encode(), depthwise_activation[1]
        call.activation, call.alpha = activation[0].encode(), activation[1]
        call.dtype, call.path, call.math = DTYPES[dtype], PATHS[path], MATHS[math]
        call.tile_rows, call.tile_columns = tile or (0, 0)
        call.segments, call.groups = segments, groups
        plan = _Plan()
        self._check(library.plan(ctypes.byref(call), ctypes.byref(plan)))
        self.plan = Plan(tuple(plan.output), plan.workspace_bytes, plan.modelled_us, plan.text.decode())

    def run(self, *, x, d, p, y, db=None, b=None, r=None, workspace=None, stream: int = 0) -> None:
        """Enqueues the layer. All are addresses; `workspace` is of plan.workspace_bytes.

        Raises:
            ValueError: the launch failed.
        """
        call = self._call
        call.x, call.d, call.p, call.y, call.db, call.b, call.r = x, d, p, y, db, b, r
        call.workspace, call.workspace_bytes, call.stream = workspace, self.plan.workspace_bytes, stream
        self._check(self._library.forward(ctypes.byref(call)))

    @staticmethod
    def _check(error: bytes) -> None:
        if error:
            raise ValueError(error.decode())


class Library:
    """A library with the functions of cuda/capi/c_api.h."""

    def __init__(self, path: Path):
        self.handle = ctypes.CDLL(str(path))
        self.plan, self.forward = self.handle.dwsconv_cuda_plan, self.handle.dwsconv_cuda_forward
        self.plan.restype = self.forward.restype = ctypes.c_char_p
        self.handle.dwsconv_cuda_calls.restype = ctypes.c_int64

    def calls(self) -> dict:
        """Calls so far by path."""
        return {path: self.handle.dwsconv_cuda_calls(number) for path, number in PATHS.items() if number}


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
