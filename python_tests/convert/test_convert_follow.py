"""Layers and models of users' own classes: what their `call` calls takes their place."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from convert_support import check, difference, found, functional, pictures, randomise, reasons

import tf_dwsconv
from tf_dwsconv import FusedConvBlock, FusedNetwork

pytestmark = pytest.mark.usefixtures("op_library")

L = keras.layers
ops = keras.ops


class ConvNormAct(L.Layer):
    """Has no `get_config` that Keras could use: it takes a layer."""

    def __init__(self, convolution, activation=None, **kwargs):
        super().__init__(**kwargs)
        self.convolution, self.norm, self.activation = convolution, L.BatchNormalization(), activation

    def call(self, x, training=None):
        x = self.norm(self.convolution(x), training=training)
        return x if self.activation is None else self.activation(x)

    def compute_output_shape(self, shape):
        return self.convolution.compute_output_shape(shape)


class SqueezeExcite(L.Layer):
    def __init__(self, channels, **kwargs):
        super().__init__(**kwargs)
        self.reduce, self.expand = L.Dense(4, activation="relu"), L.Dense(channels, activation="sigmoid")

    def call(self, x):
        gate = self.expand(self.reduce(ops.mean(x, axis=[1, 2], keepdims=True)))
        return x * gate


class InvertedResidual(L.Layer):
    """Layers in layers, a branch that Python decides, and a Sequential."""

    def __init__(self, filters, expansion=3, stride=1, excite=False, **kwargs):
        super().__init__(**kwargs)
        self.filters, self.expansion, self.stride, self.excite = filters, expansion, stride, excite

    def build(self, shape):
        inner = shape[-1] * self.expansion
        self.expand = ConvNormAct(L.Conv2D(inner, 1, use_bias=False), ops.relu6)
        depthwise = L.DepthwiseConv2D(3, self.stride, padding="same", use_bias=False)
        self.depthwise = keras.Sequential([depthwise, L.BatchNormalization(), L.ReLU(6.0)])
        self.gate = SqueezeExcite(inner) if self.excite else None
        self.project = ConvNormAct(L.Conv2D(self.filters, 1, use_bias=False))
        self.is_residual = self.stride == 1 and shape[-1] == self.filters
        super().build(shape)

    def call(self, x, training=False):
        y = self.depthwise(self.expand(x, training=training), training=training)
        y = y if self.gate is None else self.gate(y)
        y = self.project(y, training=training)
        return x + y if self.is_residual else y


def one_program(model):
    """The only layer of a converted model."""
    converted = tf_dwsconv.convert(model)
    layers = [layer for layer in converted.layers if not isinstance(layer, L.InputLayer)]
    assert [type(layer) for layer in layers] == [FusedNetwork]
    return converted


def test_blocks_of_a_users_classes_are_as_those_of_layers():
    def make(x):
        x = ConvNormAct(L.Conv2D(8, 3, 2, padding="same"), ops.silu, name="stem")(x)
        x = InvertedResidual(8, name="first")(x)
        x = InvertedResidual(12, stride=2, name="second")(x)
        return InvertedResidual(12, excite=True, name="third")(x)

    model = functional(make, (32, 32, 3))
    fused = check(model, [
        "convolution", "expand + depthwise + 1x1 + residual", "expand + depthwise + 1x1", "expand + depthwise",
        "1x1", "1x1", "gate + 1x1 + residual",
    ])  # fmt: skip
    assert {"stem", "first", "second", "third"} <= {layer.name for layer in fused.layers}
    followed = {row.layers[0] for row in tf_dwsconv.convert.report(fused) if "takes its place" in row.reason}
    assert {"stem", "first", "second", "third"} <= followed
    converted = one_program(model)
    assert difference(converted, model, pictures(model)) < 1e-5


def test_a_sequential_model_of_them_becomes_functional(tmp_path):
    model = keras.Sequential([
        keras.Input((16, 16, 3), name="image"), ConvNormAct(L.Conv2D(8, 3), ops.relu, name="stem"),
        InvertedResidual(8, name="body"), L.GlobalAveragePooling2D(), L.Dense(5, name="logits"),
    ], name="net")  # fmt: skip
    fused = check(randomise(model))
    assert isinstance(fused.get_layer("body"), FusedConvBlock)
    converted = one_program(model)
    converted.save(tmp_path / "net.keras")
    x = pictures(model)[0]
    np.testing.assert_array_equal(keras.saving.load_model(tmp_path / "net.keras")(x), converted(x))


class Net(keras.Model):
    """A model with a `call` of its own, a nested structure of results, and a `train_step`."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.stem = ConvNormAct(L.Conv2D(8, 3, 2, padding="same"), ops.relu)
        self.stages = [InvertedResidual(8), InvertedResidual(12, stride=2)]
        self.pool, self.head = L.GlobalAveragePooling2D(), L.Dense(5)

    def call(self, x, training=None):
        x = self.stem(x, training=training)
        for stage in self.stages:
            x = stage(x, training=training)
        return {"features": x, "logits": self.head(self.pool(x))}

    def train_step(self, data):
        return {"loss": 0.0}


