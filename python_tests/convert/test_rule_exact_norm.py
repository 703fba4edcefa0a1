"""The rule `exact_norm`: in training, a stock batch norm becomes ours and takes an activation along."""

import keras
import pytest
from rule_support import L, functional, reason, rewritten

import tf_dwsconv
from tf_dwsconv.convert.rules import exact_norm

pytestmark = pytest.mark.usefixtures("op_library")


@pytest.mark.parametrize(
    "after, taken",
    [
        (lambda y: y, 1),
        (lambda y: L.ReLU(6.0, name="last")(y), 2),
        (lambda y: L.Activation("silu", name="last")(y), 2),
        (lambda y: L.Activation("softsign", name="last")(y), 1),
        (lambda y: L.Activation("relu", activity_regularizer="l2", name="last")(y), 1),
        (lambda y: L.Add()([y, L.ReLU(name="last")(y)]), 1),
        (lambda y: L.ReLU(name="last", dtype="mixed_bfloat16")(y), 1),
    ],
)
def test_an_activation_moves_into_the_layer(after, taken):
    def make(x):
        return after(L.BatchNormalization(momentum=0.7, gamma_regularizer="l2", name="norm")(x))

    [swap] = rewritten(functional(make), exact_norm, tolerance=0.02)
    layer = swap.emission.steps[0].layer
    assert len(swap.nodes) == taken and swap.name == ("norm" if taken == 1 else "last")
    assert type(layer) is tf_dwsconv.FusedBatchNormalization
    assert layer.momentum == 0.7 and layer.gamma_regularizer is not None


def test_what_is_frozen_stays_so():
    def make(x):
        norm = L.BatchNormalization(name="norm")
        norm.trainable = False
        return L.ReLU()(norm(x))

    model = functional(make)
    fused = tf_dwsconv.convert(model, training=True)
    assert not fused.layers[1].trainable and not fused.trainable_variables


@pytest.mark.parametrize(
    "options, message",
    [
        ({"axis": 1}, "the channels of 'norm' are not its last axis"),
        ({"renorm": True}, "'norm' has `renorm`"),
        ({"synchronized": True}, "'norm' has `synchronized`"),
    ],
)
def test_reasons(options, message):
    model = functional(lambda x: L.BatchNormalization(name="norm", **options)(x))
    assert reason(model, exact_norm, "norm") == message


def test_a_shared_layer():
    shared = L.BatchNormalization(name="norm")
    assert "called more than once" in reason(functional(lambda x: shared(shared(x))), exact_norm, "norm")


def test_a_subclass_is_left_alone():
    class Own(L.BatchNormalization):
        pass

    model = keras.Sequential([keras.Input((4, 4, 2)), Own(name="own")])
    assert type(tf_dwsconv.convert(model, training=True).layers[0]) is Own
