"""The tuner: its file and what reads it, plans given with a call, the sweep, the command line. No timings asserted."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT, check_python, python_environment, run_python

from tf_dwsconv import native, tune
from tf_dwsconv.analysis import Problem
from tf_dwsconv.native import _native
from tf_dwsconv.tune import _cache, _search

# Of this layer in most tests: 20x20 pixels, 24 channels to 70.
PROBLEM = Problem(N=2, H=20, W=20, C=24, K=70)
SHAPES = ((2, 20, 20, 24), (3, 3, 24, 1), (1, 1, 24, 70))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A file for tuned plans, not there yet; this process forgets what it has read of it in the end."""
    path = tmp_path / "cache" / "plans.txt"
    monkeypatch.setenv("DWSCONV_PLAN_CACHE", str(path))
    yield path
    monkeypatch.setenv("DWSCONV_PLAN_CACHE", "off")
    assert tune.reload() == 0


def choice(**changes):
    """The planner's choice for the layer, changed."""
    plan = native.plan(*SHAPES, variant="fused")
    return {**{name: plan[name] for name in _search.CHOICES}, **changes}


def odd_choice():
    """A choice that the planner does not make: a block that is no whole rows, one panel of output channels."""
    tile = tuning()["tile_channels"]
    plan = choice(block_pixels=13, block_channels=tile)
    assert plan != choice()
    return plan


def tuning(plan=None, num_threads=0):
    """What the compiled half tells the tuner of the layer."""
    options = native._options(1, "SAME", 1, "NHWC", None, None, isa=None, variant="auto")
    return _native.tuning(*(list(shape) for shape in SHAPES), "float32", options, num_threads, plan)


def arrays(dtype="float32"):
    """Numbers for the layer's input and filters."""
    random = np.random.default_rng(1)
    return [random.uniform(-1, 1, shape).astype(dtype) for shape in SHAPES]


def in_use(**options):
    """What `native.plan` says of the layer."""
    plan = native.plan(*SHAPES, **options)
    return plan["tuned"], {name: plan[name] for name in _search.CHOICES}


def test_a_plan_in_the_file_is_used(cache):
    """Written, read anew, used where it fits and nowhere else, and forgotten again."""
    planned, odd = choice(), odd_choice()
    assert tune.reload() == 0
    assert in_use() == (False, planned)
    _cache.update(cache, [tuning(odd)["line"] + " # a remark"])
    assert in_use() == (False, planned)  # read once
    assert tune.reload() == 1
    assert in_use() == (True, odd)
    assert in_use(variant="fused") == (False, planned)
    assert not native.plan((3, *SHAPES[0][1:]), *SHAPES[1:])["tuned"]
    assert not in_use(dtype="bfloat16")[0]
    assert not in_use(strides=2)[0]
    assert not in_use(num_threads=tuning()["threads_limit"] + 1)[0]
    x, depthwise, pointwise = SHAPES
    assert native.plan((x[0], x[3], *x[1:3]), depthwise, pointwise, data_format="NCHW")["tuned"]
    assert tune.clear() == 1
    assert not cache.exists() and in_use() == (False, planned)
    assert tune.clear() == 0


def test_another_process_uses_the_file(cache):
    """A new process needs nobody to tell it; unless the environment says that it must not."""
    odd = odd_choice()
    _cache.update(cache, [tuning(odd)["line"]])
    program = f"from tf_dwsconv import native; print(native.plan(*{SHAPES!r}))"
    assert "'tuned': True" in check_python(program) and f"'block_pixels': {odd['block_pixels']}," in check_python(
        program
    )
    for off in ("off", ""):
        assert "'tuned': False" in check_python(program, DWSCONV_PLAN_CACHE=off)


