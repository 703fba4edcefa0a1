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
from cuda_library import Call, Library, call_of, tensors_of
from cuda_shim_support import POISONS, Fenced, build_shim, check_path_refused, compare_poisoned, poisoned_case
from test_cuda_shim import LAYER

PATH = "two_step_wgmma"
# Element type, math, channels of 16 bytes.
KINDS = {"float16": ("float16", "exact", 8), "bfloat16": ("bfloat16", "exact", 8), "tf32": ("float32", "tf32", 4)}
# Channels and filters at the ends of stages (64 channels, of floats 32) and of tiles.
SIZES = {8: ((8, 136), (64, 8), (72, 264), (200, 128), (264, 72)),
         4: ((4, 132), (32, 4), (36, 12), (12, 36), (132, 200), (200, 128), (68, 260))}  # fmt: skip


@pytest.fixture(scope="module")
def library():
    return Library(build_shim())


def compare(library, shape, kind, **options):
    before = library.calls((PATH, "two_step"))
    dtype, math, _ = KINDS[kind]
    plan = layer_shim.compare(library, shape, dtype, math, path=PATH, **options)
    assert plan.text.startswith(PATH + " ")
    assert library.calls((PATH, "two_step")) == {PATH: before[PATH] + 1, "two_step": before["two_step"]}


