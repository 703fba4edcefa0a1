"""What layer_training.py and cifar.py of cuda/bench do apart from a GPU: they say what they lack, count, write tables.

Where PyTorch is installed they also run on the CPU, over the kernels that tools/cuda_shim.sh compiles for it.
"""

from __future__ import annotations

import importlib.util
import json
import sys

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "cuda" / "bench"))
import cifar
import layer_training
from cuda_shim_support import build_shim

HAS_TORCH = importlib.util.find_spec("torch") is not None


@pytest.mark.skipif(not cifar.missing("cuda"), reason="there is a GPU here")
@pytest.mark.parametrize("program", [cifar, layer_training])
def test_without_a_gpu_they_say_so(program, tmp_path, capsys):
    assert program.main([str(tmp_path / "out")]) == 1
    assert ("finds no GPU" if HAS_TORCH else "not installed") in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_parameters_are_those_of_the_study():
    """529 and 136 thousand."""
    assert round(cifar.parameters("dense"), -3) == 529_000
    assert round(cifar.parameters("ours"), -3) == 136_000


def test_the_loss_has_to_fall():
    assert cifar.falls([2.3, 2.2, 1.0, 0.5])
    assert not cifar.falls([2.3, 2.2, 2.3, 2.4])
    assert not cifar.falls([2.3, 2.2, float("nan"), 0.5, float("nan"), float("nan")])


def test_pictures_can_be_learned():
    """Pictures of one class are nearer to each other than to those of others."""
    import numpy as np

    x, labels = cifar.pictures(400, 16, 3)
    assert x.shape == (400, 3, 16, 16) and x.dtype == np.float32
    means = np.stack([x[labels == label].mean(0) for label in range(cifar.CLASSES)])
    distances = ((x[:, None] - means) ** 2).sum((2, 3, 4))
    assert (distances.argmin(1) == labels).mean() > 0.95


def test_tables(tmp_path):
    layers = [
        {"layer": name, "batch": 64, "dtype": "float16", "ours_us": 10.0, "eager_us": 10.0 * speedup,
         "speedup": speedup, "ours_graph_us": 8.0, "eager_graph_us": 24.0, "graph_speedup": 3.0,
         "bytes_per_s": 3e12, "plan": "fused"}
        for name, speedup in (("a", 4.0), ("b", 1.0))
    ]  # fmt: skip
    assert layer_training.summary(layers)["float16, batch 64"] == {
        "mean": pytest.approx(2.0),
        "least": 1.0,
        "layer": "b",
    }
    memory = {"ours_mib": 500.0, "torch_mib": 1000.0}
    page = layer_training.markdown({"gpu": "a card", "torch": "2", "layers": layers, "memory": memory})
    assert "as graphs: 3.00 times the better" in page
    assert "2.00 times the better" in page and "at worst 1.00 (b" in page and "500 of 1000 MiB, 0.50" in page
    layer_training.draw(layers, tmp_path / "a.png")
    rows = [{"variant": name, "batch": 128, "dtype": "float16", "images_per_s": rate, "losses": [2.0, 1.0]}
            for name, rate in (("dense", 100.0), ("ours", 150.0))]  # fmt: skip
    assert "| ours | 128 | float16 | 150 | 1.50 |" in cifar.table(rows)


def test_compulsory_bytes():
    """X three times, Y three times: forward, backward, and their gradients."""
    assert layer_training.compulsory_bytes(2, 5, 3, 4, 2, 2) == 2 * (3 * 2 * 25 * 3 + 3 * 2 * 9 * 4)


@pytest.fixture(scope="module")
def shim():
    if not HAS_TORCH:
        pytest.skip("PyTorch is not installed: the programs' layers were not run over the CPU's kernels")
    return build_shim()


def test_cifar_trains_over_the_shim(shim, tmp_path):
    """Ours and PyTorch's separable network begin with the same weights, and their losses agree as they fall."""
    options = ["--device", "cpu", "--dtype", "float32", "--size", "8", "--channels", "16", "--batches", "8"]
    assert cifar.main([str(tmp_path), "--library", str(shim), *options, "--steps", "8"]) == 0
    rows = json.loads((tmp_path / "cifar.json").read_text())["rows"]
    losses = {row["variant"]: row["losses"] for row in rows}
    assert losses["ours"] == pytest.approx(losses["torch"], rel=1e-2, abs=1e-3)


def test_a_step_agrees_with_torch_over_the_shim(shim):
    from cuda_backward_library import BackwardLibrary

    step = layer_training.Step(BackwardLibrary(shim), 2, 9, 8, 16, 3, 1, "float32", device="cpu", sets=2)
    step.check()
    assert step.plan().startswith("steps window")
