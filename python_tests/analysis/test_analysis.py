"""tf_dwsconv.analysis: figures of the sources, linear programs against their duals and exhaustive search, the model."""

import itertools
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tf_dwsconv import analysis
from tf_dwsconv.analysis import Array, LoopNest, Machine, Problem, Window

ROOT = Path(__file__).resolve().parents[2]
STUDY = Problem(N=1, H=224, W=224, C=128, K=128)
MODULES = ("costs", "dense", "fused", "layers", "nests", "problem", "report")

problems = st.builds(
    lambda size, c, k, kernel, m, stride, dilation, padding, n: (n, *size, c, k, *kernel, m, stride, dilation, padding),
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.integers(1, 4),
    st.integers(1, 6),
    st.tuples(st.integers(1, 4), st.integers(1, 4)),
    st.integers(1, 2),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.tuples(st.integers(1, 2), st.integers(1, 2)),
    st.one_of(st.sampled_from(["SAME", "VALID"]), st.just(((0, 2), (3, 1)))),
    st.integers(1, 3),
)


def make(arguments):
    """A Problem, or the example is dropped where the window does not fit."""
    try:
        return Problem(*arguments)
    except ValueError:
        assume(False)


def taps(axis):
    """{(window, tap): input index} of one axis, by its definition."""
    index = {
        (p, r): p * axis.stride - axis.before + r * axis.dilation for p in range(axis.out) for r in range(axis.taps)
    }
    return {key: i for key, i in index.items() if 0 <= i < axis.size}


# The figures of the sources.


def test_the_studys_tables():
    table = analysis.study_table(STUDY)
    dense, dws = table["dense"], table["dws"]
    assert (dense.parameters, dws.parameters) == (147456, 17536)  # 147k, 18k
    assert (round(dense.flops / 1e9, 1), round(dws.flops / 1e9, 2)) == (7.4, 0.88)
    assert (round(dense.accesses_mb, 1), round(dws.accesses_mb, 1)) == (26.0, 25.7)
    assert (round(dense.intensity, 1), round(dws.intensity, 1)) == (569.5, 68.4)


@pytest.mark.parametrize(
    "kind, rate, tflops, gbs",
    [("dense", 3585, 26.5, None), ("dws", 4241, 3.73, None), ("dense", 4097, 30.3, 106.5), ("dws", 4335, 3.81, 111.4)],
)
def test_the_studys_rates(kind, rate, tflops, gbs):
    row = analysis.study_table(STUDY)[kind]
    assert row.flops * rate / 1e12 == pytest.approx(tflops, abs=0.06 if kind == "dense" else 0.006)
    if gbs is not None:  # the study multiplies the megabytes it has rounded
        assert round(rate * round(row.accesses_mb, 1) / 1e3, 1) == gbs


def test_the_comments_corrections():
    c, k, hw = 128, 64, 30 * 20
    problem = Problem(N=1, H=30, W=20, C=c, K=k)
    filters = 9 * c + c * k
    assert analysis.layer_cost(problem).accesses == filters + hw * (c + k)
    assert analysis.layer_cost(problem, fused=False).accesses == filters + hw * (3 * c + k)


@given(problems)
def test_costs_count_the_loops(arguments):
    p = make(arguments)
    multiply_adds = sum(1 for _ in itertools.product(range(p.Ho), range(p.Wo), range(p.R), range(p.S)))
    cost = analysis.layer_cost(p)
    assert cost.macs == p.N * p.CM * (multiply_adds + p.Ho * p.Wo * p.K)
    assert cost.flops == 2 * cost.macs and cost.accesses_bytes == 4 * cost.accesses
    halves = analysis.layer_cost(p, "depthwise") + analysis.layer_cost(p, "pointwise")
    unfused = analysis.layer_cost(p, fused=False)
    assert (halves.macs, halves.parameters, halves.accesses) == (unfused.macs, unfused.parameters, unfused.accesses)
    assert analysis.compulsory_bytes(p, "float16") * 2 == analysis.compulsory_bytes(p)
    assert analysis.layer_cost(p, "dense").macs == p.N * multiply_adds * p.C * p.K


@given(problems)
def test_an_axis_counts_what_it_reads(arguments):
    p = make(arguments)
    for axis in (p.height, p.width):
        inside = taps(axis)
        assert axis.valid_taps == len(inside)
        assert axis.touched == len(set(inside.values()))
        assert axis.taps_used == len({r for _, r in inside})
        assert axis.has_anchor == any(all((q, r) in inside for q in range(axis.out)) for r in range(axis.taps))


