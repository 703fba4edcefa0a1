"""The layer in float64 NumPy, written from its definition alone and shared with no code that it judges.

    Z[n,p,q,c*M+m] = mid( sum over r, s of X[n, p*stride_h - top + r*dilation_h, q*stride_w - left + s*dilation_w, c]
                          * D[r,s,c,m]  + depthwise_bias[c*M+m] )
    Y[n,p,q,k]     = out( sum over cm of Z[n,p,q,cm] * P[0,0,cm,k] + bias[k] + residual[n,p,q,k] )

Taps outside the input are left out of the sum.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Optional

import numpy as np

try:
    from scipy.special import erf as _erf
except ImportError:
    _erf = np.vectorize(math.erf, otypes=[np.float64])

ACTIVATIONS = {
    "none": lambda x, alpha: x,
    "relu": lambda x, alpha: np.maximum(x, 0),
    "relu6": lambda x, alpha: np.minimum(np.maximum(x, 0), 6),
    "hard_swish": lambda x, alpha: x * np.minimum(np.maximum(x + 3, 0), 6) / 6,
    "silu": lambda x, alpha: x * _sigmoid(x),
    "gelu": lambda x, alpha: 0.5 * x * (1 + _erf(x / math.sqrt(2))),
    "leaky_relu": lambda x, alpha: np.where(x < 0, alpha * x, x),
    "sigmoid": lambda x, alpha: _sigmoid(x),
    "tanh": lambda x, alpha: np.tanh(x),
    "elu": lambda x, alpha: np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0))),
    "mish": lambda x, alpha: x * np.tanh(np.logaddexp(0, x)),
    "gelu_tanh": lambda x, alpha: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
}


def _sigmoid(x):
    return 0.5 * (1 + np.tanh(0.5 * x))


@dataclasses.dataclass
class Layer:
    """Attributes and weights of one layer, in float64, and what is needed to run it anywhere.

    `padding` is "SAME", "VALID" or ((top, bottom), (left, right)).
    """

    depthwise_filter: np.ndarray  # [R, S, C, M]
    pointwise_filter: np.ndarray  # [1, 1, C*M, K]
    depthwise_bias: Optional[np.ndarray] = None  # [C*M]
    bias: Optional[np.ndarray] = None  # [K]
    strides: tuple = (1, 1)
    dilations: tuple = (1, 1)
    padding: object = "SAME"
    data_format: str = "NHWC"
    depthwise_activation: tuple = ("none", 0.2)
    activation: tuple = ("none", 0.2)

    def keywords(self) -> dict:
        """The attributes as keywords of `tf_dwsconv.depthwise_sep_conv2d`."""
        padding = self.padding
        if not isinstance(padding, str):
            padding = [[0, 0], *[list(pair) for pair in padding], [0, 0]]
            if self.data_format == "NCHW":
                padding = [padding[0], padding[3], padding[1], padding[2]]
        return {
            "strides": self.strides,
            "dilations": self.dilations,
            "padding": padding,
            "data_format": self.data_format,
            "depthwise_activation": spell(self.depthwise_activation),
            "activation": spell(self.activation),
        }


def spell(activation: tuple) -> object:
    """An activation as a user writes it."""
    return activation if activation[0] in ("leaky_relu", "elu") else activation[0]


def window(size: int, kernel: int, stride: int, dilation: int, padding: object) -> tuple:
    """(outputs, pad before) of one axis; `padding` is "SAME", "VALID" or (before, after)."""
    reach = (kernel - 1) * dilation + 1
    if padding == "SAME":
        out = math.ceil(size / stride)
        return out, max((out - 1) * stride + reach - size, 0) // 2
    before, after = (0, 0) if padding == "VALID" else padding
    return (size + before + after - reach) // stride + 1, before


def depthwise(x: np.ndarray, layer: Layer) -> np.ndarray:
    """`[N, H, W, C]` to `[N, Ho, Wo, C*M]`, without bias."""
    n, height, width, channels = x.shape
    rows, columns, _, multiplier = layer.depthwise_filter.shape
    pads = (layer.padding,) * 2 if isinstance(layer.padding, str) else layer.padding
    out_h, top = window(height, rows, layer.strides[0], layer.dilations[0], pads[0])
    out_w, left = window(width, columns, layer.strides[1], layer.dilations[1], pads[1])
    z = np.zeros((n, out_h, out_w, channels, multiplier))
    for r in range(rows):
        p0, p1, h0 = _inside(height, out_h, layer.strides[0], r * layer.dilations[0] - top)
        for s in range(columns):
            q0, q1, w0 = _inside(width, out_w, layer.strides[1], s * layer.dilations[1] - left)
            if p0 >= p1 or q0 >= q1:
                continue
            h1, w1 = h0 + (p1 - p0 - 1) * layer.strides[0] + 1, w0 + (q1 - q0 - 1) * layer.strides[1] + 1
            taps = x[:, h0 : h1 : layer.strides[0], w0 : w1 : layer.strides[1], :, None]
            z[:, p0:p1, q0:q1] += taps * layer.depthwise_filter[r, s]
    return z.reshape(n, out_h, out_w, channels * multiplier)


def _inside(size: int, out: int, stride: int, offset: int) -> tuple:
    """First and last+1 output whose tap at p*stride + offset lies in [0, size), and the input of the first."""
    first = max(0, math.ceil(-offset / stride))
    last = min(out, (size - 1 - offset) // stride + 1)
    return first, last, first * stride + offset


def between(x: np.ndarray, layer: Layer) -> np.ndarray:
    """What the pointwise half gets, `[N, Ho, Wo, C*M]`."""
    x = np.asarray(x, np.float64)
    if layer.data_format == "NCHW":
        x = x.transpose(0, 2, 3, 1)
    z = depthwise(x, layer)
    if layer.depthwise_bias is not None:
        z = z + layer.depthwise_bias
    return ACTIVATIONS[layer.depthwise_activation[0]](z, layer.depthwise_activation[1])


def forward(x: np.ndarray, layer: Layer, residual: Optional[np.ndarray] = None) -> np.ndarray:
    """The layer's output in its data format, float64."""
    y = np.matmul(between(x, layer), layer.pointwise_filter[0, 0])
    if layer.bias is not None:
        y = y + layer.bias
    if layer.data_format == "NCHW":
        y = y.transpose(0, 3, 1, 2)
    if residual is not None:
        y = y + residual
    return ACTIVATIONS[layer.activation[0]](y, layer.activation[1])


