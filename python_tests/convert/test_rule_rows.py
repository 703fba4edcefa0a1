"""The rule `rows`: a Dense behind the last pictures."""

import pytest
from rule_support import L, functional, rewritten, search

from tf_dwsconv.convert import _read
from tf_dwsconv.convert.rules import depthwise, rows

pytestmark = pytest.mark.usefixtures("op_library")


def make(x):
    y = L.GlobalAveragePooling2D()(L.DepthwiseConv2D(3)(x))
    return L.Dense(10, activation="relu", name="top")(y)


def test_a_dense_layer_behind_a_pooling():
    _, block = rewritten(functional(make), depthwise, rows)
    assert block.pattern == "dense" and block.name == "top" and block.activation.word == "relu"


def test_large_ones_stay(monkeypatch):
    monkeypatch.setattr(_read, "LARGE_DENSE", 59)
    assert len(search(functional(make), depthwise, rows).found) == 1


def test_a_model_without_a_block_is_left_alone():
    assert search(functional(make), rows).found == []
