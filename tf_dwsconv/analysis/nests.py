"""Tilings of loop nests by linear programming, after Dinh and Demmel.

G. Dinh and J. Demmel, "Communication-Optimal Tilings for Projective Nested Loops with Arbitrary Bounds",
arXiv:2003.00119. A nest of loops i with bounds L_i reads and writes arrays j, each indexed by a subset supp(j) of the
loops. With M words of fast memory and beta_i = log_M L_i:

    primal:  max sum_i lambda_i   s.t.  sum_{i in supp(j)} lambda_i <= 1 for every array j,  0 <= lambda_i <= beta_i
    dual:    min sum_j s_j + sum_i beta_i zeta_i   s.t.  zeta_i + sum_{j: i in supp(j)} s_j >= 1 for every i

A tile of M^lambda_i iterations along every loop lets each of its arrays fill the memory; (prod L_i) M^(1 - sum lambda)
words are moved, and no order of the iterations moves fewer, up to a constant factor. `LoopNest.lower_bound` has the
constant: the dual is a Hoelder-Brascamp-Lieb (here Shearer) inequality, |V| <= prod |A_j(V)|^s_j prod L_i^zeta_i.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Optional, Union

import numpy as np

from tf_dwsconv.analysis._optional import require
from tf_dwsconv.analysis.problem import choice, integer, positive

_SLACK = 1e-9  # of exponents: what a floating-point solution may be off


@dataclasses.dataclass(frozen=True)
class Window:
    """An array axis indexed by `out * stride + tap * dilation`: a convolution's window, not a projection of a loop."""

    out: str
    tap: str
    stride: int = 1
    dilation: int = 1


@dataclasses.dataclass(frozen=True)
class Array:
    """An array of a nest.

    Args:
        name: its letter.
        axes: for each of its axes, the loop that indexes it, or a `Window` of two loops.
        window: how the linear program sees a `Window`. "shared": indexed by the window's position alone, since
            neighbouring windows share their elements (the taps are few). "im2col": by position and tap, as if every
            window were a copy of its own.
        words: words of fast memory one element takes.
    """

    name: str
    axes: tuple[Union[str, Window], ...]
    window: str = "shared"
    words: float = 1.0

    @property
    def support(self) -> tuple[str, ...]:
        """The loops that index the array, as the linear program sees them."""
        loops = []
        for axis in self.axes:
            if isinstance(axis, Window):
                loops += [axis.out] if self.window == "shared" else [axis.out, axis.tap]
            else:
                loops.append(axis)
        return tuple(loops)

    @property
    def loops(self) -> tuple[str, ...]:
        """Every loop that moves the array's index."""
        return tuple(i for axis in self.axes for i in ((axis.out, axis.tap) if isinstance(axis, Window) else (axis,)))


@dataclasses.dataclass(frozen=True)
class Tiling:
    """What the linear programs say of a nest.

    Attributes:
        exponents: lambda_i by loop.
        objective: their sum, the optimum of the primal.
        tile: M^lambda_i by loop, real numbers.
        words: (prod L_i) M^(1 - objective): words moved, to a constant factor.
        array_duals, loop_duals: s_j and zeta_i.
        dual_objective: the optimum of the dual, solved on its own; equals `objective`.
    """

    exponents: Mapping[str, float]
    objective: float
    tile: Mapping[str, float]
    words: float
    array_duals: Mapping[str, float]
    loop_duals: Mapping[str, float]
    dual_objective: float