def magnitude(x: np.ndarray, layer: Layer, residual: Optional[np.ndarray] = None) -> float:
    """The largest sum of absolute values that any output before its last activation is made of.

    Rounding errors are proportional to it: an output that is small because large terms cancel is no more exact.
    """
    absolute = dataclasses.replace(
        layer,
        depthwise_filter=np.abs(layer.depthwise_filter),
        pointwise_filter=np.abs(layer.pointwise_filter),
        depthwise_bias=None if layer.depthwise_bias is None else np.abs(layer.depthwise_bias),
        bias=None if layer.bias is None else np.abs(layer.bias),
        depthwise_activation=("none", 0.0),
        activation=("none", 0.0),
    )
    y = forward(np.abs(x), absolute, None if residual is None else np.abs(residual))
    return float(y.max(initial=0.0))


def root_sum_square(x: np.ndarray, layer: Layer) -> float:
    """The largest root of the sum of squares of the terms that an output's pointwise sum is made of.

    Where each term has a relative error of its own, the sum's is a few times that of this.
    """
    squares = np.matmul(between(x, layer) ** 2, layer.pointwise_filter[0, 0] ** 2)
    return float(np.sqrt(squares.max(initial=0.0)))


def random_case(rng: np.random.Generator, dtype: type, shape: dict) -> tuple:
    """Random tensors of `dtype` for a layer, as (x, Layer, residual), all values exact in `dtype` but held in float64.

    Args:
        rng: where they come from.
        dtype: a NumPy or ml_dtypes type.
        shape: N H W C M K R S, flags depthwise_bias, bias and residual, and the attributes of `Layer`.
    """
    n, h, w, c, m, k, r, s = (shape[letter] for letter in "NHWCMKRS")

    def draw(*size):
        return rng.standard_normal(size).astype(dtype).astype(np.float64)

    layer = Layer(
        depthwise_filter=draw(r, s, c, m),
        pointwise_filter=draw(1, 1, c * m, k),
        depthwise_bias=draw(c * m) if shape.get("depthwise_bias") else None,
        bias=draw(k) if shape.get("bias") else None,
        **{
            name: shape[name]
            for name in ("strides", "dilations", "padding", "data_format", "depthwise_activation", "activation")
            if name in shape
        },
    )
    x = draw(n, h, w, c) if layer.data_format == "NHWC" else draw(n, c, h, w)
    residual = None
    if shape.get("residual"):
        pads = (layer.padding,) * 2 if isinstance(layer.padding, str) else layer.padding
        out = [
            window(size, kernel, layer.strides[i], layer.dilations[i], pads[i])[0]
            for i, (size, kernel) in enumerate(((h, r), (w, s)))
        ]
        residual = draw(n, *out, k) if layer.data_format == "NHWC" else draw(n, k, *out)
    return x, layer, residual
