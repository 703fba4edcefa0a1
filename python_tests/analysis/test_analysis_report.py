"""tf_dwsconv.analysis: tables of models and shapes, the command line, the plot, malformed input, examples."""

import doctest
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tf_dwsconv import analysis
from tf_dwsconv.analysis import Array, LoopNest, Machine, Problem, Window

ROOT = Path(__file__).resolve().parents[2]
MODULES = ("costs", "dense", "fused", "layers", "nests", "problem", "report")
STUDY = Problem(N=1, H=224, W=224, C=128, K=128)
NEST = LoopNest({"i": 8, "j": 8}, (Array("A", ("i",)), Array("B", ("j",))))


def run(*arguments, code=None):
    """A Python process in the root of the tree; its result."""
    command = [sys.executable, *(["-c", code] if code else ["-m", "tf_dwsconv.analysis"]), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.parametrize("module", MODULES)
def test_examples_of_docstrings(module):
    result = doctest.testmod(importlib.import_module(f"tf_dwsconv.analysis.{module}"))
    assert result.attempted > 0 and result.failed == 0


def test_examples_of_the_document():
    result = doctest.testfile(str(ROOT / "docs" / "analysis.md"), module_relative=False)
    assert result.attempted > 10 and result.failed == 0


def test_import_is_light():
    heavy = ("tensorflow", "keras", "scipy", "matplotlib", "absl")
    code = f"import sys, tf_dwsconv.analysis; print([m for m in {heavy} if m in sys.modules])"
    result = run(code=code)
    assert (result.stdout.strip(), result.returncode) == ("[]", 0), result.stderr


@pytest.mark.parametrize(
    "module, call",
    [
        ("scipy.optimize", lambda path: NEST.solve(64)),
        ("matplotlib.figure", lambda path: analysis.plot_roofline([STUDY], Machine(1e12, 1e11), path)),
        ("keras", lambda path: analysis.summary(None)),
    ],
)
def test_a_missing_package_is_named(monkeypatch, tmp_path, module, call):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"{module.split('.')[0]}.*tf_dwsconv\[analysis\]"):
        call(tmp_path / "plot.png")


# Models.


def test_summary_of_a_model():
    keras = pytest.importorskip("keras")
    layers = keras.layers
    inner = keras.Sequential([layers.Input((8, 8, 24)), layers.SeparableConv2D(5, 3, name="last")], name="inner")
    x = inputs = keras.Input((33, 32, 6))
    x = layers.SeparableConv2D(16, (3, 5), strides=2, depth_multiplier=2, padding="same", name="separable")(x)
    x = layers.ZeroPadding2D(((0, 1), (1, 0)))(x)
    x = layers.DepthwiseConv2D(3, strides=2, padding="valid", name="chain")(x)
    x = layers.ReLU(6.0)(layers.BatchNormalization()(x))
    x = layers.Conv2D(24, 1)(x)
    gate = layers.DepthwiseConv2D(3, dilation_rate=2, padding="same", name="alone")(x)
    x = layers.Conv2D(24, 1)(layers.multiply([x, gate]))
    model = keras.Model(inputs, inner(x))
    summary = analysis.summary(model, batch_size=4, dtype="float16", machine=Machine(1e12, 1e11))
    found = {layer.name: layer for layer in summary.layers}
    assert list(found) == ["separable", "chain", "alone", "inner/last"]
    assert found["separable"].problem == Problem(N=4, H=33, W=32, C=6, K=16, R=3, S=5, M=2, stride=2)
    assert found["chain"].problem == Problem(4, 17, 16, 16, 24, stride=2, padding=((0, 1), (1, 0)))
    assert (found["alone"].kind, found["alone"].problem.dilation, found["alone"].tiling) == ("depthwise", (2, 2), None)
    assert found["inner/last"].problem == Problem(4, 8, 8, 24, 5, padding="VALID")
    for layer in summary.layers:
        parameters = {"separable": (3 * 5 * 6 * 2 + 12 * 16), "chain": 9 * 16 + 16 * 24, "alone": 9 * 24}
        assert layer.cost.parameters == parameters.get(layer.name, 9 * 24 + 24 * 5)
        assert layer.bound_bytes <= (layer.tiling_bytes or layer.cost.accesses_bytes)
        assert layer.seconds == analysis.roofline_seconds(layer.cost, Machine(1e12, 1e11))
    text = str(summary)
    assert all(name in text for name in found) and text.splitlines()[-1].startswith("total")
    assert f"{sum(layer.cost.flops for layer in summary.layers) / 1e6:.1f}" in text.splitlines()[-1]


