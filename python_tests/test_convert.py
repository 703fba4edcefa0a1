"""`tf_dwsconv.convert`: every pattern, graphs in which something is in the way, and what it must keep."""

from __future__ import annotations

import keras
import pytest
from convert_support import chain, check, randomise

import tf_dwsconv

pytestmark = pytest.mark.usefixtures("op_library")

L = keras.layers


def functional(make, *shapes):
    """A model with random weights: `make` gets an Input for each shape."""
    inputs = [keras.Input(shape, name=f"in{i}") for i, shape in enumerate(shapes or [(16, 16, 6)])]
    outputs = make(*inputs)
    return randomise(keras.Model(inputs if len(inputs) > 1 else inputs[0], outputs, name="net"))


@pytest.mark.parametrize("stride, pad, norm, activation", [
    (1, False, True, None), (2, True, True, "hard_swish"), (2, False, False, "gelu"), (1, True, True, "softmax"),
])  # fmt: skip
def test_chain(stride, pad, norm, activation):
    model = functional(lambda x: chain(x, 8, stride=stride, pad=pad, norm=norm, activation=activation))
    fused = check(model, ["depthwise + 1x1"])
    assert [layer.name for layer in fused.layers] == ["in0", "b_dw", *(["b_act"] if activation == "softmax" else [])]


def test_separable_with_norm_and_activation():
    def make(x):
        x = L.SeparableConv2D(8, 3, padding="same", use_bias=False, depth_multiplier=2, name="sep")(x)
        x = L.BatchNormalization(scale=False)(x)
        return L.LeakyReLU(negative_slope=0.1)(x)

    assert len(check(functional(make), ["separable"]).layers) == 2


def test_residual_and_activation_behind_it():
    def make(x):
        y = L.Add(name="add")([x, chain(x, 6)])
        return L.ReLU()(y)

    fused = check(functional(make), ["depthwise + 1x1 + residual"])
    assert len(fused.layers) == 2 and fused.layers[1].residual


def test_intermediate_results_that_others_read_are_left_alone():
    def make(x):
        z = L.DepthwiseConv2D(3, padding="same", name="dw")(x)
        y = L.Conv2D(4, 1, name="pw")(L.ReLU(name="relu")(z))
        return [y, L.GlobalAveragePooling2D()(z)]

    fused = check(functional(make), ["depthwise", "1x1"])
    assert "'dw' is read by" in tf_dwsconv.convert.report(fused)[0].reason
