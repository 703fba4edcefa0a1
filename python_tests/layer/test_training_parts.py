"""The layers that take stock ones' place in training: `FusedBatchNormalization` and `FusedDepthwiseConv2D`."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import reference
import tensorflow as tf
from conftest import FALLBACK, check_python, check_tests, label, op_calls
from layer_support import X, close
from native_support import ISAS

import tf_dwsconv
from tf_dwsconv._tf import library

pytestmark = pytest.mark.usefixtures("op_library")

L = keras.layers
KINDS = {tf_dwsconv.FusedBatchNormalization: L.BatchNormalization, tf_dwsconv.FusedDepthwiseConv2D: L.DepthwiseConv2D}


def pair(kind, shape, activation=None, **options):
    """A layer of ours and Keras' own, with the same weights, none of which is what it begins with."""
    ours, stock = kind(activation=activation, **options), KINDS[kind](**options)
    rng = np.random.default_rng(0)
    for layer in (ours, stock):
        layer.build(shape)
    for own, other in zip(ours.weights, stock.weights):
        assert own.name == other.name and own.trainable == other.trainable
        value = rng.uniform(0.5, 2, own.shape)
        own.assign(value)
        other.assign(value)
    return ours, stock


def train(layer, function, x, grad):
    """Result, gradients by x and the weights, and what the layer has learned, of one step in a graph."""

    @tf.function
    def step(x, grad):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = function(layer(x, training=True) if isinstance(layer, L.BatchNormalization) else layer(x))
        weights = [v.value for v in layer.trainable_variables]
        return y, *tape.gradient(y, [x, *weights], output_gradients=tf.cast(grad, y.dtype))

    found = step(tf.constant(x), tf.constant(grad))
    return [np.asarray(tf.cast(t, tf.float64)) for t in (*found, *layer.non_trainable_variables)]


def norm_calls():
    return sum(op_calls("dwsconv_batch_norm_calls").values())


@pytest.mark.parametrize(
    "shape, options, runs",
    [
        ((4, 9, 7, 12), {}, True),
        ((64, 5), {}, True),
        ((4, 6, 5), {"center": False}, True),
        ((2, 3, 4, 5, 6), {"scale": False, "momentum": 0.5}, True),
        ((4, 9, 7, 12), {"axis": 3, "epsilon": 2e-5}, True),
        ((4, 9, 7, 12), {"axis": 1}, False),
        ((4, 9, 7, 12), {"epsilon": 1e-7}, False),
        ((4, 9, 7, 12), {"renorm": True}, False),
        ((4, 9, 7, 12), {"dtype": "float64"}, False),
        ((1, 1, 1, 4), {}, True),
    ],
    ids=label,
)
@pytest.mark.parametrize("activation", [None, "silu", "sigmoid", "softsign"])
def test_a_batch_norm_trains_as_kerass_own(shape, options, runs, activation):
    ours, stock = pair(tf_dwsconv.FusedBatchNormalization, shape, activation, **options)
    rng = np.random.default_rng(1)
    x, grad = (rng.standard_normal(shape).astype(options.get("dtype", "float32")) for _ in range(2))
    before = 0 if FALLBACK else norm_calls()
    found = train(ours, lambda y: y, x, grad)
    if not FALLBACK:
        assert norm_calls() - before == (2 if runs else 0)
    for a, b in zip(found, train(stock, keras.activations.get(activation), x, grad)):
        close(a, b, 1e-4 if shape[0] == 1 else 2e-5)
    close(ours(x, training=False), keras.activations.get(activation)(stock(x, training=False)))


@pytest.mark.parametrize("policy, tolerance", [("mixed_bfloat16", 0.01), ("mixed_float16", 0.002)])
def test_a_batch_norm_in_mixed_precision(policy, tolerance):
    ours, stock = pair(tf_dwsconv.FusedBatchNormalization, X.shape, "silu", dtype=policy)
    grad = np.random.default_rng(1).standard_normal(X.shape).astype("float32")
    for a, b in zip(train(ours, lambda y: y, X, grad), train(stock, keras.activations.silu, X, grad)):
        close(a, b, tolerance)
    assert ours(X).dtype == ours.compute_dtype and ours.gamma.dtype == "float32"


def test_a_frozen_batch_norm_keeps_its_statistics_and_passes_gradients():
    ours, stock = pair(tf_dwsconv.FusedBatchNormalization, X.shape, "relu6")
    for layer in (ours, stock):
        layer.trainable = False
    grad = np.random.default_rng(1).standard_normal(X.shape).astype("float32")
    for a, b in zip(train(ours, lambda y: y, X, grad), train(stock, keras.activations.relu6, X, grad)):
        close(a, b)