def test_summary_of_what_has_several_users_or_calls():
    keras = pytest.importorskip("keras")
    layers = keras.layers
    inputs = keras.Input((8, 8, 4))
    shared = layers.SeparableConv2D(4, 3, padding="same", name="twice")
    x = shared(shared(inputs))
    x = layers.DepthwiseConv2D(3, name="seen")(x)  # its result leaves the model too: it is not half of a layer
    model = keras.Model(inputs, [x, layers.Conv2D(4, 1)(x)])
    summary = analysis.summary(model)
    assert [(layer.name, layer.kind) for layer in summary.layers] == [
        ("twice", "dws"),
        ("twice", "dws"),
        ("seen", "depthwise"),
    ]
    assert "no depthwise layers" in str(analysis.summary(keras.Sequential([keras.Input((4,)), layers.Dense(2)])))


def test_summary_of_channels_first():
    keras = pytest.importorskip("keras")
    inputs = keras.Input((5, 9, 7))
    layer = keras.layers.DepthwiseConv2D(3, data_format="channels_first")
    (found,) = analysis.summary(keras.Model(inputs, layer(inputs))).layers
    assert (found.problem.C, found.problem.H, found.problem.W) == (5, 9, 7)


def test_summary_of_mobilenet():
    keras = pytest.importorskip("keras")
    summary = analysis.summary(keras.applications.MobileNet(weights=None))
    assert [layer.kind for layer in summary.layers] == ["dws"] * 13
    first, last = 112 * 112 * 27 * 32, 1024 * 1000  # the rest of the network's well-known 569 million
    assert first + sum(layer.cost.macs for layer in summary.layers) + last == 568_740_352


def test_summary_of_bad_models():
    keras = pytest.importorskip("keras")
    with pytest.raises(TypeError, match=r"model must be a keras\.Model; given list"):
        analysis.summary([])
    with pytest.raises(ValueError, match="model must be a built Functional or Sequential"):
        analysis.summary(keras.Sequential([keras.layers.SeparableConv2D(4, 3)]))
    inputs = keras.Input((None, None, 4))
    open_size = keras.Model(inputs, keras.layers.SeparableConv2D(4, 3, name="open")(inputs))
    with pytest.raises(ValueError, match=r"model must have a fixed input size .* layer 'open'"):
        analysis.summary(open_size)
    with pytest.raises(ValueError, match="batch_size must be at least 1; given 0"):
        analysis.summary(open_size, batch_size=0)


# The command line.


def test_command_line(tmp_path):
    plot = tmp_path / "roofline.png"
    result = run(
        "--shape=1,224,224,128,128", "--shape=2x9x9x4x8", "--peak_gflops=520", "--dram_gbs=57", f"--plot={plot}"
    )
    assert result.returncode == 0, result.stderr
    assert plot.read_bytes().startswith(b"\x89PNG") and plot.stat().st_size > 10000
    lines = [line.split() for line in result.stdout.splitlines()]
    assert ["dense", "147456", "7.4", "26.0", "569.5"] in lines and ["DWS", "17536", "0.88", "25.7", "68.4"] in lines
    assert any(line[:2] == ["layer", "1"] and line[-1] == "3.384" for line in lines)  # 1.76 GFLOP at 520 a second


def test_command_line_options():
    result = run("--shape=1,56,56,8,8", "--kernel=5,3", "--stride=2", "--padding=VALID", "--dtype=bfloat16")
    assert result.returncode == 0, result.stderr
    assert "1x56x56x8 -> 8, 5x3 s2x2 VALID, bfloat16, 524288 elements" in result.stdout


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--shape=1,2,3"], "--shape: must be 5 numbers"),
        (["--shape=1,a,3,4,5"], "--shape: must hold integers"),
        (["--shape=1,8,8,0,4"], "C must be at least 1"),
        (["--kernel=3,3,3"], "--kernel: must be one number or rows,columns"),
        (["--shape=1,2,2,3,4", "--padding=VALID"], "window spans 3 of the height"),
        (["--padding=half"], "--padding: invalid choice: 'half'"),
        (["--dtype=int4"], "--dtype: invalid choice: 'int4'"),
        (["--fast_bytes=0"], "--fast-bytes: must be a whole number of at least 1"),
        (["--peak_gflops=1"], "--peak-gflops and --dram-gbs must be given together"),
        (["--plot=x.png"], "--plot needs"),
        (["--plot=README.md", "--peak_gflops=1", "--dram_gbs=1"], "'README.md' exists; --overwrite"),
        (["--model=no_such_model"], "the model must be a file or a name in keras.applications"),
    ],
)
def test_command_line_errors(arguments, message):
    if any("--model" in a for a in arguments):
        pytest.importorskip("keras")
    result = run(*arguments)
    errors = result.stderr.splitlines()
    assert result.returncode == 2 and message in errors[-1] and errors[-1].startswith("error: "), result.stderr
    assert "Traceback" not in result.stderr


