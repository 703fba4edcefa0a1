"""Batch norm in training: the op and its gradient on every instruction set against float64, and bad input."""

from __future__ import annotations

import numpy as np
import pytest
import reference
import tensorflow as tf
from conftest import check_python, op_calls
from layer_support import close
from native_support import ISAS

from tf_dwsconv._tf import batch_norm, library
from tf_dwsconv._tf.signatures import activation_options
from tf_dwsconv.activations import NONE, Fused

pytestmark = pytest.mark.usefixtures("op_library")

EPSILON = 1e-3
WORDS = tuple(reference.ACTIVATIONS)
# Rows longer and shorter than a part and a chunk, tails of all vectors, few channels (rows that are one) and many.
SHAPES = [(7, 5), (1, 3), (64, 1), (3, 4, 6, 16), (2, 33, 35, 24), (5, 9, 7, 35), (4, 4, 4, 200), (6, 1031), (4096, 3)]
UNITS = {"float32": 2**-24, "bfloat16": 2**-8, "float16": 2**-11}  # what rounding to nearest does, relatively


def case(shape, dtype, seed=0):
    """x and the gradient by y, exact in `dtype`; gamma, beta; x far from zero, where sums of squares would cancel."""
    rng = np.random.default_rng(seed)
    kind = tf.as_dtype(dtype).as_numpy_dtype
    x = (rng.standard_normal(shape) * 2 + 20 * rng.standard_normal(shape[-1])).astype(kind)
    grad = rng.standard_normal(shape).astype(kind)
    return x, grad, rng.uniform(0.5, 2, shape[-1]).astype("float32"), rng.standard_normal(shape[-1]).astype("float32")


def derivative(word, at):
    activation, step = reference.ACTIVATIONS[word], 1e-6
    return (activation(at + step, 0.2) - activation(at - step, 0.2)) / (2 * step)


def in_float64(x, grad, gamma, beta, word):
    """y, mean, variance and the three gradients, by the paper's equations alone; and what went into the activation."""
    x, grad, gamma, beta = (np.asarray(t, np.float64) for t in (x, grad, gamma, beta))
    axes = tuple(range(x.ndim - 1))
    mean, variance = x.mean(axes), x.var(axes)
    inverse = 1 / np.sqrt(variance + EPSILON)
    normal = (x - mean) * inverse
    before = normal * gamma + beta
    through = grad * derivative(word, before)
    d_gamma, d_beta = (through * normal).sum(axes), through.sum(axes)
    count = x.size // x.shape[-1]
    d_x = gamma * inverse * (through - d_beta / count - normal * d_gamma / count)
    return (reference.ACTIVATIONS[word](before, 0.2), mean, variance, d_x, d_gamma, d_beta), before


def away_from_kinks(grad, at, word):
    """A gradient without what passes near a kink, whose derivative is either side's where a rounding decides."""
    kinks = {"relu": (0,), "relu6": (0, 6), "hard_swish": (-3, 3), "leaky_relu": (0,), "elu": (0,)}.get(word, ())
    near = np.any([np.abs(at - kink) < 1e-3 for kink in kinks], axis=0) if kinks else np.zeros(at.shape, bool)
    return np.where(near, np.zeros_like(grad), grad)


def by_the_op(x, grad, gamma, beta, word):
    x = tf.constant(x)
    with tf.GradientTape() as tape:
        sources = [x, tf.constant(gamma), tf.constant(beta)]
        tape.watch(sources)
        y, mean, variance = batch_norm.train(*sources, EPSILON, Fused(word))
    found = tape.gradient(y, sources, output_gradients=tf.constant(grad))
    return [np.asarray(tf.cast(t, tf.float64)) for t in (y, mean, variance, *found)]


def check(actual, expected, grad, x, dtype):
    """Roundings: of x - mean, relative to the deviation; of results in 16 bits; of sums, to the sum of magnitudes."""
    axes = tuple(range(x.ndim - 1))
    y, mean, variance, d_x, *_ = expected
    deviation = np.sqrt(variance + EPSILON)
    single, unit = 2**-24, UNITS[dtype]
    conditioned = 1 + np.abs(mean) / deviation  # x - mean loses so many units
    terms = np.abs(np.asarray(grad, np.float64)).sum(axes)
    bounds = [
        (0, unit * np.abs(y) + 40 * single * (1 + np.abs(y)) * conditioned * 4),
        (1, single * np.abs(mean) + 24 * single * deviation),  # rounded once; what is added up is of x - mean
        (2, 24 * single * deviation**2),
        (3, 2 * unit * np.abs(d_x) + 400 * single * conditioned * (1 + np.abs(d_x)) / deviation * 4),
        (4, 100 * single * conditioned * (terms + 1) * 4),
        (5, 100 * single * conditioned * (terms + 1)),
    ]
    for i, bound in bounds:
        assert actual[i].shape == expected[i].shape
        apart = np.abs(actual[i] - expected[i])
        assert (apart <= bound).all(), (i, float(apart.max()), float(np.max(apart / bound)))


