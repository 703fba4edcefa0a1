"""Attention in graphs as part of one program: products of tensors, tokens, and axes that are merged with the batch."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from graph_support import EPSILON, Weights, conv, depthwise, picture, saved

from tf_dwsconv.convert import graphs
from tf_dwsconv.convert.graphs._source import open_source
from tf_dwsconv.convert.graphs._write import function

pytestmark = pytest.mark.usefixtures("op_library")
NETWORK = "TfDwsconv>Network"
HEADS, DEPTH, TOKENS = 2, 4, 64


def ops_of(signature):
    """The ops of a graph that compute."""
    return [n.op for n in signature.nodes if n.op not in ("Const", "Placeholder", "Identity", "NoOp")]


def converted(path, fuse="network", tolerance=200 * EPSILON, **options):
    """The ops of a converted graph, which answers as before for any number of pictures."""
    [signature] = open_source(path, **options).signatures
    before = function(signature)
    graphs._fuse(signature, fuse)
    after = function(signature)
    for batch in (1, 3):
        rng = np.random.default_rng(batch)
        inputs = {
            key: tf.constant(rng.standard_normal([size or batch for size in spec.shape]), tf.float32)
            for key, spec in signature.specs.items()
        }
        expected, given = before(**inputs), after(**inputs)
        for key, old in expected.items():
            assert old.shape == given[key].shape and np.isfinite(old).all() and np.abs(old).max() > 1e-3
            assert np.abs(old - given[key]).max() < tolerance * np.abs(old).max()
    return ops_of(signature)


def one(build, folder, **options):
    """The ops of a graph of a function."""
    return converted(saved(build, folder / "frozen.pb"), **options)


def block(x, w, channels=8):
    y = tf.nn.relu6(depthwise(x, w(3, 3, x.shape[-1], 1)))
    return tf.nn.relu(tf.nn.bias_add(conv(y, w(1, 1, x.shape[-1], channels)), w(channels)))


def dense(x, w, channels):
    """As Keras 2 computes it of three and more axes, by shapes that it computes, too."""
    return tf.nn.bias_add(tf.tensordot(x, w(x.shape[-1], channels), 1), w(channels))


def split_heads(x):
    return tf.transpose(tf.reshape(x, [-1, TOKENS, HEADS, DEPTH]), [0, 2, 1, 3])


def attention(x, w, bias=None, turned=False):
    """Of a picture of 8 channels, with shapes by its number as the graph asks for it."""
    many, channels = tf.shape(x)[0], HEADS * DEPTH
    tokens = tf.reshape(x, [many, TOKENS, x.shape[-1]])
    q, k, v = map(split_heads, tf.split(dense(tokens, w, 3 * channels), 3, -1))
    if turned:
        scores = tf.raw_ops.BatchMatMulV2(x=tf.transpose(q, [0, 1, 3, 2]), y=k, adj_x=True, adj_y=True)
    else:
        scores = tf.matmul(q, tf.transpose(k, [0, 1, 3, 2]))
    scores = scores * 0.5 if bias is None else scores * 0.5 + bias
    y = tf.transpose(tf.matmul(tf.nn.softmax(scores), v), [0, 2, 1, 3])
    return tf.reshape(dense(tf.reshape(y, [many, TOKENS, channels]), w, 8), [many, 8, 8, 8])


def end(x, w):
    tf.reduce_mean(block(x, w, 5), [1, 2], name="y")


@pytest.mark.parametrize("turned", [False, True])
def test_attention(tmp_path, turned):
    w = Weights()
    table, places = w(TOKENS, HEADS).numpy(), np.arange(TOKENS * TOKENS).reshape(TOKENS, TOKENS) * 7 % TOKENS

    def build():
        x = block(picture(8, 8, 4), w)
        bias = tf.transpose(tf.gather(table, places), [2, 0, 1])
        end(x + attention(x, w, bias, turned), w)

    assert one(build, tmp_path) == [NETWORK]
    assert NETWORK not in one(build, tmp_path, fuse="blocks")


def test_a_table_that_is_a_variable(tmp_path):
    """Its rows are gathered from the variable itself, so there is no op that only reads it."""
    w = Weights()
    module = tf.Module()
    module.table = tf.Variable(w(TOKENS, HEADS))
    places = np.arange(TOKENS * TOKENS).reshape(TOKENS, TOKENS) * 7 % TOKENS

    @tf.function(input_signature=[tf.TensorSpec([None, 8, 8, 4])])
    def call(x):
        x = block(x, w)
        bias = tf.transpose(tf.gather(module.table, places), [2, 0, 1])
        return {"y": tf.reduce_mean(block(x + attention(x, w, bias), w, 5), [1, 2])}

    module.call = call
    assert "ResourceGather" in {op.type for op in call.get_concrete_function().graph.get_operations()}
    tf.saved_model.save(module, tmp_path / "saved", signatures=call)
    assert converted(tmp_path / "saved") == [NETWORK]


def test_linear_attention(tmp_path):
    """A quotient by a sum over the last axis."""
    w = Weights()

    def build():
        x = block(picture(8, 8, 4), w)
        q, k, v = map(split_heads, tf.split(dense(tf.reshape(x, [-1, TOKENS, 8]), w, 24), 3, -1))
        q, k = tf.nn.relu(q), tf.nn.relu(k) + 0.1
        product = tf.matmul(q, tf.matmul(k, v, transpose_a=True))
        scores = tf.matmul(q, k, transpose_b=True)
        y = product / (tf.reduce_sum(scores, -1, keepdims=True) + 1.0)
        end(x + tf.reshape(tf.transpose(y, [0, 2, 1, 3]), [-1, 8, 8, 8]), w)

    assert one(build, tmp_path) == [NETWORK]


@pytest.mark.parametrize("axes", [1, 2, 3, -1, [1, 2], [2, 3], [1, 2, 3]], ids=str)
@pytest.mark.parametrize("reduce", [tf.reduce_sum, tf.reduce_mean, tf.reduce_max])
@pytest.mark.parametrize("keepdims", [False, True])
def test_reductions(tmp_path, axes, reduce, keepdims):
    w = Weights()

    def build():
        x = block(picture(8, 8, 4), w)
        y = reduce(tf.reshape(x, [-1, 4, 16, 8]), axes, keepdims)
        tf.add(tf.reshape(y, [-1, int(np.prod(y.shape[1:], dtype=int))]), 1.0, name="y")

    has_one_axis = axes == [1, 2, 3] and not keepdims  # as no tensor of a program
    assert (one(build, tmp_path) == [NETWORK]) != has_one_axis


def test_tokens(tmp_path):
    """Their mean, a product that a Dense layer is, and constants for some of the axes."""
    w = Weights()
    places, temperature = w(1, TOKENS, 8).numpy(), w.positive(HEADS, 1, 1).numpy()

    def build():
        x = tf.reshape(block(picture(8, 8, 4), w), [-1, TOKENS, 8]) + places
        x = tf.raw_ops.BatchMatMulV2(x=x, y=w(1, 8, 8), adj_y=True) * w.positive(8)
        heads = split_heads(x) * temperature - temperature
        y = tf.reshape(tf.transpose(heads, [0, 2, 1, 3]), [-1, TOKENS, 8])
        tf.matmul(tf.reduce_mean(y, 1), w(8, 3), name="y")

    assert one(build, tmp_path) == [NETWORK]


def windows(x, w, between):
    """Of 4 x 4 pixels, merged with the batch, and back."""
    y = tf.transpose(tf.reshape(x, [-1, 4, 2, 32]), [0, 2, 1, 3])
    y = between(tf.reshape(y, [-1, 16, 8]), w)
    y = tf.transpose(tf.reshape(y, [-1, 2, 4, 32]), [0, 2, 1, 3])
    return tf.reshape(y, [-1, 8, 8, 8])


def among_tokens(x, w):
    """What networks compute inside windows."""
    factor = tf.math.rsqrt(tf.math.reduce_variance(x, -1, keepdims=True) + 1e-3)
    x = (x - tf.reduce_mean(x, -1, keepdims=True)) * factor * w.positive(8) + w(16, 8)
    q, k, v = tf.split(dense(x, w, 24), [8, 8, 8], 2)
    y = tf.matmul(tf.nn.softmax(tf.matmul(q, k, transpose_b=True)), tf.nn.bias_add(v, w(8)))
    both = tf.concat([y, tf.nn.relu(x)], axis=2)
    return dense(both, w, 8) + tf.reduce_mean(y, 1, keepdims=True)


def by_heads(x, w):
    """Turned inside windows, not the same there and back."""
    y = tf.transpose(tf.reshape(x, [-1, 16, 2, 4]), [0, 2, 3, 1])
    y = tf.nn.softmax(y) * w(2, 4, 16)
    return tf.reshape(tf.transpose(y, [0, 3, 1, 2]), [-1, 16, 8])


@pytest.mark.parametrize("between", [among_tokens, by_heads])
def test_windows(tmp_path, between):
    w = Weights()
    assert one(lambda: end(windows(block(picture(8, 8, 4), w), w, between), w), tmp_path) == [NETWORK]


@pytest.mark.parametrize(
    "between, expected",
    [
        (lambda x, w: tf.reshape(block(tf.reshape(x, [-1, 4, 4, 8]), w), [-1, 16, 8]), [NETWORK]),
        (lambda x, w: tf.reverse(x, [0]), [NETWORK, "ReverseV2", NETWORK]),
        (
            lambda x, w: tf.transpose(tf.nn.relu(tf.transpose(x, [1, 0, 2])), [1, 0, 2]),
            [NETWORK, "Transpose", "Relu", "Transpose", NETWORK],
        ),
        (lambda x, w: x - tf.reduce_mean(x, [0, 1], keepdims=True), [NETWORK, "Mean", NETWORK]),
        (lambda x, w: tf.identity(tf.nn.relu(x) + x, name="also"), None),
        (lambda x, w: tf.concat([tf.split(x, 2, 2, name="part")[0]] * 2, 2), [NETWORK]),
    ],
    ids=["convolution", "order", "turned", "mean of all", "result", "result of several"],
)
def test_windows_as_pictures(tmp_path, between, expected, request):
    """Where the pictures' windows are pictures themselves, or are mixed, or are what is asked for."""
    w = Weights()

    path = saved(lambda: end(windows(block(picture(8, 8, 4), w), w, between), w), tmp_path / "frozen.pb")
    also = {"result": "also", "result of several": "part:1"}.get(request.node.callspec.id)
    options = {"outputs": ["y", also]} if also else {}
    [signature] = open_source(path, **options).signatures
    assert any(n.op == "Reshape" and signature.nodes.value(n.input[1]).tolist() == [-1, 16, 8] for n in signature.nodes)
    ops = converted(path, **options)
    assert ops == expected if expected else "Reshape" not in ops