@pytest.fixture
def net():
    model = Net(name="net")
    model(np.zeros((2, 24, 24, 3), "float32"))
    return randomise(model)


def test_a_subclassed_model(net):
    x = np.random.default_rng(0).standard_normal((3, 24, 24, 3)).astype("float32")
    expected = net(x, training=False)
    before = [len(layer._inbound_nodes) for layer in net._flatten_layers()]
    for fuse in ("network", "blocks"):
        converted = tf_dwsconv.convert(net, fuse=fuse)
        result = converted(x)
        assert set(result) == set(expected) and converted.name == "net"
        for key, value in expected.items():
            np.testing.assert_allclose(result[key], value, rtol=1e-4, atol=1e-5)
        assert any("without its train_step: Net" in reason for reason in reasons(converted))
        assert not {id(v) for v in net.variables} & {id(v) for v in converted.variables}
    assert any(isinstance(layer, FusedNetwork) for layer in tf_dwsconv.convert(net).layers)
    assert before == [len(layer._inbound_nodes) for layer in net._flatten_layers()]


def test_a_subclassed_model_in_a_functional_one(net):
    model = functional(lambda x: L.Dense(3, name="end")(net(x)["logits"]), (24, 24, 3))
    check(model)
    one_program(model)


def test_a_graph_with_a_call_of_its_own():
    class OwnCall(keras.Model):
        def __init__(self, **kwargs):
            x = keras.Input((8, 8, 4))
            super().__init__(inputs=x, outputs=ConvNormAct(L.Conv2D(5, 3, name="conv"), ops.relu)(x), **kwargs)

        def call(self, x, training=None, mask=None):
            return super().call(x, training=training) * 2

    model = randomise(OwnCall(name="own"))
    x = pictures(model)
    for fuse in ("network", "blocks"):
        assert difference(tf_dwsconv.convert(model, fuse=fuse), model, x) < 1e-5
    check(functional(lambda x: OwnCall(name="own")(x), (8, 8, 4)))


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


