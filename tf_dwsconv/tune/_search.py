"""Measures the neighbours of a layer's plan against it."""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
import statistics
import time
from typing import Any, Optional

import numpy as np

from tf_dwsconv import native
from tf_dwsconv._arguments import numpy_dtype
from tf_dwsconv.analysis.problem import Problem
from tf_dwsconv.native import _native

# A plan is kept where it wins by more than this in every comparison. A layer timed twice on a quiet machine differs by
# 1 to 2%.
MARGIN = 1.03

# Times that the winner meets the planner's plan before it is kept, and the share of the time that each takes.
_DUELS, _DUEL_SHARE = 3, 0.12

# Shorter samples than this are of several calls: a call through Python costs some microseconds itself.
_SAMPLE_SECONDS = 200e-6

# Writing around the caches is tried for outputs from this size on, or half of L3 where that is less. Below, the next op
# finds its input in L3, which timing a layer by itself does not show.
_STREAM_BYTES = 16 << 20

# "default" in tables: blocks that somebody without a planner might choose.
_DEFAULT_PIXELS = 64

CHOICES = ("block_pixels", "block_channels", "threads", "stream")
BLOCK_CHOICES = ("rows", "channels", "by_channels", "threads", "stream")  # behind an expansion


@dataclasses.dataclass(frozen=True)
class Result:
    """What tuning found for one layer.

    Attributes:
        name: what the caller called it.
        problem: a `tf_dwsconv.analysis.Problem`.
        dtype: "float32", "bfloat16" or "float16".
        planned, best, default: plans, as dicts of block_pixels, block_channels, threads and stream, or, behind an
            expansion, of rows, channels, by_channels, threads and stream: the planner's; the fastest of its neighbours,
            or itself; tasks of about 64 pixels and all channels.
        planned_seconds, best_seconds, default_seconds: of one call, medians.
        gain: planned time over best time, the smallest of several comparisons; 1.0 where `best` is `planned`.
        kept: whether `gain` is above `MARGIN` and `noise`, so that `best` is worth being used.
        candidates: plans measured.
        line: `best` as a line of the cache.
        noise: the factor by which two measurements of one plan differed, or other programs could have slowed one.
        refused: why nothing is concluded, where `noise` is above `MARGIN` and not below `gain`; else "".
        E: channels in front of the block's expansion to `problem.C`; 0 where there is none.
    """

    name: str
    problem: Problem
    dtype: str
    planned: dict[str, Any]
    best: dict[str, Any]
    default: dict[str, Any]
    planned_seconds: float
    best_seconds: float
    default_seconds: float
    gain: float
    kept: bool
    candidates: int
    line: str
    noise: float
    refused: str
    E: int = 0


