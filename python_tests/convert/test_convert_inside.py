"""What is inside other layers: wrappers are gone into; of the rest the report tells, and `to_builtin` raises."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from convert_support import chain, difference, found, functional, output_names, pictures, randomise

import tf_dwsconv
from tf_dwsconv import FusedConvBlock

pytestmark = pytest.mark.usefixtures("op_library")

L = keras.layers
VIDEO = (3, 8, 8, 4)


def rows(model):
    return tf_dwsconv.convert.report(model)


def kinds(model):
    return {type(layer) for layer in model._flatten_layers()}


class Twice(L.Wrapper):
    """A wrapper with a weight of its own."""

    def build(self, shape):
        super().build(shape)
        self.factor = self.add_weight(name="factor", shape=(1,), initializer="ones")

    def call(self, x):
        return self.layer(x) * self.factor

    def compute_output_shape(self, shape):
        return self.layer.compute_output_shape(shape)


class InTraining(L.Wrapper):
    def call(self, x):
        return self.layer(x, training=True)


class OfTheKernel(L.Wrapper):
    def call(self, x):
        return self.layer(x) * keras.ops.mean(self.layer.kernel)


class OwnFromConfig(L.Wrapper):
    def call(self, x):
        return self.layer(x)

    @classmethod
    def from_config(cls, config):
        return super().from_config(dict(config))


def cnn(norm=True):
    x = keras.Input((8, 8, 4))
    return keras.Model(x, L.GlobalAveragePooling2D()(chain(x, 5, norm=norm)), name="cnn")


@pytest.mark.parametrize("wrap", [
    lambda layer: lambda x: L.TimeDistributed(layer, name="wrapper")(x),
    lambda layer: lambda x: Twice(layer, name="wrapper")(x[:, 0]),
    lambda layer: lambda x: L.TimeDistributed(Twice(layer), name="wrapper")(x),
], ids=["time", "custom", "both"])  # fmt: skip
@pytest.mark.parametrize("layer, pattern, trained", [
    (lambda: L.SeparableConv2D(5, 3, activation="relu"), "separable", ["separable"]),
    (lambda: L.DepthwiseConv2D(3, activation="relu6"), "depthwise", ["depthwise"]),
    (cnn, "depthwise + 1x1", ["depthwise", "batch norm", "batch norm"]),
    (lambda: keras.Sequential([keras.Input((8, 8, 4)), L.SeparableConv2D(5, 3), L.ReLU()]), "separable", ["separable"]),
    (lambda: cnn(norm=False), "depthwise + 1x1", ["depthwise + 1x1"]),
], ids=["separable", "depthwise", "model", "sequential", "no_norm"])  # fmt: skip
def test_wrappers_are_gone_into(wrap, layer, pattern, trained):
    model = functional(wrap(layer()), VIDEO)
    x = pictures(model)
    before = [len(layer._inbound_nodes) for layer in model._flatten_layers()]
    fused = tf_dwsconv.convert(model, fuse="blocks")
    assert found(fused) == [pattern]
    assert difference(fused, model, x) < 1e-5
    assert kinds(fused) & {FusedConvBlock, tf_dwsconv.DepthwiseSepConv2D}
    exact = tf_dwsconv.convert(model, training=True)
    assert found(exact) == trained
    assert difference(exact, model, x) < 1e-5
    for new in (fused, exact):
        stock = tf_dwsconv.to_builtin(new)
        assert difference(stock, model, x) < 1e-5
        assert not any(kind.__module__.startswith("tf_dwsconv.") for kind in kinds(stock))
        assert output_names(stock) == output_names(new) == output_names(model)
        assert not {id(v) for v in model.variables} & {id(v) for v in (*new.variables, *stock.variables)}
    assert before == [len(layer._inbound_nodes) for layer in model._flatten_layers()]


def test_time_of_any_length_and_a_file(tmp_path):
    model = functional(lambda x: L.LSTM(4)(L.TimeDistributed(cnn())(x)), (None, 8, 8, 4))
    fused = tf_dwsconv.convert(model, fuse="blocks")
    assert found(fused) == ["depthwise + 1x1"]
    x = np.random.default_rng(0).standard_normal((2, 5, 8, 8, 4)).astype("float32")
    assert difference(fused, model, [x]) < 1e-5
    fused.save(tmp_path / "fused.keras")
    np.testing.assert_array_equal(keras.saving.load_model(tmp_path / "fused.keras")(x), fused(x))


def test_a_layer_in_a_wrapper_and_out_of_it_stays_one_in_training():
    shared = L.SeparableConv2D(4, 3, padding="same", name="shared")
    model = functional(lambda x: shared(L.TimeDistributed(shared)(x)[:, 0]), VIDEO)
    exact = tf_dwsconv.convert(model, training=True)
    assert len(exact.variables) == len(model.variables) == 3
    assert difference(exact, model, pictures(model)) < 1e-5
    assert difference(tf_dwsconv.convert(model, fuse="blocks"), model, pictures(model)) < 1e-5


@pytest.mark.parametrize("make, reason", [
    (lambda x: InTraining(cnn(), name="w")(x), "calls its layer with training=True"),
    (lambda x: OfTheKernel(L.DepthwiseConv2D(3), name="w")(x), "around another layer it fails"),
    (lambda x: OwnFromConfig(L.DepthwiseConv2D(3), name="w")(x), "has a `from_config` of its own"),
    (lambda x: L.SpectralNormalization(L.DepthwiseConv2D(3), name="w")(x), "computes with the weights of its layer"),
], ids=["training", "kernel", "from_config", "spectral"])  # fmt: skip
def test_wrappers_that_stay_are_in_the_report(make, reason):
    model = functional(make, (8, 8, 4))
    fused = tf_dwsconv.convert(model, fuse="blocks")
    assert found(fused) == [] and len(rows(fused)) == 1
    assert rows(fused)[0].pattern == "DepthwiseConv2D" and "it is in 'w'" in rows(fused)[0].reason
    assert reason in rows(fused)[0].reason and "\n" not in rows(fused)[0].reason
    x = pictures(model)[0]
    np.testing.assert_allclose(fused(x), model(x), atol=1e-5)
    tf_dwsconv.to_builtin(fused)  # nothing of ours is in it


def test_a_wrapper_that_is_called_in_training_is_left_alone():
    model = functional(lambda x: Twice(L.TimeDistributed(cnn()))(x), VIDEO)
    assert found(tf_dwsconv.convert(model, fuse="blocks")) == ["depthwise + 1x1"]
    model = functional(lambda x: L.TimeDistributed(cnn())(x, training=True), VIDEO)
    fused = tf_dwsconv.convert(model, fuse="blocks")
    assert found(fused) == [] and "training=True" in rows(fused)[0].reason


class Holder(L.Layer):
    """Holds a layer, and whatever else."""

    def __init__(self, layer=None, **kwargs):
        super().__init__(**kwargs)
        self.inner = layer or L.DepthwiseConv2D(3, name="held")

    def call(self, x):
        return self.inner(x)

    def get_config(self):
        return {**super().get_config(), "layer": keras.saving.serialize_keras_object(self.inner)}

    @classmethod
    def from_config(cls, config):
        return cls(keras.saving.deserialize_keras_object(config.pop("layer")), **config)


class Opaque(Holder):
    """Calls what `convert` does not know."""

    def call(self, x):
        return tf.identity_n([self.inner(x)])[0]


class Raw(L.Layer):
    """TensorFlow's op on a weight of its own, by a name that `convert` does not know."""

    def build(self, shape):
        self.kernel = self.add_weight(name="kernel", shape=(3, 3, shape[-1], 1))

    def call(self, x):
        return tf.raw_ops.DepthwiseConv2dNative(input=x, filter=self.kernel, strides=[1, 1, 1, 1], padding="SAME")


