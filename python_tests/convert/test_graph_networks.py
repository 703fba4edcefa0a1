"""Programs in the graphs that `convert_saved_model` writes: what they take in, where they end, and the way back."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from graph_support import EPSILON, Weights, batch_norm, conv, depthwise, fused, picture, saved

import tf_dwsconv

pytestmark = pytest.mark.usefixtures("op_library")
NETWORK = "TfDwsconv>Network"


def block(x, w, channels=8):
    y = tf.nn.relu6(depthwise(x, w(3, 3, x.shape[-1], 1)))
    return tf.nn.relu(tf.nn.bias_add(conv(y, w(1, 1, x.shape[-1], channels)), w(channels)))


def ops_of(build, folder, fuse="network", **options):
    rows, worst, ops = fused(saved(build, folder / "frozen.pb"), fuse, **options)
    assert worst < 100 * EPSILON
    return rows, [op for op in ops if op not in ("Const", "Placeholder", "Identity")]


def test_a_convolution_with_a_batch_norm_is_in_the_report(tmp_path):
    """One that stays TensorFlow's as a block is part of the network, and its row says so."""
    w = Weights()

    def build():
        y = batch_norm(conv(block(picture(8, 8, 4), w, 20), w(3, 3, 20, 24)), w, 24, "FusedBatchNormV3")
        tf.nn.softmax(tf.reduce_mean(tf.nn.relu(y), [1, 2]), name="y")

    rows, ops = ops_of(build, tmp_path)
    assert ops == [NETWORK]
    assert [(row.pattern, row.network) for row in rows] == [("depthwise + 1x1", "y"), ("convolution + batch norm", "y")]


@pytest.mark.parametrize(
    "between",
    [
        lambda x: tf.nn.max_pool2d(x, 3, 2, "SAME"),
        lambda x: tf.nn.avg_pool2d(x, 2, 2, "VALID"),
        lambda x: tf.concat([x, tf.nn.tanh(x)], 3),
        lambda x: tf.raw_ops.ResizeBilinear(images=x, size=[9, 7], half_pixel_centers=True),
        lambda x: tf.raw_ops.ResizeNearestNeighbor(images=x, size=[4, 16], half_pixel_centers=True),
        lambda x: x * tf.sigmoid(tf.reduce_mean(x, [1, 2], keepdims=True)),
        lambda x: x + tf.reduce_max(x, [1, 2], keepdims=True),
        lambda x: tf.reshape(tf.reshape(x, [-1, 64, 8]), [-1, 8, 8, 8]),
        lambda x: tf.nn.softmax(x),
        lambda x: tf.transpose(x, [0, 2, 1, 3]),
        lambda x: tf.slice(x, [0, 1, 0, 2], [-1, 6, -1, 5]),
        lambda x: x[:, 1:-1, ..., 2:],
        lambda x: x[:, ::2, 1::2],
        lambda x: tf.concat(tf.split(x, 2, axis=-1)[::-1], 3),
        lambda x: tf.concat(tf.split(x, [1, 4, 3], axis=1)[::-1], 1),
        lambda x: tf.concat(tf.split(x, [3, -1, 2], axis=-1)[::-1], 3),
        lambda x: tf.nn.depth_to_space(x, 2),
        lambda x: tf.reshape(x, [-1, 4, 8, 8]),
        lambda x: tf.reduce_sum([x[..., :4], x[..., 4:], x[..., 2:6]], axis=0),
        lambda x: tf.reduce_sum(tf.stack(tf.split(x, 2, 3), axis=-1), 4),
        lambda x: tf.raw_ops.AddN(inputs=[x, tf.nn.relu(x), tf.nn.relu6(x)]),
    ],
    ids=[
        "max",
        "average",
        "concat",
        "bilinear",
        "nearest",
        "gate",
        "reduce_max",
        "reshape",
        "softmax",
        "transpose",
        "slice",
        "strided",
        "every_other",
        "split",
        "splitv",
        "split_rest",
        "pixels",
        "pictures",
        "sum of packed",
        "sum of stacked",
        "sum of three",
    ],
)
def test_one_program(tmp_path, between):
    w = Weights()

    def build():
        y = between(block(picture(8, 8, 4), w))
        tf.nn.softmax(tf.reduce_mean(block(y, w, 5), [1, 2]), name="y")

    rows, ops = ops_of(build, tmp_path)
    assert ops == [NETWORK]
    assert all(row.network == "y" for row in rows) and len(rows) == 2
    assert NETWORK not in ops_of(build, tmp_path, "blocks")[1]


@pytest.mark.parametrize(
    "between",
    [
        lambda x: tf.raw_ops.ResizeBilinear(images=x, size=[9, 7]),
        lambda x: tf.nn.max_pool2d(x, 2, 2, [[0, 0], [1, 0], [0, 1], [0, 0]]),
        lambda x: tf.transpose(tf.reverse(tf.transpose(x, [1, 0, 2, 3]), [0]), [1, 0, 2, 3]),
        lambda x: x[:, :, ::-1],
        lambda x: tf.reduce_mean(x, [0, 1], keepdims=True),
        lambda x: tf.cast(tf.cast(x, tf.float64), tf.float32),
    ],
    ids=[
        "corners",
        "pads of a pool",
        "transpose of the batch",
        "backwards",
        "over pictures",
        "float64",
    ],
)
def test_what_programs_do_not_have_stays_between_two(tmp_path, between):
    w = Weights()

    def part(x):
        return block(tf.nn.max_pool2d(block(x, w), 3, 1, "SAME"), w)

    def build():
        tf.identity(part(between(part(picture(8, 8, 4)))), name="y")

    _, ops = ops_of(build, tmp_path)
    assert ops.count(NETWORK) == 2 and len(ops) > 2


