"""Gradients of the op: against stock automatic differentiation in float64, and numerically; of every order and mode."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from gradient_cases import (
    SMALL,
    SMOOTH,
    assert_close,
    call,
    check_against_float64,
    gradients,
    in_float64,
    tensors_of,
)
from hypothesis import given, settings
from strategies import WORDS, shapes
from tensorflow.python.framework import op_callbacks

pytestmark = pytest.mark.usefixtures("op_library")


@settings(max_examples=150)
@given(shapes(words=SMOOTH, max_size=9, max_channels=12))
def test_float32_agrees_with_stock_in_float64(shape):
    check_against_float64(shape, "float32", 2e-4)


@settings(max_examples=40)
@given(shapes(words=("none", "relu", "relu6", "leaky_relu", "hard_swish"), max_size=9, max_channels=12))
def test_kinks_agree_with_stock_in_float32(shape):
    """At a kink the gradient jumps, so the comparison stays in float32 and skips outputs that lie beside one."""
    tensors, keywords = tensors_of(shape, "float32")
    y = call(tensors, keywords)
    weights = tf.constant(np.random.default_rng(1).standard_normal(y.shape), tf.float32)
    linear = {**keywords, "depthwise_activation": None, "activation": None}
    if keywords["depthwise_activation"] != "none":
        keywords = {**keywords, "depthwise_activation": None}
    before = call(tensors, linear)
    beside = tf.zeros_like(before, tf.bool)
    for kink in (-3.0, 0.0, 3.0, 6.0):
        beside |= tf.abs(before - kink) < 1e-3
    weights = tf.where(beside, tf.zeros_like(weights), weights)
    expected = gradients(in_float64(tensors), keywords, tf.cast(weights, tf.float64))
    assert_close(gradients(tensors, keywords, weights), expected, 2e-4)


@pytest.mark.parametrize("dtype, tolerance", [("bfloat16", 0.08), ("float16", 0.01)])
@pytest.mark.parametrize("data_format", ["NHWC", "NCHW"])
def test_16_bits(dtype, tolerance, data_format):
    shape = {**SMALL, "data_format": data_format, "activation": ("none", 0.2)}
    check_against_float64(shape, dtype, tolerance)
    tensors, keywords = tensors_of(shape, dtype)
    for gradient in gradients(tensors, keywords, tf.ones(1)):
        assert gradient.dtype == dtype


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("which", ["depthwise_activation", "activation"])
def test_numerically(word, which):
    """Independent of any automatic differentiation; the fixed seeds keep clear of kinks."""
    alpha = -0.5 if which == "activation" else 0.3
    shape = {**SMALL, "depthwise_activation": ("none", 0.2), "activation": ("none", 0.2), which: (word, alpha)}
    tensors, keywords = tensors_of({**shape, **dict(zip("NHWCK", (1, 3, 3, 2, 2))), "seed": 4})

    def loss(*given_tensors):
        return call(list(given_tensors), keywords)

    theoretical, numerical = tf.test.compute_gradient(loss, tensors, delta=1e-2)
    for t, n in zip(theoretical, numerical):
        mismatch = np.abs(t - n) > 0.02 + 0.02 * np.abs(n)
        # A step over a kink makes one output's difference quotient a mixture of two slopes.
        assert mismatch.mean() <= (0.05 if word in ("relu", "relu6", "leaky_relu", "hard_swish") else 0)


@pytest.mark.parametrize("word", ["none", "sigmoid", "gelu", "relu", "leaky_relu"])
@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_second_order(word, mode):
    shape = {**SMALL, "activation": (word, 0.3), "seed": 2}
    tensors, keywords = tensors_of(shape)

    def second(tensors):
        with tf.GradientTape() as outer:
            outer.watch(tensors)
            with tf.GradientTape() as inner:
                inner.watch(tensors)
                y = call(tensors, keywords)
                loss = tf.reduce_sum(y * y)
            first = inner.gradient(loss, tensors)
            penalty = tf.add_n([tf.reduce_sum(tf.square(g)) for g in first])
        return outer.gradient(penalty, tensors)

    ours = tf.function(second) if mode == "graph" else second
    assert_close(ours(tensors), second(in_float64(tensors)), 5e-4)


def test_third_order():
    tensors, keywords = tensors_of({**SMALL, "seed": 3})

    def third(x):
        with tf.GradientTape() as t1:
            t1.watch(x)
            with tf.GradientTape() as t2:
                t2.watch(x)
                with tf.GradientTape() as t3:
                    t3.watch(x)
                    y = tf.reduce_sum(call([x, *others(x)], keywords))
                first = tf.reduce_sum(t3.gradient(y, x) ** 2)
            second = tf.reduce_sum(t2.gradient(first, x) ** 2)
        return t1.gradient(second, x)

    def others(x):
        return [tf.cast(t, x.dtype) for t in tensors[1:]]

    assert_close([third(tensors[0])], [third(tf.cast(tensors[0], tf.float64))], 1e-3)


@pytest.mark.parametrize("asked", range(6))
def test_only_what_is_asked_for(asked):
    """One gradient alone equals that of all together; in eager mode nothing else is even computed."""
    tensors, keywords = tensors_of(SMALL)
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(tensors[asked])
        y = call(tensors, keywords)
    alone = tape.gradient(y, tensors[asked])
    together = gradients(tensors, keywords, tf.ones(1))[asked]
    np.testing.assert_allclose(alone, together, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("asked", range(6))
def test_skips_work_nobody_asked_for(asked):
    tensors, keywords = tensors_of({**SMALL, "activation": ("relu", 0.2)})
    seen = []
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(tensors[asked])
        y = call(tensors, keywords)

    def callback(op_type, inputs, attrs, outputs, name=None):
        seen.append((op_type.decode() if isinstance(op_type, bytes) else op_type, attrs, outputs))

    op_callbacks.add_op_callback(callback)
    try:
        tape.gradient(y, tensors[asked])
    finally:
        op_callbacks.remove_op_callback(callback)
    (attributes, outputs), *others = [rest for name, *rest in seen if name == "TfDwsconv>DepthwiseSepConv2DGrad"]
    assert not others and len(outputs) == 1
    attributes = dict(zip(attributes[::2], attributes[1::2]))
    wanted = ["input", "depthwise_filter", "pointwise_filter", "depthwise_bias", "bias", "residual"]
    assert [attributes[f"want_{name}"] for name in wanted] == [int(i == asked) for i in range(6)]


def test_unconnected_is_none():
    tensors, keywords = tensors_of(SMALL)
    other = tf.constant(1.0)
    with tf.GradientTape() as tape:
        tape.watch([other, *tensors])
        y = call(tensors, keywords)
    assert tape.gradient(y, [other, tensors[0]])[0] is None


def test_v1_graph_gradients():
    tensors, keywords = tensors_of(SMALL)
    arrays = [t.numpy() for t in tensors]
    expected = gradients(tensors, keywords, tf.ones(1))
    with tf.Graph().as_default():
        feeds = [tf.compat.v1.placeholder(tf.float32, [None] * a.ndim) for a in arrays]
        y = call(feeds, keywords)
        first = tf.gradients(y, feeds)
        second = tf.gradients(tf.add_n([tf.reduce_sum(g * g) for g in first]), feeds[:3])
        with tf.compat.v1.Session() as session:
            actual, _ = session.run([first, second], dict(zip(feeds, arrays)))
    for a, e in zip(actual, expected):
        np.testing.assert_allclose(a, e, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("control_flow_v2", [True, False])
def test_inside_a_while_loop(control_flow_v2):
    shape = {**dict(zip("NHWCMKRS", (1, 4, 4, 3, 1, 3, 3, 3))), "bias": True, "activation": ("silu", 0.2)}
    tensors, keywords = tensors_of(shape)
    x, depthwise_filter, pointwise_filter, bias = (t for t in tensors if t is not None)

    def loop(x, d, p, b):
        body = lambda i, x: (i + 1, call([x, d, p, None, b, None], keywords))  # noqa: E731
        return tf.while_loop(lambda i, x: i < 3, body, (tf.constant(0), x))[1]

    def unrolled(x, d, p, b):
        for _ in range(3):
            x = call([x, d, p, None, b, None], keywords)
        return x

    given_tensors = [x, depthwise_filter, pointwise_filter, bias]
    with tf.GradientTape() as tape:
        tape.watch(given_tensors)
        y = unrolled(*given_tensors)
    expected = tape.gradient(y, given_tensors)
    if control_flow_v2:

        @tf.function
        def actual():
            with tf.GradientTape() as tape:
                tape.watch(given_tensors)
                y = loop(*given_tensors)
            return tape.gradient(y, given_tensors)

        found = actual()
    else:
        arrays = [t.numpy() for t in given_tensors]
        enabled = tf.compat.v1.control_flow_v2_enabled()
        tf.compat.v1.disable_control_flow_v2()
        try:
            with tf.Graph().as_default(), tf.compat.v1.Session() as session:
                constants = [tf.constant(a) for a in arrays]
                found = session.run(tf.gradients(loop(*constants), constants))
        finally:
            if enabled:
                tf.compat.v1.enable_control_flow_v2()
    for f, e in zip(found, expected):
        np.testing.assert_allclose(f, e, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("graph", [False, True])
def test_forward_mode(graph):
    tensors, keywords = tensors_of(SMALL)
    tangents = [tf.random.stateless_normal(t.shape, [1, i]) for i, t in enumerate(tensors)]

    def jvp(tensors, tangents):
        with tf.autodiff.ForwardAccumulator(tensors, tangents) as accumulator:
            y = call(tensors, keywords)
        return accumulator.jvp(y)

    function = tf.function(jvp) if graph else jvp
    assert_close([function(tensors, tangents)], [jvp(in_float64(tensors), in_float64(tangents))], 1e-4)


def test_jacobian_by_vectorised_loop():
    """tape.jacobian runs the gradient through pfor."""
    shape = {**dict(zip("NHWCMKRS", (1, 3, 3, 2, 1, 2, 3, 3))), "activation": ("tanh", 0.2)}
    tensors, keywords = tensors_of(shape)

    def jacobian(tensors, **options):
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(tensors[0])
            y = call(tensors, keywords)
        return tape.jacobian(y, tensors[0], **options)

    assert_close([jacobian(tensors)], [jacobian(in_float64(tensors), experimental_use_pfor=False)], 1e-4)


@pytest.mark.parametrize("jit", [False, True])
def test_gradient_in_tf_function_and_xla(jit):
    tensors, keywords = tensors_of(SMALL)
    function = tf.function(lambda *t: gradients(list(t), keywords, tf.ones(1)), jit_compile=jit)
    assert_close(function(*tensors), gradients(in_float64(tensors), keywords, tf.ones(1)), 2e-4)


@pytest.mark.parametrize("empty_known", [False, True])
def test_empty_batch_has_zero_gradients(empty_known):
    shape = {**dict(zip("NHWCMKRS", (0, 5, 5, 3, 2, 4, 3, 3))), "bias": True, "activation": ("relu", 0.2)}
    tensors, keywords = tensors_of(shape)
    specs = [
        tf.TensorSpec(t.shape if empty_known else [None] * t.shape.rank, t.dtype) for t in tensors if t is not None
    ]
    function = tf.function(
        lambda x, d, p, b: gradients([x, d, p, None, b, None], keywords, tf.ones(1)), input_signature=specs
    )
    given_tensors = [t for t in tensors if t is not None]
    for gradient, tensor in zip(function(*given_tensors), given_tensors):
        assert gradient.shape == tensor.shape
        assert not gradient.numpy().any()


@pytest.mark.parametrize("strides, dilations", [((1, 1), (1, 1)), ((2, 3), (1, 1)), ((2, 2), (2, 3))])
def test_weight_gradient_accumulates_over_variables(strides, dilations):
    """An optimizer step on variables lowers a loss, in a tf.function, for direct and composed depthwise gradients."""
    tensors, keywords = tensors_of({**SMALL, "H": 12, "W": 12, "strides": strides, "dilations": dilations})
    variables = [tf.Variable(t) for t in tensors[1:5]]
    goal = tf.zeros_like(call(tensors, keywords))

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            y = call([tensors[0], *variables, tensors[5]], keywords)
            loss = tf.reduce_mean(tf.square(y - goal))
        for variable, gradient in zip(variables, tape.gradient(loss, variables)):
            variable.assign_sub(0.02 * gradient)
        return loss

    losses = [float(step()) for _ in range(20)]
    assert losses[-1] < 0.9 * losses[0]
