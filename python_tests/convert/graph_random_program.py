"""Converts random graphs, one after the other, and compares answers in graph mode; a process of its own runs this.

python graph_random_program.py NUMBER [SEED]
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import tensorflow as tf
from graph_support import Weights, batch_norm, conv, converted, depthwise, saved
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

KINDS = ("depthwise", "pointwise", "dense", "norm", "activation", "arithmetic", "join", "shape", "read")


class Builder:
    """Builds a graph by drawing from `data` what each node is."""

    def __init__(self, data):
        self._draw = data.draw
        self._w = Weights(self.one_of(range(1000)))
        self.size = self.one_of([None, 7, 8])
        x = tf.compat.v1.placeholder(tf.float32, [None, self.size, 8, self.one_of([1, 3, 4])], name="x")
        self.made = [x]

    def one_of(self, items):
        return self._draw(st.sampled_from(list(items)))

    def build(self):
        for _ in range(self.one_of(range(3, 7))):
            x = self.made[-1] if self.one_of([True, True, True, False]) else self.one_of(self.made)
            self.made.append(getattr(self, self.one_of(KINDS))(x))
        # A scale keeps numbers in a range in which float32 has digits for all of them.
        tf.identity(self.made[-1], name="last")
        if self.one_of([True, False]):
            tf.reduce_max(self.one_of(self.made[1:]), [1, 2], name="inner")

    def vector(self, x):
        return self._w(x.shape[-1])

    def depthwise(self, x):
        kernel = self._w(self.one_of([1, 3, 5]), 3, x.shape[-1], self.one_of([1, 1, 2]))
        if x.shape[-1] > 16 or self.one_of([True, True, False]):
            return self.bias(depthwise(x, kernel[..., :1], self.one_of([1, 1, 2])))
        if self.size is not None and self.one_of([True, False]):
            return tf.nn.depthwise_conv2d(x, kernel, [1, 1, 1, 1], "SAME", dilations=[2, 2])
        return self.bias(depthwise(tf.pad(x, [[0, 0], [2, 2], [1, 2], [0, 0]]), kernel, 1, "VALID"))

    def pointwise(self, x):
        return self.bias(conv(x, self._w(1, 1, x.shape[-1], self.one_of([4, 6, 8]))))

    def dense(self, x):
        return self.bias(conv(x, self._w(3, 3, x.shape[-1], self.one_of([4, 20])), self.one_of([1, 2])))

    def bias(self, x):
        kinds = (lambda: x, lambda: tf.nn.bias_add(x, self.vector(x)), lambda: x + self.vector(x))
        return self.one_of(kinds)()

    def norm(self, x):
        return batch_norm(x, self._w, x.shape[-1], self.one_of(["FusedBatchNorm", "FusedBatchNormV3", "written out"]))

    def activation(self, x):
        slopes = tf.abs(self.vector(x))
        return self.one_of([
            tf.nn.relu, tf.nn.relu6, tf.nn.elu, tf.nn.selu, tf.sigmoid, tf.tanh, tf.math.softplus,
            lambda x: tf.nn.leaky_relu(x, 0.1), lambda x: x * tf.sigmoid(x),
            lambda x: x * tf.nn.relu6(x + 3.0) / 6.0, lambda x: tf.nn.relu(x) - slopes * tf.nn.relu(-x),
            lambda x: tf.maximum(x, slopes * x), lambda x: tf.minimum(tf.maximum(x, 0.0), 2.0),
        ])(x)  # fmt: skip

    def arithmetic(self, x):
        a = self.vector(x)
        return self.one_of([
            lambda: x * a, lambda: x - a, lambda: a - x, lambda: x / (tf.abs(a) + 1.0), lambda: x * 0.5,
            lambda: 1.0 - x, lambda: tf.maximum(x, a), lambda: x + 0.25 * x,
            lambda: tf.cast(tf.cast(x, tf.float64), tf.float32),
        ])()  # fmt: skip

    def join(self, x):
        """With an older tensor of the same shape, or with a gate."""
        same = [t for t in self.made if t.shape.as_list() == x.shape.as_list() and None not in t.shape.as_list()[1:]]
        gate = tf.sigmoid(tf.reduce_mean(x, [1, 2], keepdims=True))
        other = self.one_of(same) if same else x
        return self.one_of([
            lambda: x + other, lambda: other - x, lambda: x * gate, lambda: tf.concat([x, other], 3),
            lambda: tf.minimum(x, other),
        ])()  # fmt: skip

    def shape(self, x):
        channels = x.shape[-1]
        return self.one_of([
            lambda: tf.nn.max_pool2d(x, 2, 1, "SAME"), lambda: tf.nn.avg_pool2d(x, 2, 1, "SAME"),
            lambda: tf.pad(x, [[0, 0], [1, 1], [0, 1], [0, 0]], "SYMMETRIC"),
            lambda: tf.pad(x, [[0, 0], [0, 1], [1, 0], [0, 0]]),
            lambda: tf.pad(x, [[0, 0], [0, 1], [1, 0], [0, 0]], constant_values=0.5),
            lambda: tf.compat.v1.image.resize_nearest_neighbor(x, [8, 8]),
            lambda: tf.compat.v1.image.resize_bilinear(x, [9, 8]),
            lambda: tf.tensordot(x, self._w(channels, 5), [[3], [0]]), lambda: tf.nn.softmax(x),
            lambda: tf.squeeze(tf.expand_dims(x, 1), [1]),
        ])()  # fmt: skip

    def read(self, x):
        """A chain of what blocks are made of, so that graphs have some."""
        y = tf.nn.relu6(self.norm(depthwise(x, self._w(3, 3, x.shape[-1], 1))))
        y = self.bias(conv(tf.identity(y), self._w(1, 1, x.shape[-1], x.shape[-1])))
        return y + x if self.one_of([True, False]) and None not in x.shape.as_list()[1:] else tf.nn.relu(y)


def main(number: int, seed: int) -> None:
    counts = {"graphs": 0, "fused": 0, "worst": 0.0}
    path = Path(tempfile.mkdtemp()) / "frozen.pb"

    @settings(
        max_examples=number, deadline=None, derandomize=seed == 0, database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(st.data())
    def run(data):
        saved(lambda: Builder(data).build(), path)
        rows, worst, _ = converted(path)
        counts["graphs"] += 1
        counts["fused"] += sum(row.fused is not None for row in rows)
        counts["worst"] = max(counts["worst"], worst)
        assert worst < 1e-4, (worst, rows)

    run()
    print(counts["graphs"], counts["fused"], f"{counts['worst']:.2g}")


if __name__ == "__main__":
    np.seterr(all="ignore")
    main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)
