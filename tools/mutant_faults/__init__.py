"""The faults that mutants.py plants, and the tests that should notice each.

Texts are those of the sources to the letter; where one is no longer there, --check fails, and a test with it. Good and
bad texts of C++ are two expressions of one type, or two statements that declare nothing: one of them is chosen when the
program runs.
"""

from mutant_faults import (
    attention,
    backward,
    blocks,
    checks,
    convert,
    follow,
    graphs,
    kernels,
    ops,
    plans,
    programs,
    tiles,
)
from mutant_faults._fault import Fault

__all__ = ["FAULTS", "Fault"]

# Those of the compiled half are numbered in this order: one that comes in late saves compilations.
FAULTS: "tuple[Fault, ...]" = (
    *kernels.FAULTS,
    *blocks.FAULTS,
    *plans.FAULTS,
    *backward.FAULTS,
    *checks.FAULTS,
    *programs.FAULTS,
    *ops.FAULTS,
    *convert.FAULTS,
    *graphs.FAULTS,
    *follow.FAULTS,
    *attention.FAULTS,
    *tiles.FAULTS,
)
