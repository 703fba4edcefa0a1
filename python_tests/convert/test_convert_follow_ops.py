"""What layers of users' own classes compute themselves: by ops, TensorFlow's functions, and weights of their own."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from convert_support import check, check_network, difference, functional, pictures
from follow_support import one_program

import tf_dwsconv

pytestmark = pytest.mark.usefixtures("op_library")

L = keras.layers
ops = keras.ops


class OfTensorFlow(L.Layer):
    """TensorFlow's functions, as code from before Keras 3 has them."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.a, self.b = L.Conv2D(8, 3, padding="same"), L.DepthwiseConv2D(3, padding="same")

    def call(self, x):
        x = tf.nn.relu(self.a(tf.cast(x, self.compute_dtype)))
        left, right = tf.split(x, 2, axis=-1)
        y = tf.concat([tf.nn.silu(left), tf.math.sigmoid(right)], axis=-1)
        y = tf.nn.swish(self.b(tf.pad(y, [[0, 0], [1, 1], [0, 0], [0, 0]])[:, 1:-1]))
        gate = tf.reshape(tf.reduce_mean(y, axis=[1, 2]), [tf.shape(y)[0], 1, 1, 8])
        y = tf.multiply(y, tf.clip_by_value(gate + 0.5, 0.0, 1.0))
        y = tf.add_n([y, tf.nn.max_pool2d(x, 3, 1, "SAME"), tf.nn.avg_pool2d(x, [1, 3, 3, 1], [1, 1, 1, 1], "SAME")])
        return tf.image.resize(tf.nn.relu6(y), (tf.shape(y)[1] * 2, tf.shape(y)[2] * 2))


def test_functions_of_tensorflow():
    model = functional(lambda x: OfTensorFlow(name="t")(x), (8, 8, 3))
    check(model)
    one_program(model)
    with pytest.raises(ValueError, match="A KerasTensor cannot be used"):
        tf.nn.relu(keras.Input((4,)))
    with pytest.raises(Exception, match=r"KerasTensor|as_list"):
        keras.Variable(1.0) + keras.Input((4,))


class Standardized(L.Conv2D):
    """Weight standardization, as of BiT and NFNet, and padding of its own."""

    def call(self, x):
        mean, variance = ops.moments(self.kernel, axes=[0, 1, 2], keepdims=True)
        kernel = (self.kernel - mean) / ops.sqrt(variance + 1e-6)
        x = ops.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]])
        return ops.conv(x, kernel, self.strides, "valid", self.data_format) + self.bias

    def compute_output_spec(self, x):
        return keras.KerasTensor((x.shape[0], *x.shape[1:3], self.filters), self.compute_dtype)


class SamePadded(L.DepthwiseConv2D):
    def call(self, x):
        return super().call(ops.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]]))

    def compute_output_spec(self, x):
        return keras.KerasTensor(x.shape, self.compute_dtype)


class OfFilters(L.Layer):
    def build(self, shape):
        self.a = self.add_weight(name="depthwise_filter", shape=(3, 3, shape[-1], 2))
        self.b = self.add_weight(name="pointwise_filter", shape=(1, 1, 2 * shape[-1], 5))

    def call(self, x):
        y = ops.separable_conv(x, self.a, self.b, padding="same")
        z = tf.nn.conv2d(tf.nn.depthwise_conv2d(x, self.a, [1, 1, 1, 1], "SAME"), self.b, 1, "VALID")
        return y + z


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("make", [
    lambda x: Standardized(6, 3, name="own")(x),
    lambda x: SamePadded(3, name="own")(x),
    lambda x: OfFilters(name="own")(x),
], ids=["standardized", "padded", "filters"])  # fmt: skip
def test_convolutions_by_filters_that_a_call_computes(make, policy):
    keras.config.set_dtype_policy(policy)
    try:
        model = functional(lambda x: L.ReLU()(L.BatchNormalization()(make(L.ReLU()(x)))), (8, 8, 4))
    finally:
        keras.config.set_dtype_policy("float32")
    one_program(model)
    check(model, tolerance=1e-5 if policy == "float32" else 2e-2)


class Scaled(L.Layer):
    """Weights of its own, on either side."""

    def __init__(self, left, **kwargs):
        super().__init__(**kwargs)
        self.left, self.convolution = left, L.Conv2D(6, 1, dtype=self.dtype_policy)

    def build(self, shape):
        self.convolution.build(shape)
        self.gamma = self.add_weight(name="gamma", shape=(6,), initializer="ones")
        self.shift = self.add_weight(name="shift", shape=(), initializer="zeros")

    def call(self, x):
        y = self.convolution(x)
        return self.shift + self.gamma * y if self.left else y * self.gamma - (self.shift - 1.0) * 0.5


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_weights_of_its_own_become_numbers_in_inference_alone(left, policy):
    keras.config.set_dtype_policy(policy)
    try:
        model = functional(lambda x: L.MaxPooling2D()(Scaled(left, name="scaled")(L.DepthwiseConv2D(3)(x))), (8, 8, 4))
    finally:
        keras.config.set_dtype_policy("float32")
    one_program(model)
    tolerance = 1e-5 if policy == "float32" else 2e-2
    blocks = check(model, tolerance=tolerance)
    assert isinstance(blocks.get_layer("scaled"), Scaled)


