"""The planner: what every plan has to keep, over problems and machines' threads."""

import pytest
from common.layer_table import SUITES, shapes_of
from hypothesis import given, settings
from hypothesis import strategies as st
from machines import ALL_ISAS, MACHINES, planned

from tf_dwsconv import native
from tf_dwsconv.analysis import Problem

SCRATCH_LIMIT = 2 << 20  # bytes a thread


def plan(n, h, w, c, k, *, m=1, kernel=(3, 3), strides=1, dtype="float32", threads=2, padding="SAME"):
    return native.plan(
        (n, h, w, c),
        (*kernel, c, m),
        (1, 1, c * m, k),
        strides=strides,
        padding=padding,
        dtype=dtype,
        num_threads=threads,
    )


def check(result, threads):
    n, ho, wo, k = result["output_shape"]
    assert 1 <= result["block_pixels"] <= ho * wo
    assert 1 <= result["block_channels"] <= k
    blocks = -(-ho * wo // result["block_pixels"])
    shares = -(-k // result["block_channels"])
    assert result["tasks"] == n * blocks * shares
    assert 1 <= result["threads"] <= min(threads, result["tasks"])
    assert 0 < result["scratch_bytes_per_thread"] <= SCRATCH_LIMIT


@settings(max_examples=300, deadline=None)
@given(
    n=st.integers(1, 64),
    h=st.integers(1, 600),
    w=st.integers(1, 600),
    c=st.integers(1, 3000),
    k=st.integers(1, 3000),
    m=st.integers(1, 3),
    kernel=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    strides=st.integers(1, 3),
    dtype=st.sampled_from(["float32", "bfloat16", "float16"]),
    threads=st.sampled_from([1, 2, 7, 16, 128]),
)
def test_any_problem_gets_a_plan_that_fits(n, h, w, c, k, m, kernel, strides, dtype, threads):
    check(plan(n, h, w, c, k, m=m, kernel=kernel, strides=strides, dtype=dtype, threads=threads), threads)


@pytest.mark.parametrize("shape", [(1, 1, 1, 200_000, 8), (1, 4, 4, 100_000, 64), (1, 20_000, 20_000, 8, 8)])
def test_scratch_stays_small_whatever_the_input(shape):
    check(plan(*shape), 2)


def test_small_problems_take_one_thread():
    assert plan(1, 7, 7, 32, 32, threads=16)["threads"] == 1


@pytest.mark.parametrize("isa", ALL_ISAS)
@pytest.mark.parametrize("layer", [layer for layer in SUITES["mobilenet"] if layer.strides == 1], ids=str)
@pytest.mark.parametrize("threads", [2, 4, 8, 16])
def test_batch_one_keeps_all_threads_busy(layer, threads, isa):
    """No thread waits for long: the rounds that the tasks take are nearly full, of all the threads there are."""
    for machine in MACHINES:
        result = planned(layer.problem(), machine.caches, threads, isa)
        rounds = -(-result["tasks"] // threads)
        assert result["threads"] == min(threads, result["tasks"])
        assert result["tasks"] / (rounds * threads) >= 0.75, (str(machine), result)


@pytest.mark.parametrize("machine", MACHINES, ids=str)
def test_output_that_no_cache_holds_is_written_around_the_caches(machine):
    """Where X and Y take more than half of L3."""
    one = Problem(N=1, H=64, W=64, C=16, K=64)
    images = machine.caches[2] // 2 // (4 * (one.sizes["X"] + one.sizes["Y"]))
    kept, streamed = (
        planned(Problem(N=n, H=64, W=64, C=16, K=64), machine.caches, 2, machine.isa) for n in (images, images + 1)
    )
    assert (kept["stream"], streamed["stream"]) == (False, True)


def test_this_machine_is_planned_for():
    """What the planner knows of it is what `cpu_info` tells; little passes, as CPUs stream from other shares of L3."""
    info = native.cpu_info()
    caches = [info[f"{level}_bytes"] for level in ("l1d", "l2", "l3")]
    problem = Problem(N=2, H=14, W=14, C=480, K=112, R=5, S=5)
    given = planned(problem, caches, 2, info["isa"])
    told = native.plan(*shapes_of(problem), num_threads=2, variant="fused")
    assert {name: told[name] for name in given if name in told} == {name: given[name] for name in given if name in told}
    assert told["block_pixels"] > 0


def test_threads_behind_an_expansion_get_equal_shares():
    """One image: nobody waits for a strip of rows, and channels are shared where rows would be computed twice."""

    def block(high, expansion, channels, kernel, threads):
        shapes = (1, high, high, expansion), (kernel, kernel, channels, 1), (1, 1, channels, expansion)
        return native.plan(
            *shapes, expand_filter_shape=(1, 1, expansion, channels), padding="SAME", num_threads=threads
        )

    for high, expansion, channels in ((56, 24, 144), (112, 16, 96), (50, 24, 100)):
        for threads in (2, 4, 6):
            strips = block(high, expansion, channels, 3, threads)
            assert strips["by_channels"] or strips["tasks"] % threads == 0 or strips["tasks"] == high, strips
    # Of 7 rows six would be read for each four, or with strips of one row five of five.
    assert block(7, 160, 960, 5, 2)["by_channels"]


@pytest.mark.parametrize("isa", ALL_ISAS)
def test_few_rows_are_cut_anywhere(isa):
    """Five rows for four threads: each gets as many pixels, wherever a row ends, or as many channels of them."""
    for machine in MACHINES:
        result = planned(Problem(N=1, H=5, W=28, C=512, K=512), machine.caches, 4, isa)
        assert (result["block_pixels"], result["tasks"]) in ((35, 4), (70, 4)), (str(machine), result)


def test_tiles_of_few_pixels_are_worth_avoiding():
    """Seven pixels are two tiles of AVX2, neither of them full: a block has the six of one."""
    for machine in MACHINES:
        result = planned(Problem(N=1, H=1, W=7, C=8, K=256), machine.caches, 2, "avx2")
        assert result["block_pixels"] == 6, (str(machine), result)
