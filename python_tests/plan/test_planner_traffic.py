"""What the planner's plans move, by its model.

Near the lower bound where the capacity of L2 allows it (docs/analysis.md says when), and never far from the best of all
blocks, which is found here by looking at every one.
"""

import math
import random

import numpy as np
import pytest
from common.layer_table import LAYERS, shapes_of
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from machines import ALL_ISAS, MACHINES, planned

from tf_dwsconv import analysis, native
from tf_dwsconv.analysis import Problem

ITEM = 4  # bytes of a float32
NEAR = 1.5  # of the lower bound, at most, where capacity allows
DEAR = 0.2  # of a layer's least time, at most, that traffic costs which another block would save
VECTOR_FLOATS = {"generic": 4, "avx2": 8, "avx512": 16}


def ceil_div(a, b):
    return -(-a // b)


def packed_bytes(problem, plan, channels):
    """Of that many output channels of P, in whole register tiles."""
    return ITEM * problem.CM * ceil_div(channels, plan["tile_channels"]) * plan["tile_channels"]


def z_bytes(plan, pixels):
    return pixels * plan["z_stride"] * ITEM + 64


def input_rows(problem, pixels):
    rows = np.maximum(1, ceil_div(pixels, problem.Wo))
    return np.minimum(problem.H, (rows - 1) * problem.stride[0] + problem.height.extent)


def modelled(problem, plan, l2_bytes, threads, pixels, channels):
    """The model of docs/kernels.md, written down a second time: bytes moved with blocks of `pixels`, an array."""
    shares = ceil_div(problem.K, channels)
    tasks = problem.N * ceil_div(problem.Ho * problem.Wo, pixels) * shares
    packed = packed_bytes(problem, plan, channels)
    stays = packed + z_bytes(plan, pixels) < l2_bytes / 2
    fetched = np.where(stays, np.minimum(np.minimum(threads, tasks) * shares, tasks), tasks)
    blocks = np.where(pixels >= problem.Wo, ceil_div(problem.Ho * problem.Wo, pixels), problem.Ho)
    halo = np.maximum(1, blocks * input_rows(problem, pixels) / problem.H)
    x = ITEM * problem.sizes["X"] * shares * np.where(stays, 1, halo)
    return x + ITEM * (problem.sizes["D"] + problem.sizes["Y"]) + packed * fetched + y_fetched(problem, plan)


def y_fetched(problem, plan):
    """A line of Y is read before it is stored into, unless the stores go around the caches."""
    return 0 if plan["stream"] else ITEM * problem.sizes["Y"]


def least(problem, plan, l2_bytes, threads):
    """The least that any block moves which L2 has room for: from a register tile to an image. None if none fits."""
    pixels = np.arange(min(plan["tile_pixels"], problem.Ho * problem.Wo), problem.Ho * problem.Wo + 1)
    z, rows = z_bytes(plan, pixels), input_rows(problem, pixels) * problem.W * problem.C * ITEM
    pixels = pixels[(z <= min(1 << 20, l2_bytes // 2)) & (z + rows <= l2_bytes * 3 // 4)]
    if not pixels.size:
        return None
    panels = ceil_div(problem.K, plan["tile_channels"])
    channels = {min(ceil_div(panels, s) * plan["tile_channels"], problem.K) for s in range(1, min(panels, threads) + 1)}
    return min(modelled(problem, plan, l2_bytes, threads, pixels, k).min() for k in channels)


def capacity_allows(problem, plan, l2_bytes):
    """P in a sixth of L2 (for M = 1), and in a quarter a row of Z."""
    row = plan["z_stride"] * problem.Wo * ITEM
    return 6 * problem.M**2 * packed_bytes(problem, plan, problem.K) <= l2_bytes and 4 * row <= l2_bytes


def bound(problem, plan, l2_bytes):
    """Bytes that have to be moved, and what the machine adds.

    That is a copy of P for each core beyond the first, padded, and what caches fetch of Y to store into.
    """
    copies = plan["threads"] * packed_bytes(problem, plan, problem.K) - ITEM * problem.sizes["P"]
    return ITEM * analysis.dws_lower_bound(problem, l2_bytes // ITEM), copies + y_fetched(problem, plan)


def cost_of_more(problem, plan, best, isa):
    """The time of what the plan moves beyond `best` bytes, at the planner's 8 a cycle, over the layer's least time."""
    multiply_adds = problem.N * problem.Ho * problem.Wo * problem.CM * (problem.R * problem.S + problem.K)
    return (plan["modelled_bytes"] - best) / 8 / (multiply_adds / VECTOR_FLOATS[isa] + best / 8)


@pytest.mark.parametrize("isa", ALL_ISAS)
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_layers_of_networks(layer, threads, isa):
    """On every machine: near the bound where capacity allows, and elsewhere not far from the best of all blocks."""
    problem = layer.problem()
    for machine in MACHINES:
        l2_bytes = machine.caches[1]
        plan = planned(problem, machine.caches, threads, isa)
        bytes_moved = plan["modelled_bytes"]
        once, added = bound(problem, plan, l2_bytes)
        if capacity_allows(problem, plan, l2_bytes):
            assert bytes_moved <= 1.1 * once + added, str(machine)
        best = least(problem, plan, l2_bytes, plan["threads"])
        assert best <= bytes_moved * (1 + 1e-9), str(machine)
        assert cost_of_more(problem, plan, best, isa) <= DEAR, str(machine)
        if isa == "avx512" and l2_bytes == 1 << 20:
            assert bytes_moved <= 1.2 * best, str(machine)


@pytest.mark.parametrize("isa", ALL_ISAS)
def test_capacity_allows_most_layers_of_networks(isa):
    """With 1 MiB it is the filters that are too large: those of 256 -> 256 channels and more."""

    def allowed(layer, l2_bytes):
        problem = layer.problem()
        plan = planned(problem, (32 << 10, l2_bytes, 32 << 20), 1, isa)
        return capacity_allows(problem, plan, l2_bytes)

    assert {name.split("_n")[0] for name, layer in LAYERS.items() if not allowed(layer, 1 << 20)} == {
        "mobilenetv1_28x256-256",
        "efficientnet_14x480-112_k5",
        "mobilenetv1_28x256-512",
        "mobilenetv1_14x512-512",
        "mobilenetv1_14x512-1024",
        "mobilenetv1_7x1024-1024",
        "xception_19x728-728",
        "convnext_14x384-1536_k7",
    }
    # With twice that, those two are in.
    for name in ("mobilenetv1_28x256-256_n8", "efficientnet_14x480-112_k5_n8"):
        assert allowed(LAYERS[name], 2 << 20)


sizes = st.integers(0, 40).map(lambda i: round(2 ** (i / 4)))  # 1 to 1024
problems = st.builds(
    dict,
    N=st.sampled_from([1, 2, 8]),
    H=st.integers(1, 120),
    W=st.integers(1, 120),
    C=sizes,
    K=sizes,
    R=st.integers(1, 9),
    S=st.integers(1, 9),
    M=st.sampled_from([1, 1, 1, 2, 3]),
    stride=st.integers(1, 3),
    dilation=st.sampled_from([1, 1, 2]),
    padding=st.sampled_from(["SAME", "VALID"]),
)
caches = st.tuples(
    st.sampled_from([32 << 10, 48 << 10]),
    st.sampled_from([1 << i for i in range(18, 22)]),
    st.sampled_from([8 << 20, 32 << 20, 480 << 20]),
)
machines = st.tuples(caches, st.sampled_from([1, 2, 4, 16]), st.sampled_from(ALL_ISAS))


@settings(max_examples=400)
@given(problems, machines)
def test_near_the_bound_where_capacity_allows(arguments, machine):
    """Of layers that read all of their input, by all of their taps: the model counts what is not read too."""
    try:
        problem, l2_bytes = Problem(**arguments), machine[0][1]
    except ValueError:
        assume(False)
    for axis in (problem.height, problem.width):
        assume(axis.touched == axis.size and axis.taps_used == axis.taps)
    plan = planned(problem, *machine)
    assume(capacity_allows(problem, plan, l2_bytes))
    once, added = bound(problem, plan, l2_bytes)
    assert plan["modelled_bytes"] <= NEAR * once + added


@settings(max_examples=300)
@given(problems, machines)
def test_both_models_agree(arguments, machine):
    try:
        problem = Problem(**arguments)
    except ValueError:
        assume(False)
    plan = planned(problem, *machine)
    pixels, channels = np.array([plan["block_pixels"]]), plan["block_channels"]
    expected = modelled(problem, plan, machine[0][1], plan["threads"], pixels, channels)
    assert plan["modelled_bytes"] == pytest.approx(float(expected[0]), rel=1e-9)


@pytest.mark.parametrize("isa", ALL_ISAS)
def test_near_the_best_of_all_blocks_everywhere(isa):
    """The planner looks for time and not for traffic, but does not pay for it with much of that."""
    chance = random.Random(0)
    ratios = []
    while len(ratios) < 300:
        size, c, k = chance.randint(1, 60), *(round(2 ** chance.uniform(0, 10)) for _ in "ck")
        kernel = chance.choice([1, 3, 5, 7])
        problem = Problem(chance.choice([1, 8]), size, size, c, k, kernel, kernel, stride=chance.choice([1, 1, 2]))
        machine = chance.choice(MACHINES)
        plan = planned(problem, machine.caches, 1, isa)
        best = least(problem, plan, machine.caches[1], 1)
        if best is not None:
            ratios.append(plan["modelled_bytes"] / best)
            assert cost_of_more(problem, plan, best, isa) <= DEAR, (problem, str(machine))
    assert min(ratios) >= 1 - 1e-9
    assert max(ratios) <= 4
    assert math.exp(np.mean(np.log(ratios))) <= 1.05


def test_what_a_plan_tells_of_its_traffic():
    """Of a layer so small that no L3 has its output written around the caches."""
    problem = Problem(N=1, H=28, W=28, C=32, K=64)
    shapes = shapes_of(problem)
    plan = native.plan(*shapes, num_threads=1, variant="fused")
    assert not plan["stream"]
    assert plan["modelled_bytes"] >= ITEM * sum(problem.sizes[array] for array in "XPYY")
    assert native.plan((0, *shapes[0][1:]), *shapes[1:])["modelled_bytes"] == 0
    half = native.plan(*shapes, num_threads=1, variant="fused", dtype="float16")["modelled_bytes"]
    assert half < 0.55 * plan["modelled_bytes"]
