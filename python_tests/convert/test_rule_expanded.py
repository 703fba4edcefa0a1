"""The rule `expanded`: a 1x1 convolution in front of a depthwise one."""

import pytest
from rule_support import L, functional, rewritten, search

from tf_dwsconv.convert.rules import expanded

pytestmark = pytest.mark.usefixtures("op_library")


def inverted(x, pad=False, between=None):
    y = L.ReLU(6.0)(L.BatchNormalization()(L.Conv2D(12, 1, use_bias=False, name="expand")(x)))
    y = y if between is None else between(y)
    y = L.ZeroPadding2D(1)(y) if pad else y
    y = L.DepthwiseConv2D(3, padding="valid" if pad else "same", activation="relu6")(y)
    return L.Add()([L.Conv2D(6, 1)(y), x])


@pytest.mark.parametrize("pad", [False, True])
def test_an_inverted_residual(pad):
    [block] = rewritten(functional(lambda x: inverted(x, pad)), expanded)
    assert block.pattern == "expand + depthwise + 1x1 + residual"
    assert block.expand.outputs == 12 and block.expand_activation.word == "relu6"
    assert ("padding" in block.window) and block.window["padding"] == (((1, 1), (1, 1)) if pad else "same")


def test_nothing_where_another_layer_lies_between():
    assert search(functional(lambda x: inverted(x, between=L.AveragePooling2D(1))), expanded).found == []


def test_nothing_where_no_depthwise_convolution_follows():
    assert search(functional(lambda x: L.Conv2D(4, 3)(L.Conv2D(12, 1)(x))), expanded).found == []
