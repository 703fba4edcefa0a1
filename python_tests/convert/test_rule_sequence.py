"""The rule `sequence`: convolutions of one dimension."""

import pytest
from rule_support import L, functional, reason, rewritten, search

from tf_dwsconv.convert.rules import sequence

pytestmark = pytest.mark.usefixtures("op_library")


def test_a_depthwise_convolution_with_its_tail():
    def make(x):
        y = L.BatchNormalization()(L.DepthwiseConv1D(3, padding="same", use_bias=False)(x))
        return L.Add()([L.Dense(6)(L.Activation("silu")(y)), x])

    [block] = rewritten(functional(make, (20, 6)), sequence)
    assert block.is_sequence and block.pattern == "depthwise + 1x1 + residual"
    assert block.window["kernel_size"] == (1, 3)


def test_a_separable_one_of_any_stride():
    [block] = rewritten(functional(lambda x: L.SeparableConv1D(5, 3, strides=2)(x), (20, 6)), sequence)
    assert block.pattern == "separable" and block.window["strides"] == (1, 2)


def test_reasons():
    model = functional(lambda x: L.DepthwiseConv1D(3, activation="softplus", name="conv")(x), (20, 6))
    assert "do not know the activation" in reason(model, sequence, "conv")
    shared = L.DepthwiseConv1D(3, padding="same")
    assert search(functional(lambda x: shared(shared(x)), (20, 6)), sequence).found == []