def test_a_masked_batch_norm_is_kerass():
    x, mask = X[:, 0], np.array([[True] * 5 + [False] * 6] * 2)
    results = [layer(x, training=True, mask=mask) for layer in pair(tf_dwsconv.FusedBatchNormalization, x.shape)]
    close(*results)


def test_no_pictures_in_a_batch():
    ours, stock = pair(tf_dwsconv.FusedBatchNormalization, (None, 3, 3, 4))
    empty = np.zeros((0, 3, 3, 4), "float32")
    assert ours(empty, training=True).shape == stock(empty, training=True).shape == (0, 3, 3, 4)
    np.testing.assert_array_equal(ours.moving_mean, stock.moving_mean)  # NaN in both: there was nothing to learn from


def test_inside_xla(recwarn):
    for kind in KINDS:
        options = {"kernel_size": 3} if kind is tf_dwsconv.FusedDepthwiseConv2D else {}
        ours, stock = pair(kind, X.shape, "relu6", **options)
        mode = {} if options else {"training": True}
        compiled = tf.function(lambda x, layer=ours, mode=mode: layer(x, **mode), jit_compile=True)
        close(compiled(X), keras.activations.relu6(stock(X, **mode)))
        assert not ours.supports_jit


def in_float64(tensor, channels_first):
    return (tensor.transpose(0, 2, 3, 1) if channels_first else tensor).astype("float64")


@pytest.mark.parametrize("isa", ISAS)
def test_a_depthwise_convolution_against_float64(isa, monkeypatch):
    """Windows, strides, dilations, multipliers, layouts: forward by the reference, backward by float64 stock ops."""
    monkeypatch.setenv("DWSCONV_ISA", isa)
    rng, before, cases = np.random.default_rng(7), None if FALLBACK else op_calls("dwsconv_backward_calls"), 0
    for _ in range(60):
        c, m = int(rng.choice([1, 3, 8, 16, 17, 40, 130])), int(rng.choice([1, 1, 1, 2, 5]))
        stride = int(rng.integers(1, 4))
        options = {
            "kernel_size": (int(rng.integers(1, 6)), int(rng.integers(1, 9))),
            "strides": stride,
            "dilation_rate": int(rng.integers(1, 3)) if stride == 1 else 1,
            "padding": str(rng.choice(["same", "valid"])),
            "depth_multiplier": m,
            "use_bias": bool(rng.integers(2)),
        }
        word, first = str(rng.choice(["none", "silu", "tanh", "gelu"])), bool(rng.integers(2))
        x = rng.standard_normal((int(rng.integers(1, 5)), int(rng.integers(9, 15)), int(rng.integers(16, 21)), c))
        ours = tf_dwsconv.FusedDepthwiseConv2D(
            activation=None if word == "none" else word, data_format="channels_first" if first else None, **options
        )
        given = (x.transpose(0, 3, 1, 2) if first else x).astype("float32")
        ours.build(given.shape)
        for weight in ours.weights:
            weight.assign(rng.standard_normal(weight.shape))
        stock = L.DepthwiseConv2D(dtype="float64", **options)
        stock.build(x.shape)
        stock.set_weights(ours.get_weights())
        grad = rng.standard_normal(stock.compute_output_shape(x.shape))
        own_grad = (grad.transpose(0, 3, 1, 2) if first else grad).astype("float32")
        found = train(ours, lambda y: y, given, own_grad)
        function = lambda y, word=word: y if word == "none" else keras.activations.get(word)(y)  # noqa: E731
        expected = train(stock, function, in_float64(given, first), in_float64(own_grad, first))
        if first:
            found[:2] = (t.transpose(0, 2, 3, 1) for t in found[:2])
        layer = reference.Layer(
            np.asarray(ours.kernel, np.float64), None, strides=ours.strides, dilations=ours.dilation_rate,
            padding=ours.padding.upper(), depthwise_activation=(word, 0.2),
            depthwise_bias=np.asarray(ours.bias, np.float64) if ours.use_bias else None,
        )  # fmt: skip
        close(found[0], reference.between(in_float64(given, first), layer), 1e-5)
        # Sums of as many products as there are pixels, in float32.
        for a, b in zip(found, expected):
            close(a, b, 1e-4)
        cases += 1
    if not FALLBACK:
        ran = "avx512" if isa == "amx" else isa  # there is no product, so nothing for tiles
        counted = {name: count + (cases if name == ran else 0) for name, count in before.items()}
        assert op_calls("dwsconv_backward_calls") == counted


