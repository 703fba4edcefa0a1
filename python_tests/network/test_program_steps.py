"""Each step of a program against float64 NumPy: step by step on stock ops, and as `FusedNetwork` computes it."""

from __future__ import annotations

import functools
import json
import math

import numpy as np
import program_reference
import pytest
import tensorflow as tf
from program_support import program

from tf_dwsconv._program import Program
from tf_dwsconv._tf import program as programs
from tf_dwsconv._tf import program_stock

pytestmark = pytest.mark.usefixtures("op_library")

PICTURE = [None, 7, 6, 5]
ROWS = [None, 3, 5]
WAYS = {"steps": program_stock.compute, "network": programs.run}

# By name: a step, the shapes of its inputs, and those of its weights.
CASES = {
    "chain": (
        {
            "op": "chain", "gate": 1, "residual": 2, "strides": [1, 2], "padding": [[1, 0], [0, 2]], "weights": {
                "expand_filter": 0, "expand_bias": 1, "depthwise_filter": 2, "pointwise_filter": 3, "bias": 4,
            },
            "expand_activation": {"word": "relu6"}, "depthwise_activation": {"word": "silu"},
            "activation": {"word": "leaky_relu", "alpha": 0.3}, "normalize": True, "epsilon": 0.01,
        },
        [PICTURE, [None, 8], [None, 6, 3, 4]], [[1, 1, 5, 8], [8], [3, 3, 8, 1], [1, 1, 8, 4], [4]],
    ),
    "chain, dense": (
        {
            "op": "chain", "strides": [2, 2], "weights": {"pointwise_filter": 0, "bias": 1},
            "activation": {"word": "tanh"},
        },
        [PICTURE], [[3, 2, 5, 4], [4]],
    ),
    "dense": (
        {"op": "dense", "weights": {"filter": 0, "bias": 1}, "activation": {"word": "elu", "alpha": 0.7}},
        [ROWS], [[5, 4], [4]],
    ),
    "dense with a residual": (
        {"op": "dense", "residual": 1, "weights": {"filter": 0}, "activation": {"word": "relu"}},
        [ROWS, [None, 3, 4]], [[5, 4]],
    ),
    "dense of rows": ({"op": "dense", "weights": {"filter": 0}}, [[None, 5]], [[5, 4]]),
    "max_pool": ({"op": "max_pool", "window": [2, 3]}, [PICTURE], []),
    "max_pool same": ({"op": "max_pool", "window": [3, 3], "strides": [2, 2], "padding": "same"}, [PICTURE], []),
    "max_pool explicit": (
        {"op": "max_pool", "window": [3, 3], "strides": [2, 1], "padding": [[1, 2], [0, 1]]}, [PICTURE], [],
    ),
    "average_pool": ({"op": "average_pool", "window": [3, 2], "strides": [1, 1]}, [PICTURE], []),
    "average_pool same": ({"op": "average_pool", "window": [3, 3], "padding": "same"}, [PICTURE], []),
    "average_pool explicit": (
        {"op": "average_pool", "window": [3, 3], "strides": [2, 2], "padding": [[1, 0], [2, 2]]}, [PICTURE], [],
    ),
    "mean": ({"op": "mean"}, [PICTURE], []),
    "mean kept": ({"op": "mean", "keepdims": True}, [PICTURE], []),
    "max": ({"op": "max"}, [PICTURE], []),
    "add": (
        {"op": "add", "y": 1, "activation": {"word": "relu", "max_value": 1.5}}, [PICTURE, [None, 1, 6, 5]], [],
    ),
    "subtract": ({"op": "subtract", "weights": {"y": 0}}, [PICTURE], [[5]]),
    "multiply": ({"op": "multiply", "y": 1}, [PICTURE, [None, 1, 1, 5]], []),
    "multiply one": ({"op": "multiply", "weights": {"y": 0}}, [[None, 4]], [[1]]),
    "maximum": ({"op": "maximum", "y": 1}, [PICTURE, PICTURE], []),
    "minimum": ({"op": "minimum", "weights": {"y": 0}}, [PICTURE], [[6, 5]]),
    "activation": ({"op": "activation", "activation": {"word": "gelu"}}, [PICTURE], []),
    "relu with a threshold": (
        {"op": "activation", "activation": {"word": "leaky_relu", "alpha": 0.5, "threshold": 0.25, "max_value": 2.0}},
        [PICTURE], [],
    ),
    "prelu": ({"op": "activation", "activation": {"word": "prelu"}, "weights": {"slopes": 0}}, [PICTURE], [[5]]),
    "normalize": ({"op": "normalize", "weights": {"gamma": 0, "beta": 1}, "epsilon": 0.1}, [ROWS], [[5], [5]]),
    "power": ({"op": "power", "exponent": 3.0}, [PICTURE], []),
    "softmax": ({"op": "softmax"}, [ROWS], []),
    "matmul": ({"op": "matmul", "y": 1}, [[None, 2, 7, 5], [None, 2, 5, 9]], []),
    "matmul turned": (
        {"op": "matmul", "y": 1, "transpose_x": True, "transpose_y": True}, [[None, 5, 7], [None, 9, 5]], [],
    ),
    "concatenate": ({"op": "concatenate", "xs": [0, 1, 0], "axis": 3}, [PICTURE, [None, 7, 6, 2]], []),
    "pad": ({"op": "pad", "paddings": [[0, 0], [1, 2], [0, 1], [0, 3]], "value": 0.5}, [PICTURE], []),
    "resize nearest": ({"op": "resize", "scale": [2, 3], "method": "nearest"}, [PICTURE], []),
    "resize bilinear": ({"op": "resize", "size": [10, 18], "method": "bilinear"}, [PICTURE], []),
    "reshape": ({"op": "reshape", "shape": [3, -1, 5]}, [PICTURE], []),
    "reshape to more pictures": ({"op": "reshape", "shape": [6, -1], "pictures": [1, 7]}, [PICTURE], []),
    "reshape to fewer pictures": ({"op": "reshape", "shape": [9, 5], "pictures": [3, 1]}, [ROWS], []),
    "crop": ({"op": "crop", "croppings": [[0, 0], [1, 2], [0, 3], [0, 0]]}, [PICTURE], []),
    "crop of channels": ({"op": "crop", "croppings": [[0, 0], [0, 0], [0, 0], [2, 1]]}, [PICTURE], []),
    "crop of rows": ({"op": "crop", "croppings": [[0, 0], [1, 1], [3, 0]]}, [ROWS], []),
    "transpose": ({"op": "transpose", "axes": [0, 2, 1, 3]}, [PICTURE], []),
    "transpose to the front": ({"op": "transpose", "axes": [0, 3, 1, 2]}, [PICTURE], []),
    "transpose of rows": ({"op": "transpose", "axes": [0, 2, 1]}, [ROWS], []),
    "depth_to_space": ({"op": "depth_to_space", "block": [2, 2]}, [[None, 3, 4, 12]], []),
    "depth_to_space cropped": (
        {"op": "depth_to_space", "block": [2, 3], "croppings": [[1, 2], [4, 0]]}, [[None, 3, 4, 12]], [],
    ),
}  # fmt: skip


