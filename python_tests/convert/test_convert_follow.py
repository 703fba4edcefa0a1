"""Layers and models of users' own classes: what their `call` calls takes their place."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from convert_support import check, difference, found, functional, output_names, pictures, randomise, reasons
from follow_support import ConvNormAct, InvertedResidual, one_program

import tf_dwsconv
from tf_dwsconv import FusedConvBlock, FusedNetwork

pytestmark = pytest.mark.usefixtures("op_library")

L = keras.layers
ops = keras.ops


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


def test_what_trains_by_itself_stays_frozen_where_it_is():
    model = functional(lambda x: L.Conv2D(3, 1)(ConvNormAct(L.DepthwiseConv2D(3), ops.relu, name="f")(x)), (8, 8, 4))
    model.get_layer("f").trainable = False
    exact = tf_dwsconv.convert(model, training=True)
    assert len(exact.trainable_variables) == len(model.trainable_variables) == 2
    assert found(exact) == ["depthwise", "batch norm"]


class Ending(L.Layer):
    """Ends at a layer that others may call, too."""

    def __init__(self, end, **kwargs):
        super().__init__(**kwargs)
        self.first, self.end = L.DepthwiseConv2D(3, padding="same", name="first"), end

    def call(self, x):
        return self.end(self.first(x))


def test_results_keep_their_names_where_layers_are_shared(tmp_path):
    shared = L.Conv2D(4, 1, name="shared")
    check(functional(lambda x: [L.ReLU(name="r")(Ending(shared, name="d")(x)), shared(x)], (8, 8, 4)))
    model = functional(lambda x: [Ending(shared, name="d")(x), Ending(shared, name="e")(x)], (8, 8, 4))
    fused = check(tf_dwsconv.convert(model, fuse="blocks"))
    assert output_names(fused) == ["d", "e"]
    fused.save(tmp_path / "net.keras")


def test_an_input_of_the_name_that_a_layer_inside_would_get():
    x = keras.Input((8, 8, 4), name="d_first")
    check(randomise(keras.Model(x, L.ReLU(name="r")(Ending(L.Conv2D(4, 1, name="shared"), name="d")(x)), name="net")))


def test_a_model_inside_that_gets_a_dict_in_the_place_of_a_list():
    class OfModel(L.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            b, a = keras.Input((8, 8, 4), name="b"), keras.Input((8, 8, 4), name="a")
            self.model = keras.Model([b, a], L.Subtract()([L.DepthwiseConv2D(3, padding="same")(b), L.Conv2D(4, 1)(a)]))

        def call(self, x):
            return self.model({"b": x, "a": x * x})

    check(functional(lambda x: L.Conv2D(3, 1, name="end")(OfModel(name="m")(x)), (8, 8, 4)))


def test_a_result_that_is_an_argument_has_the_layers_dtype():
    class Both(L.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.inner = L.SeparableConv2D(8, 3, dtype=self.dtype_policy)

        def call(self, x):
            return x, self.inner(x)

    model = functional(lambda x: L.Concatenate(name="c")([L.Flatten()(t) for t in Both(dtype="float16")(x)]), (8, 8, 4))
    check(model, tolerance=5e-3)
    check(functional(lambda x: Both(name="both", dtype="float16")(x)[1], (8, 8, 4)), tolerance=5e-3)


def test_a_class_like_those_of_keras_hub_is_one_network(tmp_path):
    """A graph whose class has a `__call__` of its own, in which Keras makes sure of the inputs' dtype."""

    class Task(keras.Model):
        def __init__(self, **kwargs):
            x = keras.Input((16, 16, 3), name="images")
            y = ConvNormAct(L.Conv2D(8, 3, padding="same"), ops.relu, name="stem")(x)
            y = InvertedResidual(8, name="body")(ops.cast(y, "float32"))
            super().__init__(inputs=x, outputs=L.Dense(4, name="logits")(L.GlobalAveragePooling2D()(y)), **kwargs)

        def __call__(self, *args, **kwargs):
            return super().__call__(*args, **kwargs)

    model = randomise(Task(name="task"))
    assert difference(tf_dwsconv.convert(model, fuse="blocks"), model, pictures(model)) < 1e-5
    converted = tf_dwsconv.convert(model)
    assert difference(converted, model, pictures(model)) < 1e-5
    assert {type(operation).__name__ for operation in converted.operations} == {"InputLayer", "FusedNetwork"}
    tf_dwsconv.save_network(converted, tmp_path / "task.safetensors")
