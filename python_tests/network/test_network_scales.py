"""A scale and a shift of a program's input, which the first convolution takes into its filter (scaled_filter.cc)."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from conftest import FALLBACK
from native_support import ISAS
from program_reference import Builder

from tf_dwsconv import native

RNG = np.random.default_rng
EPSILON = 2.0**-24
WINDOWS = [  # R, S, strides, dilations, padding
    (3, 3, [2, 2], [1, 1], "same"),
    (3, 3, [2, 2], [1, 1], [[0, 1], [0, 1]]),
    (3, 3, [1, 1], [1, 1], "valid"),
    (7, 7, [2, 2], [1, 1], [[3, 2], [2, 4]]),
    (2, 5, [1, 3], [1, 1], "same"),
    (3, 3, [1, 2], [2, 3], "same"),
    (1, 1, [1, 1], [1, 1], "same"),
    (1, 1, [2, 2], [1, 1], [[1, 1], [2, 0]]),
]


def pictures(*shape, seed=0):
    return RNG(seed).uniform(0, 255, shape).astype(np.float32)


def begin(x, channels, scale, shift, dtype="float32", **attributes):
    """A builder with an input and its scale and shift; the tensor that they give."""
    b = Builder(dtype)
    image = b.input([None, *x.shape[1:]])
    weights = {"depthwise_filter": np.broadcast_to(scale, [channels]).reshape(1, 1, -1, 1)}
    if shift is not None:
        weights["depthwise_bias"] = np.broadcast_to(shift, [channels])
    return b, b.step("chain", image, weights=weights, **attributes)


def convolution(b, x, C, R=3, S=3, K=16, seed=1, bias=True, **attributes):
    rng = RNG(seed)
    weights = {"pointwise_filter": rng.standard_normal([R, S, C, K]) * (R * S * C) ** -0.5}
    if bias:
        weights["bias"] = rng.standard_normal(K)
    return b.step("chain", x, weights=weights, **attributes)


def check(b, x, taken, isa=None, **call):
    """The result against float64; `taken`: whether the step of the scale has nothing to do."""
    kept: list = []
    expected = b.expect(x, keep=kept)
    network = native.Network.from_program(b.text, b.weights, isa=isa)
    given = network(x, **call)
    # Each sum has terms of up to the pixels' size, times what the filter's columns add up to.
    terms = max(int(np.prod(w["shape"][:3])) for w in b.program["weights"]["tensors"] if len(w["shape"]) == 4)
    size = max(np.abs(y).max(initial=1.0) for y in kept) * 10
    for y, wanted in zip(given if isinstance(given, list) else [given], expected):
        np.testing.assert_allclose(y, wanted, rtol=0, atol=4 * (terms + 4) * EPSILON * size)
    assert (network.profile(x)[0]["ms"] == 0) == taken
    return given


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("columns", [9, 131], ids=["copies", "windows"])
@pytest.mark.parametrize("C", [1, 3, 4])
@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_taken(window, C, columns, isa):
    R, S, strides, dilations, padding = window
    x = pictures(2, 11, columns, C)
    rng = RNG(C)
    # Of a Normalization: some channels the other way round.
    scale, shift = rng.choice([-1, 1], C) / rng.uniform(40, 70, C), rng.uniform(-2.5, 2.5, C)
    b, scaled = begin(x, C, scale, shift)
    y = convolution(
        b, scaled, C, R, S, K=13, bias=C != 4, strides=strides, dilations=dilations, padding=padding,
        activation={"word": "hard_swish"},
    )  # fmt: skip
    b.output(y)
    one = check(b, x, True, isa, num_threads=1)
    assert np.array_equal(one, check(b, x, True, isa, num_threads=3))


def test_residual_and_no_shift():
    x = pictures(1, 8, 8, 3)
    b, scaled = begin(x, 3, 1 / 255, None)
    other = b.input([None, 8, 8, 16])
    y = convolution(b, scaled, 3, residual=other)
    b.output(y)
    network = native.Network.from_program(b.text, b.weights)
    z = RNG(5).standard_normal([1, 8, 8, 16]).astype(np.float32)
    np.testing.assert_allclose(network([x, z]), b.expect(x, z)[0], rtol=0, atol=30 * EPSILON * 20)
    assert network.profile([x, z])[0]["ms"] == 0


NUMBERS = {
    "a scale of 0": (0.0, 1.0),
    "a scale of hardly anything": (1e-30, 1.0),
    "a large shift": (1 / 16, -5.0),
    "no number": (np.nan, 1.0),
    "an infinite shift": (1.0, np.inf),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_that_are_left(name):
    """The step stays, and the result is that of the steps one by one."""
    scale, shift = NUMBERS[name]
    x = pictures(1, 7, 9, 3)
    b, scaled = begin(x, 3, [1 / 127.5, scale, 1 / 64], [-1, shift, 0.5])
    b.output(convolution(b, scaled, 3, padding="valid"))
    if np.isfinite([scale, shift]).all():
        check(b, x, False)
        return
    network = native.Network.from_program(b.text, b.weights)
    assert not np.isfinite(network(x)).any() and network.profile(x)[0]["ms"] > 0


def test_filters_that_are_not_finite():
    """A NaN under the edge of a filter stays away from the pixels that it does not touch."""
    x = pictures(1, 7, 9, 3)
    b, scaled = begin(x, 3, 1 / 127.5, -1)
    kernel = RNG(0).standard_normal([3, 3, 3, 16])
    kernel[0, 0, 0, 2] = np.inf
    b.output(b.step("chain", scaled, weights={"pointwise_filter": kernel}, padding="valid"))
    network = native.Network.from_program(b.text, b.weights)
    y = network(x)
    assert network.profile(x)[0]["ms"] > 0
    assert not np.isfinite(y[..., 2]).any() and np.isfinite(np.delete(y, 2, axis=-1)).all()


LEFT = {
    "read twice": lambda b, scaled: [convolution(b, scaled, 3), convolution(b, scaled, 3, seed=2)],
    "an output": lambda b, scaled: [convolution(b, scaled, 3), scaled],
    "its own residual": lambda b, scaled: [convolution(b, scaled, 3, K=3, residual=scaled)],
    "a depthwise filter behind it": lambda b, scaled: [
        b.step("chain", scaled, weights={"depthwise_filter": np.ones([3, 3, 3, 1])})
    ],
    "a norm behind it": lambda b, scaled: [convolution(b, scaled, 3, 1, 1, normalize=True)],
}


@pytest.mark.parametrize("name", LEFT)
def test_steps_that_are_left(name):
    x = pictures(2, 8, 9, 3)
    b, scaled = begin(x, 3, 1 / 127.5, -1)
    b.output(*LEFT[name](b, scaled))
    check(b, x, False)


@pytest.mark.parametrize("attributes", [{"strides": [2, 2]}, {"padding": [[0, 1], [1, 0]]},
                                        {"depthwise_activation": {"word": "relu"}}], ids=str)  # fmt: skip
def test_scales_with_more(attributes):
    x = pictures(2, 8, 9, 3)
    b, scaled = begin(x, 3, 1 / 127.5, -1, **attributes)
    b.output(convolution(b, scaled, 3))
    check(b, x, False)


def test_tensors_between():
    """What is no input of the program: its memory may be another's by then."""
    x = pictures(2, 8, 9, 3)
    b = Builder()
    image = b.input([None, 8, 9, 3])
    pooled = b.step("max_pool", image, window=[2, 2])
    weights = {"depthwise_filter": np.full([1, 1, 3, 1], 1 / 64), "depthwise_bias": [-1, 0, 1]}
    b.output(convolution(b, b.step("chain", pooled, weights=weights), 3))
    expected = b.expect(x)[0]
    network = native.Network.from_program(b.text, b.weights)
    np.testing.assert_allclose(network(x), expected, rtol=0, atol=60 * EPSILON * 20)
    assert all(step["ms"] > 0 for step in network.profile(x))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("window", [*WINDOWS, None], ids=str)
