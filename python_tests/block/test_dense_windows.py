"""Dense convolutions whose products read X under their windows, or a copy of its rows with what lies outside."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
import reference
import tensorflow as tf
from conftest import chain_ways
from native_support import ISAS
from program_reference import DTYPES, Builder

from tf_dwsconv import native
from tf_dwsconv._arguments import Attributes, Tensors
from tf_dwsconv._tf import dispatch
from tf_dwsconv.activations import NONE, Fused

pytestmark = pytest.mark.usefixtures("op_library")

N = 2
# Of products, and of results.
EPSILON = {"float32": (2.0**-24, 2.0**-24), "bfloat16": (2.0**-24, 2.0**-8), "float16": (2.0**-24, 2.0**-11)}
INFO = native.cpu_info()


def tile_pixels(isa=INFO["isa"]):
    return 14 if isa in ("avx512", "amx") else 6


def reads(dtype, columns, run):
    """Whether products of this machine's best path read windows of `run` numbers in `columns` output columns."""
    products = INFO["bf16_products"] if dtype == "bfloat16" else "float32"
    if products == "tiles" or (products == "vdpbf16ps" and run % 2):
        return False
    return 2 * min(columns, tile_pixels()) >= tile_pixels()


def bound(dtype, x, dense, y):
    """Each product and each sum of them is rounded once, the result again; hard_swish's slope is at most 1.5."""
    of_sums, of_result = EPSILON[dtype]
    size = dense[..., 0].size
    return 12 * of_sums * np.sqrt(size) * (np.abs(x).max() * np.abs(dense).max() + 1) + 2 * of_result * np.abs(y).max()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "kernel, strides, dilations, padding, wide, run",
    [
        ((3, 3), (2, 2), (1, 1), "SAME", 224, True),
        ((3, 5), (1, 1), (2, 1), ((4, 1), (0, 7)), 60, True),
        ((4, 4), (4, 4), (1, 1), "VALID", 400, True),
        ((9, 9), (1, 1), (1, 1), "SAME", 100, True),
        ((1, 3), (1, 3), (1, 1), ((2, 0), (1, 0)), 250, True),
        ((3, 3), (2, 2), (1, 1), "SAME", 14, True),
        ((3, 3), (2, 2), (1, 1), "SAME", 11, True),  # the fewest columns, or one too few
        ((7, 1), (1, 1), (1, 1), "SAME", 17, True),
        ((3, 3), (1, 1), (1, 2), "SAME", 100, False),  # what lies under a window is no run
    ],
)
def test_which_way_runs(kernel, strides, dilations, padding, wide, run, dtype):
    rng = np.random.default_rng(5)
    for channels, filters in ((3, 40), (17, 9), (4, 33)):
        x, dense = rng.standard_normal((N, 11, wide, channels)), rng.standard_normal((*kernel, channels, filters))
        x, dense = (array.astype(DTYPES[dtype]).astype(np.float64) for array in (x, dense))
        layer = reference.Layer(dense, None, strides=strides, dilations=dilations, padding=padding)
        z = reference.depthwise(x, layer)
        bias, residual = rng.standard_normal(filters), rng.standard_normal((*z.shape[:3], filters))
        bias, residual = (array.astype(DTYPES[dtype]).astype(np.float64) for array in (bias, residual))
        before = z.reshape(*z.shape[:3], channels, filters).sum(3) + bias + residual
        expected = reference.ACTIVATIONS["hard_swish"](before, 0.0)
        explicit = () if isinstance(padding, str) else (0, 0, *padding[0], *padding[1], 0, 0)
        attributes = Attributes(
            strides, dilations, "EXPLICIT" if explicit else padding, explicit, "NHWC", NONE, Fused("hard_swish")
        )
        arrays = {"pointwise_filter": dense, "bias": bias, "residual": residual}
        tensors = Tensors(**{name: tf.constant(array, dtype) for name, array in arrays.items()})
        ways = chain_ways("windows")
        y = np.asarray(dispatch.run(tf.constant(x, dtype), tensors, attributes)).astype(np.float64)
        assert chain_ways("windows") - ways == (run and reads(dtype, z.shape[2], kernel[1] * channels))
        assert np.abs(y - expected).max() <= bound(dtype, x, dense, expected)


