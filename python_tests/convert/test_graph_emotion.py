"""A trained network that is no Keras model, from file to file and back: third_party/emotion_saved_model."""

import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT, python_environment

pytestmark = pytest.mark.usefixtures("op_library")

SOURCE = ROOT / "third_party" / "emotion_saved_model"
RUN = """
import sys, numpy as np, tensorflow as tf
import tf_dwsconv
y = tf.saved_model.load(sys.argv[1]).signatures["serving_default"](tf.constant(np.load(sys.argv[2])))
np.save(sys.argv[3], y["out0"].numpy())
"""


def command(*arguments, cwd):
    return subprocess.run(
        [sys.executable, "-m", "tf_dwsconv.convert", *map(str, arguments)],
        env=python_environment(), capture_output=True, text=True, timeout=300, cwd=cwd,
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """With the network, converted and back again by the command, and 16 faces."""
    path = tmp_path_factory.mktemp("emotion")
    np.save(path / "x.npy", np.random.default_rng(0).uniform(0, 1, (16, 64, 64, 1)).astype("float32"))
    done = command(SOURCE, "fused", "--report", cwd=path)
    assert done.returncode == 0, done.stderr
    (path / "report.txt").write_text(done.stdout, encoding="utf-8")
    return path


def test_report(folder):
    """4 of 4 depthwise convolutions in one program, each other convolution with a line, and the verification."""
    lines = (folder / "report.txt").read_text(encoding="utf-8").splitlines()
    table, [verified, last] = lines[1:-2], lines[-2:]
    assert sum(line.startswith("depthwise + 1x1 ") for line in table) == 4 and len(table) == 9
    assert sum(line.startswith("Conv2D") and "TensorFlow computes 3x3 of" in line for line in table) == 2
    assert sum("predictions/Softmax" in line for line in table) == 9  # the program's name
    assert last == "fused: 7 ops fused"
    assert verified.startswith("verified serving_default: largest difference ")
    assert float(verified.split()[4]) < 1e-5


def test_answers_in_a_new_process(folder):
    x = np.load(folder / "x.npy")
    subprocess.run(
        [sys.executable, "-c", RUN, "fused", "x.npy", "y.npy"], env=python_environment(), check=True, cwd=folder,
        capture_output=True, timeout=300,
    )  # fmt: skip
    expected = tf.saved_model.load(str(SOURCE)).signatures["serving_default"](tf.constant(x))["out0"].numpy()
    given = np.load(folder / "y.npy")
    assert expected.std(axis=0).max() > 1e-3 and np.abs(given - expected).max() < 1e-5
    for batch in (1, 3):
        import tf_dwsconv

        assert tf_dwsconv.build_info()["op_library"]
        loaded = tf.saved_model.load(str(folder / "fused"))
        part = loaded.signatures["serving_default"](tf.constant(x[:batch]))["out0"].numpy()
        np.testing.assert_array_equal(part, given[:batch])


def test_way_back_to_litert(folder):
    """Stock ops alone, which LiteRT's converter takes."""
    from ai_edge_litert.interpreter import Interpreter

    done = command("fused", "stock", "--builtin", cwd=folder)
    assert done.returncode == 0 and done.stdout.endswith("stock: stock ops in the place of 1 of this package\n")
    stock = tf.saved_model.load(str(folder / "stock"))
    graph = stock.signatures["serving_default"].graph.as_graph_def()
    ops = {node.op for function in graph.library.function for node in function.node_def}
    assert "DepthwiseConv2dNative" in ops and not any("Dwsconv" in op for op in ops)
    file = tf.lite.TFLiteConverter.from_saved_model(str(folder / "stock")).convert()
    interpreter = Interpreter(model_content=file)
    [given], [result] = interpreter.get_input_details(), interpreter.get_output_details()
    interpreter.allocate_tensors()
    x = np.load(folder / "x.npy")[:1]
    interpreter.set_tensor(given["index"], x)
    interpreter.invoke()
    expected = tf.saved_model.load(str(SOURCE)).signatures["serving_default"](tf.constant(x))["out0"].numpy()
    assert np.abs(interpreter.get_tensor(result["index"]) - expected).max() < 1e-5
