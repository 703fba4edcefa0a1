"""The loop nests of a depthwise-separable layer, for the linear programs of `nests`."""

from __future__ import annotations

from tf_dwsconv.analysis.nests import Array, LoopNest, Window
from tf_dwsconv.analysis.problem import Problem, check_problem


def pointwise_nest(problem: Problem) -> LoopNest:
    """The pointwise half: loops `pixels` (N, Ho and Wo in one), `C` (C*M) and `K`; arrays Z, P, Y.

    >>> nest = pointwise_nest(Problem(N=16, H=224, W=224, C=128, K=128, padding="VALID"))
    >>> tiling = nest.solve(2**16)
    >>> {loop: round(b) for loop, b in tiling.tile.items()}, f"{tiling.words:.3g}"
    ({'pixels': 512, 'C': 128, 'K': 128}, '1.01e+08')
    """
    check_problem(problem)
    return LoopNest(
        {"pixels": problem.pixels, "C": problem.CM, "K": problem.K},
        (Array("Z", ("pixels", "C")), Array("P", ("C", "K")), Array("Y", ("pixels", "K"))),
        prefer=("C", "pixels"),
    )


def depthwise_nest(problem: Problem, window: str = "shared") -> LoopNest:
    """The depthwise half, the 6-loop nest of the report: loops N, C (C*M), Wo, Ho, S, R; arrays X, D, Z.

    Args:
        problem: a `Problem`. With a depth multiplier above 1, X counts as if it had C*M channels.
        window: "shared" for X indexed by [N, C, Wo, Ho], so that its tiles are Z's with a halo; "im2col" for X
            indexed by all six loops, which is the linear program the report prints.

    >>> tiling = depthwise_nest(Problem(N=128, H=56, W=56, C=128, K=1)).solve(2**16)
    >>> f"{tiling.words:.4g}"
    '5.138e+07'
    """
    check_problem(problem)
    bounds, across, down = _loops(problem)
    return LoopNest(
        bounds,
        (Array("X", ("N", "C", across, down), window), Array("D", ("C", "S", "R")), Array("Z", ("N", "C", "Wo", "Ho"))),
        prefer=("S", "R", "C", "Wo", "Ho", "N"),
    )


def fused_nest(problem: Problem) -> LoopNest:
    """Both halves in one nest: loops N, C (C*M), Wo, Ho, S, R, K; arrays X, D, Z, P, Y.

    Z and X have the same support, so fusion adds no constraint to the pointwise half's linear program; it takes
    capacity. The taps are a loop of the whole nest, but not of the pointwise half's arithmetic. So `words` of the
    solution is the pointwise half's as long as every tile has whole windows, that is, while D is small.
    """
    check_problem(problem)
    bounds, across, down = _loops(problem)
    halves = Array("X", ("N", "C", across, down)), Array("D", ("C", "S", "R")), Array("Z", ("N", "C", "Wo", "Ho"))
    arrays = (*halves, Array("P", ("C", "K")), Array("Y", ("N", "Wo", "Ho", "K")))
    return LoopNest({**bounds, "K": problem.K}, arrays, prefer=("S", "R", "C", "Wo", "Ho", "N", "K"))


def _loops(problem):
    """The bounds of the depthwise half's loops, and X's windows across and down."""
    return (
        {"N": problem.N, "C": problem.CM, "Wo": problem.Wo, "Ho": problem.Ho, "S": problem.S, "R": problem.R},
        Window("Wo", "S", problem.stride[1], problem.dilation[1]),
        Window("Ho", "R", problem.stride[0], problem.dilation[0]),
    )
