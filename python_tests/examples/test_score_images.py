"""Scoring a folder of pictures on Ray: what is written, and what a killed worker or program leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, python_environment, run_example
from PIL import Image
from program_reference import Builder

from tf_dwsconv import native

pytest.importorskip("ray", reason="ray is not installed: pip install 'tf_dwsconv[score]'")

COUNT = 60
PROGRAM = "serving/score_images.py"


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A network's file, a folder of pictures of which one is broken, and the flags that name them."""
    folder = tmp_path_factory.mktemp("score")
    random = np.random.default_rng(0)
    b = Builder("float32")
    x = b.input([None, None, None, 3])
    weights = {
        "depthwise_filter": random.standard_normal((3, 3, 3, 1)),
        "pointwise_filter": random.standard_normal((1, 1, 3, 7)),
    }
    b.output(b.step("mean", b.step("chain", x, weights=weights)))
    network = b.save(folder / "network.safetensors")
    (folder / "photos" / "more").mkdir(parents=True)
    for i in range(COUNT - 1):
        pixels = random.integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "photos" / ("more" if i % 2 else "") / f"{i}.png")
    (folder / "photos" / "0broken.jpg").write_bytes(b"no picture")
    (folder / "photos" / "notes.txt").write_text("no picture either")
    return network, folder / "photos", [f"--network={network}", f"--images={folder / 'photos'}", "--size=33"]


def lines_of(output: Path) -> dict:
    """What the parts hold, by picture; no picture may have two lines."""
    lines = [json.loads(line) for part in sorted(output.glob("part-*.jsonl")) for line in part.open(encoding="utf-8")]
    assert len({line["image"] for line in lines}) == len(lines)
    return {line["image"]: line for line in lines}


def check(given, output: Path):
    """Every picture has the results that the network gives it alone."""
    network, photos, _ = given
    lines = lines_of(output)
    assert len(lines) == COUNT and "cannot identify" in lines.pop("0broken.jpg")["error"]
    run = native.Network(str(network))
    for name, line in lines.items():
        with Image.open(photos / name) as image:
            pixels = np.asarray(image.convert("RGB").resize((33, 33), Image.Resampling.BILINEAR), np.float32)
        (results,) = run(pixels[np.newaxis])
        assert [index for index, _ in line["top"]] == list(np.argsort(-results)[:5])
        np.testing.assert_allclose([result for _, result in line["top"]], np.sort(results)[::-1][:5], rtol=1e-5)


def test_scores_and_refusals(given, tmp_path):
    flags = [*given[2], f"--output={tmp_path}", "--part=7", "--batch_size=4"]
    done = run_example(PROGRAM, *flags)
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"{COUNT} of {COUNT} pictures" in done.stdout and "1 unreadable" in done.stdout
    check(given, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    again = run_example(PROGRAM, *flags)
    assert again.returncode == 0 and f"{COUNT} of {COUNT} pictures were scored before" in again.stdout
    other = run_example(PROGRAM, *flags, "--scale=2")
    assert other.returncode == 2 and "holds scores of something else (scale)" in other.stderr
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


def started(given, output: Path) -> subprocess.Popen:
    """A run of single pictures, some of which are done when this returns."""
    run = subprocess.Popen(
        [sys.executable, str(ROOT / "examples" / PROGRAM), *given[2], f"--output={output}", "--part=1"],
        env=python_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    until = time.monotonic() + 120
    while len(list(output.glob("part-*.jsonl"))) < 3:
        assert run.poll() is None and time.monotonic() < until, run.communicate()
        time.sleep(0.01)
    return run


def workers_of(program: int) -> list[int]:
    """Processes of Ray that score for this program: those that descend from it."""
    found, parents = [], {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(process.name)] = int((process / "stat").read_text().rpartition(")")[2].split()[1])
            if (process / "cmdline").read_bytes().startswith(b"ray::MapWorker"):
                found.append(int(process.name))
        except (OSError, IndexError):
            continue

    def descends(process: int) -> bool:
        return process == program or (process in parents and descends(parents[process]))

    return [process for process in found if descends(process)]


def test_a_killed_worker_loses_nothing(given, tmp_path):
    run = started(given, tmp_path)
    killed = workers_of(run.pid)
    assert killed, "no worker was found"
    os.kill(killed[0], signal.SIGKILL)
    assert len(list(tmp_path.glob("part-*.jsonl"))) < COUNT
    _, err = run.communicate(timeout=200)
    assert run.returncode == 0, err[-3000:]
    check(given, tmp_path)


def test_a_killed_run_goes_on(given, tmp_path):
    run = started(given, tmp_path)
    run.kill()
    run.communicate(timeout=60)
    time.sleep(3)  # its workers end with it
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("part-*.jsonl")}
    assert 3 <= len(before) < COUNT
    done = run_example(PROGRAM, *given[2], f"--output={tmp_path}", "--part=1")
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"{len(before)} of {COUNT} pictures were scored before" in done.stdout
    check(given, tmp_path)
    assert {path: path.stat().st_mtime_ns for path in before} == before