@pytest.mark.parametrize(
    "size, kernel, stride, dilation, out, before",
    [
        (8, 3, 2, 1, 4, 0),
        (7, 3, 2, 1, 4, 1),
        (8, 2, 1, 1, 8, 0),
        (8, 4, 1, 1, 8, 1),
        (9, 3, 1, 2, 9, 2),
        (9, 1, 3, 1, 3, 0),
    ],
)
def test_same_padding_as_tensorflow_has_it(size, kernel, stride, dilation, out, before):
    p = Problem(N=1, H=size, W=size, C=1, K=1, R=kernel, S=kernel, stride=stride, dilation=dilation)
    assert (p.Ho, p.Wo, p.height.before, p.width.before) == (out, out, before, before)


def test_roofline():
    machine = Machine(peak_flops=500e9, dram_bytes_per_s=50e9, cache_bytes_per_s=200e9, cache_bytes=1 << 20)
    big, small = analysis.layer_cost(STUDY), analysis.layer_cost(Problem(N=1, H=7, W=7, C=8, K=1, R=1, S=1))
    assert machine.ridge == 10
    assert analysis.roofline_seconds(big, machine) == big.flops / 500e9  # 34 operations a byte: above the ridge
    assert analysis.roofline_seconds(big, Machine(5e13, 50e9)) == big.accesses_bytes / 50e9
    assert small.intensity < 500e9 / 200e9
    assert analysis.roofline_seconds(small, machine) == small.accesses_bytes / 200e9


# Linear programs.

nests = st.integers(1, 4).flatmap(
    lambda loops: st.builds(
        lambda bounds, supports, memory: (
            LoopNest(
                {f"i{i}": n for i, n in enumerate(bounds)},
                tuple(Array(f"A{j}", tuple(f"i{i}" for i in sorted(s))) for j, s in enumerate(supports)),
            ),
            memory,
        ),
        st.lists(st.integers(1, 5000), min_size=loops, max_size=loops),
        st.lists(st.sets(st.integers(0, loops - 1)), min_size=1, max_size=4),
        st.integers(2, 10**6),
    )
)


@settings(max_examples=150, deadline=None)
@given(nests)
def test_strong_duality(nest_and_memory):
    nest, memory = nest_and_memory
    tiling = nest.solve(memory)
    assert tiling.objective == pytest.approx(tiling.dual_objective, abs=1e-7)
    assert sum(tiling.exponents.values()) == pytest.approx(tiling.objective, abs=1e-6)
    for array in nest.arrays:  # the tile fits, and the dual is a fractional cover
        assert math.prod(tiling.tile[i] for i in array.axes) <= memory * (1 + 1e-6)
    for loop, bound in nest.bounds.items():
        assert 1 - 1e-6 <= tiling.tile[loop] <= bound
        cover = tiling.loop_duals[loop] + sum(tiling.array_duals[a.name] for a in nest.arrays if loop in a.axes)
        assert cover >= 1 - 1e-7


def test_pointwise_tiles_of_the_design():
    tiling = analysis.pointwise_nest(Problem(N=16, H=224, W=224, C=128, K=128, padding="VALID")).solve(2**16)
    assert [round(b, 3) for b in tiling.tile.values()] == [512, 128, 128]
    assert tiling.words == pytest.approx(788544 * 128 * 128 / 128)  # 1.01e8
    tiling = analysis.pointwise_nest(Problem(N=8, H=56, W=56, C=512, K=512)).solve(2**16)
    assert [round(b, 3) for b in tiling.tile.values()] == [256, 256, 256]
    assert tiling.words == pytest.approx(25088 * 512 * 512 / 256)  # 2.57e7


def test_depthwise_programs_of_the_report():
    problem = Problem(N=128, H=56, W=56, C=128, K=1)
    shared, im2col = analysis.depthwise_nest(problem), analysis.depthwise_nest(problem, "im2col")
    # The report's matrix: B, C_in, W_out, H_out, W_f, H_f by input, filter, output.
    assert im2col.matrix().tolist() == [[1, 1, 1, 1, 1, 1], [0, 1, 0, 0, 1, 1], [1, 1, 1, 1, 0, 0]]
    assert shared.solve(2**16).words == pytest.approx(128 * 56 * 56 * 128)  # 5.14e7
    assert im2col.solve(2**16).words == pytest.approx(128 * 56 * 56 * 128 * 9)
    tile = shared.solve(2**16).tile  # ties: whole windows, whole C, then whole rows
    assert [round(tile[i], 3) for i in "CSR"] == [128, 3, 3] and round(tile["Wo"], 3) == 56


