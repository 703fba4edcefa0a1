"""Conv2DTranspose as a convolution of small pictures, whose pixels `depth_to_space` puts side by side.

Along one axis, with stride s and k taps, the result at `s * u + p` is the sum over m of `x[u - m] * w[s * m + p]`. For
each u that is a window of ceil(k / s) pixels of x, and the s results p are channels of one pixel. Where stride and
kernel are the same that window is one pixel.
"""

from __future__ import annotations

from typing import NamedTuple, Optional

import numpy as np

from tf_dwsconv.convert import _read
from tf_dwsconv.convert.network._call import Call, is_plain


class Axis(NamedTuple):
    """One axis of such a convolution: the window of x, zeros around x, and what of the result is cut off."""

    window: int
    padding: tuple[int, int]
    cropping: tuple[int, int]


def axis(taps: int, stride: int, padding: str, more: Optional[int]) -> Optional[Axis]:
    """How an axis is computed; None where TensorFlow's op refuses it, and for rows of the bias alone behind all pixels.

    Args:
        more: of `output_padding`.
    """
    is_valid = padding == "valid"
    # The result has `stride` times the size of x, and these.
    longer = max(taps - stride, 0) if is_valid else 0
    if more is not None:
        longer = (taps if is_valid else taps % 2) + more - stride
    if not -stride < (longer - taps + 1 if is_valid else longer) <= 0:
        return None
    top = 0 if is_valid else max(taps - stride - longer, 0) // 2
    window, first, beyond = -(-taps // stride), top // stride, -(-(longer + top) // stride)
    found = Axis(window, (window - 1 - first, beyond), (top - first * stride, stride * beyond - top - longer))
    return None if window == 1 and any(found.padding) else found


def axes(layer: object) -> Optional[list[Axis]]:
    """Rows and columns of a layer; None for one with options that programs do not have."""
    more = layer.output_padding
    more = more if isinstance(more, (tuple, list)) else (more, more)
    if layer.data_format != "channels_last" or tuple(layer.dilation_rate) != (1, 1) or getattr(layer, "groups", 1) != 1:
        return None
    found = [axis(*of, layer.padding, n) for *of, n in zip(layer.kernel_size, layer.strides, more)]
    return None if None in found else found


def convolution(call: Call) -> Optional[int]:
    layer = call.layer
    found = axes(layer) if is_plain(layer) else None
    if found is None:
        return None
    rows, columns = found
    pixels = layer.strides[0] * layer.strides[1]
    shape = call.builder.shapes[call.x[0]]
    sizes = [n if n is None else n + sum(of.padding) - of.window + 1 for n, of in zip(shape[1:3], found)]
    weights = {"pointwise_filter": filter_of(_read.array(layer.kernel), layer.strides)}
    if layer.bias is not None:
        weights["bias"] = np.tile(_read.array(layer.bias), pixels)
    is_pointwise = rows.window == columns.window == 1
    padding = "valid" if is_pointwise else (rows.padding, columns.padding)
    y = call.step("chain", result=(shape[0], *sizes, pixels * layer.filters), weights=weights, padding=padding)
    y = call.step("depth_to_space", y, block=tuple(layer.strides), croppings=(rows.cropping, columns.cropping))
    return call.activation(y, layer.activation)


def filter_of(kernel: np.ndarray, strides: tuple[int, int]) -> np.ndarray:
    """The dense filter [R, S, C, pixels * K] of a kernel [rows, columns, K, C]."""
    missing = [(0, -taps % stride) for taps, stride in zip(kernel.shape, strides)]
    whole = np.pad(kernel, [*missing, (0, 0), (0, 0)])
    (h, w), (rows, columns, filters, channels) = strides, whole.shape
    parts = whole.reshape(rows // h, h, columns // w, w, filters, channels)[::-1, :, ::-1]
    return parts.transpose(0, 2, 5, 1, 3, 4).reshape(rows // h, columns // w, channels, h * w * filters)