def test_what_is_summed_outside_layers_is_summed_in_the_layers_dtype():
    class Sums(L.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.convolution = L.DepthwiseConv2D(3, padding="same", dtype=self.dtype_policy)

        def call(self, x):
            return self.convolution(x) + x

    model = functional(lambda x: Sums(dtype="mixed_float16", name="sums")(x), (8, 8, 4))
    for converted in (tf_dwsconv.convert(model), tf_dwsconv.convert(model, fuse="blocks")):
        assert converted.output.dtype == "float16"
        assert difference(converted, model, pictures(model)) < 5e-3


class Own(L.Layer):
    """Computes `function` of itself and what a depthwise convolution gives."""

    def __init__(self, function, **kwargs):
        super().__init__(**kwargs)
        self.function, self.inner = function, L.DepthwiseConv2D(3, padding="same")
        self.other = L.BatchNormalization()

    def build(self, shape):
        self.inner.build(shape)
        self.other.build(shape)
        self.built = True

    def call(self, x):
        return self.function(self, self.inner(x))


@pytest.mark.parametrize("function", [
    lambda s, y: s.other.gamma - y,
    lambda s, y: s.other.gamma / (y * y + 1.0),
    lambda s, y: tf.concat(tf.split(y, [1, -1, 1], axis=-1)[::-1], -1),
], ids=["subtract", "divide", "split"])  # fmt: skip
def test_what_is_not_the_same_from_the_other_side(function):
    model = functional(lambda x: L.MaxPooling2D()(Own(function, name="own")(x)), (8, 8, 4))
    converted = check_network(model, pictures(model))
    assert not any(isinstance(layer, Own) for layer in converted.layers)


@pytest.mark.parametrize("function", [tf.stop_gradient, ops.stop_gradient], ids=["tensorflow", "keras"])
def test_where_gradients_stop(function):
    model = functional(lambda x: L.Conv2D(3, 1, name="c")(Own(lambda _, y: function(y), name="own")(x)), (8, 8, 4))
    check(model, ["depthwise + 1x1"])
    exact = tf_dwsconv.convert(model, training=True)
    assert not isinstance(exact.layers[1], Own)
    with tf.GradientTape() as tape:
        y = exact(pictures(model)[0], training=True)
    kernel = next(v for v in exact.trainable_variables if v.shape == (3, 3, 4, 1))
    assert tape.gradient(y, kernel.value) is None


def test_padding_by_the_lowest_number_in_front_of_maxima():
    def padded(y):
        return ops.pad(y, [[0, 0], [1, 1], [1, 1], [0, 0]], constant_values=-np.inf)

    def pooled(_, y):
        return L.MaxPooling2D(3, 2)(padded(y))

    model = functional(lambda x: L.Conv2D(3, 1)(Own(pooled, name="own")(L.ReLU()(x))), (9, 9, 4))
    one_program(model)
    check(model)
    other = functional(lambda x: L.Conv2D(3, 1)(ops.exp(padded(L.DepthwiseConv2D(3)(x)))), (9, 9, 4))
    names = {type(operation).__name__ for operation in tf_dwsconv.convert(other).operations}
    assert "Pad" in names and difference(tf_dwsconv.convert(other), other, pictures(other)) < 1e-5


def test_functions_of_tensorflow_have_channels_last_always():
    def resized(_, y):
        return tf.image.resize(y, (12, 10))

    def own(x):
        layer = Own(resized, name="own")
        layer.inner = L.DepthwiseConv2D(3, padding="same", data_format="channels_last")
        return layer(x)

    keras.config.set_image_data_format("channels_first")
    try:
        model = functional(lambda x: L.ReLU()(own(x)), (8, 8, 4))
        assert difference(tf_dwsconv.convert(model, fuse="blocks"), model, pictures(model)) < 1e-5
        assert not any(isinstance(layer, Own) for layer in tf_dwsconv.convert(model).layers)
    finally:
        keras.config.set_image_data_format("channels_last")


@pytest.mark.parametrize("shape", [(6,), (1, 1, 6), (1, 1, 1, 6), (), (1, 8, 1), (8, 8, 6)])
def test_arrays_along_any_axes(shape):
    """Channels are what they scale only along the last axis."""
    array = np.random.default_rng(3).standard_normal(shape).astype("float32")
    model = functional(lambda x: L.Conv2D(3, 1)(L.DepthwiseConv2D(3, padding="same")(x) * array), (8, 8, 6))
    check(model)
