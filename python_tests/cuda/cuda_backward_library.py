"""The gradients on a GPU by the C functions, as cuda_library.py has the forward pass."""

from __future__ import annotations

from cuda_library import BLOCK_PATHS, SHORT, Library, Planned, _Call, call_of

PATHS = {"auto": 0, **BLOCK_PATHS}

# The gradients in the order of the bits that ask for them, by the names of what they are gradients of.
GRADIENTS = ("x", "d", "p", "db", "b", "r")


class BackwardLibrary(Library):
    """A library, whose calls for gradients are counted."""

    def backward_calls(self) -> dict:
        """Calls so far by path."""
        return self.calls(BLOCK_PATHS)


class BackwardCall(Planned):
    """The gradients of one layer.

    Args:
        library: a `BackwardLibrary`.
        forward: the `cuda_library.Call` of the layer; its shapes, attributes and math are taken.
        wanted: names out of GRADIENTS.
        path: a key of PATHS.
        tile: (rows, columns) of the fused path, or None for the planner's choice.
        aligned: whether all tensors begin at multiples of 16 bytes, which the fused path wants.

    Raises:
        ValueError: the library refuses the call; the message is its own.
    """

    def __init__(self, library: Library, forward, wanted=GRADIENTS, path: str = "auto", tile=None, aligned=True):
        self._library, self._forward = library, forward  # which keeps the words alive that the copy points to
        self._call = call = _Call.from_buffer_copy(forward._call)
        call.gradients = sum(1 << GRADIENTS.index(name) for name in wanted)
        call.path, call.unaligned = PATHS[path], not aligned
        call.tile_rows, call.tile_columns = tile or (0, 0)
        call.segments = call.groups = 0
        self._plan()

    def run(self, gradients: dict, **tensors):
        """Enqueues it: addresses of `gradients` by the names of GRADIENTS, and of what `Planned.run` takes.

        Raises:
            ValueError: the launch failed.
        """
        super().run(**tensors, **{f"d_{SHORT.get(name, name)}": address for name, address in gradients.items()})


def backward_call_of(library: BackwardLibrary, x, layer, residual, dtype: str, *, math="exact", **options):
    """The call that computes the gradients of what `reference.random_case` made."""
    return BackwardCall(library, call_of(library, x, layer, residual, dtype, math=math), **options)
