"""The digits program: both networks learn, alike, and what it writes says what it printed."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from conftest import run_example
from PIL import Image


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits") / "made" / "here"
    done = run_example("training/train_digits.py", "--epochs=6", "--seed=3", f"--output={folder}")
    assert done.returncode == 0, done.stdout + done.stderr
    with (folder / "epochs.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return done.stdout, json.loads((folder / "run.json").read_text()), rows, folder


def test_both_networks_reach_97_percent(run):
    printed, record, rows, _ = run
    assert record["settings"]["tf_dwsconv_runs"] == "fused kernels"
    for name in ("stock", "ours"):
        assert record["summary"][name]["test_accuracy"] >= 0.97
        assert record["summary"][name]["seconds_an_epoch"] > 0
        assert f"{name}: test accuracy {100 * record['summary'][name]['test_accuracy']:.2f}%" in printed
        accuracies = [float(row["test_accuracy"]) for row in rows if row["variant"] == name]
        assert len(accuracies) == 6 and accuracies[-1] == record["summary"][name]["test_accuracy"]


def test_both_curves_are_alike(run):
    """Same weights, same batches: the first epoch differs by roundings that Adam enlarges, later ones by no more."""
    _, record, rows, _ = run
    stock, ours = (np.array([float(r["loss"]) for r in rows if r["variant"] == name]) for name in ("stock", "ours"))
    assert ours[0] == pytest.approx(stock[0], rel=0.01)
    assert np.abs(stock - ours).max() == pytest.approx(record["summary"]["largest_loss_difference"])
    assert record["summary"]["largest_loss_difference"] < 0.05
    assert ours[-1] < 0.1 * ours[0]


def test_what_a_run_depends_on_is_recorded(run):
    printed, record, _, _ = run
    settings = record["settings"]
    assert settings["seed"] == 3 and settings["epochs"] == 6
    for key in ("tensorflow", "keras", "python", "isa", "TF_ENABLE_ONEDNN_OPTS"):
        assert settings[key] and f"{key} {settings[key]}" in printed


def test_curves_are_plotted(run):
    with Image.open(run[3] / "curves.png") as image:
        assert image.width > 600 and len(image.getcolors(1 << 24)) > 10


def test_missing_scikit_learn_is_said(tmp_path):
    (tmp_path / "sklearn.py").write_text("raise ImportError('not here')")
    done = run_example("training/train_digits.py", f"--output={tmp_path / 'o'}", paths=[tmp_path])
    assert done.returncode == 2
    assert "pip install scikit-learn" in done.stderr and "Traceback" not in done.stderr
