"""Few channels with several multipliers, and windows that are large or one-dimensional: forward, block and gradient, on
every instruction set, against float64; which path ran, by the plan and the library's counters.
"""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
import reference
from conftest import op_calls
from gradient_cases import check_against_float64
from native_support import ISAS, arrays, guarded, tolerance

from tf_dwsconv import native
from tf_dwsconv._tf import library as _library

LANES = {"generic": 4, "avx2": 8, "avx512": 16}
LANES["amx"] = LANES[[isa for isa in ISAS if isa != "amx"][-1]]  # whose vectors are beside the tiles
GRADIENT_QUANTUM = 16  # floats that channels are padded to in the gradient's scratch, whatever the vectors


def fills_vectors_better(channels, multiplier, lanes):
    """The rule, restated: at least a fifth fewer vectors when the multipliers of all channels share them."""
    apart, together = multiplier * -(-channels // lanes), -(-channels * multiplier // lanes)
    return multiplier > 1 and together <= 0.8 * apart


def shape_of(sizes, **more):
    return {**dict(zip("NHWCMKRS", sizes)), "depthwise_bias": True, "bias": True, **more}


def check(shape, dtype="float32", isa=None, plan=None, threads=2):
    """native against float64, within its bytes; returns the output."""
    case, x, tensors, residual = arrays(shape, dtype)
    expected = reference.forward(*case)
    out, check_guards = guarded(expected.shape, x.dtype)
    native.depthwise_sep_conv2d(x, residual=residual, out=out, isa=isa, plan=plan, num_threads=threads, **tensors)
    check_guards()
    assert np.abs(out.astype(np.float64) - expected).max(initial=0.0) <= tolerance(case, expected, dtype)
    return out


def plan_of(shape, isa, **more):
    n, h, w, c, m, k, r, s = (shape[letter] for letter in "NHWCMKRS")
    options = {name: shape[name] for name in ("strides", "padding", "dilations") if name in shape}
    return native.plan((n, h, w, c), (r, s, c, m), (1, 1, c * m, k), isa=isa, **options, **more)


# Around the rule's limits for 4, 8 and 16 lanes, and products that fill no whole vector.
PAIRS = (
    *((1, m) for m in (2, 3, 4, 7, 8, 9, 15, 16, 17, 33)),
    *((2, m) for m in (2, 5, 8)),
    *((3, m) for m in (2, 3, 8, 11)),
    *((4, 2), (4, 3), (5, 2), (5, 5), (7, 2), (8, 2), (8, 3), (9, 2), (9, 3), (12, 2), (13, 2), (16, 2), (17, 3)),
)


@pytest.mark.parametrize("isa", ISAS)
def test_which_channels_are_repeated(isa):
    told = [plan_of(shape_of((1, 6, 7, c, m, 5, 3, 3)), isa)["repeats"] for c, m in PAIRS]
    assert told == [fills_vectors_better(c, m, LANES[isa]) for c, m in PAIRS]
    assert any(told) and not all(told)
    # One multiplier has nothing to repeat, and what a pixel reads has to stay small.
    assert not plan_of(shape_of((1, 6, 7, 3, 1, 5, 3, 3)), isa)["repeats"]
    large = shape_of((1, 300, 300, 1, 8, 5, 3, 3), dilations=(120, 120))
    assert not plan_of(large, isa)["repeats"]
    assert plan_of({**large, "dilations": (20, 20)}, isa)["repeats"]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("channels, multiplier", PAIRS)
def test_repeated_channels(isa, channels, multiplier):
    check(shape_of((2, 6, 11, channels, multiplier, 9, 3, 3), seed=channels), isa=isa)


GEOMETRIES = {
    "strides": {"strides": (2, 1)},
    "strides along the width": {"strides": (1, 3), "padding": "VALID"},
    "dilations": {"dilations": (2, 3)},
    "strides and dilations": {"strides": (2, 2), "dilations": (1, 2)},
    "padding": {"padding": ((0, 4), (5, 0))},
    "activations": {"depthwise_activation": ("silu", 0.2), "activation": ("relu6", 0.2), "residual": True},
    "clamp": {"depthwise_activation": ("relu6", 0.2)},
    "channels first": {"data_format": "NCHW", "residual": True},
}


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_geometries_of_repeated_channels(isa, geometry, dtype):
    for channels, multiplier in ((1, 8), (3, 5), (1, 2)):
        shape = shape_of((2, 9, 12, channels, multiplier, 5, 3, 4), **GEOMETRIES[geometry])
        assert plan_of({**shape, "data_format": "NHWC"}, isa, dtype=dtype)["repeats"]
        check(shape, dtype, isa)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("sizes", [(3, 7, 13, 1, 8, 6, 3, 3), (3, 7, 13, 1, 2, 6, 3, 5), (3, 5, 13, 3, 5, 6, 1, 9)])
def test_bits_do_not_depend_on_blocks_threads_or_batch(isa, sizes):
    shape = shape_of(sizes)
    first = check(shape, isa=isa, threads=1)
    blocks = {"block_channels": sizes[5], "stream": False}
    for pixels in (1, 5, 13, 20, 26, 40, 91):
        if pixels > sizes[1] * sizes[2]:
            continue
        again = check(shape, isa=isa, plan={"block_pixels": pixels, "threads": 3, **blocks}, threads=3)
        np.testing.assert_array_equal(again, first)
    _, x, tensors, _ = arrays(shape)
    for n in range(sizes[0]):
        np.testing.assert_array_equal(native.depthwise_sep_conv2d(x[n : n + 1], isa=isa, **tensors)[0], first[n])


WINDOWS = {
    "a row": ((2, 3, 70, 3, 1, 5, 1, 64), {}),
    "a row, valid": ((2, 3, 70, 9, 1, 5, 1, 64), {"padding": "VALID"}),
    "a row, repeated": ((1, 3, 70, 1, 8, 8, 1, 64), {}),
    "a row of packed pixels": ((1, 3, 70, 1, 2, 5, 1, 33), {}),
    "a column": ((2, 70, 5, 8, 2, 6, 64, 1), {}),
    "a column, valid": ((2, 64, 9, 8, 2, 6, 64, 1), {"padding": "VALID"}),
    "9x9": ((1, 13, 21, 20, 1, 6, 9, 9), {}),
    "larger than the picture": ((1, 6, 5, 11, 1, 4, 15, 13), {}),
    "15x15 at stride 2": ((1, 20, 23, 9, 1, 4, 15, 15), {"strides": (2, 2)}),
    "stride and dilation alike": ((1, 20, 40, 5, 1, 4, 2, 9), {"strides": (1, 2), "dilations": (1, 2)}),
    "dilated": ((1, 12, 31, 5, 1, 4, 4, 6), {"dilations": (2, 3)}),
    "31x31": ((1, 33, 34, 17, 1, 4, 31, 31), {}),
}


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", WINDOWS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_windows(isa, name, dtype):
    sizes, more = WINDOWS[name]
    shape = shape_of(sizes, **more)
    whole = check(shape, dtype, isa)
    # In pieces of a row a pixel falls into other groups: the same bits.
    plan = {"block_pixels": 3, "block_channels": sizes[5], "threads": 1, "stream": False}
    np.testing.assert_array_equal(check(shape, dtype, isa, plan), whole)


@pytest.mark.parametrize("isa", ISAS)
def test_taps_outside_are_left_out(isa):
    """A NaN in the filter reaches the outputs that read the tap inside the picture, in groups of pixels too."""
    x = np.ones((1, 1, 40, 3), np.float32)
    depthwise, pointwise = np.ones((1, 24, 3, 1), np.float32), np.ones((1, 1, 3, 2), np.float32)
    for tap in (0, 11, 12, 23):
        broken = depthwise.copy()
        broken[0, tap] = np.nan
        y = native.depthwise_sep_conv2d(x, broken, pointwise, isa=isa)
        inside = (np.arange(40) - 11 + tap >= 0) & (np.arange(40) - 11 + tap < 40)
        np.testing.assert_array_equal(np.isnan(y[0, 0, :, 0]), inside)


def test_ladder_takes_few_channels():
    shape = shape_of((1, 6, 7, 1, 8, 5, 3, 3))
    case, x, tensors, _ = arrays(shape)
    expected = reference.forward(*case)
    layer = native.Layer(**tensors, variant="simd")
    np.testing.assert_allclose(layer(x), expected, atol=tolerance(case, expected, "float32"))


def repeated_calls():
    count = ctypes.CDLL(_library.load().path).dwsconv_backward_repeated_calls
    count.restype = ctypes.c_int64
    return count()


@pytest.fixture
def gradient_isa(request, op_library, monkeypatch):
    """Forces one instruction set; the native gradient of the test has to run on it, and on it alone."""
    monkeypatch.setenv("DWSCONV_ISA", request.param)
    before = op_calls("dwsconv_backward_calls")
    yield request.param
    after = op_calls("dwsconv_backward_calls")
    assert {isa for isa in after if after[isa] > before[isa]} == {request.param}


@pytest.mark.parametrize("gradient_isa", ISAS, indirect=True)
@pytest.mark.parametrize("channels, multiplier", [(1, 2), (1, 8), (1, 33), (3, 8), (5, 3), (8, 2), (9, 2), (16, 2)])
def test_gradient_of_repeated_channels(gradient_isa, channels, multiplier):
    before = repeated_calls()
    check_against_float64(shape_of((2, 7, 9, channels, multiplier, 6, 3, 3), residual=True), "float32", 1e-4)
    assert repeated_calls() - before == fills_vectors_better(channels, multiplier, GRADIENT_QUANTUM)


@pytest.mark.parametrize("gradient_isa", ISAS, indirect=True)
@pytest.mark.parametrize("dtype, allowed", [("float32", 1e-4), ("bfloat16", 0.03), ("float16", 0.004)])
def test_gradient_geometries(gradient_isa, dtype, allowed):
    before = repeated_calls()
    for name, geometry in GEOMETRIES.items():
        smooth = {"depthwise_activation": ("tanh", 0.2), "activation": ("silu", 0.2)} if "activation" in name else {}
        shape = shape_of((2, 9, 12, 3, 4, 5, 3, 4), **{**geometry, **smooth})
        if name != "clamp":
            check_against_float64(shape, dtype, allowed)
    assert repeated_calls() - before == len(GEOMETRIES) - 1


@pytest.mark.parametrize("gradient_isa", ISAS, indirect=True)
def test_gradient_of_blocks_of_repeated_channels(gradient_isa):
    """More columns than one block takes: every multiplier of a channel is in the same one."""
    for channels, multiplier in ((12, 20), (5, 67)):
        check_against_float64(shape_of((1, 5, 6, channels, multiplier, 7, 3, 3)), "float32", 1e-4)


@pytest.mark.parametrize("gradient_isa", ISAS, indirect=True)
@pytest.mark.parametrize("name", WINDOWS)
def test_gradient_of_windows(gradient_isa, name):
    sizes, more = WINDOWS[name]
    check_against_float64(shape_of(sizes, **more), "float32", 2e-4)