class Bench:
    """One layer with its arrays, ready to be timed by any plan.

    E: channels in front of an expansion, or 0. project: whether a pointwise convolution ends it.
    """

    def __init__(
        self,
        problem: Problem,
        dtype: str,
        num_threads: int,
        isa: Optional[str],
        E: int = 0,
        project: bool = True,
    ):
        self.problem, self.num_threads, self.E = problem, num_threads, E
        self.choices = BLOCK_CHOICES if E else CHOICES
        x, depthwise, pointwise = (list(shape) for shape in problem.shapes)
        expand = [1, 1, E, x[3]] if E else None
        self._shapes = (x[:3] + [E] if E else x, depthwise, pointwise if project else None, expand)
        self._dtype = dtype
        options = {"strides": problem.stride, "dilations": problem.dilation, "padding": problem.padding, "isa": isa}
        self._options = native._options(
            problem.stride, problem.padding, problem.dilation, "NHWC", None, None, isa=isa, variant="fused"
        )
        self.limits = self._tuning(None)
        planned = native.plan(
            *self._shapes[:3],
            expand_filter_shape=self._shapes[3],
            dtype=dtype,
            num_threads=num_threads,
            variant="fused",
            **options,
        )
        self.planned = {name: planned[name] for name in self.choices}

        kind = numpy_dtype(dtype)
        random = np.random.default_rng(0)
        x, *filters = (None if shape is None else _aligned(shape, kind) for shape in self._shapes)
        for array in filters:
            if array is not None:
                array[...] = random.uniform(-1, 1, array.shape)
        # An image at a time: uniform() makes float64 first.
        for image in x:
            image[...] = random.uniform(-1, 1, image.shape)
        self._x, self._out = x, _aligned(planned["output_shape"], kind)
        self._layer = native.Layer(*filters[:2], expand_filter=filters[2], variant="fused", **options)
        self.call(self.planned)
        begin = time.perf_counter()
        self.call(self.planned)
        self._calls = max(1, math.ceil(_SAMPLE_SECONDS / max(time.perf_counter() - begin, 1e-7)))

    def _tuning(self, plan: Optional[dict[str, Any]]) -> dict[str, Any]:
        return _native.tuning(self._shapes, self._dtype, self._options, self.num_threads, plan)

    def allowed(self, plan: dict[str, Any]) -> bool:
        """Whether the plan may be run."""
        return self._tuning(plan)["wrong"] == ""

    def line(self, plan: dict[str, Any]) -> str:
        """The plan as a line of the cache."""
        return self._tuning(plan)["line"]

    def call(self, plan: dict[str, Any]) -> np.ndarray:
        """Runs the layer once; returns its output array, which the next call overwrites."""
        return self._layer(self._x, out=self._out, num_threads=self.num_threads, plan=plan)

    def sample(self, plan: dict[str, Any]) -> float:
        """Seconds of a call."""
        begin = time.perf_counter()
        for _ in range(self._calls):
            self.call(plan)
        return (time.perf_counter() - begin) / self._calls

    def samples(self, plans: list[dict[str, Any]], seconds: float) -> list[list[float]]:
        """Samples of each plan, all of them in turn, from another one on each time, until the time is over.

        At least one round is run, whatever it takes.
        """
        for plan in plans:
            self.call(plan)
        taken: list[list[float]] = [[] for _ in plans]
        end = time.perf_counter() + seconds
        turn = 0
        while turn == 0 or time.perf_counter() < end:
            for i in range(len(plans)):
                at = (i + turn) % len(plans)
                taken[at].append(self.sample(plans[at]))
            turn += 1
        return taken


