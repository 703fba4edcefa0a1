"""native.traffic: simulated caches where what they must count is known, beside the planner's model, and its errors."""

from __future__ import annotations

import subprocess
import sys

import ml_dtypes
import pytest
from common.layer_table import LAYERS, shapes_of
from conftest import ROOT, check_python, python_environment
from hypothesis import given, settings
from hypothesis import strategies as st
from machines import MACHINES
from native_support import ISAS, rounds_between

from tf_dwsconv import native
from tf_dwsconv.analysis import Problem
from tf_dwsconv.analysis.traffic import layer_traffic

# Of the machine that is simulated where a test does not say otherwise.
CACHES = {"l1d_bytes": 32 << 10, "l2_bytes": 1 << 20, "l3_bytes": 32 << 20}
LINE = 64
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


def lines(count):
    """Bytes of the cache lines that `count` bytes fill, from the beginning of a page on."""
    return -(-count // LINE) * LINE


def most_packed(problem):
    """Bytes of the packed filters and biases, at most: whole vectors of 16 channels, whole tiles of 32."""
    p = problem
    channels, outputs = -(-p.C // 16) * 16, -(-p.K // 32) * 32
    # The last is for several pixels of few channels in one vector, where D is there a second time.
    return 4 * ((p.R * p.S + 1) * p.M * channels + (p.CM + 2) * outputs + (p.R * p.S + 1) * 16 * p.C) + 6 * LINE


def whole_plan(problem, **changes):
    """A plan of blocks of an image."""
    plan = {"block_pixels": problem.Ho * problem.Wo, "block_channels": problem.K, "threads": 1, "stream": False}
    return {**plan, **changes}


@pytest.mark.parametrize("dtype", BYTES)
@pytest.mark.parametrize("isa", ISAS)
def test_in_large_caches_each_line_moves_once(isa, dtype):
    @settings(max_examples=40)
    @given(
        st.builds(
            Problem,
            N=st.integers(1, 3),
            H=st.integers(9, 20),
            W=st.integers(9, 20),
            C=st.integers(1, 40),
            K=st.integers(1, 70),
            R=st.sampled_from([1, 3, 5]),
            S=st.sampled_from([1, 3, 5]),
            M=st.integers(1, 2),
            stride=st.integers(1, 2),
        )
    )
    def holds(problem):
        # All of the layer fits into L1.
        caches = {"l1d_bytes": 1 << 22, "l2_bytes": 1 << 22, "l3_bytes": 1 << 22}
        told = native.traffic(*shapes_of(problem), strides=problem.stride, dtype=dtype, isa=isa, **caches)
        item = BYTES[dtype]
        y = lines(item * problem.sizes["Y"])
        for moved in (told["beyond_l2"], told["memory"]):
            assert moved["written"]["y"] == y and moved["read"]["y"] == y
            assert moved["written"]["x"] == moved["written"]["filters"] == 0
            x = moved["read"]["x"]
            assert x <= lines(item * problem.sizes["X"])
            if problem.stride == (1, 1):
                assert x == lines(item * problem.sizes["X"])
            z_item = 2 if rounds_between(isa, dtype) else 4
            assert z_item * problem.sizes["P"] <= moved["read"]["filters"] <= most_packed(problem)
            # What is fetched ahead may end some lines past X.
            assert 0 < moved["written"]["z"] <= moved["read"]["z"] <= moved["written"]["z"] + 256 * LINE

    holds()


def moved_beyond_l2(shapes):
    return sum(sum(moved.values()) for moved in native.traffic(*shapes, **CACHES)["beyond_l2"].values())


def test_the_same_wherever_arrays_lie():
    """In other processes, whose allocators give out other addresses, and beside other scratch in this one."""
    shapes = shapes_of(next(iter(LAYERS.values())).problem())
    program = f"""
import numpy as np, random
hold = [np.ones(random.randrange(1, 300_000)) for _ in range(50)]
from tf_dwsconv import native
print(sum(sum(moved.values()) for moved in native.traffic(*{shapes!r}, **{CACHES!r})["beyond_l2"].values()))
"""
    here = moved_beyond_l2(shapes)
    assert [int(check_python(program)) for _ in range(3)] == [here] * 3
    # The kernels' scratch is kept from call to call, and grows: small ones lie anywhere, large ones on large pages.
    for channels in (33, 600, 5000):
        native.traffic((1, 20, 20, channels), (3, 3, channels, 1), (1, 1, channels, 16), **CACHES)
        assert moved_beyond_l2(shapes) == here


@pytest.mark.parametrize("dtype", BYTES)
@pytest.mark.parametrize("isa", ISAS)
def test_streaming_stores_go_around_the_caches(isa, dtype):
    """In 16 bits where the channels of a register tile fill a cache line."""
    problem = Problem(N=1, H=16, W=16, C=16, K=64)
    kept, streamed = (
        native.traffic(*shapes_of(problem), plan=whole_plan(problem, stream=stream), dtype=dtype, isa=isa, **CACHES)
        for stream in (False, True)
    )
    y = BYTES[dtype] * problem.sizes["Y"]
    fetched = 0 if dtype == "float32" or isa in ("avx512", "amx") else y
    assert (kept["beyond_l2"]["read"]["y"], streamed["beyond_l2"]["read"]["y"]) == (y, fetched)
    for told in (kept, streamed):
        assert told["beyond_l2"]["written"]["y"] == told["memory"]["written"]["y"] == y


def test_rows_that_l2_does_not_hold_are_read_again():
    """One row of Y at a time, of 64 KB of X each: a 3x3 window brings each row in three times, with a small L2."""
    problem = Problem(N=1, H=30, W=256, C=64, K=16)
    plan = whole_plan(problem, block_pixels=problem.Wo)
    caches = {"l1d_bytes": 8 << 10, "l3_bytes": 4 << 20}
    small = native.traffic(*shapes_of(problem), plan=plan, l2_bytes=32 << 10, **caches)
    large = native.traffic(*shapes_of(problem), plan=plan, l2_bytes=1 << 20, **caches)
    x = 4 * problem.sizes["X"]
    assert large["beyond_l2"]["read"]["x"] == x
    # Two of three rows at the top and the bottom; rows that are fetched ahead, and gone again, are read once more.
    assert 2.9 * x <= small["beyond_l2"]["read"]["x"] <= 4 * x
    assert small["memory"]["read"]["x"] == x  # the second time out of L3


def test_filters_that_l2_does_not_hold_come_once_a_block():
    problem = Problem(N=1, H=8, W=8, C=256, K=256)  # 256 KB of P
    blocks = 8
    plan = whole_plan(problem, block_pixels=problem.Ho * problem.Wo // blocks)
    small = native.traffic(*shapes_of(problem), plan=plan, **{**CACHES, "l2_bytes": 128 << 10})
    large = native.traffic(*shapes_of(problem), plan=plan, **{**CACHES, "l2_bytes": 2 << 20})
    p, d = 4 * problem.sizes["P"], 4 * problem.sizes["D"]
    assert p + d <= large["beyond_l2"]["read"]["filters"] <= 1.02 * (p + d)
    assert blocks * p <= small["beyond_l2"]["read"]["filters"] <= blocks * 1.02 * (p + d)


def test_an_intermediate_that_l2_does_not_hold_is_spilled():
    problem = Problem(N=1, H=32, W=32, C=128, K=128)  # 512 KB of Z
    small, large = (
        native.traffic(*shapes_of(problem), plan=whole_plan(problem), **{**CACHES, "l2_bytes": size})
        for size in (128 << 10, 4 << 20)
    )
    z = 4 * problem.sizes["Z"]
    assert large["beyond_l2"]["written"]["z"] <= 1.2 * z
    panels = problem.K // 32  # each passes by all of Z
    assert small["beyond_l2"]["read"]["z"] >= panels * z


# Each layer on two machines, which others of the same kind share among them; the one that is cut into the largest tasks
# on all sizes of L3. Of the portable kernels, which count four times the loads, the small layers alone.
CASES = [
    (name, machine, isa)
    for number, (name, layer) in enumerate(LAYERS.items())
    for machine in (MACHINES[3::3] if name.startswith("study") else (MACHINES[number % 9], MACHINES[9 - number % 9]))
    for isa in ISAS
    if isa != "generic" or layer.N == 1
]


@pytest.mark.parametrize("name, machine, isa", CASES, ids=["-".join(map(str, case)) for case in CASES])
def test_the_model_is_near_the_simulation(name, machine, isa):
    """X, filters and Y: never a third more than modelled; less only where some of P stays in L2 after all."""
    told = layer_traffic(LAYERS[name].problem(), isa=isa, **machine.sizes)
    assert 0.99 * told.compulsory <= told.simulated <= 1.35 * told.modelled
    blocks = told.filters / (4 * told.problem.sizes["P"])
    assert told.simulated >= 0.97 * told.modelled or blocks < 0.97 * told.problem.N * told.problem.Ho * (
        told.problem.Wo / told.block_pixels
    )
    # A line that two tasks write is fetched for both, where it left L2 in between: 728 channels end within lines.
    y = 4 * told.problem.sizes["Y"]
    assert told.fetched == 0 or y <= told.fetched <= 1.03 * y


GOOD = {"x_shape": (1, 4, 4, 2), "depthwise_filter_shape": (3, 3, 2, 1), "pointwise_filter_shape": (1, 1, 2, 5)}
PLAN = {"block_pixels": 16, "block_channels": 5, "threads": 1, "stream": False}


@pytest.mark.parametrize(
    "error, words, arguments",
    [
        (ValueError, "x must have rank 4", {"x_shape": (4, 4, 2)}),
        (TypeError, "x_shape", {"x_shape": None}),
        (ValueError, "x has no elements", {"x_shape": (0, 4, 4, 2)}),
        (ValueError, "too many to simulate", {"x_shape": (2**20, 2**10, 2**10, 2)}),
        (ValueError, "pointwise_filter must be", {"pointwise_filter_shape": (1, 1, 3, 5)}),
        (TypeError, "dtype", {"dtype": "float64"}),
        (ValueError, "isa", {"isa": "sse9"}),
        (ValueError, "strides", {"strides": 0}),
        (ValueError, "plan: block_pixels must be 1 to 16", {"plan": {**PLAN, "block_pixels": 17}}),
        (ValueError, "plan: threads must be 1 to 1", {"plan": {**PLAN, "threads": 2}}),
        (TypeError, "plan must be None or a dict", {"plan": 3}),
        (ValueError, "l1d_bytes", {"l1d_bytes": 64}),
        (ValueError, "l2_bytes", {"l2_bytes": -1}),
        (ValueError, "l3_bytes", {"l3_bytes": 2**40}),
        (TypeError, "l2_bytes", {"l2_bytes": 1e6}),
        (TypeError, "l2_bytes", {"l2_bytes": True}),
    ],
)
def test_bad_arguments(error, words, arguments):
    with pytest.raises(error, match=words):
        native.traffic(**{**GOOD, **arguments})


def test_dtypes_and_paddings_as_elsewhere():
    told = native.traffic(**GOOD, dtype=ml_dtypes.bfloat16, padding=[(2, 1), (0, 3)], dilations=(1, 2))
    assert told["modelled_bytes"] > 0 and told["isa"] == ISAS[-1]
    again = native.traffic(**GOOD, dtype="bfloat16", padding=[(2, 1), (0, 3)], dilations=(1, 2))
    assert again["modelled_bytes"] == told["modelled_bytes"]
    assert again["beyond_l2"]["read"]["x"] == told["beyond_l2"]["read"]["x"] == LINE


def command_line(*arguments):
    command = [sys.executable, "-m", "tf_dwsconv.analysis.traffic", *arguments]
    return subprocess.run(command, env=python_environment(), capture_output=True, text=True, timeout=300, cwd=ROOT)


def test_command_line():
    done = command_line("--shape=1,14,14,32,64", "--shape=2,9,9,8,24,5,2", "--dtype=float16", "--l2_bytes=1048576")
    assert done.returncode == 0, done.stderr
    first, head, *rows = done.stdout.splitlines()
    assert first.startswith("float16, one thread")
    assert all(word in head for word in ("once", "bound", "modelled", "simulated", "filters", "memory"))
    assert [row.split("  ")[0] for row in rows] == ["1x14x14x32 -> 64, 3x3", "2x9x9x8 -> 24, 5x5 s2x2"]
    for wrong, status in (
        ("--shape=1,2,3", 2), ("--shape=1,2,3,4,x", 2), ("--dtype=float64", 2), ("--shape=9000,9000,9000,64,64", 1),
    ):  # fmt: skip
        done = command_line(wrong, "--shape=1,4,4,2,2")
        assert done.returncode == status, done.stderr
        # On a busy machine a line of progress may come first.
        assert done.stderr.splitlines()[-1].startswith("error: ") and "Traceback" not in done.stderr, done.stderr
