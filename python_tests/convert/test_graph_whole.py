"""`save_network` of SavedModels: a signature that is one network, for `native.Network`."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from convert_support import functional, pictures

import tf_dwsconv
from tf_dwsconv import native
from tf_dwsconv.convert.__main__ import main

pytestmark = pytest.mark.usefixtures("op_library")

L = keras.layers


def separable(x, filters):
    return L.ReLU()(L.BatchNormalization()(L.SeparableConv2D(filters, 3, padding="same", use_bias=False)(x)))


def branches(x, y):
    """Two inputs and two results, in no particular order."""
    both = L.Concatenate()([separable(x, 6), separable(y, 4)])
    return {"mask": L.Conv2D(2, 1, name="mask")(both), "a": L.GlobalAveragePooling2D(name="a")(separable(both, 5))}


@pytest.fixture
def saved(tmp_path):
    """Of a function of TensorFlow, as others than Keras write them."""
    model = functional(branches, (12, 16, 3), (12, 16, 2))

    class Module(tf.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        @tf.function(input_signature=[tf.TensorSpec([None, 12, 16, 2], name="second"),
                                      tf.TensorSpec([None, 12, 16, 3], name="first")])  # fmt: skip
        def serve(self, second, first):
            return self.model([first, second], training=False)

    module = Module()
    tf.saved_model.save(module, str(tmp_path / "saved"), signatures={"serve": module.serve})
    return model, tmp_path


def check(model, path):
    first, second = pictures(model)
    network = native.Network(path)
    assert [given["name"] for given in network.inputs] == ["first", "second"]  # as TensorFlow sorts them
    results = dict(zip((given["name"] for given in network.outputs), network([first, second])))
    for key, value in model([first, second], training=False).items():
        np.testing.assert_allclose(results[key], value, rtol=1e-4, atol=1e-5)


def test_a_signature_that_is_one_network(saved):
    model, folder = saved
    tf_dwsconv.convert_saved_model(folder / "saved", folder / "fused")
    tf_dwsconv.save_network(folder / "fused", folder / "net.safetensors")
    check(model, folder / "net.safetensors")
    with pytest.raises(ValueError, match=r"exists; overwrite=True"):
        tf_dwsconv.save_network(folder / "fused", folder / "net.safetensors")
    tf_dwsconv.save_network(str(folder / "fused"), folder / "net.safetensors", signatures=["serve"], overwrite=True)
    check(model, folder / "net.safetensors")


def test_by_the_command(saved, capsys):
    model, folder = saved
    arguments = [str(folder / "saved"), "--network", str(folder / "net.safetensors")]
    assert main(arguments) == 0
    assert "net.safetensors: " in capsys.readouterr().out and not (folder / "fused").exists()
    check(model, folder / "net.safetensors")
    both = [arguments[0], str(folder / "fused"), *arguments[1:]]
    assert main(both) != 0 and "exists" in capsys.readouterr().err and not (folder / "fused").exists()
    with pytest.raises(SystemExit):
        main([*arguments, "--builtin"])
    assert main([*both, "--overwrite"]) == 0
    assert (folder / "fused" / "saved_model.pb").exists()


def test_what_is_not_one_network(saved):
    model, folder = saved
    with pytest.raises(ValueError, match=r"'serve' holds .* stands outside its networks"):
        tf_dwsconv.save_network(folder / "saved", folder / "net.safetensors")

    @tf.function(input_signature=[tf.TensorSpec([None, 12, 16, 3])])
    def around(x):
        return tf.sin(model([x, x[..., :2]], training=False)["mask"])

    module = tf.Module()
    module.model, module.around = model, around
    tf.saved_model.save(module, str(folder / "other"), signatures={"one": around, "two": model_only(model, module)})
    tf_dwsconv.convert_saved_model(folder / "other", folder / "fused")
    with pytest.raises(ValueError, match=r"`signatures` must be one name; the model has 'one', 'two'"):
        tf_dwsconv.save_network(folder / "fused", folder / "net.safetensors")
    with pytest.raises(ValueError, match=r"'one' holds .*Sin.*stands outside its networks"):
        tf_dwsconv.save_network(folder / "fused", folder / "net.safetensors", signatures=["one"])
    with pytest.raises(TypeError, match=r"'signatures' must not be given with a model"):
        tf_dwsconv.save_network(tf_dwsconv.convert(model), folder / "net.safetensors", signatures=["one"])
    assert not (folder / "net.safetensors").exists()
    tf_dwsconv.save_network(folder / "fused", folder / "net.safetensors", signatures=["two"])
    x = pictures(model)[0]
    found = native.Network(folder / "net.safetensors")(x)
    np.testing.assert_allclose(found, model([x, x[..., :2]])["mask"], rtol=1e-4, atol=1e-5)


def model_only(model, module):
    module.plain = tf.function(
        lambda x: {"mask": model([x, x[..., :2]], training=False)["mask"]},
        input_signature=[tf.TensorSpec([None, 12, 16, 3], name="x")],
    )
    return module.plain
