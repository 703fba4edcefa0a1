"""The rule `exact_halves`: in training, a depthwise and a 1x1 convolution become one layer."""

import pytest
from rule_support import L, functional, reason, rewritten

from tf_dwsconv.convert.rules import exact_halves

pytestmark = pytest.mark.usefixtures("op_library")


def test_both_activations_are_taken():
    def make(x):
        y = L.ReLU()(L.DepthwiseConv2D(3, use_bias=False)(x))
        return L.Activation("silu")(L.Conv2D(5, 1)(y))

    [swap] = rewritten(functional(make), exact_halves)
    layer = swap.emission.steps[0].layer
    assert len(swap.nodes) == 4 and swap.pattern == "depthwise + 1x1"
    assert not layer.depthwise_use_bias and layer.use_bias and layer.depthwise_activation.__name__ == "relu"


@pytest.mark.parametrize(
    "after, message",
    [
        (lambda y: y, "no 1x1 convolution follows"),
        (lambda y: L.BatchNormalization(name="norm")(y), "'norm' follows, and nothing is fused across a batch norm"),
        (lambda y: L.Conv2D(5, 3, name="wide")(y), "'wide' follows"),
        (lambda y: L.Conv2D(5, 1, trainable=False, name="one")(y), "'one' differs from 'conv'"),
        (lambda y: [L.Conv2D(5, 1, name="a")(y), L.Conv2D(5, 1, name="b")(y)], "is read by 'a', 'b'"),
    ],
)
def test_reasons(after, message):
    model = functional(lambda x: after(L.DepthwiseConv2D(3, name="conv")(x)))
    assert message in reason(model, exact_halves, "conv")


def test_a_shared_layer():
    shared = L.DepthwiseConv2D(3, padding="same", name="conv")
    assert "called more than once" in reason(functional(lambda x: shared(shared(x))), exact_halves, "conv")
