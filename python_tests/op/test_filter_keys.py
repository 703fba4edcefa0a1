"""One set of filters, used in ways that need other packed copies: the cache keeps them apart."""

from __future__ import annotations

import numpy as np
import pytest
import reference
import tensorflow as tf
from filter_cache_support import draw

import tf_dwsconv
from tf_dwsconv import native
from tf_dwsconv._arguments import Attributes, Tensors
from tf_dwsconv._tf import dispatch
from tf_dwsconv.activations import Fused

pytestmark = pytest.mark.usefixtures("op_library")

CALLS = 5  # of each way in turn: filters are noted, packed, met where they were, and then known by their addresses


@pytest.fixture(params=native.cpu_info()["isas"], autouse=True)
def isa(request, monkeypatch):
    monkeypatch.setenv("DWSCONV_ISA", request.param)


@pytest.mark.parametrize("channels", [1, 2, 3, 6])
def test_strides_of_a_layer(channels):
    """Few channels are packed several pixels together at stride 1, and one by one at others."""
    d, p = tf.Variable(draw(1, 3, 3, channels, 1)), tf.Variable(draw(2, 1, 1, channels, 9))
    x = draw(3, 2, 12, 13, channels)
    for _ in range(CALLS):
        for strides in ((1, 1), (2, 2), (1, 2), (2, 1)):
            layer = reference.Layer(d.numpy(), p.numpy(), strides=strides)
            y = tf_dwsconv.depthwise_sep_conv2d(x, d, p, strides=strides)
            np.testing.assert_allclose(y, reference.forward(x, layer), rtol=0, atol=1e-4)


@pytest.mark.parametrize("channels", [1, 2, 3, 6])
def test_strides_of_a_block(channels):
    e, d = tf.Variable(draw(1, 1, 1, 5, channels)), tf.Variable(draw(2, 3, 3, channels, 1))
    p, x = tf.Variable(draw(3, 1, 1, channels, 9)), draw(4, 2, 12, 13, 5)
    for _ in range(CALLS):
        for strides in ((1, 1), (2, 2), (1, 2)):
            layer = reference.Layer(d.numpy(), p.numpy(), strides=strides)
            tensors = Tensors(expand_filter=e, depthwise_filter=d, pointwise_filter=p)
            y = dispatch.run(tf.constant(x), tensors, Attributes(strides=strides))
            np.testing.assert_allclose(y, reference.forward(x @ e.numpy()[0, 0], layer), rtol=0, atol=2e-4)


def test_types_of_the_same_bytes():
    """bfloat16 and float16 out of one buffer, of the layer and of a block."""
    bits = np.random.default_rng(5).integers(0x3800, 0x4100, 9 * 12 + 12 * 20).astype(np.uint16)
    d = tf.Variable(tf.bitcast(tf.reshape(bits[: 9 * 12], [3, 3, 12, 1]), tf.bfloat16))
    p = tf.Variable(tf.bitcast(tf.reshape(bits[9 * 12 :], [1, 1, 12, 20]), tf.bfloat16))
    x = np.abs(draw(6, 1, 6, 7, 12))
    for _ in range(CALLS):
        for dtype in (tf.bfloat16, tf.float16):
            seen_d, seen_p = (tf.bitcast(v, dtype) for v in (d, p))
            wide = (tf.cast(t, tf.float32).numpy() for t in (seen_d, seen_p))
            given = tf.cast(x, dtype)
            y = tf.cast(tf_dwsconv.depthwise_sep_conv2d(given, seen_d, seen_p), tf.float32).numpy()
            expected = reference.forward(tf.cast(given, tf.float32).numpy(), reference.Layer(*wide))
            # Everything is positive: relative errors stay so. Two roundings to 8 bits at most.
            np.testing.assert_allclose(y, expected, rtol=2**-7)
            tensors = Tensors(depthwise_filter=seen_d, pointwise_filter=seen_p, gate=tf.ones([1, 12], dtype))
            y = tf.cast(dispatch.run(given, tensors, Attributes()), tf.float32).numpy()
            np.testing.assert_allclose(y, expected, rtol=2**-7)


def test_activations():
    """Of a layer and of a block, in bfloat16, where other kernels serve other activations."""
    shapes = {"expand_filter": (1, 1, 8, 33), "depthwise_filter": (3, 3, 33, 1), "pointwise_filter": (1, 1, 33, 20)}
    block = {
        name: tf.Variable(tf.cast(draw(seed, *shape), tf.bfloat16)) for seed, (name, shape) in enumerate(shapes.items())
    }
    layer = {name: filters for name, filters in block.items() if name != "expand_filter"}
    cases = ((layer, tf.cast(draw(4, 1, 9, 9, 33), tf.bfloat16)), (block, tf.cast(draw(5, 1, 9, 9, 8), tf.bfloat16)))
    first = {}
    for _ in range(CALLS):
        for word in ("none", "silu", "relu6", "tanh"):
            attributes = Attributes(depthwise_activation=Fused(word))
            for filters, x in cases:
                y = tf.cast(dispatch.run(x, Tensors(**filters), attributes), tf.float32).numpy()
                if (len(filters), word) not in first:
                    stock = tf.cast(dispatch.run_stock(x, Tensors(**filters), attributes), tf.float32).numpy()
                    # Three roundings to 8 bits.
                    assert np.abs(y - stock).max() <= 3 * 2**-8 * np.abs(stock).max()
                np.testing.assert_array_equal(y, first.setdefault((len(filters), word), y))
