"""The rule `depthwise`: a depthwise or separable convolution and what follows."""

import pytest
from rule_support import L, functional, reason, rewritten, search

from tf_dwsconv.convert.rules import depthwise

pytestmark = pytest.mark.usefixtures("op_library")


def test_takes_what_follows():
    def make(x):
        y = L.ReLU(6.0)(L.BatchNormalization()(L.DepthwiseConv2D(3, padding="same", use_bias=False)(x)))
        return L.Add()([L.Conv2D(6, 1)(y), x])

    [block] = rewritten(functional(make), depthwise)
    assert block.pattern == "depthwise + 1x1 + residual" and block.depthwise_activation.word == "relu6"
    assert len(block.nodes) == 5 and block.window["kernel_size"] == (3, 3)


def test_a_separable_convolution_is_whole():
    [block] = rewritten(functional(lambda x: L.SeparableConv2D(5, 3, activation="gelu")(x)), depthwise)
    assert block.pattern == "separable" and block.activation.word == "gelu"


def test_padding_in_front_is_taken():
    def make(x):
        return L.DepthwiseConv2D(3, strides=2, padding="valid")(L.ZeroPadding2D(((0, 1), (0, 1)))(x))

    [block] = rewritten(functional(make), depthwise)
    assert block.window["padding"] == ((0, 1), (0, 1)) and len(block.nodes) == 2


def test_a_chain_is_cut_where_another_reads_it():
    def make(x):
        y = L.DepthwiseConv2D(3, padding="same", name="conv")(x)
        return L.Concatenate()([y, L.Conv2D(4, 1, name="one")(y)])

    [block] = rewritten(functional(make), depthwise)
    assert block.pattern == "depthwise" and "'conv' is read by" in block.note


def test_an_activation_that_the_kernels_do_not_know():
    model = functional(lambda x: L.DepthwiseConv2D(3, activation="softplus", name="conv")(x))
    assert "do not know the activation" in reason(model, depthwise, "conv")
    assert search(model, depthwise).found == []