@pytest.mark.parametrize("dtype", UNITS)
@pytest.mark.parametrize("isa", ISAS)
def test_against_float64(isa, dtype, monkeypatch):
    monkeypatch.setenv("DWSCONV_ISA", isa)
    before = op_calls("dwsconv_batch_norm_calls")
    for number, shape in enumerate(SHAPES):
        word = WORDS[number % len(WORDS)] if number else "none"
        x, grad, gamma, beta = case(shape, dtype, number)
        expected, at = in_float64(x, grad, gamma, beta, word)
        grad = away_from_kinks(grad, at, word)
        expected, _ = in_float64(x, grad, gamma, beta, word)
        check(by_the_op(x, grad, gamma, beta, word), expected, grad, x, dtype)
    ran = "avx512" if isa == "amx" else isa  # nothing here is for tiles
    counted = {name: count + (2 * len(SHAPES) if name == ran else 0) for name, count in before.items()}
    assert op_calls("dwsconv_batch_norm_calls") == counted


@pytest.mark.parametrize("word", WORDS)
def test_every_activation(word):
    x, grad, gamma, beta = case((6, 11, 13, 20), "float32", 3)
    _, at = in_float64(x, grad, gamma, beta, word)
    grad = away_from_kinks(grad, at, word)
    expected, _ = in_float64(x, grad, gamma, beta, word)
    check(by_the_op(x, grad, gamma, beta, word), expected, grad, x, "float32")


def test_a_mean_far_from_zero_keeps_the_variance():
    """Sums of squares would lose it: the mean is 4096 deviations away."""
    x = (4096 + np.random.default_rng(0).standard_normal((2000, 5))).astype("float32")
    _, mean, variance = batch_norm.train(tf.constant(x), tf.ones([5]), tf.zeros([5]), EPSILON, NONE)
    np.testing.assert_allclose(mean, x.astype("float64").mean(0), rtol=2e-7)
    np.testing.assert_allclose(variance, x.astype("float64").var(0), rtol=1e-5)


def test_the_same_bits_for_any_number_of_threads():
    program = """
import sys, hashlib, numpy as np, tensorflow as tf
tf.config.threading.set_intra_op_parallelism_threads(int(sys.argv[1]))
from test_batch_norm import by_the_op, case
found = by_the_op(*case((9, 40, 31, 24), "float32"), "silu") + by_the_op(*case((3, 7, 9, 300), "bfloat16"), "relu6")
print(hashlib.sha256(b"".join(t.tobytes() for t in found)).hexdigest())
"""
    assert len({check_python(program, threads).split()[-1] for threads in ("1", "2", "5")}) == 1


def test_no_rows():
    y, mean, variance = batch_norm.train(tf.zeros([0, 3, 3, 4]), tf.ones([4]), tf.zeros([4]), EPSILON, NONE)
    assert y.shape == (0, 3, 3, 4) and np.isnan(mean).all() and np.isnan(variance).all()
    empty, ones = np.zeros((0, 4), "float32"), np.ones(4, "float32")
    found = by_the_op(empty, empty, ones, ones, "relu")
    assert not found[4].any() and not found[5].any()
    y, mean, _ = batch_norm.train(tf.zeros([3, 0]), tf.ones([0]), tf.zeros([0]), EPSILON, NONE)
    assert y.shape == (3, 0) and mean.shape == (0,)


def test_a_nan_stays_in_its_channel():
    x, grad, gamma, beta = case((4, 5, 6, 7), "float32")
    x[1, 2, 3, 4] = np.nan
    for result in by_the_op(x, grad, gamma, beta, "silu"):
        assert np.isnan(result).reshape(-1, 7).any(0).tolist() == [channel == 4 for channel in range(7)]