@pytest.mark.parametrize(
    "taps, padding, size", [(2, "VALID", 16), (3, "SAME", 16), (4, "SAME", 16), (3, "VALID", 17), (3, "SAME", 15)]
)
def test_transposed_convolutions(tmp_path, taps, padding, size):
    """With the bias behind, of sizes that are constants and of those that come from the picture's."""
    for is_free in (False, True):
        w = Weights()

        def build():
            y = block(picture(8, 8, 4), w)  # noqa: B023
            sizes = tf.stack([tf.shape(y)[0] if is_free else 2, size, size, 6])  # noqa: B023
            y = tf.nn.conv2d_transpose(y, w(taps, taps, 6, 8), sizes, 2, padding)  # noqa: B023
            tf.identity(block(tf.nn.relu(tf.nn.bias_add(y, w(6))), w), name="y")  # noqa: B023

        _, ops = ops_of(build, tmp_path)
        assert ops == [NETWORK]


def test_a_path_that_leaves_and_comes_back(tmp_path):
    """Through a node that no layer stands for: one program of both ends would wait for itself."""
    w = Weights()

    def build():
        y = block(block(picture(8, 8, 4), w), w)
        around = tf.transpose(tf.transpose(y, [0, 3, 1, 2]) * 2.0, [0, 2, 3, 1])
        tf.add(block(tf.nn.relu6(block(y, w)), w), tf.cumsum(around, 1), name="y")

    _, ops = ops_of(build, tmp_path)
    # What needs the path that comes back is not in the program.
    assert "Cumsum" in ops and "AddV2" in ops and ops.count(NETWORK) == 1


def test_loops_of_tensorflow_1_whose_variables_cross(tmp_path):
    """What one variable gives depends on what went into the other, and the ring of the loop is no order."""
    tf1, w = tf.compat.v1, Weights()

    def build():
        x = picture(8, 8, 4)
        y, z = (block(tf.nn.max_pool2d(block(x, w), 3, 1, "SAME"), w) for _ in range(2))
        _, y, z = tf1.while_loop(lambda i, y, z: i < 3, lambda i, y, z: (i + 1, z * 0.5, y + 0.1 * z), (0, y, z))
        y, z = (tf.ensure_shape(t, [None, 8, 8, 8]) for t in (y, z))
        tf.add(block(tf.nn.max_pool2d(block(y, w), 3, 1, "SAME"), w), z, name="y")

    tf1.disable_control_flow_v2()
    try:
        _, ops = ops_of(build, tmp_path, outputs=["y"])
    finally:
        tf1.enable_control_flow_v2()
    assert "NextIteration" in ops and ops.count(NETWORK) == 3


def several_results(x):
    w = Weights()
    y = block(tf.nn.max_pool2d(block(x, w), 3, 2, "SAME"), w)
    return {"boxes": block(y, w, 12), "scores": tf.nn.softmax(tf.reduce_mean(block(y, w, 3), [1, 2])), "map": y}


def test_several_results_there_and_back(tmp_path):
    """In one program, under their names, in a new SavedModel, and as stock ops again."""
    module = tf.Module()
    module.serve = tf.function(several_results, input_signature=[tf.TensorSpec([None, None, None, 4], name="x")])
    tf.saved_model.save(module, str(tmp_path / "saved"), signatures=module.serve)
    rows = tf_dwsconv.convert_saved_model(tmp_path / "saved", tmp_path / "fused")
    networks = {row.network for row in rows if row.fused}
    assert sum(row.fused is not None for row in rows) == 4 and len(networks) == 1 and None not in networks
    tf_dwsconv.to_builtin(tmp_path / "fused", tmp_path / "stock")
    x = tf.constant(np.random.default_rng(0).standard_normal((3, 10, 9, 4)), tf.float32)
    expected = several_results(x)
    for folder, ours in (("fused", 1), ("stock", 0)):
        function = tf.saved_model.load(str(tmp_path / folder)).signatures["serving_default"]
        given = function(x=x)
        assert given.keys() == expected.keys()
        for key, value in expected.items():
            np.testing.assert_allclose(given[key], value, atol=100 * EPSILON, err_msg=key)
        graph = function.graph.as_graph_def()
        ops = [node.op for nodes in (graph.node, *(f.node_def for f in graph.library.function)) for node in nodes]
        assert sum(op.startswith("TfDwsconv>") for op in ops) == ours


def test_twice_is_once(tmp_path):
    """A graph that holds programs is read as one that does."""
    module = tf.Module()
    module.serve = tf.function(several_results, input_signature=[tf.TensorSpec([None, 8, 8, 4], name="x")])
    tf.saved_model.save(module, str(tmp_path / "saved"), signatures=module.serve)
    tf_dwsconv.convert_saved_model(tmp_path / "saved", tmp_path / "fused")
    rows = tf_dwsconv.convert_saved_model(tmp_path / "fused", tmp_path / "again")
    assert "already: 1 op" in rows[0].reason and not any(row.fused for row in rows)
    x = tf.ones([2, 8, 8, 4])
    once, twice = (
        tf.saved_model.load(str(tmp_path / f)).signatures["serving_default"](x=x) for f in ("fused", "again")
    )
    for key in once:
        np.testing.assert_array_equal(once[key], twice[key])


def test_bad_words(tmp_path):
    with pytest.raises(ValueError, match=r"`fuse` must be 'network' or 'blocks'; given 'layers'"):
        tf_dwsconv.convert_saved_model(tmp_path, tmp_path / "fused", fuse="layers")
