"""Commands about networks: `python -m tf_dwsconv.convert --fuse, --network` and `python -m tf_dwsconv.profile`."""

from __future__ import annotations

import re

import keras
import pytest
from convert_support import chain, difference, functional, pictures
from PIL import Image
from test_fused_network import read_file

import tf_dwsconv
from tf_dwsconv import native, profile
from tf_dwsconv.convert import __main__ as command

pytestmark = pytest.mark.usefixtures("op_library")

L = keras.layers


@pytest.fixture
def model(tmp_path, monkeypatch):
    """A model in m.keras that is one network, and one in mine.keras that is not."""

    def make(x):
        return L.GlobalAveragePooling2D(name="end")(chain(chain(x, 6, name="a"), 6, name="b"))

    monkeypatch.chdir(tmp_path)
    functional(lambda x: L.UnitNormalization(name="mine")(make(x))).save("mine.keras")
    model = functional(make)
    model.save("m.keras")
    return model


def run(main, *arguments):
    try:
        return main(arguments)
    except SystemExit as done:
        return done.code or 0


def test_convert(model, tmp_path, capsys):
    assert run(command.main, "m.keras", "network.keras", "--network", "n.safetensors", "--report") == 0
    printed = capsys.readouterr().out
    assert "n.safetensors and network.keras: 2 layers fused" in printed and "in network" in printed
    loaded = keras.saving.load_model("network.keras")
    assert isinstance(loaded.layers[-1], tf_dwsconv.FusedNetwork)
    assert difference(loaded, model, pictures(model)) < 1e-5
    assert [step.op for step in read_file(tmp_path / "n.safetensors")[0].steps] == ["chain", "chain", "mean"]
    assert run(command.main, "m.keras", "blocks.keras", "--fuse", "blocks") == 0
    assert [layer.name for layer in keras.saving.load_model("blocks.keras").layers[1:]] == ["a_pw_bn", "b_pw_bn", "end"]
    capsys.readouterr()
    assert run(command.main, "m.keras", "--network", "n.safetensors") == 1
    assert "'n.safetensors' exists; --overwrite writes over it" in capsys.readouterr().err
    assert run(command.main, "mine.keras", "other.keras", "--network", "mine.safetensors") == 1
    assert "holds 'mine' of class UnitNormalization" in capsys.readouterr().err
    assert not (tmp_path / "other.keras").exists() and not (tmp_path / "mine.safetensors").exists()
    assert run(command.main, "m.keras", "--network", "x", "--fuse", "blocks") == 2
    assert "--network goes with neither" in capsys.readouterr().err


@pytest.mark.skipif(not hasattr(native, "Network"), reason="this build has no native.Network")
def test_a_picture_of_a_profile(model, capsys):
    tf_dwsconv.save_network(tf_dwsconv.convert(model), "n.safetensors")
    rates = ("--peak-gflops", "1e6", "--dram-gbs", "2e-9")
    assert run(profile.main, "n.safetensors", *rates, "--plot", "p.png") == 0
    out = capsys.readouterr().out
    assert "limit: 1e+06 GFLOP/s (given), 2e-09 GB/s (given)" in out and "p.png: a picture" in out
    assert Image.open("p.png").size[0] > 500
    assert run(profile.main, "n.safetensors", "--plot", "p.png") == 1
    assert "'p.png' exists; --overwrite writes over it" in capsys.readouterr().err
    assert run(profile.main, "n.safetensors", "--plot", "p.what", "--repeats", "1") == 1
    assert "path must end in one of" in capsys.readouterr().err


def test_the_share_of_the_limit():
    steps = [
        {"step": i, "op": "chain", "name": f"s{i}", "shape": [1, 4], "ms": 1.0, "gflops": gflops, "gbs": gbs}
        for i, (gflops, gbs) in enumerate(((50.0, 1.0), (2.0, 9.0), (2.0, 30.0)))
    ]
    lines = profile.format_profile(steps, rates=(100.0, 10.0)).splitlines()
    assert [line.split()[-1] for line in lines] == ["limit", "50", "90", "300", "3"]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_machine_is_measured_by_our_products_too(dtype):
    before = native.calls()["network"]
    flops, gbs = profile.measured_rates(1, dtype)
    assert 0 < flops < float("inf") and 0 < gbs < float("inf")
    assert native.calls()["network"] > before
    network, x, operations = profile._product(2, dtype)
    assert network.inputs[0]["dtype"] == dtype
    y = network(x)
    assert operations == 2 * y.size * x.shape[-1]
    assert y.astype("float32").std() > 1


def test_profile(model, capsys):
    tf_dwsconv.save_network(tf_dwsconv.convert(model), "n.safetensors")
    network = native.Network("n.safetensors")
    [x] = pictures(model)
    assert abs(network(x) - model(x).numpy()).max() < 1e-5
    for path in ("n.safetensors", "m.keras"):
        assert run(profile.main, path, "--batch", "2", "--repeats", "1") == 0
        lines = capsys.readouterr().out.splitlines()
        assert [line.split()[1] for line in lines[1:-2]] == ["chain", "chain", "mean"]
        assert "2x16x16x6" in lines[1] and lines[-2].startswith("sum") and lines[0].endswith("% limit")
        assert re.fullmatch(r"limit: [\d.e+]+ GFLOP/s \(measured\), [\d.e+]+ GB/s \(measured\)", lines[-1])
    assert run(profile.main, "n.safetensors", "--repeats", "1", "--top", "1") == 0
    assert len(capsys.readouterr().out.splitlines()) == 4
    for arguments, message in (
        (["nothing.safetensors"], "nothing.safetensors"),
        (["mine.keras"], "holds 'mine' of class UnitNormalization"),
        (["n.safetensors", "--batch", "0"], "--batch must be at least 1; given 0"),
        (["n.safetensors", "--size", "big"], "--size must be HxW"),
    ):
        assert run(profile.main, *arguments) == 1
        out, err = capsys.readouterr()
        assert message in err and err.count("\n") == 1 and not out
