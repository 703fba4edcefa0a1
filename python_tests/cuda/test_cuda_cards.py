"""Plans and kernels for other cards than the shim's H200, what the planner counts, and what it remembers."""

from __future__ import annotations

import ctypes

import cuda_block_cases
import cuda_cases
import numpy as np
import pytest
import test_cuda_backward_shim as backward_shim
import test_cuda_block_shim as block_shim
import test_cuda_shim as layer_shim
from cuda_backward_library import BackwardLibrary
from cuda_library import Call
from cuda_shim_support import build_shim

# What a card says of itself: capability, multiprocessors, shared memory of a block and of a multiprocessor, L2, kHz of
# the multiprocessors and of the memory, bits of its bus.
CARDS = {
    "T4": (75, 40, 65536, 65536, 4 << 20, 1590000, 5001000, 256),
    "A100": (80, 108, 166912, 167936, 40 << 20, 1410000, 1215000, 5120),
    "RTX 3060": (86, 28, 101376, 102400, 3 << 20, 1777000, 7501000, 192),
    "H100": (90, 132, 232448, 233472, 50 << 20, 1980000, 2619000, 5120),
    "H200": (90, 132, 232448, 233472, 60 << 20, 1980000, 3201000, 6144),
    "RTX 5090": (120, 170, 101376, 102400, 96 << 20, 2407000, 14001000, 512),
}


@pytest.fixture
def library():
    library = BackwardLibrary(build_shim())
    yield library
    card(library)


def card(library, *numbers):
    """Makes the shim another card; without numbers the H200 that it is at first."""
    capability, multiprocessors, block, whole, l2, *clocks = numbers or (0,) * 8
    library.handle.dwsconv_shim_card(
        capability, multiprocessors, *(ctypes.c_int64(size) for size in (block, whole, l2)), *clocks
    )


DEEP = {**dict(zip("NHWCMKRS", (1, 5, 4, 136, 1, 144, 3, 3))), "bias": True, "seed": 5}


@pytest.mark.parametrize("name", CARDS)
def test_every_card_runs_deep_layers(library, name):
    """C >= 128, where the products are: a plan that asks for more shared memory than there is fails to launch."""
    card(library, *CARDS[name])
    for dtype in ("float16", "float32"):
        for path in ("auto", "two_step"):
            layer_shim.compare(library, DEEP, dtype, path=path)
        backward_shim.compare(library, DEEP, dtype, path="steps")
    if CARDS[name][0] < 80:  # it has no such instructions
        assert layer_shim.compare(library, DEEP, "bfloat16").text.startswith("direct")


@pytest.mark.parametrize("name", ["T4", "RTX 3060"])
def test_every_card_runs_blocks(library, name, stages="spr"):
    card(library, *CARDS[name])
    for dtype, math in (("float16", "exact"), ("float32", "exact")):
        block = cuda_block_cases.make(stages, dtype, n=1, h=5, w=4, c=136, k=144)
        block_shim.compare(library, block, math)


def test_planners_ask_for_no_more_shared_memory_than_a_block_has(library):
    """Of a card that nobody builds, with 48 KB: fast paths say so, the planner takes others."""
    card(library, 80, 100, 48 << 10, 64 << 10, 4 << 20, 0, 0, 0)
    plan = layer_shim.compare(library, DEEP, "float16")
    assert plan.text.startswith("direct")
    shapes = ((1, 5, 4, 136), (3, 3, 136, 1), (1, 1, 136, 144))
    with pytest.raises(ValueError, match=r"path two_step needs 76288 bytes of shared memory.* may have 49152"):
        Call(library, *shapes, "float16", path="two_step")
    plan = backward_shim.compare(library, DEEP, "float16")
    assert plan.text.startswith("general")
    with pytest.raises(ValueError, match="path steps needs 58880 bytes"):
        backward_shim.compare(library, DEEP, "float16", path="steps")
    text = block_shim.compare(library, cuda_block_cases.make("spr", "float16", n=1, h=5, w=4, c=136, k=144))
    assert "general" in text


def test_bandwidth_and_clock_are_the_cards_own(library):
    """A layer that memory bounds takes as much longer as a card's memory is slower; without numbers, an H200's."""
    shapes = ((512, 112, 112, 32), (3, 3, 32, 1), (1, 1, 32, 64))
    modelled = {}
    for name, numbers in {**CARDS, "no numbers": (*CARDS["H200"][:5], 0, 0, 0)}.items():
        card(library, *numbers)
        modelled[name] = Call(library, *shapes, "float16", path="two_step").plan.modelled_us
    assert modelled["H200"] == pytest.approx(modelled["no numbers"], rel=0.01)
    # Memory is 1.47 times as fast; launches and what does not overlap take as long.
    assert 1.3 < modelled["H100"] / modelled["H200"] < 3201 * 6144 / (2619 * 5120)
    assert modelled["T4"] > 8 * modelled["H200"]


