"""The tuner: the sweep, what it keeps, the command line. No timings asserted."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys

import pytest
from conftest import ROOT, check_python, python_environment
from tune_support import PROBLEM, cache, in_use, odd_choice, tuning  # noqa: F401

from tf_dwsconv import tune
from tf_dwsconv.analysis import Problem
from tf_dwsconv.tune import _cache, _search


def test_tune_keeps_winners_only(cache, monkeypatch):
    """What is kept follows from the samples, here made up: a plan wins only where all duels say so."""
    fast = {}

    def sample(self, plan):
        return 1.0 if plan == fast.get("plan") else fast["others"]

    monkeypatch.setattr(_search.Bench, "sample", sample)
    monkeypatch.setattr(_search, "_busy_seconds", lambda: None)  # what others really do meanwhile does not count
    bench = _search.Bench(PROBLEM, "float32", 0, None)
    neighbours = _search._distinct(bench, [{**bench.planned, **c} for c in _search._block_changes(bench)])
    assert len(neighbours) > 4 and bench.planned in neighbours
    fast.update(plan=next(plan for plan in neighbours if plan != bench.planned), others=1.5)
    calls = []
    (result,) = tune.tune([PROBLEM, PROBLEM], seconds=0.01, progress=lambda *a: calls.append(a))
    assert calls == [(1, 1, result)]
    assert result.kept and result.best == fast["plan"] and result.gain == 1.5
    assert in_use() == (True, fast["plan"])
    # Less than the noise: the plan that was kept is taken out again.
    fast["others"] = 1.02
    (result,) = tune.tune([PROBLEM], seconds=0.01)
    assert not result.kept and result.gain == pytest.approx(1.02)
    assert in_use() == (False, bench.planned) and _cache.read(cache) == []


def test_tune_measures_for_real(cache):
    """Every field is there and every plan can be run; with `write=False` nothing is written."""
    problems = [PROBLEM, Problem(N=1, H=9, W=9, C=3, K=5, R=5, S=3, M=2, stride=2, padding=((1, 2), (0, 1)))]
    for dtype in (None, "bfloat16"):
        results = tune.tune(problems, dtype=dtype, seconds=0.02, num_threads=2, write=False)
        assert [result.problem for result in results] == problems
        for result in results:
            assert result.dtype == (dtype or "float32") and result.candidates > 1
            assert all(value is not None for value in dataclasses.asdict(result).values())
            assert min(result.planned_seconds, result.best_seconds, result.default_seconds) > 0
            assert list(result.best) == list(_search.CHOICES)
    assert not cache.parent.exists()


def test_wrong_arguments(cache, monkeypatch):
    """Each error names the argument."""
    with pytest.raises(ValueError, match="dtype must be None or one of"):
        tune.tune([PROBLEM], dtype="float64")
    with pytest.raises(ValueError, match="seconds must be positive"):
        tune.tune([PROBLEM], seconds=0)
    with pytest.raises(TypeError, match=r"problem must be an analysis\.Problem"):
        tune.tune(["MobileNet"])
    with pytest.raises(ValueError, match="num_threads"):
        tune.tune([PROBLEM], num_threads=-1)
    monkeypatch.setenv("DWSCONV_PLAN_CACHE", "off")
    with pytest.raises(ValueError, match="write must be False where"):
        tune.tune([PROBLEM])
    with pytest.raises(ValueError, match="no cache to clear"):
        tune.clear()


MODEL = """
import keras, sys
keras.Sequential([
    keras.Input((12, 12, 4)),
    keras.layers.SeparableConv2D(8, 3, padding="same", name="one"),
    keras.layers.DepthwiseConv2D(3, padding="same"), keras.layers.ReLU(), keras.layers.Conv2D(8, 1),
    keras.layers.Conv2D(8, 3), keras.layers.GlobalAveragePooling2D(),
]).save(sys.argv[1])
"""


def command_line(*arguments):
    """Runs `python -m tf_dwsconv.tune`."""
    command = [sys.executable, "-m", "tf_dwsconv.tune", *arguments]
    return subprocess.run(command, env=python_environment(), capture_output=True, text=True, timeout=300, cwd=ROOT)


def test_command_line(cache):
    """Shapes: progress, a table, geometric means; then what is kept is shown and forgotten."""
    done = command_line("--shape=1,8,8,16,16", "--shape=2,9,9,8,24,5,2", "--seconds=0.05", "--threads=1")
    assert done.returncode == 0, done.stderr
    out = done.stdout
    assert "[1/2] 1x8x8x16 -> 16, 3x3 float32" in out and "[2/2] 2x9x9x8 -> 24, 5x5 s2x2 float32" in out
    header = next(line for line in out.splitlines() if line.startswith("layer"))
    assert all(word in header for word in ("planned us", "best us", "default us", "planned/best", "kept"))
    kept = int(re.search(r"(\d) plans kept in (.*)", out).group(1))
    assert "Geometric means over 2 layers" in out
    _cache.update(cache, [tuning(odd_choice())["line"] + " # 2.0 us planned, 1.0 us tuned"])
    shown = command_line("--show").stdout
    assert f"{kept + 1} plans for this CPU, 0 for others" in shown
    assert "2x20x20x24 -> 70, 3x3 s1x1 float32" in shown and "2.0 us planned, 1.0 us tuned" in shown
    assert command_line("--clear").stdout == f"Forgot {kept + 1} plans.\n"
    assert not cache.exists()


def test_command_line_tunes_a_model(cache, tmp_path):
    """The layers of a saved model, by name."""
    check_python(MODEL, str(tmp_path / "m.keras"))
    done = command_line(str(tmp_path / "m.keras"), "--batch=2", "--seconds=0.02", "--dry_run")
    assert done.returncode == 0, done.stderr
    assert "[1/2] one 2x12x12x4 -> 8, 3x3 float32" in done.stdout
    assert "2x12x12x8 -> 8, 3x3 float32" in done.stdout and "would be kept (dry run)" in done.stdout
    assert not cache.exists()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--shape=1,2,3"], "--shape: must be 5 to 7 numbers"),
        (["--shape=1,2,3,4,x"], "--shape: must be 5 to 7 numbers"),
        (["NoSuchNet"], "the model must be a file or a name in keras.applications"),
        (["MobileNet", "--model=m.keras"], "the model was given twice"),
        (["--dtype=int8"], "invalid choice: 'int8'"),
        (["--threads=-1"], "must be a whole number of at least 0; given '-1'"),
        (["--show", "--clear"], "not allowed with"),
        ([], "a model or --shape must be given"),
    ],
)
def test_command_line_errors(arguments, message):
    """Wrong use: a line on stderr, and the exit status 2."""
    done = command_line(*arguments)
    errors = done.stderr.splitlines()
    assert done.returncode == 2 and message in errors[-1] and errors[-1].startswith("error: "), done.stderr
    assert "Traceback" not in done.stderr
