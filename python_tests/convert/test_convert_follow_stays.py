"""Layers of users' own classes that stay, and what following leaves as it was."""

from __future__ import annotations

import re
import threading

import keras
import numpy as np
import pytest
import tensorflow as tf
from convert_support import check, difference, functional, pictures, reasons
from follow_support import InvertedResidual, one_program

import tf_dwsconv

pytestmark = pytest.mark.usefixtures("op_library")

L = keras.layers
ops = keras.ops


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


def test_a_custom_layer_of_nothing_to_fuse_stays():
    class Sums(L.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.q = L.Dense(4)

        def call(self, x):
            return ops.cumsum(self.q(x), axis=1)

    def make(x):
        y = L.Reshape((-1, 4))(L.SeparableConv2D(4, 3, padding="same")(x))
        return Sums(name="sums")(y)

    model = functional(make, (6, 6, 4))
    for fuse in ("network", "blocks"):
        fused = tf_dwsconv.convert(model, fuse=fuse)
        assert isinstance(fused.get_layer("sums"), Sums)
        assert difference(fused, model, pictures(model)) < 1e-5


class Own(L.Layer):
    """Computes `function` of itself, its argument and `training`."""

    def __init__(self, function, **kwargs):
        super().__init__(**kwargs)
        self.function = function
        self.inner, self.norm, self.drop = L.DepthwiseConv2D(3, padding="same"), L.BatchNormalization(), L.Dropout(0.5)

    def build(self, shape):
        for layer in (self.inner, self.norm, self.drop):
            layer.build(shape)
        self.limit = self.add_weight(name="limit", shape=(), initializer="ones", trainable=False)

    def call(self, x, training=None):
        return self.function(self, x, training)

    def get_config(self):
        return {**super().get_config(), "function": self.function}


def made_with(function, **options):
    return functional(lambda x: L.Conv2D(5, 1)(Own(function, name="own", **options)(x)), (8, 8, 4))


def stays(model, **options):
    return isinstance(tf_dwsconv.convert(model, **options).layers[1], Own)


@pytest.mark.parametrize("function, options, reason", [
    (lambda s, x, t: s.inner(x) * (0.5 if t else 1.0), {}, "something else in training"),
    (lambda s, x, t: 1.0 - s.inner(x) if t else s.inner(x) - 1.0, {}, "something else in training"),
    (lambda s, x, t: s.norm(s.inner(x), training=False), {}, "it calls 'batch_normalization.*' with training=False"),
    (lambda s, x, t: s.inner(x) * s.norm.gamma, {}, "with weights of its own"),
    (lambda s, x, t: ops.depthwise_conv(x, s.inner.kernel * 2.0), {}, "with weights of its own"),
    (lambda s, x, t: s.inner(x), {"activity_regularizer": "l2"}, "it has an activity regularizer"),
], ids=["number", "order", "told", "weight", "filter", "regularizer"])  # fmt: skip
def test_what_would_train_otherwise_stays(function, options, reason):
    model = made_with(function, **options)
    blocks = tf_dwsconv.convert(model, fuse="blocks")
    assert isinstance(blocks.layers[1], Own)
    assert any(re.search(reason, text) for text in reasons(blocks))
    assert not stays(model)
    assert difference(tf_dwsconv.convert(model), model, pictures(model)) < 1e-5


@pytest.mark.parametrize("function", [
    lambda s, x, t: s.drop(s.inner(x), training=True),
    lambda s, x, t: s.inner(x) + tf.random.normal([1, 1, 1, 4]),
    lambda s, x, t: ops.clip(s.inner(x), -1.0, s.limit),
    lambda s, x, t: ops.map(lambda row: row * 2.0, s.inner(x)),
], ids=["told", "random", "limit", "function"])  # fmt: skip
def test_what_a_model_of_its_calls_would_not_compute_stays(function):
    model = made_with(function)
    assert stays(model) and stays(model, fuse="blocks") and stays(model, training=True)


def test_what_layers_inside_are_told_by_default_does_not_matter():
    class Inner(Own):
        def call(self, x, training=True):
            return self.norm(self.inner(x), training=training)

    class Outer(L.Layer):
        def __init__(self, inner, **kwargs):
            super().__init__(**kwargs)
            self.inner = inner

        def call(self, x):
            return self.inner(x)

    model = functional(lambda x: L.Conv2D(3, 1)(Outer(Inner(None))(x)), (8, 8, 4))
    assert difference(tf_dwsconv.convert(model), model, pictures(model)) < 1e-5
    assert [type(layer) for layer in tf_dwsconv.convert(model).layers[1:]] == [tf_dwsconv.FusedConvBlock]


def test_sizes_that_are_odd():
    def padded(s, x, t):
        if x.shape[1] is not None and x.shape[1] % 2:
            x = ops.pad(x, [[0, 0], [0, 1], [0, 1], [0, 0]])
        return s.inner(x)

    model = functional(lambda x: L.Conv2D(3, 1)(Own(padded, name="own")(x)), (None, None, 4))
    x = np.random.default_rng(0).standard_normal((1, 9, 9, 4)).astype("float32")
    assert stays(model) and difference(tf_dwsconv.convert(model), model, [x]) < 1e-5


def test_what_a_layer_inside_a_model_inside_needs_is_looked_at():
    class NoConfig(L.Layer):
        def __init__(self, layer, **kwargs):
            super().__init__(**kwargs)
            self.layer = layer

        def call(self, x):
            return tf.nn.local_response_normalization(self.layer(x))

    class Outer(L.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.inner = keras.Sequential([NoConfig(L.DepthwiseConv2D(3), name="none"), L.Conv2D(4, 1)])

        def call(self, x):
            return self.inner(x)

    model = functional(lambda x: L.Conv2D(3, 1)(Outer(name="outer")(x)), (8, 8, 4))
    fused = tf_dwsconv.convert(model)
    assert type(fused.get_layer("outer")) is Outer and difference(fused, model, pictures(model)) < 1e-5
    assert any("in it, 'none' stays (" in reason for reason in reasons(fused))


def test_what_code_of_layers_sets_is_put_back():
    class Counts(L.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.inner = L.DepthwiseConv2D(3, padding="same", activity_regularizer="l2")
            self.count, self.last, self.results = 0, None, []

        def call(self, x):
            y = self.inner(x)
            self.count, self.last = self.count + 1, y
            self.results.append(y)
            return y

    class Net(keras.Model):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.counts = Counts()

        def call(self, x):
            return self.counts(x)

    net = Net(name="net")
    net(np.ones((1, 8, 8, 4), "float32"))
    before, losses = dict(vars(net.counts)), len(net.losses)
    results = list(net.counts.results)
    assert losses == 1
    for fuse in ("network", "blocks"):
        tf_dwsconv.convert(net, fuse=fuse)
    assert before.keys() == vars(net.counts).keys() and all(before[k] is v for k, v in vars(net.counts).items())
    assert len(net.losses) == losses and [id(t) for t in results] == [id(t) for t in net.counts.results]


def test_a_model_can_be_exported_after_it_was_converted(tmp_path):
    class Outer(L.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            x = keras.Input((8, 8, 4))
            self.inner = keras.Model(x, L.DepthwiseConv2D(3)(x))

        def call(self, x):
            return self.inner(x)

    model = functional(lambda x: L.Conv2D(3, 1)(Outer(name="outer")(x)), (8, 8, 4))
    tf_dwsconv.convert(model)
    model.export(str(tmp_path / "net"), verbose=False)


def test_layers_for_training_alone_are_not_built():
    class Net(keras.Model):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.inner, self.aux = L.SeparableConv2D(4, 3), L.Dense(4)

        def call(self, x, training=None):
            y = self.inner(x)
            return self.aux(y) if training else y

    net = Net(name="net")
    net(np.ones((1, 8, 8, 4), "float32"))
    with pytest.raises(ValueError, match=r"'dense.*', which it calls, is not built"):
        tf_dwsconv.convert(net, fuse="blocks")
    assert not net.aux.built and len(net.variables) == 3
    x = np.ones((1, 8, 8, 4), "float32")
    np.testing.assert_allclose(tf_dwsconv.convert(net)(x), net(x), rtol=1e-5)
    net(x, training=True)
    assert len(net.variables) == 5


def test_a_model_of_several_arguments_says_so():
    class Net(keras.Model):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.inner = L.SeparableConv2D(4, 3)

        def call(self, x, y):
            return self.inner(x) + y

    net = Net(name="net")
    net(np.ones((1, 8, 8, 4), "float32"), np.ones((1, 6, 6, 4), "float32"))
    with pytest.raises(ValueError, match="`model` 'net' of class Net cannot be called on symbolic tensors: missing"):
        tf_dwsconv.convert(net)


def test_threads_convert_one_model_at_once():
    def make(x):
        for i in range(4):
            x = InvertedResidual(4, name=f"layer_{i}")(x)
        return x

    model = functional(make, (8, 8, 4))
    inbound = [len(layer._inbound_nodes) for layer in model._flatten_layers()]
    found = []
    threads = [threading.Thread(target=lambda: found.append(tf_dwsconv.convert(model))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert inbound == [len(layer._inbound_nodes) for layer in model._flatten_layers()]
    assert len(found) == 4 and all(difference(each, model, pictures(model)) < 1e-5 for each in found)