def make(name, dtype="float32", free=False):
    """(program, inputs, flat weights, expected) of a case; all that comes in is exact in `dtype`."""
    step, shapes, weights = CASES[name]
    step = {**({} if "xs" in step else {"x": 0}), "output": len(shapes), **step}
    given = [[None] * (len(s) - 1) + s[-1:] if free else s for s in shapes]
    text = program([step], dict(enumerate(given)), [step["output"]], weights, dtype)
    rng = np.random.default_rng(sum(map(ord, name)))
    kind = program_reference.DTYPES[dtype]
    xs = [rng.uniform(-1, 1, (3, *s[1:])).astype(kind) for s in shapes]
    flat = rng.uniform(-1, 1, sum(map(math.prod, weights))).astype(kind)
    [expected] = program_reference.run(json.loads(text), flat, xs)
    return Program.from_text(text), list(map(tf.constant, xs)), tf.constant(flat), expected


def close(y, expected, dtype="float32"):
    """Sums of at most 60 products of numbers below 1, each rounded; and of 16 bits the result."""
    y = np.asarray(tf.cast(y, tf.float64))
    assert y.shape == expected.shape
    epsilon = {"float32": 60 * 2.0**-24, "bfloat16": 2.0**-7, "float16": 2.0**-10}[dtype]
    assert np.abs(y - expected).max() <= 4 * epsilon * max(1.0, np.abs(expected).max())


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
    for name, (_, shapes, _) in CASES.items():
        parsed, xs, flat, expected = make(name, free=True)
        specs = [tf.TensorSpec([None] * (len(s) - 1) + s[-1:], tf.float32) for s in shapes]
        traced = tf.function(functools.partial(_only, WAYS[way], parsed))
        concrete = traced.get_concrete_function(*specs, tf.TensorSpec(flat.shape, tf.float32))
        close(concrete(*xs, flat), expected)
        assert concrete(*(x[:0] for x in xs), flat).shape == (0, *expected.shape[1:])


def test_gradients():
    """By central differences along a random direction, of the steps without kinks."""
    kinks = {"chain", "max_pool", "max", "maximum", "minimum", "add", "prelu", "relu"}
    rng = np.random.default_rng(0)
    for name in CASES:
        if name.split(" ")[0] in kinks:
            continue
        parsed, xs, flat, expected = make(name)
        sources = [*xs, flat]
        weight, *ways = (rng.standard_normal(shape) for shape in (expected.shape, *(t.shape for t in sources)))
        with tf.GradientTape() as tape:
            tape.watch(sources)
            [y] = programs.run(parsed, xs, flat)
            loss = tf.reduce_sum(y * tf.constant(weight, tf.float32))
        found = [g.numpy() for g in tape.gradient(loss, sources, unconnected_gradients="zero")]
        slope = sum(np.sum(g * way) for g, way in zip(found, ways))
        step, ends = 1e-4, []
        for sign in (1, -1):
            moved = [t.numpy().astype(np.float64) + sign * step * way for t, way in zip(sources, ways)]
            [y] = program_reference.run(json.loads(parsed.text), moved[-1], moved[:-1])
            ends.append(np.sum(y * weight))
        size = math.sqrt(sum(np.sum(g * g) for g in found) * sum(np.sum(way * way) for way in ways))
        assert abs(slope - (ends[0] - ends[1]) / (2 * step)) <= 1e-5 * size, name