class Subclassed(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first, self.second = L.SeparableConv2D(4, 3, name="first"), L.DepthwiseConv2D(3, name="second")

    def call(self, x):
        return tf.identity_n([self.second(self.first(x))])[0]


class OwnDepthwise(L.DepthwiseConv2D):
    def call(self, x):
        return tf.identity_n([super().call(x)])[0]


def kernel(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype("float32")


@pytest.mark.parametrize("make, expected", [
    (lambda x: Opaque(name="own")(x),
     [("DepthwiseConv2D", "held", "it is in 'own' of class Opaque: its `call` cannot")]),
    (lambda x: Raw(name="own")(x), [("DepthwiseConv2dNative", None, "it is in 'own' of class Raw")]),
    (lambda x: Subclassed(name="own")(x),
     [("SeparableConv2D", "first", "it is in 'own'"), ("DepthwiseConv2D", "second", "it is in 'own'")]),
    (lambda x: OwnDepthwise(3, name="own")(x), [("OwnDepthwise", "own", "is a subclass of DepthwiseConv2D")]),
    (lambda x: L.Lambda(lambda t: tf.nn.depthwise_conv2d(t, kernel(3, 3, 4, 1), [1] * 4, "SAME"), name="own")(x),
     [("DepthwiseConv2dNative", None, "it is in 'own' of class Lambda")]),
    (lambda x: keras.ops.depthwise_conv(x, kernel(3, 3, 4, 1)), [("keras.ops.depthwise_conv", None, "arguments")]),
    (lambda x: keras.ops.separable_conv(x, kernel(3, 3, 4, 1), kernel(1, 1, 4, 2)),
     [("keras.ops.separable_conv", None, "arguments")]),
    (lambda x: L.Flatten()(x), [("model", "net", "holds no convolution that could be fused")]),
], ids=["custom", "raw", "model", "subclass", "lambda", "depthwise_conv", "separable_conv", "nothing"])  # fmt: skip
@pytest.mark.parametrize("training", [False, True])
def test_a_line_for_each_convolution_that_is_not_looked_at(make, expected, training):
    model = functional(make, (8, 8, 4))
    losses = [len(layer._losses) for layer in model._flatten_layers()]
    new = tf_dwsconv.convert(model, training=training)
    assert difference(new, model, pictures(model)) < 1e-5
    assert len(rows(new)) == len(expected)
    for row, (pattern, name, reason) in zip(sorted(rows(new), key=lambda row: row.layers), expected):
        assert row.pattern == pattern and reason in row.reason and row.fused is None
        assert name in (None, *row.layers)
    assert losses == [len(layer._losses) for layer in model._flatten_layers()]
    stock = tf_dwsconv.to_builtin(new)
    assert difference(stock, model, pictures(model)) < 1e-5


@pytest.mark.parametrize("layer", [L.SeparableConv1D, L.DepthwiseConv1D], ids=lambda layer: layer.__name__)
def test_convolutions_of_one_dimension_that_stay_are_in_the_report(layer):
    sizes = (3, 3) if layer is L.DepthwiseConv1D else (4, 3)
    shared = layer(*sizes[1:] if layer is L.DepthwiseConv1D else sizes, padding="same", name="own")
    model = functional(lambda x: shared(shared(x)), (8, 4))
    new = tf_dwsconv.convert(model, fuse="blocks")
    assert rows(new) and all(row.fused is None for row in rows(new))
    assert all("one dimension" in row.reason for row in rows(new))
    trained = tf_dwsconv.convert(model, training=True)
    assert all(row.fused is None and "one dimension" in row.reason for row in rows(trained))


def saved(make, folder):
    model = functional(make, (8, 8, 4))
    model.export(str(folder), verbose=False)
    return lambda x: L.TFSMLayer(str(folder), call_endpoint="serve", name="served")(x)


def test_saved_models_inside(tmp_path):
    model = functional(saved(lambda x: L.DepthwiseConv2D(3)(x), tmp_path / "stock"), (8, 8, 4))
    fused = tf_dwsconv.convert(model, fuse="blocks")
    assert [row.pattern for row in rows(fused)] == ["DepthwiseConv2dNative"]
    assert "'served' of class TFSMLayer" in rows(fused)[0].reason
    x = pictures(model)[0]
    np.testing.assert_allclose(tf_dwsconv.to_builtin(fused)(x), model(x), atol=1e-6)
    model = functional(saved(lambda x: tf_dwsconv.DepthwiseSepConv2D(5, 3)(x), tmp_path / "ours"), (8, 8, 4))
    with pytest.raises(ValueError, match="`model` holds 'served' of class TFSMLayer, and in it the op TfDwsconv>"):
        tf_dwsconv.to_builtin(model)


class Calls(L.Layer):
    def call(self, x):
        return our_op(x)


def our_op(x):
    return tf_dwsconv.depthwise_sep_conv2d(x, kernel(3, 3, 4, 1), kernel(1, 1, 4, 2))


class OwnOfOurs(tf_dwsconv.DepthwiseSepConv2D):
    def call(self, x):
        return super().call(x) * 2


def of_ours():
    return tf_dwsconv.DepthwiseSepConv2D(4, 3, name="inner")


@pytest.mark.parametrize("make, what", [
    (lambda x: Holder(of_ours(), name="w")(x), "'inner' of class DepthwiseSepConv2D"),
    (lambda x: OwnFromConfig(of_ours(), name="w")(x), "'inner' of class DepthwiseSepConv2D.*from_config"),
    (lambda x: OwnFromConfig(FusedConvBlock(4, 3, name="inner"), name="w")(x), "'inner' of class FusedConvBlock"),
    (lambda x: Calls(name="w")(x), "the op TfDwsconv>DepthwiseSepConv2D"),
    (lambda x: L.Lambda(our_op, name="w")(x), "code of 'w' that names this package"),
    (lambda x: OwnOfOurs(4, 3, name="w")(x), "'w' of class OwnOfOurs"),
    (lambda x: tf_dwsconv.depthwise_sep_conv2d(x, kernel(3, 3, 4, 1), kernel(1, 1, 4, 2), name="w"),
     "'w' of class DepthwiseSepConv2DOp"),
    (lambda x: L.Conv2D(4, 3, activation=tf_dwsconv.activations.LeakyRelu(0.1), name="w")(x), "a LeakyRelu of this"),
    (lambda x: keras.Sequential([Holder(of_ours(), name="w")])(x), "'inner' of class DepthwiseSepConv2D"),
], ids=["custom", "wrapper", "block", "code", "lambda", "subclass", "op", "activation", "nested"])  # fmt: skip
def test_to_builtin_raises_where_something_of_ours_would_remain(make, what):
    model = functional(make, (8, 8, 4))
    with pytest.raises(ValueError, match=f"`model` holds 'w' of class .*{what}"):
        tf_dwsconv.to_builtin(model)


class Backbone(keras.Model):
    """A class whose `__init__` makes a graph, as those of keras_hub."""

    def __init__(self, filters, *, image_shape=(8, 8, 4), **kwargs):
        x = keras.Input(image_shape)
        super().__init__(inputs=x, outputs=chain(x, filters, name="stage"), **kwargs)
        self.filters = filters

    def get_config(self):
        return {"filters": self.filters, "name": self.name}


class Deeper(Backbone):
    """Two levels above Keras, with a property and a step of training of its own."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.levels = {"P1": self.output}

    @property
    def widest(self):
        return max(self.filters, 4)

    def train_step(self, data):
        return {"loss": 0.0}


class Stack(keras.Sequential):
    def __init__(self, filters=5, **kwargs):
        super().__init__([keras.Input((8, 8, 4)), L.SeparableConv2D(filters, 3), L.ReLU(name="stack_end")], **kwargs)


class OwnCall(Backbone):
    def call(self, x, training=None, mask=None):
        return super().call(x, training=training) * 2


@pytest.mark.parametrize("make, pattern, plain", [
    (lambda: Backbone(5, name="b"), "depthwise + 1x1", "Backbone has an `__init__`"),
    (lambda: Deeper(5, name="b"), "depthwise + 1x1", "without its train_step: Deeper"),
    (lambda: Stack(name="b"), "separable", "a plain Sequential model"),
], ids=["init", "deeper", "sequential"])  # fmt: skip
@pytest.mark.parametrize("inside", [False, True], ids=["alone", "inside"])
def test_classes_that_make_their_graph_themselves(make, pattern, plain, inside):
    part = make()
    model = randomise(functional(lambda x: L.Flatten()(part(x)), (8, 8, 4)) if inside else part)
    fused = tf_dwsconv.convert(model, fuse="blocks")
    assert found(fused) == [pattern]
    notes = [row.reason for row in rows(fused) if row.pattern == "model"]
    assert len(notes) == 1 and plain in notes[0]
    x = pictures(model)
    for new in (fused, tf_dwsconv.convert(model, training=True), tf_dwsconv.to_builtin(fused)):
        assert difference(new, model, x) < 1e-5
        again = new.get_layer("b") if inside else new
        assert type(again) in (type(keras.Model(*[keras.Input(())] * 2)), keras.Sequential) and again.name == "b"


def test_no_graph_with_a_call_of_its_own_is_unfused():
    with pytest.raises(ValueError, match="of class OwnCall, whose own methods decide"):
        tf_dwsconv.to_builtin(randomise(OwnCall(5)))
