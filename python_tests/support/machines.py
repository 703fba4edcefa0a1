"""Machines that tests run on without having them.

`DWSCONV_TEST_MACHINE` (cc/core/cpu_features.h) gives a process the facts of one; tests of the planner and of simulated
caches give caches and instruction sets to what they test. `tools/another_machine.py` runs a part of the tests on one.
"""

from __future__ import annotations

import dataclasses

from tf_dwsconv import native
from tf_dwsconv.native import _native

# All there are, whatever this CPU has: for what plans and does not compute.
ALL_ISAS = ("generic", "avx2", "avx512")

_UNITS = {"K": 1 << 10, "M": 1 << 20}


@dataclasses.dataclass(frozen=True)
class Machine:
    """Facts of a machine; sizes as "48K" or "2M". `isa` is the best that it has, if this CPU has it."""

    l1d: str
    l2: str
    l3: str
    cores: int
    isa: str

    def __str__(self) -> str:
        """As `DWSCONV_TEST_MACHINE` takes it."""
        return f"l1d={self.l1d},l2={self.l2},l3={self.l3},cores={self.cores},isa={self.isa}"

    @property
    def caches(self) -> tuple:
        """Bytes of L1, L2 and L3."""
        return tuple(int(size[:-1]) * _UNITS[size[-1]] for size in (self.l1d, self.l2, self.l3))

    @property
    def sizes(self) -> dict:
        """The caches as `native.traffic` takes them."""
        return dict(zip(("l1d_bytes", "l2_bytes", "l3_bytes"), self.caches))


# Each pair of two facts occurs (test_machine_facts.py). The last is the Intel Xeon that issue 14 met.
MACHINES = (
    Machine("48K", "512K", "8M", 1, "generic"),
    Machine("48K", "512K", "32M", 2, "avx512"),
    Machine("32K", "512K", "480M", 16, "avx2"),
    Machine("48K", "1M", "8M", 2, "avx2"),
    Machine("32K", "1M", "32M", 16, "generic"),
    Machine("32K", "1M", "480M", 1, "avx512"),
    Machine("32K", "2M", "8M", 16, "avx512"),
    Machine("32K", "2M", "32M", 1, "avx2"),
    Machine("32K", "2M", "480M", 2, "generic"),
    Machine("48K", "2M", "480M", 16, "avx512"),
)


def planned(problem, caches, threads, isa):
    """The planner's plan for an `analysis.Problem` in float32 by the kernels of `isa`, on a machine of these caches."""
    p = problem
    options = native._options(p.stride, p.padding, p.dilation, "NHWC", None, None, isa=None, variant="fused")
    shapes = [p.N, p.H, p.W, p.C], [p.R, p.S, p.C, p.M], [1, 1, p.CM, p.K]
    return _native.plan_for_machine((*shapes, None), "float32", options, threads, list(caches), isa)
