"""The optimization ladder: every step is the same layer. Nothing here is timed."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
import reference
from hypothesis import given, settings
from native_support import DTYPES, ISAS, cast
from strategies import shapes

from tf_dwsconv import native

SCALAR = ("naive", "reordered", "unrolled", "blocked")
VECTOR = ("simd", "openmp", "fused_unblocked", "fused")


def test_the_steps_are_what_the_issue_names():
    assert native.LADDER == SCALAR + VECTOR


def arrays(x, layer, residual, dtype):
    """What `reference.random_case` made, as arguments of `native.depthwise_sep_conv2d`."""
    tensors = {"bias": layer.bias, "depthwise_bias": layer.depthwise_bias, "residual": residual}
    positional = [cast(array, dtype) for array in (x, layer.depthwise_filter, layer.pointwise_filter)]
    return positional, {**{name: cast(array, dtype) for name, array in tensors.items()}, **layer.keywords()}


def allowed(x, layer, residual, expected, dtype):
    """2e-5 of the largest output plus a few roundings of the largest sum; one more rounding for 16-bit outputs."""
    largest = np.abs(expected).max(initial=0.0)
    tolerance = 2e-5 * largest + 4 * np.finfo(np.float32).eps * reference.magnitude(x, layer, residual)
    return tolerance if dtype == "float32" else tolerance + float(ml_dtypes.finfo(DTYPES[dtype]).eps) * largest


def check(variant, shape, dtype="float32", **options):
    x, layer, residual = reference.random_case(np.random.default_rng(shape["seed"]), DTYPES[dtype], shape)
    expected = reference.forward(x, layer, residual)
    positional, keywords = arrays(x, layer, residual, dtype)
    actual = native.depthwise_sep_conv2d(*positional, **keywords, variant=variant, **options)
    assert actual.dtype == DTYPES[dtype] and actual.shape == expected.shape
    error = np.abs(actual.astype(np.float64) - expected).max(initial=0.0)
    # vdpbf16ps and tiles multiply Z as bfloat16, so that each of its terms is rounded.
    info = native.cpu_info()
    if dtype == "bfloat16" and variant in VECTOR and (info["bf16"] or info["bf16_products"] == "tiles"):
        error -= 2**-8 * reference.magnitude(x, layer, residual)
    assert error <= allowed(x, layer, residual, expected, dtype)


@pytest.mark.parametrize("variant", native.LADDER)
@settings(max_examples=60)
@given(shape=shapes())
def test_random_layers(variant, shape):
    check(variant, shape)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("variant", native.LADDER)
@settings(max_examples=15)
@given(shape=shapes())
def test_random_layers_of_16_bits(variant, dtype, shape):
    check(variant, shape, dtype)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("variant", ["simd", "openmp", "fused_unblocked"])
@settings(max_examples=15)
@given(shape=shapes())
def test_vector_steps_on_each_instruction_set(variant, isa, shape):
    before = native.calls()
    check(variant, shape, isa=isa)
    after = native.calls()
    ran = {name for name in after if name != "pack" and after[name] > before[name]}
    assert ran == {"avx512" if isa == "amx" else isa}  # the steps are of vectors


@pytest.mark.parametrize("variant", SCALAR)
def test_scalar_steps_run_no_vector_kernel(variant):
    before = native.calls()
    check(variant, {**BASE, "seed": 1})
    assert native.calls() == before


BASE = {"N": 1, "H": 9, "W": 9, "C": 8, "M": 1, "K": 8, "R": 3, "S": 3}

# Larger than any tile of "blocked" (its X alone fills L1), along each axis that tiles cut.
CUT = {
    "columns": {"W": 67, "H": 5, "C": 200, "K": 10},
    "rows": {"W": 21, "H": 90, "C": 24, "K": 5},
    "images": {"N": 90, "H": 8, "W": 8, "C": 12, "K": 3},
    "channels": {"H": 3, "W": 4, "C": 3001, "K": 4},
    "every channel a tile": {"H": 2, "W": 2, "C": 5, "M": 1200, "K": 2},
    "sums": {"H": 6, "W": 9, "C": 900, "K": 700},
    "pixels": {"H": 70, "W": 70, "C": 4, "K": 4},
}


@pytest.mark.parametrize("attributes", ["plain", "all"])
@pytest.mark.parametrize("name", CUT)
@pytest.mark.parametrize("variant", ["blocked", "simd", "openmp"])
def test_layers_larger_than_a_tile(variant, name, attributes):
    shape = {**BASE, **CUT[name], "seed": 7}
    if attributes == "all":
        shape.update(R=5, S=4, strides=(2, 1), dilations=(1, 2), depthwise_bias=True, bias=True, residual=True)
        shape.update(depthwise_activation=("silu", 0.2), activation=("relu6", 0.2))
    check(variant, shape, num_threads=3)


@pytest.mark.parametrize("width", range(1, 12))
def test_each_unrolled_width(width):
    """Widths of all three versions (even, multiples of five, others), with windows that cross both edges."""
    check("unrolled", {**BASE, "W": 23, "S": width, "C": 5, "M": 2, "seed": width})


@pytest.mark.parametrize("channels", [3, 7, 40])
@pytest.mark.parametrize("variant", ["openmp", "fused_unblocked", "fused"])
def test_bits_do_not_depend_on_threads(variant, channels):
    shape = {**BASE, "N": 2, "H": 33, "W": 35, "C": channels, "K": 19, "residual": True}
    case = reference.random_case(np.random.default_rng(3), np.float32, shape)
    positional, keywords = arrays(*case, "float32")
    results = [
        native.depthwise_sep_conv2d(*positional, **keywords, variant=variant, num_threads=threads)
        for threads in (1, 2, 3, 8)
    ]
    for result in results[1:]:
        np.testing.assert_array_equal(result.view(np.uint32), results[0].view(np.uint32))


@pytest.mark.parametrize("variant", native.LADDER)
def test_a_layer_keeps_its_own_filters(variant):
    """Also those steps whose filters are not packed."""
    rng = np.random.default_rng(5)
    shape = {**BASE, "depthwise_bias": True, "bias": True}
    x, weights, _ = reference.random_case(rng, np.float32, shape)
    (x32, depthwise, pointwise), keywords = arrays(x, weights, None, "float32")
    keywords.pop("residual")
    layer = native.Layer(depthwise, pointwise, **keywords, variant=variant)
    before = layer(x32)
    for array in (depthwise, pointwise, keywords["bias"], keywords["depthwise_bias"]):
        array.fill(np.nan)
    np.testing.assert_array_equal(layer(x32), before)
    expected = reference.forward(x, weights)
    assert np.abs(before - expected).max() <= allowed(x, weights, None, expected, "float32")


@pytest.mark.parametrize("variant", native.LADDER)
@pytest.mark.parametrize("data_format", ["NHWC", "NCHW"])
def test_residual_may_be_out(variant, data_format):
    shape = {**BASE, "residual": True, "data_format": data_format}
    x, layer, residual = reference.random_case(np.random.default_rng(6), np.float32, shape)
    positional, keywords = arrays(x, layer, residual, "float32")
    out = keywords["residual"]
    assert native.depthwise_sep_conv2d(*positional, **keywords, variant=variant, out=out) is out
    expected = reference.forward(x, layer, residual)
    assert np.abs(out - expected).max() <= allowed(x, layer, residual, expected, "float32")


@pytest.mark.parametrize("variant", native.LADDER)
def test_not_a_number_stays_where_it_is(variant):
    """A NaN in one pixel reaches its 3x3 outputs and no others; one in the filter leaks in from no padding."""
    x = np.ones((1, 9, 9, 5), np.float32)
    x[0, 4, 4, 2] = np.nan
    depthwise = np.ones((3, 3, 5, 1), np.float32)
    pointwise = np.ones((1, 1, 5, 6), np.float32)
    expected = np.zeros((1, 9, 9, 6), bool)
    expected[0, 3:6, 3:6] = True
    y = native.depthwise_sep_conv2d(x, depthwise, pointwise, activation="relu", variant=variant)
    np.testing.assert_array_equal(np.isnan(y), expected)
    depthwise[0] = np.nan  # the row above: in the padding for the first output row
    y = native.depthwise_sep_conv2d(x[:, :2], depthwise, pointwise, variant=variant)
    assert not np.isnan(y[:, 0]).any() and np.isnan(y[:, 1]).all()


@pytest.mark.parametrize("variant", native.LADDER)
@pytest.mark.parametrize("shape", [(0, 9, 9, 4), (2, 0, 9, 4), (2, 9, 0, 4)])
def test_empty_tensors(variant, shape):
    y = native.depthwise_sep_conv2d(
        np.zeros(shape, np.float32),
        np.ones((3, 3, 4, 1), np.float32),
        np.ones((1, 1, 4, 6), np.float32),
        variant=variant,
    )
    assert y.shape == (*shape[:3], 6)


@pytest.mark.parametrize("variant", [*SCALAR, "simd", "openmp"])
def test_no_memory_for_the_intermediate_tensor(variant):
    """A depth multiplier of a million: 64 MB of everything but Z, which would take 16 TB."""
    x = np.zeros((1, 2000, 2000, 1), np.float32)
    depthwise, pointwise = np.zeros((1, 1, 1, 10**6), np.float32), np.zeros((1, 1, 10**6, 1), np.float32)
    with pytest.raises(MemoryError, match="intermediate"):
        native.depthwise_sep_conv2d(x, depthwise, pointwise, variant=variant)


def test_an_unknown_variant_is_refused():
    x, d, p = (np.ones(s, np.float32) for s in ((1, 4, 4, 2), (3, 3, 2, 1), (1, 1, 2, 3)))
    with pytest.raises(ValueError, match=r"variant.*naive.*fused_unblocked.*given_by_nobody"):
        native.depthwise_sep_conv2d(x, d, p, variant="given_by_nobody")
    with pytest.raises(ValueError, match="variant"):
        native.depthwise_sep_conv2d(x, d, p, variant="openmp", plan=native.plan(x.shape, d.shape, p.shape))
