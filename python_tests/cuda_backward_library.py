"""The gradients on a GPU by their C functions (cuda/capi/c_api_backward.h), as cuda_library.py has the forward pass."""

from __future__ import annotations

import ctypes

from cuda_library import Library, Plan, _Call, _Plan, call_of

PATHS = {"auto": 0, "general": 1, "steps": 2, "fused": 3}

# The gradients in the order of the bits that ask for them, by the names of what they are gradients of.
GRADIENTS = ("x", "d", "p", "db", "b", "r")
_FIELDS = dict(zip(GRADIENTS, ("dx", "dd", "dp", "ddb", "dbias", "dr")))


class _BackwardCall(ctypes.Structure):
    _fields_ = (
        ("layer", _Call),
        ("path", ctypes.c_int32),
        ("wanted", ctypes.c_int32),
        ("unaligned", ctypes.c_int32),
        ("reserved", ctypes.c_int32),
        ("grad", ctypes.c_void_p),
        *((name, ctypes.c_void_p) for name in _FIELDS.values()),
    )


class BackwardLibrary(Library):
    """A library with the functions of cuda/capi/c_api.h and cuda/capi/c_api_backward.h."""

    def __init__(self, path):
        super().__init__(path)
        self.backward_plan = self.handle.dwsconv_cuda_backward_plan
        self.backward = self.handle.dwsconv_cuda_backward
        self.backward_plan.restype = self.backward.restype = ctypes.c_char_p
        self.handle.dwsconv_cuda_backward_calls.restype = ctypes.c_int64

    def backward_calls(self) -> dict:
        """Calls so far by path."""
        return {path: self.handle.dwsconv_cuda_backward_calls(number) for path, number in PATHS.items() if number}


class BackwardCall:
    """The gradients of one layer: planned, then run on pointers as often as one likes.

    Args:
        forward: the `cuda_library.Call` of the layer; its shapes, attributes and math are taken.
        library: a `BackwardLibrary`.
        wanted: names out of GRADIENTS.
        path: a key of PATHS.
        tile: (rows, columns) of the fused path, or None for the planner's choice.
        aligned: whether all tensors begin at multiples of 16 bytes, which the fused path wants.

    Raises:
        ValueError: the library refuses the call; the message is its own.
    """

    def __init__(
        self, library: BackwardLibrary, forward, wanted=GRADIENTS, path: str = "auto", tile=None, aligned=True
    ):
        self._library, self._forward = library, forward  # which keeps the words alive that the copy points to
        self._call = call = _BackwardCall()
        ctypes.memmove(ctypes.byref(call.layer), ctypes.byref(forward._call), ctypes.sizeof(_Call))
        call.path, call.unaligned = PATHS[path], not aligned
        call.layer.tile_rows, call.layer.tile_columns = tile or (0, 0)
        call.wanted = sum(1 << GRADIENTS.index(name) for name in wanted)
        plan = _Plan()
        self._check(library.backward_plan(ctypes.byref(call), ctypes.byref(plan)))
        self.plan = Plan(tuple(plan.output), plan.workspace_bytes, plan.modelled_us, plan.text.decode())

    def run(self, gradients: dict, *, x, d, p, grad, y=None, db=None, b=None, r=None, workspace=None, stream: int = 0):
        """Enqueues it. All are addresses; `gradients` by the names of GRADIENTS, `workspace` of plan.workspace_bytes.

        Raises:
            ValueError: the launch failed.
        """
        call, layer = self._call, self._call.layer
        layer.x, layer.d, layer.p, layer.y, layer.db, layer.b, layer.r = x, d, p, y, db, b, r
        layer.workspace, layer.workspace_bytes, layer.stream = workspace, self.plan.workspace_bytes, stream
        call.grad = grad
        for name, field in _FIELDS.items():
            setattr(call, field, gradients.get(name))
        self._check(self._library.backward(ctypes.byref(call)))

    @staticmethod
    def _check(error: bytes) -> None:
        if error:
            raise ValueError(error.decode())


def backward_call_of(library: BackwardLibrary, x, layer, residual, dtype: str, *, math="exact", **options):
    """The call that computes the gradients of what `reference.random_case` made."""
    return BackwardCall(library, call_of(library, x, layer, residual, dtype, math=math), **options)
