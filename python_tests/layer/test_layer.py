"""The Keras layer: everything that works with keras.layers.SeparableConv2D works with ours, with the same numbers."""

from __future__ import annotations

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import check_python, label, op_calls
from layer_support import X, close

import tf_dwsconv
from tf_dwsconv import activations
from tf_dwsconv._arguments import Tensors
from tf_dwsconv._tf import dispatch
from tf_dwsconv._tf import library as _library

pytestmark = pytest.mark.usefixtures("op_library")

FULL = {
    "filters": 9,
    "kernel_size": (3, 5),
    "strides": (2, 1),
    "padding": "same",
    "dilation_rate": (1, 2),
    "depth_multiplier": 2,
    "activation": "gelu",
    "bias_initializer": "random_normal",
    "depthwise_regularizer": "l2",
    "pointwise_constraint": "max_norm",
    "depthwise_use_bias": True,
    "depthwise_bias_initializer": "random_normal",
    "depthwise_bias_regularizer": "l1",
    "depthwise_bias_constraint": "non_neg",
    "depthwise_activation": "relu6",
    "name": "full",
}


def stock_twin(layer):
    """keras.layers.SeparableConv2D with the same arguments and weights."""
    config = {k: v for k, v in layer.get_config().items() if not k.startswith("depthwise_bias")}
    config.pop("depthwise_use_bias")
    config.pop("depthwise_activation")
    twin = keras.layers.SeparableConv2D.from_config(config)
    twin.build((None, *X.shape[1:]))
    twin.set_weights(layer.get_weights())
    return twin


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"padding": "same", "strides": 2},
        {"padding": "same", "activation": "relu", "use_bias": False},
        {"activation": "softmax"},
        {"activation": "sigmoid", "depth_multiplier": 3},
        {"dilation_rate": 2, "padding": "same", "activation": "tanh"},
        {"activation": keras.layers.ReLU(max_value=6)},
        {"activation": keras.layers.LeakyReLU(negative_slope=0.3)},
        {"activation": keras.layers.PReLU(alpha_initializer="ones")},
        {"activation": lambda x: x * 2},
        {"data_format": "channels_first", "padding": "same", "activation": "swish"},
    ],
    ids=label,
)
def test_same_as_stock(arguments):
    layer = tf_dwsconv.DepthwiseSepConv2D(7, 3, bias_initializer="random_normal", **arguments)
    x = X if arguments.get("data_format") != "channels_first" else X.transpose(0, 3, 1, 2)
    y = layer(x)
    stock = keras.layers.SeparableConv2D(7, 3, **arguments)
    stock.build(x.shape)
    names = [weight.name for weight in stock.weights]
    assert [weight.name for weight in layer.weights[: len(names)]] == names
    stock.set_weights(layer.get_weights()[: len(stock.weights)])
    close(y, stock(x))
    assert tuple(y.shape) == layer.compute_output_shape(x.shape) == stock.compute_output_shape(x.shape)
    assert isinstance(layer, keras.layers.SeparableConv2D)


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize(
    "arguments",
    [
        {"padding": ((1, 1), (1, 1)), "activation": "relu"},
        {"padding": [[2, 0], [1, 3]], "strides": 2, "depthwise_use_bias": True, "depthwise_activation": "relu6"},
        {"padding": ((0, 4), (5, 0)), "strides": (1, 2), "dilation_rate": 2, "activation": ("leaky_relu", 0.3)},
        {"padding": ((0, 0), (0, 0)), "activation": "softmax"},
    ],
    ids=label,
)
def test_explicit_padding(arguments, data_format, tmp_path):
    """As the same layer without padding, on an input with zeros around it; in files, symbolic, and as stock layers."""
    x = X if data_format == "channels_last" else X.transpose(0, 3, 1, 2)
    options = {"data_format": data_format, "bias_initializer": "random_normal", **arguments}
    layer = tf_dwsconv.DepthwiseSepConv2D(10, 3, name="conv", **options)
    inputs = keras.Input(x.shape[1:])
    model = keras.Model(inputs, layer(inputs))
    y = model(x)
    pads = [(0, 0), *arguments["padding"], (0, 0)]
    padded = np.pad(x, pads if data_format == "channels_last" else [pads[i] for i in (0, 3, 1, 2)])
    without = tf_dwsconv.DepthwiseSepConv2D(10, 3, **{**options, "padding": "valid"})
    without.build(padded.shape)
    without.set_weights(layer.get_weights())
    close(y, without(padded))
    assert tuple(y.shape) == layer.compute_output_shape(x.shape) and y.shape[1:] == model.output.shape[1:]
    assert layer.compute_output_shape((None, *x.shape[1:])) == model.output.shape

    twin = tf_dwsconv.DepthwiseSepConv2D.from_config(layer.get_config())
    assert twin.padding == layer.padding == tuple(map(tuple, arguments["padding"]))
    model.save(tmp_path / "model.keras")
    close(keras.models.load_model(tmp_path / "model.keras")(x), y, 0)
    model.export(tmp_path / "served", verbose=False)
    served = tf.saved_model.load(tmp_path / "served")
    close(served.serve(x), y)
    assert tf_dwsconv.convert(model).get_layer("conv").padding == layer.padding
    close(tf_dwsconv.convert(model)(x), y)
    close(tf_dwsconv.convert(model, training=True)(x), y)
    if arguments.get("dilation_rate", 1) == 1 and arguments.get("strides", 1) in (1, 2):  # that stock layers have
        stock = tf_dwsconv.to_builtin(model)
        assert not any(isinstance(part, tf_dwsconv.DepthwiseSepConv2D) for part in stock.layers)
        close(stock(x), y)


