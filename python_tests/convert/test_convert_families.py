"""`tf_dwsconv.convert` on the networks of keras.applications, small ones of each family."""

from __future__ import annotations

import collections

import keras
import numpy as np
import pytest
from conftest import op_calls
from convert_support import difference, found
from keras.src.applications.densenet import DenseNet
from keras.src.applications.nasnet import NASNet

import tf_dwsconv

pytestmark = pytest.mark.usefixtures("op_library")

APPLICATIONS = keras.applications


def calibrated(make, size):
    """The network with batch-norm statistics of its own activations, so that numbers stay in range."""
    keras.utils.set_random_seed(0)
    model = make()
    x = np.random.default_rng(1).standard_normal((4, size, size, 3)).astype("float32")
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.5
    for _ in range(4):
        model(x, training=True)
    return model


def check(make, size, expected, **options):
    model = calibrated(make, size)
    fused = tf_dwsconv.convert(model, **options)
    x = np.random.default_rng(0).standard_normal((2, size, size, 3)).astype("float32")
    before = sum(op_calls().values())
    assert difference(fused, model, [x]) < 1e-4
    counts = collections.Counter(found(fused))
    assert {pattern: counts[pattern] for pattern in expected} == expected
    return sum(op_calls().values()) - before


def test_mobilenet():
    """13 of 13 chains, and each is a call of the op."""

    def make():
        return APPLICATIONS.MobileNet((32, 32, 3), alpha=0.25, weights=None, classes=10)

    assert check(make, 32, {"depthwise + 1x1": 13, "convolution": 1}, fuse="blocks") >= 13


def test_mobilenet_v2():
    """17 of 17: each inverted residual is one layer."""

    def make():
        return APPLICATIONS.MobileNetV2((32, 32, 3), alpha=0.35, weights=None, classes=10)

    inverted = {"depthwise + 1x1": 1, "expand + depthwise + 1x1": 6, "expand + depthwise + 1x1 + residual": 10}
    check(make, 32, inverted)


def test_xception():
    """34 of 34, and 8 with their residuals."""

    def make():
        return APPLICATIONS.Xception(weights=None, include_top=False, input_shape=(71, 71, 3))

    check(make, 71, {"separable": 26, "separable + residual": 8})


def test_mobilenet_v3():
    def make():
        return APPLICATIONS.MobileNetV3Small((32, 32, 3), alpha=0.75, weights=None, classes=10)

    whole = {"expand + depthwise + 1x1": 1, "expand + depthwise + 1x1 + residual": 1}
    gated = {"depthwise": 1, "expand + depthwise": 8, "gate + 1x1": 4, "gate + 1x1 + residual": 5}
    check(make, 32, {**whole, **gated})


def test_efficientnet():
    def make():
        return APPLICATIONS.EfficientNetB0(input_shape=(32, 32, 3), weights=None, classes=10)

    check(make, 32, {"depthwise": 1, "expand + depthwise": 15, "gate + 1x1": 7, "gate + 1x1 + residual": 9})


def test_convnext():
    def make():
        return APPLICATIONS.ConvNeXtTiny(input_shape=(32, 32, 3), weights=None, classes=10)

    check(make, 32, {"depthwise + norm + 1x1": 18, "1x1 + residual": 18})


def test_nasnet():
    def make():
        return NASNet(
            (32, 32, 3), penultimate_filters=96, num_blocks=1, stem_block_filters=8, skip_reduction=False, weights=None,
            include_top=False, default_size=32,
        )  # fmt: skip

    model = calibrated(make, 32)
    fused = tf_dwsconv.convert(model)
    x = np.random.default_rng(0).standard_normal((2, 32, 32, 3)).astype("float32")
    assert difference(fused, model, [x]) < 1e-4
    separable = sum(isinstance(layer, keras.layers.SeparableConv2D) for layer in model.layers)
    assert sum(pattern.startswith("separable") for pattern in found(fused)) == separable > 40


DENSE = {
    "EfficientNetV2B0": (32, lambda: APPLICATIONS.EfficientNetV2B0(input_shape=(32, 32, 3), weights=None, classes=10)),
    "DenseNet": (32, lambda: DenseNet([2, 3, 2, 2], input_shape=(32, 32, 3), weights=None, classes=10)),
    "ResNet50V2": (32, lambda: APPLICATIONS.ResNet50V2(input_shape=(32, 32, 3), weights=None, classes=10)),
    "InceptionV3": (75, lambda: APPLICATIONS.InceptionV3(input_shape=(75, 75, 3), weights=None, classes=10)),
    "InceptionResNetV2": (
        75,
        lambda: APPLICATIONS.InceptionResNetV2(input_shape=(75, 75, 3), weights=None, classes=10),
    ),
    "VGG16": (32, lambda: APPLICATIONS.VGG16(input_shape=(32, 32, 3), weights=None, classes=10)),
}


@pytest.mark.parametrize("name", DENSE)
def test_networks_of_dense_convolutions_are_one_program(name):
    size, make = DENSE[name]
    model = calibrated(make, size)
    fused = tf_dwsconv.convert(model)
    assert [type(layer) for layer in fused.layers] == [keras.layers.InputLayer, tf_dwsconv.FusedNetwork]
    x = np.random.default_rng(0).standard_normal((2, size, size, 3)).astype("float32")
    before = sum(op_calls().values())
    assert difference(fused, model, [x]) < 1e-4
    convolutions = sum(isinstance(layer, keras.layers.Conv2D) for layer in model.layers)
    assert sum(op_calls().values()) - before >= convolutions
