"""The rule `exact_separable`: in training, a stock separable convolution becomes ours."""

import pytest
from rule_support import L, functional, rewritten, search

import tf_dwsconv
from tf_dwsconv.convert.rules import exact_separable

pytestmark = pytest.mark.usefixtures("op_library")


def test_an_activation_moves_into_the_layer():
    def make(x):
        return L.ReLU(6.0, name="last")(L.SeparableConv2D(5, 3, depthwise_regularizer="l2", name="conv")(x))

    [swap] = rewritten(functional(make), exact_separable)
    assert len(swap.nodes) == 2 and swap.name == "last"
    layer = swap.emission.steps[0].layer
    assert type(layer) is tf_dwsconv.DepthwiseSepConv2D and layer.depthwise_regularizer is not None


@pytest.mark.parametrize("options", [{"activation": "tanh"}, {"activity_regularizer": "l2"}])
def test_an_activation_stays_behind_another_one_or_a_regularizer(options):
    [swap] = rewritten(functional(lambda x: L.ReLU()(L.SeparableConv2D(5, 3, **options)(x))), exact_separable)
    assert len(swap.nodes) == 1


def test_a_shared_layer_is_left_to_the_rebuilding():
    shared = L.SeparableConv2D(6, 3, padding="same")
    assert search(functional(lambda x: shared(shared(x))), exact_separable).found == []
