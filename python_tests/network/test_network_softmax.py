"""Softmax of programs: rows of any length, many at once; a NaN spoils its own row alone."""

from __future__ import annotations

import numpy as np
import pytest
from native_support import ISAS
from program_reference import DTYPES, Builder

from tf_dwsconv import native

LENGTHS = [1, 2, 3, 7, 8, 9, 15, 16, 17, 21, 31, 32, 33, 47, 49, 63, 64, 65, 80, 130, 1001]
EPSILON = {"float32": 2.0**-24, "bfloat16": 2.0**-8, "float16": 2.0**-11}


def network(dtype, length, isa, in_place=False):
    b = Builder(dtype)
    x = b.input([None, 5, 7, length])
    if in_place:
        x = b.step("activation", x, activation={"word": "relu"})
    b.output(b.step("softmax", x))
    return b, native.Network.from_program(b.text, b.weights, isa=isa)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("length", LENGTHS)
def test_rows_of_any_length(length, dtype, isa):
    b, net = network(dtype, length, isa)
    x = (6 * np.random.default_rng(length).standard_normal([3, 5, 7, length])).astype(DTYPES[dtype])
    y = net(x, num_threads=1)
    assert net(x, num_threads=3).tobytes() == y.tobytes()
    (expected,) = b.expect(x)
    # e^x is good to 1 ulp, its argument to the rounding of a difference of at most 60; then a sum, a quotient; both
    # results are rounded to the type.
    relative = 2 * EPSILON[dtype] + (64 + 4 + length / 4) * EPSILON["float32"]
    smallest = {"float32": 2.0**-149, "bfloat16": 2.0**-133, "float16": 2.0**-24}[dtype]
    difference = np.abs(y.astype(np.float64) - expected)
    assert np.all(difference <= relative * expected + smallest)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("length", LENGTHS[1:])
def test_a_nan_spoils_its_row(length, isa):
    _, net = network("float32", length, isa)
    x = np.random.default_rng(1).standard_normal([1, 5, 7, length]).astype(np.float32)
    wanted = np.zeros(x.shape, bool)
    for row, column, c in ((0, 0, 0), (2, 3, length // 2), (4, 6, length - 1)):
        x[0, row, column, c] = np.nan
        wanted[0, row, column] = True
    assert np.array_equal(np.isnan(net(x)), wanted)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("length", LENGTHS[1:])
def test_infinities(length, isa):
    """Nothing for -infinity; no number where +infinity is, nor where nothing else is, as in TensorFlow."""
    _, net = network("float32", length, isa)
    x = np.zeros([1, 5, 7, length], np.float32)
    x[0, 0, 0, 0] = x[0, 0, 1, 1:] = x[0, 0, 3] = -np.inf
    x[0, 0, 2, -1] = np.inf
    y = net(x)[0, 0]
    assert y[0, 0] == 0 and np.allclose(y[0, 1:], 1 / (length - 1), rtol=1e-6)
    assert y[1, 0] == 1 and not y[1, 1:].any()
    assert np.isnan(y[2]).any() and np.isnan(y[3]).all()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("length", LENGTHS)
def test_in_place(length, isa):
    _, apart = network("float32", length, isa)
    _, in_place = network("float32", length, isa, in_place=True)
    x = np.random.default_rng(2).standard_normal([2, 5, 7, length]).astype(np.float32)
    assert in_place(x).tobytes() == apart(np.maximum(x, 0)).tobytes()


@pytest.mark.parametrize("n", [3, 16, 17, 64, 65, 100, 4097])
@pytest.mark.parametrize("at", [0, -1, -2])
def test_a_number_far_above_all_others(n, at):
    """Wherever it is, it is the one that is subtracted: no power overflows."""
    x = np.zeros((2, n), np.float32)
    x[:, at] = 300
    b = Builder()
    b.output(b.step("softmax", b.input([None, n])))
    for isa in ISAS:
        y = native.Network.from_program(b.text, b.weights, isa=isa)(x)
        np.testing.assert_array_equal(y, x / 300)