@pytest.mark.parametrize("problem", [STUDY, Problem(N=8, H=14, W=14, C=512, K=512, R=5, S=5, stride=2)])
@pytest.mark.parametrize("memory", [2**13, 2**16, 2**18])
def test_fusion_adds_no_constraint(problem, memory):
    fused, pointwise = analysis.fused_nest(problem).solve(memory), analysis.pointwise_nest(problem).solve(memory)
    assert fused.words == pytest.approx(pointwise.words, rel=1e-6)


def test_lower_bound_of_a_matrix_product():
    n, memory = 2000, 2**14
    product = LoopNest(dict.fromkeys("ijk", n), (Array("A", "ik"), Array("B", "kj"), Array("C", "ij")))
    assert product.lower_bound(memory) == pytest.approx(2 * n**3 / math.sqrt(memory) - 2 * memory)
    assert product.lower_bound(2**30) == 3 * n * n  # all of it fits


def exhaustive(nest, memory):
    """The least traffic of all integer tiles that fit."""
    sizes = [range(1, n + 1) for n in nest.bounds.values()]
    tiles = (dict(zip(nest.bounds, t)) for t in itertools.product(*sizes))
    return min(nest._traffic(t) for t in tiles if nest._tile_words(t) <= memory)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 10), min_size=3, max_size=3), st.integers(3, 200))
def test_integer_tiles_against_exhaustive_search(bounds, memory):
    nest = LoopNest(dict(zip("pck", bounds)), (Array("Z", "pc"), Array("P", "ck"), Array("Y", "pk")))
    tile = nest.integer_tiling(memory)
    assert nest.tile_words(tile) <= memory
    best = exhaustive(nest, memory)
    assert best <= nest.traffic(tile) <= 1.1 * best
    assert nest.lower_bound(memory) <= best


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=4, max_size=4), st.integers(1, 2), st.integers(8, 200))
def test_integer_tiles_with_a_halo(bounds, stride, memory):
    nest = LoopNest(
        dict(zip("cpqr", bounds)),
        (Array("X", ("c", Window("p", "r", stride), "q")), Array("D", "cr"), Array("Z", "cpq")),
    )
    tile = nest.integer_tiling(memory)
    assert nest.tile_words(tile) <= memory
    best = exhaustive(nest, memory)
    assert best <= nest.traffic(tile) <= 1.2 * best
    # The traffic is the sum over ragged tiles, counted one by one.
    words = 0
    for lows in itertools.product(*(range(0, n, tile[i]) for i, n in nest.bounds.items())):
        size = {i: min(tile[i], n - low) for (i, n), low in zip(nest.bounds.items(), lows)}
        words += nest.tile_words(size)
    assert nest.traffic(tile) == words


def test_each_array_may_fill_the_memory():
    nest = analysis.pointwise_nest(Problem(N=8, H=56, W=56, C=512, K=512))
    tile = nest.integer_tiling(2**16, capacity="each")
    assert max(nest.footprint(a, tile) for a in nest.arrays) <= 2**16
    assert nest.traffic(tile) <= 3 * 25088 * 512 * 512 / 256


# Chen et al.


def test_precision_constant():
    assert analysis.precision_constant((1, 1, 1)) == 9 / 4
    assert analysis.precision_constant((1, 2, 3)) == 9 == 3 * (1 + 2)  # both formulas meet where the triangle is flat
    assert analysis.precision_constant((0.5, 2, 0.5)) == 2


def test_conv_bound_as_printed():
    problem = Problem(N=2, H=56, W=56, C=64, K=96, stride=1)
    p_i, p_f, p_o, memory = 0.25, 0.5, 1.0, 2**14
    g = 2 * 56 * 56 * 64 * 96 * 9
    bound = analysis.conv_lower_bound(problem, memory, (p_i, p_f, p_o), as_printed=True)
    assert bound.once == p_i * 2 * 56 * 56 * 64 + p_f * 9 * 64 * 96 + p_o * 2 * 56 * 56 * 96
    assert bound.large_filter == pytest.approx(p_o * (p_i + p_f) * g / memory - memory)
    assert bound.small_filter == pytest.approx(2 * math.sqrt(p_i * p_f * p_o / 9 / memory) * g - 2 * memory)
    assert bound.words == max(bound.once, bound.large_filter, bound.small_filter)
    # Strides share fewer windows. VALID: every tap is inside, and the 2 divides the 4, so that both forms agree.
    problem = Problem(N=1, H=66, W=66, C=64, K=64, R=4, S=4, stride=2, padding="VALID")
    exact, printed = (analysis.conv_lower_bound(problem, memory, as_printed=b) for b in (False, True))
    assert exact == printed
    assert printed.small_filter == pytest.approx(2 * 32 * 32 * 64 * 64 * 16 / math.sqrt(4 * memory) - 2 * memory)


