"""The integer communication model of a fused DWS layer: the model that the kernels' planner is held to.

The layer is cut into tiles of `bp` output pixels x `bk` output channels; inside a tile the channels of the
intermediate go by in blocks of `bc`. Pixels are consecutive in the row-major order of one image, or whole images. With
np = blocks of pixels, nk = ceil(K / bk), and every tile fetching what it reads,

    traffic = nk * X_windows  +  D  +  np * P  +  Y

in elements, where X_windows adds up the input windows of all pixel blocks: X times the halo. D is the depthwise filter,
which stays. The tiles of X, Z, D, P and Y must fit together in the fast memory. bc does not change the traffic: it
makes room. Where nk > 1 the depthwise part is computed nk times, once for each block of output channels.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence

import numpy as np

from tf_dwsconv.analysis.nests import splits
from tf_dwsconv.analysis.problem import Problem, check_problem, choice, integer

ORDERS = ("none", "pixels", "channels")
_EVERY_BLOCK_UP_TO = 1 << 18  # output pixels of an image up to which the search tries every block of pixels
_CHUNK = 1 << 20  # pixel blocks looked at in one NumPy call


@dataclasses.dataclass(frozen=True)
class FusedTraffic:
    """Elements a tiling moves and holds.

    Attributes:
        x, d, p, y: elements of each array moved.
        pixel_blocks, channel_blocks: np and nk.
        tile: elements of fast memory that the largest tile of each of X, Z, D, P, Y takes.
    """

    x: int
    d: int
    p: int
    y: int
    pixel_blocks: int
    channel_blocks: int
    tile: Mapping[str, int]

    @property
    def total(self) -> float:
        """Elements moved."""
        return self.x + self.d + self.p + self.y

    @property
    def tile_total(self) -> float:
        """Elements of fast memory needed."""
        return sum(self.tile.values())


@dataclasses.dataclass(frozen=True)
class FusedTiling:
    """A tiling and what it moves: `bp` pixels, `bc` input channels, `bk` output channels."""

    bp: int
    bc: int
    bk: int
    order: str
    traffic: FusedTraffic


def dws_lower_bound(problem: Problem, memory: int) -> float:
    """Elements that any fused order of a DWS layer moves with `memory` elements of fast memory.

    The larger of two. Once: the input elements some window reads, the filter taps some window uses, P and Y. And the
    pointwise half's 2 G / sqrt(M) - 2M with G = N Ho Wo C M K, which holds although Z never leaves the fast memory: an
    intermediate value that a segment of the run uses was in memory when the segment began, or was loaded, or has an
    input element of its own among the segment's. A depth multiplier m lets m of them share one, which takes sqrt(m)
    off. The pairing needs a tap that is inside the input for every window; where padding leaves none, the first term
    alone is returned.

    Args:
        problem: a `Problem`.
        memory: elements of fast memory, at least 2.

    Returns:
        A float.

    Example:

    >>> dws_lower_bound(Problem(N=1, H=56, W=56, C=128, K=128), 2**18)
    820352.0
    """
    check_problem(problem)
    memory = integer("memory", memory, 2)
    down, across = problem.height, problem.width
    once = (
        problem.N * down.touched * across.touched * problem.C
        + down.taps_used * across.taps_used * problem.CM
        + problem.sizes["P"]
        + problem.sizes["Y"]
    )
    if not (down.has_anchor and across.has_anchor):
        return float(once)
    products = problem.pixels * problem.CM * problem.K
    return max(float(once), 2 * products / math.sqrt(problem.M * memory) - 2 * memory)


def fused_traffic(
    problem: Problem, bp: int, bk: int, memory: int | None = None, *, bc: int | None = None, order: str = "none"
) -> FusedTraffic:
    """What one tiling of a fused layer moves.

    Args:
        problem: a `Problem`.
        bp: output pixels in a tile: at most Ho*Wo (row-major within an image, the last block of an image is shorter),
            or a multiple of Ho*Wo (whole images).
        bk: output channels in a tile, at most K.
        memory: elements of fast memory that the tile must fit in; None: not checked.
        bc: input channels in a block, at most C; None: all.
        order: what neighbouring tiles share, which takes tiles of all input channels (bc = C). "none": nothing, as in
            the formula. "pixels": pixel blocks are the outer loop, so X's window stays for all its channel blocks, and
            P stays if it is one block. "channels": channel blocks are the outer loop, so P moves once, and X stays if
            the batch is one block.

    Returns:
        A `FusedTraffic`.

    Raises:
        TypeError, ValueError: an argument out of range, or a tile that does not fit in `memory`.

    Example:

    >>> problem = Problem(N=1, H=56, W=56, C=128, K=128)
    >>> traffic = fused_traffic(problem, bp=4 * 56, bk=128, memory=2**18)
    >>> traffic.pixel_blocks, traffic.x / problem.sizes["X"], traffic.total
    (14, 1.4642857142857142, 1219712)
    """
    check_problem(problem)
    bp, bk = integer("bp", bp), integer("bk", bk)
    bc = problem.C if bc is None else integer("bc", bc)
    choice("order", order, ORDERS)
    image = problem.Ho * problem.Wo
    if bp > problem.pixels or (bp > image and bp % image):
        raise ValueError(f"bp must be at most Ho*Wo = {image} or a multiple of it up to {problem.pixels}; given {bp}")
    for name, value, most in (("bk", bk, problem.K), ("bc", bc, problem.C)):
        if value > most:
            raise ValueError(f"{name} must be at most {most}; given {value}")
    images = max(1, bp // image)  # in one block
    windows, widest = _windows(problem.height, problem.width, np.array([min(bp, image)]))
    traffic = _traffic(problem, bp, bk, bc, order, int(windows[0]), int(widest[0]) * images)
    if memory is not None and traffic.tile_total > integer("memory", memory):
        raise ValueError(
            f"memory must hold the tile's {traffic.tile_total} elements {dict(traffic.tile)}; given {memory}"
        )
    return traffic


def _traffic(problem, bp, bk, bc, order, windows, widest):
    """`windows`: input positions all blocks of one image read; `widest`: those of the largest block."""
    image = problem.Ho * problem.Wo
    np_ = problem.N * -(-image // bp) if bp <= image else -(-problem.N // (bp // image))
    nk = -(-problem.K // bk)
    n = problem.sizes
    x_times, p_times = _fetches(order, np_, nk, bc == problem.C)
    tile = {"X": widest * bc, "Z": bp * bc * problem.M, "D": n["D"], "P": bc * problem.M * bk, "Y": bp * bk}
    x, p = int(x_times) * problem.N * windows * problem.C, int(p_times) * n["P"]
    return FusedTraffic(x, n["D"], p, n["Y"], np_, nk, tile)


def _fetches(order, np_, nk, whole):
    """How often X and P move; `whole`: the tile has all input channels, without which the next tile finds nothing."""
    if order == "pixels":
        return np.where(whole, 1, nk), np.where(whole & (nk == 1), 1, np_)
    if order == "channels":
        return np.where(whole & (np_ == 1), 1, nk), np.where(whole, 1, np_)
    return nk, np_


def fused_tiling(
    problem: Problem, memory: int, *, order: str = "none", quanta: Sequence[int] = (1, 1, 1)
) -> FusedTiling:
    """The tiling that moves least, by search over all integers.

    Every block of pixels is tried (in images of more than 2^18 output pixels whole rows and halved rows only), the
    shortest block for every number of blocks of output channels, and the most input channels that then fit. Ties go
    to the most input channels, then whole rows, then the smaller tile.

    Args:
        problem: a `Problem`.
        memory: elements of fast memory.
        order: as in `fused_traffic`.
        quanta: multiples (of pixels, input channels, output channels) that bp, bc and bk must be unless they are all
            there is; (1, C, 1) asks for whole channels.

    Returns:
        A `FusedTiling`.

    Raises:
        TypeError, ValueError: an argument out of range, or no tile that fits in `memory`.

    Example:

    >>> tiling = fused_tiling(Problem(N=1, H=112, W=112, C=32, K=64), 2**18, quanta=(1, 32, 16))
    >>> tiling.bp / 112, tiling.bc, tiling.bk, tiling.traffic.tile_total
    (16.0, 32, 64, 238880)
    """
    check_problem(problem)
    memory = integer("memory", memory)
    choice("order", order, ORDERS)
    try:
        q_p, q_c, q_k = quanta
    except (TypeError, ValueError):
        raise ValueError(
            f"quanta must be 3 integers, for pixels, input and output channels; given {quanta!r}"
        ) from None
    q_p, q_c, q_k = (integer(f"quanta[{i}]", q) for i, q in enumerate((q_p, q_c, q_k)))
    image, n = problem.Ho * problem.Wo, problem.sizes
    bps, windows, widest = _pixel_blocks(problem, q_p)
    nps = np.where(bps <= image, problem.N * -(-image // bps), -(-problem.N // np.maximum(1, bps // image)))
    least_c = min(q_c, problem.C)
    best = None
    for bk in splits(problem.K, q_k):
        nk = -(-problem.K // bk)
        room = memory - n["D"] - bps * bk
        per_channel = widest + problem.M * (bps + bk)
        bc = np.minimum(room // per_channel, problem.C)
        bc = np.where(bc == problem.C, bc, bc // q_c * q_c)
        fits = bc >= least_c
        if not fits.any():
            continue
        x_times, p_times = _fetches(order, nps, nk, bc == problem.C)
        total = x_times * windows * float(problem.N * problem.C) + p_times * float(n["P"])
        held = bc * per_channel + bps * bk
        ragged = bps % problem.Wo != 0
        i = np.flatnonzero(fits)[np.lexsort((held[fits], ragged[fits], -bc[fits], total[fits]))[0]]
        key = (float(total[i]), -int(bc[i]), bool(ragged[i]), int(held[i]))
        if best is None or key < best[0]:
            best = key, int(bps[i]), int(bc[i]), bk
    if best is None:
        raise ValueError(
            f"memory must hold the smallest tile that quanta={(q_p, q_c, q_k)} allow; given {memory} elements "
            f"for {problem}"
        )
    _, bp, bc, bk = best
    return FusedTiling(bp, bc, bk, order, fused_traffic(problem, bp, bk, memory, bc=bc, order=order))


def _pixel_blocks(problem, quantum):
    """Blocks of pixels to try; for each, input positions all blocks of an image read, and those of the largest one."""
    blocks, windows, widest = _window_table(problem.height, problem.width, quantum)
    batches = np.array([b for b in splits(problem.N) if b > 1], np.int64)
    return (
        np.concatenate([blocks, batches * problem.Ho * problem.Wo]),
        np.concatenate([windows, np.full(batches.size, windows[-1])]),
        np.concatenate([widest, widest[-1] * batches]),
    )


@functools.lru_cache(maxsize=64)
def _window_table(height, width, quantum):
    """The blocks within one image, ascending, the whole image last, and their `_windows`."""
    image = height.out * width.out
    if image <= _EVERY_BLOCK_UP_TO:
        blocks = np.arange(1, image + 1, dtype=np.int64)
    else:
        halves = {-(-width.out >> i) for i in range(width.out.bit_length())}
        blocks = np.array(sorted(halves | set(range(width.out, image + 1, width.out))), np.int64)
    blocks = blocks[(blocks % quantum == 0) | (blocks == image)]
    return (blocks, *_windows(height, width, blocks))


def _windows(height, width, blocks):
    """For blocks of that many output pixels, row-major in one image: input positions that all of them read, each for
    itself, and those of the largest one. A position is read if it lies between the first and the last tap of a window.
    """
    image = height.out * width.out
    counts = -(-image // blocks)
    totals, largest = np.empty_like(blocks), np.empty_like(blocks)
    ends = np.cumsum(counts)
    start = 0
    while start < blocks.size:
        done = ends[start - 1] if start else 0
        end = max(start + 1, int(np.searchsorted(ends, done + _CHUNK, side="right")))
        count = counts[start:end]
        offsets = np.cumsum(count) - count
        size = np.repeat(blocks[start:end], count)
        first = (np.arange(size.size) - np.repeat(offsets, count)) * size
        positions = _positions(height, width, first, np.minimum(first + size, image) - 1)
        totals[start:end] = np.add.reduceat(positions, offsets)
        largest[start:end] = np.maximum.reduceat(positions, offsets)
        start = end
    return totals, largest


def _interval(axis, first, last):
    """[low, high) of the input elements that windows first..last read, numbered along the elements any window reads."""
    if axis.stride <= axis.extent:
        low, high = first * axis.stride - axis.before, last * axis.stride - axis.before + axis.extent
        return np.clip(low, 0, axis.size), np.clip(high, 0, axis.size)
    # Windows apart from each other: what lies between them is not read.
    start = np.arange(axis.out) * axis.stride - axis.before
    length = np.clip(start + axis.extent, 0, axis.size) - np.clip(start, 0, axis.size)
    total = np.concatenate([[0], np.cumsum(length)])
    return total[first], total[last + 1]


def _positions(height, width, first, last):
    """Input positions (rows x columns) that output pixels first..last of an image read."""
    (p0, q0), (p1, q1) = np.divmod(first, width.out), np.divmod(last, width.out)

    def columns(a, b):
        low, high = _interval(width, a, b)
        return high - low

    whole = columns(np.zeros_like(q0), np.full_like(q0, width.out - 1))
    head, tail = columns(q0, np.full_like(q0, width.out - 1)), columns(np.zeros_like(q1), q1)
    head_low, head_high = _interval(height, p0, p0)
    tail_low, tail_high = _interval(height, p1, p1)
    # The rows between the first and the last are whole; what is left of the outer two is above and below them.
    inner = p1 - p0 >= 2
    inner_low, inner_high = _interval(height, np.minimum(p0 + 1, p1), np.maximum(p1 - 1, p0))
    many = (
        (np.minimum(head_high, inner_low) - head_low) * head
        + (inner_high - inner_low) * whole
        + (tail_high - np.maximum(tail_low, inner_high)) * tail
    )
    both = np.maximum(head_high - tail_low, 0)
    two = (
        (head_high - head_low - both) * head
        + (tail_high - tail_low - both) * tail
        + both * np.minimum(whole, head + tail)
    )
    # q1 < q0 is possible only in a later row, and then `one` is not taken: order them to stay in range.
    one = (head_high - head_low) * columns(np.minimum(q0, q1), np.maximum(q0, q1))
    return np.where(p0 == p1, one, np.where(inner, many, two))
