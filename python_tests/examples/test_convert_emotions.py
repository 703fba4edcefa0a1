"""The example that converts a SavedModel by one command."""

import numpy as np
import pytest
from conftest import run_example
from PIL import Image

pytestmark = pytest.mark.usefixtures("op_library")


def test_both_graphs_say_the_same_of_a_face(tmp_path):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (80, 70, 3), np.uint8)).save(tmp_path / "face.png")
    done = run_example(
        "demo/convert_emotions.py", f"--image={tmp_path / 'face.png'}", f"--output={tmp_path}", "--repeat=1"
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert sum(line.startswith("depthwise + 1x1 ") for line in lines) == 4
    [worst] = [float(line.split(": ")[1]) for line in lines if line.startswith("largest difference: ")]
    assert worst < 1e-5
    found = [list(map(float, line.split()[1:])) for line in lines if line.startswith("  ")]
    assert len(found) == 7 and abs(sum(old for old, _ in found) - 1) < 1e-2
    assert Image.open(tmp_path / "emotions.png").size == (632, 256)


def test_a_picture_that_is_none(tmp_path):
    (tmp_path / "face.png").write_text("no picture", encoding="utf-8")
    done = run_example("demo/convert_emotions.py", f"--image={tmp_path / 'face.png'}")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "face.png" in done.stderr
