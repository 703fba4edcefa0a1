"""Small networks of many kinds (`small_networks.py`) through all rewrites, training, and files in a new process."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from conftest import check_python, op_calls
from convert_support import difference, output_names, pictures
from small_networks import NETWORKS

import tf_dwsconv

pytestmark = pytest.mark.usefixtures("op_library")

L = keras.layers


@pytest.fixture(scope="module", params=NETWORKS)
def network(request):
    """A name, the network, and what `convert` makes of it."""
    model = NETWORKS[request.param]()
    return request.param, model, tf_dwsconv.convert(model)


def depthwise_layers(model):
    return [layer for layer in model._flatten_layers() if type(layer) in (L.DepthwiseConv2D, L.SeparableConv2D)]


def test_every_depthwise_convolution_is_fused_or_has_a_reason(network):
    _, model, fused = network
    rows = tf_dwsconv.convert.report(fused)
    named = {name for row in rows if row.fused is not None or row.reason for name in row.layers}
    names = [layer.name for layer in depthwise_layers(model)]
    assert names and not set(names) - named
    left = {layer.name for layer in depthwise_layers(fused)}
    assert not left & {name for row in rows if row.fused is not None for name in row.layers if name != row.fused}
    assert not depthwise_layers(fused), "each of them is a block, or ours"


@pytest.mark.parametrize("rewrite", ["convert", "training", "to_builtin", "training_to_builtin"])
def test_the_answers_stay(network, rewrite):
    name, model, new = network
    if rewrite.startswith("training"):
        new = tf_dwsconv.convert(model, training=True)
    before = sum(op_calls().values())
    if rewrite.endswith("to_builtin"):
        new = tf_dwsconv.to_builtin(new)
        ours = (tf_dwsconv.FusedConvBlock, tf_dwsconv.DepthwiseSepConv2D)
        assert not any(isinstance(layer, ours) for layer in new._flatten_layers())
    assert difference(new, model, pictures(model)) < 1e-5, name
    if rewrite == "convert":
        assert sum(op_calls().values()) > before
    if rewrite.endswith("to_builtin"):
        assert sum(op_calls().values()) == before
    assert output_names(new) == output_names(model)


@pytest.mark.parametrize("training", [False, True], ids=["convert", "training"])
def test_two_steps_of_fit(network, training):
    """In training as the network itself, the same losses; converted for inference, it learns."""
    _, model, new = network
    if training:
        new = tf_dwsconv.convert(model, training=True)
    x = pictures(model, batch=4)
    targets = [np.zeros((4, *t.shape[1:]), "float32") for t in model.outputs]
    histories = []
    # A copy of the network, which the other tests need as it is: without any layer of ours.
    for m in (new, keras.models.clone_model(model)) if training else (new,):
        if m is not new:
            m.set_weights(model.get_weights())
        m.compile(keras.optimizers.SGD(1e-3), ["mse"] * len(targets))
        values = x[0] if len(x) == 1 else x
        keras.utils.set_random_seed(0)
        structured = keras.tree.pack_sequence_as(m._outputs_struct, targets)
        histories.append(m.fit(values, structured, batch_size=2, epochs=1, shuffle=False, verbose=0).history["loss"])
    assert np.isfinite(histories).all()
    assert all(v.numpy().size == 0 or np.isfinite(v.numpy()).all() for v in new.trainable_variables)


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
    assert "TfDwsconv>ConvBlock" in ops, (name, ops)
    print(name)
"""


def test_files_in_a_new_process(tmp_path):
    """One process for all: their classes are not there, as a converted network needs none of them."""
    for name, make in NETWORKS.items():
        fused = tf_dwsconv.convert(make())
        x = pictures(fused)[0]
        (tmp_path / name).mkdir()
        fused.save(tmp_path / name / "fused.keras")
        fused.export(str(tmp_path / name / "served"), verbose=False)
        np.save(tmp_path / name / "x.npy", x)
        np.savez(tmp_path / name / "y.npz", *[t.numpy() for t in keras.tree.flatten(fused(x, training=False))])
    assert check_python(IN_A_NEW_PROCESS, str(tmp_path), *NETWORKS).split() == list(NETWORKS)
