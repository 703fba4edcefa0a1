"""Blocks of real networks through convert: activations however they are written, PReLU, zeros around pictures, layers
that do nothing in inference, branches that add, residuals behind a depthwise convolution, and shared convolutions.
"""

from __future__ import annotations

import functools

import keras
import numpy as np
import pytest
import small_networks
import tensorflow as tf
from convert_support import L, chain, check, difference, found, functional, pictures, randomise

import tf_dwsconv

ops = keras.ops


def smooth(x):
    return x * tf.sigmoid(x)


def rows(fused):
    return tf_dwsconv.convert.report(fused)


ACTIVATIONS = {
    "elu": L.ELU(0.4), "elu op": ops.elu, "mish": L.Activation("mish"), "gelu op": lambda x: ops.gelu(x),
    "mish written": lambda x: x * ops.tanh(ops.softplus(x)),
    "gelu partial": L.Activation(functools.partial(keras.activations.gelu, approximate=True)),
    "gelu written": lambda x: 0.5 * x * (1 + ops.tanh(0.7978845608 * (x + 0.044715 * x * x * x))),
    "relu 20": L.ReLU(20.0), "relu all": L.ReLU(2.0, 0.1, 0.25), "threshold": L.ReLU(threshold=0.3),
    "clip": lambda x: ops.clip(x, 0, 6), "minmax": lambda x: ops.minimum(ops.maximum(x, 0.0), 6.0),
    "maxmin": lambda x: ops.maximum(ops.minimum(6.0, x), 0), "layers": lambda x: ops.minimum(L.ReLU()(x), 4.0),
    "leaky max": lambda x: ops.maximum(x, 0.1 * x), "two relus": lambda x: ops.relu(x) - 0.2 * ops.relu(-x),
    "lambda relu6": L.Lambda(tf.nn.relu6), "lambda of a lambda": L.Lambda(lambda x: tf.nn.relu6(x)),
    "lambda clip": L.Lambda(lambda x: tf.clip_by_value(x, 0.0, 6.0)),
    "lambda swish": L.Lambda(lambda x: x * tf.sigmoid(x)),
    "lambda keras": L.Lambda(lambda x: ops.silu(x)), "function": L.Activation(smooth),
    "named": L.Activation(tf.nn.swish),
    "lambda arguments": L.Lambda(lambda x, top: tf.minimum(tf.nn.relu(x), top), arguments={"top": 3.0}),
    "hard swish": lambda x: x * (ops.relu6(x + 3) / 6), "hard swish 2": lambda x: x * ops.clip(x / 6 + 0.5, 0, 1),
    "hard swish 3": L.Lambda(lambda x: x * tf.nn.relu6(x + 3.0) * 0.16666667), "prelu": L.PReLU(shared_axes=[1, 2]),
    "prelu of all": L.PReLU(shared_axes=[1, 2, 3]),
}  # fmt: skip


def again(activation):
    """The same activation as a layer that no other model has."""
    if isinstance(activation, L.Lambda):
        return L.Lambda(activation.function, arguments=activation.arguments)
    if isinstance(activation, L.Activation):
        return L.Activation(activation.activation)
    if not isinstance(activation, L.Layer):
        return activation
    return type(activation).from_config({k: v for k, v in activation.get_config().items() if k != "name"})


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_in_the_middle_and_at_the_end(name):
    """One block of two convolutions, whose results are the stock model's, and stock layers for it."""

    def make(x):
        x = again(ACTIVATIONS[name])(L.BatchNormalization()(L.Conv2D(9, 1)(x)))
        x = again(ACTIVATIONS[name])(L.BatchNormalization()(L.DepthwiseConv2D(3, padding="same")(x)))
        return again(ACTIVATIONS[name])(L.Conv2D(5, 1)(x))

    model = functional(make)
    fused = check(model, ["expand + depthwise + 1x1"])
    assert len(fused.operations) == 2, [operation.name for operation in fused.operations]
    stock = tf_dwsconv.to_builtin(fused)
    assert difference(stock, model, pictures(model)) < 1e-5