@pytest.mark.parametrize("sizes", [[3, 8, 8], [8, 12, 8]])
def test_reshapes_that_fit_some_batches(tmp_path, sizes):
    """Neither are pictures parts of others nor others parts of them."""
    w = Weights()

    def build():
        x = tf.reshape(tf.concat([block(picture(8, 8, 4), w)] * 3, 0), [-1, *sizes])
        end(tf.reshape(tf.nn.relu(x), [-1, 8, 8, 8]), w)

    assert "Reshape" in one(build, tmp_path)


def group_norm(x, w):
    """As Keras 2 computes it: moments with weights, which are all one."""
    shape = tf.shape(x)
    apart = tf.reshape(x, [shape[0], 8, 8, 1, 8])
    ones = tf.reshape(tf.ones_like(x), [shape[0], 8, 8, 1, 8])
    mean, variance = tf.nn.weighted_moments(apart, [1, 2, 4], ones, keepdims=True)
    factor = tf.math.rsqrt(variance + 1e-3) * w.positive(1, 1, 1, 1, 8)
    return tf.reshape(apart * factor + (w(1, 1, 1, 1, 8) - mean * factor), shape)


@pytest.mark.parametrize(
    "between",
    [
        group_norm,
        lambda x, w: 0.5 * x * tf.math.erfc(-x * 0.7071067690849304),
        lambda x, w: x * (0.5 * (1.0 + tf.math.erf(x / 1.4142135381698608))),
        lambda x, w: tf.math.l2_normalize(tf.transpose(tf.reshape(x, [-1, 16, 32]), [0, 2, 1]), 1, 1e-6),
        lambda x, w: tf.raw_ops.FusedBatchNormV3(
            x=tf.tanh(x), scale=w.positive(8), offset=w(8), mean=w(8), variance=w.positive(8), is_training=False
        )[0],
    ],
    ids=["group norm", "erfc", "erf", "l2", "batch norm"],
)
def test_written_out(tmp_path, between):
    w = Weights()

    def build():
        x = block(picture(8, 8, 4), w)
        end(x + tf.reshape(between(x - 0.5, w), [-1, 8, 8, 8]), w)

    assert one(build, tmp_path) == [NETWORK]


