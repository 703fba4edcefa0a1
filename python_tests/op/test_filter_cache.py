"""Packed filters never go stale: every way to change weights between two calls."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from conftest import check_python
from filter_cache_support import D_SHAPE, P_SHAPE, X, aligned, cleared_counters, draw, expect, fresh, op, warm

import tf_dwsconv

pytestmark = pytest.mark.usefixtures("op_library")


@pytest.fixture
def counters():
    return cleared_counters()


def sgd(learning_rate):
    import keras

    return keras.optimizers.SGD(learning_rate)


def apply_optimizer(variable, optimizer):
    optimizer.apply_gradients([(tf.ones_like(variable), variable)])


def restore_checkpoint(variable, path):
    saved = tf.train.Checkpoint(variable=variable).write(path)
    variable.assign_add(tf.ones_like(variable))
    tf.train.Checkpoint(variable=variable).read(saved).assert_consumed()


CHANGES = {
    "assign": lambda v, tmp: v.assign(draw(9, *v.shape)),
    "assign_aligned_array": lambda v, tmp: v.assign(aligned(draw(9, *v.shape))),
    "assign_add": lambda v, tmp: v.assign_add(tf.ones_like(v)),
    "assign_sub": lambda v, tmp: v.assign_sub(tf.ones_like(v)),
    "slice_assign": lambda v, tmp: v[0, 0, 0].assign(v[0, 0, 0] + 1),
    "scatter": lambda v, tmp: v.scatter_add(tf.IndexedSlices(tf.ones([1, *v.shape[1:]]), tf.constant([0]))),
    "optimizer": lambda v, tmp: apply_optimizer(v, sgd(0.5)),
    "raw_training_op": lambda v, tmp: tf.raw_ops.ResourceApplyGradientDescent(
        var=v.handle, alpha=0.5, delta=tf.ones_like(v)
    ),
    "checkpoint": lambda v, tmp: restore_checkpoint(v, str(tmp / "checkpoint")),
}


@pytest.mark.parametrize("graph", [False, True], ids=["eager", "function"])
@pytest.mark.parametrize("which", ["depthwise_filter", "pointwise_filter", "bias"])
@pytest.mark.parametrize("change", CHANGES)
def test_the_next_call_sees_a_changed_variable(counters, tmp_path, change, which, graph):
    if graph and change == "checkpoint":
        pytest.skip("Checkpoint.write is no part of a function")
    variables = {
        "depthwise_filter": tf.Variable(draw(1, *D_SHAPE)),
        "pointwise_filter": tf.Variable(draw(2, *P_SHAPE)),
        "bias": tf.Variable(draw(3, P_SHAPE[-1])),
    }
    if change == "slice_assign" and which == "bias":
        pytest.skip("a vector has no such slice")

    def call():
        return op(X, *variables.values())

    def changing():
        CHANGES[change](variables[which], tmp_path)

    if graph and change != "optimizer":
        call, changing = tf.function(call), tf.function(changing)
    warm(call, counters)
    for _ in range(3):
        changing()
        expect(call(), X, *variables.values())
        expect(call(), X, *variables.values())
    warm(call, counters)


def test_the_next_call_of_a_layer_sees_set_weights(counters):
    layer = tf_dwsconv.DepthwiseSepConv2D(20, 3, padding="same", use_bias=True)
    layer.build(X.shape)
    warm(lambda: layer(X), counters)
    for seed in range(5):
        weights = [draw(seed, *D_SHAPE), draw(seed + 1, *P_SHAPE), draw(seed + 2, 20)]
        layer.set_weights(weights)
        expect(layer(X), X, *weights)


def test_a_change_inside_one_function_is_seen_by_its_later_calls():
    d, p = tf.Variable(draw(1, *D_SHAPE)), tf.Variable(draw(2, *P_SHAPE))

    @tf.function
    def twice():
        first = op(X, d, p)
        p.assign_add(tf.ones_like(p))
        return first, op(X, d, p)

    for _ in range(6):
        before = p.numpy()
        first, second = twice()
        expect(first, X, d, before)
        expect(second, X, d, before + 1)


def shares_memory(array):
    """Whether TensorFlow takes an array without copying it: not all of its versions do."""
    tensor = tf.convert_to_tensor(array)
    array[0, 0, 0] += 1
    return bool(np.all(tensor[0, 0, 0].numpy() == array[0, 0, 0]))


def test_arrays_written_in_place_between_calls(counters):
    """TensorFlow may take an aligned array without a copy: then the op sees the caller's own memory."""
    d, p = aligned(draw(1, *D_SHAPE)), aligned(draw(2, *P_SHAPE))
    for step in range(6):
        for _ in range(step):
            expect(op(X, d, p), X, d, p)
        (p if step % 2 else d)[0, 0, 0] += 1
        expect(op(X, d, p), X, d, p)
    # Known by contents, all the same.
    op(X, d, p)
    packs = counters.packs()
    for _ in range(5):
        op(X, d, p)
    assert counters.packs() == packs
    # What TensorFlow copied is a tensor like any other, and may be held at an address that it has twice in a row.
    if shares_memory(p):
        assert counters.cache()["held"] == 0


