"""A gate in front of a 1x1 convolution: it meets X, or the filter's rows where those are fewer numbers (blocks.cc)."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from conftest import chain_ways
from native_support import ISAS, rounds_between
from test_block_kernel import check, numbers

from tf_dwsconv._arguments import Attributes, Tensors
from tf_dwsconv._tf import dispatch
from tf_dwsconv.activations import NONE

pytestmark = pytest.mark.usefixtures("op_library")

# Images, rows, columns, input and output channels; whether there are pixels enough, two for each output channel.
CASES = {
    "a first block": ((3, 16, 15, 16, 24), True),
    "channels that fill no vector": ((2, 9, 10, 37, 45), True),
    "channels that fill no pair": ((2, 8, 8, 1, 3), True),
    "several panels": ((5, 14, 14, 96, 98), True),
    "pixels in many tasks": ((2, 64, 48, 40, 16), True),
    "one pixel too few": ((3, 5, 7, 64, 18), False),
    "a last block": ((3, 7, 7, 160, 64), False),
}


def block(n, h, w, c, k):
    arrays = {"pointwise_filter": numbers((1, 1, c, k), 1, c**-0.5), "bias": numbers((k,), 1)}
    return numbers((n, h, w, c), 1), {**arrays, "gate": np.abs(numbers((n, c), 1))}


def meets_filter(isa, dtype, enough):
    """X of 16 bits that is multiplied as floats goes through a pass anyway, which the gate joins."""
    return enough and (dtype == "float32" or rounds_between(isa, dtype))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("case", CASES)
def test_right_and_the_same_bits(case, dtype, isa, monkeypatch):
    sizes, enough = CASES[case]
    n, h, w, _, k = sizes
    x, arrays = block(*sizes)
    residual = {"residual": numbers((n, h, w, k), 2)}
    monkeypatch.setenv("DWSCONV_ISA", isa)
    for more, words in (({}, ("none", "none", "hard_swish")), (residual, ("none", "none", "relu"))):
        found = []
        for threads in ("1", "2"):
            monkeypatch.setenv("DWSCONV_NUM_THREADS", threads)
            before = chain_ways("gated filters")
            found.append(check(tf.as_dtype(dtype), x, {**arrays, **more}, words=words))
            assert chain_ways("gated filters") - before == meets_filter(isa, dtype, enough)
        for i in range(n):  # each image has a gate of its own, alone or among others
            one = {name: a[i : i + 1] if name in ("gate", "residual") else a for name, a in {**arrays, **more}.items()}
            found.append(check(tf.as_dtype(dtype), x[i : i + 1], one, words=words))
        together = np.concatenate(found[2:])
        np.testing.assert_array_equal(found[0], found[1])
        np.testing.assert_array_equal(found[0], together)


def run(dtype, x, arrays):
    given = {name: tf.cast(tf.constant(array), dtype) for name, array in arrays.items()}
    attributes = Attributes((1, 1), (1, 1), "SAME", (), "NHWC", NONE, NONE)
    return tf.cast(dispatch.run(tf.cast(tf.constant(x), dtype), Tensors(**given), attributes), tf.float64).numpy()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("case", ["a first block", "several panels", "a last block"])
def test_what_is_not_finite(case, dtype, isa, monkeypatch):
    """It spoils the image that has it, and no other; a factor of zero does not hide it."""
    monkeypatch.setenv("DWSCONV_ISA", isa)
    x, arrays = block(*CASES[case][0])
    arrays["gate"][0, 3], arrays["gate"][1, 2], arrays["gate"][2, 5] = np.inf, 0, np.nan
    x[1, 0, 0, 2] = np.inf
    y = run(dtype, x, arrays)
    assert not np.isfinite(y[0]).any() and np.isnan(y[2]).all()
    assert np.isnan(y[1, 0, 0]).all() and np.isfinite(y[1].reshape(-1, y.shape[-1])[1:]).all()
    arrays["gate"][:] = 0
    x[1, 0, 0, 2] = 1
    bias = tf.cast(tf.cast(arrays["bias"], dtype), tf.float64)
    np.testing.assert_array_equal(run(dtype, x, arrays), np.broadcast_to(bias, y.shape))