@pytest.mark.parametrize("number", [0.4, 0.6], ids=["erfc", "half"])
def test_no_gelu(tmp_path, number):
    """Other numbers make other functions."""
    w = Weights()

    def build():
        x = block(picture(8, 8, 4), w)
        half, inner = (0.5, number) if number > 0.5 else (number, 0.7071067690849304)
        end(half * x * tf.math.erfc(-x * inner), w)

    assert "Erfc" in one(build, tmp_path)


@pytest.mark.parametrize(
    "product",
    [
        lambda x, w: tf.matmul(x, w(HEADS, DEPTH, DEPTH)),
        lambda x, w: tf.matmul(w(TOKENS, TOKENS), x),
        lambda x, w: tf.matmul(x, x[:, :1], transpose_b=True)[..., :DEPTH],
        lambda x, w: tf.raw_ops.Einsum(inputs=[x, w(HEADS, DEPTH, DEPTH)], equation="nhtc,hcd->nhtd"),
        lambda x, w: tf.math.divide_no_nan(x, tf.nn.relu(x)),
    ],
    ids=["heads", "first", "broadcast", "einsum", "zeros"],
)
def test_what_stays(tmp_path, product):
    w = Weights()

    def build():
        x = block(picture(8, 8, 4), w)
        y = product(split_heads(tf.reshape(x, [-1, TOKENS, 8])), w)
        end(x + tf.reshape(tf.transpose(y, [0, 2, 1, 3]), [-1, 8, 8, 8]), w)

    ops = one(build, tmp_path)
    assert {"BatchMatMulV2", "Einsum", "DivNoNan"} & set(ops)


