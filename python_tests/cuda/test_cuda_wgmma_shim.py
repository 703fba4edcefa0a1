"""The product for 9.0a (cuda/product/warpgroup_kernel.cuh), on the CPU."""

from __future__ import annotations

import ctypes

import cuda_block_cases
import cuda_cases
import numpy as np
import pytest
import reference
import test_cuda_block_shim as block_shim
import test_cuda_cards as cards
import test_cuda_shim as layer_shim
from cuda_block_library import BlockLibrary
from cuda_library import Call, Library
from cuda_shim_support import POISONS, build_shim, check_path_refused, compare_poisoned, poisoned_case
from test_cuda_shim import LAYER

PATH = "two_step_wgmma"
SIXTEEN = ("float16", "bfloat16")


@pytest.fixture(scope="module")
def library():
    return Library(build_shim())


def compare(library, shape, dtype, **options):
    before = library.calls((PATH, "two_step"))
    plan = layer_shim.compare(library, shape, dtype, path=PATH, **options)
    assert plan.text.startswith(PATH + " ")
    assert library.calls((PATH, "two_step")) == {PATH: before[PATH] + 1, "two_step": before["two_step"]}


def shape_of(rng, pixels: int, channels: int, filters: int) -> dict:
    """A layer whose product has these sizes, with or without everything that comes after it."""
    size = {"H": 1, "W": pixels} if pixels % 7 else {"H": pixels // 7, "W": 7}
    shape = {**LAYER, **size, "C": channels, "K": filters, "seed": int(rng.integers(1000)),
             "activation": (cuda_cases.WORDS[rng.integers(9)], 0.2)}  # fmt: skip
    return {**shape, **{name: bool(rng.integers(2)) for name in ("bias", "residual", "depthwise_bias")}}


@pytest.mark.parametrize("dtype", SIXTEEN)
def test_sizes_at_the_ends_of_tiles(library, dtype):
    """Of pixels, of channels, which a stage of the ring has 64 of, and of output channels; every order of threads."""
    rng = np.random.default_rng(SIXTEEN.index(dtype))
    for at, pixels in enumerate((1, 63, 64, 65, 127, 128, 129, 192, 300)):
        for channels, filters in ((8, 136), (64, 8), (72, 264), (200, 128), (264, 72)):
            if (at + channels // 8) % 3 == 0:
                shape = shape_of(rng, pixels, channels, filters)
                compare(library, shape, dtype, order=at % 8, blocks=at % 4, in_place=at % 2 == 0)


def test_random_layers(library):
    """Windows, strides, multipliers, paddings and layouts: what stands before the product."""
    ran = 0
    for seed in range(60):
        shape, dtype, _, path, _ = cuda_cases.draw_case(seed)
        if path == "stream":
            continue
        shape = {**shape, "C": 8 * (1 + shape["C"] // 8), "K": 8 * (1 + shape["K"] // 8)}
        compare(library, shape, dtype if dtype in SIXTEEN else SIXTEEN[seed % 2], order=seed % 8, blocks=seed % 3)
        ran += 1
    assert ran >= 20


@pytest.mark.parametrize("dtype", SIXTEEN)
def test_same_bits_in_any_order(library, dtype):
    """However early copies come, whichever warp is ahead, and however many items a block has."""
    shape = {**LAYER, "N": 2, "H": 14, "W": 14, "C": 264, "K": 136, "activation": ("gelu", 0.2), "residual": True}
    case = reference.random_case(np.random.default_rng(0), cuda_cases.NUMPY[dtype], shape)
    orders = ({}, *({"order": order, "blocks": order % 4} for order in range(1, 8)))
    outputs = [layer_shim.compute(library, case, dtype, path=PATH, **order)[0] for order in orders]
    for output in outputs[1:]:
        np.testing.assert_array_equal(output, outputs[0])


@pytest.mark.parametrize("dtype", SIXTEEN)
@pytest.mark.parametrize("poison", POISONS)
def test_infinities_stay_where_they_belong(library, dtype, poison):
    """What is outside a matrix is zeros in a tile, and multiplied by zeros alone."""
    shape = {**LAYER, "H": 19, "W": 21, "C": 32, "K": 24, "depthwise_activation": ("gelu", 0.2)}
    case = poisoned_case(shape, dtype, poison)
    compare_poisoned(layer_shim.compute(library, case, dtype, path=PATH)[0], case, dtype)


def test_z_is_read_once(library):
    """With an L2 that P and the rows of some tiles fit in, but not Z."""
    shape = {**dict(zip("NHWCMKRS", (1, 32, 32, 64, 1, 384, 3, 3))), "seed": 1}
    z, p = 32 * 32 * 64 * 2, 64 * 384 * 2
    library.handle.dwsconv_shim_l2(ctypes.c_int64(p + z // 2))
    compare(library, shape, "float16")
    library.handle.dwsconv_shim_dram_bytes.restype = ctypes.c_int64
    read = library.handle.dwsconv_shim_dram_bytes()
    library.handle.dwsconv_shim_l2(ctypes.c_int64(0))
    assert z + p <= read <= 1.05 * (z + p)


@pytest.mark.parametrize("change, dtype", [({}, "float32"), ({"C": 13}, "float16"), ({"K": 11}, "bfloat16")])
def test_what_it_is_not_for_is_an_error(library, change, dtype):
    check_path_refused(library, PATH, {**LAYER, "C": 16, "K": 16, **change}, dtype, {})


def test_pointers_that_are_askew_are_an_error(library):
    shape = {**LAYER, "H": 5, "W": 5, "C": 16, "K": 16}
    with pytest.raises(ValueError, match=f"path {PATH} takes pointers that are multiples of 16 bytes"):
        compare(library, shape, "float16", offset=2)


def test_other_cards_do_not_have_it_and_nobody_gets_it_unasked(library):
    """It has never run on a card: the planner takes it by name alone."""
    try:
        for name, numbers in cards.CARDS.items():
            cards.card(library, *numbers)
            for size, channels, filters in ((7, 1024, 1024), (14, 512, 512), (56, 128, 128), (56, 96, 384)):
                shapes = (128, size, size, channels), (3, 3, channels, 1), (1, 1, channels, filters)
                assert PATH not in Call(library, *shapes, "float16").plan.text
                if numbers[0] == 90:
                    assert Call(library, *shapes, "float16", path=PATH).plan.text == f"{PATH} window"
                    continue
                with pytest.raises(ValueError, match=rf"path {PATH} needs a card of compute capability 9\.0"):
                    Call(library, *shapes, "float16", path=PATH)
            if name == "H100":
                compare(library, {**LAYER, "C": 136, "K": 144}, "bfloat16", order=3)
    finally:
        cards.card(library)


@pytest.fixture
def chooses(library):
    """The planner takes the product for 9.0a without being asked, as on a card with such code."""
    library.handle.dwsconv_shim_group_products(1)
    yield library
    library.handle.dwsconv_shim_group_products(0)


DEEP = {**LAYER, "N": 2, "H": 14, "W": 14, "C": 512, "K": 512}


@pytest.mark.parametrize("dtype", SIXTEEN)
def test_the_planner_takes_it_on_a_card_with_such_code(chooses, dtype):
    plan = layer_shim.compare(chooses, DEEP, dtype)
    assert plan.text.startswith(PATH + " ")
    odd = layer_shim.compare(chooses, {**DEEP, "C": 508}, dtype)
    assert odd.text.startswith("two_step ")
    named = layer_shim.compare(chooses, DEEP, dtype, path="two_step")
    assert named.text.startswith("two_step ")


def test_pointers_that_it_does_not_take_go_to_the_other_product(chooses):
    """The planner does not see pointers. A path that was named is an error there (above)."""
    plan = layer_shim.compare(chooses, DEEP, "float16", offset=2)
    assert plan.text.startswith(PATH + " ")


def test_products_of_blocks_take_it_too(chooses):
    block = cuda_block_cases.make("dnp", "float16", n=1, h=7, w=7, c=136, k=264, window=(7, 7))
    assert block_shim.compare(BlockLibrary(build_shim()), block, "exact").endswith("pointwise wgmma")
