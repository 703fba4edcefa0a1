"""Small networks of many kinds (`small_networks.py`) through all rewrites, training, and files in a new process."""

from __future__ import annotations

import functools

import keras
import numpy as np
import pytest
from conftest import check_python, op_calls
from convert_support import output_names, pictures
from small_networks import NETWORKS

import tf_dwsconv

pytestmark = pytest.mark.usefixtures("op_library")

L = keras.layers


@functools.cache
def made(name):
    """A network, what `convert` makes of it, inputs and their results."""
    model = NETWORKS[name]()
    x = pictures(model)
    return model, tf_dwsconv.convert(model), x, model(x if len(x) > 1 else x[0], training=False)


def depthwise_layers(model):
    return [layer for layer in model._flatten_layers() if type(layer) in (L.DepthwiseConv2D, L.SeparableConv2D)]


@pytest.mark.parametrize("name", NETWORKS)
def test_every_depthwise_convolution_is_fused(name):
    """Those that are called several times stay layers of ours, without what follows."""
    model, fused, _, _ = made(name)
    rows = tf_dwsconv.convert.report(fused)
    named = {layer for row in rows if row.fused is not None for layer in row.layers}
    names = {layer.name for layer in depthwise_layers(model)}
    assert names and not names - named
    assert not depthwise_layers(fused)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_answers_stay(name):
    model, fused, x, expected = made(name)

    def check(new, tolerance=1e-5):
        results = new(x if len(x) > 1 else x[0], training=False)
        keras.tree.assert_same_structure(results, expected)
        for result, y in zip(*(keras.tree.flatten(structure) for structure in (results, expected))):
            assert np.abs(result - y).max() < tolerance * np.abs(y).max()
        assert output_names(new) == output_names(model)

    before = sum(op_calls().values())
    check(fused)
    assert sum(op_calls().values()) > before
    check(tf_dwsconv.convert(model, training=True))
    before = sum(op_calls().values())
    stock = tf_dwsconv.to_builtin(fused)
    check(stock)
    assert sum(op_calls().values()) == before
    assert {type(layer).__module__.split(".")[0] for layer in stock._flatten_layers()} == {"keras"}


@pytest.mark.parametrize("training", [False, True], ids=["convert", "training"])
@pytest.mark.parametrize("name", NETWORKS)
def test_two_steps_of_fit(name, training):
    model, _, _, _ = made(name)
    new = tf_dwsconv.convert(model, training=training)
    x = pictures(model, batch=4)
    targets = keras.tree.map_structure(lambda t: np.zeros((4, *t.shape[1:]), "float32"), new._outputs_struct)
    new.compile(keras.optimizers.SGD(1e-3), keras.tree.map_structure(lambda t: "mse", new._outputs_struct))
    before = [v.numpy() for v in new.trainable_variables]
    history = new.fit(x if len(x) > 1 else x[0], targets, batch_size=2, epochs=1, verbose=0).history
    assert np.isfinite(history["loss"]).all() and history["loss"][0] > 0
    changes = [np.abs(v.numpy() - old).max() for v, old in zip(new.trainable_variables, before)]
    assert np.isfinite(changes).all()
    assert np.count_nonzero(changes) > 0.5 * len(changes)  # not those of biases that a batch norm takes away again


IN_A_NEW_PROCESS = """
import os, sys
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import tf_dwsconv
import keras, numpy as np, tensorflow as tf
for name in sys.argv[2:]:
    folder = f"{sys.argv[1]}/{name}"
    x = np.load(folder + "/x.npy")
    y = np.load(folder + "/y.npz")
    model = keras.saving.load_model(folder + "/fused.keras")
    served = tf.saved_model.load(folder + "/served")
    for results in (model(x, training=False), served.serve(x)):
        results = keras.tree.flatten(results)
        assert len(results) == len(y.files)
        for result, expected in zip(results, y.values()):
            assert np.abs(result.numpy() - expected).max() <= 1e-5 * np.abs(expected).max(), name
    function = served.signatures["serving_default"]
    ops = {node.op for f in function.graph.as_graph_def().library.function for node in f.node_def}
    assert {"TfDwsconv>ConvBlock", "TfDwsconv>Network"} & ops, (name, ops)
    print(name)
"""


def test_files_in_a_new_process(tmp_path):
    """One process for all: their classes are not there, as a converted network needs none of them."""
    for name in NETWORKS:
        _, fused, (x,), _ = made(name)
        (tmp_path / name).mkdir()
        fused.save(tmp_path / name / "fused.keras")
        fused.export(str(tmp_path / name / "served"), verbose=False)
        np.save(tmp_path / name / "x.npy", x)
        np.savez(tmp_path / name / "y.npz", *[t.numpy() for t in keras.tree.flatten(fused(x, training=False))])
    assert check_python(IN_A_NEW_PROCESS, str(tmp_path), *NETWORKS).split() == list(NETWORKS)
