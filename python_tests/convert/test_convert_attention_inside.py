"""Attention that layers of users' own classes compute: followed, they become one program."""

from __future__ import annotations

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from convert_support import check, difference, functional, pictures
from follow_support import one_program

import tf_dwsconv

pytestmark = pytest.mark.usefixtures("op_library")

L = keras.layers
ops = keras.ops


class Transformer(L.Layer):
    def __init__(self, dim, heads, **kwargs):
        super().__init__(**kwargs)
        self.norms = [L.LayerNormalization(epsilon=1e-6), L.LayerNormalization(epsilon=1e-6)]
        self.attention = L.MultiHeadAttention(heads, dim // heads, dropout=0.1)
        self.mlp = keras.Sequential([L.Dense(2 * dim, activation="gelu"), L.Dropout(0.1), L.Dense(dim)])

    def call(self, x, training=None):
        y = self.norms[0](x)
        x = x + self.attention(y, y, training=training)
        return x + self.mlp(self.norms[1](x), training=training)


class MobileViTBlock(L.Layer):
    """Attends among the pixels at one place of each patch, as the paper does."""

    def __init__(self, dim, patch=2, **kwargs):
        super().__init__(**kwargs)
        self.dim, self.patch = dim, patch
        self.local = [L.DepthwiseConv2D(3, padding="same"), L.Conv2D(dim, 1, activation="silu")]
        self.transformers = [Transformer(dim, 2) for _ in range(2)]
        self.fuse = L.Conv2D(dim, 3, padding="same")

    def call(self, x):
        y = x
        for layer in self.local:
            y = layer(y)
        size, (_, height, width, dim) = self.patch, y.shape
        rows, columns = height // size, width // size
        y = ops.reshape(y, (-1, rows, size, columns, size, dim))
        y = ops.reshape(ops.transpose(y, (0, 2, 4, 1, 3, 5)), (-1, size * size, rows * columns, dim))
        for layer in self.transformers:
            y = layer(y)
        y = ops.reshape(y, (-1, size, size, rows, columns, dim))
        y = ops.reshape(ops.transpose(y, (0, 3, 1, 4, 2, 5)), (-1, height, width, dim))
        return self.fuse(ops.concatenate([x, y], axis=-1))


def test_blocks_of_a_mobilevit():
    def make(x):
        x = L.Conv2D(8, 3, 2, padding="same", activation="silu")(x)
        return L.GlobalAveragePooling2D()(MobileViTBlock(12)(x))

    model = functional(make, (16, 24, 3))
    one_program(model)
    check(model)


def places(height, width):
    """For each pair of places by how much their rows and columns differ, as a number."""
    points = list(itertools.product(range(height), range(width)))
    offsets: dict = {}
    return np.array(
        [[offsets.setdefault((abs(a - c), abs(b - d)), len(offsets)) for c, d in points] for a, b in points]
    )


class LeViTAttention(L.Layer):
    """With a learned bias for each offset between places, and batch norms."""

    def __init__(self, heads=2, key_dim=4, kind="matmul", **kwargs):
        super().__init__(**kwargs)
        self.heads, self.key_dim, self.kind = heads, key_dim, kind

    def build(self, shape):
        _, height, width, channels = shape
        policy = {"dtype": self.dtype_policy}
        self.qkv = L.Dense(self.heads * self.key_dim * 4, use_bias=False, **policy)
        self.qkv.build((None, height * width, channels))
        self.norm = L.BatchNormalization(**policy)
        self.norm.build((None, height * width, self.heads * self.key_dim * 4))
        self.project = L.Conv2D(channels, 1, **policy)
        self.project.build((None, height, width, self.heads * self.key_dim * 2))
        self.indices = places(height, width)
        self.table = self.add_weight(name="table", shape=(self.heads, int(self.indices.max()) + 1))
        self.built = True

    def call(self, x):
        _, height, width, channels = x.shape
        qkv = self.norm(self.qkv(ops.reshape(x, (-1, height * width, channels))))
        qkv = ops.reshape(qkv, (-1, height * width, self.heads, 4 * self.key_dim))
        q, k, v = ops.split(qkv, [self.key_dim, 2 * self.key_dim], axis=-1)
        bias = ops.take(self.table, self.indices, axis=1)
        y = getattr(self, self.kind)(q, k, v, bias)
        return x + self.project(ops.nn.hard_silu(ops.reshape(y, (-1, height, width, self.heads * 2 * self.key_dim))))

    def matmul(self, q, k, v, bias):
        q, k, v = (ops.transpose(t, (0, 2, 1, 3)) for t in (q, k, v))
        scores = ops.softmax(q @ ops.transpose(k, (0, 1, 3, 2)) * self.key_dim**-0.5 + bias)
        return ops.transpose(ops.matmul(scores, v), (0, 2, 1, 3))

    def einsum(self, q, k, v, bias):
        scores = ops.einsum("bthd,bshd->bhts", q, k) * self.key_dim**-0.5
        return ops.einsum("bhts,bshd->bthd", ops.softmax(scores + bias, axis=-1), v)

    def tensorflow(self, q, k, v, bias):
        q, k, v = (tf.transpose(t, [0, 2, 1, 3]) for t in (q, k, v))
        scores = tf.nn.softmax(tf.matmul(q, k, transpose_b=True) * self.key_dim**-0.5 + tf.convert_to_tensor(bias))
        return tf.einsum("bhts,bhsd->bthd", scores, v)

    def fused(self, q, k, v, bias):
        left, right = ops.split(v, 2, axis=-1)
        left = ops.nn.dot_product_attention(q, k, left)
        return ops.concatenate([left, ops.dot_product_attention(q, k, right, scale=0.3)], axis=-1)


@pytest.mark.parametrize("kind", ["matmul", "einsum", "tensorflow", "fused"])
@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_attention_with_a_table_of_biases(kind, policy):
    keras.config.set_dtype_policy(policy)
    try:
        model = functional(
            lambda x: L.DepthwiseConv2D(3)(LeViTAttention(kind=kind, name="levit")(L.Conv2D(6, 3)(x))), (6, 7, 3)
        )
    finally:
        keras.config.set_dtype_policy("float32")
    one_program(model)
    check(model, tolerance=1e-5 if policy == "float32" else 1e-2)


@pytest.mark.parametrize("options", [
    {"bias": np.ones((1, 1, 12, 12), "float32")},
    {"mask": np.tri(12, dtype=bool)[None, None]},
    {"is_causal": True},
], ids=lambda options: next(iter(options)))  # fmt: skip
def test_scores_with_more_to_them_stay(options):
    class Fused(L.Layer):
        def call(self, x):
            y = ops.reshape(x, (-1, 12, 2, 3))
            return ops.reshape(ops.dot_product_attention(y, y, y, **options), (-1, 3, 4, 6))

    model = functional(lambda x: L.DepthwiseConv2D(3)(Fused()(L.Conv2D(6, 3)(x))), (5, 6, 3))
    assert difference(tf_dwsconv.convert(model), model, pictures(model)) < 1e-5


class Own(L.MultiHeadAttention):
    """A subclass may change anything, so its `call` is followed."""

    def call(self, query, value, key=None, **kwargs):
        return super().call(query, value, key, **kwargs) * 2.0


def test_subclasses_of_the_layer():
    model = functional(lambda x: L.DepthwiseConv2D(3)(Own(2, 5)(L.Conv2D(6, 3)(x), L.Conv2D(6, 3)(x))), (6, 7, 3))
    assert difference(tf_dwsconv.convert(model), model, pictures(model)) < 1e-5


@pytest.mark.parametrize("options", [{"training": True}, {"fuse": "blocks"}], ids=["training", "blocks"])
def test_elsewhere_they_compute_the_same(options):
    model = functional(lambda x: L.GlobalAveragePooling2D()(MobileViTBlock(12)(x)), (8, 8, 3))
    assert difference(tf_dwsconv.convert(model, **options), model, pictures(model)) < 1e-5
