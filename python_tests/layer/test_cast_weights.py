"""Weights in mixed precision are cast when they change, not in each call; and never kept when they have."""

from __future__ import annotations

import threading

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import FALLBACK, op_calls

import tf_dwsconv
from tf_dwsconv._tf import casts, library

pytestmark = [
    pytest.mark.usefixtures("op_library"),
    pytest.mark.skipif(FALLBACK, reason="stock ops cast as ever"),
]

CAST = library.CAST_OP_NAME
POLICIES = {"mixed_bfloat16": tf.bfloat16, "mixed_float16": tf.float16}
DTYPES = pytest.mark.parametrize("dtype", POLICIES.values(), ids=lambda dtype: dtype.name)
X = np.random.default_rng(0).standard_normal((2, 9, 8, 5)).astype(np.float32)


def layers(policy):
    """A model of each kind of layer that has weights of its own."""
    keras.utils.set_random_seed(3)
    inputs = keras.Input((9, 8, 5), dtype="float32")
    y = tf_dwsconv.DepthwiseSepConv2D(12, 3, padding="same", activation="relu6", dtype=policy)(inputs)
    y = tf_dwsconv.FusedConvBlock(6, 3, expand_filters=20, expand_activation="silu", dtype=policy)(y)
    return keras.Model(inputs, y)


def network(policy):
    model = tf_dwsconv.convert(layers(policy))
    assert any(isinstance(layer, tf_dwsconv.FusedNetwork) for layer in model.layers)
    return model


def ops_of(function, kind):
    return [op for op in function.graph.get_operations() if op.type == kind]


def all_ops(graph_def):
    return {node.op for nodes in (graph_def.node, *(f.node_def for f in graph_def.library.function)) for node in nodes}


def bits(variable, dtype):
    return tf.bitcast(tf.cast(variable, dtype), tf.uint16).numpy()


@pytest.mark.parametrize("make", [layers, network])
@pytest.mark.parametrize("policy", POLICIES)
def test_the_same_bits_in_graphs(make, policy):
    """Eager calls use TensorFlow's Cast; in graphs the first call notes a weight, the second keeps it."""
    model = make(policy)
    # Two graphs keep casts of the same weights.
    calls = [tf.function(lambda x: model(x, training=False)) for _ in range(2)]
    weights = [weight for layer in model.layers for weight in layer.weights]
    for call in calls:
        found = ops_of(call.get_concrete_function(tf.TensorSpec(X.shape)), CAST)
        assert len(found) == len(weights)
    before = op_calls()
    for step in range(3):
        expected = model(X).numpy()
        for _ in range(4):
            for call in calls[: step + 1]:
                np.testing.assert_array_equal(call(X).numpy(), expected)
        for weight in weights:
            weight.assign_add(np.full(weight.shape, 0.01 * (step + 1), np.float32))
        assert (model(X).numpy() != expected).any()
    assert sum(op_calls().values()) > sum(before.values())


def cast_of(variable, dtype):
    """A graph that gives the bits of a variable's cast."""

    @tf.function
    def run():
        return tf.bitcast(casts.once(tf.cast(variable.read_value(), dtype)), tf.uint16)

    assert len(ops_of(run.get_concrete_function(), CAST)) == 1
    return run


def address(tensor):
    return np.frombuffer(memoryview(tensor), np.uint16).ctypes.data


@DTYPES
@pytest.mark.parametrize("shape", [(3, 3, 7, 1), (1, 1, 300, 211), (1,)])
def test_a_weight_that_stays_is_cast_once(dtype, shape):
    variable = tf.Variable(tf.random.stateless_normal(shape, [1, 2]))
    run = cast_of(variable, dtype)
    run()
    kept = [run() for _ in range(3)]
    assert len({address(found) for found in kept}) == 1
    np.testing.assert_array_equal(kept[0], bits(variable, dtype))
    variable.assign_add(tf.ones(shape))
    changed = run()
    np.testing.assert_array_equal(changed, bits(variable, dtype))
    assert (kept[0].numpy() != changed.numpy()).any()


@DTYPES
def test_rounds_as_tensorflow_does(dtype):
    """Halfway cases, numbers too large or small, zeros of both signs, infinity; NaN stays NaN."""
    near = np.array(
        [1, 1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-11, 1 + 3 * 2**-11, 1 + 2**-9, 65503, 65519.99, 65520, 3.4e38]
    )
    small = np.array([0.0, 2**-24, 2**-25, 1.5 * 2**-25, 2**-14 - 2**-25, 2.0**-126, 2.0**-133, 2.0**-134, 3e-45])
    numbers = np.concatenate([near, small, [np.inf]]).astype(np.float32)
    variable = tf.Variable(np.tile(np.concatenate([numbers, -numbers]), 7))
    run = cast_of(variable, dtype)
    for _ in range(3):
        np.testing.assert_array_equal(run(), bits(variable, dtype))
    variable.assign(tf.where(tf.range(variable.shape[0]) % 3 == 0, float("nan"), variable))
    found = tf.bitcast(run(), dtype)
    np.testing.assert_array_equal(tf.math.is_nan(found), tf.math.is_nan(variable))


