"""How activations are recognised."""

from __future__ import annotations

import functools
import json

import keras
import pytest
import tensorflow as tf
from conftest import label

from tf_dwsconv.activations import WORDS, Fused, LeakyRelu, as_callable, parse, require, spelled

RECOGNISED = [
    (None, "none"),
    *[(word, word) for word in WORDS],
    ("linear", "none"),
    ("swish", "silu"),
    ("hard_silu", "hard_swish"),
    (keras.activations.linear, "none"),
    (keras.activations.relu, "relu"),
    (keras.activations.relu6, "relu6"),
    (keras.activations.hard_silu, "hard_swish"),
    (keras.activations.hard_swish, "hard_swish"),
    (keras.activations.silu, "silu"),
    (keras.activations.swish, "silu"),
    (keras.activations.gelu, "gelu"),
    (keras.activations.leaky_relu, "leaky_relu"),
    (keras.activations.sigmoid, "sigmoid"),
    (keras.activations.tanh, "tanh"),
    (keras.ops.relu, "relu"),
    (keras.ops.relu6, "relu6"),
    (tf.nn.relu, "relu"),
    (tf.nn.relu6, "relu6"),
    (tf.nn.silu, "silu"),
    (tf.nn.swish, "silu"),
    (tf.nn.gelu, "gelu"),
    (tf.nn.leaky_relu, "leaky_relu"),
    (tf.sigmoid, "sigmoid"),
    (tf.tanh, "tanh"),
    (tf.identity, "none"),
    (keras.layers.Activation("silu"), "silu"),
    (keras.layers.Activation(keras.layers.ReLU(6.0)), "relu6"),
    (keras.layers.ReLU(), "relu"),
    (keras.layers.ReLU(max_value=6), "relu6"),
    (functools.partial(keras.activations.relu, max_value=6), "relu6"),
    (functools.partial(keras.activations.relu), "relu"),
    (functools.partial(tf.nn.gelu, approximate=False), "gelu"),
    (functools.partial(tf.nn.relu, name="r"), "relu"),
    (tf.nn.elu, "elu"),
    (keras.activations.elu, "elu"),
    (keras.layers.ELU(), "elu"),
    (keras.layers.Activation("elu"), "elu"),
    (keras.activations.mish, "mish"),
    (keras.ops.gelu, "gelu_tanh"),  # unlike keras.activations.gelu
    (functools.partial(tf.nn.gelu, approximate=True), "gelu_tanh"),
    (functools.partial(keras.activations.gelu, approximate=True), "gelu_tanh"),
    (functools.partial(keras.ops.gelu, approximate=False), "gelu"),
]


@pytest.mark.parametrize("given, word", RECOGNISED, ids=label)
def test_recognised(given, word):
    assert parse(given) == Fused(word, 1.0 if word == "elu" else 0.2)


@pytest.mark.parametrize(
    "given",
    [
        ("leaky_relu", 0.3),
        ["leaky_relu", 0.3],
        keras.layers.LeakyReLU(negative_slope=0.3),
        keras.layers.ReLU(negative_slope=0.3),
        functools.partial(tf.nn.leaky_relu, alpha=0.3),
        functools.partial(keras.activations.leaky_relu, negative_slope=0.3),
        functools.partial(keras.activations.relu, negative_slope=0.3),
        LeakyRelu(0.3),
    ],
    ids=label,
)
def test_slopes(given):
    assert parse(given) == Fused("leaky_relu", 0.3)


INF = float("inf")


@pytest.mark.parametrize(
    "given, expected",
    [
        (keras.layers.ReLU(max_value=5), Fused("relu", 0.2, 5.0)),
        (keras.layers.ReLU(threshold=1.0), Fused("relu", 0.2, INF, 1.0)),
        (keras.layers.ReLU(6, 0.1), Fused("leaky_relu", 0.1, 6.0)),
        (keras.layers.ReLU(4, 0.1, 0.5), Fused("leaky_relu", 0.1, 4.0, 0.5)),
        (("relu", {"max_value": 20}), Fused("relu", 0.2, 20.0)),
        (["relu", {"negative_slope": 0.1, "max_value": None, "threshold": 2}], Fused("leaky_relu", 0.1, INF, 2.0)),
        (("relu", {"max_value": 6}), Fused("relu6")),
        (("elu", 0.5), Fused("elu", 0.5)),
        (keras.layers.ELU(0.5), Fused("elu", 0.5)),
        (functools.partial(keras.activations.elu, alpha=0.5), Fused("elu", 0.5)),
        (functools.partial(keras.activations.relu, max_value=3.0, threshold=1.0), Fused("relu", 0.2, 3.0, 1.0)),
    ],
    ids=label,
)
def test_parameters(given, expected):
    fused = parse(given)
    assert fused == expected
    assert parse(spelled(fused)) == expected  # what a config holds
    assert parse(json.loads(json.dumps(spelled(fused)))) == expected
    assert parse(as_callable(fused)) == expected  # what a layer holds


class OurReLU(keras.layers.ReLU):
    pass


@pytest.mark.parametrize(
    "given",
    [
        "selu",
        "softmax",
        "nonsense",
        lambda x: x,
        tf.nn.selu,
        keras.activations.softmax,
        keras.activations.hard_sigmoid,
        keras.layers.PReLU(),
        OurReLU(),  # a subclass may compute anything
        functools.partial(tf.nn.leaky_relu, features=1),
        functools.partial(lambda x: x),
    ],
    ids=label,
)
def test_unknown(given):
    assert parse(given) is None
    with pytest.raises(ValueError, match=r"`mid` must be None, one of the words none, relu, "):
        require(given, "mid")


@pytest.mark.parametrize("given", [1, 1.5, True, {"a": 1}, b"relu"], ids=label)
def test_wrong_kinds(given):
    with pytest.raises(TypeError, match="`mid`"):
        parse(given, "mid")


@pytest.mark.parametrize(
    "given",
    [("relu", 0.1), ("relu", {"max_value": -1}),
     ("relu", {"slope": 1}), ("relu", {"threshold": INF}), ("leaky_relu",),
     ("elu",), ("elu", "1"), ("mish", 1.0),
     ("leaky_relu", None), ("leaky_relu", "0.1"), ("leaky_relu", True), (), [0.1]],
    ids=label,
)  # fmt: skip
def test_wrong_pairs(given):
    with pytest.raises(ValueError, match="`mid"):
        parse(given, "mid")


def test_the_words_mean_what_keras_means():
    """Stock path and Keras agree on every word, NaN and both infinities included."""
    from tf_dwsconv._tf import stock

    x = tf.constant([-8.0, -3.0, -1.0, -0.0, 0.0, 0.5, 3.0, 5.9, 6.1, 20.0, float("inf"), float("nan")])
    for word in WORDS[1:]:
        approximate = functools.partial(keras.activations.gelu, approximate=True)
        expected = (approximate if word == "gelu_tanh" else keras.activations.get(word))(x)
        # tf.nn.gelu and hard_silu make NaN of what is infinite in stock Keras too: compared as they are.
        tf.debugging.assert_near(
            tf.where(tf.math.is_finite(expected), stock.activate(x, parse(word)), 0.0),
            tf.where(tf.math.is_finite(expected), expected, 0.0),
            rtol=1e-5,
            atol=1e-6,
        )
