"""That a visit to a card does not end with its first mistake: the smoke test, the checks, rows, the sweep and
cuda/run_all.sh, on the CPU shim or without any library.
"""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
import types

import cuda_backward_cases
import cuda_block_cases
import cuda_card_math
import cuda_checks
import cuda_smoke_program as smoke
import numpy as np
import pytest
import reference
import test_cuda_cards as cards
from conftest import ROOT, python_environment
from cuda_library import Library
from cuda_shim_support import build_shim

sys.path.insert(0, str(ROOT / "cuda" / "bench"))
import ab
import sweep
from rows import Rows

# A driver for the smoke test: the host's memory, so that the shim's kernels reach what it gives.
DRIVER = """
#include <cstdint>
#include <cstdlib>
#include <cstring>
extern "C" {
int cuInit(unsigned) { return 0; }
int cuDeviceGet(int* device, int) { *device = 0; return 0; }
int cuDevicePrimaryCtxRetain(void** context, int) { *context = nullptr; return 0; }
int cuCtxSetCurrent(void*) { return 0; }
int cuMemAlloc_v2(uint64_t* at, size_t size) {
  *at = reinterpret_cast<uint64_t>(aligned_alloc(256, (size + 255) / 256 * 256));
  return 0;
}
int cuMemcpyHtoD_v2(uint64_t to, const void* from, size_t size) {
  memcpy(reinterpret_cast<void*>(to), from, size);
  return 0;
}
int cuMemcpyDtoH_v2(void* to, uint64_t from, size_t size) {
  memcpy(to, reinterpret_cast<void*>(from), size);
  return 0;
}
int cuCtxSynchronize() { return getenv("DWSCONV_TEST_FAULT") ? 700 : 0; }
}
"""


def test_every_family_runs_in_a_process_of_its_own(tmp_path, capsys, monkeypatch):
    """As on a card, but in float16, or the type that a family has: the others are the other tests' business."""
    out = tmp_path / "smoke.md"
    names = [name for name in smoke.CASES if name.endswith(" float16")]
    assert len(names) == len(smoke.FAMILIES)
    library = str(build_shim())

    def command_of(name):
        return [sys.executable, smoke.__file__, library, "--case", name, "--host"]

    monkeypatch.setenv("PYTHONPATH", python_environment()["PYTHONPATH"])
    assert smoke.run_all(names, command_of, 120, 2, out) == 0, capsys.readouterr().out
    lines = out.read_text(encoding="utf-8").splitlines()
    assert len(lines) == 2 + len(names) and all(line.count("|") == 5 for line in lines)
    assert "left out" not in "".join(lines)


def test_what_a_card_has_no_kernels_for_is_left_out():
    library = Library(build_shim())
    cards.card(library, *cards.CARDS["A100"])
    try:
        said = smoke.run_case(str(build_shim()), "product wgmma float16", host=True)
    finally:
        cards.card(library)
    assert said == "left out | path two_step_wgmma needs a card of compute capability 9.0"


def test_every_kind_of_element_by_the_drivers_functions(tmp_path, monkeypatch):
    driver = tmp_path / "libcuda.so"
    (tmp_path / "driver.cc").write_text(DRIVER, encoding="utf-8")
    subprocess.run(["g++", "-shared", "-fPIC", "-o", str(driver), str(tmp_path / "driver.cc")], check=True)
    monkeypatch.setenv("DWSCONV_LIBCUDA", str(driver))
    for kind in smoke.KINDS:
        assert "stream" in smoke.run_case(str(build_shim()), f"stream {kind}", host=False)
    # An address that is wrong shows where somebody waits.
    monkeypatch.setenv("DWSCONV_TEST_FAULT", "1")
    with pytest.raises(RuntimeError, match="cuCtxSynchronize answers 700"):
        smoke.run_case(str(build_shim()), "direct float16", host=False)


def test_whatever_a_process_does_is_a_line(tmp_path, capsys):
    """One that is slow, one that dies, one that fails: each is told, and the next ones run."""
    programs = {
        "slow": "import time; time.sleep(60)",
        "dead": "import os; os.abort()",
        "wrong": "import sys; sys.exit('off by 3')",
        "right": "print('0.10 of what is allowed | stream')",
    }
    out = tmp_path / "smoke.md"
    failed = smoke.run_all(list(programs), lambda name: [sys.executable, "-c", programs[name]], 20, 4, out)
    assert failed == 3
    text = out.read_text(encoding="utf-8")
    assert "| slow | FAILED: longer than 20 s" in text
    assert "| dead | FAILED: exit -6" in text and "| wrong | FAILED: exit 1: off by 3" in text
    assert "| right | passed: 0.10 of what is allowed | stream |" in text
    assert "1 of 4 passed" in capsys.readouterr().out