def test_the_place_without_the_variable(tmp_path, monkeypatch):
    """Both halves look in the same folder: XDG_CACHE_HOME where it is absolute, else ~/.cache."""
    line = tuning(odd_choice())["line"]
    program = "from tf_dwsconv import _native, tune; print(tune.cache_path(), _native.reload_tuned_plans())"
    settings = [
        ({"XDG_CACHE_HOME": str(tmp_path / "xdg")}, tmp_path / "xdg"),
        ({"XDG_CACHE_HOME": "", "HOME": str(tmp_path / "home")}, tmp_path / "home" / ".cache"),
    ]
    monkeypatch.delenv("DWSCONV_PLAN_CACHE")
    for environment, folder in settings:
        path = folder / "tf_dwsconv" / "plans-v1.txt"
        _cache.update(path, [line])
        assert check_python(program, **environment).split() == [str(path), "1"]


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_results_are_the_same_bit_for_bit(dtype):
    """Whatever the plan, on every instruction set: blocks, shares, threads, stores."""
    import ml_dtypes

    x, depthwise, pointwise = arrays(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    for isa in native.cpu_info()["isas"]:
        expected = native.depthwise_sep_conv2d(x, depthwise, pointwise, isa=isa, variant="fused")
        layer = native.Layer(depthwise, pointwise, isa=isa)
        plan = {name: native.plan(*SHAPES, dtype=dtype, isa=isa)[name] for name in _search.CHOICES}
        for change in ({"block_pixels": 1}, {"block_pixels": 7}, {"block_pixels": 400}, {"block_channels": 64}):
            y = layer(x, plan={**plan, **change}, num_threads=2)
            np.testing.assert_array_equal(y.view(np.uint8), expected.view(np.uint8))
        y = layer(x, plan={**plan, "threads": 3, "stream": True}, num_threads=3)
        np.testing.assert_array_equal(y.view(np.uint8), expected.view(np.uint8))


def test_results_with_a_tuned_plan(cache):
    """The same as the planner's."""
    _cache.update(cache, [tuning(odd_choice())["line"]])
    assert tune.reload() == 1
    x, depthwise, pointwise = arrays()
    tuned = native.depthwise_sep_conv2d(x, depthwise, pointwise)
    np.testing.assert_array_equal(tuned, native.depthwise_sep_conv2d(x, depthwise, pointwise, variant="fused"))


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"block_pixels": 0}, ValueError, r"block_pixels must be 1 to 400"),
        ({"block_pixels": 401}, ValueError, r"block_pixels must be 1 to 400 \(Ho\*Wo\), but is 401"),
        ({"block_pixels": -(2**63)}, ValueError, "block_pixels must be"),
        ({"block_pixels": 2**63}, ValueError, r"plan\[\"block_pixels\"\] does not fit"),
        ({"block_channels": 0}, ValueError, "block_channels must be 70"),
        ({"block_channels": 33}, ValueError, r"block_channels must be 70 \(K\) or less and a multiple"),
        ({"block_channels": 96}, ValueError, "block_channels must be"),
        ({"threads": 0}, ValueError, "threads must be 1 to 2"),
        ({"threads": 3}, ValueError, "threads must be 1 to 2, but is 3"),
        ({"stream": 2}, ValueError, r"plan\[\"stream\"\] must be True or False"),
        ({"block_pixels": 1.5}, TypeError, r"plan\[\"block_pixels\"\] must be an integer, but is a float"),
    ],
)
def test_a_plan_that_cannot_be(change, error, message):
    """Each is refused by name, before anything is computed."""
    with pytest.raises(error, match=message):
        native.depthwise_sep_conv2d(*arrays(), num_threads=2, plan=choice(**{"threads": 1, **change}))


def test_a_plan_of_another_kind():
    """Not a dict, a part of a plan, a variant without a plan."""
    with pytest.raises(TypeError, match="plan must be None or a dict, but is a int"):
        native.depthwise_sep_conv2d(*arrays(), plan=3)
    with pytest.raises(ValueError, match="lacks block_channels"):
        native.depthwise_sep_conv2d(*arrays(), plan={"block_pixels": 20})
    with pytest.raises(ValueError, match='plan goes with variant "auto" or "fused"'):
        native.depthwise_sep_conv2d(*arrays(), variant="reference", plan=choice())
    whole = native.plan(*SHAPES)  # as it comes
    assert native.depthwise_sep_conv2d(*arrays(), plan=whole).shape == (2, 20, 20, 70)
    assert native.depthwise_sep_conv2d(np.ones((0, 20, 20, 24), "f"), *arrays()[1:], plan=whole).shape[0] == 0


def test_scratch_stays_small():
    """A plan from outside cannot ask for more than 2 MiB a thread."""
    shapes = ((1, 200, 200, 64), (3, 3, 64, 1), (1, 1, 64, 8))
    plan = {**native.plan(*shapes), "block_pixels": 40_000, "threads": 1}
    with pytest.raises(ValueError, match=r"block_pixels must be at most \d+ for the scratch memory"):
        native.depthwise_sep_conv2d(*(np.ones(shape, "f") for shape in shapes), plan=plan)


