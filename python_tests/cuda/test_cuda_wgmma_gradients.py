"""The gradients' products for 9.0a (cuda/backward/warpgroup_kernel.cuh), on the CPU."""

from __future__ import annotations

import re

import cuda_backward_cases as cases
import cuda_cases
import numpy as np
import pytest
import test_cuda_backward_shim as backward_shim
import test_cuda_cards as cards
from cuda_backward_library import GRADIENTS, BackwardCall, BackwardLibrary
from cuda_library import Call
from cuda_shim_support import build_shim
from test_cuda_backward_shim import LAYER

SIXTEEN = ("float16", "bfloat16")


@pytest.fixture(scope="module")
def library():
    library = BackwardLibrary(build_shim())
    card(library)
    yield library
    cards.card(library)


def card(library, *numbers):
    """`test_cuda_cards.card` with code for 9.0a in the library."""
    cards.card(library, *numbers)
    library.handle.dwsconv_shim_group_products(1)


def compare(library, shape, dtype, **options):
    plan = backward_shim.compare(library, shape, dtype, path="steps", **options)
    assert " wgmma " in plan.text
    return plan


def parts(plan, name: str) -> int:
    return int(re.search(rf"{name} (\d+)", plan.text)[1])


def shape_of(rng, pixels: int, channels: int, filters: int) -> dict:
    """A layer whose products have these sizes, with or without everything that comes after them."""
    size = {"H": 1, "W": pixels} if pixels % 7 else {"H": pixels // 7, "W": 7}
    shape = {**LAYER, **size, "C": channels, "K": filters, "seed": int(rng.integers(1000)),
             "activation": (cuda_cases.WORDS[rng.integers(9)], 0.2),
             "depthwise_activation": (cuda_cases.WORDS[rng.integers(9)], 0.2)}  # fmt: skip
    return {**shape, **{name: bool(rng.integers(2)) for name in ("bias", "residual", "depthwise_bias")}}


@pytest.mark.parametrize("dtype", SIXTEEN)
def test_sizes_at_the_ends_of_tiles(library, dtype):
    """Of pixels, which a stage of dP has 64 of, of channels, and of K, which a stage of dZ has 64 of."""
    rng = np.random.default_rng(SIXTEEN.index(dtype))
    for at, pixels in enumerate((1, 63, 64, 65, 127, 128, 129, 192, 300)):
        for channels, filters in ((8, 136), (64, 8), (72, 264), (200, 128), (264, 72)):
            if (at + channels // 8) % 3 == 0:
                shape = shape_of(rng, pixels, channels, filters)
                compare(library, shape, dtype, order=at % 8, blocks=at % 4, in_place=at % 2 == 0)


@pytest.mark.parametrize("dtype", SIXTEEN)
@pytest.mark.parametrize("word", cuda_cases.WORDS)
def test_every_activation_between_the_halves(library, word, dtype):
    """mid' from Z, or as a tensor that dZ is written over; with and without the sums of columns."""
    for bias in (True, False):
        for alpha in (0.3, -0.3) if word == "leaky_relu" else (0.3,):
            shape = {**LAYER, "H": 9, "W": 15, "C": 136, "depthwise_activation": (word, alpha), "depthwise_bias": bias}
            compare(library, shape, dtype)


def test_random_layers(library):
    """Windows, strides, multipliers, paddings and layouts: what stands before and behind the products."""
    ran = 0
    for seed in range(80):
        shape, dtype, _, path, wanted, _ = cases.draw_case(seed)
        if path == "fused" or not {"p", "x", "d", "db"} & set(wanted):
            continue
        shape = {**shape, "C": 8 * (1 + shape["C"] // 8), "K": 8 * (1 + shape["K"] // 8)}
        dtype = dtype if dtype in SIXTEEN else SIXTEEN[seed % 2]
        plan = backward_shim.compare(
            library, shape, dtype, path="steps", wanted=wanted, order=seed % 8, blocks=seed % 3, in_place=seed % 5 == 0
        )
        assert (" wgmma " in plan.text) == any(name in wanted for name in ("p", "x", "d")) or wanted == ("db",)
        ran += 1
    assert ran >= 20


@pytest.mark.parametrize("wanted", GRADIENTS)
def test_each_gradient_alone(library, wanted):
    """Nothing but what is asked for is written, and nothing that it needs is missing."""
    for activation in ("none", "relu", "silu"):
        shape = {**LAYER, "H": 9, "W": 17, "residual": True, "activation": (activation, 0.2)}
        plan = backward_shim.compare(library, shape, "float16", path="steps", wanted=(wanted,))
        assert (" wgmma " in plan.text) == (wanted in ("x", "d", "p", "db"))


MANY = {**LAYER, "N": 3, "H": 20, "W": 30, "C": 136, "K": 144}


@pytest.mark.parametrize("dtype", SIXTEEN)
def test_parts_of_several_stages(library, dtype):
    """Of dP: on a card of few multiprocessors, its last part shorter than the others."""
    try:
        card(library, 90, 13, 232448, 233472, 50 << 20, 0, 0, 0)
        plan = compare(library, MANY, dtype, order=5)
        assert parts(plan, "product") == 3
        # Two blocks, so that a block has parts behind one another, and the ring has turned an odd number of times.
        compare(library, {**MANY, "W": 31}, dtype, order=2, blocks=2)
    finally:
        card(library)


def test_parts_of_several_tiles(library):
    """Of the depthwise bias' gradient: more than 1024 tiles of pixels, so a part's sums are of more than one."""
    shape = {**dict(zip("NHWCMKRS", (2, 2, 64 * 513, 8, 1, 8, 3, 3))), "depthwise_bias": True, "seed": 3,
             "depthwise_activation": ("relu6", 0.2)}  # fmt: skip
    plan = compare(library, shape, "float16", wanted=("db",))
    assert parts(plan, "between") == 513


@pytest.mark.parametrize("dtype", SIXTEEN)
def test_same_bits_in_any_order(library, dtype):
    """However early copies come, whichever warp is ahead, however many items a block has, and what else is wanted."""
    shape = {**MANY, "N": 1, "activation": ("gelu", 0.2), "depthwise_activation": ("silu", 0.2)}
    case, _, y, grad = backward_shim.made(shape, dtype)
    runs = ({"order": order, "blocks": order % 4} for order in range(1, 8))
    first, _ = backward_shim.compute(library, case, dtype, grad=grad, y=y, path="steps")
    for options in (*runs, {"wanted": ("x", "p")}, {"wanted": ("db",)}):
        again, _ = backward_shim.compute(library, case, dtype, grad=grad, y=y, path="steps", **options)
        for name, gradient in again.items():
            np.testing.assert_array_equal(gradient, first[name])


@pytest.mark.parametrize("dtype", SIXTEEN)
def test_gradients_that_are_not_finite(library, dtype):
    """A NaN in dY reaches what it is part of and no other picture, though tiles and stages have pixels of both."""
    shape = {**LAYER, "N": 2, "H": 9, "W": 10, "depthwise_activation": ("relu", 0.2)}
    case, _, y, grad = backward_shim.made(shape, dtype)
    grad[1, 3, 4, 5] = np.nan
    gradients, plan = backward_shim.compute(library, case, dtype, grad=grad, y=y, path="steps")
    assert " wgmma " in plan.text
    found = {name: gradient.astype(np.float64) for name, gradient in gradients.items()}
    assert np.isfinite(found["x"][0]).all() and np.isnan(found["x"][1]).any()
    assert np.isnan(found["p"]).any(axis=(0, 1, 2)).sum() == 1


@pytest.mark.parametrize("word", ["none", "relu"])
def test_what_is_past_the_last_pixel_is_no_part_of_a_sum(library, word):
    """Zeros there, times a filter that is not finite, would be NaN in all sums of its channel."""
    shape = {**LAYER, "H": 5, "W": 5, "depthwise_activation": (word, 0.2)}
    case, _, y, grad = backward_shim.made(shape, "float16")
    x, layer, residual = case
    layer.pointwise_filter[0, 0, 3, 2] = np.inf
    grad[...] = np.abs(grad) + 1
    gradients, _ = backward_shim.compute(library, (x, layer, residual), "float16", grad=grad, y=y, path="steps")
    bias = gradients["db"].astype(np.float64)
    assert np.isposinf(bias[3]) and np.isfinite(np.delete(bias, 3)).all()


@pytest.mark.parametrize("dtype", SIXTEEN)
@pytest.mark.parametrize("activation", ["none", "relu"])
def test_pointers_that_are_askew_go_to_the_other_products(library, dtype, activation):
    """The planner does not see them; it may have been told, and then asks for the others itself."""
    shape = {**LAYER, "activation": (activation, 0.2), "depthwise_activation": ("tanh", 0.2)}
    plan = backward_shim.compare(library, shape, dtype, path="steps", offset=2, aligned=True)
    assert " wgmma " in plan.text
    plan = backward_shim.compare(library, shape, dtype, path="steps", offset=2)
    assert " wgmma " not in plan.text
    # Copies in the workspace are not askew, but the filters still are.
    plan = backward_shim.compare(library, {**shape, "data_format": "NCHW"}, dtype, path="steps", offset=2)
    assert " wgmma " in plan.text


def plan_of(library, size, channels, filters, dtype="float16", path="auto", **attributes):
    shapes = (64, size, size, channels), (3, 3, channels, 1), (1, 1, channels, filters)
    return BackwardCall(library, Call(library, *shapes, dtype, **attributes), path=path).plan


def test_who_gets_them(library):
    """16-bit elements in whole vectors, on 9.0 with code for it."""
    assert " wgmma " in plan_of(library, 14, 512, 512).text
    assert " wgmma " not in plan_of(library, 14, 512, 512, "float32").text
    assert " wgmma " not in plan_of(library, 14, 512, 512, "float32", math="tf32").text
    assert " wgmma " not in plan_of(library, 14, 508, 512).text
    assert " wgmma " not in plan_of(library, 14, 512, 508, "bfloat16").text
    assert " wgmma " not in plan_of(library, 14, 512, 512, path="general").text
    assert " wgmma " not in plan_of(library, 56, 128, 128, path="fused").text
    try:
        for name, numbers in cards.CARDS.items():
            card(library, *numbers)
            assert (" wgmma " in plan_of(library, 14, 512, 512).text) == (numbers[0] == 90), name
        cards.card(library)
        assert " wgmma " not in plan_of(library, 14, 512, 512).text
    finally:
        card(library)


@pytest.mark.parametrize(
    "size, channels, filters, count",
    [(14, 512, 512, 8), (7, 1024, 1024, 2), (28, 256, 256, 33), (28, 192, 768, 11), (19, 728, 728, 7)],
)
def test_parts_of_dp_fill_the_card_and_are_few(library, size, channels, filters, count):
    """Blocks in turns of 132, of which the last is nearly full; a part costs its floats twice."""
    plan = plan_of(library, size, channels, filters)
    assert parts(plan, "product") == count
    tiles = -(-channels // 128) * -(-filters // 128) * count
    assert tiles / (-(-tiles // 132) * 132) > 0.9
    library.handle.dwsconv_shim_group_products(0)
    others = plan_of(library, size, channels, filters)
    library.handle.dwsconv_shim_group_products(1)
    assert count < parts(others, "product")
    assert plan.workspace_bytes < others.workspace_bytes
