"""What a fault is."""

from __future__ import annotations

from typing import NamedTuple


class Fault(NamedTuple):
    """One fault.

    name: what is wrong with it. file: from the root. good, bad: the text, and what takes its place. tests: files of
    python_tests/, or tests in them. at: the text around `good` that is in the file once; "" where `good` is. same: why
    it changes nothing that a test could see; "" where it does. isa: the instruction set that it needs, one of those of
    `native.cpu_info()`, avx512bf16 or avx512rounds; "" for none.
    """

    name: str
    file: str
    good: str
    bad: str
    tests: tuple[str, ...]
    at: str = ""
    same: str = ""
    isa: str = ""
