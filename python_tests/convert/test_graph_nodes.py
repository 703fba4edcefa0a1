"""`convert_saved_model` on the nodes of frozen graphs: however a network is written, it is fused and answers alike."""

import numpy as np
import pytest
import tensorflow as tf
from graph_support import Weights, batch_norm, check, conv, converted, depthwise, graph_def_of, picture, saved

from tf_dwsconv.convert import graphs
from tf_dwsconv.convert.graphs._source import open_source
from tf_dwsconv.convert.graphs._write import function

pytestmark = pytest.mark.usefixtures("op_library")

SEPARABLE = ["depthwise + 1x1"]


@pytest.mark.parametrize("kind", ["FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3", "written out"])
def test_slim(kind, tmp_path):
    """As TensorFlow 1's slim wrote MobileNets: batch norms in any way, Relu6, names with slashes."""
    w = Weights()

    def build():
        with tf.name_scope("MobilenetV1/Conv2d_1"):
            y = batch_norm(depthwise(picture(8, 8, 6), w(3, 3, 6, 1), stride=2, name="depthwise"), w, 6, kind)
            y = tf.identity(tf.nn.relu6(y))
            y = tf.nn.relu6(batch_norm(conv(y, w(1, 1, 6, 10)), w, 10, kind), name="last")

    [row] = check(build, tmp_path, SEPARABLE)
    assert row.layers[0] == "MobilenetV1/Conv2d_1/depthwise" and row.fused == "MobilenetV1/Conv2d_1/last"


PRELUS = {
    "relu, neg, mul, add": lambda x, a: tf.nn.relu(x) + (-a) * tf.nn.relu(-x),
    "a sub": lambda x, a: tf.nn.relu(x) - a * tf.nn.relu(-x),
    "maximum and minimum": lambda x, a: tf.maximum(x, 0.0) + a * tf.minimum(x, 0.0),
    "abs": lambda x, a: tf.nn.relu(x) + a * (x - tf.abs(x)) * 0.5,
    "maximum of itself": lambda x, a: tf.maximum(x, a * x),
}


@pytest.mark.parametrize("form", PRELUS)
def test_prelu_of_a_face_mesh(form, tmp_path):
    """A detector's block: depthwise, 1x1, residual, PReLU with a slope a channel, which is part of the block."""
    w = Weights()

    def build():
        x = picture(8, 8, 6)
        y = tf.nn.bias_add(conv(tf.nn.bias_add(depthwise(x, w(3, 3, 6, 1)), w(6)), w(1, 1, 6, 6)), w(6))
        y = PRELUS[form](x + y, tf.constant(w.rng.uniform(0.05, 0.9, 6), tf.float32))
        tf.nn.max_pool2d(y, 2, 2, "SAME")

    [row] = check(build, tmp_path, ["depthwise + 1x1 + residual"])
    assert not row.reason


@pytest.mark.parametrize(
    "activation",
    [
        lambda x: tf.nn.leaky_relu(x, 0.1),
        lambda x: tf.maximum(x, 0.2 * x),
        tf.nn.elu,
        lambda x: x * tf.nn.relu6(x + 3.0) * (1 / 6),
        lambda x: x * tf.sigmoid(x),
        lambda x: tf.minimum(tf.maximum(x, 0.0), 6.0),
        lambda x: x * tf.tanh(tf.math.softplus(x)),
        lambda x: 0.5 * x * tf.math.erfc(-x * np.float32(np.sqrt(0.5))),
        lambda x: tf.clip_by_value(x, 0.0, 6.0),
    ],
    ids=["leaky_relu", "maximum", "elu", "hard_swish", "swish", "relu6", "mish", "gelu", "clip"],
)
def test_activations(activation, tmp_path):
    w = Weights()

    def build():
        y = activation(tf.nn.bias_add(depthwise(picture(8, 8, 6), w(3, 3, 6, 2)), w(12)))
        activation(conv(y, w(1, 1, 12, 8)) + w(8))

    rows = check(build, tmp_path, SEPARABLE)
    nodes = graph_def_of(build).node
    assert rows[0].fused == nodes[-1].name and len(rows[0].layers) > 3


