"""Products of few terms: lines of any number of pixels, panels, vectors and what is left of them."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from native_support import ISAS
from program_reference import DTYPES, Builder

from tf_dwsconv import native

ACTIVATIONS = {
    "none": lambda x: x,
    "relu6": lambda x: np.clip(x, 0, 6),
    "hard_swish": lambda x: x * np.clip(x + 3, 0, 6) / 6,
}


def whole(rng, *shape):
    """Whole numbers and halves, so that sums are exact whatever their order."""
    return rng.integers(-3, 4, shape) / 2


def network(dtype, C, K, activation, isa, rng, **geometry):
    b = Builder(dtype)
    kernel = geometry.pop("kernel", (1, 1))
    dense, bias = whole(rng, *kernel, C, K), whole(rng, K)
    step = b.step(
        "chain",
        b.input([None, None, None, C]),
        weights={"pointwise_filter": dense, "bias": bias},
        activation={"word": activation},
        **geometry,
    )
    b.output(step)
    return native.Network.from_program(b.text, b.weights, isa=isa), dense, bias


def check(y, sums, activation, dtype):
    expected = ACTIVATIONS[activation](sums)
    if activation != "hard_swish":
        np.testing.assert_array_equal(y, expected.astype(DTYPES[dtype]))
        return
    epsilon = float(ml_dtypes.finfo(DTYPES[dtype]).eps)
    assert np.abs(y.astype(np.float64) - expected).max() <= 2 * epsilon * np.abs(sums).max()


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", ISAS)
def test_lines_of_any_length(isa, dtype, activation):
    rng = np.random.default_rng(1)
    for C, K in ((1, 32), (3, 16), (16, 96), (24, 144), (25, 40), (40, 240), (96, 88), (61, 24), (33, 37), (97, 64)):
        net, dense, bias = network(dtype, C, K, activation, isa, rng)
        for pixels in (*range(1, 35), 49, 113):
            x = whole(rng, 1, 1, pixels, C).astype(DTYPES[dtype])
            check(net(x, num_threads=1), x.astype(np.float64) @ dense[0, 0] + bias, activation, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", ISAS)
def test_lines_of_windows(isa, dtype):
    """As a first layer's: 27 terms in three runs, with zeros around the picture."""
    rng = np.random.default_rng(2)
    for K, activation in (
        (16, "relu6"),
        (16, "hard_swish"),
        (32, "none"),
        (48, "relu6"),
        (72, "relu6"),
        (152, "relu6"),
    ):
        geometry = {"kernel": (3, 3), "strides": [2, 2], "padding": "same"}
        net, dense, bias = network(dtype, 3, K, activation, isa, rng, **geometry)
        for columns in (12, 15, 16, 17, 23, 33):
            x = whole(rng, 2, 9, 2 * columns, 3).astype(DTYPES[dtype])
            padded = np.pad(x.astype(np.float64), ((0, 0), (1, 1), (0, 1), (0, 0)))
            sums = bias + sum(
                padded[:, r : r + 9 : 2, s : s + 2 * columns : 2] @ dense[r, s] for r in range(3) for s in range(3)
            )
            check(net(x, num_threads=2), sums, activation, dtype)


@pytest.mark.parametrize("isa", ISAS)
def test_the_bits_are_those_of_large_tiles(isa):
    """Five pixels are too few for small tiles: the order of a sum is the same."""
    rng = np.random.default_rng(3)
    b = Builder()
    weights = {"pointwise_filter": rng.standard_normal((1, 1, 61, 112)), "bias": rng.standard_normal(112)}
    b.output(b.step("chain", b.input([None, None, None, 61]), weights=weights, activation={"word": "relu"}))
    net = native.Network.from_program(b.text, b.weights, isa=isa)
    x = rng.standard_normal((1, 1, 40, 61)).astype(np.float32)
    parts = [net(x[:, :, i : i + 5], num_threads=1) for i in range(0, 40, 5)]
    assert np.concatenate(parts, 2).tobytes() == net(x, num_threads=1).tobytes()