class Aux(L.Layer):
    """Does something else in training."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inner = L.DepthwiseConv2D(3, padding="same", activation="relu")

    def call(self, x, training=False):
        y = self.inner(x)
        return y + 0.1 * x if training else y


def test_what_differs_in_training_stays_where_the_model_goes_on_training():
    model = functional(lambda x: L.Conv2D(5, 1, name="end")(Aux(name="aux")(x)), (8, 8, 4))
    assert isinstance(tf_dwsconv.convert(model, fuse="blocks").get_layer("aux"), Aux)
    assert isinstance(tf_dwsconv.convert(model, training=True).get_layer("aux"), Aux)
    assert not any(isinstance(layer, Aux) for layer in tf_dwsconv.convert(model).layers)
    assert any("something else in training" in reason for reason in reasons(tf_dwsconv.convert(model, fuse="blocks")))


def test_training_goes_on_as_before():
    """One step of training moves the weights of what was followed as it moves the model's."""

    def make(x):
        y = ConvNormAct(L.SeparableConv2D(6, 3, padding="same", name="conv"), ops.relu, name="first")(x)
        return L.Dense(3, name="end")(L.GlobalAveragePooling2D()(L.Dropout(0.0)(y)))

    model = functional(make, (8, 8, 4))
    exact = tf_dwsconv.convert(model, training=True)
    assert any(isinstance(layer, tf_dwsconv.DepthwiseSepConv2D) for layer in exact.layers)
    x = pictures(model, batch=4)[0]
    for each in (model, exact):
        each.compile(keras.optimizers.SGD(0.1), "mse")
        each.train_on_batch(x, np.ones((4, 3), "float32"))
    assert difference(exact, model, [x]) < 1e-4


class Pairs(L.Layer):
    """Several arguments, by place and by name, in structures, and several results."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.a, self.b = L.DepthwiseConv2D(3, padding="same"), L.Conv2D(4, 1)

    def call(self, inputs, scale=1.0, gate=None):
        x, y = inputs["x"], inputs["y"]
        return [self.a(x) * scale + self.b(y), (self.b(x) * gate,)]


def test_structures_of_arguments_and_results():
    def make(x, y, gate):
        first, (second,) = Pairs(name="pairs")({"x": x, "y": y}, scale=0.5, gate=gate)
        return L.ReLU(name="r")(first), L.Conv2D(3, 1, name="c")(second)

    check(functional(make, (8, 8, 4), (8, 8, 4), (1, 1, 4)))


def test_a_layer_that_is_called_at_several_sizes_shares_its_weights():
    shared = ConvNormAct(L.DepthwiseConv2D(3, padding="same"), ops.relu, name="shared")

    def make(x):
        y = L.MaxPooling2D()(x)
        return L.Conv2D(3, 1, name="a")(shared(x)), L.Conv2D(3, 1, name="b")(shared(y))

    model = functional(make, (16, 16, 4))
    converted = tf_dwsconv.convert(model)
    assert {type(layer) for layer in converted.layers} == {L.InputLayer, FusedNetwork}
    assert difference(converted, model, pictures(model)) < 1e-5
    exact = tf_dwsconv.convert(model, training=True)
    assert difference(exact, model, pictures(model)) < 1e-5 and len(exact.variables) == len(model.variables)
    assert difference(tf_dwsconv.convert(model, fuse="blocks"), model, pictures(model)) < 1e-5


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


class Stays(L.Layer):
    def __init__(self, how, **kwargs):
        super().__init__(**kwargs)
        self.how, self.inner = how, L.DepthwiseConv2D(3, padding="same")
        self.count = self.add_weight(name="count", shape=(), initializer="zeros", trainable=False)

    def get_config(self):
        return {"how": self.how, **super().get_config()}

    def call(self, x):
        y = self.inner(x)
        if self.how == "function":
            return tf.nn.local_response_normalization(y)
        if self.how == "state":
            self.count.assign(self.count + 1.0)
        if self.how == "loss":
            self.add_loss(ops.mean(y))
        return y


@pytest.mark.parametrize("how, reason", [
    ("function", "cannot run on symbolic tensors"),
    ("state", "assigns to the variable 'stays/count'"),
    ("loss", "`add_loss()` can only be called"),
])  # fmt: skip
def test_what_cannot_be_followed_stays_and_the_report_says_why(how, reason):
    model = functional(lambda x: L.Conv2D(5, 1)(L.ReLU()(Stays(how, name="stays")(x))), (8, 8, 4))
    count = float(model.get_layer("stays").count.numpy())
    for fuse in ("network", "blocks"):
        fused = tf_dwsconv.convert(model, fuse=fuse)
        assert isinstance(fused.get_layer("stays"), Stays)
        assert any(reason in text and "'stays' of class Stays" in text for text in reasons(fused))
        assert difference(fused, model, pictures(model)) < 1e-5 or how == "state"
    if how != "state":
        assert float(model.get_layer("stays").count.numpy()) == count


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


class ToItsSize(L.Layer):
    """Computes with the size of its argument."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inner = L.DepthwiseConv2D(3, padding="same")

    def call(self, x):
        size = ops.shape(x)
        mean = ops.mean(self.inner(x), axis=[1, 2], keepdims=True)
        return x + ops.image.resize(mean, (size[1], size[2]))

    def compute_output_spec(self, x):
        return keras.KerasTensor(x.shape, x.dtype)


