"""What a training step holds in memory: our layers keep their input alone, stock layers what lies between too."""

from __future__ import annotations

import json

import pytest
from conftest import run_example

PROGRAM = "training/measure_training_memory.py"


def test_a_step_needs_at_most_065_of_stock_layers_memory(tmp_path):
    done = run_example(PROGRAM, "--layers=6", "--shape=16,56,56,32", f"--output={tmp_path}")
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["settings"]["tf_dwsconv_runs"] == "fused kernels"
    stock, ours = record["MiB"]["stock"], record["MiB"]["ours"]
    assert ours["loss"] == pytest.approx(stock["loss"], rel=1e-4)
    # Six layers' inputs, or their inputs and what is between, are alive when the gradients begin.
    tensor = 16 * 56 * 56 * 32 * 4 / 2**20
    assert stock["tensors"] > 12 * tensor and ours["tensors"] > 6 * tensor
    assert ours["tensors"] <= 0.65 * stock["tensors"]
    assert ours["step"] < 0.8 * stock["step"]  # of the process, with what TensorFlow's threads hold
    assert f"tensors {record['ours_over_stock']['tensors']:.2f}" in done.stdout