@DTYPES
def test_every_way_to_change_a_weight(dtype):
    """In place by an optimizer or a sum, one element that no sample sees, a new array, an array of the caller."""
    shape = (1, 1, 64, 65)
    variable = tf.Variable(tf.random.stateless_normal(shape, [3, 4]))
    run = cast_of(variable, dtype)
    optimizer = keras.optimizers.SGD(0.1)
    optimizer.build([variable])
    foreign = np.empty(np.prod(shape) + 16, np.float32)
    foreign = foreign[-foreign.ctypes.data % 64 // 4 :][: np.prod(shape)].reshape(shape)
    foreign[...] = 2.0

    def one_element():
        flat = variable.numpy().reshape(-1)
        flat[1001] += 1
        variable.assign(tf.identity(flat.reshape(shape)))

    compiled = tf.function(lambda: variable.assign(variable * 0.9 + 0.3), jit_compile=True)
    changes = [
        lambda: optimizer.apply([tf.ones(shape)], [variable]),
        lambda: variable.assign_sub(tf.ones(shape)),
        compiled,
        one_element,
        lambda: variable.assign(tf.random.stateless_normal(shape, [5, 6])),
        lambda: variable[0, 0, 7:9, ::3].assign(tf.fill((2, 22), 9.0)),
        lambda: variable.scatter_nd_update([[0, 0, 5, 6]], [7.0]),  # from here on each read copies
        lambda: variable.assign_add(tf.ones(shape)),
        lambda: variable.assign(foreign),
        lambda: foreign.__setitem__(..., 3.0),
        lambda: foreign.__setitem__((0, 0, 40, 41), 4.0),
    ]
    for _ in range(2):
        for change in changes:
            for times in (1, 2, 3):
                change()
                for _ in range(times):
                    np.testing.assert_array_equal(run(), bits(variable, dtype))


@DTYPES
def test_changed_between_two_runs_of_one_node(dtype):
    """In a loop inside the graph, at every step or at every third."""
    variable = tf.Variable(tf.random.stateless_normal((31, 33), [7, 8]))

    @tf.function
    def loop(every):
        found = tf.TensorArray(tf.uint16, 8)
        for i in tf.range(8):
            if i % every == 0:
                variable.assign_add(tf.ones((31, 33)))
            found = found.write(i, tf.bitcast(casts.once(tf.cast(variable.read_value(), dtype)), tf.uint16))
        return found.stack()

    assert CAST in all_ops(loop.get_concrete_function(tf.TensorSpec((), tf.int32)).graph.as_graph_def())
    for every in (1, 3, 100):
        value = variable.numpy()
        found = loop(tf.constant(every))
        for i in range(8):
            value += np.float32(i % every == 0)
            np.testing.assert_array_equal(found[i], bits(value, dtype))


def test_threads_that_read_while_one_writes():
    """Each reader sees one of the values that the variable had, whole, and none older than one it has seen."""
    variable = tf.Variable(tf.zeros((64, 96)))
    run = cast_of(variable, tf.bfloat16)
    step = tf.function(lambda: variable.assign_add(tf.ones((64, 96))))
    run(), step()
    stop, wrong = threading.Event(), []

    def read():
        last = 0.0
        while not stop.is_set():
            found = tf.cast(tf.bitcast(run(), tf.bfloat16), tf.float32).numpy()
            if found.min() != found.max() or found.min() < last:
                wrong.append((last, found.min(), found.max()))
            last = found.max()

    readers = [threading.Thread(target=read) for _ in range(4)]
    for reader in readers:
        reader.start()
    for i in range(200):  # exact in bfloat16
        step()
        if i % 3 == 0:
            run()
            run()
    stop.set()
    for reader in readers:
        reader.join()
    assert not wrong, wrong[:3]
    np.testing.assert_array_equal(run(), bits(variable, tf.bfloat16))


def test_fit_and_predict():
    """Trained with the cast kept or by TensorFlow's: the same losses, predictions and weights, bit for bit."""
    rng = np.random.default_rng(1)
    x, y = (rng.standard_normal((6, 9, 8, channels)).astype("float32") for channels in (5, 6))

    def train():
        model = layers("mixed_bfloat16")
        model.layers[1].trainable = False  # its weights stay
        model.compile(keras.optimizers.Adam(0.01), "mse")
        found = []
        for _ in range(2):
            history = model.fit(x, y, batch_size=2, epochs=2, shuffle=False, verbose=0)
            found.append(history.history["loss"])
            found += [model.predict(x, verbose=0) for _ in range(3)]
        return found + model.get_weights()

    kept = train()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(library, "cast_op", lambda: None)
        plain = train()
    assert kept[0] != kept[4]
    for a, b in zip(kept, plain):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("policy", POLICIES)
def test_gradients(policy):
    model = layers(policy)
    weights = [weight.value for weight in model.trainable_variables]

    def gradients():
        with tf.GradientTape() as tape:
            y = model(X, training=True)
            loss = tf.reduce_sum(tf.cast(y, tf.float32) ** 2)
        return tape.gradient(loss, weights)

    graph = tf.function(gradients)
    assert ops_of(graph.get_concrete_function(), CAST)
    for eager, found in zip(gradients(), graph()):
        assert eager.dtype == found.dtype == tf.float32
        assert np.abs(eager).max() > 0
        np.testing.assert_array_equal(eager, found)


def test_gradient_of_a_gradient_and_forward_mode():
    variable = tf.Variable([0.5, 1.0, 3.0])

    @tf.function
    def second():
        with tf.GradientTape() as outer:
            with tf.GradientTape() as inner:
                y = tf.cast(casts.once(tf.cast(variable, tf.bfloat16)), tf.float32) ** 3
            first = inner.gradient(y, variable)
        return outer.gradient(first, variable)

    @tf.function
    def forward():
        with tf.autodiff.ForwardAccumulator(variable, tf.ones(3)) as accumulator:
            y = casts.once(tf.cast(variable, tf.bfloat16)) ** 2
        return accumulator.jvp(y)

    assert ops_of(forward.get_concrete_function(), CAST)
    np.testing.assert_array_equal(second(), [3.0, 6.0, 18.0])
    np.testing.assert_array_equal(tf.cast(forward(), tf.float32), [1.0, 2.0, 6.0])


def test_saved_and_served(tmp_path):
    """A SavedModel with our op, and one of before, with TensorFlow's: both serve, convert, and go back to stock ops."""
    model = layers("mixed_bfloat16")
    model.save(tmp_path / "model.keras")
    expected = model(X).numpy()
    reloaded = keras.models.load_model(tmp_path / "model.keras")
    call = tf.function(lambda x: reloaded(x, training=False))
    reloaded.export(str(tmp_path / "new"), verbose=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(library, "cast_op", lambda: None)
        model.export(str(tmp_path / "old"), verbose=False)
    for name in ("new", "old"):
        served = tf.saved_model.load(str(tmp_path / name))
        ops = all_ops(served.signatures["serving_default"].graph.as_graph_def())
        assert (CAST in ops) == (name == "new")
        tf_dwsconv.to_builtin(str(tmp_path / name), str(tmp_path / f"{name}_stock"))
        stock = tf.saved_model.load(str(tmp_path / f"{name}_stock")).signatures["serving_default"]
        ops = all_ops(stock.graph.as_graph_def())
        assert not any(op.startswith("TfDwsconv") for op in ops), ops
        [argument] = stock.structured_input_signature[1]
        for _ in range(3):
            np.testing.assert_array_equal(served.serve(X).numpy(), expected)
            np.testing.assert_array_equal(call(X).numpy(), expected)
        tolerance = 2.0**-6 * np.abs(expected.astype(np.float32)).max()
        [y] = stock(**{argument: tf.constant(X)}).values()
        np.testing.assert_allclose(tf.cast(y, tf.float32), tf.cast(expected, tf.float32), 0, tolerance)


def test_stock_ops_cast_as_ever(stock_only):
    model = layers("mixed_bfloat16")
    function = tf.function(lambda x: model(x)).get_concrete_function(tf.TensorSpec(X.shape))
    assert not ops_of(function, CAST)


@pytest.mark.filterwarnings("ignore::tf_dwsconv._tf.library.StockOpsWarning")
def test_xla_casts_as_ever():
    model = layers("mixed_bfloat16")
    compiled = tf.function(lambda x: model(x, training=False), jit_compile=True)
    y = compiled(X).numpy().astype(np.float32)
    for weight in model.weights:
        weight.assign(-weight)
    changed = compiled(X).numpy().astype(np.float32)
    expected = model(X).numpy().astype(np.float32)
    np.testing.assert_allclose(changed, expected, 0, 2.0**-6 * np.abs(expected).max())
    assert np.abs(changed - y).max() > 0


def test_tensors_that_are_no_variables_keep_their_cast():
    """Weights that something computed, and those of other dtypes."""
    variable = tf.Variable(tf.ones(5))
    others = tf.Variable(tf.ones(5, tf.float64))

    @tf.function
    def run(x):
        given = [tf.cast(2 * variable, tf.bfloat16), tf.cast(others, tf.bfloat16), tf.cast(x, tf.float16), variable]
        assert all(casts.once(tensor) is tensor for tensor in given)
        return given[0]

    run(tf.ones(5))


def test_inside_a_vectorised_map():
    model = layers("mixed_bfloat16")
    many = tf.stack([X, 2 * X])
    found = tf.function(lambda x: tf.vectorized_map(lambda one: model(one, training=False), x))(many)
    for y, x in zip(found, many):
        np.testing.assert_array_equal(y, model(x))
    op = library.cast_op()
    weights = tf.random.stateless_normal((3, 70), [1, 1])
    casted = tf.function(lambda w: tf.vectorized_map(lambda one: op(x=one, T=tf.float16), w))(weights)
    np.testing.assert_array_equal(casted, tf.cast(weights, tf.float16))
