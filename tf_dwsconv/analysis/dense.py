"""Bounds and blockings of one convolution layer with mixed precisions, after Chen et al.

A. Chen, J. Demmel, G. Dinh, M. Haberle and O. Holtz, "Communication Bounds for Convolutional Neural Networks",
PASC 2022, arXiv:2204.08279. A layer makes G = N C K Wo Ho wf hf updates to the output O from the input I and the
filter F; an element of each takes p_I, p_F, p_O words. docs/analysis.md derives every term.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

from tf_dwsconv.analysis import nests
from tf_dwsconv.analysis.problem import Problem, check_problem, choice, integer, itemsize, positive


@dataclasses.dataclass(frozen=True)
class ConvBound:
    """Words that a convolution must move with M words of fast memory, term by term.

    Attributes:
        once: p_I|I| + p_F|F| + p_O|O|: every array moves at least once.
        large_filter: C_p G / M - M: any two arrays' elements name an update.
        small_filter: 2 sqrt(p_I p_F p_O G^2 / (q M)) - 2M, where q is how many windows share an input element,
            wf hf / (sw sh) in the paper.
    """

    once: float
    large_filter: float
    small_filter: float

    @property
    def words(self) -> float:
        """The largest of the three."""
        return max(self.once, self.large_filter, self.small_filter)


def _precisions(value):
    try:
        value = tuple(value)
    except TypeError:
        raise TypeError(f"precisions must hold the words of an element of I, F and O; given {value!r}") from None
    if len(value) != 3:
        raise ValueError(f"precisions must hold 3 numbers, the words of an element of I, F and O; given {value!r}")
    return tuple(positive(f"precisions[{i}]", p) for i, p in enumerate(value))


def precision_constant(precisions: Sequence[float]) -> float:
    """C_p of the second term: p_T^2 / 4 with p_T the sum, or p_j (p_k + p_l) if p_j exceeds the sum of the others.

    >>> precision_constant((1, 1, 1)), precision_constant((1, 1, 4))
    (2.25, 8.0)
    """
    p = sorted(_precisions(precisions))
    return p[2] * (p[0] + p[1]) if p[2] > p[0] + p[1] else sum(p) ** 2 / 4


def conv_lower_bound(
    problem: Problem, memory: int, precisions: Sequence[float] = (1, 1, 1), as_printed: bool = False
) -> ConvBound:
    """The lower bound of Chen et al. for the dense convolution of C to K channels (M is ignored).

    Args:
        problem: a `Problem`.
        memory: words of fast memory.
        precisions: words of an element of I, F and O.
        as_printed: the formula as the paper prints it, which counts updates from the padding and the whole input, and
            takes the windows that share an element to be wf hf / (sw sh), true where the strides divide the filter.
            Otherwise each is counted as it is for this layer, so that the bound holds for all of them.

    Returns:
        A `ConvBound`.

    Raises:
        TypeError, ValueError: an argument out of range.

    Example:

    >>> bound = conv_lower_bound(Problem(N=1, H=224, W=224, C=128, K=128), 2**16)
    >>> bound.words == bound.small_filter, f"{bound.words:.3g}"
    (True, '1.9e+07')
    """
    check_problem(problem)
    memory = integer("memory", memory, 2)
    p = _precisions(precisions)
    down, across = problem.height, problem.width
    if as_printed:
        shared = problem.R * problem.S / (problem.stride[0] * problem.stride[1])
        sizes = problem.sizes["X"], problem.R * problem.S * problem.C * problem.K
        updates = problem.pixels * problem.R * problem.S * problem.C * problem.K
    else:
        shared = _sharing(down) * _sharing(across)
        sizes = (
            problem.N * down.touched * across.touched * problem.C,
            down.taps_used * across.taps_used * problem.C * problem.K,
        )
        updates = problem.N * down.valid_taps * across.valid_taps * problem.C * problem.K
    return ConvBound(
        once=float(p[0] * sizes[0] + p[1] * sizes[1] + p[2] * problem.sizes["Y"]),
        large_filter=precision_constant(p) * updates / memory - memory,
        small_filter=2 * math.sqrt(math.prod(p) / (shared * memory)) * updates - 2 * memory,
    )


def _sharing(axis):
    """The most taps that can read one element, each for another window: those in one class modulo stride / gcd."""
    return -(-axis.taps // (axis.stride // math.gcd(axis.stride, axis.dilation)))


@dataclasses.dataclass(frozen=True)
class ConvBlocking:
    """A blocking of the lifted loops N, C, K, Wo, Ho, qw, rw, qh, rh (tap = stride * q + r).

    Attributes:
        real: block by loop, the linear program's solution.
        blocks: block by loop, integers that fit.
        words_used: words of fast memory the integer blocks of I, F and O take together.
        traffic: words moved when every block fetches or stores all its arrays anew.
    """

    real: Mapping[str, float]
    blocks: Mapping[str, int]
    words_used: float
    traffic: float


def lifted_nest(problem: Problem, precisions: Sequence[float] = (1, 1, 1), kind: str = "dense") -> nests.LoopNest:
    """The nest over which Chen et al. block: the filter's loops split at the stride, tap = stride * q + r.

    Then I is indexed by Wo + q and r, so a block of I has (b_Wo + b_q - 1) b_r columns: windows share elements.

    Args:
        problem: a `Problem`, dilation 1.
        precisions: words of an element of I, F and O.
        kind: "dense", or "depthwise", where channels keep to themselves: F is [R, S, C*M] and there is no loop K.
    """
    check_problem(problem)
    choice("kind", kind, ("dense", "depthwise"))
    p = _precisions(precisions)
    if problem.dilation != (1, 1):
        raise ValueError(
            f"problem must have dilation 1 to split its filter loops at the stride; given {problem.dilation}"
        )
    (sh, sw), dense = problem.stride, kind == "dense"
    channels = {"C": problem.C, "K": problem.K} if dense else {"C": problem.CM}
    taps = {"qw": -(-problem.S // sw), "rw": min(sw, problem.S), "qh": -(-problem.R // sh), "rh": min(sh, problem.R)}
    arrays = (
        nests.Array("I", ("N", "C", nests.Window("Wo", "qw"), "rw", nests.Window("Ho", "qh"), "rh"), words=p[0]),
        nests.Array("F", (*channels, *taps), words=p[1]),
        nests.Array("O", ("N", "K" if dense else "C", "Wo", "Ho"), words=p[2]),
    )
    return nests.LoopNest({"N": problem.N, **channels, "Wo": problem.Wo, "Ho": problem.Ho, **taps}, arrays)


def conv_blocking(
    problem: Problem, memory: int, precisions: Sequence[float] = (1, 1, 1), kind: str = "dense"
) -> ConvBlocking:
    """The blocking of Chen et al. (equation 6): a linear program in the logarithms of the lifted loops' blocks.

    Every array's block has at most M / p_T elements, p_T = p_I + p_F + p_O, so that all three fit together. The input
    block (b_Wo + b_qw)(b_Ho + b_qh) is no monomial; each of the four products it expands to is held to M / (4 p_T).
    The real solution is rounded down and then improved under the exact integer footprints.

    Args:
        problem: a `Problem`, dilation 1.
        memory: words of fast memory, at least 4 p_T.
        precisions: words of an element of I, F and O.
        kind: "dense" or "depthwise".

    Returns:
        A `ConvBlocking`.

    Raises:
        TypeError, ValueError: an argument out of range.

    Example:

    >>> blocking = conv_blocking(Problem(N=1, H=56, W=56, C=64, K=64), 2**15)
    >>> blocking.words_used <= 2**15
    True
    """
    nest = lifted_nest(problem, precisions, kind)
    p_total = sum(_precisions(precisions))
    memory = integer("memory", memory, 2)
    if memory < 4 * p_total:
        raise ValueError(f"memory must be at least 4 (p_I + p_F + p_O) = {4 * p_total:g} words; given {memory}")
    share = memory / p_total
    filter_array, output = nest.arrays[1:]
    products = tuple(nests.Array(f"I{w}{h}", ("N", "C", w, h, "rw", "rh")) for w in ("Wo", "qw") for h in ("Ho", "qh"))
    program = nests.LoopNest(nest.bounds, (*products, filter_array, output))
    real = program.solve(memory, (share / 4,) * 4 + (share, share)).tile
    blocks = nest.integer_tiling(memory, start=real)
    return ConvBlocking(real, blocks, nest.tile_words(blocks), nest.traffic(blocks))


def words_of(dtypes: tuple[str, ...]) -> tuple[float, ...]:
    """Precisions of I, F and O in 4-byte words from their dtypes.

    >>> words_of(("bfloat16", "bfloat16", "float32"))
    (0.5, 0.5, 1.0)
    """
    if len(dtypes) != 3:
        raise ValueError(f"dtypes must name those of I, F and O; given {dtypes!r}")
    return tuple(itemsize(d) / 4 for d in dtypes)
