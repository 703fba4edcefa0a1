"""What the tests of the GPU kernels share, with and without a GPU: random layers, and what rounding may do.

Nothing here needs more than NumPy and ml_dtypes: where a GPU is there may be no more.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np
import reference

NUMPY = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16}

# Element types, with how float32 is multiplied.
KINDS = (("float16", "exact"), ("bfloat16", "exact"), ("float32", "exact"), ("float32", "tf32"))

# Windows with kernels of their own, as (size, stride).
WINDOWS = ((3, 1), (3, 2), (5, 1), (5, 2), (7, 1))

TILES = ((4, 8), (8, 4), (4, 16), (8, 8), (16, 4), (8, 16), (4, 32), (16, 8), (32, 4))


# The activations that GPU kernels know.
WORDS = ("none", "relu", "relu6", "hard_swish", "silu", "gelu", "leaky_relu", "sigmoid", "tanh")


def draw_case(seed: int) -> tuple:
    """A random (shape, element type, math, path, cut). The shape is as `reference.random_case` takes it.

    A third runs on the path that takes anything, or that the planner chooses, with any window, stride, dilation and
    multiplier; the others have windows that the fused kernel takes, and most run on it.
    `cut` are options of how the fused kernel is cut.
    """
    rng = np.random.default_rng(seed)

    def pick(*values):
        return values[rng.integers(len(values))]

    def activation():
        word = pick(*WORDS)
        return word, pick(0.2, 0.0, 0.1, 1.5, -0.5) if word == "leaky_relu" else 0.2

    general = rng.integers(3) == 0
    if general:
        kernel, strides = [pick(1, 2, 3, 3, 4, 5, 7) for _ in "hw"], tuple(pick(1, 1, 2, 3) for _ in "hw")
        dilations, multiplier, largest = tuple(pick(1, 1, 2, 3) for _ in "hw"), pick(1, 1, 2, 3), 14
    else:
        size, stride = pick(*WINDOWS)
        kernel, strides, dilations, multiplier, largest = [size, size], (stride, stride), (1, 1), 1, 40
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations)]
    sizes = [int(rng.integers(1, largest + 1)) for _ in "hw"]
    padding = pick("SAME", "SAME", "VALID", "EXPLICIT")
    if padding == "EXPLICIT":
        padding = tuple((int(rng.integers(5)), int(rng.integers(5))) for _ in "hw")
        sizes = [max(n, window - sum(pad), 1) for n, window, pad in zip(sizes, reach, padding)]
    elif padding == "VALID":
        sizes = [max(n, window) for n, window in zip(sizes, reach)]
    shape = {
        "N": pick(1, 1, 2, 3),
        "H": sizes[0],
        "W": sizes[1],
        "C": pick(int(rng.integers(1, 41)), 8, 16, 24, 32, 64, 72),
        "M": multiplier,
        "K": pick(int(rng.integers(1, 71)), 8, 16, 32, 64, 128, 144),
        "R": kernel[0],
        "S": kernel[1],
        "strides": strides,
        "dilations": dilations,
        "padding": padding,
        "data_format": pick("NHWC", "NHWC", "NHWC", "NCHW"),
        "depthwise_activation": activation(),
        "activation": activation(),
        "depthwise_bias": pick(True, False),
        "bias": pick(True, False),
        "residual": pick(True, False),
        "seed": seed,
    }
    path = pick("direct", "two_step", "auto") if general else pick("direct", "two_step", "stream", "stream", "stream")
    streams = path == "stream"
    dtype, math = pick(*KINDS)
    cut = {"tile": pick(None, *TILES), "segments": pick(0, 1, 2, 3), "groups": pick(0, 0, 1, 2, 3)} if streams else {}
    return shape, dtype, math, path, cut


def other_fused(window: int, filters: int, dtype: str, math: str) -> tuple:
    """The paths of the other fused kernels that take a layer that the first one takes."""
    sixteen = dtype in ("float16", "bfloat16")
    tensor = ("tensor_stream",) if sixteen and window in (3, 5) and filters <= 128 else ()
    return (*tensor, "deep") if sixteen or math == "tf32" else tensor


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
    rounding = 0 if dtype == "float32" else eps * largest
    return allowed + rounding + 2 * factors * eps * reference.root_sum_square(x, layer)
