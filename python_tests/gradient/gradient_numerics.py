"""Gradients of random layers in 16 bits beside float64, each number within what its own roundings can do.

As block_numerics.py for the forward pass: the bounds are computed along with the gradients. Sums are in float32 and a
gradient is rounded once; where products read bfloat16, their factors are rounded, too.
"""

from __future__ import annotations

import dataclasses
import os

import numpy as np
import reference
import tensorflow as tf
from block_numerics import FLOAT, TINY, UNIT, unit_between
from conftest import op_calls
from gradient_cases import SMOOTH, gradients, tensors_of


def random_shape(rng: np.random.Generator) -> dict:
    """What `tensors_of` takes."""

    def pick(*choices):
        return choices[rng.integers(len(choices))]

    r, s = pick(1, 2, 3, 3, 5, 7), pick(1, 3, 3, 4, 5, 7)
    strides = pick((1, 1), (1, 1), (2, 2), (1, 2))
    dilations = pick((1, 1), (1, 1), (2, 1)) if strides == (1, 1) else (1, 1)
    shape = dict(zip("NHWC", (int(rng.integers(1, most)) for most in (4, 10, 12, 70))))
    reach = [(size - 1) * dilation for size, dilation in zip((r, s), dilations)]
    shape.update(
        M=pick(1, 1, 1, 2) if shape["C"] < 40 else 1,
        K=int(rng.integers(1, 50)),
        R=r,
        S=s,
        strides=strides,
        dilations=dilations,
        padding=pick("SAME", "SAME", tuple((int(rng.integers(size + 1)), size) for size in reach)),
        data_format=pick("NHWC", "NHWC", "NCHW"),
        depthwise_activation=(str(rng.choice(SMOOTH)), 0.2),
        activation=(str(rng.choice(SMOOTH)), 0.2),
        seed=int(rng.integers(2**31)),
    )
    for name in ("depthwise_bias", "bias", "residual"):
        shape[name] = bool(rng.integers(2))
    return shape


def _derivative(word, at):
    """By differences: 1e-10 is nothing beside the roundings here."""
    activation, step = reference.ACTIVATIONS[word[0]], 1e-5
    return (activation(at + step, word[1]) - activation(at - step, word[1])) / (2 * step)


def _through(word, at, error_at, grad, error):
    """grad * activation'(at), and its error: |activation''| is below 0.85, and 0 for none."""
    slope, bend = _derivative(word, at), 0.0 if word[0] == "none" else 0.85
    moved = bend * error_at + 16 * FLOAT * (1 + np.abs(at))
    return grad * slope, error * (np.abs(slope) + moved) + np.abs(grad) * moved


class _Taps:
    """The depthwise convolution of `layer` and its transposes, all of NHWC."""

    def __init__(self, x, layer):
        self.layer, self.D = layer, layer.depthwise_filter
        one = np.zeros((*self.D.shape[:2], 1, 1))
        ids = np.arange(1.0, x.shape[1] * x.shape[2] + 1).reshape(1, *x.shape[1:3], 1)
        self.pixel = {}  # of each tap: which pixel of X an output reads, -1 outside
        for r, s in np.ndindex(*one.shape[:2]):
            tap = one.copy()
            tap[r, s] = 1
            read = reference.depthwise(ids, dataclasses.replace(layer, depthwise_filter=tap, data_format="NHWC"))
            self.pixel[r, s] = read[0, ..., 0].astype(int).reshape(-1) - 1

    def of_filter(self, x, dz):
        n, c, m = x.shape[0], *self.D.shape[2:]
        flat, grad = x.reshape(n, -1, c), dz.reshape(n, -1, c, m)
        return np.array([
            [(flat[:, self.pixel[r, s][inside], :, None] * grad[:, inside]).sum((0, 1))
             for s in range(self.D.shape[1]) for inside in [self.pixel[r, s] >= 0]]
            for r in range(self.D.shape[0])
        ])  # fmt: skip

    def of_input(self, x, dz, D):
        n, c, m = x.shape[0], *self.D.shape[2:]
        found, grad = np.zeros((n, x.shape[1] * x.shape[2], c)), dz.reshape(n, -1, c, m)
        for (r, s), pixel in self.pixel.items():
            inside = pixel >= 0
            found[:, pixel[inside]] += (grad[:, inside] * D[r, s]).sum(-1)  # no pixel is read twice by a tap
        return found.reshape(x.shape)