def test_command_line_failure():
    result = run("--shape=1,8,8,4,4", "--plot=x.wrong", "--peak_gflops=1", "--dram_gbs=1")
    assert result.returncode == 1 and result.stderr.startswith("error: path must end in one of"), result.stderr


# Malformed input.

GOOD = {"N": 1, "H": 8, "W": 8, "C": 4, "K": 4}


@pytest.mark.parametrize(
    "change, error, message",
    [
        *(({name: 0}, ValueError, f"{name} must be at least 1; given 0") for name in ("N", "H", "W", "C", "K")),
        *(({name: -3}, ValueError, f"{name} must be at least 1; given -3") for name in ("R", "S", "M")),
        ({"C": 4.0}, TypeError, "C must be an integer; given 4.0"),
        ({"N": True}, TypeError, "N must be an integer; given True"),
        ({"H": None}, TypeError, "H must be an integer; given None"),
        ({"stride": 0}, ValueError, "stride must be at least 1"),
        ({"stride": (1, 2, 3)}, ValueError, "stride must be an integer or a pair"),
        ({"dilation": (1, 0)}, ValueError, r"dilation\[1\] must be at least 1"),
        ({"dilation": "2"}, TypeError, "dilation must be an integer"),
        ({"padding": "FULL"}, ValueError, "padding must be one of 'SAME', 'VALID'; given 'FULL'"),
        ({"padding": 1}, ValueError, "padding must be 'SAME', 'VALID' or"),
        ({"padding": ((0, 0), (0, -1))}, ValueError, "padding right must be at least 0"),
        ({"padding": "VALID", "R": 9}, ValueError, "window spans 9 of the height"),
        ({"padding": ((0, 0), (1, 1)), "S": 4, "dilation": (1, 4)}, ValueError, "window spans 13 of the width"),
        ({"H": 1 << 40}, ValueError, "the height has 1099511627776 windows of 3 taps"),
    ],
)
def test_malformed_problems(change, error, message):
    with pytest.raises(error, match=message):
        Problem(**{**GOOD, **change})


