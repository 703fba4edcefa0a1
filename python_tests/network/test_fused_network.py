"""The layer `FusedNetwork`: its config, its inputs, its gradients, files of it; and files of networks."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import check_python
from convert_support import chain, difference, functional, pictures
from program_support import program

import tf_dwsconv
from tf_dwsconv import FusedNetwork
from tf_dwsconv._program import Program

pytestmark = pytest.mark.usefixtures("op_library")

L = keras.layers
TWO = program([{"op": "add", "x": 0, "y": 1, "output": 2}], {0: [None, 4], 1: [None, 4]}, [2, 0])


def network(x):
    """Most of what networks have, smooth, so that gradients can be compared."""
    x = L.SeparableConv2D(8, 3, padding="same", activation="silu", name="first")(x)
    y = L.DepthwiseConv2D(3, padding="same", activation="gelu")(L.Conv2D(16, 1, activation="tanh")(x))
    gate = L.Conv2D(16, 1, activation="sigmoid")(L.GlobalAveragePooling2D(keepdims=True)(y))
    y = L.Conv2D(8, 1)(L.Multiply()([y, gate]))
    x = L.AveragePooling2D(2)(L.Add()([x, y]))
    return L.Dense(3, activation="softmax", name="end")(L.Flatten()(L.LayerNormalization()(x)))


@pytest.fixture(scope="module")
def models():
    """A stock model, and the one network that it becomes."""
    model = functional(network, (16, 16, 4))
    return model, tf_dwsconv.convert(model)


def test_config_and_shapes():
    layer = FusedNetwork(TWO, name="two")
    again = FusedNetwork.from_config(layer.get_config())
    assert again.program == layer.program == Program.from_text(TWO).text and again.name == "two"
    assert layer.compute_output_shape([(5, 4), (None, 4)]) == [(5, 4), (5, 4)]
    x, y = (tf.random.normal((2, 4)) for _ in range(2))
    total, first = layer([x, y])
    np.testing.assert_array_equal(total, x + y)
    np.testing.assert_array_equal(first, x)
    symbolic = layer([keras.Input((4,)), keras.Input((4,))])
    assert [t.shape for t in symbolic] == [(None, 4), (None, 4)]


def test_what_is_refused():
    layer = FusedNetwork(TWO)
    x = tf.zeros((2, 4))
    with pytest.raises(ValueError, match="must be JSON"):
        FusedNetwork("no program")
    with pytest.raises(ValueError, match="must compute in one of float32, bfloat16, float16; given float64"):
        FusedNetwork(TWO, dtype="float64")
    with pytest.raises(ValueError, match="an input and an output"):
        FusedNetwork(program([], {0: [None, 4]}, []))
    with pytest.raises(ValueError, match=r"must be 2 tensors, \['in0', 'in1'\]; given 3"):
        layer([x, x, x])
    with pytest.raises(ValueError, match="must have shape"):
        layer([x, tf.zeros((2, 5))])
    layer([x, x])
    with pytest.raises(ValueError, match=r"a list of 2 tensors, \['in0', 'in1'\]"):
        layer(x)
    with pytest.raises(TypeError, match="given int32"):
        layer([tf.zeros((2, 4), tf.int32), x])
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError)):
        layer([x, tf.zeros((2, 5))])


def test_gradients(models):
    """By inputs and by weights, as those of stock layers with the same weights in float32."""
    model, converted = models
    stock = tf_dwsconv.to_builtin(converted)
    x = tf.constant(pictures(model)[0])
    found = []
    for m in (converted, stock):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(m(x) ** 2)
        found.append(tape.gradient(loss, [x, *[v.value for v in m.trainable_variables]]))
    close = lambda a, b: np.abs(a - b).max() <= 1e-4 * np.abs(b).max()  # noqa: E731
    assert close(found[0][0].numpy(), found[1][0].numpy())
    pieces = Program.from_text(converted.layers[-1].program).pieces(found[0][1].numpy())
    norms = sorted(float(np.linalg.norm(piece)) for piece in pieces)
    expected = sorted(float(np.linalg.norm(g)) for g in found[1][1:])
    np.testing.assert_allclose(norms, expected, rtol=1e-3, atol=1e-5)


def test_training_lowers_the_loss(models):
    """In a graph, on the one variable."""
    converted = keras.models.clone_model(models[1])
    converted.set_weights([0.3 * value for value in models[1].get_weights()])  # no softmax at its end
    x = np.random.default_rng(0).standard_normal((16, 16, 16, 4)).astype("float32")
    converted.compile(keras.optimizers.SGD(0.002), "sparse_categorical_crossentropy")
    losses = converted.fit(x, np.arange(16) % 3, epochs=4, batch_size=16, verbose=0).history["loss"]
    assert losses[-1] < losses[0]


def test_xla_and_stock_ops(models, monkeypatch):
    """Where the op cannot run the steps are stock ops, with the same answers."""
    model, converted = models
    x = pictures(model)[0]
    expected = model(x).numpy()
    compiled = tf.function(lambda x: converted(x), jit_compile=True)
    np.testing.assert_allclose(compiled(x), expected, atol=1e-5)
    monkeypatch.setenv("DWSCONV_DISABLE", "1")
    np.testing.assert_allclose(converted(x), expected, atol=1e-5)


RELOAD = """
import sys
folder = sys.argv[1]
import tf_dwsconv
import keras, numpy as np, tensorflow as tf
x, y = np.load(folder + "/x.npy"), np.load(folder + "/y.npy")
compare = np.testing.assert_array_equal
model = keras.saving.load_model(folder + "/network.keras")
compare(tf.function(model)(x, training=False), y)
served = tf.saved_model.load(folder + "/served")
compare(served.serve(x), y)
[result] = served.signatures["serving_default"](in0=tf.constant(x)).values()
compare(result, y)
with tf.GradientTape() as tape:
    loss = tf.reduce_sum(served.serve(tf.constant(x)) ** 2)
