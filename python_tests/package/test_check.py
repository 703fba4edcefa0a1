"""`python -m tf_dwsconv`: what it tells, what it verifies, and that it notices what is wrong."""

from __future__ import annotations

import re

import numpy as np
import pytest
from conftest import FALLBACK

import tf_dwsconv
from tf_dwsconv import __main__ as check
from tf_dwsconv import native

pytestmark = [
    pytest.mark.usefixtures("op_library"),
    pytest.mark.skipif(FALLBACK, reason="it is about the fused op"),
]
CHECKED = (
    "the kernel on NumPy arrays",
    "a layer",
    "its gradients",
    "a network of fused blocks",
    "a network as one program",
    "a network in training",
)


def test_all_is_well(capsys):
    assert check.main([]) == 0
    out = capsys.readouterr().out
    lines = dict(re.findall(r"^(tf_dwsconv|built|Python|CPU|instructions|op library) +(.*)$", out, re.MULTILINE))
    assert lines["tf_dwsconv"].startswith(tf_dwsconv.__version__)
    assert "TensorFlow 2." in lines["built"] and "keras 3." in lines["Python"]
    assert lines["instructions"].startswith(native.cpu_info()["isa"])
    assert lines["op library"] == tf_dwsconv.build_info()["op_library"]
    assert [name for name in CHECKED if f"ok     {name}: differs by" in out] == list(CHECKED)
    assert float(re.search(r"All is well \((.*) s\)", out).group(1)) < 60


@pytest.mark.parametrize("result", [1.001, np.nan])
def test_a_wrong_result_is_noticed(monkeypatch, capsys, result):
    """In each of the five ways into the kernels."""
    real = native.depthwise_sep_conv2d
    monkeypatch.setattr(native, "depthwise_sep_conv2d", lambda *a, **k: result * real(*a, **k))
    call = tf_dwsconv.DepthwiseSepConv2D.call
    monkeypatch.setattr(tf_dwsconv.DepthwiseSepConv2D, "call", lambda self, x: result * call(self, x))
    block = tf_dwsconv.FusedConvBlock.call
    monkeypatch.setattr(tf_dwsconv.FusedConvBlock, "call", lambda self, x: result * block(self, x))
    norm = tf_dwsconv.FusedBatchNormalization.call
    monkeypatch.setattr(tf_dwsconv.FusedBatchNormalization, "call", lambda self, x, **k: result * norm(self, x, **k))
    network = tf_dwsconv.FusedNetwork.call
    monkeypatch.setattr(tf_dwsconv.FusedNetwork, "call", lambda self, x: result * network(self, x))
    assert check.main([]) == 1
    out = capsys.readouterr().out
    assert [name for name in CHECKED if f"WRONG  {name}: differs by" in out] == list(CHECKED)
    assert "Something is wrong" in out


def test_what_raises_is_told_and_the_rest_tried(monkeypatch, capsys):
    def broken(*_, **__):
        raise RuntimeError("out of order")

    monkeypatch.setattr(native, "depthwise_sep_conv2d", broken)
    assert check.main([]) == 1
    out = capsys.readouterr().out
    assert "WRONG" in out and "RuntimeError: out of order" in out and "ok     a layer" in out


def test_a_library_that_does_not_run_is_no_success(monkeypatch, capsys):
    info = {**tf_dwsconv.build_info(), "op_library": None, "reason": "it is away"}
    monkeypatch.setattr(tf_dwsconv, "build_info", lambda: info)
    monkeypatch.delenv("DWSCONV_DISABLE", raising=False)
    assert check.main([]) == 1
    assert "does not run: it is away" in capsys.readouterr().out
    monkeypatch.setenv("DWSCONV_DISABLE", "1")
    assert check.main([]) == 0
    assert "stock ops computed" in capsys.readouterr().out
