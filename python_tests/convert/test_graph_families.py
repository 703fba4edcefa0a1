"""`convert_saved_model` on what `model.export` writes of keras.applications' families, beside `convert(model)`.

A block of ConvNeXt runs by default; `DWSCONV_TEST_FAMILIES=all` runs all nine networks, which takes minutes.
"""

import os

import keras
import numpy as np
import pytest
import tensorflow as tf
from convert_support import randomise
from keras.src.applications.convnext import ConvNeXt
from keras.src.applications.nasnet import NASNet
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

import tf_dwsconv

pytestmark = pytest.mark.usefixtures("op_library")

A = keras.applications
PLAIN = {"weights": None, "classes": 10}


def convnext(depths=(1, 1, 2, 1)):
    return ConvNeXt(
        depths=list(depths), projection_dims=[8, 16, 16, 24], input_shape=(32, 32, 3), drop_path_rate=0.0,
        layer_scale_init_value=1e-1, default_size=32, name="convnext", weights_name="convnext_tiny", **PLAIN,
    )  # fmt: skip


def nasnet():
    return NASNet(
        (32, 32, 3), penultimate_filters=96, num_blocks=1, stem_block_filters=8, skip_reduction=False, weights=None,
        include_top=False, default_size=32,
    )  # fmt: skip


FAMILIES = {
    "MobileNetV3Small": lambda: A.MobileNetV3Small((32, 32, 3), alpha=0.75, **PLAIN),
    "ConvNeXt": convnext,
    "MobileNet": lambda: A.MobileNet((32, 32, 3), alpha=0.25, **PLAIN),
    "MobileNetV2": lambda: A.MobileNetV2((32, 32, 3), alpha=0.35, **PLAIN),
    "MobileNetV3Large": lambda: A.MobileNetV3Large((32, 32, 3), alpha=0.75, **PLAIN),
    "Xception": lambda: A.Xception(weights=None, include_top=False, input_shape=(71, 71, 3)),
    "NASNet": nasnet,
    "EfficientNetB0": lambda: A.EfficientNetB0(input_shape=(32, 32, 3), **PLAIN),
    "EfficientNetV2B0": lambda: A.EfficientNetV2B0(input_shape=(32, 32, 3), **PLAIN),
}


def convolutions(rows):
    """How many convolutions are in what was fused; a separable layer is two, and a Dense is one."""
    words = [word for row in rows if row.fused for word in row.pattern.split(" + ")]
    once = ("expand", "depthwise", "1x1", "convolution", "dense")
    return sum(word in once for word in words) + 2 * words.count("separable")


def test_a_grouped_convolution_of_keras(tmp_path):
    """Keras has XLA compile it, as stock TensorFlow trains none on a CPU; it is read like any other."""
    layers = [
        keras.Input((16, 16, 8)),
        keras.layers.Conv2D(8, 7, padding="same", groups=8),
        keras.layers.LayerNormalization(epsilon=1e-6),
        keras.layers.Dense(32, activation="gelu"),
        keras.layers.Dense(8),
    ]
    model = randomise(keras.Sequential(layers))
    model.export(str(tmp_path / "saved"), verbose=False)
    rows = tf_dwsconv.convert_saved_model(tmp_path / "saved", tmp_path / "out")
    assert [row.pattern for row in rows if row.fused] == ["depthwise + norm + 1x1", "1x1"]
    x = np.random.default_rng(0).uniform(0, 1, (2, 16, 16, 8)).astype("float32")
    (new,) = tf.saved_model.load(str(tmp_path / "out")).signatures["serving_default"](tf.constant(x)).values()
    expected = model.predict(x, verbose=0)
    assert np.abs(expected).max() > 0 and np.abs(new.numpy() - expected).max() < 1e-5 * np.abs(expected).max()


def _frozen(folder):
    """The report of the same network frozen by TensorFlow and written as a GraphDef."""
    loaded = tf.saved_model.load(str(folder / "saved"))
    frozen = convert_variables_to_constants_v2(loaded.signatures["serving_default"])
    (folder / "frozen.pb").write_bytes(frozen.graph.as_graph_def().SerializeToString())
    return tf_dwsconv.convert_saved_model(folder / "frozen.pb", folder / "out_of_frozen")


@pytest.mark.parametrize("name", FAMILIES)
def test_as_many_as_in_the_keras_model(name, tmp_path):
    """With its batch norms and variables, as Keras exports it: as many fused convolutions, and equal answers."""
    if os.environ.get("DWSCONV_TEST_FAMILIES") != "all":
        pytest.skip("DWSCONV_TEST_FAMILIES=all runs it")
    model = randomise(FAMILIES[name]())
    expected = convolutions(tf_dwsconv.convert.report(tf_dwsconv.convert(model)))
    model.export(str(tmp_path / "saved"), verbose=False)
    rows = tf_dwsconv.convert_saved_model(tmp_path / "saved", tmp_path / "out")
    assert convolutions(rows) == expected > 8
    assert convolutions(_frozen(tmp_path)) == expected
    size = model.input_shape[1]
    x = tf.constant(np.random.default_rng(0).uniform(0, 1, (2, size, size, 3)).astype("float32"))
    old, new = (
        next(iter(tf.saved_model.load(str(tmp_path / folder)).signatures["serving_default"](x).values())).numpy()
        for folder in ("saved", "out")
    )
    assert np.abs(old).max() > 0 and np.abs(new - old).max() < 1e-4 * np.abs(old).max()
