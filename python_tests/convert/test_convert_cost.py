"""Which dense convolutions convert takes: the rule at its limits, and what convert makes of it."""

import keras
import numpy as np
import pytest

import tf_dwsconv
from tf_dwsconv.convert import _cost

L = keras.layers


@pytest.mark.parametrize(
    "window, channels, filters, strides, pays",
    [
        ((1, 1), 512, 8, (2, 2), True),  # no window at all
        ((3, 3), 3, 32, (2, 2), True),
        ((7, 7), 3, 64, (2, 2), True),
        ((7, 7), 4, 64, (2, 2), False),  # taps at strides, one step beyond the limit
        ((3, 3), 16, 8, (2, 2), True),
        ((3, 3), 17, 8, (2, 2), False),
        ((2, 2), 17, 64, (2, 2), False),  # few taps, but many channels
        ((3, 3), 3, 64, (1, 1), True),
        ((3, 3), 3, 63, (1, 1), False),
        ((5, 5), 3, 64, (1, 1), True),
        ((5, 5), 4, 64, (1, 1), False),
        ((3, 3), 3, 32, (2, 1), False),  # a stride along one axis alone
        ((3, 3), 3, 32, (1, 2), False),
        ((1, 64), 1, 8, (1, 1), False),  # of EEGNet, and others that were slower than stock
        ((9, 9), 3, 64, (1, 1), False),
        ((31, 31), 1, 64, (2, 2), False),
        ((64, 1), 2, 64, (1, 1), False),
    ],
)
def test_rule(window, channels, filters, strides, pays):
    assert _cost.dense_pays(window, channels, filters, strides) is pays


@pytest.mark.parametrize("filters, strides", [(8, 1), (64, 1), (8, 2)])
def test_convert_follows_the_rule(filters, strides):
    x = keras.Input((12, 12, 3))
    model = keras.Model(x, L.ReLU()(L.Conv2D(filters, 3, strides=strides, name="conv")(x)))
    fused = tf_dwsconv.convert(model, fuse="blocks")
    blocks = [layer for layer in fused.layers if isinstance(layer, tf_dwsconv.FusedConvBlock)]
    assert len(blocks) == _cost.dense_pays((3, 3), 3, filters, (strides, strides)) == (filters == 64 or strides == 2)
    picture = np.random.default_rng(0).standard_normal((2, 12, 12, 3), np.float32)
    np.testing.assert_allclose(fused(picture), model(picture), atol=2e-5)


def test_the_first_convolution_of_eegnet_stays():
    x = keras.Input((16, 32, 1))
    y = L.BatchNormalization()(L.Conv2D(8, (1, 16), padding="same", use_bias=False, name="time")(x))
    y = L.DepthwiseConv2D((16, 1), depth_multiplier=2, use_bias=False)(y)
    y = L.SeparableConv2D(16, (1, 16), padding="same", use_bias=False)(L.AveragePooling2D((1, 4))(y))
    model = keras.Model(x, L.BatchNormalization()(y))
    fused = tf_dwsconv.convert(model, fuse="blocks")
    assert type(fused.layers[1]) is L.Conv2D and fused.layers[1].use_bias
    assert not any(isinstance(layer, L.BatchNormalization) for layer in fused.layers)
    picture = np.random.default_rng(0).standard_normal((2, 16, 32, 1), np.float32)
    np.testing.assert_allclose(fused(picture), model(picture), atol=2e-5)
