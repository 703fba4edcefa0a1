"""The rule `exact_depthwise`: in training, a depthwise convolution that goes alone becomes ours."""

import pytest
from rule_support import L, functional, reason, rewritten

import tf_dwsconv
from tf_dwsconv.convert.rules import exact_depthwise

pytestmark = pytest.mark.usefixtures("op_library")


@pytest.mark.parametrize(
    "options, after, taken",
    [
        ({}, lambda y: L.BatchNormalization()(y), 1),
        ({}, lambda y: L.ReLU(6.0, name="last")(y), 2),
        ({"activation": "relu"}, lambda y: L.Activation("silu", name="last")(y), 1),
        ({"activation": "softsign"}, lambda y: y, 1),
        ({"activity_regularizer": "l2"}, lambda y: L.ReLU(name="last")(y), 1),
        ({"dilation_rate": 2, "depth_multiplier": 3, "use_bias": False}, lambda y: y, 1),
        ({"data_format": "channels_first"}, lambda y: y, 1),
    ],
)
def test_an_activation_moves_into_the_layer(options, after, taken):
    def make(x):
        return after(L.DepthwiseConv2D((3, 2), depthwise_regularizer="l2", name="conv", **options)(x))

    [swap] = rewritten(functional(make), exact_depthwise)
    layer = swap.emission.steps[0].layer
    assert len(swap.nodes) == taken and swap.name == ("conv" if taken == 1 else "last")
    assert type(layer) is tf_dwsconv.FusedDepthwiseConv2D and layer.depthwise_regularizer is not None
    assert layer.use_bias == options.get("use_bias", True)


def test_a_shared_layer():
    shared = L.DepthwiseConv2D(3, padding="same", name="conv")
    assert "called more than once" in reason(functional(lambda x: shared(shared(x))), exact_depthwise, "conv")