def test_every_element_of_an_array_counts():
    """Known by contents: each place, and the order."""
    arrays = [aligned(fresh(*D_SHAPE)), aligned(fresh(*P_SHAPE)), aligned(fresh(P_SHAPE[-1]))]
    x = X[:1, :3, :3].copy()
    for array in arrays:
        flat = array.reshape(-1)
        for place in range(flat.size):
            for _ in range(2):
                before = op(x, *arrays).numpy()
            flat[place] += 1000
            assert np.any(op(x, *arrays).numpy() != before), place
            flat[place] -= 1000
        for change in (lambda f: f[::-1].copy(), lambda f: np.roll(f, 1), lambda f: np.roll(f, 16)):
            for _ in range(3):
                op(x, *arrays)
            flat[...] = change(flat)
            expect(op(x, *arrays), x, *arrays)


@pytest.mark.parametrize("aligned_constant", [False, True])
def test_arrays_behind_constants_variables_and_functions(aligned_constant):
    arrays = [aligned(draw(1, *D_SHAPE)), aligned(draw(2, *P_SHAPE))]
    d, p = tf.constant(arrays[0]), tf.Variable(tf.constant(arrays[1]))
    p.assign(arrays[1])
    yields = tf.function(
        lambda: op(X, d, tf.ensure_shape(tf.numpy_function(lambda: arrays[1], [], tf.float32), P_SHAPE))
    )
    dataset = tf.data.Dataset.from_generator(
        lambda: iter([arrays[1]]), output_signature=tf.TensorSpec(P_SHAPE, tf.float32)
    )
    for step in range(6):
        for _ in range(3):
            expect(op(X, d, p), X, d.numpy(), p.numpy())
            expect(yields(), X, d.numpy(), arrays[1])
            for element in dataset:
                expect(op(X, d, element), X, d.numpy(), arrays[1])
        arrays[1][0, 0, step] += 1
        if aligned_constant:
            arrays[0][0, 0, step] += 1


V1 = """
import numpy as np, tensorflow as tf
from filter_cache_support import D_SHAPE, P_SHAPE, X, aligned, draw, expect, op
import tf_dwsconv
tf.compat.v1.disable_v2_behavior()
"""


V1_REFERENCE = """
d = tf.compat.v1.get_variable("d", initializer=draw(1, *D_SHAPE), use_resource={resource})
p = tf.compat.v1.get_variable("p", initializer=draw(2, *P_SHAPE), use_resource={resource})
assert ("ref" in p.dtype.name) != {resource}, p.dtype
called = tf.function(lambda d, p: tf_dwsconv.depthwise_sep_conv2d(X, d, p))
outputs = [op(X, d, p, stable_filters=False), tf_dwsconv.depthwise_sep_conv2d(X, d, p), called(d, p)]
placeholder = tf.compat.v1.placeholder(tf.float32, P_SHAPE)
changes = [
    p.assign(placeholder), p.assign_add(placeholder), tf.compat.v1.scatter_update(p, [0], [placeholder[0]]),
    tf.compat.v1.train.GradientDescentOptimizer(0.5).apply_gradients([(placeholder, p)]),
]
with tf.compat.v1.Session() as session:
    session.run(tf.compat.v1.global_variables_initializer())
    for step in range(12):
        for _ in range(3):
            for output in outputs:
                d_now, p_now = session.run([d, p])
                expect(session.run(output), X, d_now, p_now)
        session.run(changes[step % len(changes)], {{placeholder: draw(step, *P_SHAPE)}})
        for output in outputs:
            d_now, p_now = session.run([d, p])
            expect(session.run(output), X, d_now, p_now)
"""


@pytest.mark.parametrize("resource", [False, True], ids=["reference", "resource"])
def test_variables_of_tensorflow_1(resource):
    """Assign writes into a reference variable's buffer, whoever holds it."""
    check_python(V1 + V1_REFERENCE.format(resource=resource))


def test_arrays_fed_to_a_session():
    check_python(
        V1
        + """
p = tf.compat.v1.placeholder(tf.float32, P_SHAPE)
d = tf.constant(draw(1, *D_SHAPE))
outputs = [op(X, d, p, stable_filters=stable) for stable in (False, True)]
array = aligned(draw(2, *P_SHAPE))
with tf.compat.v1.Session() as session:
    for step in range(6):
        for _ in range(3):
            for output in outputs:
                expect(session.run(output, {p: array}), X, draw(1, *D_SHAPE), array)
        array[0, 0, step] += 1
"""
    )
