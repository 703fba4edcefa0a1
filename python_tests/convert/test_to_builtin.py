"""`tf_dwsconv.to_builtin`: stock layers with the same answers, run where no op library can be loaded."""

from __future__ import annotations

import importlib.util
import json

import keras
import numpy as np
import pytest
from conftest import check_python, label, op_calls
from convert_support import chain, difference, found, functional, pictures, randomise

import tf_dwsconv

pytestmark = pytest.mark.usefixtures("op_library")

L = keras.layers


def network(x):
    """Every pattern that `convert` makes a block of, but the norm, whose GELU tf2onnx does not take."""
    x = L.Conv2D(8, 3, 2, padding="same", use_bias=False)(x)
    x = L.ReLU(6.0)(L.BatchNormalization()(x))
    y = L.Conv2D(16, 1, activation="hard_silu")(x)
    x = L.Add()([x, chain(y, 8, name="inverted")])
    z = L.LeakyReLU(negative_slope=0.1)(L.DepthwiseConv2D(5, 2, padding="same")(x))
    gate = L.Conv2D(8, 1, activation="sigmoid")(L.GlobalAveragePooling2D(keepdims=True)(z))
    x = L.BatchNormalization()(L.Conv2D(8, 1, use_bias=False)(L.Multiply()([z, gate])))
    x = chain(x, 12, stride=2, pad=True, activation="silu", name="down")
    return L.Dense(5, activation="softmax")(L.GlobalAveragePooling2D()(x))


def stock(model):
    """The model without any layer of ours."""
    builtin = tf_dwsconv.to_builtin(model)
    layers = [layer for layer in builtin._flatten_layers(include_self=False) if not isinstance(layer, keras.Model)]
    assert all(type(layer).__module__.startswith("keras.") for layer in layers)
    return builtin


def test_same_answers_without_our_op():
    model = functional(network, (32, 32, 3))
    fused = tf_dwsconv.convert(model)
    builtin = stock(fused)
    before = sum(op_calls().values())
    assert difference(builtin, model, pictures(model)) < 1e-5
    assert sum(op_calls().values()) == before
    assert [t.name for t in builtin.inputs] == [t.name for t in model.inputs]
    assert not {id(v) for v in builtin.variables} & {id(v) for v in fused.variables}


def test_there_and_back_again():
    fused = tf_dwsconv.convert(functional(network, (32, 32, 3)))
    again = tf_dwsconv.convert(stock(fused))
    assert found(again) == found(fused)
    assert difference(again, fused, pictures(fused)) < 1e-6


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"activation": ("leaky_relu", 0.3), "pointwise_regularizer": "l2", "use_bias": False},
        {"depthwise_use_bias": True, "depthwise_activation": "relu6", "activation": "softmax"},
        {"depthwise_activation": ("leaky_relu", 0.3), "strides": (2, 1), "dilation_rate": 1},
        {"depthwise_activation": keras.activations.elu, "strides": 2, "dilation_rate": 2, "padding": "valid"},
    ],
    ids=label,
)
def test_the_separable_layer(options):
    options = {"padding": "same", **options}
    model = functional(lambda x: tf_dwsconv.DepthwiseSepConv2D(7, 3, name="sep", **options)(x))
    builtin = stock(model)
    assert difference(builtin, model, pictures(model)) < 1e-5
    assert builtin.get_layer("sep").name == "sep"
    if "pointwise_regularizer" in options:
        np.testing.assert_allclose(builtin.losses, model.losses)
    twice = keras.layers.deserialize(keras.layers.serialize(builtin.get_layer("sep")))
    assert twice.get_config() == builtin.get_layer("sep").get_config()


def test_shared_and_nested_layers_and_names_that_are_taken():
    shared = tf_dwsconv.FusedConvBlock(6, 3, name="b", depthwise_activation="relu")
    x = keras.Input((16, 16, 6))
    part = keras.Sequential([keras.Input((16, 16, 6)), tf_dwsconv.FusedConvBlock(6, 3, name="inside")], name="part")
    model = randomise(keras.Model(x, part(shared(L.ReLU(name="b_project")(part(shared(x)))))))
    builtin = stock(model)
    assert difference(builtin, model, pictures(model)) < 1e-5
    assert sorted(layer.name for layer in builtin.layers[1:]) == ["b", "b_depthwise", "b_project", "part"]
    assert len(builtin.get_layer("part").layers) == 2


def test_trainable_and_dtype_are_kept():
    block = tf_dwsconv.FusedConvBlock(6, 3, residual=True, dtype="mixed_bfloat16", name="b")
    block.trainable = False
    model = functional(lambda x: block([x, x]))
    builtin = stock(model)
    assert builtin.trainable_variables == []
    assert {layer.dtype_policy.name for layer in builtin.layers[1:]} == {"mixed_bfloat16"}
    assert difference(builtin, model, pictures(model)) < 0.02


