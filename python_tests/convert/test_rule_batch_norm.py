"""The rule `batch_norm`: what follows a convolution that stays goes into its weights."""

import pytest
from rule_support import L, functional, rewritten, search

from tf_dwsconv.convert.rules import batch_norm

pytestmark = pytest.mark.usefixtures("op_library")


def test_two_in_a_row():
    def make(x):
        y = L.Conv2D(8, 3, use_bias=False, kernel_regularizer="l2", name="conv")(x)
        return L.BatchNormalization(name="last")(L.BatchNormalization()(y))

    [folded] = rewritten(functional(make), batch_norm)
    assert len(folded.nodes) == 3 and folded.name == "last"
    layer = folded.emission.steps[0].layer
    assert layer.use_bias and layer.kernel_regularizer is None


@pytest.mark.parametrize("activation, training", [("relu", None), (None, True)])
def test_nothing_behind_an_activation_or_in_training(activation, training):
    def make(x):
        return L.BatchNormalization()(L.Conv2D(8, 3, activation=activation)(x), training=training)

    assert search(functional(make), batch_norm).found == []


def test_nothing_where_another_reads_the_result():
    def make(x):
        y = L.Conv2D(8, 3)(x)
        return [L.BatchNormalization()(y), L.ReLU()(y)]

    assert search(functional(make), batch_norm).found == []
