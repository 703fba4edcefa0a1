"""The rule `pointwise`: a 1x1 convolution alone, with what stands in front of it."""

import pytest
from rule_support import L, functional, rewritten, search

from tf_dwsconv.convert.rules import pointwise

pytestmark = pytest.mark.usefixtures("op_library")


def test_a_batch_norm_in_front_is_folded():
    [block] = rewritten(functional(lambda x: L.Conv2D(5, 1)(L.BatchNormalization()(x))), pointwise)
    assert block.pattern == "1x1" and len(block.nodes) == 2


def test_a_gate_in_front_is_taken():
    def make(x):
        return L.Conv2D(5, 1, activation="silu")(L.Multiply()([x, L.GlobalAveragePooling2D(keepdims=True)(x)]))

    [block] = rewritten(functional(make), pointwise)
    assert block.pattern == "gate + 1x1" and block.gate is not None and block.activation.word == "silu"


def test_a_dense_layer_of_pictures_is_one():
    [block] = rewritten(functional(lambda x: L.Dense(5)(x)), pointwise)
    assert block.pattern == "1x1"


def test_strides_and_windows_are_none():
    model = functional(lambda x: L.Conv2D(5, 2)(L.Conv2D(5, 1, strides=2)(x)))
    assert search(model, pointwise).found == []
