"""Each step of a program against float64 NumPy: step by step on stock ops, and as `FusedNetwork` computes it."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
import tensorflow as tf
from program_support import program
from reference import ACTIVATIONS, Layer, depthwise

from tf_dwsconv._program import Program
from tf_dwsconv._tf import program as programs
from tf_dwsconv._tf import program_stock

pytestmark = pytest.mark.usefixtures("op_library")

PICTURE = [None, 7, 6, 5]
WAYS = {"steps": program_stock.compute, "network": programs.run}


def act(x, word="none", alpha=0.2):
    return ACTIVATIONS[word](x, alpha)


def windows(x, size, strides, padding, outside):
    """[N, Ho, Wo, R, S, C]: what lies under each window, `outside` where that is nothing."""
    pads = []
    for axis in (0, 1):
        total = 0
        if padding == "same":
            total = max(
                (-(-x.shape[axis + 1] // strides[axis]) - 1) * strides[axis] + size[axis] - x.shape[axis + 1], 0
            )
        pads.append((total // 2, total - total // 2) if isinstance(padding, str) else padding[axis])
    x = np.pad(x, [(0, 0), *pads, (0, 0)], constant_values=outside)
    found = np.lib.stride_tricks.sliding_window_view(x, size, axis=(1, 2))
    return found[:, :: strides[0], :: strides[1]].transpose(0, 1, 2, 4, 5, 3)


def average(x, size, strides, padding):
    return np.nanmean(windows(x, size, strides, padding, np.nan), axis=(3, 4))


def maximum(x, size, strides, padding):
    return windows(x, size, strides, padding, -np.inf).max(axis=(3, 4))


def convolved(x, kernel, strides, padding):
    under = windows(x, kernel.shape[:2], strides, padding, 0.0)
    return np.einsum("npqrsc,rsck->npqk", under, kernel)


def normalized(x, epsilon):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + epsilon)


def resized(x, by, method):
    """Pixels by their middles."""
    for axis, factor in ((1, by[0]), (2, by[1])):
        size = x.shape[axis]
        places = (np.arange(size * factor) + 0.5) / factor - 0.5
        if method == "nearest":
            x = np.take(x, np.arange(size * factor) // factor, axis)
            continue
        low = np.floor(places).astype(int)
        share = (places - low).reshape([-1 if i == axis else 1 for i in range(4)])
        ends = [np.take(x, np.clip(low + i, 0, size - 1), axis) for i in (0, 1)]
        x = ends[0] * (1 - share) + ends[1] * share
    return x


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def _block(x, gate, residual, expand, expand_bias, taps, pointwise, bias):
    z = act(x @ expand[0, 0] + expand_bias, "relu6")
    z = depthwise(z, Layer(taps, pointwise, strides=(1, 2), padding=((1, 0), (0, 2))))
    z = normalized(act(z, "silu"), 0.01) * gate[:, None, None]
    return act(z @ pointwise[0, 0] + bias + residual, "leaky_relu", 0.3)


# By name: the step, shapes of inputs and of weights, and what is expected of them in float64.
CASES = {
    "chain": (
        {
            "op": "chain", "x": 0, "gate": 1, "residual": 2, "output": 3, "strides": [1, 2],
            "padding": [[1, 0], [0, 2]], "weights": {
                "expand_filter": 0, "expand_bias": 1, "depthwise_filter": 2, "pointwise_filter": 3, "bias": 4,
            },
            "expand_activation": {"word": "relu6"}, "depthwise_activation": {"word": "silu"},
            "activation": {"word": "leaky_relu", "alpha": 0.3}, "normalize": True, "epsilon": 0.01,
        },
        [PICTURE, [None, 8], [None, 6, 3, 4]], [[1, 1, 5, 8], [8], [3, 3, 8, 1], [1, 1, 8, 4], [4]], _block,
    ),
    "chain, dense": (
        {
            "op": "chain", "strides": [2, 2], "weights": {"pointwise_filter": 0, "bias": 1},
            "activation": {"word": "tanh"},
        },
        [PICTURE], [[3, 2, 5, 4], [4]], lambda x, w, b: np.tanh(convolved(x, w, (2, 2), "same") + b),
    ),
    "dense": (
        {"op": "dense", "weights": {"filter": 0, "bias": 1}, "activation": {"word": "elu", "alpha": 0.7}},
        [[None, 3, 5]], [[5, 4], [4]], lambda x, w, b: act(x @ w + b, "elu", 0.7),
    ),
    "dense of rows": ({"op": "dense", "weights": {"filter": 0}}, [[None, 5]], [[5, 4]], lambda x, w: x @ w),
    "max_pool": ({"op": "max_pool", "window": [2, 3]}, [PICTURE], [], lambda x: maximum(x, (2, 3), (2, 3), "valid")),
    "max_pool same": (
        {"op": "max_pool", "window": [3, 3], "strides": [2, 2], "padding": "same"},
        [PICTURE], [], lambda x: maximum(x, (3, 3), (2, 2), "same"),
    ),
    "max_pool explicit": (
        {"op": "max_pool", "window": [3, 3], "strides": [2, 1], "padding": [[1, 2], [0, 1]]},
        [PICTURE], [], lambda x: maximum(x, (3, 3), (2, 1), ((1, 2), (0, 1))),
    ),
    "average_pool": (
        {"op": "average_pool", "window": [3, 2], "strides": [1, 1]}, [PICTURE], [],
        lambda x: average(x, (3, 2), (1, 1), "valid"),
    ),
    "average_pool same": (
        {"op": "average_pool", "window": [3, 3], "strides": [2, 2], "padding": "same"}, [PICTURE], [],
        lambda x: average(x, (3, 3), (2, 2), "same"),
    ),
    "average_pool explicit": (
        {"op": "average_pool", "window": [3, 3], "strides": [2, 2], "padding": [[1, 0], [2, 2]]}, [PICTURE], [],
        lambda x: average(x, (3, 3), (2, 2), ((1, 0), (2, 2))),
    ),
    "mean": ({"op": "mean"}, [PICTURE], [], lambda x: x.mean((1, 2))),
    "mean kept": ({"op": "mean", "keepdims": True}, [PICTURE], [], lambda x: x.mean((1, 2), keepdims=True)),
    "max": ({"op": "max"}, [PICTURE], [], lambda x: x.max((1, 2))),
    "add": (
        {"op": "add", "y": 1, "activation": {"word": "relu", "max_value": 1.5}}, [PICTURE, [None, 1, 6, 5]], [],
        lambda x, y: np.clip(x + y, 0, 1.5),
    ),
    "subtract": ({"op": "subtract", "weights": {"y": 0}}, [PICTURE], [[5]], lambda x, y: x - y),
    "multiply": ({"op": "multiply", "y": 1}, [PICTURE, [None, 1, 1, 5]], [], lambda x, y: x * y),
    "multiply one": ({"op": "multiply", "weights": {"y": 0}}, [[None, 4]], [[1]], lambda x, y: x * y),
    "maximum": ({"op": "maximum", "y": 1}, [PICTURE, PICTURE], [], np.maximum),
    "minimum": ({"op": "minimum", "weights": {"y": 0}}, [PICTURE], [[6, 5]], np.minimum),
    "activation": ({"op": "activation", "activation": {"word": "gelu"}}, [PICTURE], [], lambda x: act(x, "gelu")),
    "relu with a threshold": (
        {"op": "activation", "activation": {"word": "leaky_relu", "alpha": 0.5, "threshold": 0.25, "max_value": 2.0}},
        [PICTURE], [], lambda x: np.where(x > 0.25, np.minimum(x, 2), 0.5 * (x - 0.25)),
    ),
    "prelu": (
        {"op": "activation", "activation": {"word": "prelu"}, "weights": {"slopes": 0}}, [PICTURE], [[5]],
        lambda x, a: np.where(x < 0, a * x, x),
    ),
    "normalize": (
        {"op": "normalize", "weights": {"gamma": 0, "beta": 1}, "epsilon": 0.1}, [[None, 3, 5]], [[5], [5]],
        lambda x, g, b: normalized(x, 0.1) * g + b,
    ),
    "softmax": ({"op": "softmax"}, [[None, 3, 5]], [], softmax),
    "concatenate": (
        {"op": "concatenate", "xs": [0, 1, 0], "output": 2, "axis": 3}, [PICTURE, [None, 7, 6, 2]], [],
        lambda x, y: np.concatenate([x, y, x], 3),
    ),
    "pad": (
        {"op": "pad", "paddings": [[0, 0], [1, 2], [0, 1], [0, 3]], "value": 0.5}, [PICTURE], [],
        lambda x: np.pad(x, [(0, 0), (1, 2), (0, 1), (0, 3)], constant_values=0.5),
    ),
    "resize nearest": (
        {"op": "resize", "scale": [2, 3], "method": "nearest"}, [PICTURE], [], lambda x: resized(x, (2, 3), "nearest"),
    ),
    "resize bilinear": (
        {"op": "resize", "size": [14, 18], "method": "bilinear"}, [PICTURE], [],
        lambda x: resized(x, (2, 3), "bilinear"),
    ),
    "reshape": ({"op": "reshape", "shape": [3, -1, 5]}, [PICTURE], [], lambda x: x.reshape(len(x), 3, -1, 5)),
}  # fmt: skip


def make(name, dtype="float32", free=False):
    """(program, inputs, flat weights, expected) of a case; all that comes in is exact in `dtype`."""
    step, shapes, weights, expected = CASES[name]
    step = {**({} if "xs" in step else {"x": 0}), "output": len(shapes), **step}
    given = [[None] * (len(s) - 1) + s[-1:] if free else s for s in shapes]
    text = program([step], dict(enumerate(given)), [step["output"]], weights, dtype)
    rng = np.random.default_rng(sum(map(ord, name)))
    exact = lambda *shape: tf.cast(rng.uniform(-1, 1, shape), dtype)  # noqa: E731
    xs = [exact(3, *s[1:]) for s in shapes]
    ws = [exact(*s) for s in weights]
    flat = tf.concat([tf.zeros([0], dtype), *(tf.reshape(w, [-1]) for w in ws)], 0)
    wide = [np.asarray(tf.cast(t, tf.float64)) for t in (*xs, *ws)]
    return Program.from_text(text), xs, flat, expected(*wide)


def close(y, expected, dtype="float32"):
    """Sums of at most 60 products of numbers below 1, each rounded; and of 16 bits the result."""
    y = np.asarray(tf.cast(y, tf.float64))
    assert y.shape == expected.shape
    epsilon = {"float32": 60 * 2.0**-24, "bfloat16": 2.0**-7, "float16": 2.0**-10}[dtype]
    assert np.abs(y - expected).max() <= epsilon * max(1.0, np.abs(expected).max()) * 4


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", CASES)
def test_steps(name, way):
    parsed, xs, flat, expected = make(name)
    [y] = WAYS[way](parsed, xs, flat)
    close(y, expected)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_16_bits(dtype, way):
    for name in CASES:
        if name == "chain":  # its stages are rounded in between where the CPU multiplies bfloat16
            continue
        parsed, xs, flat, expected = make(name, dtype)
        [y] = WAYS[way](parsed, xs, flat)
        assert y.dtype == dtype
        close(y, expected, dtype)


def _only(compute, parsed, *tensors):
    """The only output, of the inputs and, last, the weights."""
    return compute(parsed, list(tensors[:-1]), tensors[-1])[0]


@pytest.mark.parametrize("way", WAYS)
def test_free_sizes_in_graphs(way):
    """Sizes that nobody knows when the graph is made; and an empty batch."""
    for name, (_, shapes, _, _) in CASES.items():
        parsed, xs, flat, expected = make(name, free=True)
        specs = [tf.TensorSpec([None] * (len(s) - 1) + s[-1:], tf.float32) for s in shapes]
        traced = tf.function(functools.partial(_only, WAYS[way], parsed))
        concrete = traced.get_concrete_function(*specs, tf.TensorSpec(flat.shape, tf.float32))
        close(concrete(*xs, flat), expected)
        assert concrete(*(x[:0] for x in xs), flat).shape == (0, *expected.shape[1:])


def test_gradients_of_steps():
    """By central differences along a random direction, in what the steps without kinks read."""
    kinks = {"chain", "max_pool", "max", "maximum", "minimum", "add", "prelu", "relu"}
    rng = np.random.default_rng(0)
    for name in CASES:
        if name.split(" ")[0] in kinks:
            continue
        parsed, xs, flat, expected = make(name)
        weight = tf.constant(rng.standard_normal(expected.shape), tf.float32)
        with tf.GradientTape() as tape:
            tape.watch([*xs, flat])
            [y] = programs.run(parsed, xs, flat)
            loss = tf.reduce_sum(y * weight)
        found = tape.gradient(loss, [*xs, flat], unconnected_gradients="zero")
        ways = [tf.constant(rng.standard_normal(t.shape), tf.float32) for t in (*xs, flat)]
        slope = sum(float(tf.reduce_sum(g * way)) for g, way in zip(found, ways))
        step = 1e-2
        ends = []
        for sign in (1, -1):
            moved = [t + sign * step * way for t, way in zip((*xs, flat), ways)]
            [y] = program_stock.compute(parsed, moved[:-1], moved[-1])
            ends.append(float(tf.reduce_sum(tf.cast(y, tf.float64) * tf.cast(weight, tf.float64))))
        numeric = (ends[0] - ends[1]) / (2 * step)
        size = math.sqrt(sum(float(tf.reduce_sum(g * g)) for g in found)) * math.sqrt(
            sum(float(tf.reduce_sum(way * way)) for way in ways)
        )
        assert abs(slope - numeric) <= 2e-3 * size, name
