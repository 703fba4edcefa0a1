"""Graphs as face, hand and body detectors are, through `convert_saved_model` and back to LiteRT: one program each."""

import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from graph_support import EPSILON, Weights, batch_norm, conv, converted, depthwise, fused, picture, saved

import tf_dwsconv

pytestmark = pytest.mark.usefixtures("op_library")
NETWORK = "TfDwsconv>Network"


def prelu(x, w):
    slopes = tf.constant(w.rng.uniform(0.05, 0.9, x.shape[-1]), tf.float32)
    return tf.nn.relu(x) + (-slopes) * tf.nn.relu(-x)


def block(x, w, channels, stride=1):
    """As BlazeFace has it: a smaller picture by pooling, more channels by zeros, PReLU behind the sum."""
    before = x.shape[-1]
    y = tf.nn.bias_add(depthwise(x, w(5, 5, before, 1), stride), w(before))
    y = tf.nn.bias_add(conv(y, w(1, 1, before, channels)), w(channels))
    x = tf.nn.max_pool2d(x, 2, 2, "SAME") if stride > 1 else x
    x = tf.pad(x, [[0, 0], [0, 0], [0, 0], [0, channels - before]]) if channels > before else x
    return prelu(y + x, w)


def heads(features, w, batch):
    """Boxes and scores of each pixel, joined; `batch` gives the first size of their shape."""
    found = {1: [], 4: []}
    for x in features:
        for size, tensors in found.items():
            y = tf.nn.bias_add(conv(x, w(1, 1, x.shape[-1], 2 * size)), w(2 * size))
            shape = [batch(y), x.shape[1] * x.shape[2] * 2 if batch is constant else -1, size]
            tensors.append(tf.reshape(y, shape if batch is constant else tf.stack(shape)))
    tf.concat(found[4], 1, name="boxes")
    tf.sigmoid(tf.concat(found[1], 1), name="scores")


def constant(tensor):
    return -1


def first_size(tensor):
    return tf.shape(tensor)[0]


def gathered(tensor):
    return tf.gather(tf.shape(tensor), 0)


def face(w, batch=constant):
    x = (picture(16, 16, 3) - 127.5) / 127.5
    y = tf.nn.relu(tf.nn.bias_add(conv(x, w(5, 5, 3, 8), 2), w(8)))
    first = block(block(y, w, 8), w, 12)
    heads([first, block(first, w, 16, 2)], w, batch)


RESIZES = {
    "bilinear": lambda x: tf.raw_ops.ResizeBilinear(images=x, size=[8, 8], half_pixel_centers=True),
    "nearest": lambda x: tf.raw_ops.ResizeNearestNeighbor(images=x, size=[8, 8], half_pixel_centers=True),
    "nearest of TensorFlow 1": lambda x: tf.raw_ops.ResizeNearestNeighbor(images=x, size=[8, 8]),
    "nearest with corners": lambda x: tf.raw_ops.ResizeNearestNeighbor(images=x, size=[8, 8], align_corners=True),
    "bilinear with corners": lambda x: tf.raw_ops.ResizeBilinear(images=x, size=[8, 8], align_corners=True),
    "bilinear of TensorFlow 1": lambda x: tf.raw_ops.ResizeBilinear(images=x, size=[8, 8]),
}


def hand(w, resize):
    """A feature pyramid: what is resized is added to what is finer."""
    y = tf.nn.leaky_relu(conv(picture(16, 16, 3), w(3, 3, 3, 8), 2) + w(8), 0.1)
    fine = block(y, w, 12)
    coarse = block(fine, w, 12, 2)
    heads([block(fine + resize(coarse), w, 12), coarse], w, constant)


def body(w):
    """DeepLab's way to segment: dilated inverted residuals, the whole picture beside each pixel, classes of pixels."""

    def inverted(x, channels, dilation=1, stride=1):
        y = tf.nn.relu6(batch_norm(conv(x, w(1, 1, x.shape[-1], 16)), w, 16))
        y = tf.nn.depthwise_conv2d(y, w(3, 3, 16, 1), [1, stride, stride, 1], "SAME", dilations=[dilation, dilation])
        y = tf.nn.relu6(batch_norm(y, w, 16, "FusedBatchNorm"))
        y = batch_norm(conv(y, w(1, 1, 16, channels)), w, channels, "written out")
        return x + y if channels == x.shape[-1] else y

    y = tf.nn.relu6(batch_norm(conv(picture(17, 17, 3), w(3, 3, 3, 8), 2), w, 8))
    y = inverted(inverted(inverted(y, 12), 12, 2), 12, 4)
    whole = tf.nn.relu(conv(tf.reduce_mean(y, [1, 2], keepdims=True), w(1, 1, 12, 8)) + w(8))
    whole = tf.raw_ops.ResizeBilinear(images=whole, size=[9, 9], align_corners=True)
    y = tf.nn.relu(conv(tf.concat([whole, y], 3), w(1, 1, 20, 8)) + w(8))
    tf.argmax(tf.nn.softmax(conv(y, w(1, 1, 8, 5)) + w(5)), 3, name="classes")