SMALL = Problem(**GOOD)


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: analysis.layer_cost("x"), TypeError, r"problem must be an analysis\.Problem; given str"),
        (lambda: analysis.layer_cost(SMALL, "sparse"), ValueError, "kind must be one of .* given 'sparse'"),
        (lambda: analysis.layer_cost(SMALL, dtype="float8"), ValueError, "dtype must be one of .* given 'float8'"),
        (lambda: analysis.layer_cost(SMALL, dtype=4), TypeError, "dtype must be a name or a dtype; given 4"),
        (
            lambda: analysis.layer_cost(SMALL) + analysis.layer_cost(SMALL, dtype="float16"),
            ValueError,
            "itemsize must agree",
        ),
        (lambda: Machine(0, 1), ValueError, "peak_flops must be positive"),
        (lambda: Machine(1, float("nan")), ValueError, "dram_bytes_per_s must be positive"),
        (lambda: Machine(1, "1"), TypeError, "dram_bytes_per_s must be a number"),
        (lambda: Machine(1, 1, cache_bytes=-1), ValueError, "cache_bytes must be at least 0"),
        (lambda: Machine(1, 1, cache_bytes_per_s=0), ValueError, "cache_bytes_per_s must be positive"),
        (lambda: analysis.roofline_seconds(1, Machine(1, 1)), TypeError, r"cost must be an analysis\.Cost"),
        (
            lambda: analysis.roofline_seconds(analysis.layer_cost(SMALL), 1),
            TypeError,
            r"machine must be an analysis\.Machine",
        ),
        (lambda: LoopNest({}, (Array("A", ()),)), TypeError, "bounds must map loops to trip counts"),
        (lambda: LoopNest({"i": 0}, (Array("A", ("i",)),)), ValueError, r"bounds\['i'\] must be at least 1"),
        (lambda: LoopNest({"i": 2}, ()), ValueError, "arrays must be one or more"),
        (lambda: LoopNest({"i": 2}, (Array("A", ("i",)),) * 2), ValueError, "arrays must be .* different names"),
        (lambda: LoopNest({"i": 2}, ("A",)), TypeError, "arrays must hold Array objects"),
        (lambda: LoopNest({"i": 2}, (Array("A", ("j",)),)), ValueError, r"array A is indexed by \['j'\]"),
        (lambda: LoopNest({"i": 2}, (Array("A", ("i", "i")),)), ValueError, "array A must use a loop once"),
        (lambda: LoopNest({"i": 2}, (Array("A", ("i",), words=0),)), ValueError, "words of array A must be positive"),
        (lambda: LoopNest({"i": 2}, (Array("A", ("i",), "row"),)), ValueError, "window of array A must be one of"),
        (lambda: LoopNest({"i": 2}, (Array("A", ("i",)),), ("k",)), ValueError, r"prefer names \['k'\]"),
        (lambda: NEST.solve(1), ValueError, "memory must be at least 2"),
        (lambda: NEST.solve(2.5), TypeError, "memory must be an integer"),
        (lambda: NEST.solve(64, (0.5, 2)), ValueError, "capacities must be at least 1"),
        (lambda: NEST.traffic({"i": 2}), ValueError, "tile must give a size for each of the loops"),
        (lambda: NEST.tile_words({"i": 2, "j": 9}), ValueError, r"tile\['j'\] must be at most the loop's bound 8"),
        (lambda: NEST.integer_tiling(64, "all"), ValueError, "capacity must be one of"),
        (
            lambda: analysis.pointwise_nest(SMALL).integer_tiling(2),
            ValueError,
            "memory must hold one iteration of every array, 3 words; given 2",
        ),
        (lambda: analysis.depthwise_nest(SMALL).lower_bound(64), ValueError, r"arrays \['X'\] are indexed by windows"),
        (lambda: analysis.depthwise_nest(SMALL, "none"), ValueError, "window .* must be one of"),
        (lambda: analysis.conv_lower_bound(SMALL, 64, (1, 1)), ValueError, "precisions must hold 3 numbers"),
        (lambda: analysis.conv_lower_bound(SMALL, 64, 1), TypeError, "precisions must hold the words"),
        (lambda: analysis.conv_lower_bound(SMALL, 64, (1, 0, 1)), ValueError, r"precisions\[1\] must be positive"),
        (lambda: analysis.conv_blocking(SMALL, 11), ValueError, "memory must be at least 4 .* = 12 words; given 11"),
        (
            lambda: analysis.conv_blocking(Problem(**GOOD, dilation=2), 64),
            ValueError,
            r"problem must have dilation 1 .* given \(2, 2\)",
        ),
        (lambda: analysis.words_of(("float32",)), ValueError, "dtypes must name those of I, F and O"),
        (lambda: analysis.dws_lower_bound(SMALL, 1), ValueError, "memory must be at least 2"),
        (lambda: analysis.fused_traffic(SMALL, 65, 4), ValueError, r"bp must be at most Ho\*Wo = 64"),
        (lambda: analysis.fused_traffic(SMALL, 64, 5), ValueError, "bk must be at most 4; given 5"),
        (lambda: analysis.fused_traffic(SMALL, 64, 4, bc=5), ValueError, "bc must be at most 4; given 5"),
        (lambda: analysis.fused_traffic(SMALL, 0, 4), ValueError, "bp must be at least 1"),
        (lambda: analysis.fused_traffic(SMALL, 64, 4, 9), ValueError, "memory must hold the tile's .* given 9"),
        (lambda: analysis.fused_traffic(SMALL, 64, 4, order="rows"), ValueError, "order must be one of"),
        (lambda: analysis.fused_tiling(SMALL, 30), ValueError, "memory must hold the smallest tile .* given 30"),
        (lambda: analysis.fused_tiling(SMALL, 300, quanta=4), ValueError, "quanta must be 3 integers"),
        (lambda: analysis.fused_tiling(SMALL, 300, quanta=(1, 0, 1)), ValueError, r"quanta\[1\] must be at least 1"),
        (lambda: analysis.report_layer(SMALL, fast_bytes=0), ValueError, "fast_bytes must be at least 1"),
        (lambda: analysis.report_layer(SMALL, machine=1), TypeError, r"machine must be an analysis\.Machine or None"),
        (lambda: analysis.plot_roofline([], Machine(1, 1), "x.png"), ValueError, "problems must not be empty"),
        (lambda: analysis.plot_roofline([SMALL], 1, "x.png"), TypeError, r"machine must be an analysis\.Machine"),
        (
            lambda: analysis.plot_roofline([SMALL], Machine(1, 1), "x.png", measured={"fused": [1.0]}),
            ValueError,
            "measured must be one of 'DWS, fused'",
        ),
        (
            lambda: analysis.plot_roofline([SMALL], Machine(1, 1), "x.png", measured={"dense": [1.0, 2.0]}),
            ValueError,
            r"measured\['dense'\] must hold 1 times",
        ),
        (
            lambda: analysis.plot_roofline([SMALL], Machine(1, 1), "x.png", measured={"dense": [0.0]}),
            ValueError,
            r"measured\['dense'\] must be positive",
        ),
    ],
)
def test_malformed_calls(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_windows_need_two_loops():
    with pytest.raises(ValueError, match="array X must use a loop once"):
        LoopNest({"p": 4}, (Array("X", (Window("p", "p"),)),))


def test_a_layer_that_does_not_fit_has_no_tiling():
    report = analysis.report_layer(SMALL, fast_bytes=64)
    assert report.tiling is None and report.tiling_bytes is None
    assert " - " in analysis.report_table([report, report])
