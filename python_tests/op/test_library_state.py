"""Whether the library's op runs: what the environment says is looked at in each call, and a warning is given once."""

from __future__ import annotations

import warnings

import pytest
import tensorflow as tf
from conftest import op_calls

import tf_dwsconv
from tf_dwsconv._arguments import Attributes, Tensors
from tf_dwsconv._tf import dispatch
from tf_dwsconv._tf import library as _library

pytestmark = pytest.mark.usefixtures("op_library")


def layer():
    return tf_dwsconv.depthwise_sep_conv2d(tf.ones([1, 5, 5, 2]), tf.ones([3, 3, 2, 1]), tf.ones([1, 1, 2, 3]))


def block():
    return dispatch.run(tf.ones([1, 5, 5, 2]), Tensors(depthwise_filter=tf.ones([3, 3, 2, 1])), Attributes())


@pytest.mark.parametrize("call", [layer, block])
@pytest.mark.parametrize("value, fused", [(None, True), ("", True), ("0", True), ("1", False), ("yes", False)])
def test_the_variable_that_asks_for_stock_ops(monkeypatch, call, value, fused):
    if value is None:
        monkeypatch.delenv("DWSCONV_DISABLE", raising=False)
    else:
        monkeypatch.setenv("DWSCONV_DISABLE", value)
    before = sum(op_calls().values())
    y = call().numpy()
    assert sum(op_calls().values()) == before + fused
    assert y[0, 2, 2, 0] in (9, 18) and y[0, 0, 0, 0] in (4, 8)
    # It may change its mind.
    monkeypatch.setenv("DWSCONV_DISABLE", "0" if not fused else "1")
    call()
    assert sum(op_calls().values()) == before + 1


def test_a_warning_is_given_once():
    _library._warned.discard("of this test")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for key in ("of this test", "of this test"):
            _library.warn_once(key, "so it is")
    assert [str(warning.message) for warning in caught] == ["so it is"]
    assert issubclass(caught[0].category, _library.StockOpsWarning)
    _library._warned.discard("of this test")


def test_the_library_is_loaded_once():
    assert _library.load() is _library.load()
    assert _library.load().op is _library.op() and _library.load().block_op is _library.block_op()
