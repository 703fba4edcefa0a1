"""The depthwise kernels on tensor cores, on the CPU: cuda/depthwise/tensor_kernel.cuh, backward/filter_kernel.cuh."""

from __future__ import annotations

import ctypes

import cuda_backward_cases as cases
import cuda_cases
import numpy as np
import pytest
import reference
import test_cuda_backward_shim as backward_shim
import test_cuda_cards as cards
import test_cuda_shim as layer_shim
from cuda_backward_library import BackwardLibrary
from cuda_shim_support import POISONS, build_shim, compare_poisoned, conflicts, poisoned_case, repairs  # noqa: F401

SIXTEEN = ("float16", "bfloat16")
WINDOWS = ((3, 1), (5, 1), (5, 2))
LAYER = {**dict(zip("NHWCMKRS", (2, 13, 18, 72, 1, 40, 3, 3))), "depthwise_bias": True, "bias": True, "seed": 3}


@pytest.fixture(scope="module")
def library():
    return BackwardLibrary(build_shim())


def windowed(window: int, stride: int, **sizes) -> dict:
    return {**LAYER, "R": window, "S": window, "strides": (stride, stride), **sizes}


def forward(library, shape, dtype, **options):
    plan = layer_shim.compare(library, shape, dtype, path="two_step", **options)
    assert plan.text.split(",")[0] == "two_step tensor"


def gradients(library, shape, dtype, **options):
    plan = backward_shim.compare(library, shape, dtype, path="steps", **options)
    assert plan.text.startswith("steps tensor")
    return plan


@pytest.mark.parametrize("dtype", SIXTEEN)
@pytest.mark.parametrize("window, stride", WINDOWS)
def test_ends_of_tiles(library, conflicts, window, stride, dtype):
    """Columns, 8 of a tile; tiles, two of a warp; channels, 16 of a warp and up to 64 of a block."""
    at = 0
    for width in (1, 7, 8, 9, 16, 31):
        for channels in (8, 16, 24, 40, 72, 136):
            at += 1
            if (at + window + stride) % 3 != 0:
                continue
            shape = windowed(window, stride, N=1 + at % 3, H=1 + at * 5 % 11, W=width, C=channels, K=8 * (1 + at % 3),
                             seed=at, depthwise_bias=at % 2 == 0)  # fmt: skip
            shape["depthwise_activation"] = (cuda_cases.WORDS[at % 9], 0.2)
            forward(library, shape, dtype, order=at % 8, blocks=at % 4)
            gradients(library, shape, dtype, order=at % 8, blocks=at % 4)
    assert conflicts() == 0


@pytest.mark.parametrize("padding", ["VALID", ((0, 1), (1, 3)), ((2, 2), (0, 0)), ((6, 0), (0, 9))])
@pytest.mark.parametrize("window, stride", WINDOWS)
def test_paddings(library, window, stride, padding):
    shape = windowed(window, stride, N=1, H=9, W=12, C=24, padding=padding)
    forward(library, shape, "float16")
    gradients(library, shape, "float16")


def test_layouts(library):
    forward(library, {**LAYER, "data_format": "NCHW"}, "float16")
    gradients(library, {**LAYER, "data_format": "NCHW"}, "bfloat16")


@pytest.mark.parametrize("channels", [8, 24, 72])
def test_same_bits_in_any_order(library, channels):
    """However early copies come, whichever warp is ahead, and however many items a block has."""
    shape = {**LAYER, "C": channels, "H": 20, "W": 23}
    case, _, y, grad = backward_shim.made(shape, "float16")
    results = []
    for order in range(6):
        options = {"order": order, "blocks": order % 4}
        z = layer_shim.compute(library, case, "float16", path="two_step", **options)[0]
        both = backward_shim.compute(
            library, case, "float16", grad=grad, y=y, wanted=("x", "d"), path="steps", **options
        )
        results.append((z, both[0]["x"], both[0]["d"]))
    for result in results[1:]:
        for actual, expected in zip(result, results[0]):
            np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("dtype", SIXTEEN)