print("right")
"""


def test_files_in_a_new_process(models, tmp_path):
    """`.keras`, weights and a SavedModel, bit for bit."""
    model, converted = models
    x = pictures(model)[0]
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", tf.function(converted)(x, training=False))
    converted.save(tmp_path / "network.keras")
    converted.export(str(tmp_path / "served"), verbose=False)
    assert "right" in check_python(RELOAD, str(tmp_path))
    again = keras.models.clone_model(converted)
    converted.save_weights(tmp_path / "w.weights.h5")
    again.load_weights(tmp_path / "w.weights.h5")
    assert difference(again, converted, [x]) == 0


def read_file(path):
    """(program, weights by name) of a network's file, by the format's description alone."""
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    text = header.pop("__metadata__")["tf_dwsconv.program"]
    types = {"F32": np.float32, "F16": np.float16}
    weights = {}
    for name, entry in header.items():
        begin, stop = entry["data_offsets"]
        weights[name] = np.frombuffer(data[end + begin : end + stop], types[entry["dtype"]]).reshape(entry["shape"])
    assert max(entry["data_offsets"][1] for entry in header.values()) == len(data) - end
    return Program.from_text(text), weights


def test_a_file_of_a_network(models, tmp_path):
    """The program with the model's names, and the weights that it was made of, which compute the same."""
    model, converted = models
    path = tmp_path / "network.safetensors"
    tf_dwsconv.save_network(converted, path)
    saved, weights = read_file(path)
    assert [given.name for given in saved.inputs] == ["in0"] and [out.name for out in saved.outputs] == ["end"]
    assert [w.name for w in saved.weights] == list(weights)
    layer = FusedNetwork(saved)
    layer.build((None, 16, 16, 4))
    layer.values.assign(np.concatenate([value.reshape(-1) for value in weights.values()]))
    x = pictures(model)[0]
    np.testing.assert_array_equal(layer(x), converted(x))
    with pytest.raises(ValueError, match="exists; overwrite=True writes over it"):
        tf_dwsconv.save_network(converted, path)
    tf_dwsconv.save_network(converted, str(path), overwrite=True)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_a_file_of_several_inputs_and_outputs(tmp_path):
    """In the model's order, whatever the program's."""

    def make(x, y):
        z = L.Add(name="sum")([chain(y, 6, name="a"), chain(x, 6, name="b")])
        return [L.GlobalAveragePooling2D(name="pooled")(z), z]

    model = functional(make, (8, 8, 6), (8, 8, 3))
    tf_dwsconv.save_network(tf_dwsconv.convert(model), tmp_path / "network")
    saved, _ = read_file(tmp_path / "network")
    assert [(given.name, given.shape) for given in saved.inputs] == [("in0", (None, 8, 8, 6)), ("in1", (None, 8, 8, 3))]
    assert [out.name for out in saved.outputs] == ["pooled", "sum"]


def test_models_that_are_no_network(models, tmp_path):
    model, converted = models
    with pytest.raises(ValueError, match="holds no FusedNetwork; give what"):
        tf_dwsconv.save_network(model, tmp_path / "a")
    partly = functional(lambda x: L.Lambda(lambda t: keras.ops.sort(t), name="mine")(network(x)), (16, 16, 4))
    with pytest.raises(ValueError, match="holds 'mine' of class Lambda, which a program cannot compute"):
        tf_dwsconv.save_network(tf_dwsconv.convert(partly), tmp_path / "a")
    with pytest.raises(ValueError, match="holds no FusedNetwork"):
        tf_dwsconv.save_network(keras.Sequential([keras.Input((4,)), L.Identity()]), tmp_path / "a")
    with pytest.raises(TypeError, match="must be a Keras model"):
        tf_dwsconv.save_network(converted.layers[-1], tmp_path / "a")
    for path, message in (
        (tmp_path, "is a folder"), (tmp_path / "none" / "a", "in a folder that exists"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            tf_dwsconv.save_network(converted, path)
    with pytest.raises(TypeError, match="`path` must be a path; given 3"):
        tf_dwsconv.save_network(converted, 3)
    assert list(tmp_path.iterdir()) == []
