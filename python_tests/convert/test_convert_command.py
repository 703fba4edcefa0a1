"""`python -m tf_dwsconv.convert`: what it writes and says, and what it refuses, in one line each."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from conftest import check_python
from convert_support import chain, difference, functional, pictures

from tf_dwsconv.convert import __main__ as command

pytestmark = pytest.mark.usefixtures("op_library")

L = keras.layers


@pytest.fixture(scope="module")
def model():
    return functional(lambda x: chain(x, 8))


@pytest.fixture
def folder(model, tmp_path, monkeypatch):
    """Where m.keras is, and some files that are no models."""
    monkeypatch.chdir(tmp_path)
    model.save("m.keras")
    (tmp_path / "text.keras").write_text("no model")
    (tmp_path / "zip.keras").write_bytes(b"PK\x03\x04 and nothing else")
    (tmp_path / "folder.keras").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("dear reader")
    (tmp_path / "file").write_text("")
    return tmp_path


def run(*arguments):
    """The command's exit status, in this process."""
    try:
        return command.main(arguments)
    except SystemExit as done:
        return done.code or 0


def test_it_says_what_it_wrote(folder, model, capsys):
    assert run("m.keras", "fused.keras") == 0
    assert capsys.readouterr().out == "fused.keras: 1 layer fused\n"
    assert difference(keras.saving.load_model("fused.keras"), model, pictures(model)) < 1e-5
    assert run("fused.keras", "--output", "stock.keras", "--builtin") == 0
    assert capsys.readouterr().out == "stock.keras: stock layers alone\n"
    assert difference(keras.saving.load_model("stock.keras"), model, pictures(model)) < 1e-5
    assert run("--input", "m.keras", "--export", "served") == 0
    assert capsys.readouterr().out == "served: 1 layer fused\n"
    assert (folder / "served" / "saved_model.pb").exists()
    assert run("m.keras", "--report") == 0
    assert "depthwise + 1x1" in capsys.readouterr().out
    assert run("m.keras", "exact.keras", "--training") == 0
    assert capsys.readouterr().out == "exact.keras: 3 layers fused\n"  # the parts of the block
    leftovers = {path.name for path in folder.iterdir() if path.name.startswith(".")}
    assert not leftovers


def test_nothing_is_overwritten_unasked(folder, model, capsys):
    before = (folder / "m.keras").read_bytes()
    for arguments in (["m.keras", "m.keras"], ["m.keras", "--export", "full"], ["m.keras", "zip.keras"]):
        assert run(*arguments) == 1
        out, err = capsys.readouterr()
        assert "exists" in err and err.count("\n") == 1 and not out
    assert (folder / "m.keras").read_bytes() == before
    assert (folder / "full" / "letter.txt").exists()
    assert run("m.keras", "--export", "full", "--overwrite") == 1
    assert (folder / "full" / "letter.txt").exists()
    assert run("m.keras", "--export", "served") == 0
    assert run("m.keras", "--export", "served", "--overwrite") == 0
    assert run("m.keras", "m.keras", "--overwrite") == 0
    assert difference(keras.saving.load_model("m.keras"), model, pictures(model)) < 1e-5


@pytest.mark.parametrize(
    "arguments, status, message",
    [
        ([], 2, "an input must be given"),
        (["m.keras"], 2, "an output, --export, --network or --report must be given"),
        (["m.keras", "fused.h5"], 2, "must end in .keras; given 'fused.h5'"),
        (["m.keras", "a.keras", "--output", "b.keras"], 2, "given twice"),
        (["--input", "m.keras", "a.keras", "b.keras"], 2, "give one input and one output"),
        (["m.keras", "a.keras", "--builtin", "--training"], 2, "not allowed with"),
        (["m.keras", "--report", "--builtin"], 2, "do not go together"),
        (["m.keras", "a.keras", "--quick"], 2, "--quick"),
        (["missing.keras", "a.keras"], 1, "there is no file 'missing.keras'"),
        (["folder.keras", "a.keras"], 1, "'folder.keras' is a folder"),
        (["text.keras", "a.keras"], 1, "'text.keras' is no Keras file"),
        (["zip.keras", "a.keras"], 1, "'zip.keras' cannot be loaded"),
        (["m.keras", "no/such/a.keras"], 1, "no/such' to write 'no/such/a.keras' to"),
        (["m.keras", "--export", "file", "--overwrite"], 1, "'file' is a file"),
        (["m.keras", "folder.keras", "--overwrite"], 1, "'folder.keras' is a folder"),
        (["m.keras", "a.keras", "--module", "no_such_module"], 1, "no_such_module"),
    ],
    ids=str,
)
def test_wrong_use_and_failures(folder, capsys, arguments, status, message):
    assert run(*arguments) == status
    out, err = capsys.readouterr()
    assert not out and err.startswith("error: ") and message in err and err.count("\n") == 1
    assert not (folder / "a.keras").exists()


def test_help(capsys):
    assert run("--help") == 0
    assert "--overwrite" in capsys.readouterr().out


def test_lambda_layers_need_leave(folder, capsys):
    model = functional(lambda x: chain(L.Lambda(lambda t: t + 1.0, output_shape=(16, 16, 6))(x), 8))
    model.save("code.keras")
    assert run("code.keras", "a.keras") == 1
    err = capsys.readouterr().err
    assert "--unsafe" in err and err.count("\n") == 1 and "safe_mode" not in err
    assert run("code.keras", "a.keras", "--unsafe") == 0
    fused = keras.saving.load_model("a.keras", safe_mode=False)
    assert difference(fused, model, pictures(model)) < 1e-5


def test_why_nothing_is_fused(folder, capsys):
    x = keras.Input((4,))
    keras.Model(x, L.Dense(3)(x)).save("dense.keras")
    assert run("dense.keras", "a.keras") == 0
    assert capsys.readouterr().out == "a.keras: nothing fused: it holds no convolution that could be fused\n"
    assert run("m.keras", "fused.keras") == 0 and run("fused.keras", "again.keras") == 0
    assert "nothing fused: what could be fused is already: 1 of its layers" in capsys.readouterr().out


def test_as_a_module(folder):
    """In a process of its own, as users start it; --module finds what lies in their folder."""
    (folder / "my_layers.py").write_text("import keras\nprint('imported')\n")
    program = (
        "import runpy, sys\n"
        "sys.argv = ['convert', 'm.keras', 'fused.keras', '--module', 'my_layers']\n"
        "sys.path.insert(0, '')\n"
        "runpy.run_module('tf_dwsconv.convert', run_name='__main__', alter_sys=True)\n"
    )
    assert check_python(program).splitlines() == ["imported", "fused.keras: 1 layer fused"]
    assert np.isfinite(keras.saving.load_model("fused.keras")(np.ones((1, 16, 16, 6)))).all()
