"""The op `TfDwsconv>Network`: in graphs and eager, what it keeps of weights, shapes that a graph knows, bad input."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
import tensorflow as tf
from conftest import FALLBACK
from program_reference import DTYPES, Builder

from tf_dwsconv._tf import library

pytestmark = [
    pytest.mark.usefixtures("op_library"),
    pytest.mark.skipif(FALLBACK, reason="it is about the op"),
]


def run(builder: Builder, *inputs, weights=None, stable: bool = True):
    """The op on tensors or arrays."""
    inputs = [tf.convert_to_tensor(x) for x in inputs]
    weights = tf.constant(builder.weights) if weights is None else weights
    return library.load().module.tf_dwsconv_network(
        inputs=inputs,
        weights=weights,
        num_outputs=len(builder.program["outputs"]),
        program=builder.text,
        stable_filters=stable,
    )


def counter(name: str) -> int:
    function = getattr(ctypes.CDLL(library.load().path), name)
    function.restype = ctypes.c_int64
    return function()


def draw(dtype, *shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(DTYPES[dtype])


def network(dtype: str = "float32", seed: int = 0, shape=(None, None, None, 3)) -> Builder:
    """A stem, a block with its residual, a gate, a mean and a dense layer; the map is an output, too."""
    rng = np.random.default_rng(seed)
    w = lambda *sizes, scale=0.3: rng.standard_normal(sizes) * scale  # noqa: E731
    b = Builder(dtype)
    x = b.input(list(shape), "image")
    x = b.step("chain", x, weights={"pointwise_filter": w(3, 3, 3, 16), "bias": w(16)}, activation={"word": "relu"})
    weights = {
        "expand_filter": w(1, 1, 16, 32),
        "depthwise_filter": w(3, 3, 32, 1),
        "pointwise_filter": w(1, 1, 32, 16),
    }
    x = b.step("chain", x, weights=weights, residual=x, expand_activation={"word": "relu6"})
    gate = b.step("activation", b.step("mean", x, keepdims=True), activation={"word": "sigmoid"})
    x = b.step("multiply", x, gate)
    y = b.step("dense", b.step("mean", x), weights={"filter": w(16, 10), "bias": w(10)})
    return b.output(b.step("softmax", y), x)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("graph", [False, True], ids=["eager", "graph"])
def test_agrees(dtype, graph):
    """With float64, and the same bits in each call, whoever packed the weights."""
    builder = network(dtype, seed=3)
    x = draw(dtype, 2, 9, 8, 3)
    kept: list = []
    expected = builder.expect(x, keep=kept)
    weights = tf.Variable(builder.weights)

    def call(x):
        return run(builder, x, weights=weights.value())

    before = counter("dwsconv_network_calls")
    function = tf.function(call) if graph else call
    results = [[y.numpy() for y in function(tf.constant(x))] for _ in range(4)]
    assert counter("dwsconv_network_calls") == before + 4
    eps = {"float32": 2.0**-23, "bfloat16": 2.0**-7, "float16": 2.0**-10}[dtype]
    largest = max(np.abs(y).max() for y in kept)
    allowed = largest * (4 * len(kept) * eps + 2 * 9 * 16 * 2.0**-23)
    for y, wanted in zip(results[0], expected):
        np.testing.assert_allclose(y.astype(np.float64), wanted, rtol=0, atol=allowed)
    for result in results[1:]:
        assert all(a.tobytes() == b.tobytes() for a, b in zip(results[0], result))


def test_several_inputs_and_empty_batches():
    b = Builder()
    x, y = b.input([None, 4, 5, 2], "a"), b.input([None, 4, 5, 2], "b")
    b.output(b.step("add", x, y), x, b.step("reshape", x, shape=[-1]))
    one, two = draw("float32", 3, 4, 5, 2), draw("float32", 3, 4, 5, 2, seed=1)
    total, same, flat = run(b, one, two)
    np.testing.assert_array_equal(total, one + two)
    np.testing.assert_array_equal(same, one)
    np.testing.assert_array_equal(flat, one.reshape(3, -1))
    assert [y.shape for y in run(b, one[:0], two[:0])] == [(0, 4, 5, 2), (0, 4, 5, 2), (0, 40)]


def test_weights_that_change():
    """A variable that is assigned, and buffers that others write into, are seen; what stays is packed once."""
    first, second = network(seed=10), network(seed=11)
    x = draw("float32", 1, 8, 8, 3)
    weights = tf.Variable(first.weights)
    function = tf.function(lambda: run(first, x, weights=weights.value()))
    for builder in (first, second, first, second):
        weights.assign(builder.weights)
        for _ in range(4):
            np.testing.assert_allclose(function()[0], builder.expect(x)[0], atol=1e-5)
    packs = counter("dwsconv_pack_calls")
    for _ in range(3):
        function()
    assert counter("dwsconv_pack_calls") == packs
    # Memory that TensorFlow may not own.
    memory = np.empty(first.weights.nbytes + 64, np.uint8)
    start = -memory.ctypes.data % 64
    shared = memory[start : start + first.weights.nbytes].view(np.float32)
    for builder in (first, second, second, second, first, first, first):
        shared[...] = builder.weights
        for stable in (True, False):
            given = run(first, x, weights=tf.convert_to_tensor(shared), stable=stable)
            np.testing.assert_allclose(given[0], builder.expect(x)[0], atol=1e-5)


def placeholder(shape, dtype=tf.float32):
    return tf.compat.v1.placeholder(dtype, shape)


@pytest.mark.parametrize(
    "given, wanted",
    [
        ([2, 9, 8, 3], [[2, 10], [2, 9, 8, 16]]),
        ([None, 9, None, 3], [[None, 10], [None, 9, None, 16]]),
        (None, [[None, 10], [None, None, None, 16]]),
    ],
)
def test_shapes_in_a_graph(given, wanted):
    builder = network()
    with tf.Graph().as_default():
        outputs = run(builder, placeholder(given), weights=placeholder(None))
        assert [y.shape.as_list() for y in outputs] == wanted


@pytest.mark.parametrize(
    "x, weights, words",
    [
        ([2, 9, 8, 4], None, 'input "image" must have shape [?,?,?,3], but its shape is [2,9,8,4]'),
        ([2, 9, 3], None, 'input "image" must have shape [?,?,?,3], but its shape is [2,9,3]'),
        ([2, 9, 8, 3], [7], ""),
        ([2, 9, 8, 3], [7, 1], ""),
    ],
)
def test_wrong_shapes(x, weights, words):
    """Refused while a graph is made, and by an eager call, in the same words."""
    builder = network()
    weights = list(builder.weights.shape) if weights is None else weights
    with tf.Graph().as_default(), pytest.raises(ValueError) as in_graph:
        run(builder, placeholder(x), weights=placeholder(weights))
    with pytest.raises(tf.errors.InvalidArgumentError) as eager:
        run(builder, np.zeros(x, np.float32), weights=tf.zeros(weights))
    assert words in str(in_graph.value) and words in str(eager.value)
    if not words:
        assert "weights must have shape [" in str(eager.value)


def test_wrong_programs():
    builder = network()
    x = np.zeros((1, 8, 8, 3), np.float32)

    def attempt(words, inputs=(x,), program=builder.text, num_outputs=2, weights=builder.weights):
        with pytest.raises(tf.errors.InvalidArgumentError) as caught:
            library.load().module.tf_dwsconv_network(
                inputs=[tf.constant(i) for i in inputs],
                weights=tf.constant(weights),
                num_outputs=num_outputs,
                program=program,
            )
        assert words in str(caught.value)

    attempt("a program must be JSON, but is not", program="{")
    attempt("step 1 'chain_1': a chain must have no other keys", program=builder.text.replace('"residual"', '"plus"'))
    attempt("outputs must be a list of 2 tensors, as the program has, but has 3", num_outputs=3)
    attempt("inputs must be a list of 1 tensors, as the program has, but has 2", inputs=(x, x))
    half = builder.weights.astype(np.float16)
    attempt("T must be the program's dtype, float32, but is float16", inputs=(x.astype(np.float16),), weights=half)


def test_cancelled():
    """A call that is cancelled ends between two steps, and the next one runs."""
    from tensorflow.python.eager import cancellation

    builder = network(shape=(None, 64, 64, 3))
    x = draw("float32", 4, 64, 64, 3)
    manager = cancellation.CancellationManager()
    function = tf.function(lambda x: run(builder, x)).get_concrete_function(tf.TensorSpec(x.shape))
    cancellable = manager.get_cancelable_function(function)
    expected = function(tf.constant(x))[0].numpy()
    np.testing.assert_array_equal(cancellable(tf.constant(x))[0], expected)
    manager.start_cancel()
    with pytest.raises(tf.errors.CancelledError):
        cancellable(tf.constant(x))
    np.testing.assert_array_equal(function(tf.constant(x))[0], expected)


def test_large_batches_and_threads():
    """Images that go through the first steps one at a time: the bits of each alone."""
    builder = network(seed=5)
    x = draw("float32", 16, 10, 9, 3)
    function = tf.function(lambda x: run(builder, x))
    for _ in range(3):
        whole = function(tf.constant(x))[0].numpy()
    for i in (0, 15):
        assert function(tf.constant(x[i : i + 1]))[0].numpy().tobytes() == whole[i : i + 1].tobytes()
