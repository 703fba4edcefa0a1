"""The op among threads and over many calls."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import reference
import tensorflow as tf
from conftest import check_python
from in_threads import in_threads

import tf_dwsconv

pytestmark = pytest.mark.usefixtures("op_library")


@pytest.mark.parametrize("graph", [False, True])
def test_eight_threads_with_different_shapes(graph):
    """Each thread has layers of its own shapes and one that all share; every answer is checked."""
    shared = tf_dwsconv.DepthwiseSepConv2D(16, 3, padding="same", activation="relu")
    shared.build((None, None, None, 8))
    depthwise, pointwise, bias = shared.get_weights()
    shared_layer = reference.Layer(depthwise, pointwise, bias=bias, activation=("relu", 0.0))
    call_shared = tf.function(shared, reduce_retracing=True) if graph else shared
    barrier = threading.Barrier(8)

    def work(index):
        try:
            rng = np.random.default_rng(index)
            own = tf_dwsconv.DepthwiseSepConv2D(5 + 3 * index, (3, 1 + index % 3), strides=1 + index % 2)
            own.build((None, None, None, 4 + index))
            d, p, b = own.get_weights()
            own_layer = reference.Layer(d, p, bias=b, strides=(1 + index % 2,) * 2, padding="VALID")
            call_own = tf.function(own, reduce_retracing=True) if graph else own
            cases = []
            for size in (5 + index, 13, 24 - index):
                x, y = rng.standard_normal((1 + index % 3, size, size + 1, 8)), None
                cases.append((call_shared, tf.constant(x, tf.float32), reference.forward(x.astype("f4"), shared_layer)))
                y = rng.standard_normal((1, size, size, 4 + index))
                cases.append((call_own, tf.constant(y, tf.float32), reference.forward(y.astype("f4"), own_layer)))
            barrier.wait()
            for _ in range(40):
                for call, x, expected in cases:
                    error = np.abs(call(x).numpy() - expected).max()
                    assert error <= 2e-5 * max(1.0, np.abs(expected).max()), (index, x.shape, error)
        except BaseException:
            barrier.abort()
            raise

    in_threads(work, range(8))


def test_ten_thousand_calls_keep_memory():
    """Eager and graph, weights that stay and weights that change: after a first while the process stops growing."""
    program = """
import gc, os, numpy as np, tensorflow as tf, tf_dwsconv

def resident():
    gc.collect()
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

layers = [tf_dwsconv.DepthwiseSepConv2D(64, 3, padding="same", activation="relu") for _ in range(2)]
x = tf.ones([1, 6, 6, 64])
for layer in layers:
    layer(x)
function = tf.function(layers[0])
filters = np.random.default_rng(0).standard_normal((1, 1, 64, 64)).astype("float32")

def calls(count):
    for i in range(count // 4):
        layers[0](x)
        function(x)
        layers[1].pointwise_kernel.assign(filters * np.float32(i % 7))
        layers[1](x)
        layers[1](x)

calls(3000)
before = resident()
calls(10000)
grown = resident() - before
print("grown", grown)
assert grown < 1 << 20, grown  # 100 bytes a call; what is packed for one call is 19 kB
"""
    assert "grown" in check_python(program)


def test_forked_data_workers_do_not_hang():
    """A process that has run the op forks (as data loaders do), and the child runs it too."""
    program = """
import numpy as np, tf_dwsconv.native as native
x, d, p = np.ones((1, 32, 32, 8), "f4"), np.ones((3, 3, 8, 1), "f4"), np.ones((1, 1, 8, 8), "f4")
native.depthwise_sep_conv2d(x, d, p)
import os
child = os.fork()
if child == 0:
    native.depthwise_sep_conv2d(x, d, p, num_threads=1)
    os._exit(7)
print("child", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert "child 7" in check_python(program, timeout=120)