def test_second_derivatives_are_those_of_stock_ops():
    x, grad, gamma, beta = (tf.constant(t) for t in case((3, 4, 5, 6), "float32"))

    def second(norm):
        with tf.GradientTape() as outer:
            outer.watch([x, gamma, beta])
            with tf.GradientTape() as inner:
                inner.watch([x, gamma])
                loss = tf.reduce_sum(norm(x) * grad)
            first = inner.gradient(loss, [x, gamma])
            loss = tf.reduce_sum(tf.square(first[0])) + tf.reduce_sum(tf.sin(first[1]))
        return outer.gradient(loss, [x, gamma, beta])

    def stock(x):
        mean, variance = tf.nn.moments(x, [0, 1, 2])
        return tf.nn.silu(tf.nn.batch_normalization(x, mean, variance, beta, gamma, EPSILON))

    ours = second(lambda x: batch_norm.train(x, gamma, beta, EPSILON, Fused("silu"))[0])
    for found, expected in zip(ours, second(stock)):
        np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-3 * float(np.abs(expected).max()))


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"x": np.float32(3)}, "at least rank 1|at least one axis"),
        ({"gamma": np.ones(5, "f")}, "gamma|Dimensions must be equal"),
        ({"beta": np.ones((4, 1), "f")}, "beta|rank 1"),
        ({"beta": np.ones(3, "f")}, "beta|Dimensions must be equal"),
        ({"epsilon": -1.0}, "epsilon must be a finite number of at least 0"),
        ({"epsilon": float("nan")}, "epsilon must be a finite number"),
        ({"activation": "prelu"}, "activation must not be"),
        ({"activation": "swoosh"}, "activation must be one of"),
        ({"activation": "relu", "max_value": -1.0}, "max_value must be at least 0"),
    ],
)
def test_bad_input(changes, words):
    forward, backward = library.batch_norm_ops()
    arguments = {"x": np.ones((2, 4), "f"), "gamma": np.ones(4, "f"), "beta": np.ones(4, "f"), "epsilon": 0.1}
    arguments.update(activation_options(NONE))
    with pytest.raises((tf.errors.InvalidArgumentError, ValueError), match=words):
        forward(**{**arguments, "statistics": (), **changes})
    more = {"mean": np.ones(4, "f"), "variance": np.ones(4, "f"), "grad": arguments["x"]}
    with pytest.raises((tf.errors.InvalidArgumentError, ValueError), match=words):
        backward(**{**arguments, **more, **changes})
    with pytest.raises((tf.errors.InvalidArgumentError, ValueError), match=r"grad must have the shape of x|equal"):
        backward(**{**arguments, **more, "grad": np.ones((3, 4), "f")})
    with pytest.raises((tf.errors.InvalidArgumentError, ValueError), match=r"variance|equal"):
        backward(**{**arguments, **more, "variance": np.ones(3, "f")})


def test_bad_statistics():
    forward, backward = library.batch_norm_ops()
    four, three = np.ones(4, "f"), np.ones(3, "f")
    arguments = {"x": np.ones((2, 4), "f"), "gamma": four, "beta": four, "epsilon": 0.1, **activation_options(NONE)}
    for statistics, of_batch in (((four,), False), ((), False), ((four, four), True)):
        with pytest.raises((tf.errors.InvalidArgumentError, ValueError), match="statistics must be"):
            forward(**arguments, statistics=statistics, of_batch=of_batch)
    with pytest.raises((tf.errors.InvalidArgumentError, ValueError), match=r"mean|equal"):
        forward(**arguments, statistics=(three, four), of_batch=False)
    more = {"mean": four, "variance": four, "grad": arguments["x"]}
    for want, of_batch in ((0, True), (2, False)):
        with pytest.raises((tf.errors.InvalidArgumentError, ValueError), match="want_parameters must be 0 or 1"):
            backward(**arguments, **more, want_parameters=want, of_batch=of_batch)


@pytest.mark.parametrize("isa", ISAS)
def test_given_statistics_against_float64(isa, monkeypatch):
    """A frozen norm: no gradient passes through the statistics, and those of gamma and beta only where asked for."""
    monkeypatch.setenv("DWSCONV_ISA", isa)
    for number, (shape, word) in enumerate((shape, word) for shape in SHAPES[:6] for word in ("none", "silu")):
        x, grad, gamma, beta = case(shape, "float32", number)
        rng = np.random.default_rng(number)
        mean = (x.mean(tuple(range(x.ndim - 1))) + rng.standard_normal(shape[-1])).astype("float32")
        variance = rng.uniform(0.5, 4, shape[-1]).astype("float32")
        inverse = 1 / np.sqrt(variance.astype("float64") + EPSILON)
        normal = (x.astype("float64") - mean) * inverse
        through = grad * derivative(word, normal * gamma + beta)
        axes = tuple(range(x.ndim - 1))
        expected = [through * inverse * gamma, (through * normal).sum(axes), through.sum(axes)]
        sources = [tf.constant(t) for t in (x, gamma, beta)]
        for watched in (sources, sources[:1]):
            with tf.GradientTape() as tape:
                tape.watch(watched)
                y = batch_norm.infer(*sources, tf.constant(mean), tf.constant(variance), EPSILON, Fused(word))
            found = tape.gradient(y, watched, output_gradients=tf.constant(grad))
            close(y, reference.ACTIVATIONS[word](normal * gamma + beta, 0.2))
            for a, b in zip(found, expected):
                close(a, b)