def reference(x, depthwise, pointwise, depthwise_bias, bias, last):
    """A separable layer in "channels_first", with "valid" padding, in NumPy and float64."""
    x, depthwise, pointwise = (np.asarray(a, np.float64) for a in (x, depthwise, pointwise))
    rows, columns = depthwise.shape[:2]
    windows = np.lib.stride_tricks.sliding_window_view(x, (rows, columns), axis=(2, 3))
    z = np.einsum("nchwrs,rscm->nchwm", windows, depthwise).transpose(0, 1, 4, 2, 3)
    z = z.reshape(z.shape[0], -1, *z.shape[3:]) + np.asarray(depthwise_bias, np.float64)[:, None, None]
    y = np.einsum("nehw,ek->nkhw", z, pointwise[0, 0]) + np.asarray(bias, np.float64)[:, None, None]
    return last(y)


def linear(x):
    return x


def leaky(x):
    return np.where(x > 0, x, 0.3 * x)


def softmax_along_the_width(x):
    """As Keras' softmax, which knows nothing of layouts."""
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@pytest.mark.parametrize("width", [7, None], ids=["filters", "unknown"])
@pytest.mark.parametrize(
    "word, last", [(None, linear), (("leaky_relu", 0.3), leaky), ("softmax", softmax_along_the_width)], ids=label
)
@pytest.mark.parametrize("kind", ["separable", "halves", "block"])
def test_channels_first_whose_width_equals_its_filters(kind, word, last, width):
    """There stock Keras adds a bias to the wrong axis: results of 7 filters are 7 pixels wide."""
    between = {"depthwise_use_bias": kind != "separable"}
    if kind == "block":
        layer = tf_dwsconv.FusedConvBlock(
            7, 3, padding="valid", activation=word, data_format="channels_first", name="layer", **between
        )
    else:
        layer = tf_dwsconv.DepthwiseSepConv2D(
            7, 3, activation=word, data_format="channels_first", name="layer", **between
        )
    inputs = keras.Input((6, 9, None if width is None else width + 2))
    model = randomise(keras.Model(inputs, layer(inputs)))
    builtin = stock(model)
    x = np.random.default_rng(0).standard_normal((2, 6, 9, 9)).astype("float32")
    depthwise_bias = np.zeros(6) if kind == "separable" else layer.depthwise_bias.numpy()
    expected = reference(x, layer.depthwise_kernel, layer.pointwise_kernel, depthwise_bias, layer.bias, last)
    for made in (model, builtin):
        np.testing.assert_allclose(made(x), expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
    assert builtin.output_names == ["layer"]
    assert sum(np.prod(v.shape) for v in builtin.trainable_variables) == sum(
        np.prod(v.shape) for v in model.trainable_variables
    )


def test_channels_first_in_the_middle_of_a_block():
    """Three biases, each on the axis of channels: 9 channels expand to 9 pixels, and 7 filters are 7 pixels wide."""
    block = tf_dwsconv.FusedConvBlock(
        7, 3, padding="valid", expand_filters=9, expand_activation="relu", depthwise_activation="relu6",
        data_format="channels_first",
    )  # fmt: skip
    inputs = keras.Input((4, 5, 9))
    model = randomise(keras.Model(inputs, block(inputs)))
    builtin = stock(model)
    assert sum(isinstance(layer, L.Permute) for layer in builtin.layers) >= 4
    assert difference(builtin, model, pictures(model)) < 1e-5


RUN_ELSEWHERE = """
import json, os, sys
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
folder = sys.argv[1]
import keras, numpy as np, tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
import onnxruntime, tf2onnx
assert "tf_dwsconv" not in sys.modules
model = keras.saving.load_model(folder + "/stock.keras")
x = np.load(folder + "/x.npy")
results = {"keras": model(x, training=False).numpy()}

interpreter = Interpreter(model_content=tf.lite.TFLiteConverter.from_keras_model(model).convert())
interpreter.resize_tensor_input(interpreter.get_input_details()[0]["index"], x.shape)
interpreter.allocate_tensors()
interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
interpreter.invoke()
results["litert"] = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])

function = tf.function(lambda t: model(t, training=False), input_signature=[tf.TensorSpec([None, *x.shape[1:]])])
onnx, _ = tf2onnx.convert.from_function(function, function.input_signature, opset=17)
session = onnxruntime.InferenceSession(onnx.SerializeToString(), providers=["CPUExecutionProvider"])
results["onnx"] = session.run(None, {session.get_inputs()[0].name: x})[0]

model.export(folder + "/saved", verbose=False)
saved = tf.saved_model.load(folder + "/saved")
results["saved_model"] = saved.serve(x).numpy()
np.savez(folder + "/results.npz", **results)
print(json.dumps(sorted(results)))
"""


def test_litert_onnx_runtime_and_saved_model(tmp_path):
    """In a process that never imports this package, where it could not find it either."""
    missing = [n for n in ("ai_edge_litert", "onnxruntime", "tf2onnx") if importlib.util.find_spec(n) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)} (packages of the extra `test`)")
    model = functional(network, (32, 32, 3))
    x = pictures(model)[0]
    stock(tf_dwsconv.convert(model)).save(tmp_path / "stock.keras")
    np.save(tmp_path / "x.npy", x)
    printed = check_python(RUN_ELSEWHERE, str(tmp_path))
    assert json.loads(printed.splitlines()[-1]) == ["keras", "litert", "onnx", "saved_model"]
    expected = model(x).numpy()
    with np.load(tmp_path / "results.npz") as results:
        for name, y in results.items():
            assert np.abs(y - expected).max() < 1e-5, name
