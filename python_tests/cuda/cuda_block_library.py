"""Blocks on a GPU by the C functions, as cuda_library.py has layers."""

from __future__ import annotations

from cuda_library import Library, Planned


class BlockLibrary(Library):
    """A library, whose calls are counted whatever their path."""

    def calls(self) -> int:
        """Calls so far that launched anything."""
        return self.all_calls()


class BlockCall(Planned):
    """One block: the input's shape, those of the other tensors that there are, and `Planned`'s options.

    Args:
        general: whether kernels that take anything run alone.
    """

    def __init__(self, library: Library, x: tuple, shapes: dict, dtype: str, *, general: bool = False, **options):
        if general:
            options["path"] = "general"
        super().__init__(library, {"x": x, **shapes}, dtype, **options)
