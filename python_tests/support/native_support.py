"""What the tests of tf_dwsconv.native share: cases with their arrays, tolerances, outputs between guard bytes."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import reference

from tf_dwsconv import native

ISAS = tuple(native.cpu_info()["isas"])
DTYPES = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16}
X, D, P = np.ones((1, 5, 6, 4), np.float32), np.ones((3, 3, 4, 2), np.float32), np.ones((1, 1, 8, 3), np.float32)
GUARD = 64  # bytes on either side of an output


SHAPE = dict(zip("NHWCMKRS", (2, 23, 19, 37, 2, 45, 3, 3)))


def rounds_between(isa, dtype):
    """Whether Z is rounded to 16 bits, as the instruction reads bfloat16 that multiplies it."""
    return dtype == "bfloat16" and (isa == "amx" or (isa == "avx512" and native.cpu_info()["bf16"]))


def cast(array, dtype):
    """The array in `dtype`; None stays."""
    return None if array is None else array.astype(DTYPES[dtype])


def arrays(shape, dtype="float32", seed=0):
    """(x, reference.Layer, residual) in float64, and the keywords of native's functions in `dtype`."""
    case = x, layer, residual = reference.random_case(np.random.default_rng(seed), DTYPES[dtype], shape)
    names = ("depthwise_filter", "pointwise_filter", "bias", "depthwise_bias")
    tensors = {name: cast(getattr(layer, name), dtype) for name in names}
    return case, cast(x, dtype), {**tensors, **layer.keywords()}, cast(residual, dtype)


def tolerance(case, expected, dtype):
    """What rounding may do to the largest output.

    float32: 2e-5 of it, and a few roundings of the largest sum of absolute values. 16 bits: one rounding more, at the
    end. bfloat16: where the CPU multiplies it, what lies between the convolutions is rounded too.
    """
    x, layer, _ = case
    largest = np.abs(expected).max(initial=0.0)
    allowed = 2e-5 * largest + 4 * np.finfo(np.float32).eps * reference.magnitude(*case)
    if dtype == "float32":
        return allowed
    eps = float(ml_dtypes.finfo(DTYPES[dtype]).eps)
    if dtype == "bfloat16":
        z = reference.depthwise(x if layer.data_format == "NHWC" else x.transpose(0, 2, 3, 1), layer)
        z = z if layer.depthwise_bias is None else z + layer.depthwise_bias
        z = reference.ACTIVATIONS[layer.depthwise_activation[0]](z, layer.depthwise_activation[1])
        # Half a unit in the last place, eps/2, of each term; the steepest activation has a slope of 1.5.
        allowed += 0.75 * eps * np.matmul(np.abs(z), np.abs(layer.pointwise_filter[0, 0])).max(initial=0.0)
    return allowed + eps * largest


def guarded(shape, dtype, offset=0):
    """An output full of NaN between guard bytes, `offset` bytes off alignment: (the array, a check of the guards)."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = np.full(size + 2 * GUARD + 64 + offset, 0xA5, np.uint8)
    start = -memory.ctypes.data % 64 + GUARD + offset
    out = np.ndarray(shape, dtype, memory.data, start)
    out[...] = np.nan

    def check():
        assert np.all(memory[:start] == 0xA5), "bytes before the output were written"
        assert np.all(memory[start + size :] == 0xA5), "bytes after the output were written"

    return out, check
