"""Converted models in other processes: `.keras` files, SavedModels and their signatures, the command line, examples."""

from __future__ import annotations

import re
import subprocess
import sys

import keras
import numpy as np
import pytest
from conftest import ROOT, check_python, python_environment
from convert_support import check, difference, found, functional, pictures
from test_to_builtin import network

import tf_dwsconv

pytestmark = pytest.mark.usefixtures("op_library")

L = keras.layers

RELOAD = """
import os, sys
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
folder = sys.argv[1]
import tf_dwsconv
import keras, numpy as np, tensorflow as tf
x = np.load(folder + "/x.npy")
model = keras.saving.load_model(folder + "/fused.keras")
np.testing.assert_array_equal(tf.function(model)(x, training=False), np.load(folder + "/y.npy"))
served = tf.saved_model.load(folder + "/served")
np.testing.assert_array_equal(served.serve(x), np.load(folder + "/served.npy"))
function = served.signatures["serving_default"]
names = [spec.name for spec in function.structured_input_signature[1].values()]
assert names == ["in0"], names
(result,) = function(in0=tf.constant(x)).values()
np.testing.assert_array_equal(result, np.load(folder + "/served.npy"))
ops = {node.op for f in function.graph.as_graph_def().library.function for node in f.node_def}
assert set(sys.argv[2:]) <= ops, ops
with tf.GradientTape() as tape:
    loss = tf.reduce_sum(served.serve(tf.constant(x)) ** 2)
print("same bits")
"""


@pytest.mark.parametrize(
    "fuse, ops",
    [("blocks", ["TfDwsconv>ConvBlock", "TfDwsconv>DepthwiseSepConv2D"]), ("network", ["TfDwsconv>Network"])],
)
def test_files_and_signatures_in_a_new_process(tmp_path, fuse, ops):
    """Bit for bit, with nothing but `import tf_dwsconv`."""
    import tensorflow as tf

    model = functional(network, (32, 32, 3))
    fused = tf_dwsconv.convert(model, fuse=fuse)
    x = pictures(model)[0]
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", tf.function(fused)(x, training=False))
    fused.save(tmp_path / "fused.keras")
    fused.export(str(tmp_path / "served"), verbose=False)
    served = tf.saved_model.load(str(tmp_path / "served"))
    y = served.serve(x).numpy()
    np.save(tmp_path / "served.npy", y)
    assert np.abs(y - model(x)).max() < 1e-5
    assert check_python(RELOAD, str(tmp_path), *ops).splitlines()[-1] == "same bits"


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "tf_dwsconv.convert", *map(str, arguments)],
        env=python_environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_command_line(tmp_path):
    model = functional(network, (32, 32, 3))
    model.save(tmp_path / "m.keras")
    x = pictures(model)[0]
    done = run(
        "--input", tmp_path / "m.keras", "--output", tmp_path / "fused.keras", "--export", tmp_path / "dir", "--report"
    )
    assert done.returncode == 0, done.stderr
    assert "expand + depthwise + 1x1 + residual" in done.stdout
    assert (tmp_path / "dir" / "saved_model.pb").exists()
    fused = keras.saving.load_model(tmp_path / "fused.keras")
    assert difference(fused, model, [x]) < 1e-5
    done = run("--input", tmp_path / "fused.keras", "--output", tmp_path / "stock.keras", "--builtin")
    assert done.returncode == 0, done.stderr
    assert difference(keras.saving.load_model(tmp_path / "stock.keras"), fused, [x]) < 1e-5


def test_the_page_of_the_documents(tmp_path):
    """All Python of docs/converting.md that is marked so, one block after the other."""
    text = (ROOT / "docs" / "converting.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 3
    printed = check_python(f"import os\nos.chdir({str(tmp_path)!r})\n" + "\n".join(blocks))
    expected = re.findall(r"^# (\S.*)$", "\n".join(blocks), re.MULTILINE)
    assert len(expected) == 2 and all(line in printed for line in expected)


def test_the_face_detector():
    """The demo's network: separable layers with LeakyReLU inside, trained weights, a Sequential model."""
    from face_detector import network as detector

    model = detector.build(L.SeparableConv2D, 96)
    x = np.random.default_rng(0).uniform(0, 255, (2, 96, 96, 3)).astype("float32")
    fused = tf_dwsconv.convert(model)
    assert type(fused) is keras.Sequential
    assert found(fused) == ["scale", *["separable"] * 5, "1x1"]
    assert difference(fused, model, [x]) < 1e-5
    names = {layer.name for layer in model.layers} | {"pixels"}
    assert {layer.name for layer in fused.layers} <= names


def residual_network():
    x = inputs = keras.Input((16, 16, 3))
    x = L.Conv2D(8, 3, padding="same")(x)
    for i in range(2):
        y = L.SeparableConv2D(8, 3, padding="same", use_bias=False, name=f"a{i}")(L.ReLU()(x))
        y = L.ReLU()(L.BatchNormalization()(y))
        y = L.BatchNormalization()(L.SeparableConv2D(8, 3, padding="same", name=f"b{i}")(y))
        x = L.Add()([x, y])
    return keras.Model(inputs, L.Dense(3)(L.GlobalAveragePooling2D()(x)))


def test_a_network_that_was_trained():
    """Separable layers with residuals: after some steps of training, so with moved statistics, and trained further."""
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((32, 16, 16, 3)).astype("float32"), rng.integers(0, 3, 32)
    model = residual_network()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), loss)
    model.fit(x, y, batch_size=8, epochs=3, verbose=0)
    fused = check(model, [*["separable", "separable + residual"] * 2, "dense"])
    np.testing.assert_allclose(fused.predict(x, verbose=0), model.predict(x, verbose=0), atol=1e-4)
    fused.compile(keras.optimizers.Adam(0.001), loss)
    losses = fused.fit(x, y, batch_size=8, epochs=3, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