def expected_gradients(x, layer, residual, grad, unit, between):
    """[(gradient in float64, its error before the last rounding)] in the order of gradient_cases.NAMES."""
    first = layer.data_format == "NCHW"
    x, grad, residual = (
        a.transpose(0, 2, 3, 1) if first and a is not None else a for a in (x, grad, residual)
    )  # fmt: skip
    P = layer.pointwise_filter[0, 0]
    nhwc = dataclasses.replace(layer, data_format="NHWC")
    absolute = dataclasses.replace(nhwc, depthwise_filter=np.abs(layer.depthwise_filter))
    bias, mid_bias = (0.0 if b is None else b for b in (layer.bias, layer.depthwise_bias))
    window = (layer.depthwise_filter[..., 0, 0].size * layer.depthwise_filter.shape[3] + 4) * FLOAT
    before = reference.depthwise(x, nhwc) + mid_bias
    e_before = window * (reference.depthwise(np.abs(x), absolute) + np.abs(mid_bias))
    z = reference.ACTIVATIONS[layer.depthwise_activation[0]](before, layer.depthwise_activation[1])
    e_z = 1.13 * e_before + 16 * FLOAT * (1 + np.abs(before))
    e_z = e_z + between * (np.abs(z) + e_z)
    at = z @ P + bias + (0.0 if residual is None else residual)
    terms = (len(P) + 4) * FLOAT
    e_at = (e_z + terms * np.abs(z)) @ np.abs(P) + terms * (np.abs(bias) + np.abs(at))
    # What tanh and sigmoid give is what their derivative is made of, in 16 bits.
    e_at = e_at + 2 * unit * (layer.activation[0] in ("tanh", "sigmoid"))
    g, e_g = _through(layer.activation, at, e_at, grad, 0.0)
    alone = g, e_g
    e_g = e_g + between * (np.abs(g) + e_g)

    sums = (g[..., 0].size + 4) * FLOAT  # over all pixels
    flat = tuple(a.reshape(-1, a.shape[-1]) for a in (z, e_z, g, e_g))
    dP = flat[0].T @ flat[2]
    e_dP = (np.abs(flat[0]) + flat[1]).T @ flat[3] + flat[1].T @ np.abs(flat[2])
    e_dP = e_dP + sums * (np.abs(flat[0]).T @ np.abs(flat[2]))
    dz = g @ P.T
    e_dz = (e_g + (P.shape[1] + 4) * FLOAT * np.abs(g)) @ np.abs(P).T
    dz, e_dz = _through(layer.depthwise_activation, before, e_before, dz, e_dz)
    taps = _Taps(x, nhwc)
    found = [
        (taps.of_input(x, dz, taps.D), taps.of_input(x, e_dz + window * np.abs(dz), np.abs(taps.D))),
        (taps.of_filter(x, dz), taps.of_filter(np.abs(x), e_dz + sums * np.abs(dz))),
        (dP[None, None], e_dP[None, None]),
        (dz.sum((0, 1, 2)), (e_dz + sums * np.abs(dz)).sum((0, 1, 2))),
        (g.sum((0, 1, 2)), (e_g + sums * np.abs(g)).sum((0, 1, 2))),
        alone,
    ]
    for i in (0, 5):
        found[i] = tuple(a.transpose(0, 3, 1, 2) for a in found[i]) if first else found[i]
    there = (True, True, True, layer.depthwise_bias is not None, layer.bias is not None, residual is not None)
    return [pair for pair, given in zip(found, there) if given]


def agree(dtype: str, isas: tuple, count: int) -> None:
    """The gradients of `count` random layers on each instruction set; raises AssertionError."""
    for seed in range(count):
        shape = random_shape(np.random.default_rng([seed, len(dtype), 2]))
        tensors, keywords = tensors_of(shape, dtype)
        exact = [None if t is None else tf.cast(t, tf.float64).numpy() for t in tensors]
        names = ("depthwise_filter", "pointwise_filter", "depthwise_bias", "bias")
        attributes = ("strides", "dilations", "padding", "data_format", "depthwise_activation", "activation")
        layer = reference.Layer(**dict(zip(names, exact[1:5])), **{name: shape[name] for name in attributes})
        weights = np.random.default_rng(seed).standard_normal(reference.forward(exact[0], layer, exact[5]).shape)
        weights = tf.cast(tf.constant(weights), dtype)
        grad = tf.cast(weights, tf.float64).numpy()
        units = {isa: unit_between(dtype, isa) for isa in isas}
        by_unit = {
            unit: expected_gradients(exact[0], layer, exact[5], grad, UNIT[dtype], unit) for unit in set(units.values())
        }
        for isa in isas:
            os.environ["DWSCONV_ISA"] = isa
            expected = by_unit[units[isa]]
            before = op_calls("dwsconv_backward_calls")
            found = gradients(tensors, keywords, weights)
            assert op_calls("dwsconv_backward_calls")[isa] == before[isa] + 1
            assert len(found) == len(expected)
            for i, (got, (want, error)) in enumerate(zip(found, expected)):
                got = tf.cast(got, tf.float64).numpy()
                assert got.shape == want.shape
                allowed = error + UNIT[dtype] * (np.abs(want) + error) + TINY[dtype]
                worst = np.max(np.abs(got - want) / allowed, initial=0.0)
                assert worst <= 1.0, f"{dtype} {isa} {seed}, gradient {i}: {worst:.3f} of what is allowed; {shape}"
