"""What a layer costs: arithmetic, parameters, words moved, arithmetic intensity, and the roofline's time.

Two conventions meet here. This package counts a multiply-add as two floating-point operations, as the peak rates of
machines do. The GPU study whose tables `study_table` reproduces counts it as one, takes its bytes in float16 and its
megabytes as 10^6, and divides operations by elements (not bytes) to get its arithmetic intensity.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Optional

from tf_dwsconv.analysis.problem import Problem, check_problem, choice, integer, itemsize, positive

KINDS = ("dense", "depthwise", "pointwise", "dws")


@dataclasses.dataclass(frozen=True)
class Cost:
    """Counts of one layer. Elements and operations, not bytes, unless the name says so.

    Attributes:
        macs: multiply-adds, taps in the padding included (as is usual, and as the kernels' own counter does).
        parameters: elements of the filters.
        activations: elements of the layer's input and output.
        intermediate: elements of Z written and read back, 2 * N*Ho*Wo*C*M where a DWS layer is not fused, else 0.
        itemsize: bytes of an element.
    """

    macs: int
    parameters: int
    activations: int
    intermediate: int
    itemsize: int

    @property
    def flops(self) -> int:
        """Floating-point operations, two for each multiply-add."""
        return 2 * self.macs

    @property
    def accesses(self) -> int:
        """Elements moved if every array is moved once: parameters + activations + intermediate."""
        return self.parameters + self.activations + self.intermediate

    @property
    def accesses_bytes(self) -> float:
        """The same in bytes."""
        return self.accesses * self.itemsize

    @property
    def intensity(self) -> float:
        """Floating-point operations for each byte moved."""
        return self.flops / self.accesses_bytes

    def __add__(self, other: Cost) -> Cost:
        if not isinstance(other, Cost):
            return NotImplemented
        if self.itemsize != other.itemsize:
            raise ValueError(f"itemsize must agree to add costs; given {self.itemsize} and {other.itemsize}")
        sums = (a + b for a, b in zip(dataclasses.astuple(self)[:-1], dataclasses.astuple(other)))
        return Cost(*sums, self.itemsize)


def layer_cost(problem: Problem, kind: str = "dws", dtype: Any = "float32", fused: bool = True) -> Cost:
    """Counts of a layer, every array moved once (complete reuse: the naive model of the GPU study).

    For kind="dws" and stride 1 the elements moved are `R*S*C + C*K + (C + K)*H*W` for each image, the filters once;
    with fused=False the intermediate goes out and comes back, which makes it `(3C + K)*H*W`, the correction in the
    study's comments.

    Args:
        problem: a `Problem`.
        kind: "dws"; "depthwise" or "pointwise", one half of it; "dense", the convolution of C to K channels with the
            same window, which a DWS layer takes the place of (it has no depth multiplier: M is ignored).
        dtype: of every array.
        fused: for kind="dws", whether Z stays in fast memory. Ignored by the other kinds.

    Returns:
        A `Cost`.

    Raises:
        TypeError, ValueError: an argument of the wrong type, an unknown kind or dtype.

    Example:

    >>> problem = Problem(N=1, H=224, W=224, C=128, K=128)
    >>> layer_cost(problem, dtype="float16").accesses_bytes
    25725184
    >>> layer_cost(problem, dtype="float16", fused=False).accesses_bytes
    51415296
    """
    check_problem(problem)
    choice("kind", kind, KINDS)
    size = itemsize(dtype)
    n = problem.sizes
    taps = problem.R * problem.S
    if kind == "dense":
        weights = taps * problem.C * problem.K
        return Cost(problem.pixels * weights, weights, n["X"] + n["Y"], 0, size)
    depthwise, pointwise = n["Z"] * taps, n["Z"] * problem.K
    if kind == "depthwise":
        return Cost(depthwise, n["D"], n["X"] + n["Z"], 0, size)
    if kind == "pointwise":
        return Cost(pointwise, n["P"], n["Z"] + n["Y"], 0, size)
    return Cost(depthwise + pointwise, n["D"] + n["P"], n["X"] + n["Y"], 0 if fused else 2 * n["Z"], size)


def compulsory_bytes(problem: Problem, dtype: Any = "float32") -> int:
    """Bytes that an ideal fused layer moves: input and filters read once, output written once.

    >>> compulsory_bytes(Problem(N=1, H=224, W=224, C=128, K=128))
    51450368
    """
    return layer_cost(problem, "dws", dtype).accesses_bytes


@dataclasses.dataclass(frozen=True)
class StudyRow:
    """One column of the GPU study's tables, in the study's own conventions (see the module)."""

    parameters: int
    flops: int
    accesses: int
    accesses_mb: float
    intensity: float


def study_table(problem: Problem) -> dict[str, StudyRow]:
    """The GPU study's tables for a layer: `{"dense": StudyRow, "dws": StudyRow}`.

    FLOPs count a multiply-add once, megabytes are 10^6 bytes of float16, and the intensity is FLOPs for each element.

    >>> table = study_table(Problem(N=1, H=224, W=224, C=128, K=128))
    >>> [(round(r.accesses_mb, 1), round(r.intensity, 1)) for r in (table["dense"], table["dws"])]
    [(26.0, 569.5), (25.7, 68.4)]
    """
    rows = {}
    for kind in ("dense", "dws"):
        cost = layer_cost(problem, kind, "float16")
        rows[kind] = StudyRow(
            cost.parameters, cost.macs, cost.accesses, cost.accesses_bytes / 1e6, cost.macs / cost.accesses
        )
    return rows


@dataclasses.dataclass(frozen=True)
class Machine:
    """What bounds a layer's time.

    Args:
        peak_flops: floating-point operations a second, a multiply-add counted as two.
        dram_bytes_per_s: bandwidth of the memory.
        cache_bytes_per_s: bandwidth where the whole layer stays in the last cache; None: that of the memory.
        cache_bytes: layers that move at most this much are taken to stay in the cache; 0: none do.
        name: for tables.

    Raises:
        TypeError, ValueError: a rate that is not a positive number, a negative size.
    """

    peak_flops: float
    dram_bytes_per_s: float
    cache_bytes_per_s: Optional[float] = None
    cache_bytes: int = 0
    name: str = "machine"

    def __post_init__(self) -> None:
        for field in ("peak_flops", "dram_bytes_per_s"):
            object.__setattr__(self, field, positive(field, getattr(self, field)))
        if self.cache_bytes_per_s is not None:
            object.__setattr__(self, "cache_bytes_per_s", positive("cache_bytes_per_s", self.cache_bytes_per_s))
        object.__setattr__(self, "cache_bytes", integer("cache_bytes", self.cache_bytes, 0))

    @property
    def ridge(self) -> float:
        """Operations a byte from which on arithmetic, not the memory, is the limit."""
        return self.peak_flops / self.dram_bytes_per_s

    def bandwidth(self, moved_bytes: float) -> float:
        """Bytes a second for a layer that moves `moved_bytes`."""
        if self.cache_bytes_per_s is not None and moved_bytes <= self.cache_bytes:
            return self.cache_bytes_per_s
        return self.dram_bytes_per_s


def roofline_seconds(cost: Cost, machine: Machine) -> float:
    """The least time of a layer on a machine: arithmetic at peak or words at bandwidth, whichever takes longer.

    Args:
        cost: a `Cost`.
        machine: a `Machine`.

    Example: a V100 (900 GB/s) could run the study's layer, fused, 35 000 times a second; the study measured 4335.

    >>> v100 = Machine(peak_flops=125e12, dram_bytes_per_s=900e9)
    >>> cost = layer_cost(Problem(N=1, H=224, W=224, C=128, K=128), dtype="float16")
    >>> round(1 / roofline_seconds(cost, v100))
    34985
    """
    if not isinstance(cost, Cost):
        raise TypeError(f"cost must be an analysis.Cost; given {type(cost).__name__}")
    if not isinstance(machine, Machine):
        raise TypeError(f"machine must be an analysis.Machine; given {type(machine).__name__}")
    return max(cost.flops / machine.peak_flops, cost.accesses_bytes / machine.bandwidth(cost.accesses_bytes))
