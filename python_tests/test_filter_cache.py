"""Packed filters never go stale: every way to change weights between two calls, and what the cache holds meanwhile.

The op's library counts what it packs and keeps; the counters are read through ctypes.
"""

from __future__ import annotations

import ctypes
import functools
import gc
import itertools
import random
import threading

import numpy as np
import pytest
import tensorflow as tf
from conftest import check_python

import tf_dwsconv
import tf_dwsconv.native
from tf_dwsconv import _library

pytestmark = pytest.mark.usefixtures("op_library")

CACHE_BYTES = 256 << 20  # FilterCache::Global


class Counters:
    """The counters of the op's library."""

    def __init__(self):
        self.library = ctypes.CDLL(_library.load().path)
        self.library.dwsconv_pack_calls.restype = ctypes.c_int64

    def packs(self):
        return self.library.dwsconv_pack_calls()

    def cache(self):
        values = (ctypes.c_int64 * 6)()
        self.library.dwsconv_filter_cache(values)
        return dict(zip(("entries", "bytes", "held", "hits", "misses", "inserts"), values))

    def sweep(self):
        self.library.dwsconv_filter_cache_sweep()


@pytest.fixture
def counters():
    counters = Counters()
    gc.collect()
    counters.sweep()
    return counters


def aligned(array):
    """A copy at a multiple of 64 bytes, which TensorFlow takes without copying it."""
    memory = np.empty(array.nbytes + 64, np.uint8)
    start = -memory.ctypes.data % 64
    view = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    view[...] = array
    return view


_seeds = itertools.count(1000)


def fresh(*shape):
    """Filters that no other test has: the cache knows contents wherever they come from."""
    return draw(next(_seeds), *shape)


