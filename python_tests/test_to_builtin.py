"""`tf_dwsconv.to_builtin`: stock layers with the same answers, run where no op library can be loaded."""

from __future__ import annotations

import importlib.util
import json

import keras
import numpy as np
import pytest
from conftest import check_python, op_calls
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
    ids=str,
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
