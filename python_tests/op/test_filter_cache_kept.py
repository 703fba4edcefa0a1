"""What the cache of packed filters knows again, keeps and lets go, in one thread and in many.

The op's library counts what it packs and keeps; the counters are read through ctypes.
"""

from __future__ import annotations

import ctypes
import functools
import gc
import random
import threading

import numpy as np
import pytest
import tensorflow as tf
from filter_cache_support import D_SHAPE, P_SHAPE, X, aligned, cleared_counters, draw, expect, fresh, op, warm
from in_threads import in_threads

import tf_dwsconv.native

pytestmark = pytest.mark.usefixtures("op_library")

CACHE_BYTES = 256 << 20  # FilterCache::Global


@pytest.fixture
def counters():
    return cleared_counters()


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
    assert counters.cache()["held"] <= before["held"] + 2 * len(layers)
    for _ in range(300):
        last = call()
    # Each layer is held in vain a few times at most, and packed again after each. When depends on where casts lie.
    assert counters.packs() <= packs + 3 * len(layers)
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
    def work(seed):
        d, p = tf.Variable(draw(seed, *D_SHAPE)), tf.Variable(draw(seed + 1, *P_SHAPE))
        for step in range(60):
            expect(op(X, d, p), X, d, p)
            if step % (seed + 1) == 0:
                p.assign_add(tf.ones_like(p))

    in_threads(work, range(8))


def test_threads_that_share_weights_which_change():
    """Every result belongs to one of the values that the weights have had, whole."""
    d, p = tf.ones(D_SHAPE), tf.Variable(tf.ones(P_SHAPE))
    unit = op(X, d, tf.ones(P_SHAPE)).numpy()
    stop = threading.Event()

    def work(number):
        if number == 0:
            for _ in range(300):
                p.assign_add(tf.ones_like(p))
            stop.set()
        while not stop.is_set():
            y = op(X, d, p).numpy()
            ratio = np.round(np.median(y / unit))
            np.testing.assert_allclose(y, ratio * unit, rtol=1e-4, atol=1e-3 * abs(ratio))

    in_threads(work, range(5))


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