@settings(max_examples=60, deadline=None)
@given(problems, st.randoms(use_true_random=False), st.integers(1, 60))
def test_the_inequalities_behind_the_bound(arguments, random, count):
    """Any set of updates is at most as large as the product of any two footprints, and sqrt(q |I| |F| |O|)."""
    p = make(arguments)
    rows, columns = list(taps(p.height).items()), list(taps(p.width).items())
    assume(rows and columns)
    updates = set()
    for _ in range(count):
        ((i, r), y), ((j, s), x) = random.choice(rows), random.choice(columns)
        updates.add((0, random.randrange(p.C), random.randrange(p.K), i, j, r, s, y, x))
    seen_i = {(n, c, y, x) for n, c, k, i, j, r, s, y, x in updates}
    seen_f = {(c, k, r, s) for n, c, k, i, j, r, s, y, x in updates}
    seen_o = {(n, k, i, j) for n, c, k, i, j, r, s, y, x in updates}
    v, a, b, c = len(updates), len(seen_i), len(seen_f), len(seen_o)
    assert v <= min(a * b, b * c, a * c)
    # q from the bound itself: small_filter = 2 G / sqrt(q M) - 2M.
    memory = 2
    g = p.N * p.height.valid_taps * p.width.valid_taps * p.C * p.K
    q = (2 * g / (analysis.conv_lower_bound(p, memory).small_filter + 2 * memory)) ** 2 / memory
    assert v <= math.sqrt(q * a * b * c) * (1 + 1e-9)


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(st.integers(3, 40), st.integers(1, 32), st.integers(1, 32), st.integers(1, 5), st.integers(1, 3)),
    st.sampled_from([(1, 1, 1), (0.5, 0.5, 1), (0.25, 0.25, 1)]),
    st.integers(40, 20000),
    st.sampled_from(["dense", "depthwise"]),
)
def test_conv_blocks_fit_and_respect_the_bound(shape, precisions, memory, kind):
    size, c, k, kernel, stride = shape
    problem = Problem(N=1, H=size, W=size, C=c, K=k, R=kernel, S=kernel, stride=stride)
    blocking = analysis.conv_blocking(problem, memory, precisions, kind)
    nest = analysis.lifted_nest(problem, precisions, kind)
    i, f, o = (nest.footprint(a, blocking.blocks) for a in nest.arrays)
    assert np.dot(precisions, (i, f, o)) == pytest.approx(blocking.words_used)
    assert blocking.words_used <= memory
    for array in nest.arrays:  # the real blocks fit their shares, input products expanded
        real = math.prod(
            blocking.real[x.out] + blocking.real[x.tap] if isinstance(x, Window) else blocking.real[x]
            for x in array.axes
        )
        assert real <= memory / sum(precisions) * (1 + 1e-6)
    if kind == "dense":
        assert blocking.traffic >= analysis.conv_lower_bound(problem, memory, precisions).words * (1 - 1e-9)


@pytest.mark.parametrize("kernel, stride, dilation", [*itertools.product(range(1, 6), range(1, 5), range(1, 5))])
def test_windows_that_share_an_element(kernel, stride, dilation):
    """q of the small-filter term is the most windows that read one element."""
    p = Problem(N=1, H=200, W=1, C=512, K=512, R=kernel, S=1, stride=stride, dilation=dilation, padding="VALID")
    most = Counter(taps(p.height).values()).most_common(1)[0][1]
    bound, updates = analysis.conv_lower_bound(p, 100), p.Ho * kernel * 512 * 512
    assert bound.small_filter == pytest.approx(2 * updates / math.sqrt(most * 100) - 200)


def test_conv_blocks_are_near_the_best():
    problem = Problem(N=1, H=6, W=4, C=3, K=4, R=3, S=2)
    nest = analysis.lifted_nest(problem)
    for memory in (24, 60, 150):
        blocking = analysis.conv_blocking(problem, memory)
        assert nest.traffic(blocking.blocks) <= 1.2 * exhaustive(nest, memory)
    assert analysis.conv_blocking(STUDY, 2**18).traffic <= 3 * analysis.conv_lower_bound(STUDY, 2**18).words