def test_it_is_the_fused_kernel_that_runs():
    layer = tf_dwsconv.DepthwiseSepConv2D(7, 3, activation="relu")
    layer(X)
    before = sum(op_calls().values())
    layer(X)
    assert sum(op_calls().values()) == before + 1


def test_everything_together_against_stock_layers():
    layer = tf_dwsconv.DepthwiseSepConv2D(**FULL)
    y = layer(X)
    z = keras.layers.DepthwiseConv2D((3, 5), padding="valid", dilation_rate=(1, 2), depth_multiplier=2, use_bias=True)
    padded = np.pad(X, ((0, 0), (0, 1), (4, 4), (0, 0)))
    z.build(padded.shape)
    depthwise, pointwise, bias, depthwise_bias = layer.get_weights()
    z.set_weights([depthwise, depthwise_bias])
    between = keras.activations.relu6(z(padded)[:, ::2])
    close(y, keras.activations.gelu(tf.tensordot(between, pointwise[0, 0], 1) + bias, approximate=False))
    assert len(layer.losses) == 2


def test_config_round_trip():
    layer = tf_dwsconv.DepthwiseSepConv2D(**FULL)
    layer(X)
    twin = tf_dwsconv.DepthwiseSepConv2D.from_config(layer.get_config())
    assert twin.get_config() == layer.get_config()
    twin(X)
    assert [(w.name, w.shape) for w in twin.weights] == [(w.name, w.shape) for w in layer.weights]
    twin.set_weights(layer.get_weights())
    close(twin(X), layer(X), 0)
    again = keras.layers.deserialize(keras.layers.serialize(layer))
    assert type(again) is tf_dwsconv.DepthwiseSepConv2D
    assert keras.saving.get_registered_name(type(layer)) == "tf_dwsconv>DepthwiseSepConv2D"


@pytest.mark.parametrize(
    "activation",
    [("leaky_relu", 0.3), "none", "hard_silu", functools.partial(tf.nn.leaky_relu, alpha=0.3)],
    ids=["pair", "none", "alias", "partial"],
)
def test_more_ways_to_name_an_activation(activation):
    layer = tf_dwsconv.DepthwiseSepConv2D(5, 3, activation=activation, depthwise_activation=activation)
    y = layer(X)
    fused = activations.parse(activation)
    depthwise, pointwise, _ = layer.get_weights()
    expected = (
        tf_dwsconv.depthwise_sep_conv2d(
            X, depthwise, pointwise, padding="VALID", activation=fused, depthwise_activation=fused
        )
        if fused.word == "leaky_relu"
        else tf_dwsconv.depthwise_sep_conv2d(
            X, depthwise, pointwise, padding="VALID", activation=fused.word, depthwise_activation=fused.word
        )
    )
    close(y, expected)
    if not isinstance(activation, functools.partial):
        twin = tf_dwsconv.DepthwiseSepConv2D.from_config(layer.get_config())
        twin(X)
        twin.set_weights(layer.get_weights())
        close(twin(X), y, 0)


def test_unknown_activation_between_the_halves_warns_and_is_right():
    _library._warned.discard("depthwise_activation")
    layer = tf_dwsconv.DepthwiseSepConv2D(5, 3, depthwise_activation="softplus", depthwise_use_bias=True)
    with pytest.warns(_library.StockOpsWarning, match="depthwise_activation"):
        y = layer(X)
    depthwise, pointwise, _, _ = layer.get_weights()
    z = tf.nn.softplus(tf.nn.depthwise_conv2d(X, depthwise, [1, 1, 1, 1], "VALID"))
    close(y, tf.tensordot(z, pointwise[0, 0], 1))


def test_settings_changed_later_take_effect():
    layer = tf_dwsconv.DepthwiseSepConv2D(5, 3, padding="same", activation="relu")
    close(layer(X), stock_twin(layer)(X))
    layer.activation = keras.activations.tanh
    close(layer(X), stock_twin(layer)(X))
    layer.strides = (2, 2)
    close(layer(X), stock_twin(layer)(X))