def test_hand_detector_with_resize_and_concatenation(tmp_path):
    """A feature pyramid: resized, added and concatenated features between blocks, which stay nodes."""
    w = Weights()

    def block(x, channels, stride=1):
        y = depthwise(x, w(5, 5, x.shape[-1], 1), stride)
        return tf.nn.relu(tf.nn.bias_add(conv(y, w(1, 1, x.shape[-1], channels)), w(channels)))

    def build():
        first = block(picture(16, 16, 6), 8)
        second = block(first, 8, 2)
        up = tf.compat.v1.image.resize_bilinear(second, [16, 16])
        near = tf.compat.v1.image.resize_nearest_neighbor(second, [16, 16])
        y = block(tf.concat([up, near, first], 3), 12)
        y = tf.pad(tf.pad(y, [[0, 0], [0, 0], [0, 0], [0, 4]]), [[0, 0], [1, 1], [1, 1], [0, 0]], "REFLECT")
        pooled = tf.reduce_mean(tf.nn.avg_pool2d(y, 2, 2, "VALID"), [1, 2])
        tf.nn.softmax(tf.nn.bias_add(tf.matmul(pooled, w(16, 5)), w(5)))

    check(build, tmp_path, 3 * SEPARABLE + ["dense"])


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
def test_space_to_batch_is_folded_back(padding, tmp_path):
    """TensorFlow dilates a depthwise convolution between SpaceToBatchND and BatchToSpaceND."""
    w = Weights()

    def build():
        y = tf.nn.depthwise_conv2d(picture(9, 9, 6), w(3, 3, 6, 1), [1, 1, 1, 1], padding, dilations=[2, 2])
        tf.nn.relu(batch_norm(conv(tf.nn.relu(batch_norm(y, w, 6)), w(1, 1, 6, 8)), w, 8))

    assert "SpaceToBatchND" in [node.op for node in graph_def_of(build).node]
    check(build, tmp_path, SEPARABLE)
    assert not {"SpaceToBatchND", "BatchToSpaceND"} & set(converted(tmp_path / "frozen.pb")[2])


def test_inverted_residual_with_explicit_padding_and_gate(tmp_path):
    """[expand, Pad, depthwise, squeeze-excite, project, residual] of an EfficientNet."""
    w = Weights()

    def build():
        x = picture(8, 8, 6)
        y = tf.nn.relu6(batch_norm(conv(x, w(1, 1, 6, 12)), w, 12))
        y = depthwise(tf.pad(y, [[0, 0], [1, 1], [1, 1], [0, 0]]), w(3, 3, 12, 1), padding="VALID")
        y = tf.nn.relu6(batch_norm(y, w, 12))
        gate = tf.nn.relu(tf.nn.bias_add(conv(tf.reduce_mean(y, [1, 2], keepdims=True), w(1, 1, 12, 4)), w(4)))
        gate = tf.sigmoid(tf.nn.bias_add(conv(gate, w(1, 1, 4, 12)), w(12)))
        tf.add(x, batch_norm(conv(y * gate, w(1, 1, 12, 6)), w, 6))

    check(build, tmp_path, ["expand + depthwise", "1x1", "1x1", "gate + 1x1 + residual"])


def test_channels_first(tmp_path):
    w = Weights()

    def build():
        y = tf.nn.bias_add(conv(picture(6, 8, 8), w(1, 1, 6, 8), layout="NCHW"), w(8), "NCHW")
        y = batch_norm(y, w, 8, layout="NCHW")
        y = tf.pad(tf.nn.relu(y), [[0, 0], [0, 0], [1, 1], [1, 1]])
        y = depthwise(y, w(3, 3, 8, 1), padding="VALID", layout="NCHW") + w(1, 8, 1, 1)
        tf.nn.relu(conv(y, w(1, 1, 8, 4), layout="NCHW"))

    source = saved(build, tmp_path / "frozen.pb")
    [signature] = open_source(source).signatures
    rows = graphs._fuse(signature, "network")
    assert [row.pattern for row in rows if row.fused] == ["expand + depthwise + 1x1"]
    # TensorFlow has no such depthwise op on a CPU, so what is expected comes from the other layout.
    x = np.random.default_rng(1).standard_normal((2, 6, 8, 8)).astype("float32")
    w = Weights()
    a = tf.nn.bias_add(conv(tf.constant(x.transpose(0, 2, 3, 1)), w(1, 1, 6, 8)), w(8))
    a = tf.nn.relu(batch_norm(a, w, 8))
    a = depthwise(a, w(3, 3, 8, 1)) + tf.reshape(w(1, 8, 1, 1), [8])
    expected = tf.nn.relu(conv(a, w(1, 1, 8, 4))).numpy().transpose(0, 3, 1, 2)
    [given] = function(signature)(x=tf.constant(x)).values()
    np.testing.assert_allclose(given.numpy(), expected, atol=1e-5)