def there_and_back(build, folder):
    """Converts, in one program if it can be, and back to LiteRT; returns the ops of the converted graph."""
    path = saved(lambda: build(Weights()), folder / "frozen.pb")
    rows, worst, ops = fused(path, "network")
    assert worst < 100 * EPSILON
    convolutions = {"Conv2D", "DepthwiseConv2dNative"}
    assert not convolutions & set(ops) and all(row.fused and row.network for row in rows)
    tf_dwsconv.convert_saved_model(path, folder / "fused")
    tf_dwsconv.to_builtin(folder / "fused", folder / "stock")
    converter = tf.lite.TFLiteConverter.from_saved_model(str(folder / "stock"))
    interpreter = Interpreter(model_content=converter.convert())
    runner = interpreter.get_signature_runner("serving_default")
    [spec] = runner.get_input_details().values()
    x = np.random.default_rng(0).uniform(0, 1, [1, *spec["shape"][1:]]).astype("float32")
    expected = tf.saved_model.load(str(folder / "fused")).signatures["serving_default"](x=tf.constant(x))
    given = runner(x=x)
    assert given.keys() == expected.keys()
    for key, value in expected.items():
        np.testing.assert_allclose(given[key], value, atol=1e-4, err_msg=key)
    return [op for op in ops if op not in ("Const", "Placeholder", "Identity")]


@pytest.mark.parametrize("batch", [constant, first_size, gathered])
def test_face(batch, tmp_path):
    assert there_and_back(lambda w: face(w, batch), tmp_path) == [NETWORK]


@pytest.mark.parametrize("kind", RESIZES)
def test_hand(kind, tmp_path):
    ops = there_and_back(lambda w: hand(w, RESIZES[kind]), tmp_path)
    other = ["ResizeBilinear"] if kind in ("bilinear with corners", "bilinear of TensorFlow 1") else []
    assert sorted(ops) == sorted([NETWORK] * (1 + len(other)) + other)


def test_body(tmp_path):
    assert sorted(there_and_back(body, tmp_path)) == ["ArgMax", NETWORK]


def test_a_size_that_the_graph_asks_for(tmp_path):
    """Sizes that are known, though the graph takes them from a tensor's shape."""
    kind = tf.raw_ops.ResizeNearestNeighbor

    def build():
        w = Weights()
        fine = block(picture(8, 8, 4), w, 4)
        coarse = block(fine, w, 4, 2)
        block(fine + kind(images=coarse, size=tf.shape(fine)[1:3]), w, 4)

    _, worst, ops = fused(saved(build, tmp_path / "frozen.pb"), "network")
    assert worst < 100 * EPSILON and set(ops) == {"Placeholder", "Const", NETWORK}


@pytest.mark.parametrize(
    "shape",
    [
        lambda x, other: tf.stack([tf.shape(other)[0], -1, 4]),
        lambda x, other: tf.stack([2 * tf.shape(x)[0], -1, 4]),
        lambda x, other: tf.stack([tf.shape(x)[1], -1, 4]),
        lambda x, other: tf.concat([tf.shape(x)[:1], tf.shape(other)[:1], [-1]], 0),
    ],
    ids=["of another input", "twice", "rows", "two batches"],
)
def test_reshapes_that_may_change_the_pictures_stay(shape, tmp_path):
    """With as many pictures in both inputs they all give what was expected; others may come."""

    def build():
        w = Weights()
        x, other = (block(picture(None if i else 8, 8, 4, name=f"in{i}"), w, 4) for i in range(2))
        tf.nn.softmax(tf.reshape(x, shape(x, other)), name="y")
        tf.identity(other, name="z")

    _, worst, ops = fused(saved(build, tmp_path / "frozen.pb"), "network")
    assert worst < 100 * EPSILON and "Reshape" in ops


def test_joined_pictures_are_more(tmp_path):
    """What is joined along the batch has not the batch of what was joined."""

    def build():
        w = Weights()
        x = block(picture(8, 8, 4), w, 4)
        y = tf.reshape(tf.concat([x, -x], 0), tf.stack([tf.shape(x)[0], -1, 8, 4]))
        block(block(y, w, 4), w, 4)

    _, worst, ops = fused(saved(build, tmp_path / "frozen.pb"), "network")
    assert worst < 100 * EPSILON and "Reshape" in ops


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize("dilation", [(2, 2), (3, 1)])
def test_dilations_of_pictures_of_any_size(padding, dilation, tmp_path):
    """What TensorFlow pads is then computed from the shape, of a tensor inside a block."""

    def build():
        w = Weights()
        x = picture(None, None, 4)
        y = tf.nn.relu6(batch_norm(conv(x, w(1, 1, 4, 6)), w, 6))
        y = tf.nn.depthwise_conv2d(y, w(3, 3, 6, 1), [1, 1, 1, 1], padding, dilations=dilation)
        tf.nn.relu(conv(tf.nn.relu6(batch_norm(y, w, 6)), w(1, 1, 6, 4)) + w(4))

    rows, worst, ops = converted(saved(build, tmp_path / "frozen.pb"))
    assert worst < 100 * EPSILON and "SpaceToBatchND" not in ops and "Shape" not in ops
    assert [row.pattern for row in rows] == ["expand + depthwise + 1x1"]


