"""Windows that reach past the ends of their row: loops of their own for groups of columns and for rows of seven."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from native_support import DTYPES, ISAS, cast

from tf_dwsconv import native


def depthwise(x, d, stride, left, right):
    """Y of a depthwise convolution in float64, by its definition: one input row more than taps above and below."""
    S, C = d.shape[0], x.shape[-1]
    padded = np.zeros((x.shape[1] + S, left + x.shape[2] + right, C))
    padded[S // 2 : S // 2 + x.shape[1], left : left + x.shape[2]] = x[0]
    rows, columns = ((size - S) // stride + 1 for size in padded.shape[:2])
    y = np.zeros((1, rows, columns, C))
    for r, s in itertools.product(range(S), range(S)):
        y[0] += (
            padded[r : r + rows * stride : stride, s : s + columns * stride : stride][:rows, :columns] * d[r, s, :, 0]
        )
    return y


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("S", [3, 5, 7])
@pytest.mark.parametrize("isa", ISAS)
def test_every_width_and_padding(isa, S, stride):
    random = np.random.default_rng(S + stride)
    for dtype, C in (("float32", 8), ("float32", 19), ("float16", 17)):
        d = random.standard_normal((S, S, C, 1)).astype(np.float32)
        p = np.eye(C, dtype=np.float32).reshape(1, 1, C, C)
        for W, left, right in itertools.product(
            (*range(1, 18), 21, 24, 28, 32, 42, 48), range(S // 2 + 1), range(S // 2 + 1)
        ):
            if left + W + right < S:
                continue
            # Whole numbers and halves: sums are exact, whatever their order.
            x = random.integers(-4, 5, (1, 6, W, C)).astype(np.float32)
            whole = np.round(2 * d) / 2
            y = native.depthwise_sep_conv2d(
                *(cast(array, dtype) for array in (x, whole, p)),
                strides=stride,
                padding=[(S // 2, S - S // 2), (left, right)],
                isa=isa,
            )
            assert y.dtype == DTYPES[dtype]
            expected = depthwise(x.astype(np.float64), whole.astype(np.float64), stride, left, right)
            np.testing.assert_array_equal(y.astype(np.float64), expected, f"W {W}, padding {left} and {right}")
