"""The rule `scale`: scales and offsets that no convolution could take."""

import pytest
from rule_support import L, functional, rewritten, search

from tf_dwsconv.convert.rules import depthwise, scale

pytestmark = pytest.mark.usefixtures("op_library")


def model_of(*layers):
    """A block, and some layers behind a pooling that keeps them from it."""

    def make(x):
        y = L.MaxPooling2D()(L.DepthwiseConv2D(3, padding="same")(x))
        for layer in layers:
            y = layer(y)
        return L.AveragePooling2D(2)(y)

    return functional(make)


def test_a_norm_and_an_activation_are_one_pass():
    _, block = rewritten(model_of(L.BatchNormalization(), L.ReLU()), depthwise, scale)
    assert block.pattern == "scale" and block.depthwise_activation.word == "relu"
    assert block.depthwise.kernel.shape == (1, 1, 6, 1)


def test_one_pass_is_left_to_stock_ops():
    assert len(search(model_of(L.Rescaling(0.5)), depthwise, scale).found) == 1


def test_a_model_without_a_block_is_left_alone():
    assert search(model_of(L.BatchNormalization(), L.ReLU()), scale).found == []
