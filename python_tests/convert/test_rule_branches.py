"""The rule `branches`: convolutions of one tensor whose results are added."""

import pytest
from rule_support import L, functional, reason, rewritten, search

from tf_dwsconv.convert._block import Folded
from tf_dwsconv.convert.rules import branches

pytestmark = pytest.mark.usefixtures("op_library")


def test_depthwise_branches_and_an_identity():
    def make(x):
        wide = L.BatchNormalization()(L.DepthwiseConv2D(3, padding="same", use_bias=False)(x))
        narrow = L.BatchNormalization()(L.DepthwiseConv2D(1, use_bias=False)(x))
        return L.ReLU()(L.Add()([wide, narrow, L.BatchNormalization()(x)]))

    [block] = rewritten(functional(make), branches)
    assert block.pattern == "depthwise" and block.window["kernel_size"] == (3, 3)
    assert block.depthwise_activation.word == "relu"


def test_dense_branches_that_stock_ops_compute_faster_stay_one_stock_layer():
    def make(x):
        return L.Add()([L.Conv2D(8, 3, padding="same")(x), L.Conv2D(8, 1)(x)])

    [folded] = rewritten(functional(make, (8, 8, 32)), branches)
    assert isinstance(folded, Folded) and folded.convolution.kernel.shape == (3, 3, 32, 8)


def test_strides_that_differ_do_not_add():
    def make(x):
        return L.Add()([L.Conv2D(8, 1, strides=2)(x), L.DepthwiseConv2D(2, strides=(2, 2), depth_multiplier=4)(x)])

    assert search(functional(make, (8, 8, 2)), branches).found == []


def test_one_branch_is_no_sum():
    model = functional(lambda x: L.Conv2D(8, 3, name="conv")(x))
    assert search(model, branches).found == [] and reason(model, branches, "conv") == ""
