"""Set-up for all tests: quiet TensorFlow on the CPU, and how to run a program in a process of its own."""

from __future__ import annotations

import ctypes
import functools
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# The folders of tests, by subject. Support modules of all of them can be imported: file names are unique.
SUBJECTS = ("op", "layer", "gradient", "block", "network", "convert", "native", "plan", "analysis", "cuda")
SUBJECTS += ("examples", "package")
_FOLDERS = [str(ROOT / "python_tests" / name) for name in ("", "support", *SUBJECTS)]
_FOLDERS.append(str(ROOT / "examples"))  # for `common`: the table of layers
sys.path[:0] = [folder for folder in _FOLDERS if folder not in sys.path]
# Modules of the example programs, as the programs find them.
sys.path += [str(ROOT / "examples" / name) for name in ("demo", "training", "serving", "benchmarks")]

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
# By itself TensorFlow turns oneDNN on where the CPU has certain instructions, and without it has no channels-first ops.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
# Set by `test_fallback.py`, which runs tests again: stock ops compute, layers and models run in graphs, and tests
# that count calls of the fused op are skipped.
FALLBACK = os.environ.get("DWSCONV_TEST_FALLBACK") == "1"
# A test that wants stock ops, one instruction set or a cluster asks for it itself.
for name in ("DWSCONV_DISABLE", "DWSCONV_ISA", "DWSCONV_NUM_THREADS", "TF_CONFIG"):
    os.environ.pop(name, None)
if FALLBACK:
    os.environ["DWSCONV_DISABLE"] = "1"
# Nor do tests run by plans that somebody tuned on this machine.
os.environ["DWSCONV_PLAN_CACHE"] = "off"
# This checkout's package, unless the environment names another one (that with AddressSanitizer does).
_PATHS = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
if not any((Path(path) / "tf_dwsconv").is_dir() for path in _PATHS):
    _PATHS.insert(0, str(ROOT))
    sys.path.insert(0, str(ROOT))
PACKAGE = next(Path(path) / "tf_dwsconv" for path in _PATHS if (Path(path) / "tf_dwsconv").is_dir())

import pytest  # noqa: E402


def pytest_configure(config):
    """Every thread of a program that hypothesis drives may be slow the first time: deadlines only make tests flaky."""
    from hypothesis import HealthCheck, settings

    settings.register_profile(
        "dwsconv", deadline=None, derandomize=True, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
    )
    settings.load_profile("dwsconv")


def pytest_report_header() -> str:
    """Says on which machine the tests believe to run, where that is not this one."""
    machine = os.environ.get("DWSCONV_TEST_MACHINE")
    return f"machine: {machine} (DWSCONV_TEST_MACHINE)" if machine else "machine: this one"


def pytest_collection_modifyitems(items):
    """A name with an address in it differs from process to process, and pytest-xdist then runs nothing at all."""
    names = [item.nodeid for item in items if re.search(r"0x[0-9a-f]{6,}", item.nodeid)]
    if names:
        raise pytest.UsageError(f"{len(names)} tests have an address in their name (see `conftest.label`): {names[:3]}")


def label(value: object) -> str:
    """A parameter's name without addresses, which differ between the processes that share the tests (pytest-xdist)."""
    return getattr(value, "__name__", None) or re.sub(r" at 0x[0-9a-f]+", "", str(value))


def python_environment(**changes: str) -> dict:
    """The environment of a new interpreter that finds the package under test, and these tests."""
    return {**os.environ, **changes, "PYTHONPATH": os.pathsep.join([*_PATHS, *_FOLDERS])}


def run_python(program: str, *arguments: str, timeout: int = 300, **environment: str) -> subprocess.CompletedProcess:
    """Runs a program (its text) in a new interpreter that finds this checkout; does not raise where it fails."""
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env=python_environment(**environment),
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def check_python(program: str, *arguments: str, **options) -> str:
    """As `run_python`, but fails where the program does; returns what it printed."""
    done = run_python(program, *arguments, **options)
    assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def check_tests(module: str, *arguments: str, at_least: int, **environment: str) -> None:
    """Runs a module of tests in a process of its own: none fails, and so many run."""
    program = "import sys, pytest; sys.exit(pytest.main(sys.argv[1:]))"
    options = ("-q", "-x", "-p", "no:cacheprovider", *arguments, str(ROOT / "python_tests" / module))
    said = check_python(program, *options, timeout=600, **environment)
    assert int(re.search(r"(\d+) passed", said)[1]) >= at_least, said[-500:]


def run_example(
    name: str, *arguments: object, timeout: int = 300, paths: Sequence[object] = (), **environment: str
) -> subprocess.CompletedProcess:
    """Runs a program of examples/; `paths` come first on its Python path. Does not raise where it fails."""
    changed = python_environment(**environment)
    changed["PYTHONPATH"] = os.pathsep.join([*map(str, paths), changed["PYTHONPATH"]])
    return subprocess.run(
        [sys.executable, str(ROOT / "examples" / name), *map(str, arguments)],
        env=changed,
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def op_calls(counter: str = "dwsconv_calls") -> dict:
    """How often the op ran in this process, by the instruction set; "dwsconv_backward_calls" counts the gradient op."""
    if FALLBACK:
        pytest.skip("it counts calls of the fused op")
    from tf_dwsconv._tf import library as _library

    count = getattr(ctypes.CDLL(_library.load().path), counter)
    count.restype = ctypes.c_int64
    calls = {isa: count(isa.encode()) for isa in ("generic", "avx2", "avx512", "amx")}
    assert min(calls.values()) >= 0
    return calls


def chain_ways(word: str) -> int:
    """How often this process went one way of cutting a chain; the words are in cc/cpu/run/executor.h."""
    from tf_dwsconv._tf import library as _library

    count = ctypes.CDLL(_library.load().path).dwsconv_block_ways
    count.restype = ctypes.c_int64
    assert count(b"nowhere") == -1
    assert count(word.encode()) >= 0
    return count(word.encode())


@pytest.fixture(scope="session")
def op_library():
    """For tests of the fused kernels: without the library they fail, rather than pass on stock ops."""
    import tf_dwsconv

    info = tf_dwsconv.build_info()
    assert info["op_library"] or FALLBACK, f"the op library is missing: {info['reason']}"


@pytest.fixture(autouse=FALLBACK)
def in_graphs(monkeypatch):
    """Stock ops, and models with our layers, compute in a graph, where TensorFlow's optimiser works on them."""
    import keras
    import tensorflow as tf

    import tf_dwsconv
    from tf_dwsconv._tf import stock

    ours = (tf_dwsconv.DepthwiseSepConv2D, tf_dwsconv.FusedConvBlock, tf_dwsconv.FusedNetwork)

    def traced(function):
        @functools.wraps(function)
        def call(*arguments, **options):
            symbolic = any(isinstance(t, keras.KerasTensor) for t in keras.tree.flatten((arguments, options)))
            model = arguments[0] if isinstance(arguments[0], keras.Model) else None
            without = model is not None and not any(isinstance(layer, ours) for layer in model._flatten_layers())
            if symbolic or without or not tf.executing_eagerly():
                return function(*arguments, **options)
            return tf.function(lambda: function(*arguments, **options))()

        return call

    for owner, name in ((stock, "compute"), (keras.Model, "__call__")):
        monkeypatch.setattr(owner, name, traced(getattr(owner, name)))


@pytest.fixture
def stock_only(monkeypatch):
    """Stock ops, as where the library cannot load."""
    monkeypatch.setenv("DWSCONV_DISABLE", "1")