def test_sigmoid_at_the_end_keeps_crossentropy_exact():
    """A saturated output: from the probability alone the loss would be clipped at 16."""
    x = np.full((1, 1, 1, 2), 40.0, np.float32)
    losses = []
    for kind in (tf_dwsconv.DepthwiseSepConv2D, keras.layers.SeparableConv2D):
        layer = kind(1, 1, activation="sigmoid", depthwise_initializer="ones", pointwise_initializer="ones")
        losses.append(float(keras.losses.BinaryCrossentropy()(np.zeros((1, 1, 1, 1)), layer(x))))
    assert losses[0] == pytest.approx(losses[1]) and losses[0] == pytest.approx(80.0)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16", "bfloat16", "float16", "float64"])
def test_dtype_policies(policy):
    ours = tf_dwsconv.DepthwiseSepConv2D(7, 3, activation="relu", dtype=policy)
    y = ours(X)
    compute = keras.DTypePolicy(policy).compute_dtype
    assert y.dtype == compute
    assert all(weight.dtype == keras.DTypePolicy(policy).variable_dtype for weight in ours.weights)
    exact = keras.layers.SeparableConv2D(7, 3, activation="relu", dtype="float64")
    exact.build(X.shape)
    exact.set_weights([w.numpy().astype("float64") for w in ours.weights])
    tolerance = {"bfloat16": 0.02, "float16": 0.003, "float64": 1e-6}[compute]
    close(tf.cast(y, tf.float64), exact(X), tolerance)


@pytest.mark.parametrize("graph", [False, True])
def test_new_weights_are_seen_by_the_next_call(graph):
    """Every way to change a weight, each after enough calls that the kernel keeps packed filters."""
    layer = tf_dwsconv.DepthwiseSepConv2D(16, 3, padding="same", depthwise_use_bias=True)
    x = tf.constant(X)
    layer(x)
    function = tf.function(layer) if graph else layer
    optimizer = keras.optimizers.SGD(0.5)
    optimizer.build(layer.trainable_variables)
    rng = np.random.default_rng(0)

    def random_weights():
        return [rng.standard_normal(w.shape).astype(np.float32) for w in layer.weights]

    def scatter():
        layer.pointwise_kernel.value.scatter_nd_update([[0, 0, 1]], rng.standard_normal((1, 16)).astype("float32"))

    changes = [
        lambda: layer.set_weights(random_weights()),
        lambda: layer.pointwise_kernel.assign(random_weights()[1]),
        lambda: layer.depthwise_kernel.assign_add(random_weights()[0]),
        lambda: layer.bias.value.assign_sub(random_weights()[2]),
        lambda: layer.depthwise_bias.assign(random_weights()[3]),
        lambda: optimizer.apply([tf.constant(w) for w in random_weights()], layer.trainable_variables),
        scatter,
    ]
    for change in changes * 3:
        for _ in range(4):
            function(x)
        old = function(x).numpy()
        change()
        weights = layer.get_weights()
        names = ("depthwise_filter", "pointwise_filter", "bias", "depthwise_bias")
        with_stock = dispatch.run_stock(x, Tensors(**dict(zip(names, weights))), layer._arguments.attributes)
        close(function(x), with_stock)
        assert np.abs(function(x).numpy() - old).max() > 0


def test_other_backends_are_refused():
    program = """
import sys, types
import keras
keras.config.backend = lambda: "jax"
import tf_dwsconv
try:
    tf_dwsconv.DepthwiseSepConv2D(3, 3)
except ValueError as error:
    assert "KERAS_BACKEND=tensorflow" in str(error) and "'jax'" in str(error), error
    print("refused")
"""
    assert "refused" in check_python(program)


@pytest.mark.parametrize(
    "arguments, error",
    [
        ({"filters": 0}, ValueError),
        ({"kernel_size": 0}, ValueError),
        ({"strides": 0}, ValueError),
        ({"padding": "full"}, ValueError),
        ({"padding": 3}, ValueError),
        ({"padding": ((1, 1),)}, ValueError),
        ({"padding": ((1, -1), (0, 0))}, ValueError),
        ({"padding": ((1, 0.5), (0, 0))}, TypeError),
        ({"data_format": "NHWC"}, ValueError),
        ({"depth_multiplier": 0}, ValueError),
        ({"activation": "nonsense"}, ValueError),
        ({"depthwise_activation": "nonsense"}, ValueError),
        ({"activation": ("relu", 1)}, ValueError),
        ({"activation": ("leaky_relu", float("nan"))}, ValueError),
        ({"activation": 3}, TypeError),
        ({"nonsense": 3}, (TypeError, ValueError)),
    ],
    ids=label,
)
def test_wrong_arguments(arguments, error):
    with pytest.raises(error):
        tf_dwsconv.DepthwiseSepConv2D(**{"filters": 3, "kernel_size": 3, **arguments})


@pytest.mark.parametrize("shape", [(2, 8, 6), (2, 1, 8, 8, 6), (2, 8, 8, 5), (2, 2, 2, 6)], ids=label)
def test_wrong_inputs(shape):
    layer = tf_dwsconv.DepthwiseSepConv2D(3, 3)
    layer(X)
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError)):
        layer(np.ones(shape, np.float32))
    with pytest.raises((ValueError, TypeError)):
        layer(np.ones((2, 8, 8, 6), np.int32))