def shape_of(rng, pixels: int, channels: int, filters: int) -> dict:
    """A layer whose product has these sizes, with or without everything that comes after it."""
    size = {"H": 1, "W": pixels} if pixels % 7 else {"H": pixels // 7, "W": 7}
    shape = {**LAYER, **size, "C": channels, "K": filters, "seed": int(rng.integers(1000)),
             "activation": (cuda_cases.WORDS[rng.integers(9)], 0.2)}  # fmt: skip
    return {**shape, **{name: bool(rng.integers(2)) for name in ("bias", "residual", "depthwise_bias")}}


@pytest.mark.parametrize("kind", KINDS)
def test_sizes_at_the_ends_of_tiles(library, kind):
    """Of pixels, of channels, which stages of the ring have, and of output channels; every order of threads."""
    rng, vector = np.random.default_rng(list(KINDS).index(kind)), KINDS[kind][2]
    for at, pixels in enumerate((1, 63, 64, 65, 127, 128, 129, 192, 300)):
        for channels, filters in SIZES[vector]:
            if (at + channels // vector) % 3 == 0:
                shape = shape_of(rng, pixels, channels, filters)
                compare(library, shape, kind, order=at % 8, blocks=at % 4, in_place=at % 2 == 0)


def test_random_layers(library):
    """Windows, strides, multipliers, paddings and layouts: what stands before the product."""
    ran = 0
    for seed in range(80):
        shape, _, _, path, _ = cuda_cases.draw_case(seed)
        if path == "stream":
            continue
        kind = list(KINDS)[ran % 3]
        vector = KINDS[kind][2]
        shape = {**shape, **{name: vector * (1 + shape[name] // vector) for name in "CK"}}
        compare(library, shape, kind, order=seed % 8, blocks=seed % 3)
        ran += 1
    assert ran >= 30


@pytest.mark.parametrize("activation", cuda_cases.WORDS)
def test_every_activation_of_floats(library, activation):
    """Their epilogue is not that of 16 bits; more tiles than blocks, so that turns follow each other."""
    shape = {**LAYER, "C": 36, "K": 140, "activation": (activation, 0.3), "residual": True}
    for blocks in (1, 3):
        compare(library, shape, "tf32", blocks=blocks, order=blocks)


@pytest.mark.parametrize("kind", KINDS)
def test_same_bits_in_any_order(library, kind):
    """However early copies come, whichever warp is ahead, and however many items a block has."""
    shape = {**LAYER, "N": 2, "H": 14, "W": 14, "C": 264, "K": 136, "activation": ("gelu", 0.2), "residual": True}
    dtype, math, _ = KINDS[kind]
    case = reference.random_case(np.random.default_rng(0), cuda_cases.NUMPY[dtype], shape)
    orders = ({}, *({"order": order, "blocks": order % 4} for order in range(1, 8)))
    outputs = [layer_shim.compute(library, case, dtype, path=PATH, math=math, **order)[0] for order in orders]
    for output in outputs[1:]:
        np.testing.assert_array_equal(output, outputs[0])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("poison", POISONS)
def test_infinities_stay_where_they_belong(library, kind, poison):
    """What is outside a matrix is zeros in a tile, and multiplied by zeros alone."""
    shape = {**LAYER, "H": 19, "W": 21, "C": 32, "K": 24, "depthwise_activation": ("gelu", 0.2)}
    dtype, math, _ = KINDS[kind]
    case = poisoned_case(shape, dtype, poison)
    compare_poisoned(layer_shim.compute(library, case, dtype, path=PATH, math=math)[0], case, dtype)


@pytest.mark.parametrize("kind", ["float16", "tf32"])
def test_z_is_read_once(library, kind):
    """With an L2 that P and the rows of some tiles fit in, but not Z."""
    shape = {**dict(zip("NHWCMKRS", (1, 32, 32, 64, 1, 384, 3, 3))), "seed": 1}
    z, p = (size * 16 // KINDS[kind][2] for size in (32 * 32 * 64, 64 * 384))
    library.handle.dwsconv_shim_l2(ctypes.c_int64(p + z // 2))
    compare(library, shape, kind)
    library.handle.dwsconv_shim_dram_bytes.restype = ctypes.c_int64
    read = library.handle.dwsconv_shim_dram_bytes()
    library.handle.dwsconv_shim_l2(ctypes.c_int64(0))
    # X is counted where the depthwise half copies it to shared memory: that of 16 bits does.
    all_of_it = z + p + (0 if kind == "tf32" else z)
    assert all_of_it <= read <= 1.05 * all_of_it


@pytest.mark.parametrize(
    "change, dtype, math",
    [
        ({}, "float32", "exact"),
        ({"C": 13}, "float16", "exact"),
        ({"K": 11}, "bfloat16", "exact"),
        ({"K": 12}, "bfloat16", "exact"),
        ({"C": 10}, "float32", "tf32"),
        ({"K": 18}, "float32", "tf32"),
    ],
)
def test_what_it_is_not_for_is_an_error(library, change, dtype, math):
    check_path_refused(library, PATH, {**LAYER, "C": 16, "K": 16, **change}, dtype, {"math": math})


@pytest.mark.parametrize("kind", KINDS)
def test_pointers_that_are_askew_are_an_error(library, kind):
    shape = {**LAYER, "H": 5, "W": 5, "C": 16, "K": 16}
    with pytest.raises(ValueError, match=f"path {PATH} takes pointers that are multiples of 16 bytes"):
        compare(library, shape, kind, offset=16 // KINDS[kind][2])


def filters_alone(rng, numbers, channels: int = 64, filters: int = 32) -> tuple:
    """A case whose Z are these numbers: the depthwise filter has a tap of 1 in its middle."""
    d = np.zeros((3, 3, channels, 1))
    d[1, 1] = 1
    x = numbers((1, 9, 15, channels)).astype(np.float32).astype(np.float64)
    p = rng.standard_normal((1, 1, channels, filters)).astype(np.float32).astype(np.float64)
    return x, reference.Layer(d, p), None


def bits_of(values, low: int):
    """Floats with something added to their bits, then without the low 13."""
    bits = (values.astype(np.float32).view(np.uint32) + np.uint32(low)) & np.uint32(0xFFFFE000)
    return bits.view(np.float32).astype(np.float64)


def test_floats_filter_is_rounded_and_z_is_cut_off(library):
    """P to the nearest of TF32, as the other product does; what the instruction reads of Z has 10 bits of mantissa."""
    rng = np.random.default_rng(0)
    for numbers in (lambda size: rng.integers(-8, 9, size), rng.standard_normal):
        x, layer, _ = case = filters_alone(rng, numbers)
        p = bits_of(layer.pointwise_filter[0, 0], 0x1000)
        expected = bits_of(x, 0) @ p
        actual = layer_shim.compute(library, case, "float32", path=PATH, math="tf32")[0]
        np.testing.assert_allclose(actual, expected, rtol=0, atol=2e-5)
        assert np.abs(bits_of(x, 0) @ layer.pointwise_filter[0, 0] - expected).max() > 1e-3


def test_a_filter_may_be_askew_where_it_is_transposed(library):
    """The kernel reads the transpose alone, which is in the workspace."""
    case = filters_alone(np.random.default_rng(0), np.random.default_rng(1).standard_normal)
    call = call_of(library, *case, "float32", path=PATH, math="tf32")
    outputs = []
    for offset in (0, 4):
        fenced = {
            name: Fenced(array.astype(np.float32), offset * (name == "p")) for name, array in tensors_of(*case).items()
        }
        y, workspace = (aligned(size) for size in (int(np.prod(call.plan.output)), call.plan.workspace_bytes // 4))
        addresses = {name: fence.address for name, fence in fenced.items()}
        call.run(**addresses, y=y.ctypes.data, workspace=workspace.ctypes.data)
        outputs.append(y)
        for fence in fenced.values():
            fence.close()
    np.testing.assert_array_equal(*outputs)


def aligned(count: int) -> np.ndarray:
    memory = np.full(count + 64, np.nan, np.float32)
    return memory[-(memory.ctypes.data // 4) % 64 :][:count]


def test_other_cards_do_not_have_it_and_nobody_gets_it_unasked(library):
    """Where the library has no code for 9.0a the planner takes it by name alone."""
    try:
        for name, numbers in cards.CARDS.items():
            cards.card(library, *numbers)
            for size, channels, filters in ((7, 1024, 1024), (14, 512, 512), (56, 128, 128), (56, 96, 384)):
                shapes = (128, size, size, channels), (3, 3, channels, 1), (1, 1, channels, filters)
                for dtype, math, _ in KINDS.values():
                    options = {"dtype": dtype, "math": math}
                    assert PATH not in Call(library, *shapes, **options).plan.text
                    if numbers[0] == 90:
                        word = "tf32 window" if math == "tf32" else "tensor"
                        assert Call(library, *shapes, path=PATH, **options).plan.text == f"{PATH} {word}"
                        continue
                    with pytest.raises(ValueError, match=rf"path {PATH} needs a card of compute capability 9\.0"):
                        Call(library, *shapes, path=PATH, **options)
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


@pytest.mark.parametrize("kind", KINDS)
def test_the_planner_takes_it_on_a_card_with_such_code(chooses, kind):
    dtype, math, vector = KINDS[kind]
    deep = {**DEEP, "N": 16} if kind == "tf32" else DEEP
    plan = Call(chooses, *(deep_shapes(deep)), dtype, math=math).plan
    assert plan.text.startswith(PATH + " ")
    odd = layer_shim.compare(chooses, {**DEEP, "C": 512 - vector // 2}, dtype, math)
    assert odd.text.startswith("two_step ")
    named = layer_shim.compare(chooses, DEEP, dtype, math, path="two_step")
    assert named.text.startswith("two_step ")


def test_exact_floats_and_small_products_do_not_take_it(chooses):
    """Where a product is small, the filter's transposition would take more than it saves."""
    assert PATH not in Call(chooses, *deep_shapes({**DEEP, "N": 128}), "float32").plan.text
    assert PATH not in Call(chooses, *deep_shapes({**DEEP, "N": 1, "C": 64}), "float32", math="tf32").plan.text


def deep_shapes(shape: dict) -> tuple:
    letters = [shape[letter] for letter in "NHWCK"]
    return tuple(letters[:4]), (3, 3, letters[3], 1), (1, 1, *letters[3:])


@pytest.mark.parametrize("kind", ["float16", "tf32"])
def test_pointers_that_it_does_not_take_go_to_the_other_product(chooses, kind):
    """The planner does not see pointers. A path that was named is an error there (above)."""
    dtype, math, vector = KINDS[kind]
    cheap = (ctypes.c_double * 8)(69, 1120, 2, 2.83, 1570, 3.16, 700, 700)  # so that a small layer takes it
    chooses.handle.dwsconv_cuda_set_rates(cheap)
    try:
        plan = layer_shim.compare(chooses, DEEP, dtype, math, offset=16 // vector)
        assert plan.text.startswith(PATH + " ")
    finally:
        chooses.handle.dwsconv_cuda_set_rates(None)


def test_products_of_blocks_take_it_too(chooses):
    block = cuda_block_cases.make("dnp", "float16", n=1, h=7, w=7, c=136, k=264, window=(7, 7))
    assert block_shim.compare(BlockLibrary(build_shim()), block, "exact").endswith("pointwise wgmma")


def test_last_products_of_blocks_take_it_in_tf32(chooses):
    """An expansion's filter has no place for its transpose; the last one's pays where there is much to multiply."""
    small = cuda_block_cases.make("dnp", "float32", n=1, h=7, w=7, c=136, k=264, window=(7, 7))
    assert block_shim.compare(BlockLibrary(build_shim()), small, "tf32").endswith("pointwise, tf32")
    rates = (ctypes.c_double * 8)(69, 1120, 2, 2.83, 1570, 0.01, 700, 320)
    chooses.handle.dwsconv_cuda_set_rates(rates)
    try:
        assert block_shim.compare(BlockLibrary(build_shim()), small, "tf32").endswith("pointwise wgmma, tf32")
        expands = cuda_block_cases.make("ednp", "float32", n=1, h=7, w=7, c=136, k=264)
        text = block_shim.compare(BlockLibrary(build_shim()), expands, "tf32")
        assert text.startswith("expand product, ") and text.endswith("pointwise wgmma, tf32")
    finally:
        chooses.handle.dwsconv_cuda_set_rates(None)
