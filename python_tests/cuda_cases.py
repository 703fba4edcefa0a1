"""What the tests of the GPU kernels share, with and without a GPU: layers for each path, and what rounding may do."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import reference
from hypothesis import strategies as st
from strategies import WORDS, activation, shapes

NUMPY = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16}

# Element types, with how float32 is multiplied.
KINDS = (("float16", "exact"), ("bfloat16", "exact"), ("float32", "exact"), ("float32", "tf32"))

# Windows with kernels of their own, as (size, stride).
WINDOWS = ((3, 1), (3, 2), (5, 1), (5, 2), (7, 1))


@st.composite
def fast_shapes(draw, words=WORDS):
    """Layers that the fused kernel takes, of sizes around its tiles and vectors."""
    size, stride = draw(st.sampled_from(WINDOWS))
    padding = draw(st.sampled_from(["SAME", "SAME", "VALID", "EXPLICIT"]))
    if padding == "EXPLICIT":
        padding = tuple((draw(st.integers(0, size)), draw(st.integers(0, size))) for _ in "hw")
    return {
        "N": draw(st.integers(1, 2)),
        "H": draw(st.integers(size, 40)),
        "W": draw(st.integers(size, 40)),
        "C": draw(st.one_of(st.integers(1, 40), st.sampled_from([8, 16, 24, 32, 64, 72]))),
        "M": 1,
        "K": draw(st.one_of(st.integers(1, 70), st.sampled_from([8, 16, 32, 64, 128, 144]))),
        "R": size,
        "S": size,
        "strides": (stride, stride),
        "padding": padding,
        "data_format": draw(st.sampled_from(["NHWC", "NHWC", "NHWC", "NCHW"])),
        "depthwise_activation": draw(activation(words)),
        "activation": draw(activation(words)),
        "depthwise_bias": draw(st.booleans()),
        "bias": draw(st.booleans()),
        "residual": draw(st.booleans()),
        "seed": draw(st.integers(0, 2**32 - 1)),
    }


@st.composite
def cases(draw):
    """(shape, element type, math, path, tile, segments), with a path that takes the shape."""
    dtype, math = draw(st.sampled_from(KINDS))
    path = draw(st.sampled_from(["direct", "two_step", "stream", "stream", "stream", "auto"]))
    shape = draw(fast_shapes() if path == "stream" else st.one_of(shapes(), fast_shapes()))
    tile = None
    if path == "stream":
        tile = draw(
            st.sampled_from([None, (4, 8), (8, 4), (4, 16), (8, 8), (16, 4), (8, 16), (4, 32), (16, 8), (32, 4)])
        )
    return shape, dtype, math, path, tile, draw(st.integers(0, 3)) if path == "stream" else 0


def tolerance(x, layer, residual, expected, dtype: str, math: str) -> float:
    """What rounding may do to the largest output.

    Sums in float32 as in the tests of the op: 2e-5 of the largest output and a few roundings of the largest sum of
    absolute values. 16 bits: one rounding of the output, and one of each element of Z, eps/2 at most of each term of
    the pointwise sum; as random errors that is 0.3 eps of the root of the sum of squares, and seven of them are given.
    TF32 rounds both factors to 11 bits.
    """
    largest = np.abs(expected).max(initial=0.0)
    allowed = 2e-5 * largest + 4 * np.finfo(np.float32).eps * reference.magnitude(x, layer, residual)
    if dtype == "float32" and math == "exact":
        return allowed
    eps = 2.0**-10 if dtype == "float32" else float(ml_dtypes.finfo(NUMPY[dtype]).eps)
    factors = 2 if dtype == "float32" else 1
    return (
        allowed + (0 if dtype == "float32" else eps * largest) + 2 * factors * eps * reference.root_sum_square(x, layer)
    )
