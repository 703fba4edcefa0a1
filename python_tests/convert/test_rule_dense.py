"""The rule `dense`: a convolution of few channels."""

import pytest
from rule_support import L, functional, rewritten, search

from tf_dwsconv.convert.rules import dense

pytestmark = pytest.mark.usefixtures("op_library")


def test_a_first_convolution_with_padding_in_front():
    def make(x):
        y = L.Conv2D(8, 3, strides=2, padding="valid", use_bias=False)(L.ZeroPadding2D(((0, 1), (0, 1)))(x))
        return L.Activation("hard_swish")(L.BatchNormalization()(y))

    [block] = rewritten(functional(make, (12, 12, 3)), dense)
    assert block.pattern == "convolution" and block.activation.word == "hard_swish"
    assert block.window["dense_kernel_size"] == (3, 3) and block.window["padding"] == ((0, 1), (0, 1))


def test_many_channels_stay():
    assert search(functional(lambda x: L.Conv2D(8, 3, strides=2)(x), (12, 12, 32)), dense).found == []


def test_groups_stay():
    assert search(functional(lambda x: L.Conv2D(8, 3, strides=2, groups=2)(x), (12, 12, 4)), dense).found == []