def test_a_dense_layer_by_einsum(tmp_path):
    w = Weights()

    def build():
        x = tf.reshape(block(picture(8, 8, 4), w), [-1, TOKENS, 8])
        y = tf.raw_ops.Einsum(inputs=[x, w(8, 5)], equation="abc,cd->abd") + w(5)
        tf.reduce_mean(y, 1, name="y")

    assert one(build, tmp_path) == [NETWORK]


def test_a_scale_of_tokens(tmp_path):
    """As many numbers as there are channels, but along another axis, make no layer norm."""
    w = Weights()
    scale = w.positive(8, 1).numpy()

    def build():
        x = tf.reshape(block(picture(8, 8, 4), w), [-1, 8, 8, 8])
        mean, variance = tf.nn.moments(x, [3], keepdims=True)
        factor = tf.math.rsqrt(variance + 1e-3) * scale
        end(x * factor + (scale - mean * factor), w)

    one(build, tmp_path)


@pytest.mark.parametrize(
    "rest",
    [
        lambda mean, factor, w: -mean * factor,
        lambda mean, factor, w: factor * -mean,
        lambda mean, factor, w: -(mean * factor),
        lambda mean, factor, w: mean * -factor,
        lambda mean, factor, w: w(8) - factor * mean,
        lambda mean, factor, w: -mean * factor + w(8),
    ],
    ids=["mean", "mean behind", "product", "factor", "shift", "shift behind"],
)
@pytest.mark.parametrize("scaled", [True, False])
def test_layer_norms(tmp_path, rest, scaled):
    """As `tf.nn.batch_normalization` writes it, with an offset and without, and in other orders."""
    w = Weights()

    def build():
        x = tf.reshape(block(picture(8, 8, 4), w), [-1, 64, 8])
        mean, variance = tf.nn.moments(x, [2], keepdims=True)
        factor = tf.math.rsqrt(variance + 1e-3) * (w.positive(8) if scaled else 1.0)
        end(tf.reshape(x * factor + rest(mean, factor, w), [-1, 8, 8, 8]), w)

    path = saved(build, tmp_path / "frozen.pb")
    assert converted(path) == [NETWORK]
    [signature] = open_source(path).signatures
    graphs._fuse(signature, "network")
    [program] = [node.attr["program"].s for node in signature.nodes if node.op == NETWORK]
    assert b'"normalize"' in program and b'"power"' not in program


@pytest.mark.parametrize("rest", [
    lambda mean, factor: mean * factor,
    lambda mean, factor: -mean * mean,
    lambda mean, factor: -factor * factor,
])  # fmt: skip
def test_what_is_no_layer_norm(tmp_path, rest):
    w = Weights()

    def build():
        x = tf.reshape(block(picture(8, 8, 4), w), [-1, 64, 8])
        mean, variance = tf.nn.moments(x, [2], keepdims=True)
        factor = tf.math.rsqrt(variance + 1e-3)
        end(tf.reshape(x * factor + rest(mean, factor), [-1, 8, 8, 8]), w)

    one(build, tmp_path)
