"""The benchmark of one layer: its table, its plot, and what it says of wrong flags."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]


def run_benchmark(*arguments):
    return subprocess.run(
        [sys.executable, str(ROOT / "examples" / "benchmark_layer.py"), *map(str, arguments)],
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


@pytest.mark.parametrize(
    ("flags", "tolerance"),
    [
        (["--shape=1,9,9,8", "--filters=4", "--shape=2,6,5,3", "--filters=7"], 2e-5),
        (["--shape=1,9,9,8", "--filters=4", "--train", "--strides=2", "--kernel=5"], 1e-4),
        (["--shape=1,9,9,8", "--filters=4", "--dtype=bfloat16", "--threads=1"], 3e-2),
    ],
    ids=["forward", "train", "bfloat16"],
)
def test_table_and_plot(tmp_path, flags, tolerance):
    plot = tmp_path / "plots" / "layer.png"
    done = run_benchmark(*flags, "--repeat=3", f"--plot={plot}")
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines() if re.match(r"\d+ x ", line)]
    assert len(rows) == sum(flag.startswith("--shape") for flag in flags)
    for row in rows:
        stock_ms, _, our_ms, _, ratio, difference = map(float, row[-6:])
        assert ratio == pytest.approx(stock_ms / our_ms, rel=0.05, abs=0.01)
        assert difference < tolerance
    with Image.open(plot) as image:
        assert image.width > 300 and len(image.getcolors(1 << 24)) > 10


def test_one_layer_alone_needs_no_plot(tmp_path):
    done = run_benchmark("--shape=1,5,5,2", "--filters=3", "--layers=ours", "--repeat=2", "--plot=")
    assert done.returncode == 0, done.stderr
    assert "ours ms" in done.stdout and "stock ms" not in done.stdout and "saved" not in done.stdout


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--shape=1,2,3", "--filters=4"], "four positive integers"),
        (["--shape=1,0,3,4", "--filters=4"], "four positive integers"),
        (["--shape=1,2,3,4"], "come in pairs, got 1 and 0"),
        (["--dtype=int8"], "dtype"),
        (["--repeat=0"], "repeat"),
        (["output.png"], "no plain arguments"),
    ],
)
def test_wrong_flags_are_refused(flags, message):
    done = run_benchmark(*flags, "--plot=")
    assert done.returncode != 0
    assert message in done.stdout + done.stderr and "Traceback" not in done.stderr