def test_a_wrong_result_or_plan_fails(monkeypatch):
    library = str(build_shim())
    monkeypatch.setitem(
        smoke.FAMILIES, "direct", (*smoke.FAMILIES["direct"][:2], "stream", *smoke.FAMILIES["direct"][3:])
    )
    with pytest.raises(AssertionError, match="the plan is direct"):
        smoke.run_case(library, "direct float16", host=True)
    right = reference.forward
    monkeypatch.setattr(reference, "forward", lambda *case: right(*case) + 1)
    with pytest.raises(AssertionError, match="off by"):
        smoke.run_case(library, "stream float16", host=True)


def test_checks_are_told_as_they_end(capsys):
    def fails(error):
        raise error

    checks = [
        ("good", lambda: "stream"),
        ("off", lambda: fails(AssertionError("off by 2"))),
        ("random 3", lambda: fails(ValueError("no room in shared memory"))),
        ("refused", lambda: fails(ValueError("K must be positive"))),
    ]
    skips = lambda name, error: name.startswith("random") and "shared memory" in str(error)  # noqa: E731
    outcome = cuda_checks.run(checks, skips=skips)
    assert outcome.passed == ["good"] and outcome.skipped == 1 and list(outcome.failed) == ["off", "refused"]
    said = capsys.readouterr().out
    assert "passed good: stream" in said and "FAILED off: off by 2" in said
    assert cuda_checks.report(outcome) == 1
    assert cuda_checks.report(cuda_checks.run(checks[:1])) == 0
    assert cuda_checks.report(cuda_checks.run([])) == 1  # nothing was checked


def test_nothing_is_believed_of_a_card_that_is_lost():
    def lost():
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nCompile with ...")

    outcome = cuda_checks.run([("bad", lost), ("next", lambda: "")])
    assert outcome.lost and outcome.left == 1 and not outcome.passed
    assert outcome.failed == {"bad": "RuntimeError: CUDA error: an illegal memory access was encountered"}


def test_no_check_begins_after_its_time():
    outcome = cuda_checks.run([("a", lambda: ""), ("b", lambda: "")], seconds=-1)
    assert outcome.left == 2 and not outcome.failed


class _Tensor(np.ndarray):
    """As much of a PyTorch tensor as the references take."""

    def cpu(self):
        return self

    def numpy(self):
        return np.asarray(self)


def test_references_on_a_card_are_the_references(monkeypatch):
    torch = types.SimpleNamespace(
        float64=np.float64,
        as_tensor=lambda array, device: np.asarray(array).view(_Tensor),
        zeros=lambda shape, dtype, device: np.zeros(shape, dtype).view(_Tensor),
        matmul=np.matmul,
    )
    for module in (reference, cuda_backward_cases, cuda_block_cases):
        monkeypatch.setattr(module, "np", np)
    monkeypatch.setattr(reference, "depthwise", reference.depthwise)
    shape = {**dict(zip("NHWCMKRS", (2, 9, 8, 5, 2, 7, 3, 2))), "strides": (2, 1), "padding": ((2, 1), (0, 3)),
             "bias": True, "depthwise_bias": True, "residual": True, "activation": ("silu", 0.2)}  # fmt: skip
    case = reference.random_case(np.random.default_rng(0), np.float32, shape)
    grad = cuda_backward_cases.random_gradient(np.random.default_rng(1), *case, np.float32)

    def results():
        gradients, y, _ = cuda_backward_cases.backward(*case, grad.copy(), np.float32)
        return [reference.forward(*case), y, *gradients.values.values()]

    here = results()
    calls = []
    counted = torch.matmul
    torch.matmul = lambda a, b: calls.append(1) or counted(a, b)
    cuda_card_math.install(torch, least=0)
    for on_card, expected in zip(results(), here):
        np.testing.assert_allclose(on_card, expected, rtol=1e-12, atol=1e-12)
    assert calls


def test_rows_are_written_as_they_come(tmp_path, capsys):
    rows = Rows(tmp_path / "rows.jsonl")

    def fails():
        raise RuntimeError("out of memory\nmore")

    rows.add({"layer": "a"}, lambda: {"us": 1.5})
    rows.add({"layer": "b"}, fails)
    lines = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text(encoding="utf-8").splitlines()]
    assert lines == [{"layer": "a", "us": 1.5}, {"layer": "b", "error": "RuntimeError: out of memory"}]
    assert rows.failed and rows.good == lines[:1] and rows.kept == lines
    assert capsys.readouterr().out.count("\n") == 2


