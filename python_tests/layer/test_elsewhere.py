"""Where our layers cannot go: into ONNX, and into models of tf_keras. Each ends with what to do instead."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_dwsconv
from tf_dwsconv import _tf_keras, activations

L = keras.layers
SEPARABLE = tf_dwsconv.DepthwiseSepConv2D
BLOCK = tf_dwsconv.FusedConvBlock
DEPTHWISE = tf_dwsconv.FusedDepthwiseConv2D
NORM = tf_dwsconv.FusedBatchNormalization
X = np.random.default_rng(0).standard_normal((2, 8, 8, 3)).astype(np.float32)


def model_of(*layers):
    return keras.Sequential([keras.Input((8, 8, 3)), *layers])


@pytest.mark.usefixtures("op_library")
@pytest.mark.parametrize(
    "make",
    [
        lambda: model_of(SEPARABLE(4, 3)),
        lambda: model_of(BLOCK(4, 3, expand_filters=6)),
        lambda: model_of(DEPTHWISE(3), NORM()),
        lambda: model_of(model_of(L.Conv2D(3, 1), SEPARABLE(4, 3)), L.Flatten()),
        lambda: tf_dwsconv.convert(model_of(L.Conv2D(4, 3), L.ReLU(), L.SeparableConv2D(5, 3))),
    ],
    ids=["layer", "block", "depthwise", "nested", "converted"],
)
def test_onnx_export_names_to_builtin(make, tmp_path):
    model = make()
    model(X)  # Keras wants it
    path = tmp_path / "model.onnx"
    with pytest.raises(ValueError, match="to_builtin"):
        model.export(str(path), format="onnx", verbose=False)
    assert not path.exists()


def test_onnx_export_of_stock_layers_again(tmp_path):
    """What the message advises works, in a runtime that knows nothing of us."""
    onnxruntime = pytest.importorskip("onnxruntime")
    fused = tf_dwsconv.convert(model_of(L.Conv2D(4, 3), L.ReLU(), L.SeparableConv2D(5, 3), L.Flatten()))
    stock = tf_dwsconv.to_builtin(fused)
    stock(X)
    path = str(tmp_path / "model.onnx")
    stock.export(path, format="onnx", verbose=False)
    session = onnxruntime.InferenceSession(path)
    (y,) = session.run(None, {session.get_inputs()[0].name: X})
    np.testing.assert_allclose(y, fused(X), atol=1e-5)


def of_tf_keras(base):
    """A class that stands for one of tf_keras, which need not be installed."""
    return type(base.__name__, (base,), {"__module__": "tf_keras.src.engine.functional"})


@pytest.mark.parametrize("function", [tf_dwsconv.convert, tf_dwsconv.to_builtin], ids=["convert", "to_builtin"])
def test_a_model_of_tf_keras_is_refused_by_name(function):
    model = of_tf_keras(type("Sequential", (), {}))()
    derived = type("Mine", (type(model),), {"__module__": "__main__"})()
    for given in (model, derived):
        with pytest.raises(TypeError, match=r"`model` must be a model of Keras 3.*not with tf_keras.*`import keras`"):
            function(given)


def test_an_activation_of_tf_keras_is_refused_by_name():
    def relu(x):
        return x

    relu.__module__ = "tf_keras.src.activations"
    with pytest.raises(ValueError, match=r"`activation` must be .*not with tf_keras.*Give the word"):
        activations.require(relu, "activation")
    layer = of_tf_keras(type("ReLU", (), {"__call__": lambda self, x: x}))()
    with pytest.raises(ValueError, match=r"`depthwise_activation` must be .*not with tf_keras"):
        activations.require(layer, "depthwise_activation")


@pytest.mark.parametrize(
    "make",
    [lambda: SEPARABLE(4, 3), lambda: BLOCK(4, 3), lambda: DEPTHWISE(3), lambda: NORM()],
    ids=["layer", "block", "depthwise", "norm"],
)
def test_a_model_of_tf_keras_cannot_hold_our_layers(make, monkeypatch):
    import sys
    import types

    def message(error):
        return pytest.raises(error, match=r"tf_keras.*works with Keras 3.*`import keras`")

    # Sequential.add
    add = eval("lambda layer: hasattr(layer, '_keras_history')", {"__name__": "tf_keras.src.engine.sequential"})
    with message(TypeError):
        add(make())
    # a functional model
    monkeypatch.setitem(sys.modules, "tf_keras", types.ModuleType("tf_keras"))
    with message(TypeError):
        _tf_keras.refuse_inputs(of_tf_keras(type("KerasTensor", (), {}))())
    # a subclassed model, whose call calls ours
    utils = types.ModuleType("tf_keras.src.engine.base_layer_utils")
    utils.call_context = lambda: types.SimpleNamespace(in_call=True)
    monkeypatch.setitem(sys.modules, utils.__name__, utils)
    with message(TypeError):
        make()(tf.ones([1, 8, 8, 3]))


def test_models_of_keras_hold_them_as_ever():
    """Keras' own Sequential asks for the same attribute."""
    model = keras.Sequential([DEPTHWISE(1), NORM(), SEPARABLE(4, 3), BLOCK(5, 3)])
    assert model(np.ones((1, 8, 8, 3), np.float32)).shape == (1, 6, 6, 5)
    assert not hasattr(SEPARABLE(4, 3), "_keras_history")