def hostile_lines():
    """Lines that must be left out, by what is wrong with them."""
    good = tuning(odd_choice())["line"]
    start = _native.TUNED_PLANS_CPU
    swaps = {
        "rubbish": "\x00\xff rubbish",
        "no number": good.replace("N=2", "N="),
        "a sign": good.replace("block_pixels=13", "block_pixels=-13"),
        "zero pixels": good.replace("block_pixels=13", "block_pixels=0"),
        "too many pixels": good.replace("block_pixels=13", "block_pixels=401"),
        "overflow": good.replace("block_pixels=13", "block_pixels=" + "9" * 400),
        "part of a tile": re.sub(r"block_channels=\d+", "block_channels=3", good),
        "threads": re.sub(r" threads=\d+ stream", " threads=4096 stream", good),
        "stream": good.replace("stream=0", "stream="),
        "order": good.replace("N=2 H=20", "H=20 N=2"),
        "no plan": good.split(" : ")[0],
        "tail": good + " and=1",
        "huge sizes": good.replace("Ho=20 Wo=20", "Ho=268435456 Wo=268435456").replace("N=2", "N=268435456"),
        "zero sizes": good.replace("Ho=20", "Ho=0"),
        "no tiles": re.sub("tile_channels=[0-9]+", "tile_channels=0", good),
        "no vectors": re.sub("vector_floats=[0-9]+", "vector_floats=0", good),
        "z_bytes": re.sub("z_bytes=[0-9]+", "z_bytes=0", good),
        "start only": start,
        "cut": good[: len(good) // 2],
        "very long": good + " # " + "x" * 100_000 + "\n" + start + "N=" * 50_000,
    }
    assert all(line != good for line in swaps.values())
    return swaps


def test_hostile_lines(cache, capfd):
    """Every bad line is left out with one warning in all, and the good one after it is used."""
    odd = odd_choice()
    cache.parent.mkdir()
    for wrong, line in hostile_lines().items():
        cache.write_bytes(f"{_native.TUNED_PLANS_HEADER}\n{line}\n".encode("latin-1"))
        count = 1 if wrong == "very long" else 0  # its first line is a good one with a remark
        assert tune.reload() == count, wrong
        error = capfd.readouterr().err
        assert error.count("\n") == 1 and "1 lines of tuned plans ignored" in error and "line " in error, (wrong, error)
        assert len(error) < 500, wrong
        assert in_use()[0] == (count == 1), wrong
    everything = "\n".join([*hostile_lines().values(), tuning(odd)["line"]])
    cache.write_bytes(f"{_native.TUNED_PLANS_HEADER}\n{everything}\n".encode("latin-1"))
    assert tune.reload() == 1
    assert capfd.readouterr().err.count("\n") == 1
    assert in_use() == (True, odd)


def test_files_that_are_none(cache, capfd):
    """Another version, a folder, a pipe, too large a file: nothing is read, one warning says why."""
    line = tuning(odd_choice())["line"]
    header = _native.TUNED_PLANS_HEADER
    cache.parent.mkdir()
    for text in (header.replace("v1", "v2") + "\n" + line, line, "\n" + header, header + "\n" + "#" * (5 << 20)):
        cache.write_text(text + "\n")
        assert tune.reload() == 0
        assert capfd.readouterr().err.count("tuned plans ignored") == 1
    cache.unlink()
    for make in (os.mkdir, os.mkfifo):
        make(cache)
        assert tune.reload() == 0
        assert "tuned plans ignored: not a file" in capfd.readouterr().err
        (os.rmdir if make is os.mkdir else os.unlink)(cache)
    cache.write_text("")
    assert tune.reload() == 0 and capfd.readouterr().err == ""
    cache.write_text(f"{header}\n{line.replace(_native.TUNED_PLANS_CPU, 'cpu=another/1/2/3 ')}\n")
    assert tune.reload() == 0 and capfd.readouterr().err == ""  # another machine's, in a shared home


def test_what_is_not_ours_is_not_overwritten(cache):
    """A file of something else at the cache's place stays as it is."""
    cache.parent.mkdir()
    cache.write_text("my thesis\n")
    for change in (lambda: _cache.update(cache, [tuning(choice())["line"]]), tune.clear):
        with pytest.raises(ValueError, match="is not a file of tuned plans"):
            change()
    assert cache.read_text() == "my thesis\n"


def test_two_writers(cache):
    """Neither loses what the other wrote, and no reader sees half a file."""
    program = """
import sys
from pathlib import Path
from tf_dwsconv.tune import _cache
path, who = Path(sys.argv[1]), sys.argv[2]
for i in range(40):
    _cache.update(path, [f"cpu=writer{who} N={i} : block_pixels=1"])
"""
    command = [sys.executable, "-c", program, str(cache)]
    writers = [subprocess.Popen([*command, who], env=python_environment()) for who in "ab"]
    while any(writer.poll() is None for writer in writers):
        if cache.exists():
            text = cache.read_text()
            assert text.startswith(_native.TUNED_PLANS_HEADER + "\n") and text.endswith("=1\n")
    assert [writer.returncode for writer in writers] == [0, 0]
    assert set(_cache.read(cache)) == {f"cpu=writer{who} N={i} : block_pixels=1" for who in "ab" for i in range(40)}
    assert sorted(path.name for path in cache.parent.iterdir()) == [cache.name, cache.name + ".lock"]


def test_update_replaces_and_forgets(cache):
    """One plan for each subject; a symbolic link stays one."""
    target = cache.parent / "real.txt"
    cache.parent.mkdir()
    cache.symlink_to(target)
    _cache.update(cache, ["cpu=a N=1 : old", "cpu=a N=2 : two"])
    _cache.update(cache, ["cpu=a N=1 : new"])
    assert sorted(_cache.read(cache)) == ["cpu=a N=1 : new", "cpu=a N=2 : two"]
    _cache.update(cache, [], forget=["cpu=a N=2", "cpu=a N=3"])
    assert _cache.read(target) == ["cpu=a N=1 : new"]
    assert cache.is_symlink()


def test_tune_keeps_winners_only(cache, monkeypatch):
    """What is kept follows from the samples, here made up: a plan wins only where both duels say so."""
    fast = {}

    def sample(self, plan):
        return 1.0 if plan == fast.get("plan") else fast["others"]

    monkeypatch.setattr(_search.Bench, "sample", sample)
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
    assert "[1/2]  1x8x8x16 -> 16, 3x3 float32" in out and "[2/2]  2x9x9x8 -> 24, 5x5 s2x2 float32" in out
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
    done = command_line(f"--model={tmp_path / 'm.keras'}", "--batch=2", "--seconds=0.02", "--dry_run")
    assert done.returncode == 0, done.stderr
    assert "[1/2] one 2x12x12x4 -> 8, 3x3 float32" in done.stdout
    assert "2x12x12x8 -> 8, 3x3 float32" in done.stdout and "would be kept (dry run)" in done.stdout
    assert not cache.exists()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--shape=1,2,3"], "--shape must be 5 to 7 numbers"),
        (["--shape=1,2,3,4,x"], "--shape must be 5 to 7 numbers"),
        (["--application=NoSuchNet"], "--application must be a name in keras.applications"),
        (["--application=MobileNet", "--model=m.keras"], "cannot be given together"),
        ([], "nothing to tune"),
    ],
)
def test_command_line_errors(arguments, message):
    """A line on stderr, and the exit status 1."""
    done = command_line(*arguments)
    assert done.returncode == 1 and message in done.stderr and "Traceback" not in done.stderr, done.stderr


