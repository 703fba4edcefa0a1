"""What is wrong with a file or an argument of `convert_saved_model` is one line, and nothing is written."""

import numpy as np
import pytest
import tensorflow as tf
from graph_support import Weights, conv, depthwise, graph_def_of, picture, saved

import tf_dwsconv
from tf_dwsconv.convert import __main__ as program

pytestmark = pytest.mark.usefixtures("op_library")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def separable():
    w = Weights()
    tf.nn.relu(conv(depthwise(picture(8, 8, 6), w(3, 3, 6, 1)), w(1, 1, 6, 8)), name="y")


def run(capsys, *arguments):
    """(status, what was printed) of the command."""
    try:
        status = program.main(list(map(str, arguments)))
    except SystemExit as stop:
        status = stop.code
    out = capsys.readouterr()
    assert status == 0 or out.err.count("\n") == 1, out.err
    return status, out.out if status == 0 else out.err


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda path: None, "there is no file or folder 'source.pb'"),
        (lambda path: path.mkdir(), "'source.pb' is no SavedModel: there is no saved_model.pb in it"),
        (lambda path: path.write_bytes(b"\xff" * 100), "it cannot be read as a GraphDef"),
        (lambda path: path.write_bytes(b""), "it holds no nodes"),
        (lambda path: (path.mkdir(), (path / "saved_model.pb").write_bytes(b"junk")), "'source.pb' cannot be loaded: "),
        (
            lambda path: path.write_bytes(
                tf.compat.v1.GraphDef(node=[tf.compat.v1.NodeDef(name="a", op="NoSuchOp")]).SerializeToString()
            ),
            "'source.pb' cannot be imported: ",
        ),
    ],
    ids=["missing", "empty folder", "junk", "empty file", "junk SavedModel", "unknown op"],
)
def test_broken_files(make, words, folder, capsys):
    make(folder / "source.pb")
    status, line = run(capsys, "source.pb", "out")
    assert status == 1 and line.startswith("error: ") and words in line
    assert not (folder / "out").exists()


def test_graphs_that_are_not_frozen(folder, capsys):
    saved(lambda: tf.compat.v1.get_variable("v", [2], use_resource=False) + 1.0, folder / "source.pb")
    assert run(capsys, "source.pb", "out")[1].startswith("error: 'source.pb' is not frozen")


@pytest.mark.parametrize(
    "arguments, status, words",
    [
        (["g.pb", "out", "--signature", "a"], 1, "of SavedModels; given 'g.pb'"),
        (["g.pb", "out", "--outputs", "z"], 1, "`outputs` must be tensors of the graph; given 'z'"),
        (["g.pb", "no/out"], 1, "there is no folder"),
        (["g.pb", "g.pb"], 1, "'g.pb' exists (it is the input); --overwrite"),
        (["g.pb", "there", "--overwrite"], 1, "'there' is no SavedModel, and would be deleted"),
        (["g.pb", "out", "--training"], 2, "--training is of .keras files"),
        (["g.keras", "out.keras", "--tags", "a"], 2, "--tags is of SavedModels"),
        (["g.pb"], 2, "an output, --export, --network or --report must be given"),
    ],
)
def test_wrong_arguments(arguments, status, words, folder, capsys):
    saved(separable, folder / "g.pb")
    (folder / "there").mkdir()
    (folder / "there" / "mine.txt").write_text("mine", encoding="utf-8")
    found, line = run(capsys, *arguments)
    assert (found, words in line) == (status, True), line
    assert not (folder / "out").exists() and (folder / "there" / "mine.txt").exists()


def test_paths_and_reports(folder, capsys):
    """A file in, a folder out; a report alone writes nothing; the way back by path."""
    saved(separable, folder / "g.pb")
    assert "depthwise + 1x1" in run(capsys, "g.pb", "--report")[1] and not (folder / "out").exists()
    printed = run(capsys, "g.pb", "out")[1].splitlines()
    assert printed[-1] == "out: 1 op fused" and printed[0].startswith("verified serving_default: ")
    assert run(capsys, "out", "again", "--no-verify")[1].startswith("again: nothing fused: what could be fused is")
    assert tf_dwsconv.to_builtin("out", "stock") is None
    x = np.random.default_rng(0).standard_normal((2, 8, 8, 6)).astype("float32")
    first, second = (
        tf.saved_model.load(name).signatures["serving_default"](x=tf.constant(x))["y"].numpy()
        for name in ("out", "stock")
    )
    np.testing.assert_allclose(first, second, atol=1e-5)
    with pytest.raises(TypeError, match="`target` must be a path; given None"):
        tf_dwsconv.to_builtin("out")


def test_a_wrong_result_is_not_written(folder, capsys, monkeypatch):
    """The verification stands between a fault and a user's file."""
    from tf_dwsconv.convert._read import Convolution

    scale = Convolution.scale_outputs
    monkeypatch.setattr(Convolution, "scale_outputs", lambda self, a, b: scale(self, np.multiply(a, 2.0), b))
    w = Weights()

    def build():
        y = depthwise(picture(8, 8, 6), w(3, 3, 6, 1)) * w(6) + w(6)
        tf.nn.relu(conv(y, w(1, 1, 6, 8)))

    saved(build, folder / "g.pb")
    status, line = run(capsys, "g.pb", "out")
    assert status == 1 and "'serving_default' differs by" in line and not (folder / "out").exists()


def test_sizes_that_are_not_known(folder, capsys):
    """They are no default: `--verify` takes some."""
    w = Weights()
    saved(lambda: conv(depthwise(picture(None, None, 6), w(3, 3, 6, 1)), w(1, 1, 6, 8)), folder / "g.pb")
    assert run(capsys, "g.pb", "out")[1].startswith(
        "not verified serving_default: its input 'x' has sizes that are not"
    )
    assert run(capsys, "g.pb", "out", "--overwrite", "--verify")[1].startswith("verified serving_default: ")
    [spec] = tf.saved_model.load("out").signatures["serving_default"].structured_input_signature[1].values()
    assert spec.shape.as_list() == [None, None, None, 6]


def test_ops_that_a_graph_cannot_hold_elsewhere(folder):
    """The way back refuses where filters are no constants, and names the node."""
    kernel = np.zeros((3, 3, 6, 1), "float32")

    @tf.function(input_signature=[tf.TensorSpec([1, 8, 8, 6]), tf.TensorSpec([1, 1, 6, 8])])
    def call(x, p):
        return {"y": tf_dwsconv.depthwise_sep_conv2d(x, kernel, p)}

    tf.saved_model.save(tf.Module(), "saved", signatures=call)
    with pytest.raises(ValueError, match="which is no constant"):
        tf_dwsconv.to_builtin("saved", "stock")
    assert not (folder / "stock").exists()
    assert graph_def_of(separable).node