def search(bench: Bench, name: str, dtype: str, seconds: float) -> Result:
    """Sweeps the neighbours of the planned blocks, shares, threads and stores, within about `seconds`."""
    planned = bench.planned
    blocks = _distinct(bench, [{**planned, **change} for change in _block_changes(bench)])
    best = _fastest(bench, _fastest(bench, blocks, 0.25 * seconds, -(-len(blocks) // 3)), 0.2 * seconds, 2)
    others = _distinct(bench, best + [{**plan, **change} for plan in best for change in _other_changes(bench, plan)])
    (best,) = _fastest(bench, others, 0.2 * seconds, 1)
    measured = len(_distinct(bench, blocks + others))

    plans = [planned, best, _default(bench)]
    others = OtherPrograms()
    duels = [bench.samples(plans, _DUEL_SHARE * seconds) for _ in range(_DUELS)]
    slowdown = others.slowdown()
    gain, spread = compare([(samples[0], samples[1]) for samples in duels])
    if gain <= 1.0:
        best = planned
    same = best == planned
    if same:
        gain = 1.0
    noise, refused = max(spread, slowdown), ""
    # Too much noise neither keeps a plan nor drops one that a quieter run has kept.
    if noise > MARGIN and noise >= gain:
        cause = (
            f"two measurements of one plan differ by {spread:.2f} times"
            if spread >= slowdown
            else f"other programs took as much of the CPU as could make a plan {slowdown:.2f} times as slow"
        )
        refused = f"the machine is not quiet: {cause}, and the gain is {gain:.2f}, so nothing is kept or dropped"
    planned_s, best_s, default_s = (
        statistics.median(itertools.chain.from_iterable(samples[i] for samples in duels)) for i in range(3)
    )
    times = planned_s, planned_s if same else best_s, default_s
    kept = gain > MARGIN and not refused
    verdict = gain, kept, measured, bench.line(best), noise, refused, bench.E
    return Result(name, bench.problem, dtype, planned, best, plans[2], *times, *verdict)


def compare(duels: list[tuple[list[float], list[float]]]) -> tuple[float, float]:
    """The gain of a plan over the planner's by some duels, and by how much measurements of one plan differ.

    Args:
        duels: samples of the planner's plan and of the other, taken in turn, for each duel.

    Returns:
        gain: the least of the duels' medians of ratios of neighbours in time, so that a change of the machine's pace
            meets both, and the ratio of the fastest samples: on a loaded machine some of them ran undisturbed, and
            only there a plan of more threads shows what it can do.
        spread: the largest median of a plan over its smallest, the larger of the two plans'.
    """
    ratios = [statistics.median(a / b for a, b in zip(*duel)) for duel in duels]
    plans = list(zip(*duels))
    planned, other = (_undisturbed(list(itertools.chain.from_iterable(plan))) for plan in plans)
    medians = [[statistics.median(samples) for samples in plan] for plan in plans]
    return min(*ratios, planned / other), max(max(each) / min(each) for each in medians)


def _undisturbed(samples: list[float]) -> float:
    """A tenth of the samples are faster; the fastest of all where there are few."""
    return sorted(samples)[len(samples) // 10]


class OtherPrograms:
    """What others do with the cores that this process may run on, from now on."""

    def __init__(self) -> None:
        self._busy, self._own, self._begin = _busy_seconds(), time.process_time(), time.perf_counter()

    def slowdown(self) -> float:
        """By how much they may have slowed a thread, at most: as if all they did had met its core. 1.0 if unknown."""
        busy, own, wall = _busy_seconds(), time.process_time(), time.perf_counter() - self._begin
        if busy is None or self._busy is None:
            return 1.0
        # The system counts in hundredths of a second: what is less is not seen.
        others = max(0.0, busy - self._busy - (own - self._own) - 0.02)
        return 1.0 / (1.0 - min(0.99, others / wall)) if wall > 0 else 1.0


def _busy_seconds() -> Optional[float]:
    """Seconds for which the cores that this process may run on were busy, added up; None where unknown."""
    cores = {f"cpu{core}" for core in os.sched_getaffinity(0)}
    try:
        with open("/proc/stat", encoding="ascii") as file:
            rows = [line.split() for line in file if line.split(" ", 1)[0] in cores]
        # user nice system idle iowait irq softirq steal guest guest_nice; guests are part of user.
        ticks = sum(int(word) for row in rows for at, word in enumerate(row[1:9]) if at not in (3, 4))
    except (OSError, ValueError):
        return None
    return ticks / os.sysconf("SC_CLK_TCK") if rows else None


def _default(bench: Bench) -> dict[str, Any]:
    threads = bench.limits["threads_limit"]
    if bench.E:
        rows = min(max(1, _DEFAULT_PIXELS // bench.problem.Wo), bench.problem.Ho)
        plan = dict(zip(BLOCK_CHOICES, (rows, bench.problem.C, False, threads, False)))
        return plan if bench.allowed(plan) else {**plan, "rows": 1}
    pixels = min(_DEFAULT_PIXELS, bench.problem.Ho * bench.problem.Wo)
    plan = {"block_pixels": pixels, "block_channels": bench.problem.K, "threads": threads}
    plan["stream"] = False
    while not bench.allowed(plan):  # thousands of channels: too much scratch
        plan["block_pixels"] //= 2
    return plan


def _block_changes(bench: Bench) -> list[dict[str, Any]]:
    """Blocks around the planned ones, with the output channels whole or shared out."""
    if bench.E:
        return _strip_changes(bench)
    tile, channels = bench.limits["tile_channels"], bench.problem.K
    panels = -(-channels // tile)
    shares = {s for s in (1, 2, bench.limits["threads_limit"]) if s <= panels}
    widths = {bench.planned["block_channels"], *(min(-(-panels // s) * tile, channels) for s in shares)}
    pixels = {_rounded(bench, bench.planned["block_pixels"] * factor) for factor in (1 / 8, 1 / 4, 1 / 2, 1, 2, 4)}
    return [{"block_pixels": p, "block_channels": c} for p in sorted(pixels) for c in sorted(widths)]


def _other_changes(bench: Bench, plan: dict[str, Any]) -> list[dict[str, Any]]:
    """Half steps between blocks, numbers of threads, and the other way to store."""
    limit, problem = bench.limits["threads_limit"], bench.problem
    changes: list[dict[str, Any]]
    if bench.E:
        changes = [{"rows": _equal_rows(problem.Ho, plan["rows"] * factor)} for factor in (2 / 3, 3 / 2)]
    else:
        changes = [{"block_pixels": _rounded(bench, plan["block_pixels"] * factor)} for factor in (2 / 3, 3 / 2)]
    changes += [{"threads": threads} for threads in {1, max(1, limit // 2), limit}]
    size = bench._out.nbytes
    if size >= min(_STREAM_BYTES, bench.limits["l3_bytes"] // 2) and problem.K * bench._out.itemsize % 64 == 0:
        changes.append({"stream": not plan["stream"]})
    return changes


def _strip_changes(bench: Bench) -> list[dict[str, Any]]:
    """Strips of rows around the planned ones, and pieces of the channels of whole images, shared by tasks or not."""
    planned, tile = bench.planned, bench.limits["tile_channels"]
    high, channels = bench.problem.Ho, bench.problem.C
    heights = {_equal_rows(high, planned["rows"] * factor) for factor in (1 / 8, 1 / 4, 1 / 2, 1, 2, 4)}
    changes = [{"rows": rows, "channels": channels, "by_channels": False} for rows in sorted(heights)]
    widths = {-(-math.ceil(planned["channels"] * factor) // tile) * tile for factor in (1 / 4, 1 / 2, 1, 2)}
    for width in sorted({min(width, channels) for width in widths}):
        changes += [{"rows": high, "channels": width, "by_channels": apart} for apart in (False, True)]
    return changes


def _equal_rows(high: int, rows: float) -> int:
    """About so many rows, such that strips of them are as equal as the height allows."""
    return -(-high // -(-high // min(max(1, round(rows)), high)))


def _rounded(bench: Bench, pixels: float) -> int:
    """Whole rows, as equal as the image's height allows, or whole register tiles of a row."""
    rows = round(pixels / bench.problem.Wo)
    if rows >= 1:
        return _equal_rows(bench.problem.Ho, rows) * bench.problem.Wo
    tile = bench.limits["tile_pixels"]
    return min(max(1, round(pixels / tile)) * tile, bench.problem.Ho * bench.problem.Wo)


def _distinct(bench: Bench, plans: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The plans that may run, each once, the planner's own among them."""
    unique = {tuple(plan.values()): plan for plan in [bench.planned, *plans]}
    return [plan for plan in unique.values() if plan == bench.planned or bench.allowed(plan)]


def _fastest(bench: Bench, plans: list[dict[str, Any]], seconds: float, count: int) -> list[dict[str, Any]]:
    taken = bench.samples(plans, seconds)
    order = sorted(range(len(plans)), key=lambda i: statistics.median(taken[i]))
    return [plans[i] for i in order[:count]]


def _aligned(shape: Any, dtype: np.dtype) -> np.ndarray:
    """An array that starts at a cache line, as TensorFlow's tensors do: others cannot be written around the caches."""
    size = math.prod(shape) * dtype.itemsize
    memory = np.empty(size + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + size].view(dtype).reshape(shape)
