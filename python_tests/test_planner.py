"""The planner: what every plan has to keep, over problems and machines' threads."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tf_dwsconv import native

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


@pytest.mark.parametrize(
    "shape",
    [(1, 112, 112, 32, 64), (1, 56, 56, 128, 128), (1, 28, 28, 256, 256), (1, 14, 14, 512, 512), (1, 7, 7, 1024, 1024)],
)
@pytest.mark.parametrize("threads", [2, 4, 8, 16])
def test_batch_one_keeps_all_threads_busy(shape, threads):
    result = plan(*shape, threads=threads)
    assert result["threads"] == threads
    # No thread waits for long: the rounds that the tasks take are nearly full.
    rounds = -(-result["tasks"] // threads)
    assert result["tasks"] / (rounds * threads) >= 0.75, result


def test_output_that_no_cache_holds_is_written_around_the_caches():
    beyond = native.cpu_info()["l3_bytes"] or 32 << 20
    assert plan(1 + beyond // (64 * 64 * 64 * 4), 64, 64, 16, 64)["stream"]
    assert not plan(1, 64, 64, 16, 64)["stream"]
