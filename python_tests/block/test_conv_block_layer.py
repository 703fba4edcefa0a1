"""`tf_dwsconv.FusedConvBlock`: stages by its arguments, Keras around it, bad arguments."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import label
from convert_support import difference, randomise

import tf_dwsconv

pytestmark = pytest.mark.usefixtures("op_library")

L = keras.layers
rng = np.random.default_rng(0)
X = rng.standard_normal((2, 9, 8, 6)).astype("float32")

FULL = {
    "filters": 6,
    "kernel_size": (3, 5),
    "dilation_rate": (1, 2),
    "depth_multiplier": 2,
    "activation": "gelu",
    "expand_filters": 10,
    "expand_activation": ("leaky_relu", 0.3),
    "depthwise_activation": "hard_swish",
    "epsilon": 1e-3,
    "gated": True,
    "residual": True,
    "name": "full",
}
CASES = [
    {"filters": 4},
    {"filters": 4, "use_bias": False, "activation": "sigmoid"},
    {"filters": 4, "activation": "softmax"},
    {"kernel_size": 3, "strides": 2},
    {"kernel_size": 3, "activation": "elu", "padding": "valid", "depthwise_use_bias": False},
    {"expand_filters": 7, "expand_activation": keras.activations.relu6},
    {"expand_filters": 7, "kernel_size": 3, "padding": ((0, 1), (2, 1)), "strides": (2, 2), "expand_use_bias": False},
    {"filters": 4, "kernel_size": 3, "activation": L.LeakyReLU(negative_slope=0.1)},
    {"filters": 6, "kernel_size": 3, "residual": True, "activation": "tanh"},
    {"filters": 4, "kernel_size": 3, "epsilon": 1e-6},
    {"filters": 4, "gated": True},
    {"filters": 3, "dense_kernel_size": (3, 2), "strides": 2, "dilation_rate": 1, "activation": "silu"},
    {"filters": 6, "dense_kernel_size": 3, "padding": ((2, 0), (1, 1)), "residual": True},
    FULL,
]


def inputs_of(layer, x=X, seed=3):
    """What the layer is to be called with."""
    random = np.random.default_rng(seed)
    channels = {"expand": layer.expand_filters or x.shape[-1]}
    inputs = [x]
    if layer.gated:
        size = channels["expand"] * (layer.depth_multiplier if layer.kernel_size else 1)
        inputs.append(random.random((len(x), 1, 1, size)).astype("float32"))
    if layer.residual:
        inputs.append(random.standard_normal((*x.shape[:3], layer.filters)).astype("float32"))
    if layer.data_format == "channels_first":
        inputs = [np.moveaxis(t, -1, 1) for t in inputs]
    return inputs if len(inputs) > 1 else inputs[0]


def model_of(layer, inputs):
    """A model of the layer alone, with random weights."""
    given = inputs if isinstance(inputs, list) else [inputs]
    symbolic = [keras.Input(t.shape[1:]) for t in given]
    symbolic = symbolic if len(symbolic) > 1 else symbolic[0]
    return randomise(keras.Model(symbolic, layer(symbolic)))


# Softmax is over the last axis, in stock layers too.
LAYOUTS = [
    (options, layout)
    for options in CASES
    for layout in ("channels_last", "channels_first")
    if options.get("activation") != "softmax" or layout == "channels_last"
]


@pytest.mark.parametrize("options, data_format", LAYOUTS, ids=label)
def test_same_as_stock_layers(options, data_format):
    layer = tf_dwsconv.FusedConvBlock(data_format=data_format, **options)
    inputs = inputs_of(layer)
    model = model_of(layer, inputs)
    given = inputs if isinstance(inputs, list) else [inputs]
    assert difference(model, tf_dwsconv.to_builtin(model), given) < 2e-5
    y = layer(inputs)
    shapes = [t.shape for t in given]
    assert tuple(y.shape) == layer.compute_output_shape(shapes if len(shapes) > 1 else shapes[0])
    assert layer.compute_output_spec(model.inputs if len(shapes) > 1 else model.inputs[0]).shape[1:] == y.shape[1:]
    twin = tf_dwsconv.FusedConvBlock.from_config(layer.get_config())
    assert twin.get_config() == layer.get_config()
    twin(inputs)
    assert [(w.name, w.shape) for w in twin.weights] == [(w.name, w.shape) for w in layer.weights]
    twin.set_weights(layer.get_weights())
    np.testing.assert_array_equal(twin(inputs), y)


def test_keras_files_and_registration(tmp_path):
    layer = tf_dwsconv.FusedConvBlock(**FULL)
    inputs = inputs_of(layer)
    model = model_of(layer, inputs)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again(inputs), model(inputs))
    assert keras.saving.get_registered_name(tf_dwsconv.FusedConvBlock) == "tf_dwsconv>FusedConvBlock"
    assert again.get_layer("full").supports_jit is False


@pytest.mark.parametrize("policy, tolerance", [("mixed_bfloat16", 0.04), ("float16", 0.006), ("float64", 1e-6)])
def test_dtype_policies(policy, tolerance):
    layer = tf_dwsconv.FusedConvBlock(**{**FULL, "dtype": policy})
    inputs = inputs_of(layer)
    y = layer(inputs)
    assert y.dtype == keras.DTypePolicy(policy).compute_dtype
    assert {w.dtype for w in layer.weights} == {keras.DTypePolicy(policy).variable_dtype}
    exact = tf_dwsconv.FusedConvBlock(**{**FULL, "dtype": "float64"})
    exact(inputs)
    exact.set_weights([np.asarray(keras.ops.cast(w, "float64")) for w in layer.weights])
    expected = np.asarray(exact(inputs))
    assert np.abs(np.asarray(keras.ops.cast(y, "float64")) - expected).max() < tolerance * np.abs(expected).max()


def test_it_trains():
    layer = tf_dwsconv.FusedConvBlock(**FULL)
    inputs = inputs_of(layer)
    model = model_of(layer, inputs)
    model.compile("sgd", "mse")
    target = np.zeros(layer(inputs).shape, "float32")
    losses = model.fit(inputs, target, epochs=4, verbose=0).history["loss"]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize(
    "options",
    [
        {"filters": 5, "activation": "softmax", "name": "head"},
        {"filters": 7, "expand_filters": 12, "expand_activation": "gelu", "epsilon": 1e-3},
        {"filters": 6, "gated": True, "residual": True, "activation": "relu", "use_bias": False},
        {"expand_filters": 9, "expand_activation": ("leaky_relu", 0.3)},
    ],
    ids=label,
)
def test_rows_are_pictures_of_one_pixel(options, data_format):
    if options.get("activation") == "softmax" and data_format == "channels_first":
        pytest.skip("softmax is over the last axis")
    layer = tf_dwsconv.FusedConvBlock(data_format=data_format, **options)
    rng = np.random.default_rng(0)
    inputs = [rng.standard_normal((3, 6)).astype("float32") for _ in layer._inputs]
    model = model_of(layer, inputs if len(inputs) > 1 else inputs[0])
    y = model(inputs if len(inputs) > 1 else inputs[0])
    assert tuple(y.shape) == (3, layer.filters or layer.expand_filters) == layer.compute_output_shape(
        [t.shape for t in inputs] if len(inputs) > 1 else inputs[0].shape)  # fmt: skip
    pixels = [t[:, None, None] if data_format == "channels_last" else t[:, :, None, None] for t in inputs]
    twin = tf_dwsconv.FusedConvBlock.from_config(layer.get_config())
    twin(pixels if len(pixels) > 1 else pixels[0])
    twin.set_weights(layer.get_weights())
    np.testing.assert_array_equal(np.reshape(twin(pixels if len(pixels) > 1 else pixels[0]), y.shape), y)
    builtin = tf_dwsconv.to_builtin(model)
    assert difference(model, builtin, inputs) < 2e-5
    assert not any(isinstance(part, keras.layers.Conv2D) for part in builtin.layers)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model(inputs if len(inputs) > 1 else inputs[0]) ** 2)
    assert all(g is not None for g in tape.gradient(loss, model.trainable_variables))


def test_a_gate_as_a_matrix():
    layer = tf_dwsconv.FusedConvBlock(4, gated=True)
    x, gate = inputs_of(layer)
    np.testing.assert_array_equal(layer([x, gate[:, 0, 0]]), layer([x, gate]))
    model = model_of(layer, [x, gate[:, 0, 0]])
    assert difference(model, tf_dwsconv.to_builtin(model), [x, gate[:, 0, 0]]) < 1e-5


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({}, ValueError, "one of `filters`, `kernel_size` and `expand_filters` must be given"),
        ({"filters": 0}, ValueError, "`filters` must be between 1"),
        ({"filters": 2.5}, TypeError, "`filters` must hold integers"),
        ({"filters": 4, "strides": 2}, ValueError, "`strides` belongs to the depthwise convolution"),
        ({"filters": 4, "padding": ((1, 1), (1, 1))}, ValueError, "`padding` belongs to the depthwise"),
        ({"filters": 4, "depthwise_activation": "relu"}, ValueError, "`depthwise_activation` belongs"),
        ({"filters": 4, "expand_activation": "relu"}, ValueError, "`expand_activation` belongs to the expansion"),
        ({"kernel_size": (3, 3, 3)}, ValueError, "`kernel_size` must be an integer or a pair"),
        ({"kernel_size": 3, "padding": "causal"}, ValueError, "`padding` must be 'same', 'valid' or two pairs"),
        ({"kernel_size": 3, "padding": ((1, 1),)}, ValueError, "`padding` must be 'same', 'valid' or two pairs"),
        ({"kernel_size": 3, "padding": ((1, -1), (1, 1))}, ValueError, "`padding` must hold numbers between 0"),
        ({"kernel_size": 3, "depthwise_activation": "selu"}, ValueError, "`depthwise_activation` must be None"),
        ({"filters": 4, "kernel_size": 3, "dense_kernel_size": 3}, ValueError, "given not with `kernel_size`"),
        ({"kernel_size": 3, "dense_kernel_size": 3}, ValueError, "`dense_kernel_size` must be given not with"),
        ({"expand_filters": 3, "dense_kernel_size": 3}, ValueError, "given not with `expand_filters`"),
        ({"dense_kernel_size": 3, "expand_filters": None}, ValueError, "one of `filters`"),
        ({"filters": 4, "activation": 3}, TypeError, "`activation` must be"),
        ({"filters": 4, "epsilon": 0}, ValueError, "`epsilon` must be a positive number"),
        ({"filters": 4, "data_format": "NHWC"}, ValueError, "`data_format` must be 'channels_last' or"),
    ],
    ids=label,
)
def test_bad_arguments(options, error, message):
    with pytest.raises(error, match=message):
        tf_dwsconv.FusedConvBlock(**options)


def test_bad_inputs():
    with pytest.raises(ValueError, match=r"`inputs` must be a list of 2 tensors, \['x', 'residual'\]; given 1"):
        tf_dwsconv.FusedConvBlock(4, residual=True)(X)
    with pytest.raises(ValueError, match="`residual` must have the shape of the output"):
        tf_dwsconv.FusedConvBlock(4, residual=True)([X, X])
    with pytest.raises(ValueError, match=r"`scale` must have shape .* `gate`"):
        tf_dwsconv.FusedConvBlock(4, gated=True)([X, np.ones((2, 5), "float32")])
    with pytest.raises(ValueError, match="`inputs` must have rank 4"):
        tf_dwsconv.FusedConvBlock(4)(X[0])
    with pytest.raises(ValueError, match=r"larger than the padded|spans"):
        tf_dwsconv.FusedConvBlock(kernel_size=11, padding="valid")(X)
    with pytest.raises(ValueError, match="the channels of `inputs` must be known"):
        tf_dwsconv.FusedConvBlock(4)(keras.Input((8, 8, None)))