@pytest.mark.parametrize(
    "almost",
    [
        lambda x: ops.clip(x, -1, 6), lambda x: x * ops.sigmoid(1.702 * x),
        lambda x: ops.minimum(x, 6.0), L.Lambda(lambda x: tf.nn.relu(x) + tf.reduce_mean(x)), L.Activation("selu"),
        L.Lambda(lambda x: x * tf.sigmoid(tf.reverse(x, [-1]))), L.Lambda(lambda x: tf.nn.relu6(x) * 1.001),
        L.Lambda(lambda x: tf.nn.softmax(x)), L.PReLU(shared_axes=[1]), L.Lambda(lambda x: tf.nn.relu(x[..., ::-1])),
    ],
)  # fmt: skip
def test_what_is_no_activation_stays(almost):
    model = functional(lambda x: L.Conv2D(4, 1)(almost(L.DepthwiseConv2D(3)(x))))
    assert found(check(model)) in (["depthwise", "1x1"], ["depthwise + 1x1"])
    assert len(tf_dwsconv.convert(model, fuse="blocks").operations) > 3


def test_a_function_is_never_called_on_numbers():
    """A user's function may have side effects: it is traced, and one that has state stays a call of its own."""
    counter = tf.Variable(0)

    def counts(x):
        counter.assign_add(1)
        return tf.nn.relu(x)

    model = functional(lambda x: L.Conv2D(4, 1)(L.Lambda(counts)(L.DepthwiseConv2D(3)(x))))
    before = int(counter)
    fused = tf_dwsconv.convert(model, fuse="blocks")
    assert any(isinstance(layer, L.Lambda) for layer in fused.layers)
    assert int(counter) - before <= 1  # Keras' own call of the layer that stays


@pytest.mark.parametrize(
    "pad",
    [
        lambda x: ops.pad(x, [[0, 0], [0, 1], [2, 1], [0, 0]]),
        lambda x: ops.pad(x, [[0, 0], [0, 1], [2, 1], [0, 0]], constant_values=0),
        L.Lambda(lambda x: tf.pad(x, [[0, 0], [0, 1], [2, 1], [0, 0]])),
        L.Lambda(lambda x: ops.pad(x, [[0, 0], [0, 1], [2, 1], [0, 0]])),
        L.ZeroPadding2D(((0, 1), (2, 1))),
    ],
)
@pytest.mark.parametrize("behind", [False, True], ids=["first", "behind the expansion"])
def test_zeros_around_pictures(pad, behind):
    def make(x):
        x = L.ReLU()(L.Conv2D(7, 1)(x)) if behind else x
        return L.Conv2D(4, 1)(L.ReLU()(L.DepthwiseConv2D(3, strides=2)(pad(x))))

    fused = check(functional(make), ["expand + depthwise + 1x1" if behind else "depthwise + 1x1"])
    assert len(fused.operations) == 2


@pytest.mark.parametrize(
    "pad",
    [
        lambda x: ops.pad(x, [[0, 0], [0, 1], [0, 1], [0, 0]], constant_values=1.0),
        lambda x: ops.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]], mode="reflect"),
        lambda x: ops.pad(x, [[0, 0], [0, 1], [0, 1], [0, 2]]),
        L.Lambda(lambda x: tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]], constant_values=2.0)),
    ],
)
def test_other_padding_stays(pad):
    assert (
        len(check(functional(lambda x: L.Conv2D(4, 1)(L.DepthwiseConv2D(3)(pad(x)))), ["depthwise + 1x1"]).operations)
        == 3
    )


class DropPath(L.Layer):
    """As everybody writes it."""

    def __init__(self, rate=0.1, **kwargs):
        super().__init__(**kwargs)
        self.rate = rate

    def call(self, x, training=False):
        if not training or self.rate == 0:
            return x
        keep = 1 - self.rate
        return x / keep * tf.floor(keep + tf.random.uniform([tf.shape(x)[0], 1, 1, 1]))

    def get_config(self):
        return {**super().get_config(), "rate": self.rate}


class NoDropPath(DropPath):
    def call(self, x, training=False):
        return x * 0.5 if not training else x


@pytest.mark.parametrize("drop, is_identity", [(DropPath, True), (NoDropPath, False)])
def test_drop_path(drop, is_identity):
    def make(x):
        y = L.BatchNormalization()(L.Conv2D(6, 1)(L.ReLU()(L.DepthwiseConv2D(3, padding="same")(x))))
        return L.Add()([x, drop()(y)])

    model = functional(make)
    fused = check(model, ["depthwise + 1x1 + residual"] if is_identity else ["depthwise + 1x1"])
    assert any(type(layer) is drop for layer in fused.layers) == (not is_identity)


# Branches that add.