@pytest.mark.parametrize("policy, tolerance", [("mixed_bfloat16", 0.02), ("mixed_float16", 0.003)])
def test_a_depthwise_convolution_in_mixed_precision(policy, tolerance):
    """Beside the same values in float64: filters are rounded as the layer rounds them."""
    options = {"kernel_size": 5, "padding": "same", "strides": 2}
    ours, _ = pair(tf_dwsconv.FusedDepthwiseConv2D, X.shape, "silu", dtype=policy, **options)
    stock = L.DepthwiseConv2D(dtype="float64", **options)
    stock.build(X.shape)
    kind = tf.as_dtype(ours.compute_dtype).as_numpy_dtype
    stock.set_weights([np.asarray(w).astype(kind).astype("float64") for w in ours.get_weights()])
    x = X.astype(kind)
    grad = np.random.default_rng(1).standard_normal(stock.compute_output_shape(X.shape)).astype(kind)
    expected = train(stock, keras.activations.silu, x.astype("float64"), grad.astype("float64"))
    for a, b in zip(train(ours, lambda y: y, x, grad), expected):
        close(a, b, tolerance)


def test_second_derivatives_of_a_depthwise_convolution():
    results = []
    for layer in pair(tf_dwsconv.FusedDepthwiseConv2D, X.shape, None, kernel_size=3):
        x = tf.constant(X)
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                loss = tf.reduce_sum(tf.square(layer(x)))
            loss = tf.reduce_sum(tf.sin(inner.gradient(loss, x)))
        results.append([tf.convert_to_tensor(t) for t in outer.gradient(loss, [x, layer.kernel.value])])
    for a, b in zip(*results):
        close(a, b, 1e-4)


@pytest.mark.skipif(FALLBACK, reason="it is about the op")
@pytest.mark.parametrize(
    "changes, words",
    [
        ({"want_bias": 1}, "want_bias must be 0 where there is no projection"),
        ({"want_pointwise_filter": 1}, "want_pointwise_filter must be 0"),
        ({"want_input": 2}, "want_input must be 0 or 1"),
        ({"scale": (np.ones((2, 6), "f"),)}, "no backward pass of a chain with a gate"),
        ({"normalize": True}, "no backward pass of a chain with a norm"),
        ({"residual": (np.ones((2, 10, 9, 6), "f"),)}, "no backward pass of a chain with no projection but"),
        ({"depthwise_filter": ()}, "expand_filter, depthwise_filter or pointwise_filter|depthwise"),
        ({"depthwise_filter": (np.ones((3, 3, 5, 1), "f"),)}, "depthwise_filter"),
        ({"grad": np.ones((2, 12, 11, 6), "f")}, "grad must have the forward op's output shape"),
    ],
    ids=label,
)
def test_bad_input_of_the_gradient_of_blocks(changes, words):
    wants = dict.fromkeys(("input", "depthwise_filter", "pointwise_filter", "depthwise_bias", "bias", "residual"), 0)
    arguments = {
        "input": X, "depthwise_filter": (np.ones((3, 3, 6, 1), "f"),), "grad": np.ones((2, 10, 9, 6), "f"),
        "padding": "VALID", **{f"want_{name}": want for name, want in wants.items()},
    }  # fmt: skip
    lists = ("expand_filter", "expand_bias", "depthwise_bias", "pointwise_filter", "bias", "scale", "residual")
    lists += ("expand_slopes", "depthwise_slopes", "slopes", "output")
    arguments.update(dict.fromkeys(lists, ()), want_input=1)
    op = library.block_gradient_op()
    assert op(**arguments).d_input[0].shape == X.shape
    with pytest.raises((tf.errors.InvalidArgumentError, ValueError), match=words):
        op(**{**arguments, **changes})


def test_a_depthwise_convolution_takes_strides_with_dilations():
    layer = tf_dwsconv.FusedDepthwiseConv2D(3, 2, "same", dilation_rate=2, activation=("leaky_relu", 0.1))
    assert layer(X).shape == (2, 6, 6, 6)