def test_a_product_reads_z_once(library, dtype="float32"):
    """With an L2 that P and the rows of some tiles fit in, but not Z: whatever the number of tiles of columns."""
    shape = {**dict(zip("NHWCMKRS", (1, 32, 32, 64, 1, 384, 3, 3))), "seed": 1}
    size = np.dtype(cuda_cases.NUMPY[dtype]).itemsize
    z, p = 32 * 32 * 64 * size, 64 * 384 * size
    library.handle.dwsconv_shim_l2(ctypes.c_int64(p + z // 2))
    layer_shim.compare(library, shape, dtype, path="two_step")
    library.handle.dwsconv_shim_dram_bytes.restype = ctypes.c_int64
    read = library.handle.dwsconv_shim_dram_bytes()
    library.handle.dwsconv_shim_l2(ctypes.c_int64(0))
    assert z + p <= read <= 1.05 * (z + p)


def test_plans_are_remembered(library):
    """The same call is planned once; whatever the planner may look at makes another."""
    library.handle.dwsconv_cuda_plans_made.restype = ctypes.c_int64
    made = library.handle.dwsconv_cuda_plans_made

    def call(x=(3, 23, 21, 24), window=3, k=40, dtype="float16", **options):
        return Call(library, x, (window, window, x[3], 1), (1, 1, x[3], k), dtype, **options)

    changes = [
        *({"x": tuple(size + 8 * (i == at) for i, size in enumerate((3, 23, 21, 24)))} for at in range(4)),
        *({"k": 48}, {"window": 5}, {"dtype": "bfloat16"}, {"dtype": "float32"}, {"dtype": "float32", "math": "tf32"}),
        *({"strides": (2, 2)}, {"padding": "VALID"}, {"padding": ((2, 0), (0, 2))}, {"padding": ((2, 0), (1, 1))}),
        *({"bias": True}, {"depthwise_bias": True}, {"residual": (3, 23, 21, 40)}, {"dilations": (1, 2)}),
        *({"activation": ("relu", 0.2)}, {"activation": ("leaky_relu", 0.2)}, {"activation": ("leaky_relu", -0.1)}),
        *({"path": "stream"}, {"path": "two_step"}, {"tile": (8, 8)}, {"tile": (4, 8)}, {"segments": 2}, {"groups": 1}),
        *({"fusion": "never"}, {"gradients": 63}, {"gradients": 62}, {"gradients": 62, "aligned": False}),
    ]  # fmt: skip
    call()
    for change in changes:
        before = made()
        first = call(**change)
        assert made() == before + 1, change
        again = call(**change)
        assert made() == before + 1 and again.plan == first.plan, change
    before = made()
    rates = (ctypes.c_double * 8)(69, 1120, 220, 2.83, 1570, 30.16, 700, 320)
    library.handle.dwsconv_cuda_set_rates.restype = ctypes.c_char_p
    assert library.handle.dwsconv_cuda_set_rates(rates) == b""
    slow = call().plan.modelled_us
    assert library.handle.dwsconv_cuda_set_rates(None) == b""
    assert made() == before + 1 and slow == pytest.approx(call().plan.modelled_us + 27)
    card(library, *CARDS["H100"])
    call()
    assert made() == before + 2


def test_rates_that_are_none_are_refused(library):
    library.handle.dwsconv_cuda_set_rates.restype = ctypes.c_char_p
    for wrong in (0.0, -1.0, float("nan"), float("inf")):
        rates = (ctypes.c_double * 8)(1, 1, wrong, 1, 1, 1, 1, 1)
        assert b"number 2" in library.handle.dwsconv_cuda_set_rates(rates)


@pytest.mark.parametrize("path", ["two_step", "two_step_wgmma"])
def test_a_named_path_runs_whatever_it_is_thought_to_take(library, path):
    """By rates at which it takes forever: the plan has steps all the same, and the result is right."""
    library.handle.dwsconv_cuda_set_rates.restype = ctypes.c_char_p
    rates = (ctypes.c_double * 8)(5e-324, 1120, 220, 2.83, 1570, 3.16, 700, 320)
    assert library.handle.dwsconv_cuda_set_rates(rates) == b""
    try:
        plan = layer_shim.compare(library, DEEP, "float16", path=path)
        assert plan.text == f"{path} tensor" and np.isinf(plan.modelled_us)
    finally:
        library.handle.dwsconv_cuda_set_rates(None)


def test_7x7_on_tensor_cores_is_cut_so_that_turns_are_full(library):
    """ConvNeXt's first blocks at batch 16: 88 blocks of each group of channels take turns at 64 strips of four steps.

    Four segments are 256 items in three turns of a step, where two are 128 in two turns of two.
    """
    call = Call(library, (16, 56, 56, 96), (7, 7, 96, 1), (1, 1, 96, 384), "float16", path="two_step")
    assert "toeplitz segments 4" in call.plan.text