@pytest.mark.parametrize("window, stride", WINDOWS)
@pytest.mark.parametrize("poison", POISONS)
def test_infinities_stay_where_they_belong(library, window, stride, dtype, poison):
    """An infinite input is multiplied by the zeros beside a diagonal, an infinite tap by zeros around the image."""
    shape = windowed(window, stride, H=19, W=21, C=40, K=24, depthwise_activation=("gelu", 0.2))
    case, before = poisoned_case(shape, dtype, poison), repairs(library)
    compare_poisoned(layer_shim.compute(library, case, dtype, path="two_step")[0], case, dtype)
    assert repairs(library) > before


@pytest.mark.parametrize("window, stride", WINDOWS)
@pytest.mark.parametrize("where", ["x", "grad", "tap"])
def test_gradients_leave_out_what_is_outside(library, window, stride, where):
    """An infinity at a corner meets zeros around the image, and past its last column: the formula has neither."""
    shape = {**windowed(window, stride, N=2, H=11, W=13, C=24, K=16), "depthwise_bias": False, "bias": False}
    rng = np.random.default_rng(0)
    x, layer, residual = reference.random_case(rng, cuda_cases.NUMPY["float16"], shape)
    grad = cases.random_gradient(rng, x, layer, residual, cuda_cases.NUMPY["float16"])
    if where == "x":
        x[0, 0, 0, 3], x[1, 10, 12, 5] = np.inf, -np.inf
    elif where == "grad":
        grad[0, 0, 0, 3], grad[1, -1, -1, 5] = np.inf, -np.inf
    else:
        layer.depthwise_filter[0, 0, 5, 0], layer.depthwise_filter[-1, -1, 7, 0] = np.inf, -np.inf
    with np.errstate(invalid="ignore"):
        expected, y, grad = cases.backward(x, layer, residual, grad, cuda_cases.NUMPY["float16"])
    wanted = ("x", "d")
    actual, plan = backward_shim.compute(
        library, (x, layer, residual), "float16", grad=grad, y=y, wanted=wanted, path="steps"
    )
    assert plan.text.startswith("steps tensor")
    for name in wanted:
        values = expected.values[name]
        finite = np.isfinite(values)
        assert finite.any()
        np.testing.assert_array_equal(np.isnan(actual[name].astype(np.float64)), np.isnan(values), name)
        np.testing.assert_allclose(actual[name].astype(np.float64)[finite], values[finite], rtol=0.02, atol=0.1)
    assert not all(np.isfinite(expected.values[name]).all() for name in wanted)


def test_sectors_are_read_once(library):
    """A block copies whole lines, of which neighbours' columns are in L2: X comes from DRAM once."""
    shape = {**LAYER, "N": 1, "H": 32, "W": 32, "C": 64, "K": 8}
    x, z = (32 * 32 * 64 * 2,) * 2
    library.handle.dwsconv_shim_l2(ctypes.c_int64(x // 2))
    forward(library, shape, "float16")
    library.handle.dwsconv_shim_dram_bytes.restype = ctypes.c_int64
    read = library.handle.dwsconv_shim_dram_bytes()
    library.handle.dwsconv_shim_l2(ctypes.c_int64(0))
    assert x + z <= read <= 1.1 * (x + z)


@pytest.mark.parametrize(
    "change, dtype, word",
    [({"C": 20}, "float16", "window"), ({"strides": (2, 2)}, "float16", "window"), ({}, "float32", "window"),
     ({"R": 2}, "bfloat16", "general"), ({"M": 2}, "float16", "general")],
)  # fmt: skip
def test_others_take_what_it_does_not(library, change, dtype, word):
    shape = {**LAYER, **change}
    assert layer_shim.compare(library, shape, dtype, path="two_step").text == f"two_step {word}"
    assert backward_shim.compare(library, shape, dtype, path="steps").text.startswith(f"steps {word}")


def test_older_cards_and_pointers_that_are_askew(library):
    """Before 8.0 there is no such kernel; where pointers are no vectors a plan that has it takes the ones for words."""
    try:
        cards.card(library, *cards.CARDS["T4"])
        assert layer_shim.compare(library, LAYER, "float16", path="two_step").text == "two_step window"
    finally:
        cards.card(library)
    forward(library, LAYER, "float16", offset=4)
    gradients(library, LAYER, "float16", offset=4, aligned=True)
    gradients(library, LAYER, "float16", offset=2, aligned=True)