def test_bfloat16(window, isa):
    """The filter is rounded once more. That rounding multiplies the scaled pixels, which are small, and the bias makes
    up for the shift as the rounded filter sees it: a picture that is the shift's (`None`) leaves nothing.
    """
    R, S, strides, dilations, padding = window or (3, 3, [1, 1], [1, 1], "valid")
    x = pictures(2, 11, 29, 3) if window else np.full([2, 11, 29, 3], 128.0)
    scale, shift = [3 / 256, -7 / 256, 5 / 256], np.array([-1.5, 3.5, -2.5])
    rng = RNG(1)
    kernel, bias = rng.standard_normal([R, S, 3, 13]) * (R * S * 3) ** -0.5, rng.standard_normal(13) * bool(window)

    def build(dtype):
        b, scaled = begin(x, 3, scale, shift, dtype)
        weights = {"pointwise_filter": kernel.astype(ml_dtypes.bfloat16), "bias": bias.astype(ml_dtypes.bfloat16)}
        return b.output(b.step("chain", scaled, weights=weights, strides=strides, dilations=dilations, padding=padding))

    x = x.astype(ml_dtypes.bfloat16)
    b = build("bfloat16")
    network = native.Network.from_program(b.text, b.weights, isa=isa)
    kept: list = []
    expected = build("float32").expect(x, keep=kept)[0]  # nothing rounded between
    largest = max(np.abs(kept[0]).max(), 0 if padding == "valid" else 3.5)
    error = 2.0**-8 * (np.abs(kernel).sum((0, 1, 2)) * largest + np.abs(expected)) + 1e-5
    np.testing.assert_array_less(np.abs(network(x).astype(np.float64) - expected), error)
    assert network.profile(x)[0]["ms"] == 0


