"""Expanded blocks: `native.Layer` computes them, plans cut them, the tuner measures them, the op runs tuned plans."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import reference
from conftest import check_python
from tune_support import cache  # noqa: F401

import tf_dwsconv
from tf_dwsconv import native, tune
from tf_dwsconv.analysis import Problem
from tf_dwsconv.tune import _cache, _search

E, C, K = 16, 96, 24
PROBLEM = Problem(N=2, H=14, W=14, C=C, K=K)
# As `native.plan` takes them: x, depthwise, pointwise; expand.
SHAPES = ((2, 14, 14, E), (3, 3, C, 1), (1, 1, C, K)), (1, 1, E, C)


def arrays(dtype="float32"):
    """x, depthwise, pointwise and expand, and their biases."""
    random = np.random.default_rng(3)
    filters = [random.uniform(-1, 1, shape).astype(dtype) for shape in (*SHAPES[0], SHAPES[1])]
    return filters, [random.uniform(-1, 1, size).astype(dtype) for size in (C, K, C)]


def block(dtype="float32", **options):
    """An inverted residual block with all its parts, and its input."""
    (x, depthwise, pointwise, expand), (depthwise_bias, bias, expand_bias) = arrays(dtype)
    layer = native.Layer(
        depthwise,
        pointwise,
        bias=bias,
        depthwise_bias=depthwise_bias,
        depthwise_activation="relu6",
        expand_filter=expand,
        expand_bias=expand_bias,
        expand_activation="relu6",
        **options,
    )
    return layer, x


def plans(isa, threads=2):
    """A plan of each kind: strips, whole images, pieces of channels, channels as tasks."""
    planned = native.plan(*SHAPES[0], expand_filter_shape=SHAPES[1], isa=isa, num_threads=threads)
    tile = 2 * {"generic": 4, "avx2": 8, "avx512": 16, "amx": 16}[isa]
    return [
        {**planned, "rows": rows, "channels": channels, "by_channels": apart, "threads": t}
        for rows, channels, apart, t in (
            (1, C, False, 2), (4, C, False, 1), (14, C, False, 1), (14, tile, False, 2), (14, tile, True, 2),
            (14, C, True, 1),
        )
    ]  # fmt: skip


@pytest.mark.parametrize("isa", native.cpu_info()["isas"])
def test_a_block_agrees_with_float64_whatever_the_plan(isa):
    (x, depthwise, pointwise, expand), (depthwise_bias, bias, expand_bias) = arrays()
    a = np.clip(np.einsum("nhwe,ec->nhwc", x.astype(float), expand[0, 0].astype(float)) + expand_bias, 0, 6)
    inner = reference.Layer(
        depthwise.astype(float), pointwise.astype(float), depthwise_bias, bias, depthwise_activation=("relu6", 0.2)
    )
    expected = reference.forward(a, inner)
    layer, x = block(isa=isa)
    before = native.calls()[isa]
    y = layer(x)
    assert native.calls()[isa] == before + 1
    # Three sums in float32, of E, R*S and C terms of at most 6 times 1.
    tolerance = 6 * 9 * C * (E + 9 + C) * np.finfo("float32").eps
    np.testing.assert_allclose(y, expected, rtol=0, atol=tolerance)
    for plan in plans(isa):
        np.testing.assert_array_equal(layer(x, plan=plan, num_threads=2), y, err_msg=str(plan))


def test_a_block_without_a_projection():
    (x, depthwise, _, expand), _ = arrays()
    layer = native.Layer(depthwise, None, expand_filter=expand, depthwise_activation="relu")
    a = np.einsum("nhwe,ec->nhwc", x.astype(float), expand[0, 0].astype(float))
    whole = reference.Layer(depthwise.astype(float), np.eye(C)[None, None], None, None)
    expected = np.maximum(reference.forward(a, whole), 0)
    np.testing.assert_allclose(layer(x), expected, rtol=0, atol=9 * E * (E + 9) * np.finfo("float32").eps)


def test_what_a_block_refuses():
    (x, depthwise, pointwise, expand), (_, bias, expand_bias) = arrays()
    with pytest.raises(ValueError, match="C = 5 as the channels of the expanded input"):
        native.Layer(depthwise, pointwise, expand_filter=expand[..., :5])
    with pytest.raises(ValueError, match="expand_bias"):
        native.Layer(depthwise, pointwise, expand_bias=expand_bias)
    with pytest.raises(TypeError, match="expand_filter"):
        native.Layer(depthwise, pointwise, expand_filter=expand.astype("float16"))
    with pytest.raises(ValueError, match='variant "simd" goes with'):
        native.Layer(depthwise, pointwise, expand_filter=expand, variant="simd")
    with pytest.raises(ValueError, match="bias"):
        native.Layer(depthwise, None, bias=bias, expand_filter=expand)
    layer = native.Layer(depthwise, pointwise, expand_filter=expand)
    with pytest.raises(ValueError, match="plan must have rows, channels, by_channels, threads and stream, but lacks"):
        layer(x, plan={"block_pixels": 4, "block_channels": K, "threads": 1, "stream": False})
    good = {"rows": 14, "channels": C, "by_channels": False, "threads": 1, "stream": False}
    assert layer(x, plan=good).shape == (2, 14, 14, K)
    for change, message in (
        ({"rows": 15}, r"rows must be 1 to 14 \(Ho\), but is 15"),
        ({"channels": 5}, r"channels must be 96 \(C\) or less"),
        ({"rows": 3, "by_channels": True}, "where a task does not take all channels"),
        ({"by_channels": 2}, "must be True or False"),
    ):
        with pytest.raises(ValueError, match=message):
            layer(x, plan={**good, **change})


def test_the_tuner_measures_blocks(cache):
    """Every candidate that may run runs, and has the planner's bits; nothing is written."""
    for dtype, project in (("float32", True), ("bfloat16", False)):
        bench = _search.Bench(PROBLEM, dtype, 2, None, E, project)
        candidates = _search._distinct(bench, [{**bench.planned, **c} for c in _search._block_changes(bench)])
        assert len(candidates) > 6 and {plan["by_channels"] for plan in candidates} == {False, True}
        expected = bench.call(bench.planned).copy()
        for plan in candidates:
            np.testing.assert_array_equal(bench.call(plan).view("uint8"), expected.view("uint8"), err_msg=str(plan))
    model = _inverted_residuals()
    calls = tune.model_layers(tf_dwsconv.convert(model, fuse="blocks"), batch_size=3)
    assert [(call.E, call.problem) for call in calls] == [
        (E, Problem(N=3, H=14, W=14, C=C, K=K)),
        (K, Problem(N=3, H=14, W=14, C=C, K=K, stride=2)),
    ]
    network = tf_dwsconv.convert(model)
    assert type(network.layers[-1]).__name__ == "FusedNetwork"
    inside = tune.model_layers(network, batch_size=3)
    assert [(call.E, call.problem, call.dtype) for call in inside] == [(c.E, c.problem, c.dtype) for c in calls]
    (result,) = tune.tune(inside[:1], seconds=0.02, write=False)
    assert result.E == E
    assert list(result.best) == list(_search.BLOCK_CHOICES)
    assert not cache.parent.exists()