@dataclasses.dataclass(frozen=True)
class LoopNest:
    """Nested loops over arrays.

    Args:
        bounds: trip count by loop.
        arrays: the arrays they index.
        prefer: loops to make long first where several tiles are optimal.

    Raises:
        TypeError, ValueError: a bound that is not a positive integer, no arrays, an array or a preference that names
            an unknown loop.

    Example: a matrix product of 1024 x 1024 matrices with 2^16 words in fast memory goes in tiles of 256^3.

    >>> product = LoopNest({"i": 1024, "j": 1024, "k": 1024},
    ...                    (Array("A", ("i", "k")), Array("B", ("k", "j")), Array("C", ("i", "j"))))
    >>> {loop: round(b) for loop, b in product.solve(2**16).tile.items()}
    {'i': 256, 'j': 256, 'k': 256}
    """

    bounds: Mapping[str, int]
    arrays: tuple[Array, ...]
    prefer: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.bounds, Mapping) or not self.bounds:
            raise TypeError(f"bounds must map loops to trip counts; given {self.bounds!r}")
        object.__setattr__(self, "bounds", {i: integer(f"bounds[{i!r}]", n) for i, n in self.bounds.items()})
        object.__setattr__(self, "arrays", tuple(self.arrays))
        for array in self.arrays:
            if not isinstance(array, Array):
                raise TypeError(f"arrays must hold Array objects; given {array!r}")
        if not self.arrays or len({a.name for a in self.arrays}) < len(self.arrays):
            raise ValueError(f"arrays must be one or more of different names; given {[a.name for a in self.arrays]}")
        for array in self.arrays:
            positive(f"words of array {array.name}", array.words)
            choice(f"window of array {array.name}", array.window, ("shared", "im2col"))
            unknown = sorted(set(array.loops) - set(self.bounds))
            if unknown:
                raise ValueError(f"array {array.name} is indexed by {unknown}, not among the loops {list(self.bounds)}")
            if len(set(array.loops)) != len(array.loops):
                raise ValueError(f"array {array.name} must use a loop once; given axes {array.axes}")
        unknown = sorted(set(self.prefer) - set(self.bounds))
        if unknown:
            raise ValueError(f"prefer names {unknown}, not among the loops {list(self.bounds)}")

    def matrix(self) -> np.ndarray:
        """[arrays, loops] of 0 and 1: which loop is in which array's support."""
        return np.array([[float(i in a.support) for i in self.bounds] for a in self.arrays])

    @property
    def iterations(self) -> int:
        """Product of all bounds."""
        return math.prod(self.bounds.values())

    def solve(self, memory: int, capacities: Sequence[float] | None = None) -> Tiling:
        """Solves both linear programs.

        Args:
            memory: words of fast memory, at least 2.
            capacities: elements each array's tile may have, in the arrays' order; None: `memory` for each.

        Returns:
            A `Tiling`. Among optimal tiles it is the one that makes the loops of `prefer` long, in that order.

        Raises:
            ValueError: memory below 2, a capacity below 1.
            ImportError: SciPy is missing.
        """
        optimize = require("scipy.optimize", "solving a linear program")
        memory = integer("memory", memory, 2)
        log_m = math.log(memory)
        rhs = np.ones(len(self.arrays))
        if capacities is not None:
            if min(capacities) < 1:
                raise ValueError(f"capacities must be at least 1 element for each array; given {tuple(capacities)}")
            rhs = np.array([math.log(c) / log_m for c in capacities])
        a, loops = self.matrix(), list(self.bounds)
        beta = np.array([math.log(n) / log_m for n in self.bounds.values()])

        def minimise(c, a_ub, b_ub, bounds):
            result = optimize.linprog(c, A_ub=a_ub, b_ub=b_ub, bounds=bounds, method="highs")
            if not result.success:
                raise RuntimeError(f"the linear program was not solved: {result.message}")
            return result

        box = [(0.0, b) for b in beta]
        primal = minimise(-np.ones(len(loops)), a, rhs, box)
        x, objective = primal.x, -primal.fun
        # Several tiles can be optimal: stay on the optimal face and take the preferred loops as long as they go.
        face_a, face_b = np.vstack([a, -np.ones(len(loops))]), np.append(rhs, -objective + _SLACK)
        for loop in self.prefer:
            k = loops.index(loop)
            x = minimise(-np.eye(len(loops))[k], face_a, face_b, box).x
            box[k] = (max(0.0, x[k] - _SLACK), beta[k])
        dual = minimise(
            np.concatenate([rhs, beta]),
            -np.hstack([a.T, np.eye(len(loops))]),
            -np.ones(len(loops)),
            [(0.0, None)] * (len(self.arrays) + len(loops)),
        )
        s, zeta = dual.x[: len(self.arrays)], dual.x[len(self.arrays) :]
        return Tiling(
            exponents=dict(zip(loops, map(float, x))),
            objective=float(objective),
            tile={i: min(float(memory**v), float(n)) for (i, n), v in zip(self.bounds.items(), x)},
            words=float(self.iterations * memory ** (1.0 - objective)),
            array_duals={array.name: float(v) for array, v in zip(self.arrays, s)},
            loop_duals=dict(zip(loops, map(float, zeta))),
            dual_objective=float(dual.fun),
        )

    def footprint(self, array: Array, tile: Mapping[str, int]) -> int:
        """Elements of an array that one tile of `tile` iterations (by loop) touches, halo included."""
        return math.prod(
            (tile[x.out] - 1) * x.stride + (tile[x.tap] - 1) * x.dilation + 1 if isinstance(x, Window) else tile[x]
            for x in array.axes
        )

    def check_tile(self, tile: Mapping[str, int]) -> dict[str, int]:
        """`tile` as a dict with an integer within the bounds for every loop, or an error that says what is wrong."""
        if not isinstance(tile, Mapping) or set(tile) != set(self.bounds):
            raise ValueError(f"tile must give a size for each of the loops {list(self.bounds)}; given {tile!r}")
        tile = {i: integer(f"tile[{i!r}]", tile[i]) for i in self.bounds}
        for i, n in self.bounds.items():
            if tile[i] > n:
                raise ValueError(f"tile[{i!r}] must be at most the loop's bound {n}; given {tile[i]}")
        return tile

    def tile_words(self, tile: Mapping[str, int]) -> float:
        """Words of fast memory that the arrays of one tile (a size by loop) take together, halo included."""
        return self._tile_words(self.check_tile(tile))

    def _tile_words(self, tile):
        return sum(a.words * self.footprint(a, tile) for a in self.arrays)

    def traffic(self, tile: Mapping[str, int]) -> float:
        """Words moved when every tile fetches (or stores) all of its arrays anew; short tiles at the edges count so.

        Args:
            tile: integer size by loop.
        """
        return self._traffic(self.check_tile(tile))

    def _traffic(self, tile):
        count = {i: -(-n // tile[i]) for i, n in self.bounds.items()}
        total = 0.0
        for array in self.arrays:
            words = array.words
            for axis in array.axes:
                if isinstance(axis, Window):
                    no, nt = count[axis.out], count[axis.tap]
                    words *= (
                        (self.bounds[axis.out] - no) * axis.stride * nt
                        + (self.bounds[axis.tap] - nt) * axis.dilation * no
                        + no * nt
                    )
                else:
                    words *= self.bounds[axis]
            total += words * math.prod(n for i, n in count.items() if i not in array.loops)
        return total

    def integer_tiling(
        self, memory: int, capacity: str = "sum", start: Optional[Mapping[str, float]] = None
    ) -> dict[str, int]:
        """An integer tile that fits: the linear program's, rounded down, then improved.

        Args:
            memory: words of fast memory.
            capacity: "sum": all arrays' tiles together fit in `memory`, halo included. "each": each of them does, as
                in the linear program.
            start: real tile to begin with, by loop; None: the linear program's with the memory shared evenly.

        Returns:
            Tile by loop. A local optimum of `traffic`: making one loop's block shorter, to make others longer, moves
            no fewer words.

        Raises:
            ValueError: not even one iteration fits.
        """
        memory = integer("memory", memory, 2)
        choice("capacity", capacity, ("sum", "each"))
        fits = (
            (lambda t: self._tile_words(t) <= memory)
            if capacity == "sum"
            else (lambda t: all(a.words * self.footprint(a, t) <= memory for a in self.arrays))
        )
        if not fits(dict.fromkeys(self.bounds, 1)):
            need = self._tile_words(dict.fromkeys(self.bounds, 1))
            raise ValueError(f"memory must hold one iteration of every array, {need:.0f} words; given {memory}")
        if start is None:
            share = memory / len(self.arrays) if capacity == "sum" else memory
            start = self.solve(memory, [max(1.0, share / a.words) for a in self.arrays]).tile
        tile = {i: min(n, max(1, math.floor(start[i] + 1e-6))) for i, n in self.bounds.items()}
        while not fits(tile):  # the halo, and arrays whose real tile was below one element
            longest = max(tile, key=tile.get)
            tile[longest] = max(1, tile[longest] * 7 // 8)
        return _improve(self, tile, fits)

    def lower_bound(self, memory: int) -> float:
        """Words that any order of the iterations moves, constants included; for nests without windows.

        The larger of two: every array once, and the segment argument. Cut the run into segments of T words moved. One
        segment sees at most M + T words, so at most max prod a_j^s_j prod L_i^zeta_i iterations with sum w_j a_j =
        M + T, for dual feasible s, zeta; with T = M / (sum s - 1) that is 2 (prod L_i) / sqrt(M) - 2M for a matrix
        product. An output word counts as moved when it is first met, as in the papers.

        Raises:
            ValueError: an array has a `Window`: use `conv_lower_bound` or `dws_lower_bound`.
        """
        windowed = [a.name for a in self.arrays if any(isinstance(x, Window) for x in a.axes)]
        if windowed:
            raise ValueError(
                f"arrays {windowed} are indexed by windows, which are no projections of the loops; "
                "use conv_lower_bound or dws_lower_bound"
            )
        memory = integer("memory", memory, 2)
        once = sum(a.words * self.footprint(a, self.bounds) for a in self.arrays)
        tiling = self.solve(memory)
        s = [max(0.0, tiling.array_duals[a.name]) for a in self.arrays]
        total = sum(s)
        if total <= 1 + 1e-6:
            return once
        segment = memory / (total - 1)
        log_v = sum(x * math.log(x * (memory + segment) / (total * a.words)) for x, a in zip(s, self.arrays) if x > 0)
        log_v += sum(max(0.0, z) * math.log(self.bounds[i]) for i, z in tiling.loop_duals.items())
        return max(once, segment * (self.iterations / math.exp(log_v) - 1))


def splits(n: int, quantum: int = 1) -> list[int]:
    """The shortest block for every possible number of blocks of `n`, multiples of `quantum` or n itself, descending.

    >>> splits(10)
    [10, 5, 4, 3, 2, 1]
    """
    sizes, block = [], n
    while True:
        sizes.append(block)
        # The next block count that a shorter block can give, and the shortest block with that count.
        shorter = (block - 1) // quantum * quantum
        if shorter <= 0:
            return sizes
        count = -(-n // shorter)
        block = -(n // (-count * quantum)) * quantum


def _improve(nest, tile, fits):
    """Descent over `splits`: shorten one loop at most, lengthen another, and perhaps all others as far as they go."""
    steps = {i: splits(n) for i, n in nest.bounds.items()}

    def lengthened(t, first):
        for i in (first, *(i for i in t if i != first)):
            low, high = 0, len(steps[i]) - 1
            while low < high:  # the longest block of loop i with which the others still fit
                mid = (low + high) // 2
                low, high = (low, mid) if fits({**t, i: steps[i][mid]}) else (mid + 1, high)
            t = {**t, i: steps[i][low]}
            yield t

    # The shortest block for the same number of blocks moves no more words and leaves room.
    best = {i: -(-n // -(-n // tile[i])) for i, n in nest.bounds.items()}
    words = nest._traffic(best)
    while True:
        candidates = [t for i in best for t in lengthened(best, i)]
        for j in best:
            for block in [b for b in steps[j] if b < best[j]][:8] + [1]:
                candidates += [t for i in best if i != j for t in lengthened({**best, j: block}, i)]
        candidate = min(candidates, key=nest._traffic)
        if nest._traffic(candidate) >= words:
            return best
        best, words = candidate, nest._traffic(candidate)