def test_float16():
    """A filter that is divided by the pictures' range may leave float16's normal numbers."""
    x = pictures(1, 8, 9, 3).astype(np.float16)
    b, scaled = begin(x, 3, 1 / 127.5, -1, dtype="float16")
    b.output(convolution(b, scaled, 3))
    assert native.Network.from_program(b.text, b.weights).profile(x)[0]["ms"] > 0


def test_many_images():
    """Each thread takes images of its own: the same bits as one image alone."""
    x = pictures(16, 20, 21, 3)
    b, y = begin(x, 3, 1 / 127.5, [-1, 0, 1])
    y = convolution(b, y, 3, strides=[2, 2])
    for seed in range(3):
        y = convolution(b, y, 16, seed=seed)
    y = b.step("mean", y)
    b.output(b.step("dense", y, weights={"filter": np.eye(16)}))
    network = native.Network.from_program(b.text, b.weights)
    before = native.calls()["network_by_image"]
    together = network(x, num_threads=2)
    assert native.calls()["network_by_image"] == before + 1
    assert np.array_equal(together, np.concatenate([network(x[n : n + 1]) for n in range(16)]))
    check(b, x[:2], True)


@pytest.mark.skipif(FALLBACK, reason="it is about the op")
@pytest.mark.usefixtures("op_library")
def test_op_packs_itself():
    """The first calls of the op pack for themselves, the later ones find what was packed: the same bits."""
    import tensorflow as tf

    from tf_dwsconv._tf import library

    x = pictures(2, 9, 131, 3)
    b, scaled = begin(x, 3, 1 / 127.5, [-1, 0, 1])
    b.output(convolution(b, scaled, 3, strides=[2, 2]))
    network = native.Network.from_program(b.text, b.weights)
    weights = tf.Variable(b.weights)
    for _ in range(4):
        (y,) = library.load().module.tf_dwsconv_network(
            inputs=[tf.constant(x)], weights=weights.value(), num_outputs=1, program=b.text, stable_filters=True
        )
        assert np.array_equal(y, network(x))