def test_the_bits_are_those_of_copied_windows():
    """Six columns are too few for tiles of 14 pixels, so there the two ways meet."""
    rng = np.random.default_rng(6)
    for dtype in ("float32", "float16", *(("bfloat16",) if INFO["bf16_products"] != "tiles" else ())):
        x, dense = rng.standard_normal((1, 9, 30, 6)), rng.standard_normal((3, 5, 6, 37))
        tensors = Tensors(pointwise_filter=tf.constant(dense, dtype))
        attributes = Attributes((1, 1), (1, 1), "SAME", (), "NHWC", NONE, NONE)
        ways, found = chain_ways("windows"), []
        for columns in (30, 6):
            found.append(dispatch.run(tf.constant(x[:, :, :columns], dtype), tensors, attributes).numpy()[:, :, :4])
        assert chain_ways("windows") - ways == (1 if tile_pixels() == 14 else 2)
        assert found[0].tobytes() == found[1].tobytes()


NETWORKS = {  # H, W, C, K, kernel, strides, dilations, padding
    "whole map": (7, 7, 48, 96, (3, 3), (1, 1), (1, 1), "same"),
    "shares of K": (4, 16, 32, 200, (3, 3), (1, 1), (1, 1), "same"),
    "rows": (9, 17, 24, 40, (1, 7), (1, 1), (1, 1), "same"),
    "columns": (17, 9, 24, 40, (7, 1), (1, 1), (1, 1), "same"),
    "parts of rows": (5, 97, 301, 18, (7, 7), (1, 1), (1, 1), "same"),
    "strides": (13, 29, 5, 70, (5, 3), (2, 3), (1, 1), "same"),
    "stride and no window": (12, 31, 20, 33, (1, 1), (2, 2), (1, 1), "same"),
    "inside": (11, 23, 7, 64, (3, 4), (1, 1), (2, 1), "valid"),
    "one-sided": (6, 15, 9, 17, (2, 2), (1, 1), (1, 1), [[0, 1], [1, 0]]),
    "mostly outside": (2, 3, 16, 32, (3, 3), (1, 1), (1, 1), [[5, 4], [9, 8]]),
    "one filter": (10, 20, 64, 1, (3, 3), (1, 1), (1, 1), "same"),
}


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NETWORKS)
def test_on_every_path(name, dtype, isa):
    """The same bits for any number of threads, and for an image by itself."""
    H, W, C, K, kernel, strides, dilations, padding = NETWORKS[name]
    rng = np.random.default_rng(7)
    x = rng.standard_normal((3, H, W, C)).astype(DTYPES[dtype])
    dense = (rng.standard_normal((*kernel, C, K)) * (np.prod(kernel) * C) ** -0.5).astype(DTYPES[dtype])
    b = Builder(dtype)
    geometry = {"strides": list(strides), "dilations": list(dilations), "padding": padding}
    weights = {"pointwise_filter": dense, "bias": rng.standard_normal(K)}
    b.output(b.step("chain", b.input([None, H, W, C]), weights=weights, activation={"word": "hard_swish"}, **geometry))
    net = native.Network.from_program(b.text, b.weights, isa=isa)
    y = net(x, num_threads=1)
    (expected,) = b.expect(x)
    assert np.abs(y.astype(np.float64) - expected).max() <= bound(dtype, x, dense.astype(np.float64), expected)
    for threads in (2, 3, 16):
        assert net(x, num_threads=threads).tobytes() == y.tobytes()
    assert net(x[1:2], num_threads=2).tobytes() == y[1:2].tobytes()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_nan_spoils_the_windows_that_it_is_in(dtype, isa):
    b = Builder(dtype)
    weights = {"pointwise_filter": np.ones((3, 3, 6, 40))}
    b.output(b.step("chain", b.input([None, 10, 18, 6]), weights=weights, padding="same"))
    net = native.Network.from_program(b.text, b.weights, isa=isa)
    x = np.zeros((2, 10, 18, 6), ml_dtypes.bfloat16).astype(DTYPES[dtype])
    wanted = np.zeros((2, 10, 18, 40), bool)
    for n, h, w in ((0, 0, 0), (0, 5, 9), (1, 9, 17), (1, 0, 8)):
        x[n, h, w, h % 6] = np.nan
        wanted[n, max(h - 1, 0) : h + 2, max(w - 1, 0) : w + 2] = True
    assert np.array_equal(np.isnan(net(x, num_threads=2).astype(np.float32)), wanted)