@pytest.mark.parametrize("activation", [None, "relu6", ("leaky_relu", 0.3), "softsign"], ids=label)
def test_configs_and_files(activation, tmp_path):
    model = keras.Sequential([
        keras.Input((12, 11, 6)),
        tf_dwsconv.FusedDepthwiseConv2D(3, activation=activation, depthwise_regularizer="l2"),
        tf_dwsconv.FusedBatchNormalization(activation=activation, momentum=0.8, gamma_constraint="non_neg"),
    ])  # fmt: skip
    for layer in model.layers:
        again = type(layer).from_config(layer.get_config())
        assert again.get_config() == layer.get_config()
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    close(loaded(X), model(X), 0)
    model.export(tmp_path / "saved", verbose=False)
    served = tf.saved_model.load(str(tmp_path / "saved"))
    close(served.serve(X), model(X))


def test_a_layer_as_the_activation_trains():
    layer = tf_dwsconv.FusedBatchNormalization(activation=L.PReLU(shared_axes=[1, 2]))
    with tf.GradientTape() as tape:
        y = layer(X, training=True)
    assert all(g is not None for g in tape.gradient(y, layer.trainable_variables)) and len(layer.weights) == 5


def test_bad_arguments():
    with pytest.raises(TypeError, match="`activation` must be"):
        tf_dwsconv.FusedBatchNormalization(activation=3)
    with pytest.raises(TypeError, match="`activation` must be"):
        tf_dwsconv.FusedDepthwiseConv2D(3, activation=3)
    with pytest.raises(ValueError, match="activation"):
        tf_dwsconv.FusedBatchNormalization(activation=("leaky_relu", float("nan")))


@pytest.mark.skipif(FALLBACK, reason="it is what this test runs")
def test_again_in_graphs_with_the_fallback():
    check_tests("layer/test_training_parts.py", "-k", "not new_processes", at_least=50, DWSCONV_TEST_FALLBACK="1")


def test_in_new_processes(tmp_path):
    """The first thing a process does with the package is to train, or to load a file and go on training."""
    program = """
import sys, keras, numpy as np
rng = np.random.default_rng(0)
x, y = rng.standard_normal((24, 16, 16, 6)).astype("float32"), rng.integers(0, 3, 24)
if sys.argv[1] == "make":
    import tf_dwsconv
    L = keras.layers
    keras.utils.set_random_seed(1)
    stock = keras.Sequential([keras.Input((16, 16, 6)), L.DepthwiseConv2D(3, use_bias=False), L.BatchNormalization(),
        L.ReLU(6.0), L.Conv2D(8, 1, use_bias=False), L.BatchNormalization(), L.Activation("silu"),
        L.GlobalAveragePooling2D(), L.Dense(3)])
    model = tf_dwsconv.convert(stock, training=True)
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
else:
    model = __import__("tf_dwsconv") and keras.models.load_model(sys.argv[2])
history = model.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0).history["loss"]
if sys.argv[1] == "make":
    model.save(sys.argv[2])
print(*history, *model.predict(x[:2], verbose=0).ravel())
"""
    path, results = str(tmp_path / "m.keras"), []
    for environment in ({}, {"DWSCONV_DISABLE": "1"}):
        results.append([check_python(program, how, path, **environment).split()[-8:] for how in ("make", "load")])
    for ours, fallback in zip(*results):
        np.testing.assert_allclose(np.float64(ours), np.float64(fallback), rtol=2e-3, atol=2e-3)


def test_in_a_mirrored_strategy():
    """Two replicas, each with statistics of its part of a batch, as with Keras' own layers."""
    program = """
import keras, numpy as np, tensorflow as tf, tf_dwsconv
cpu = tf.config.LogicalDeviceConfiguration()
tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], [cpu, cpu])
L = keras.layers
rng = np.random.default_rng(0)
x, y = rng.standard_normal((16, 9, 9, 6)).astype("float32"), rng.integers(0, 3, 16)
for ours in (False, True):
    with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((9, 9, 6)), L.DepthwiseConv2D(3), L.BatchNormalization(momentum=0.5),
            L.Activation("silu"), L.GlobalAveragePooling2D(), L.Dense(3)])
        model = tf_dwsconv.convert(model, training=True) if ours else model
        model.compile(keras.optimizers.SGD(0.1), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    loss = model.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0).history["loss"]
    print(*loss, *(float(v.numpy().sum()) for v in model.non_trainable_variables))
"""
    stock, ours = (np.float64(line.split()) for line in check_python(program).splitlines()[-2:])
    np.testing.assert_allclose(ours, stock, rtol=1e-4)
