"""TensorFlow's profiler counts the op as it counts the two convolutions that it replaces."""

from __future__ import annotations

import pytest
import tensorflow as tf
from tensorflow.python.framework import graph_util, ops

import tf_dwsconv

pytestmark = pytest.mark.usefixtures("op_library")


def profiled(function, *specs):
    """Floating-point operations that the profiler counts in a function's graph."""
    graph = tf.function(function).get_concrete_function(*specs).graph
    options = tf.compat.v1.profiler.ProfileOptionBuilder.float_operation()
    options["output"] = "none"
    return tf.compat.v1.profiler.profile(graph, options=options).total_float_ops


@pytest.mark.parametrize(
    "data_format, strides, padding, multiplier",
    [("NHWC", 1, "SAME", 1), ("NHWC", 2, "VALID", 3), ("NCHW", 2, "SAME", 2)],
)
def test_counts_both_halves(data_format, strides, padding, multiplier):
    n, h, w, c, k, r, s = 2, 12, 10, 6, 8, 3, 5
    depthwise, pointwise = tf.ones([r, s, c, multiplier]), tf.ones([1, 1, c * multiplier, k])
    shape = [n, h, w, c] if data_format == "NHWC" else [n, c, h, w]

    def ours(x):
        return tf_dwsconv.depthwise_sep_conv2d(
            x, depthwise, pointwise, strides=strides, padding=padding, data_format=data_format, activation="relu"
        )

    def stock(x):
        z = tf.nn.depthwise_conv2d(x, depthwise, [1, strides, strides, 1], padding)
        return tf.nn.conv2d(z, pointwise, 1, "VALID")

    pixels = n * (-(-h // strides) * -(-w // strides) if padding == "SAME" else ((h - r) // 2 + 1) * ((w - s) // 2 + 1))
    expected = 2 * pixels * c * multiplier * (r * s + k)
    assert profiled(ours, tf.TensorSpec(shape)) == expected
    assert profiled(stock, tf.TensorSpec([n, h, w, c])) == expected


def test_unknown_sizes_raise_as_for_stock_ops():
    function = tf.function(lambda x: tf_dwsconv.depthwise_sep_conv2d(x, tf.ones([3, 3, 4, 1]), tf.ones([1, 1, 4, 2])))
    graph = function.get_concrete_function(tf.TensorSpec([None, 8, 8, 4])).graph
    node = next(op.node_def for op in graph.get_operations() if op.type == "TfDwsconv>DepthwiseSepConv2D")
    with pytest.raises(ValueError, match="fully defined"):
        ops.get_stats_for_node_def(graph, node, "flops")
    assert graph_util.tensor_shape_from_node_def_name(graph, node.name).as_list() == [None, 8, 8, 2]
