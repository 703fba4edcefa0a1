"""Runs the tests that TensorFlow ships of its own depthwise op, with ours in its place.

The op's depthwise half is what they test, so the pointwise filter is the identity of C*M channels. Prints one line for
each test, and how often our op was built into a graph and ran.
"""

from __future__ import annotations

import os
import sys
import types
import unittest

os.environ["CUDA_VISIBLE_DEVICES"] = "-1"

import numpy as np
import tensorflow as tf
from tensorflow.python.kernel_tests.nn_ops import depthwise_conv_op_base as base

import tf_dwsconv

tf.compat.v1.disable_v2_behavior()

built = {"op": 0, "float64": 0}


def depthwise_conv2d(input, filter, strides, padding, rate=None, name=None, data_format=None, dilations=None):
    """`tf.compat.v1.nn.depthwise_conv2d`, by our op."""
    data_format = data_format or "NHWC"
    depthwise_filter = tf.convert_to_tensor(filter)
    channels = depthwise_filter.shape[2] * depthwise_filter.shape[3]
    y = tf_dwsconv.depthwise_sep_conv2d(
        input,
        depthwise_filter,
        tf.constant(np.eye(channels)[None, None], depthwise_filter.dtype),
        strides=strides[1:3] if data_format == "NHWC" else strides[2:4],
        padding=padding,
        dilations=dilations or rate or 1,
        data_format=data_format,
        name=name,
    )
    if y.dtype == tf.float64:
        built["float64"] += 1  # stock ops, by design
    else:
        assert y.op.type == "TfDwsconv>DepthwiseSepConv2D", y.op
        built["op"] += 1
    return y


def depthwise_conv2d_native(input, filter, strides, padding, data_format="NHWC", dilations=None, name=None):
    """`tf.compat.v1.nn.depthwise_conv2d_native`, by our op."""
    return depthwise_conv2d(input, filter, strides, padding, name=name, data_format=data_format)


# The tests look their ops up here. TensorFlow's modules stay as they are, since our gradient calls them.
base.nn_impl = types.SimpleNamespace(depthwise_conv2d=depthwise_conv2d)
base.nn_ops = types.SimpleNamespace(depthwise_conv2d_native=depthwise_conv2d_native)
# Tests of NCHW return at once where there is no GPU, since TensorFlow's op has no such CPU kernel. Ours has.
base.test.is_gpu_available = lambda *args, **kwargs: True


class DepthwiseConv2DTest(base.DepthwiseConv2DBase):
    def session(self, graph=None, config=None, use_gpu=True, force_gpu=False):
        """As TensorFlow's, but without its graph optimiser.

        The gradient checker feeds NCHW tensors that the graph makes by transposing NHWC ones; where the op transposes
        back (float64), the optimiser drops both transposes and the feed with them, with stock ops just as with ours.
        """
        config = config or tf.compat.v1.ConfigProto()
        config.graph_options.rewrite_options.disable_meta_optimizer = True
        return super().session(graph, config, use_gpu, force_gpu)


class Result(unittest.TextTestResult):
    def addSuccess(self, test):
        super().addSuccess(test)
        print("passed", test.id().split(".")[-1], flush=True)

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        print("skipped", test.id().split(".")[-1], reason, flush=True)


if __name__ == "__main__":
    suite = unittest.defaultTestLoader.loadTestsFromTestCase(DepthwiseConv2DTest)
    result = unittest.TextTestRunner(sys.stderr, resultclass=Result, verbosity=0).run(suite)
    print("built", built["op"], built["float64"])
    sys.exit(not result.wasSuccessful())