def test_fused_ops_of_optimised_graphs(tmp_path):
    """`_FusedConv2D`, as TensorFlow's optimiser writes it, and the name that others give the depthwise one."""
    w = Weights()

    def build():
        x = picture(8, 8, 6)
        y = tf.raw_ops._FusedConv2D if hasattr(tf.raw_ops, "_FusedConv2D") else None
        assert y is None  # TensorFlow gives it no function
        depthwise(x, w(3, 3, 6, 1), name="first")
        conv(x, w(1, 1, 6, 8), name="second")
        tf.identity(w(6), name="bias_of_first")
        tf.identity(w(8), name="bias_of_second")

    graph_def = graph_def_of(build)
    nodes = {node.name: node for node in graph_def.node}
    nodes["second"].input[0] = "first"
    for name, op in (("first", "FusedDepthwiseConv2dNative"), ("second", "_FusedConv2D")):
        node = nodes[name]
        node.op = op
        node.input.append(f"bias_of_{name}")
        node.attr["num_args"].i = 1
        node.attr["fused_ops"].list.s.extend([b"BiasAdd", b"Relu6"] if name == "first" else [b"BiasAdd"])
        if op == "_FusedConv2D":
            node.attr["TArgs"].list.type.append(tf.float32.as_datatype_enum)
            del node.attr["use_cudnn_on_gpu"]
    path = tmp_path / "frozen.pb"
    path.write_bytes(graph_def.SerializeToString())
    rows, worst, ops = converted(path, outputs=["second"])
    assert [row.pattern for row in rows if row.fused] == SEPARABLE and worst < 1e-5
    assert sum("Conv" in op for op in ops) == 1


def test_fake_quantisation_is_kept_and_said(tmp_path):
    w = Weights()

    def build():
        kernel = tf.quantization.fake_quant_with_min_max_args(w(3, 3, 6, 1), -1, 1, name="quantised")
        y = depthwise(picture(8, 8, 6), kernel, name="conv")
        tf.nn.relu(conv(y, w(1, 1, 6, 8)))

    rows = check(build, tmp_path, ["1x1"])
    reasons = {row.layers[0]: row.reason for row in rows if not row.fused}
    assert "'quantised'" in reasons["conv"] and "kept" in reasons["quantised"]


def test_what_is_read_elsewhere_ends_a_block(tmp_path):
    """Two results: one in the middle of a chain."""
    w = Weights()

    def build():
        y = tf.nn.relu(depthwise(picture(8, 8, 6), w(3, 3, 6, 1), name="conv"), name="middle")
        tf.nn.relu(conv(y, w(1, 1, 6, 8)), name="last")

    rows = check(build, tmp_path, ["depthwise", "1x1"], outputs=["middle", "last"])
    assert "result of 'middle' is one of the model's" in rows[0].reason


def test_inputs_may_be_inside(tmp_path):
    """`inputs` and `outputs` cut a graph; both have the names of its nodes."""
    w = Weights()

    def build():
        y = tf.image.convert_image_dtype(picture(8, 8, 6, dtype="uint8"), tf.float32)
        y = tf.identity(y, name="cast/result")
        y = tf.nn.relu(conv(depthwise(y, w(3, 3, 6, 1)), w(1, 1, 6, 8)), name="a/relu")
        tf.nn.softmax(y, name="b")

    path = saved(build, tmp_path / "frozen.pb")
    rows, worst, ops = converted(path, inputs=["cast/result:0"], outputs=["a/relu"])
    assert worst < 1e-5 and rows[0].pattern == "depthwise + 1x1" and "Softmax" not in ops and "Cast" not in ops
    with pytest.raises(ValueError, match="`outputs` must be tensors of the graph; given 'c'"):
        converted(path, outputs=["c"])
    with pytest.raises(ValueError, match="`inputs` must hold 'x'"):
        converted(path, inputs=["b"], outputs=["a/relu"])


def test_inputs_without_a_shape(tmp_path):
    """A filter tells of how many channels it reads."""
    w = Weights()

    def build():
        x = tf.compat.v1.placeholder(tf.float32, None, name="x")
        tf.nn.relu(conv(depthwise(x, w(3, 3, 6, 1)), w(1, 1, 6, 8)), name="y")

    path = saved(build, tmp_path / "frozen.pb")
    [signature] = open_source(path).signatures
    [row] = graphs._fuse(signature, "network")
    assert row.pattern == "depthwise + 1x1"
    x = np.random.default_rng(0).standard_normal((2, 7, 8, 6)).astype("float32")
    old, new = (function(s)(x=tf.constant(x))["y"] for s in (open_source(path).signatures[0], signature))
    np.testing.assert_allclose(new, old, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_dtypes(dtype, tmp_path):
    """16-bit floats are fused; what computes in float64 stays."""
    w = Weights()

    def build():
        y = depthwise(picture(8, 8, 6, dtype=dtype), w(3, 3, 6, 1, dtype=dtype), name="conv")
        tf.nn.relu(conv(y, w(1, 1, 6, 8, dtype=dtype)))

    epsilon = {"float16": 2**-10, "bfloat16": 2**-7, "float64": 2**-50}[dtype]
    rows = check(build, tmp_path, [] if dtype == "float64" else SEPARABLE, tolerance=4 * epsilon)
    assert dtype != "float64" or rows[0].reason == "it computes in float64"