def branches(x, *, kernel=3, stride=1, channels=None, identity=True, pads=False, axis=-1, data_format=None):
    """A RepVGG block before its activation: k x k, 1 x 1 and nothing, each with a batch norm."""

    def convolution(size, pad):
        options = {
            "strides": stride,
            "padding": "valid" if pads else "same",
            "use_bias": False,
            "data_format": data_format,
        }
        y = L.ZeroPadding2D(pad, data_format=data_format)(x) if pads and pad else x
        y = L.Conv2D(channels, size, **options)(y) if channels else L.DepthwiseConv2D(size, **options)(y)
        return L.BatchNormalization(axis=axis)(y)

    parts = [convolution(kernel, kernel // 2), convolution(1, 0)]
    return L.Add()([*parts, L.BatchNormalization(axis=axis)(x)] if identity else parts)  # fmt: skip


@pytest.mark.parametrize(
    "size, options",
    [
        (16, {}), (16, {"kernel": 5}), (16, {"stride": 2, "identity": False}), (15, {"stride": 2, "identity": False}),
        (16, {"stride": 2, "identity": False, "pads": True}), (15, {"pads": True}), (None, {}),
        (None, {"pads": True, "stride": 2, "identity": False}),
    ],
    ids=str,
)  # fmt: skip
def test_depthwise_branches(size, options):
    def make(x):
        return L.ReLU()(L.BatchNormalization()(L.Conv2D(9, 1)(L.ReLU()(branches(x, **options)))))

    fused = check(functional(make, (size, size, 6)), ["depthwise + 1x1"])
    assert len(fused.operations) == 2
    assert fused.layers[-1].depthwise_kernel.shape[:2] == (options.get("kernel", 3),) * 2


def test_branches_of_branches():
    """Sums of two by two, ops in the place of layers, and 1x1 branches behind depthwise ones: MobileOne."""

    def make(x):
        y = ops.relu(
            (branches(x, identity=False) + L.BatchNormalization()(x)) + L.DepthwiseConv2D(3, padding="same")(x)
        )
        parts = [L.BatchNormalization()(L.Conv2D(6, 1, use_bias=False)(y)) for _ in range(3)]
        return L.ReLU()(L.Add()([*parts, L.BatchNormalization()(y)]))

    assert len(check(functional(make), ["depthwise + 1x1"]).operations) == 2


@pytest.mark.parametrize(
    "channels, options, pattern",
    [
        (6, {"stride": 2, "identity": False}, "convolution"),
        (6, {}, "convolution + batch norm"),
        (20, {}, "convolution + batch norm"),
    ],
)
def test_dense_branches(channels, options, pattern):
    """RepVGG: a block where the rule of dense convolutions takes it, else one stock convolution."""
    model = functional(lambda x: chain(L.ReLU()(branches(x, channels=channels, **options)), 4), (16, 16, channels))
    fused = check(model, None, tolerance=2e-5)
    assert pattern in found(fused)
    assert not any(isinstance(layer, (L.Add, L.BatchNormalization)) for layer in fused.layers)
    assert sum(isinstance(layer, (L.Conv2D, tf_dwsconv.FusedConvBlock)) for layer in fused.layers) == 2


def test_branches_that_are_none():
    def reads_a_branch(x):
        y = L.DepthwiseConv2D(3, padding="same")(x)
        z = L.DepthwiseConv2D(5, padding="same")(x)
        return [L.Add()([y, z]), L.GlobalAveragePooling2D()(z)]

    def activated(x):
        return L.Add()([L.DepthwiseConv2D(3, padding="same")(x), L.DepthwiseConv2D(1, activation="relu")(x)])

    def other_strides(x):
        y = L.DepthwiseConv2D(3, padding="same", strides=2)(x)
        return L.Add()([y, L.DepthwiseConv2D(2, strides=2)(x), L.AveragePooling2D(2)(x)])

    for make in (reads_a_branch, activated, other_strides):
        patterns = found(check(functional(make)))
        assert len(patterns) == 2 and all(pattern.startswith("depthwise") for pattern in patterns)


# A residual behind a depthwise convolution.


@pytest.mark.parametrize("activation", [None, "gelu", "relu"])
@pytest.mark.parametrize("expand", [False, True])
def test_residual_behind_a_depthwise_convolution(activation, expand):
    def make(x):
        y = L.ReLU()(L.Conv2D(6, 1)(x)) if expand else x
        y = L.BatchNormalization()(L.DepthwiseConv2D(5, padding="same")(y))
        y = y if activation is None else L.Activation(activation)(y)
        y = L.Add()([y, x])
        return [y, L.GlobalAveragePooling2D()(y)]

    pattern = "expand + depthwise + residual" if expand else "depthwise + residual"
    assert check(functional(make), [pattern]).layers[-1].name != "add"


def test_position_encoding_and_convmixer():
    """dw(x) + x; and activation, batch norm, x: the norm and the sum are one pass."""

    def position(x):
        return L.Conv2D(4, 1)(L.DepthwiseConv2D(3, padding="same")(x) + x)

    check(functional(position), ["depthwise + residual", "1x1"])

    def mixer(x):
        y = L.BatchNormalization()(L.Activation("gelu")(L.DepthwiseConv2D(5, padding="same")(x)))
        return L.BatchNormalization()(L.Activation("gelu")(L.Conv2D(4, 1)(L.Add()([y, x]))))

    assert "scale + residual" in found(check(functional(mixer)))


# Shared convolutions.


def test_a_shared_convolution_with_a_norm_for_each_call():
    separable = L.SeparableConv2D(6, 3, padding="same", name="shared")
    pair = L.DepthwiseConv2D(3, padding="same", name="shared_dw"), L.Conv2D(6, 1, name="shared_pw")

    def make(x, y):
        results = []
        for i, level in enumerate((x, y)):
            level = L.Activation("silu")(L.BatchNormalization(name=f"bn_{i}")(separable(level)))
            level = L.BatchNormalization()(pair[1](L.ReLU()(pair[0](level))))
            results.append(level)
        return results

    model = functional(make, (16, 16, 6), (8, 8, 6))
    fused = check(model, ["separable", "separable", "depthwise + 1x1", "depthwise + 1x1"])
    names = [layer.name for layer in fused.layers]
    assert len(set(names)) == len(names) and not any(isinstance(layer, L.BatchNormalization) for layer in fused.layers)
    stock = tf_dwsconv.to_builtin(fused)
    assert difference(stock, model, pictures(model)) < 1e-5


def test_a_shared_convolution_without_anything_to_fold_stays_shared():
    shared = L.SeparableConv2D(6, 3, padding="same", name="shared")
    fused = check(functional(lambda x: L.Concatenate()([shared(x), shared(L.MaxPooling2D(1)(x))])))
    assert sum("shared" in layer.name for layer in fused.layers) == 1


# Whole networks.


@pytest.mark.parametrize(
    "name, blocks",
    [("facemesh", 5), ("mobileone", 4), ("convmixer", 6), ("eegnet", 2), ("efficientdet", 15)],
)
def test_networks(name, blocks):
    """As many blocks, and none of the layers between them."""
    model = small_networks.NETWORKS[name]()
    fused = check(model, tolerance=3e-5)
    patterns = found(fused)
    left = [type(layer).__name__ for layer in fused.layers]
    assert not {"PReLU", "BatchNormalization", "DepthwiseConv2D", "ELU"} & set(left), left
    assert len(patterns) >= blocks, patterns
    stock = tf_dwsconv.to_builtin(fused)
    assert difference(stock, model, pictures(model)) < 3e-5


def test_training_keeps_prelu():
    model = functional(lambda x: L.PReLU(shared_axes=[1, 2])(L.Conv2D(4, 1)(L.DepthwiseConv2D(3)(x))))
    fused = check(model, ["depthwise + 1x1"], training=True)
    assert sum(isinstance(layer, L.PReLU) for layer in fused.layers) == 1
    model = functional(lambda x: L.Lambda(tf.nn.relu6)(L.Conv2D(4, 1)(L.ReLU(3.0)(L.DepthwiseConv2D(3)(x)))))
    assert len(check(model, ["depthwise + 1x1"], training=True).operations) == 2


def test_converted_prelu_trains():
    model = randomise(keras.Sequential([
        keras.Input((8, 8, 4)), L.DepthwiseConv2D(3), L.PReLU(shared_axes=[1, 2]), L.Conv2D(3, 1),
        L.PReLU(shared_axes=[1, 2]), L.GlobalAveragePooling2D(),
    ]))  # fmt: skip
    fused = tf_dwsconv.convert(model, fuse="blocks")
    before = [np.asarray(v) for v in fused.trainable_variables]
    fused.compile("sgd", "mse")
    fused.fit(np.ones((4, 8, 8, 4), "float32"), np.ones((4, 3), "float32"), epochs=1, batch_size=2, verbose=0)
    changed = [not np.array_equal(a, v) for a, v in zip(before, fused.trainable_variables)]
    assert any("slopes" in v.path and c for v, c in zip(fused.trainable_variables, changed))
