"""`tf_dwsconv.convert` on models of every kind: shared layers, nested models, custom layers; and what is refused."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from convert_support import chain, check, difference, found, functional, pictures, randomise

import tf_dwsconv

pytestmark = pytest.mark.usefixtures("op_library")

L = keras.layers


def test_a_shared_layer_stays_shared():
    depthwise, separable = L.DepthwiseConv2D(3, padding="same", name="dw"), L.SeparableConv2D(4, 3, name="sep")

    def make(x, y):
        both = [L.Conv2D(6, 1)(depthwise(t)) for t in (x, y)]
        return [separable(t) for t in both]

    fused = check(functional(make, (16, 16, 6), (16, 16, 6)), ["1x1", "1x1", "separable", "separable"])
    assert [type(fused.get_layer(n)) for n in ("dw", "sep")] == [L.DepthwiseConv2D, tf_dwsconv.DepthwiseSepConv2D]
    assert len([layer for layer in fused.layers if "dw" in layer.name or "sep" in layer.name]) == 2
    assert "called more than once" in tf_dwsconv.convert.report(fused)[0].reason


def test_a_shared_norm_is_not_folded():
    norm, pointwise = L.BatchNormalization(name="bn"), L.Conv2D(6, 1, name="pw")

    def make(x):
        y = norm(L.DepthwiseConv2D(3, padding="same")(x))
        return pointwise(norm(L.DepthwiseConv2D(3, padding="same")(pointwise(y))))

    fused = check(functional(make), ["depthwise", "depthwise"])
    assert len(fused.layers) == 5


def inner(name="inner"):
    x = keras.Input((16, 16, 6))
    return keras.Model(x, chain(x, 6, activation="relu"), name=name)


def test_nested_models_are_converted_and_stay_shared():
    part = inner()

    def make(x):
        return L.Add()([part(part(x)), chain(x, 6, name="c")])

    fused = check(functional(make), ["depthwise + 1x1 + residual", "depthwise + 1x1"])
    assert [layer.name for layer in fused.layers if isinstance(layer, keras.Model)] == ["inner"]
    assert len(fused.get_layer("inner").layers) == 2


def test_sequential_models_stay_sequential():
    part = keras.Sequential([L.SeparableConv2D(6, 3), L.BatchNormalization(), L.ReLU(6.0)], name="part")
    model = keras.Sequential(
        [keras.Input((16, 16, 6), name="pixels"), part, L.DepthwiseConv2D(3), L.ReLU(), L.Conv2D(4, 1), L.Flatten()],
        name="whole",
    )
    fused = check(randomise(model), ["depthwise + 1x1", "separable"])
    assert type(fused) is keras.Sequential and type(fused.get_layer("part")) is keras.Sequential
    assert [len(m.layers) for m in (fused, fused.get_layer("part"))] == [3, 1]
    built_by_a_call = keras.Sequential([L.SeparableConv2D(6, 3), L.BatchNormalization()])
    built_by_a_call(np.zeros((1, 9, 9, 3), "float32"))
    tf_dwsconv.convert(built_by_a_call, fuse="blocks")


def test_a_model_that_is_called_in_training_is_left_alone():
    def make(x):
        return inner()(x, training=True)

    model = functional(make)
    fused = tf_dwsconv.convert(model, fuse="blocks")
    assert found(fused) == [] and "training=True" in tf_dwsconv.convert.report(fused)[0].reason
    x = pictures(model)[0]
    np.testing.assert_allclose(fused(x), model(x), atol=1e-5)


def test_structured_inputs_and_outputs():
    inputs = {name: keras.Input((16, 16, 6), name=name) for name in ("left", "right")}
    y = chain(inputs["left"], 6) + inputs["right"]
    model = randomise(keras.Model(inputs, {"sum": y, "parts": (y * 2.0, [inputs["right"]])}))
    fused = tf_dwsconv.convert(model, fuse="blocks")
    assert found(fused) == ["depthwise + 1x1 + residual"]
    values = dict(zip(inputs, pictures(model)))
    ours, stock = fused(values), model(values)
    keras.tree.assert_same_structure(ours, stock)
    keras.tree.map_structure(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), ours, stock)


def test_names_trainable_flags_and_random_states_are_kept():
    def make(x):
        x = L.RandomFlip(seed=3, name="flip")(x)
        x = chain(x, 6, norm=False)
        x = L.Conv2D(64, 3, name="frozen", trainable=False)(x)
        return L.Dense(4, name="head")(L.Dropout(0.5, seed=7, name="drop")(L.GlobalAveragePooling2D()(x)))

    model = functional(make)
    model.get_layer("b_dw").trainable = False
    fused = check(model, ["depthwise + 1x1", "convolution", "dense"])
    assert [layer.trainable for layer in map(fused.get_layer, ("b_pw", "frozen", "head"))] == [False, False, True]
    assert {v.path.split("/")[0] for v in fused.trainable_variables} == {"head"}
    x = pictures(model)[0]
    np.testing.assert_allclose(fused(x, training=True), model(x, training=True), atol=1e-4)
    frozen = functional(make)
    frozen.trainable = False
    assert tf_dwsconv.convert(frozen, fuse="blocks").trainable_variables == []


class Scale(keras.layers.Layer):
    """A layer that nobody registered."""

    def __init__(self, factor, function=None, **kwargs):
        super().__init__(**kwargs)
        self.factor, self.function = factor, function

    def build(self, shape):
        self.offset = self.add_weight(name="offset", shape=(shape[-1],), initializer="ones")

    def compute_output_shape(self, shape):
        return shape

    def call(self, x):
        x = x * self.factor + self.offset
        return x if self.function is None else self.function(x)

    def get_config(self):
        return {**super().get_config(), "factor": self.factor, "function": self.function}


class NoConfig(keras.layers.Layer):
    """A layer that cannot be made again: its argument is no plain value, and it has no config."""

    def __init__(self, table):
        super().__init__()
        self.table = table

    def call(self, x):
        return x * self.table.sum()


def doubled(x):
    return x * 2


def test_custom_layers_functions_and_lambdas_survive():
    offset = 0.3

    def make(x):
        x = Scale(0.2)(x)  # sin of a large sum would make much of its rounding
        x = L.Lambda(lambda t: t + offset, name="closure")(x)
        x = L.Conv2D(6, 3, strides=2, activation=doubled)(x)
        x = L.Conv2D(6, 2, strides=2, activation=lambda t: keras.ops.sin(t))(x)
        x = L.TimeDistributed(Scale(0.5))(x)
        return chain(x, 4)

    check(functional(make), ["convolution", "convolution", "depthwise + 1x1"], tolerance=1e-4)


def test_layers_as_activations_have_weights_of_their_own():
    def make(x):
        x = L.Conv2D(6, 1, activation=L.PReLU())(L.DepthwiseConv2D(3)(x))
        x = L.SeparableConv2D(6, 3, activation=L.PReLU())(x)
        return L.Conv2D(6, 3, groups=2, activation=L.PReLU())(x)

    model = functional(make)
    model(pictures(model)[0])  # builds what is used as an activation
    randomise(model)
    assert sum("p_re_lu" in v.path for v in model.variables) == 3
    fused = check(model, ["depthwise + 1x1", "separable"])
    builtin = tf_dwsconv.to_builtin(fused)
    assert difference(builtin, model, pictures(model)) < 1e-5
    check(model, ["depthwise + 1x1", "separable"], training=True)
    assert not {id(v) for v in fused.variables} & {id(v) for v in builtin.variables}


def test_ops_without_a_config():
    table = np.random.default_rng(0).standard_normal(4).astype("float32")
    model = functional(lambda x: keras.ops.einsum("nhwc,c->nhw", chain(x[:, ::2], 4), table))
    check(model, ["depthwise + 1x1"])


def test_preprocessing_layers_keep_what_they_learnt():
    normalise = L.Normalization()
    normalise.adapt(np.random.default_rng(0).standard_normal((8, 16, 16, 6)) * 3 + 1)
    look_up = L.StringLookup(vocabulary=["cat", "dog", "cow"])
    image, word = keras.Input((16, 16, 6)), keras.Input((1,), dtype="string")
    model = keras.Model([image, word], [chain(normalise(image), 4), look_up(word)])
    fused = tf_dwsconv.convert(model, fuse="blocks")
    inputs = [tf.constant(pictures(keras.Model(image, normalise(image)))[0]), tf.constant([["dog"], ["fish"]])]
    for ours, stock in zip(fused(inputs), model(inputs)):
        np.testing.assert_allclose(ours, stock, atol=1e-5)
    assert fused(inputs)[1].numpy().tolist() == [[2], [0]]


def test_layers_that_cannot_be_made_again_are_named():
    def make(x):
        return chain(NoConfig(np.ones(3))(x), 4)

    with pytest.raises(ValueError, match=r"`model` holds 'no_config.*' of class NoConfig.*get_config"):
        tf_dwsconv.convert(functional(make))


def test_a_layer_that_forgets_its_weights_is_named():
    class Forgetful(Scale):
        def get_config(self):
            return {**super().get_config(), "factor": 1.0}

        def build(self, shape):
            super().build(shape if self.factor == 1.0 else (*shape[:-1], 1))

    with pytest.raises(ValueError, match=r"'forgetful.*variables, and made again"):
        tf_dwsconv.convert(functional(lambda x: chain(Forgetful(2.0)(x), 4)), fuse="blocks")


class Subclassed(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.conv = L.SeparableConv2D(4, 3)

    def call(self, x):
        return self.conv(x)


class WithTrainStep(keras.Model):
    def train_step(self, data):
        return {"loss": 0.0}


@pytest.mark.parametrize("function", [tf_dwsconv.convert, tf_dwsconv.to_builtin], ids=["convert", "to_builtin"])
def test_what_is_refused(function):
    with pytest.raises(ValueError, match=r"'loose'.*not built"):
        function(keras.Sequential([L.SeparableConv2D(4, 3)], name="loose"))
    for other in (None, 3, L.Conv2D(3, 1)):
        with pytest.raises(TypeError, match=r"`model` must be a Keras model"):
            function(other)


def test_a_subclass_that_only_trains_in_its_own_way_stays_one():
    x = keras.Input((16, 16, 6))
    model = randomise(WithTrainStep(x, chain(x, 4)))
    fused = check(model, ["depthwise + 1x1"])
    assert type(fused) is type(model)


def test_a_subclassed_model_inside_is_a_layer_like_any_other():
    model = functional(lambda x: chain(Subclassed(name="inside")(x), 4))
    fused = check(model, ["separable", "depthwise + 1x1"])
    assert fused.get_layer("inside").filters == 4
    with pytest.raises(ValueError, match=r"`model` must be a Functional or Sequential model; 'inside.*Subclassed"):
        tf_dwsconv.to_builtin(model.get_layer("inside"))


def test_converting_twice_changes_nothing():
    fused = check(functional(lambda x: chain(x, 6) + x), ["depthwise + 1x1 + residual"])
    again = tf_dwsconv.convert(fused, fuse="blocks")
    assert found(again) == [] and difference(again, fused, pictures(fused)) == 0


def test_our_layers_in_a_model_are_taken_further():
    def make(x):
        y = tf_dwsconv.DepthwiseSepConv2D(
            6, 3, padding="same", depthwise_use_bias=True, depthwise_activation=("leaky_relu", 0.2)
        )(x)
        return L.Add()([x, L.BatchNormalization()(y)])

    check(functional(make), ["separable + residual"])


def test_fine_tuning_a_converted_model():
    """A few steps of an optimizer, through blocks with and without a native gradient."""

    def make(x):
        x = chain(L.Conv2D(12, 1, activation="relu6")(x), 6) + x
        return L.Dense(3)(L.GlobalAveragePooling2D()(chain(x, 8, name="c", activation="silu")))

    fused = check(functional(make), ["expand + depthwise + 1x1 + residual", "depthwise + 1x1", "dense"])
    x, y = pictures(fused, batch=8)[0], np.arange(8) % 3
    fused.compile(keras.optimizers.SGD(0.01), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    before = [v.numpy() for v in fused.trainable_variables]
    losses = fused.fit(x, y, batch_size=8, epochs=5, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    assert all(np.abs(v.numpy() - old).max() > 0 for v, old in zip(fused.trainable_variables, before))


def test_a_block_in_a_converted_model_keeps_its_activation():
    """A layer of ours that is made again: what it computes is settled when it is made."""
    model = functional(lambda x: L.Permute((2, 1, 3))(tf_dwsconv.FusedConvBlock(6, 3, activation="relu", name="b")(x)))
    assert difference(tf_dwsconv.convert(model, fuse="blocks"), model, pictures(model)) == 0
