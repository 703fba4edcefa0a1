"""The integer communication model of tf_dwsconv.analysis against counting, exhaustive search and the lower bound."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tf_dwsconv import analysis
from tf_dwsconv.analysis import Problem
from tf_dwsconv.analysis import fused as model

ORDERS = ("none", "pixels", "channels")


@st.composite
def problems(draw):
    """Small problems of every kind."""
    size, number = st.integers(1, 9), st.integers(1, 4)
    pair = st.tuples(st.integers(1, 3), st.integers(1, 3))
    pads = st.tuples(st.tuples(st.integers(0, 3), st.integers(0, 3)), st.tuples(st.integers(0, 3), st.integers(0, 3)))
    try:
        return Problem(
            N=draw(st.integers(1, 3)),
            H=draw(size),
            W=draw(size),
            C=draw(number),
            K=draw(st.integers(1, 6)),
            R=draw(number),
            S=draw(number),
            M=draw(st.integers(1, 2)),
            stride=draw(pair),
            dilation=draw(pair),
            padding=draw(st.one_of(st.sampled_from(["SAME", "VALID"]), pads)),
        )
    except ValueError:
        assume(False)


def read_along(axis, position):
    """Indices that the window at `position` spans, from its first tap to its last."""
    first = position * axis.stride - axis.before
    return {i for i in range(first, first + axis.extent) if 0 <= i < axis.size}


def read_by_blocks(problem, bp):
    """For each block of `bp` pixels of one image: how many input positions its windows span, counted as a set."""
    pixels = list(itertools.product(range(problem.Ho), range(problem.Wo)))
    blocks = []
    for start in range(0, len(pixels), bp):
        positions = set()
        for p, q in pixels[start : start + bp]:
            positions.update(itertools.product(read_along(problem.height, p), read_along(problem.width, q)))
        blocks.append(len(positions))
    return blocks


@settings(max_examples=150, deadline=None)
@given(problems(), st.data())
def test_windows_are_counted(problem, data):
    bp = data.draw(st.integers(1, problem.Ho * problem.Wo))
    totals, largest = model._windows(problem.height, problem.width, np.array([bp]))
    blocks = read_by_blocks(problem, bp)
    assert (int(totals[0]), int(largest[0])) == (sum(blocks), max(blocks))


def test_windows_in_chunks(monkeypatch):
    problem = Problem(N=1, H=12, W=7, C=1, K=1, stride=(2, 1))
    blocks = np.arange(1, problem.Ho * problem.Wo + 1)
    whole = model._windows(problem.height, problem.width, blocks)
    monkeypatch.setattr(model, "_CHUNK", 5)
    for a, b in zip(whole, model._windows(problem.height, problem.width, blocks)):
        assert a.tolist() == b.tolist()


def simulate(problem, bp, bk, bc, order):
    """Words moved by a memory that holds one tile of each array and fetches a tile when the one it holds is another."""
    image = problem.Ho * problem.Wo
    if bp <= image:
        sizes = read_by_blocks(problem, bp)
        pixel_blocks = [(n, i, size) for n in range(problem.N) for i, size in enumerate(sizes)]
    else:
        images = bp // image
        (size,) = read_by_blocks(problem, image)
        pixel_blocks = [(n, 0, size * min(images, problem.N - n)) for n in range(0, problem.N, images)]
    k_blocks = [(k, min(bk, problem.K - k)) for k in range(0, problem.K, bk)]
    c_blocks = [(c, min(bc, problem.C - c)) for c in range(0, problem.C, bc)]
    x = p = 0
    held_x = held_p = None
    tiles = itertools.product(pixel_blocks, k_blocks)
    if order == "channels":
        tiles = ((b, k) for k, b in itertools.product(k_blocks, pixel_blocks))
    for (n, i, positions), (k, k_size) in tiles:
        for c, c_size in c_blocks:
            if order == "none" or held_x != (n, i, c):
                x, held_x = x + positions * c_size, (n, i, c)
            if order == "none" or held_p != (c, k):
                p, held_p = p + c_size * problem.M * k_size, (c, k)
    return x, p


@settings(max_examples=150, deadline=None)
@given(problems(), st.sampled_from(ORDERS), st.data())
def test_traffic_against_a_simulation(problem, order, data):
    image = problem.Ho * problem.Wo
    bp = data.draw(st.one_of(st.integers(1, image), st.integers(1, problem.N).map(lambda n: n * image)))
    bk, bc = data.draw(st.integers(1, problem.K)), data.draw(st.integers(1, problem.C))
    traffic = analysis.fused_traffic(problem, bp, bk, bc=bc, order=order)
    assert (traffic.x, traffic.p) == simulate(problem, bp, bk, bc, order)
    assert (traffic.d, traffic.y) == (problem.sizes["D"], problem.sizes["Y"])
    assert traffic.tile["Z"] == bp * bc * problem.M and traffic.tile["Y"] == bp * bk
    assert traffic.tile["P"] == bc * problem.M * bk and traffic.tile["D"] == problem.sizes["D"]
    assert traffic.tile["X"] == bc * max(read_by_blocks(problem, min(bp, image))) * max(1, bp // image)
    # It fits exactly from its own size on, and no order moves less than the bound for that much memory.
    assert analysis.fused_traffic(problem, bp, bk, traffic.tile_total, bc=bc, order=order) == traffic
    with pytest.raises(ValueError, match="memory"):
        analysis.fused_traffic(problem, bp, bk, traffic.tile_total - 1, bc=bc, order=order)
    assert traffic.total >= analysis.dws_lower_bound(problem, traffic.tile_total)


def test_the_designs_formula():
    problem = Problem(N=2, H=20, W=30, C=16, K=40)
    n = problem.sizes
    traffic = analysis.fused_traffic(problem, bp=4 * 30, bk=16)
    halo = (5 + 6 + 6 + 6 + 5) / 20  # rows that five blocks of 4 read of an image's 20
    assert traffic.total == n["X"] * halo * math.ceil(40 / 16) + n["D"] + n["P"] * 2 * 5 + n["Y"]


@settings(max_examples=60, deadline=None)
@given(problems(), st.sampled_from(ORDERS), st.integers(0, 400), st.booleans(), st.integers(1, 3))
def test_tiling_against_exhaustive_search(problem, order, spare, whole, quantum):
    quanta = (1, problem.C if whole else 1, quantum)
    image = problem.Ho * problem.Wo
    smallest = problem.sizes["D"] + problem.C * (problem.M + 1) + 1
    memory = smallest + spare
    best, ties = math.inf, []
    for bp in [*range(1, image + 1), *(image * n for n in range(2, problem.N + 1))]:
        for bk in range(1, problem.K + 1):
            for bc in range(1, problem.C + 1):
                if (whole and bc < problem.C) or (bk % quantum and bk < problem.K):
                    continue
                traffic = analysis.fused_traffic(problem, bp, bk, bc=bc, order=order)
                if traffic.tile_total <= memory and traffic.total <= best:
                    ties = [*(ties if traffic.total == best else []), (-bc, bp % problem.Wo != 0)]
                    best = traffic.total
    if best == math.inf:
        with pytest.raises(ValueError, match="memory"):
            analysis.fused_tiling(problem, memory, order=order, quanta=quanta)
        return
    tiling = analysis.fused_tiling(problem, memory, order=order, quanta=quanta)
    assert tiling.traffic.total == best
    assert (-tiling.bc, tiling.bp % problem.Wo != 0) == min(ties)  # whole C first, then whole rows
    assert tiling.traffic.tile_total <= memory
    assert tiling.bk % quantum == 0 or tiling.bk == problem.K


def test_ties_take_whole_channels_then_whole_rows():
    problem = Problem(N=1, H=8, W=8, C=4, K=4, R=1, S=1)
    tiling = analysis.fused_tiling(problem, 10**6)
    assert (tiling.bp, tiling.bc, tiling.bk) == (64, 4, 4)
    assert tiling.traffic.total == sum(problem.sizes[a] for a in "XDPY")
    # 32 to 63 pixels make two blocks, and 64 do not fit: the fewest leave room for the most channels.
    tiling = analysis.fused_tiling(Problem(N=1, H=8, W=8, C=8, K=8, R=1, S=1), 655)
    assert (tiling.bp, tiling.bc, tiling.bk) == (32, 5, 8)
    # No halo, P stays: every block of pixels moves as much, whole rows or not.
    tiling = analysis.fused_tiling(problem, 150, order="pixels", quanta=(1, 4, 4))
    assert tiling.traffic.total == sum(problem.sizes[a] for a in "XDPY")
    assert tiling.bp == 8  # though 10 would fit


def test_quanta():
    problem = Problem(N=2, H=28, W=28, C=100, K=70)
    tiling = analysis.fused_tiling(problem, 30000, quanta=(14, 16, 32))
    assert tiling.bp % 14 == 0 and tiling.bc in (16, 32, 48, 64, 80, 96, 100) and tiling.bk in (32, 64, 70)
    least = analysis.fused_tiling(problem, 30000)
    assert least.traffic.total <= tiling.traffic.total


def test_large_images_try_whole_rows():
    problem = Problem(N=1, H=700, W=500, C=3, K=16)
    tiling = analysis.fused_tiling(problem, 2**15)
    assert problem.Ho * problem.Wo > model._EVERY_BLOCK_UP_TO and tiling.bp % 500 == 0
    assert tiling.traffic.total < 1.4 * analysis.dws_lower_bound(problem, 2**15)
    wide = Problem(N=1, H=70, W=5000, C=8, K=16)  # no whole row fits
    assert analysis.fused_tiling(wide, 2**14).bp < 5000


# (N, H, C, K, kernel, stride) of MobileNet, Xception, EfficientNet and ConvNeXt, and the most that the tiling for 1 MB
# of float32 may move, over the bound.
NETWORKS = [
    (1, 112, 32, 64, 3, 1, 1.05),
    (8, 112, 64, 128, 3, 2, 1.05),
    (1, 56, 128, 128, 3, 1, 1.05),
    (8, 56, 128, 256, 3, 2, 1.1),
    (8, 28, 256, 256, 3, 1, 1.2),
    (8, 28, 256, 512, 3, 2, 1.2),
    (8, 14, 512, 512, 3, 1, 1.5),
    (8, 14, 512, 1024, 3, 2, 1.35),
    (8, 7, 1024, 1024, 3, 1, 1.3),
    (1, 224, 128, 128, 3, 1, 1.2),
    (8, 512, 3, 64, 3, 1, 1.05),
    (8, 56, 144, 24, 3, 1, 1.05),
    (8, 14, 480, 112, 5, 1, 1.05),
    (4, 56, 96, 384, 7, 1, 1.25),
    # Three quarters of the memory go to X and Z here, which the bound lets the product have.
    (8, 19, 728, 728, 3, 1, 2.0),
    (4, 14, 384, 1536, 7, 1, 1.6),
]


@pytest.mark.parametrize("n, size, c, k, kernel, stride, ratio", NETWORKS)
def test_tilings_of_networks_are_near_the_bound(n, size, c, k, kernel, stride, ratio):
    problem = Problem(N=n, H=size, W=size, C=c, K=k, R=kernel, S=kernel, stride=stride)
    bound = analysis.dws_lower_bound(problem, 2**18)
    for order in ORDERS:
        assert bound <= analysis.fused_tiling(problem, 2**18, order=order).traffic.total <= ratio * bound


def test_bound_of_a_depth_multiplier_and_of_padding():
    product = 2 * 784 * 512 * 512 / math.sqrt(2**12) - 2 * 2**12
    assert analysis.dws_lower_bound(Problem(N=1, H=28, W=28, C=512, K=512), 2**12) == product
    shared = 2 * 784 * 512 * 512 / math.sqrt(4 * 2**12) - 2 * 2**12
    assert analysis.dws_lower_bound(Problem(N=1, H=28, W=28, C=128, K=512, M=4), 2**12) == shared
    # A row of padding above and below that no window needs but for itself: no tap is inside for all windows.
    outside = Problem(N=1, H=28, W=28, C=512, K=512, padding=((3, 3), (3, 3)))
    assert not outside.height.has_anchor
    assert analysis.dws_lower_bound(outside, 2**12) == 28 * 28 * 512 + 9 * 512 + 512 * 512 + 32 * 32 * 512
    # What is never read is not counted: stride 2 with a 1x1 window, and the outer taps of a 3x3 one on a single pixel.
    sparse = Problem(N=1, H=8, W=8, C=2, K=1, R=1, S=1, stride=2)
    assert analysis.dws_lower_bound(sparse, 2**12) == 16 * 2 + 2 + 2 + 16
    assert analysis.dws_lower_bound(Problem(N=1, H=1, W=1, C=2, K=1), 2**12) == 2 + 2 + 2 + 1
