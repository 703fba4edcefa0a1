"""Graphs of TensorFlow 1 that carry what they did in training with them: what a default chooses is fused."""

import numpy as np
import pytest
import tensorflow as tf
from graph_support import EPSILON, Weights, conv, depthwise, fused, picture, saved

import tf_dwsconv
from tf_dwsconv.convert.graphs._source import open_source
from tf_dwsconv.convert.graphs._write import function

pytestmark = pytest.mark.usefixtures("op_library")
tf1 = tf.compat.v1


@pytest.fixture(params=["Switch and Merge", "If"])
def control_flow(request):
    """Both ways in which TensorFlow writes a branch."""
    if request.param == "If":
        yield request.param
        return
    tf1.disable_control_flow_v2()
    yield request.param
    tf1.enable_control_flow_v2()


def norm(x, w, training):
    """A batch norm that either measures or knows."""
    channels = x.shape[-1]
    scale, shift, mean, variance = w.positive(channels), w(channels), w(channels), w.positive(channels)
    op, nothing = tf.raw_ops.FusedBatchNormV3, tf.zeros([0])
    return tf1.cond(
        training,
        lambda: op(x=x, scale=scale, offset=shift, mean=nothing, variance=nothing, is_training=True)[0],
        lambda: op(x=x, scale=scale, offset=shift, mean=mean, variance=variance, is_training=False)[0],
    )


def slim():
    """As slim's networks are, where `is_training` is a placeholder with a default."""
    w = Weights()
    training = tf1.placeholder_with_default(False, [], name="is_training")
    y = tf.nn.relu6(norm(conv(picture(12, 12, 3), w(3, 3, 3, 8), 2), w, training))
    y = tf.nn.relu6(norm(depthwise(y, w(3, 3, 8, 1)), w, training))
    y = tf.nn.relu6(norm(conv(y, w(1, 1, 8, 8)), w, training))
    y = tf1.cond(training, lambda: tf.nn.dropout(y, rate=0.5, name="dropped"), lambda: y)
    tf.reduce_mean(y, [1, 2], name="y")


def test_what_a_default_chooses(control_flow, tmp_path):
    path = saved(slim, tmp_path / "frozen.pb")
    rows, worst, ops = fused(path, "network", inputs=["x"], outputs=["y"])
    assert worst < 100 * EPSILON and set(ops) == {"Placeholder", "Const", "TfDwsconv>Network"}
    assert [row.pattern for row in rows] == ["convolution", "depthwise + 1x1"]
    rows = tf_dwsconv.convert_saved_model(path, tmp_path / "fused", inputs=["x"], outputs=["y"])
    assert [row.reason for row in rows if row.pattern == "left out"] == [
        "the input 'is_training', which has a default and always takes it, False"
    ]


def test_an_input_that_is_asked_for_stays(control_flow, tmp_path):
    """With its branches."""
    path = saved(slim, tmp_path / "frozen.pb")
    rows = tf_dwsconv.convert_saved_model(path, tmp_path / "out", inputs=["x", "is_training"], outputs=["y"])
    assert not [row for row in rows if row.pattern == "left out"]
    x = tf.constant(np.random.default_rng(0).standard_normal((2, 12, 12, 3)), tf.float32)
    run = tf.saved_model.load(str(tmp_path / "out")).signatures["serving_default"]
    y, trained = (run(x=x, is_training=tf.constant(flag))["y"].numpy() for flag in (False, True))
    tf_dwsconv.convert_saved_model(path, tmp_path / "alone", inputs=["x"], outputs=["y"])
    alone = tf.saved_model.load(str(tmp_path / "alone")).signatures["serving_default"](x=x)["y"].numpy()
    np.testing.assert_allclose(y, alone, atol=1e-5)
    assert np.abs(trained - y).max() > 1e-2


class Nest:
    """A random nest of branches and loops, whose predicates are known, unknown, or both together."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)
        known = [tf1.placeholder_with_default(flag, [], name=f"default{flag}") for flag in (False, True)]
        flag = tf1.placeholder(tf.bool, [], name="flag")
        self.predicates = [*known, flag, tf.logical_and(known[0], flag), tf.logical_or(*known)]

    def __call__(self, x, depth=0):
        kind = self.rng.integers(0, 6 if depth < 2 else 3)
        if kind < 3:
            return [lambda x: tf.nn.relu(x - 0.5), lambda x: 1.5 * x, tf.sigmoid][kind](x)
        if kind == 3:
            return self(self(x, depth + 1), depth + 1)
        predicate = self.predicates[self.rng.integers(0, len(self.predicates))]
        first = (lambda: self(x, depth + 1)) if kind == 4 else (lambda: self.loop(x))
        return tf1.cond(predicate, first, lambda: self(x, depth + 1))

    def loop(self, x):
        return tf1.while_loop(lambda i, y: i < 3, lambda i, y: (i + 1, self(y, 2)), (0, x))[1]


@pytest.mark.parametrize("seed", range(8))
def test_nests_of_branches(seed, control_flow, tmp_path):
    def build():
        nest, y = Nest(seed), picture(2, 2, 2)
        for _ in range(3):
            y = nest(y)
        tf.identity(y, name="y")

    path = saved(build, tmp_path / "frozen.pb")
    source = open_source(path, inputs=["x", "flag"], outputs=["y"])
    [signature] = source.signatures
    before, after = function(source.original(signature.name)), function(signature)
    x = tf.constant(np.random.default_rng(seed).standard_normal((2, 2, 2, 2)), tf.float32)
    for flag in (False, True):
        old, new = (run(x=x, flag=tf.constant(flag))["y"] for run in (before, after))
        np.testing.assert_allclose(new, old, rtol=100 * EPSILON)
