"""Activations of numbers of any size, infinity and NaN, on every instruction set, against their formulas in float64."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest
from native_support import ISAS

from tf_dwsconv import native


def erfc(x):
    return np.vectorize(math.erfc)(x)


EXTREMES = {
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "silu": lambda x: x * (1 / (1 + np.exp(-x))),
    "tanh": np.tanh,
    "gelu": lambda x: x * (0.5 * erfc(-x / math.sqrt(2))),
    "gelu_tanh": lambda x: x * (1 / (1 + np.exp(-math.sqrt(8 / math.pi) * (x + 0.044715 * x**3)))),
    "mish": lambda x: x * np.tanh(np.log1p(np.exp(x))),
    "hard_swish": lambda x: x * np.clip(x + 3, 0, 6) / 6,
    "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
}


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("word", EXTREMES)
def test_numbers_of_any_size(word, isa):
    """Up to where the exponential overflows and beyond, infinity and NaN: as the formula has them in float64."""
    small = np.geomspace(1e-30, 90, 400)
    large = np.array([100.0, 1e3, 1e5, 1e9, 1e12])
    ends = [0.0, np.nan, np.inf, -np.inf]
    x = np.concatenate([small, -small, large, -large, ends]).astype(np.float32)
    one, wide = np.ones((1, 1, 1, 1), np.float32), np.ones((1, 1, 1, 32), np.float32)
    y = native.depthwise_sep_conv2d(x.reshape(1, -1, 1, 1), one, wide, activation=word, isa=isa)[0, :, 0]
    with np.errstate(all="ignore"):
        expected = EXTREMES[word](x.astype(np.float64))
    np.testing.assert_array_equal(y, np.broadcast_to(y[:, :1], y.shape))
    found = y[:, 0].astype(np.float64)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
    kept = ~np.isnan(expected)
    # Some units in the last place, and float's smallest numbers. What gelu_tanh raises e to has an error of its own;
    # gelu has that of its approximation of erfc.
    raised = np.minimum(np.abs(1.6 * x * (1 + 0.045 * x.astype(np.float64) ** 2)), 100) if word == "gelu_tanh" else 0
    allowed = 8 * 6e-8 * (1 + raised) * np.abs(expected) + 1e-37
    if word == "gelu":
        allowed = allowed + 3e-7 * np.minimum(np.abs(x), 15)
    with np.errstate(invalid="ignore"):
        near = (np.abs(found - expected) <= allowed) | (found == expected)
    assert near[kept].all(), x[kept & ~near]


# Relative and absolute errors of activations that come from a table where AVX-512 rounds to bfloat16, and from where
# down they are 0.
TABLES = {"silu": (2.0**-11.1, 0, -12.2), "gelu": (2.0**-11, 3e-6, -4.88), "gelu_tanh": (2.0**-11, 3e-6, -4.88)}


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("word", EXTREMES)
def test_numbers_of_any_size_in_bfloat16(word, isa):
    """The same in bfloat16: one rounding, and the error of a table, in which -infinity gives 0."""
    bfloat16 = ml_dtypes.bfloat16
    positive = np.arange(0x7F80, dtype=np.uint16).view(bfloat16)
    positive = positive[(positive > 1e-30) & (positive < 1e12)]
    x = np.concatenate([positive, -positive, np.array([0.0, np.nan, np.inf, -np.inf], bfloat16)])
    one, wide = np.ones((1, 1, 1, 1), bfloat16), np.ones((1, 1, 1, 32), bfloat16)
    y = native.depthwise_sep_conv2d(x.reshape(1, -1, 1, 1), one, wide, activation=word, isa=isa)[0, :, 0]
    exact = x.astype(np.float64)
    with np.errstate(all="ignore"):
        expected = EXTREMES[word](exact)
        raised = np.minimum(np.abs(1.6 * exact * (1 + 0.045 * exact**2)), 100) if word == "gelu_tanh" else 0
        allowed = (2.0**-8 + 8 * 6e-8 * raised) * np.abs(expected) + 4e-37
    found = y.astype(np.float64)
    np.testing.assert_array_equal(found, np.broadcast_to(found[:, :1], found.shape))
    found = found[:, 0]
    if word in TABLES and isa in ("avx512", "amx"):
        relative, absolute, least = TABLES[word]
        allowed = np.where(exact < least, 0, allowed + relative * np.abs(expected) + absolute)
        expected = np.where(exact < least, 0, expected)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
    kept = ~np.isnan(expected)
    if word == "gelu":
        allowed = allowed + 3e-7 * np.minimum(np.abs(exact), 15)
    if word == "mish":
        allowed = allowed + 1e-6 * np.abs(expected)
    with np.errstate(invalid="ignore"):
        near = (np.abs(found - expected) <= allowed) | (found == expected)
    assert near[kept].all(), x[kept & ~near]
