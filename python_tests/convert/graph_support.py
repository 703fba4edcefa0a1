"""What the tests of `tf_dwsconv.convert_saved_model` share: graphs made of single nodes, and comparisons."""

from __future__ import annotations

import dataclasses

import numpy as np
import tensorflow as tf

from tf_dwsconv.convert import graphs
from tf_dwsconv.convert.graphs._source import open_source
from tf_dwsconv.convert.graphs._write import function

EPSILON = np.finfo(np.float32).eps


class Weights:
    """Random constants of a graph, of a scale that keeps activations near one."""

    def __init__(self, seed=0):
        self.rng = np.random.default_rng(seed)

    def __call__(self, *shape, dtype="float32"):
        fan_in = np.prod(shape[:-1]) if len(shape) != 4 or shape[-1] > 1 else np.prod(shape[:2])
        values = self.rng.standard_normal(shape) / np.sqrt(max(fan_in, 1) if len(shape) > 1 else 4)
        return tf.constant(values, dtype)

    def positive(self, *shape):
        return tf.constant(self.rng.uniform(0.5, 1.5, shape), tf.float32)


def graph_def_of(build):
    """The GraphDef that a function builds; the last node it makes is a result."""
    with tf.Graph().as_default() as graph:
        build()
    return graph.as_graph_def()


def saved(build, path):
    """A frozen graph's file."""
    path.write_bytes(graph_def_of(build).SerializeToString())
    return path


def converted(path, **options):
    """(rows, the largest difference over the largest output, ops after) of a file that is converted to blocks.

    The difference is also that of the same file converted to networks.
    """
    rows, worst, ops = fused(path, "blocks", **options)
    rows_of_networks, of_networks, _ = fused(path, "network", **options)
    assert [dataclasses.replace(row, network=None) for row in rows_of_networks] == rows
    return rows, max(worst, of_networks), ops


def fused(path, fuse, **options):
    """As `converted`, in one of the two ways."""
    source = open_source(path, **options)
    [signature] = source.signatures
    before = function(source.original(signature.name))
    rows = graphs._fuse(signature, fuse)
    after = function(signature)
    rng = np.random.default_rng(1)
    inputs = {
        key: tf.cast(rng.standard_normal([size or (9 if i else 2) for i, size in enumerate(spec.shape)]), spec.dtype)
        for key, spec in signature.specs.items()
    }
    expected, given = (f(**inputs) for f in (before, after))
    worst = 0.0
    assert expected.keys() == given.keys()
    for key, old in expected.items():
        new = given[key]
        assert old.dtype == new.dtype and old.shape == new.shape
        was, now = (f.structured_outputs[key].shape.as_list() for f in (before, after))
        assert len(was) == len(now) and all(size in (None, other) for size, other in zip(was, now))
        old, new = (np.asarray(tf.cast(t, tf.float64)) for t in (old, new))
        assert np.isfinite(old).all()
        worst = max(worst, np.abs(old - new).max() / max(np.abs(old).max(), 1e-6))
    return rows, worst, [node.op for node in signature.nodes]


def check(build, folder, patterns, tolerance=1e-5, **options):
    """Converts a graph, compares, and holds it to the patterns it should have; returns the rows."""
    rows, worst, _ = converted(saved(build, folder / "frozen.pb"), **options)
    assert [row.pattern for row in rows if row.fused] == patterns
    assert worst < tolerance
    return rows


def picture(*shape, dtype="float32", name="x"):
    """An input of pictures of any number."""
    return tf.compat.v1.placeholder(dtype, [None, *shape], name=name)


def depthwise(x, kernel, stride=1, padding="SAME", name=None, layout="NHWC"):
    strides = [1, stride, stride, 1] if layout == "NHWC" else [1, 1, stride, stride]
    return tf.raw_ops.DepthwiseConv2dNative(
        input=x, filter=kernel, strides=strides, padding=padding, data_format=layout, name=name
    )


def conv(x, kernel, stride=1, padding="SAME", name=None, layout="NHWC"):
    strides = [1, stride, stride, 1] if layout == "NHWC" else [1, 1, stride, stride]
    return tf.raw_ops.Conv2D(input=x, filter=kernel, strides=strides, padding=padding, data_format=layout, name=name)


def batch_norm(x, w, channels, kind="FusedBatchNormV3", layout="NHWC"):
    """A batch norm, as one node or written out as TensorFlow 1 did."""
    if kind == "written out":
        factor = tf.math.rsqrt(w.positive(channels) + 1e-3) * w.positive(channels)
        return x * factor + (w(channels) - w(channels) * factor)
    op = getattr(tf.raw_ops, kind)
    values = {"scale": w.positive(channels), "offset": w(channels), "mean": w(channels)}
    return op(x=x, **values, variance=w.positive(channels), is_training=False, data_format=layout)[0]