OP = """
import sys
import numpy as np, tensorflow as tf
import tf_dwsconv
from tf_dwsconv import _library, tune
import ctypes
tf.config.threading.set_intra_op_parallelism_threads(int(sys.argv[1]))
random = np.random.default_rng(1)
x, d, p = (random.uniform(-1, 1, s).astype("float32") for s in {shapes!r})
y = tf_dwsconv.depthwise_sep_conv2d(x, d, p).numpy()
library = ctypes.CDLL(_library.load().path)
library.dwsconv_tuned_calls.restype = ctypes.c_int64
print("tuned", library.dwsconv_tuned_calls())
np.save(sys.argv[2], y)
if len(sys.argv) > 3:
    from pathlib import Path
    Path(sys.argv[3]).unlink()
    print("reloaded", tune.reload())
    tf_dwsconv.depthwise_sep_conv2d(x, d, p)
    print("tuned", library.dwsconv_tuned_calls())
"""


def test_the_op_uses_tuned_plans(op_library, cache, tmp_path):
    """In a new process, with the same bits as without; `reload` reaches the op's library too."""
    threads = min(2, tuning()["threads_limit"])
    odd = {**odd_choice(), "threads": 1}
    _cache.update(cache, [tuning(odd, num_threads=threads)["line"]])
    program = OP.format(shapes=SHAPES)
    told = check_python(program, str(threads), str(tmp_path / "tuned.npy"), str(cache))
    assert told.split() == ["tuned", "1", "reloaded", "0", "tuned", "1"]
    told = check_python(program, str(threads), str(tmp_path / "planned.npy"), DWSCONV_PLAN_CACHE="off")
    assert told.split() == ["tuned", "0"]
    tuned, planned = (np.load(tmp_path / f"{name}.npy") for name in ("tuned", "planned"))
    np.testing.assert_array_equal(tuned, planned)


def test_reading_the_cache_needs_nothing_else(cache):
    """`native` alone imports neither the tuner nor what only it needs."""
    program = (
        "import sys; from tf_dwsconv import native; native.plan((1,4,4,4),(3,3,4,1),(1,1,4,4)); print(*sys.modules)"
    )
    modules = check_python(program).split()
    assert not {"platformdirs", "absl", "tf_dwsconv.tune"} & set(modules)
    without = run_python(
        "import sys; sys.modules['platformdirs'] = None; from tf_dwsconv import tune; tune.cache_path()",
        DWSCONV_PLAN_CACHE="",
    )
    assert without.returncode == 0
    program = (
        "import os, sys; del os.environ['DWSCONV_PLAN_CACHE']; sys.modules['platformdirs'] = None\n"
        "from tf_dwsconv import tune; tune.cache_path()"
    )
    without = run_python(program)
    assert without.returncode == 1 and "pip install 'tf_dwsconv[tune]'" in without.stderr