def draw(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


X = draw(0, 2, 6, 7, 12)
D_SHAPE, P_SHAPE = (3, 3, 12, 1), (1, 1, 12, 20)


def op(x, depthwise_filter, pointwise_filter, bias=None, stable_filters=True, **attributes):
    """The op itself, past everything that Python does to its inputs."""
    return _library.load().op(
        input=x,
        depthwise_filter=depthwise_filter,
        pointwise_filter=pointwise_filter,
        depthwise_bias=[],
        bias=[] if bias is None else [bias],
        residual=[],
        stable_filters=stable_filters,
        **attributes,
    )


def expect(actual, x, depthwise_filter, pointwise_filter, bias=None):
    """Compares with plain arithmetic on the present values."""
    d, p = (f.numpy() if hasattr(f, "numpy") else np.array(f) for f in (depthwise_filter, pointwise_filter))
    bias = bias.numpy() if hasattr(bias, "numpy") else bias
    padded = np.pad(np.asarray(x, np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))
    height, width = x.shape[1:3]
    taps = [padded[:, r : r + height, s : s + width, :, None] * d[r, s] for r in range(3) for s in range(3)]
    z = sum(taps).reshape(*x.shape[:3], -1)
    y = z @ p[0, 0].astype(np.float64) + (0 if bias is None else bias)
    np.testing.assert_allclose(actual, y, rtol=0, atol=1e-4 * np.abs(y).max())


def warm(function, counters):
    """Calls until the cache knows the filters by their addresses, and asserts that it does."""
    for _ in range(4):
        function()
    before = counters.packs(), counters.cache()["hits"]
    function()
    assert (counters.packs(), counters.cache()["hits"]) == (before[0], before[1] + 1)


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


def test_arrays_written_in_place_between_calls(counters):
    """TensorFlow takes an aligned array without a copy: the op sees the caller's own memory."""
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
from test_filter_cache import D_SHAPE, P_SHAPE, X, aligned, draw, expect, op
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


def test_one_buffer_read_as_different_filters(counters):
    """The same address says nothing about shape, dtype or the other filter."""
    values = draw(1, 3 * 3 * 12)
    flat = tf.Variable(values)
    p = {channels: tf.Variable(draw(2, 1, 1, 12, 20)) for channels in (12, 6, 4)}
    for _ in range(4):
        for channels in (12, 6, 4):
            x = X[..., :channels].copy()
            d = tf.reshape(flat, [3, 3, channels, 12 // channels])
            expect(op(x, d, p[channels]), x, d, p[channels])
        flat.assign_add(tf.ones_like(flat))
    packs = counters.packs()
    for _ in range(5):
        for channels in (12, 6, 4):
            op(X[..., :channels], tf.reshape(flat, [3, 3, channels, 12 // channels]), p[channels])
    assert counters.packs() <= packs + 2 * 3


def test_slices_of_a_stacked_variable(counters):
    d, stack = tf.Variable(draw(1, *D_SHAPE)), tf.Variable(draw(2, 4, *P_SHAPE))
    for _ in range(5):
        for layer in range(4):
            expect(op(X, d, stack[layer]), X, d, stack.numpy()[layer])
        stack.assign_add(tf.ones_like(stack))
    packs = counters.packs()
    for _ in range(10):
        for layer in range(4):
            op(X, d, stack[layer])
    assert counters.packs() <= packs + 2 * 4  # for the first calls, and to stay


def test_the_same_contents_in_two_places(counters):
    d, contents = tf.Variable(draw(1, *D_SHAPE)), fresh(*P_SHAPE)
    pair = [tf.Variable(contents) for _ in range(2)]
    packs = counters.packs()
    for _ in range(4):
        for p in pair:
            expect(op(X, d, p), X, d, p)
    assert counters.packs() == packs + 2  # for the first call, and to stay
    pair[0].assign_add(tf.ones_like(pair[0]))
    for _ in range(4):
        for p in pair:
            expect(op(X, d, p), X, d, p)


def test_functions_share_packed_filters(counters):
    d, p = tf.Variable(draw(1, *D_SHAPE)), tf.Variable(fresh(*P_SHAPE))
    functions = [tf.function(lambda x, i=i: op(x, d, p) + i) for i in range(3)]
    packs = counters.packs()
    for _ in range(3):
        for i, function in enumerate(functions):
            for batch in (1, 2):
                expect(function(X[:batch]) - i, X[:batch], d, p)
    assert counters.packs() == packs + 2


@pytest.mark.parametrize("graph", [False, True], ids=["eager", "function"])
def test_filters_cast_in_each_call_stay_packed(counters, graph):
    """As under mixed precision: the op never meets the variables' own buffers."""
    layers = [(tf.Variable(fresh(*D_SHAPE)), tf.Variable(fresh(*P_SHAPE))) for _ in range(5)]
    x = tf.cast(X, tf.bfloat16)

    def call():
        return [op(x, tf.cast(d, tf.bfloat16), tf.cast(p, tf.bfloat16)) for d, p in layers]

    if graph:
        call = tf.function(call)
    before = counters.cache()
    first = [tf.cast(y, tf.float32).numpy() for y in call()]
    for _ in range(3):
        call()
    packs = counters.packs()
    for _ in range(400):  # past several sweeps
        call()
    # Each layer is held in vain a few times at most.
    assert counters.packs() <= packs + 3 * len(layers)
    assert counters.cache()["held"] <= before["held"] + 2 * len(layers)
    packs = counters.packs()
    for _ in range(300):
        last = call()
    assert counters.packs() == packs
    for y, expected in zip(last, first):
        np.testing.assert_array_equal(tf.cast(y, tf.float32).numpy(), expected)
    layers[0][1].assign(2 * layers[0][1])
    np.testing.assert_array_equal(tf.cast(call()[0], tf.float32).numpy(), 2 * first[0])


@pytest.mark.parametrize("uses", [1, 2, 5])
def test_training_keeps_nothing(counters, uses):
    """What is kept would be of no use, and a held filter would make each step of the optimizer copy it."""
    d, p = tf.Variable(fresh(*D_SHAPE)), tf.Variable(fresh(*P_SHAPE))
    x = tf.Variable(X)
    d.assign_add(tf.ones_like(d))  # into TensorFlow's own memory, whatever it began in
    p.assign_add(tf.ones_like(p))

    @tf.function
    def step():
        ys = []
        for _ in range(uses):
            ys.append(op(x, d, p))
            x.assign(x)  # so that the calls are not merged into one
        p.assign_add(0.01 * tf.ones_like(p))
        d.assign_sub(0.01 * tf.ones_like(d))
        return ys

    before, packs = counters.cache(), counters.packs()
    for _ in range(50):
        d_now, p_now = d.numpy(), p.numpy()
        for y in step():
            expect(y, X, d_now, p_now)
        now = counters.cache()
        # Only filters used again within one step are kept, until the next comes.
        assert now["held"] <= before["held"] + (0 if uses == 1 else 2)
        assert now["entries"] <= before["entries"] + (0 if uses == 1 else 1)
    # One pack for the call and one to stay; calls of one step may run at once, and then each packs for itself.
    assert packs + 50 * min(uses, 2) <= counters.packs() <= packs + 50 * uses
    call = tf.function(lambda: op(X, d, p))
    warm(call, counters)
    expect(call(), X, d, p)


def test_alternating_training_and_inference(counters):
    """Filters that inference holds: the optimizer's first step moves the variable to a new buffer."""
    d, p = tf.Variable(draw(1, *D_SHAPE)), tf.Variable(draw(2, *P_SHAPE))
    call = tf.function(lambda: op(X, d, p))
    for _ in range(30):
        for _ in range(5):
            expect(call(), X, d, p)
        p.assign_add(0.01 * tf.ones_like(p))


def test_filters_of_deleted_variables_are_let_go(counters):
    before = counters.cache()
    d, p = tf.Variable(fresh(*D_SHAPE)), tf.Variable(fresh(*P_SHAPE))
    d.assign_add(tf.ones_like(d))  # into TensorFlow's own memory, whatever it began in
    p.assign_add(tf.ones_like(p))
    warm(functools.partial(op, X, d, p), counters)
    now = counters.cache()
    assert (now["entries"], now["held"]) == (before["entries"] + 1, before["held"] + 2)
    assert now["bytes"] > before["bytes"]
    del d, p
    gc.collect()
    counters.sweep()
    now = counters.cache()
    assert [now[key] for key in ("entries", "held", "bytes")] == [before[key] for key in ("entries", "held", "bytes")]


def test_memory_is_bounded(counters):
    """Eighty filters of 4 MiB, all alive and all called often enough to be kept."""
    size = 1024
    x = draw(0, 1, 1, 1, size)
    d = tf.ones([1, 1, size, 1])
    filters = [tf.fill([1, 1, size, size], float(step + 1)) for step in range(80)]
    for step, p in enumerate(filters):
        for _ in range(3):
            y = op(x, d, p)
        np.testing.assert_allclose(y, np.full(y.shape, x.sum() * (step + 1)), rtol=1e-3, atol=1e-1)
        assert counters.cache()["bytes"] <= CACHE_BYTES
    assert counters.cache()["bytes"] > CACHE_BYTES // 2
    del filters, p
    before = counters.cache()["inserts"]
    huge = tf.ones([1, 1, size, CACHE_BYTES // size // 4 + size])
    for _ in range(3):
        op(x, d, huge)
    assert counters.cache()["inserts"] == before
    counters.sweep()
    assert counters.cache()["bytes"] < CACHE_BYTES // 8


def test_filters_not_used_for_long_are_let_go(counters):
    """Those known by contents alone have nobody whose end would tell."""
    before = counters.cache()
    arrays = aligned(fresh(*D_SHAPE)), aligned(fresh(*P_SHAPE))
    for _ in range(3):
        op(X, *arrays)
    assert counters.cache()["entries"] == before["entries"] + 1
    x = X[:1, :1, :1]
    other = [tf.Variable(fresh(*D_SHAPE)), tf.Variable(fresh(*P_SHAPE))]
    call = tf.function(lambda: [op(x + i, *other) for i in range(256)])
    for _ in range(16384 // 256 + 8):  # FilterCache::kIdleLookups, and until the next sweep
        call()
    assert counters.cache()["entries"] <= before["entries"] + 1


def test_the_instruction_set_may_change_between_calls(monkeypatch, counters):
    d, p = tf.Variable(draw(1, *D_SHAPE)), tf.Variable(draw(2, *P_SHAPE))
    counters.library.dwsconv_calls.restype = ctypes.c_int64
    for _ in range(4):
        for isa in tf_dwsconv.native.cpu_info()["isas"]:
            monkeypatch.setenv("DWSCONV_ISA", isa)
            before = counters.library.dwsconv_calls(isa.encode())
            expect(op(X, d, p), X, d, p)
            assert counters.library.dwsconv_calls(isa.encode()) == before + 1
    assert counters.library.dwsconv_calls(b"sse9") == -1


def test_threads_with_weights_of_their_own():
    errors = []

    def work(seed):
        try:
            d, p = tf.Variable(draw(seed, *D_SHAPE)), tf.Variable(draw(seed + 1, *P_SHAPE))
            for step in range(60):
                expect(op(X, d, p), X, d, p)
                if step % (seed + 1) == 0:
                    p.assign_add(tf.ones_like(p))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_threads_that_share_weights_which_change():
    """Every result belongs to one of the values that the weights have had, whole."""
    d, p = tf.ones(D_SHAPE), tf.Variable(tf.ones(P_SHAPE))
    unit = op(X, d, tf.ones(P_SHAPE)).numpy()
    stop, errors = threading.Event(), []

    def read():
        try:
            while not stop.is_set():
                y = op(X, d, p).numpy()
                ratio = np.round(np.median(y / unit))
                np.testing.assert_allclose(y, ratio * unit, rtol=1e-4, atol=1e-3 * abs(ratio))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(300):
        p.assign_add(tf.ones_like(p))
    stop.set()
    for thread in threads:
        thread.join()
    assert errors == []


@pytest.mark.parametrize("seed", range(4))
def test_any_order_of_changes_calls_and_deletions(seed):
    """Addresses are freed and given out again; arrays are written in place; contents come back."""
    chance = random.Random(seed)
    pool = [tf.Variable(draw(i, *P_SHAPE)) for i in range(3)] + [aligned(draw(i, *P_SHAPE)) for i in range(2)]
    d = tf.Variable(draw(1, *D_SHAPE))
    graph = tf.function(lambda p: op(X, d, p))
    for _ in range(400):
        at = chance.randrange(len(pool))
        action = chance.random()
        value = draw(chance.randrange(4), *P_SHAPE)
        if action < 0.15:
            pool[at] = chance.choice([tf.Variable, tf.constant, aligned, np.array])(value)
        elif action < 0.3:
            if isinstance(pool[at], tf.Variable):
                pool[at].assign(value) if action < 0.2 else pool[at].assign_add(value)
            elif isinstance(pool[at], np.ndarray):
                pool[at][...] = value
        elif action < 0.35:
            d.assign_add(tf.ones_like(d))
        else:
            call = graph if isinstance(pool[at], tf.Tensor) and action < 0.6 else lambda p: op(X, d, p)
            expect(call(pool[at]), X, d, pool[at])
