"""The fused kernel for deep layers (cuda/fused/deep_kernel.cuh), on the CPU."""

from __future__ import annotations

import ctypes

import cuda_cases
import numpy as np
import pytest
import reference
import test_cuda_cards as cards
import test_cuda_shim as layer_shim
from cuda_library import Call, Library
from cuda_shim_support import (
    POISONS,
    build_shim,
    check_path_refused,
    compare_poisoned,
    conflicts,  # noqa: F401
    poisoned_case,
)
from test_cuda_shim import LAYER

# Element types with how they are multiplied: on tensor cores always.
KINDS = tuple(kind for kind in cuda_cases.KINDS if kind != ("float32", "exact"))
TILES = ((4, 16), (4, 24), (4, 32))


@pytest.fixture(scope="module")
def library():
    return Library(build_shim())


def compare(library, shape, dtype, math="exact", **options):
    plan = layer_shim.compare(library, shape, dtype, math, path="deep", **options)
    assert plan.text.startswith("deep tf32 tile" if math == "tf32" else "deep tile")
    assert plan.workspace_bytes == 0 or "transposed" in plan.text  # Z is in no memory
    return plan


@pytest.mark.parametrize("dtype, math", KINDS)
@pytest.mark.parametrize("window, stride", cuda_cases.WINDOWS)
def test_every_kernel(library, conflicts, window, stride, dtype, math):
    """One layer that is no multiple of anything but vectors, with more than one panel of P; then one of no vectors."""
    shape = {**LAYER, "N": 2, "H": 11, "W": 19, "R": window, "S": window, "strides": (stride, stride),
             "depthwise_activation": ("relu6", 0.2), "activation": ("gelu", 0.2), "residual": True}  # fmt: skip
    compare(library, {**shape, "K": 136}, dtype, math, order=7)
    if window < 7:
        compare(library, {**shape, "K": 264}, dtype, math, order=6, groups=2)
    compare(library, {**shape, "C": 13, "K": 11}, dtype, math, order=5)
    assert conflicts() == 0


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (4, 4), (7, 7), (6, 14)])
def test_tiles_go_on_through_images(library, tile, groups, size):
    """Images of a part of a patch, of some patches, and tiles that begin and end within one."""
    shape = {**LAYER, **dict(zip("HW", size)), "N": 1 + 140 // (size[0] * size[1]), "C": 8, "K": 8, "residual": True}
    compare(library, shape, "float16", tile=tile, groups=groups, order=3, blocks=2)


def test_random_layers(library, conflicts):
    """Sizes, paddings, layouts, alignments and activations as of the other fused kernel's test."""
    ran = 0
    for seed in range(60):
        shape, dtype, math, path, _ = cuda_cases.draw_case(seed)
        if path != "stream":
            continue
        if (dtype, math) not in KINDS:
            dtype, math = KINDS[seed % 3]
        cut = {"tile": (None, *TILES)[seed % 4], "groups": seed % 3 if shape["R"] == 3 and seed % 4 < 3 else 0}
        compare(library, shape, dtype, math, **cut, order=seed % 8, blocks=seed % 4, offset=seed % 2 * 2,
                in_place=seed % 5 == 0)  # fmt: skip
        ran += 1
    assert ran >= 18
    assert conflicts() == 0


@pytest.mark.parametrize("activation", cuda_cases.WORDS)
def test_every_activation(library, activation):
    for dtype, math in KINDS:
        shape = {**LAYER, "H": 9, "W": 9, "activation": (activation, 0.3), "depthwise_activation": (activation, 0.3)}
        compare(library, shape, dtype, math)


@pytest.mark.parametrize("dtype, math", KINDS)
def test_the_bits_are_those_of_two_steps_however_it_is_cut(library, dtype, math):
    shape = {**LAYER, "N": 2, "C": 140, "K": 160, "activation": ("gelu", 0.2), "residual": True, "H": 10, "W": 13}
    case = reference.random_case(np.random.default_rng(0), cuda_cases.NUMPY[dtype], shape)
    cuts = (
        {"path": "two_step"},
        {},
        {"tile": (4, 16), "groups": 1, "order": 5},
        {"tile": (4, 24), "groups": 2, "blocks": 2},
        {"tile": (4, 32), "groups": 1, "blocks": 1, "order": 1},
        {"offset": np.dtype(cuda_cases.NUMPY[dtype]).itemsize},  # by elements
    )
    outputs = [layer_shim.compute(library, case, dtype, math=math, **{"path": "deep", **cut})[0] for cut in cuts]
    for output in outputs[1:]:
        np.testing.assert_array_equal(output, outputs[0])


@pytest.mark.parametrize("dtype, math", KINDS)
@pytest.mark.parametrize("window, stride", cuda_cases.WINDOWS)
@pytest.mark.parametrize("poison", POISONS)
def test_infinities_stay_where_they_belong(library, dtype, math, window, stride, poison):
    """Channels past C are zeros in Z, and taps outside the image are left out."""
    shape = {**LAYER, "H": 19, "W": 21, "K": 24, "R": window, "S": window, "strides": (stride, stride),
             "depthwise_activation": ("gelu", 0.2)}  # fmt: skip
    case = poisoned_case(shape, dtype, poison)
    compare_poisoned(layer_shim.compute(library, case, dtype, math=math, path="deep")[0], case, dtype)


def test_p_comes_from_dram_once(library):
    """With an L2 that P fits in: every tile reads it from there."""
    shape = {**LAYER, "H": 20, "W": 20, "C": 64, "K": 256, "bias": False, "depthwise_bias": False}
    library.handle.dwsconv_shim_l2(ctypes.c_int64(3 * 64 * 256))
    compare(library, shape, "float16", tile=(4, 16))
    library.handle.dwsconv_shim_dram_bytes.restype = ctypes.c_int64
    read = library.handle.dwsconv_shim_dram_bytes()
    library.handle.dwsconv_shim_l2(ctypes.c_int64(0))
    assert read == 2 * 64 * 256


@pytest.mark.parametrize(
    "change, dtype, options",
    [
        ({}, "float32", {}),
        ({"M": 2}, "float16", {}),
        ({"R": 4}, "float16", {}),
        ({"dilations": (2, 2)}, "float16", {}),
        ({"K": 4097}, "float16", {}),
        ({}, "float16", {"tile": (8, 16)}),
        ({}, "float16", {"groups": 3}),
        ({}, "float16", {"segments": 2}),
        ({"C": 1600}, "float16", {}),
        ({"R": 7, "S": 7}, "float16", {"tile": (4, 32), "groups": 2}),
    ],
)
def test_what_does_not_fit_is_an_error(library, change, dtype, options):
    check_path_refused(library, "deep", {**LAYER, **change}, dtype, options)


@pytest.mark.parametrize("name", ["A100", "H100", "H200"])
def test_the_planner_chooses_it_by_its_model(library, name):
    """The path with the least modelled time is the plan: for deep layers it is this one, where a block has room."""
    chosen = {}
    layers = ((28, 256, 256, 128), (14, 512, 512, 128), (56, 128, 128, 128), (7, 1024, 1024, 128), (14, 512, 512, 1))
    try:
        cards.card(library, *cards.CARDS[name])
        for size, channels, filters, batch in layers:
            shapes = (batch, size, size, channels), (3, 3, channels, 1), (1, 1, channels, filters)
            times = {}
            for path in ("stream", "tensor_stream", "two_step", "deep"):
                try:
                    times[path] = Call(library, *shapes, "float16", path=path).plan.modelled_us
                except ValueError:
                    assert path != "two_step"
            if size == 56:  # P is small: the other fused kernels' layer, whatever the model says
                del times["deep"]
            plan = Call(library, *shapes, "float16").plan
            assert plan.modelled_us == min(times.values())
            chosen[size, batch] = plan.text.split()[0].rstrip(",")
            assert times[chosen[size, batch]] == plan.modelled_us
    finally:
        cards.card(library)
    # An H200's memory is fast enough for the other product, which does not stop for P.
    assert chosen[28, 128] == ("two_step" if name == "H200" else "deep")
    assert chosen[14, 1] == chosen[14, 128] == "two_step"


def test_other_cards(library):
    """One with less shared memory runs it on smaller tiles; one before 8.0 has the other kernels."""
    shape = {**LAYER, "H": 9, "C": 264, "depthwise_activation": ("relu", 0.2)}
    try:
        cards.card(library, *cards.CARDS["RTX 3060"])
        assert "tile 4x16" in compare(library, shape, "float16", order=3).text
        with pytest.raises(ValueError, match="path deep has no tile"):
            compare(library, {**shape, "C": 640}, "float16")
        cards.card(library, *cards.CARDS["T4"])
        with pytest.raises(ValueError, match=r"path deep needs a card of compute capability 8\.0"):
            compare(library, shape, "float16")
        assert not layer_shim.compare(library, shape, "float16").text.startswith("deep")
    finally:
        cards.card(library)