def test_pads_that_depend_on_the_size_are_no_dilation(tmp_path):
    """A graph may pad by what it likes between the same nodes."""

    def build():
        w = Weights()
        x = picture(None, None, 4)
        rows = 2 + 2 * (tf.shape(x)[1] // 8)
        y = tf.raw_ops.SpaceToBatchND(
            input=x, block_shape=[1, 1], paddings=tf.stack([tf.stack([rows, 0]), tf.constant([0, 0])])
        )
        y = depthwise(y, w(3, 3, 4, 1), padding="VALID", name="conv")
        y = tf.raw_ops.BatchToSpaceND(input=y, block_shape=[1, 1], crops=[[0, 0], [0, 0]])
        tf.nn.relu(y)

    _, worst, ops = converted(saved(build, tmp_path / "frozen.pb"))
    assert worst < 100 * EPSILON and "SpaceToBatchND" in ops


def test_a_resize_of_float16_gives_float32(tmp_path):
    """So it stays, and what is in front of it is float16 as before."""

    def build():
        w = Weights()
        x = picture(8, 8, 4, dtype="float16")
        y = tf.nn.relu(conv(depthwise(x, w(3, 3, 4, 1, dtype="float16")), w(1, 1, 4, 8, dtype="float16")))
        y = tf.raw_ops.ResizeBilinear(images=y, size=[16, 16], half_pixel_centers=True)
        tf.nn.relu(conv(depthwise(y, w(3, 3, 8, 1)), w(1, 1, 8, 8)))

    rows, worst, ops = converted(saved(build, tmp_path / "frozen.pb"))
    assert [row.pattern for row in rows] == 2 * ["depthwise + 1x1"] and "ResizeBilinear" in ops
    assert worst < 8 * 2.0**-11


@pytest.mark.parametrize("value", [0.0, 0.5, -np.inf])
@pytest.mark.parametrize("pads", [[[0, 0], [1, 1], [0, 1], [0, 0]], [[0, 0], [0, 1], [1, 0], [2, 1]]])
def test_pads_with_any_number(value, pads, tmp_path):
    """Of any axis but the batch; infinity is no number of a program."""

    def build():
        w = Weights()
        x = block(picture(8, 8, 4), w, 8)
        y = tf.nn.relu(tf.nn.max_pool2d(tf.pad(x, pads, constant_values=value), 2, 2, "VALID"))
        block(y, w, y.shape[-1])

    _, worst, ops = converted(saved(build, tmp_path / "frozen.pb"))
    assert worst < 100 * EPSILON
    _, _, ops = fused(tmp_path / "frozen.pb", "network")
    assert ops.count(NETWORK) == (1 if np.isfinite(value) else 2)


def test_other_spellings(tmp_path):
    """Selu as ELU and a factor, a sum by AddN, a gate whose axes come back one by one."""

    def build():
        w = Weights()
        x = block(picture(8, 8, 4), w, 4)
        gate = tf.sigmoid(tf.expand_dims(tf.expand_dims(tf.reduce_mean(x, [1, 2]), 1), 2))
        y = tf.nn.selu(conv(depthwise(x * gate, w(3, 3, 4, 1)), w(1, 1, 4, 4)))
        block(tf.add_n([y, x]), w, 4)

    path = saved(build, tmp_path / "frozen.pb")
    _, worst, ops = fused(path, "network")
    assert worst < 100 * EPSILON and set(ops) == {"Placeholder", "Const", NETWORK}
    assert fused(path, "blocks")[1] < 100 * EPSILON


def test_other_convolutions_have_a_line(tmp_path):
    """Those that the kernels do not compute, in functions too."""

    @tf.function(input_signature=[tf.TensorSpec([1, 8, 8, 4])])
    def run(x):
        x = tf.nn.conv2d_transpose(x, tf.ones([2, 2, 4, 4]), [1, 16, 16, 4], 2, name="up")
        x = tf.raw_ops.DepthwiseConv2dNativeBackpropInput(
            input_sizes=[1, 16, 16, 4], filter=tf.ones([3, 3, 4, 1]), out_backprop=x, strides=[1, 1, 1, 1],
            padding="SAME", name="back",
        )  # fmt: skip
        x = tf.nn.conv3d(x[:, None], tf.ones([1, 1, 1, 4, 4]), [1] * 5, "SAME", name="volume")[:, 0]
        kernel = tf.ones([1, 1, 4, 4])
        up = lambda i, x: (i + 1, tf.nn.conv2d_transpose(x, kernel, [1, 16, 16, 4], 1, name="inside"))  # noqa: E731
        return {"y": tf.while_loop(lambda i, x: i < 2, up, (0, x))[1]}

    tf.saved_model.save(tf.Module(), str(tmp_path / "saved"), signatures=run)
    rows = tf_dwsconv.convert_saved_model(tmp_path / "saved", tmp_path / "out")
    names = [row.layers[0].rpartition("/")[2] for row in rows]
    assert sorted(names) == ["back", "inside", "up", "volume"] and all(row.reason for row in rows)