def test_sizes_that_the_model_does_not_know():
    known = functional(lambda x: L.Conv2D(5, 1)(ToItsSize(name="sized")(x)), (8, 8, 4))
    one_program(known)
    unknown = functional(lambda x: L.Conv2D(5, 1)(ToItsSize(name="sized")(x)), (None, None, 4))
    converted = tf_dwsconv.convert(unknown)
    assert isinstance(converted.get_layer("sized"), ToItsSize)
    assert difference(converted, unknown, pictures(unknown)) < 1e-5
    check(
        functional(lambda x: InvertedResidual(4, name="a")(x), (None, None, 4)), ["expand + depthwise + 1x1 + residual"]
    )


def test_a_subclassed_model_that_cannot_be_followed():
    class Own(keras.Model):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.inner = L.DepthwiseConv2D(3)

        def call(self, x):
            return tf.nn.local_response_normalization(self.inner(x))

    model = Own(name="own")
    with pytest.raises(ValueError, match="`model` 'own' of class Own is not built: call it once"):
        tf_dwsconv.convert(model)
    model(np.zeros((1, 8, 8, 4), "float32"))
    with pytest.raises(
        ValueError, match=r"'own' is of class Own, whose `call` cannot be followed: .*convert_saved_model"
    ):
        tf_dwsconv.convert(model)
    with pytest.raises(ValueError, match="of class Own, whose own methods decide"):
        tf_dwsconv.to_builtin(model)


def test_names_of_several_of_a_kind():
    class Named(L.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.a, self.b = L.DepthwiseConv2D(3, name="conv"), L.Conv2D(4, 1, name="conv")

        def call(self, x):
            return ops.tanh(self.b(ops.sin(self.a(x))))

    def make(x):
        x = Named(name="one")(x)
        return {"x": Named(name="two")(x), "y": L.Conv2D(2, 1, name="one_conv")(x)}

    model = functional(make, (12, 12, 4))
    fused = check(model)
    assert len({layer.name for layer in fused.layers}) == len(fused.layers)


def test_a_custom_layer_of_nothing_to_fuse_stays():
    class Attention(L.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.q = L.Dense(4)

        def call(self, x):
            q = self.q(x)
            return ops.matmul(ops.softmax(ops.matmul(q, ops.transpose(x, (0, 2, 1)))), x)

    def make(x):
        y = L.Reshape((-1, 4))(L.SeparableConv2D(4, 3, padding="same")(x))
        return Attention(name="attention")(y)

    model = functional(make, (6, 6, 4))
    for fuse in ("network", "blocks"):
        fused = tf_dwsconv.convert(model, fuse=fuse)
        assert isinstance(fused.get_layer("attention"), Attention)
        assert difference(fused, model, pictures(model)) < 1e-5


def test_what_trains_by_itself_stays_frozen_where_it_is():
    model = functional(lambda x: L.Conv2D(3, 1)(ConvNormAct(L.DepthwiseConv2D(3), ops.relu, name="f")(x)), (8, 8, 4))
    model.get_layer("f").trainable = False
    exact = tf_dwsconv.convert(model, training=True)
    assert len(exact.trainable_variables) == len(model.trainable_variables) == 2
    assert found(exact) == ["depthwise", "batch norm"]
