"""Convolutions of one dimension through convert: blocks of pictures of one row."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest
from conftest import op_calls
from convert_support import L, check, difference, found, functional, pictures

import tf_dwsconv

pytestmark = pytest.mark.usefixtures("op_library")
SHAPE = (21, 6)


def separable(x, **options):
    y = L.SeparableConv1D(10, 5, use_bias=False, name="conv", **options)(x)
    return L.ReLU(name="last")(L.BatchNormalization(name="norm")(y))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"padding": "same"},
        {"strides": 2},
        {"strides": 3, "padding": "same"},
        {"dilation_rate": 2, "padding": "same"},
        {"depth_multiplier": 3, "activation": "silu"},
    ],
    ids=json.dumps,
)
def test_separable(options):
    fused = check(functional(lambda x: separable(x, **options), SHAPE), ["separable"])
    assert fused.output_names == ["last"]
    calls = sum(op_calls().values())
    fused(pictures(fused)[0])
    assert sum(op_calls().values()) == calls + 1


@pytest.mark.parametrize("project", [lambda: L.Conv1D(7, 1), lambda: L.Dense(7)], ids=["Conv1D", "Dense"])
def test_depthwise_and_what_follows(project):
    def make(x):
        y = L.DepthwiseConv1D(3, padding="same", depth_multiplier=2, name="conv")(x)
        y = L.Activation("relu6")(L.BatchNormalization()(y))
        return project()(y)

    check(functional(make, SHAPE), ["depthwise + 1x1"])


def test_a_residual_and_two_blocks_in_a_row():
    def make(x):
        y = L.SeparableConv1D(6, 3, padding="same", name="first")(x)
        y = L.ReLU()(L.Add()([L.BatchNormalization()(y), x]))
        return L.Add()([L.DepthwiseConv1D(3, padding="same", name="second")(y), y])

    check(functional(make, SHAPE), ["separable + residual", "depthwise + residual"])


def test_any_length():
    x = keras.Input((None, 6))
    model = keras.Model(x, separable(x))
    fused = tf_dwsconv.convert(model, fuse="blocks")
    assert found(fused) == ["separable"]
    for length in (5, 8, 30):
        numbers = np.random.default_rng(length).standard_normal((2, length, 6)).astype(np.float32)
        assert difference(fused, model, [numbers]) < 1e-5


def test_the_way_back():
    model = functional(separable, SHAPE)
    stock = tf_dwsconv.to_builtin(tf_dwsconv.convert(model, fuse="blocks"))
    assert difference(stock, model, pictures(model)) < 1e-5
    assert not any(type(layer).__module__.startswith("tf_dwsconv") for layer in stock.layers)


def test_channels_first_stays():
    model = functional(lambda x: L.SeparableConv1D(4, 3, data_format="channels_first", name="conv")(x), SHAPE)
    (row,) = tf_dwsconv.convert.report(tf_dwsconv.convert(model, fuse="blocks"))
    assert row.fused is None and "channels last" in row.reason