def test_libraries_are_timed_in_turn():
    order = []

    def measures_of(layer, libraries):
        def measure(name):
            order.append(name)
            return {"before": 4.0, "after": 2.0}[name]

        return {name: lambda name=name: measure(name) for name in libraries}

    rows = Rows()
    ab.add_rows(rows, {"before": None, "after": None}, measures_of, 2)
    assert [row["layer"] for row in rows.good] == list(ab.LAYERS)
    assert all(row["first/last"] == 2 and row["after us"] == 2 for row in rows.good)
    assert order[:4] == ["before", "after", "before", "after"]


def test_a_library_may_be_timed_on_one_path():
    found = ab.named(["a/libdwsconv_cuda_1234567.so", "b/libdwsconv_cuda.so@stream", "b/libdwsconv_cuda.so"], str)
    assert found == {
        "1234567": ("a/libdwsconv_cuda_1234567.so", "auto"),
        "libdwsconv_cuda stream": ("b/libdwsconv_cuda.so", "stream"),
        "libdwsconv_cuda": ("b/libdwsconv_cuda.so", "auto"),
    }


def test_the_sweep_finds_the_rates_that_a_card_has(tmp_path):
    """Times that the model gives by other rates: fitted to them it is right, and the header says so."""
    library = Library(build_shim())
    layers = ((16, 112, 128, 128, 3, 1), (16, 112, 32, 64, 3, 1), (1, 14, 64, 64, 3, 1))
    rows = [
        {"layer": layer, "dtype": "float16", "options": options, "plan": str(options)}
        for layer in layers
        for options in list(sweep.plans_of(library, layer, "float16"))[::6]
    ]
    assert len(rows) >= 12
    card = (50.0, 500.0, 256.0, 12.0, 2500.0, 6.0, 300.0, 400.0)
    for row, us in zip(rows, sweep.modelled(library, rows, card)):
        row["us"] = us
    path = tmp_path / "sweep.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"error": "one that failed"}]), encoding="utf-8")
    before = sweep.off(library, rows, sweep.TODAY)
    assert sweep.main([str(tmp_path), "--library", str(build_shim()), "--fit", str(path)]) == 0
    text = (tmp_path / "rates.h").read_text(encoding="utf-8")
    rates = [float(number) for number in re.findall(r"double \w+ = ([\d.e+]+);", text)]
    assert before > 0.2 and sweep.off(library, rows, rates) < 0.25 * before
    program = '#include "rates.h"\nint main() { return dwsconv::CudaRates{}.launch_us > 3 ? 0 : 1; }\n'
    (tmp_path / "main.cc").write_text(program, encoding="utf-8")
    subprocess.run(["g++", "-o", str(tmp_path / "main"), str(tmp_path / "main.cc")], check=True)
    assert subprocess.run([str(tmp_path / "main")]).returncode == 0
    said = (tmp_path / "sweep.md").read_text(encoding="utf-8")
    assert "lost" in said
    assert all(math.isfinite(rate) for rate in rates) and sweep.off(library, rows, None) == pytest.approx(before)


def run_all(*arguments: object, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [str(ROOT / "cuda" / "run_all.sh"), *map(str, arguments)],
        env={**os.environ, "DWSCONV_PYTHON": sys.executable, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_the_script_runs_without_a_card_or_compiler(tmp_path):
    out = tmp_path / "out"
    done = run_all(out, "first", "--no-build", "--host", "--library", build_shim(), "--only", "direct float16")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| smoke | passed |" in (out / "summary.md").read_text(encoding="utf-8")
    assert "| direct float16 | passed" in (out / "smoke.md").read_text(encoding="utf-8")


def test_a_step_that_fails_is_a_line_and_the_next_ones_run(tmp_path):
    """Every part with a library that is none, and a Python without PyTorch or a card."""
    out, library = tmp_path / "out", tmp_path / "none.so"
    library.write_bytes(b"none")
    done = run_all(out, "first", "checks", "times", "--no-build", "--library", library, "--only", "direct float16")
    assert done.returncode == 1
    summary = (out / "summary.md").read_text(encoding="utf-8")
    for step in ("smoke", "limits", "cuda_checks", "cuda_block_checks", "cuda_backward_checks", "benchmark", "sweep"):
        assert f"| {step} | FAILED" in summary, summary


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["test"], "PART must be first, checks, times or rest, but is test"),
        (["first", "--no-build", "--library", "none.so"], "there is no .*none.so"),
        (["first", "--library"], "--library needs a value"),
    ],
)
def test_what_the_script_does_not_know_is_an_error(tmp_path, arguments, message):
    done = run_all(tmp_path / "out", *arguments)
    assert done.returncode in (1, 2) and re.search(message, done.stderr), done.stderr