def _inverted_residuals():
    layers = [keras.Input((14, 14, E))]
    for strides in (1, 2):
        layers += [
            keras.layers.Conv2D(C, 1, activation="relu6"),
            keras.layers.DepthwiseConv2D(3, strides=strides, padding="same", activation="relu6"),
            keras.layers.Conv2D(K, 1),
        ]
    return keras.Sequential(layers)


_OP = """
import ctypes
import numpy as np
import tensorflow as tf
import tf_dwsconv
from tf_dwsconv._tf import library
tf.config.threading.set_intra_op_parallelism_threads(2)
layer = tf_dwsconv.FusedConvBlock({K}, 3, expand_filters={C}, name="block")
layer(tf.ones((2, 14, 14, {E})))
count = ctypes.CDLL(library.load().path).dwsconv_tuned_calls
count.restype = ctypes.c_int64
print("tuned", count())
"""


def test_the_op_runs_a_tuned_block(op_library, cache):
    """A line of the file reaches the op in a new process; a block of other sizes does not take it."""
    threads = min(2, native.cpu_info()["cores"])
    bench = _search.Bench(PROBLEM, "float32", threads, None, E)
    plan = {**bench.planned, "rows": 3, "channels": C, "by_channels": False, "threads": 1}
    line = bench.line(plan)
    assert f" E={E} : rows=3 channels={C} by_channels=0 threads=1 stream=0" in line
    _cache.update(cache, [line])
    assert tune.reload() == 1
    told = native.plan(*SHAPES[0], expand_filter_shape=SHAPES[1], num_threads=threads)
    assert told["tuned"] and told["rows"] == 3
    other = native.plan((2, 15, 14, E), *SHAPES[0][1:], expand_filter_shape=SHAPES[1], num_threads=threads)
    assert not other["tuned"]
    assert check_python(_OP.format(K=K, C=C, E=E)).split() == ["tuned", "1"]
