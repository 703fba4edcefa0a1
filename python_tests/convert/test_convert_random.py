"""`tf_dwsconv.convert` and back on random graphs: whatever is in the way, the answers stay."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from convert_support import difference, found, pictures, randomise

import tf_dwsconv

pytestmark = pytest.mark.usefixtures("op_library")

L = keras.layers
ACTIVATIONS = ["relu", "relu6", "hard_silu", "silu", "gelu", "elu", "sigmoid", "tanh"]


def random_model(seed):
    """A graph of 12 to 30 layers, each of which reads the last result or, at times, an older one."""
    rng = np.random.default_rng(seed)

    def one_of(*items):
        return items[rng.integers(len(items))]

    inputs = keras.Input((8, 9, int(rng.integers(1, 7))))
    older, shared = [inputs], []
    x = inputs

    def same_size(x):
        return [t for t in older if t.shape == x.shape and t is not x]

    def layer(x):
        channels = x.shape[-1]
        kind = one_of(
            "depthwise", "depthwise", "pointwise", "pointwise", "norm", "norm", "activation", "activation", "separable",
            "dense", "add", "gate", "pad", "layer_norm", "dropout", "grouped", "number", "swish", "shared", "matrix",
        )  # fmt: skip
        act = one_of(None, None, None, *ACTIVATIONS)
        bias = bool(rng.integers(2))
        padding = one_of("same", "same", "valid") if min(x.shape[1:3]) >= 5 else "same"
        if kind == "depthwise":
            stride = one_of(1, 1, 2) if min(x.shape[1:3]) > 3 else 1
            multiplier = one_of(1, 1, 2) if channels < 16 else 1
            return L.DepthwiseConv2D(3, stride, padding, multiplier, activation=act, use_bias=bias)(x)
        if kind == "pointwise":
            return L.Conv2D(one_of(channels, 3, 8), 1, activation=act, use_bias=bias)(x)
        if kind == "matrix":
            return L.Dense(one_of(channels, 4), activation=act, use_bias=bias)(x)
        if kind == "norm":
            return L.BatchNormalization(center=bool(rng.integers(2)), scale=bool(rng.integers(2)))(x)
        if kind == "activation":
            return L.Activation(one_of(*ACTIVATIONS))(x) if bias else L.LeakyReLU(negative_slope=0.2)(x)
        if kind == "separable":
            return L.SeparableConv2D(one_of(channels, 5), 3, padding=padding, activation=act, use_bias=bias)(x)
        if kind == "dense":
            return L.Conv2D(one_of(channels, 6), 3, padding=padding, activation=act, use_bias=bias)(x)
        if kind == "grouped":
            return L.Conv2D(channels, 3, padding=padding, groups=channels, use_bias=bias)(x)
        if kind == "add" and same_size(x):
            other = one_of(*same_size(x))
            return L.Add()([x, other]) if bias else other + x
        if kind == "gate":
            gate = L.GlobalAveragePooling2D(keepdims=True)(one_of(x, *same_size(x)))
            return L.Multiply()([x, L.Conv2D(channels, 1, activation="sigmoid")(gate)])
        if kind == "pad":
            return L.ZeroPadding2D(one_of(1, ((0, 1), (2, 0))))(x)
        if kind == "layer_norm":
            return L.LayerNormalization(epsilon=1e-3)(x)
        if kind == "dropout":
            return L.Dropout(0.5)(x)
        if kind == "number":
            return one_of(x * 0.5, x + 3.0, x - 1.0)
        if kind == "swish":
            return one_of(x * keras.ops.sigmoid(x), x * keras.ops.relu6(x + 3.0) / 6.0)
        fitting = [old for old, size in shared if size == channels]
        if not fitting:
            shared.append((L.DepthwiseConv2D(3, padding="same"), channels))
            fitting = [shared[-1][0]]
        return one_of(*fitting)(x)

    for _ in range(int(rng.integers(12, 31))):
        x = layer(x if rng.random() < 0.85 else one_of(*older))
        older.append(x)
    outputs = [x, *([one_of(*older[1:])] if rng.random() < 0.4 else [])]
    return randomise(keras.Model(inputs, outputs), seed)


@pytest.mark.parametrize("start", range(0, 24, 8))
def test_random_graphs(start):
    fused_blocks = 0
    for seed in range(start, start + 8):
        model = random_model(seed)
        inputs = pictures(model, seed=seed)
        fused = tf_dwsconv.convert(model)
        fused_blocks += len(found(fused))
        assert difference(fused, model, inputs) < 1e-4, seed
        assert difference(tf_dwsconv.to_builtin(fused), model, inputs) < 1e-4, seed
        assert difference(tf_dwsconv.convert(model, training=True), model, inputs) < 1e-4, seed
    assert fused_blocks > 30
