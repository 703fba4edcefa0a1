"""Gradients in float64 NumPy from their definition, random layers for them, and what rounding may do.

Nothing here needs more than NumPy and ml_dtypes: where a GPU is there may be no more.

    G  = dY * out'           dP = Z^T G         d_residual = G           d_bias = sum of G
    dZ = mid' * G P^T        dX and dD: the depthwise half, transposed    d_depthwise_bias = sum of dZ
"""

from __future__ import annotations

import dataclasses

import cuda_cases
import ml_dtypes
import numpy as np
import reference

# Where a derivative jumps, at what goes in.
KINKS = {"relu": (0,), "relu6": (0, 6), "leaky_relu": (0,), "hard_swish": (-3, 3)}


def from_input(activation: tuple) -> bool:
    """Whether the derivative is taken at what went into the activation."""
    word, alpha = activation
    return word in ("hard_swish", "silu", "gelu") or (word == "leaky_relu" and alpha < 0)


def derivative(activation: tuple, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """activation', from what went in, or where that is enough from what came out; `after` may be rounded."""
    word, alpha = activation
    if word == "none":
        return np.ones_like(before)
    if word == "relu":
        return (after > 0).astype(np.float64)
    if word == "relu6":
        return ((after > 0) & (after < 6)).astype(np.float64)
    if word == "leaky_relu":
        return np.where((before if alpha < 0 else after) > 0, 1.0, alpha)
    if word == "sigmoid":
        return after * (1 - after)
    if word == "tanh":
        return 1 - after * after
    if word == "hard_swish":
        return np.where(before >= 3, 1.0, np.where(before > -3, before / 3 + 0.5, 0.0))
    step = 1e-5  # silu and gelu, by differences in float64
    function = reference.ACTIVATIONS[word]
    return (function(before + step, alpha) - function(before - step, alpha)) / (2 * step)


def taps_of(x: np.ndarray, layer: reference.Layer):
    """For each tap (r, s): slices of the output's rows and columns, and of X's, that it joins."""
    _, height, width, _ = x.shape
    rows, columns, _, _ = layer.depthwise_filter.shape
    pads = (layer.padding,) * 2 if isinstance(layer.padding, str) else layer.padding
    out_h, top = reference.window(height, rows, layer.strides[0], layer.dilations[0], pads[0])
    out_w, left = reference.window(width, columns, layer.strides[1], layer.dilations[1], pads[1])
    for r in range(rows):
        p0, p1, h0 = reference._inside(height, out_h, layer.strides[0], r * layer.dilations[0] - top)
        for s in range(columns):
            q0, q1, w0 = reference._inside(width, out_w, layer.strides[1], s * layer.dilations[1] - left)
            if p0 < p1 and q0 < q1:
                h1, w1 = h0 + (p1 - p0 - 1) * layer.strides[0] + 1, w0 + (q1 - q0 - 1) * layer.strides[1] + 1
                x_slice = (slice(None), slice(h0, h1, layer.strides[0]), slice(w0, w1, layer.strides[1]))
                yield (r, s), (slice(None), slice(p0, p1), slice(q0, q1)), x_slice


@dataclasses.dataclass
class Gradients:
    """What `backward` answers, each by the names x, d, p, db, b, r; tensors in the layer's data format, float64."""

    values: dict
    magnitudes: dict  # the largest sum of absolute values that an element is made of
    roots: dict  # the largest root of a sum of squares


def _sums(x, layer, z, between, gradient):
    """All gradients, NHWC, of a Z and a G; `between` is mid'. Also right for squares, or absolute values, of all."""
    p = layer.pointwise_filter[0, 0]
    dz = np.matmul(gradient, p.T) * between
    dx, dd = np.zeros_like(x), np.zeros_like(layer.depthwise_filter)
    spread = dz.reshape(*dz.shape[:3], *layer.depthwise_filter.shape[2:])
    for (r, s), out, image in taps_of(x, layer):
        dx[image] += (spread[out] * layer.depthwise_filter[r, s]).sum(-1)
        dd[r, s] = (x[image][..., None] * spread[out]).sum((0, 1, 2))
    flat = gradient.reshape(-1, gradient.shape[-1])
    dp = np.matmul(z.reshape(-1, z.shape[-1]).T, flat).reshape(layer.pointwise_filter.shape)
    return {"x": dx, "d": dd, "p": dp, "db": dz.sum((0, 1, 2)), "b": flat.sum(0), "r": gradient}, dz


def backward(x, layer: reference.Layer, residual, grad, dtype) -> tuple:
    """(Gradients, Y rounded to `dtype`, grad with zeros where the last activation is too near to a kink to judge).

    Args:
        x, layer, residual: as of `reference.random_case`.
        grad: of the loss by Y, of its shape.
        dtype: a NumPy or ml_dtypes type. Z and Y are rounded to it before a derivative is taken from them.
    """
    transposed = layer.data_format == "NCHW"

    def last(array):
        return array if array is None or not transposed else array.transpose(0, 2, 3, 1)

    def rounded(array):
        return array.astype(dtype).astype(np.float64)

    x, residual, grad = np.asarray(last(x), np.float64), last(residual), last(grad).copy()
    before_mid = reference.depthwise(x, layer)
    if layer.depthwise_bias is not None:
        before_mid = before_mid + layer.depthwise_bias
    mid, out = layer.depthwise_activation, layer.activation
    z = rounded(reference.ACTIVATIONS[mid[0]](before_mid, mid[1]))
    between = derivative(mid, before_mid, z)
    before = np.matmul(z, layer.pointwise_filter[0, 0])
    if layer.bias is not None:
        before = before + layer.bias
    if residual is not None:
        before = before + residual
    y = rounded(reference.ACTIVATIONS[out[0]](before, out[1]))
    if from_input(out):  # it is computed again, and rounded on the way
        for kink in KINKS.get(out[0], ()):
            grad[np.abs(before - kink) < 0.02 * (1 + np.abs(before).max(initial=0.0))] = 0
    gradient = grad * derivative(out, before, y)
    values, dz = _sums(x, layer, z, between, gradient)
    absolute = {
        name: dataclasses.replace(
            layer, depthwise_filter=f(layer.depthwise_filter), pointwise_filter=f(layer.pointwise_filter)
        )
        for name, f in (("magnitudes", np.abs), ("roots", np.square))
    }
    magnitudes, _ = _sums(np.abs(x), absolute["magnitudes"], np.abs(z), np.abs(between), np.abs(gradient))
    # dZ is rounded itself, which its terms do not tell where they add up.
    squares = gradient**2
    if from_input(out) and np.dtype(dtype) == np.float32:  # of which TF32 rounds what the derivative is taken at
        squares = squares + grad**2 * np.matmul(z**2, layer.pointwise_filter[0, 0] ** 2)
    roots, _ = _sums(x**2, absolute["roots"], z**2, between**2, squares)
    own, _ = _sums(x**2, dataclasses.replace(absolute["roots"], pointwise_filter=np.eye(dz.shape[-1])[None, None]),
                   z**2, np.ones_like(between), dz**2)  # fmt: skip
    largest = {
        "magnitudes": {name: a.max(initial=0.0) for name, a in magnitudes.items()},
        "roots": {
            name: np.sqrt(a.max(initial=0.0) + (own[name].max(initial=0.0) if name in ("x", "d", "db") else 0))
            for name, a in roots.items()
        },
    }
    if transposed:
        for name in ("x", "r"):
            values[name] = values[name].transpose(0, 3, 1, 2)
        y, grad = y.transpose(0, 3, 1, 2), grad.transpose(0, 3, 1, 2)
    there = {"db": layer.depthwise_bias, "b": layer.bias, "r": residual}
    values = {name: value for name, value in values.items() if there.get(name, x) is not None}
    return Gradients(values, largest["magnitudes"], largest["roots"]), y, grad


def tolerance(gradients: Gradients, name: str, dtype: str, math: str) -> float:
    """What rounding may do to the largest element, as `cuda_cases.tolerance` has it for outputs.

    On the way to 16-bit gradients G, Z, mid' and dZ are rounded, each term of a sum by eps/2 at most and 0.3 eps as
    random errors; four times eps is given. TF32 rounds both factors of a product.
    """
    largest = np.abs(gradients.values[name]).max(initial=0.0)
    allowed = 2e-5 * largest + 8 * np.finfo(np.float32).eps * gradients.magnitudes[name]
    if dtype == "float32" and math == "exact":
        return allowed
    if dtype == "float32":
        return allowed + 4 * 2.0**-10 * gradients.roots[name]
    eps = float(ml_dtypes.finfo(cuda_cases.NUMPY[dtype]).eps)
    return allowed + eps * largest + 4 * eps * gradients.roots[name]


def random_gradient(rng: np.random.Generator, x, layer, residual, dtype):
    """A gradient of the loss by Y, exact in `dtype` but held in float64."""
    shape = reference.forward(x, layer, residual).shape
    return rng.standard_normal(shape).astype(dtype).astype(np.float64)


TILES = ((4, 16), (8, 8), (16, 4), (4, 32), (8, 16), (16, 8))


def draw_case(seed: int) -> tuple:
    """A random (shape, element type, math, path, wanted, tile); `shape` is as `reference.random_case` takes it.

    Half of them are layers that the fused kernel takes, if its tile fits.
    """
    shape, dtype, math = cuda_cases.draw_case(seed)[:3]
    rng = np.random.default_rng([seed, 7])
    path = ("general", "steps", "steps", "auto")[rng.integers(4)]
    names = ("x", "d", "p", "db", "b", "r")
    wanted = names if rng.integers(2) else tuple(name for name in names if rng.integers(2))
    tile = None
    if (shape["R"], shape["strides"][0]) in cuda_cases.WINDOWS[:4] and shape["R"] == shape["S"] and rng.integers(5):
        dtype, math = (("float16", "exact"), ("bfloat16", "exact"), ("float32", "tf32"))[rng.integers(3)]
        shape.update(C=8 * int(rng.integers(1, 17)), K=8 * int(rng.integers(1, 17)))
        shape.update(dilations=(1, 1), strides=(shape["strides"][0],) * 2, M=1)
        words = [word for word in cuda_cases.WORDS if not from_input((word, 0.2))]
        shape.update(activation=(words[rng.integers(6)], 0.2), depthwise_activation=(words[rng.integers(6)], 0.2))
        path, tile = "fused", TILES[rng.integers(6)] if rng.integers(4) else None
        wanted = tuple(dict.fromkeys((*wanted, "d", "p")))
    return shape, dtype, math, path, wanted, tile
