"""Times one convolution layer: dense, stock, tf_dwsconv, other runtimes; eager, in a tf.function, in XLA.

  python examples/benchmarks/benchmark_layer.py  # the GPU study's layer, batch 1 and 16
  python examples/benchmarks/benchmark_layer.py --suite=mobilenet --variants=separable,ours,native
  python examples/benchmarks/benchmark_layer.py --suite=all  # docs/performance.md: 25 layers, in every runtime there is
  python examples/benchmarks/benchmark_layer.py --suite=training --train --variants=separable,ours,torch
  python examples/benchmarks/benchmark_layer.py --shape=8,56,56,128 --filters=128 --dtype=bfloat16
  python examples/benchmarks/benchmark_layer.py --shape=8,28,28,256 --filters=256 --train  # forward and backward
  python examples/benchmarks/benchmark_layer.py --cases=slow --threads=2  # stock beside ours where ours was slow

Several layers at once: repeat --shape and --filters, in pairs. The calls of all are taken in turn in one process, so
the ratio holds on a machine that is not quiet; the times of two runs do not compare.

Columns: ms, the median of the calls, and its quartiles; conv/s, images a second; GFLOP/s, a multiply-add counted as
two, three times as many for --train; GB/s, what an ideal layer of that kind moves (input and filters read, output
written) over the time; % limit, the least time by arithmetic at peak and those bytes at bandwidth, over the time;
difference, the largest from the first depthwise-separable variant, relative to the largest element.
"""

from __future__ import annotations

import itertools
import os
import re
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow is imported: warnings and errors only
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for `common`

from absl import app, flags, logging
from common import options
from common.layer_table import SUITES
from common.timing import Timing, time_in_turn
from measuring import cases, layer_runtimes, layers, machine, plots, results, sources

from tf_dwsconv.analysis import Machine, Problem, roofline_seconds

_SUITE = flags.DEFINE_enum("suite", "study", [*SUITES], "Layers to time where no --shape is given.")
_LAYERS = options.LayerFlags("Those of --suite where none is given.")
_PADDING = flags.DEFINE_enum("padding", "same", ["same", "valid"], "Padding of all layers.")
_DTYPE = options.dtype()
_DEVICE = flags.DEFINE_string("device", "CPU:0", "TensorFlow's device of the Keras variants.")
_THREADS = options.threads()
_VARIANTS = options.words("variants", list(layers.VARIANTS), layers.VARIANTS, "What to time:")
_MODES = options.words("modes", ["graph"], layers.MODES, "How Keras layers are called:")
_TRAIN = flags.DEFINE_bool("train", False, "Time forward and backward (gradients of the input and all weights).")
_REPEAT = options.repeat(30)
_SECONDS = options.seconds(5.0)
_SEED = options.seed()
_CASES = flags.DEFINE_enum("cases", None, [*cases.CASES], "Time a list of measuring/cases.py: stock beside ours.")
_MATCH = flags.DEFINE_string("match", "", "Of --cases those whose name and pass match this regular expression.")
_PLOT = options.plot("layer.png")
_OUTPUT = results.define_output("benchmark_layer")

COLUMNS = {
    "layer": "layer",
    "variant": "variant",
    "mode": "mode",
    "ms": "ms",
    "quartiles": "quartiles",
    "calls": "calls",
    "conv_per_s": "conv/s",
    "gflops": "GFLOP/s",
    "gbs": "GB/s",
    "limit_percent": "% limit",
    "difference": "difference",
}

CASE_COLUMNS = {
    "case": "case",
    "pass": "pass",
    "stock_ms": "stock ms",
    "ours_ms": "ours ms",
    "gain": "stock / ours",
    "difference": "difference",
}


def problems() -> list[Problem]:
    """The layers asked for; raises UsageError naming the flag that is wrong."""
    asked = _LAYERS.chosen() or SUITES[_SUITE.value]
    try:
        return [layer.problem(_PADDING.value) for layer in asked]
    except ValueError as error:
        raise app.UsageError(f"--shape, --kernel_size and --padding do not fit together: {error}") from None


def set_device() -> None:
    """Makes TensorFlow use the threads and the device of the flags; ends the program where there is no such device."""
    import tensorflow as tf

    logging.set_verbosity(logging.WARNING)
    options.use_threads(_THREADS.value)
    if _DEVICE.value == "CPU:0":  # to list the devices wakes the drivers of others
        return
    there = [device.name.removeprefix("/device:") for device in tf.config.list_logical_devices()]
    if _DEVICE.value not in there:
        raise app.UsageError(f"--device must be one of {', '.join(there)}; given {_DEVICE.value!r}")


def measure(problem: Problem, variants: list[str], modes: list[str], limit: Machine) -> list[dict]:
    """Times one layer; the rows of its table, with the `Timing`s under "timing"."""
    import tensorflow as tf

    with tf.device(_DEVICE.value):
        data = layers.draw(problem, "dense" in variants, _TRAIN.value, _SEED.value)
        results.progress(f"{problem}: building")
        calls = layers.calls(variants, modes, data, _DTYPE.value, _THREADS.value)
        separable = [key for key in calls if key[0] != "dense"]
        reference = calls[separable[0]]() if separable else None
        apart = {key: layers.difference(calls[key](), reference) for key in separable}
        reference = None
        taken = time_in_turn(
            calls,
            _REPEAT.value,
            _SECONDS.value,
            burst=25,
            show=results.progress_of(problem),
        )
    passes = 3 if _TRAIN.value else 1
    rows = []
    for (variant, mode), timing in taken.items():
        cost = layers.cost_of(variant, problem, _DTYPE.value)
        seconds = timing.median / 1e3
        rows.append(
            {
                "layer": str(problem),
                "variant": variant,
                "mode": mode,
                **timing.row(),
                "quartiles": timing.spread(),
                "conv_per_s": problem.N / seconds,
                "gflops": passes * cost.flops / seconds / 1e9,
                "gbs": passes * cost.accesses_bytes / seconds / 1e9,
                "limit_percent": 100 * passes * roofline_seconds(cost, limit) / seconds,
                "difference": f"{apart[variant, mode]:.1e}" if (variant, mode) in apart else None,
            }
        )
    return rows


def measure_cases(run: results.Results) -> None:
    """Times the cases asked for, each stock and ours in turn."""
    rows = []
    asked = [(case, which) for case in cases.CASES[_CASES.value] for which in case.passes]
    for case, which in [pair for pair in asked if re.search(_MATCH.value, f"{pair[0]} {pair[1]}")]:
        results.progress(f"{case}, {which}: building")
        calls = cases.calls(case, which, _SEED.value)
        apart = layers.difference(calls["ours"](), calls["stock"]())
        taken = time_in_turn(calls, _REPEAT.value, _SECONDS.value, burst=25)
        stock, ours = taken["stock"].median, taken["ours"].median
        row = {"case": str(case), "pass": which, "stock_ms": stock, "ours_ms": ours, "gain": stock / ours}
        rows.append({**row, "difference": f"{apart:.1e}"})
    if not rows:
        raise app.UsageError(f"--match={_MATCH.value} fits no case of {_CASES.value}")
    run.table("cases", "Stock beside ours, each in a tf.function", CASE_COLUMNS, rows)


def draw(found: list[tuple[Problem, list[dict]]], title: str, path) -> None:
    """Bars of milliseconds for each layer, with images a second and the share of the limit behind each."""
    count = max(len(rows) for _, rows in found)
    figure, axes = plots.new_figure(9.5, 0.8 + (0.7 + 0.27 * count) * len(found), len(found))
    color = plots.colors(list(layers.VARIANTS))
    for own, (problem, rows) in zip(axes, found):
        timings = [Timing(row["ms"], row["ms_low"], row["ms_high"], row["calls"]) for row in rows]
        names = [f"{row['variant']}, {row['mode']}" for row in rows]
        texts = [f"{row['ms']:.4g} ms, {row['conv_per_s']:.4g} conv/s, {row['limit_percent']:.0f}%" for row in rows]
        plots.bars(own, names, timings, [color[row["variant"]] for row in rows], texts.__getitem__)
        own.set_title(str(problem), fontsize=10)
    axes[-1].set_xlabel(
        "milliseconds, median and quartiles; conv/s: images a second; %: of what arithmetic and bandwidth allow"
    )
    figure.suptitle(title, fontsize=11)
    plots.save(figure, path)


def compare_study(run: results.Results, problem: Problem, by: dict[str, dict]) -> None:
    """The study's layer: convolutions a second of V100 and CPU, dense over depthwise-separable of all its chips."""
    batch, kinds = problem.N, (("dense", 0), ("separable", 1), ("ours", 1))
    for (chip, own_batch), reported in sources.STUDY_CONVOLUTIONS.items():
        source = f"{sources.STUDY}: {chip}"
        if batch != own_batch:
            continue
        for name, i in kinds:
            if name in by and chip.startswith(("V100", "E5")):
                run.compare(
                    f"conv/s, batch {batch}: {name}", reported[i], round(by[name]["conv_per_s"], 1), "conv/s", source
                )
        for name in ("separable", "ours"):
            if {"dense", name} <= set(by):
                what, gain = f"dense time over DWS time, batch {batch}: {name}", by["dense"]["ms"] / by[name]["ms"]
                run.compare(what, round(reported[1] / reported[0], 2), round(gain, 2), "x", source)
    source = f"{sources.STUDY}: V100, float16"
    for name, i in kinds:
        if name not in by:
            continue
        if batch in sources.STUDY_TFLOPS:
            what, here = f"TFLOP/s, a multiply-add once, batch {batch}: {name}", by[name]["gflops"] / 2e3
            run.compare(what, sources.STUDY_TFLOPS[batch][i], round(here, 3), "TFLOP/s", source)
        if batch == 16:
            what, reported = (
                f"GB/s by ideal traffic, batch {batch}: {name}",
                sources.STUDY_BANDWIDTH[("dense", "dws")[i]],
            )
            run.compare(what, reported, round(by[name]["gbs"], 1), "GB/s", source)


def compare(run: results.Results, found: list[tuple[Problem, list[dict]]]) -> None:
    """Sets the study's layer beside what the study measured, and the report's layer beside the report."""
    for problem, rows in found:
        by = {}
        for row in rows:  # of several modes the one of the study, a tf.function
            if row["variant"] not in by or row["mode"] == "graph":
                by[row["variant"]] = row
        shape = (problem.N, problem.H, problem.W, problem.C)
        if shape[1:] == (224, 224, 128) and problem.K == 128 and not _TRAIN.value:
            compare_study(run, problem, by)
        if shape[1:] == sources.REPORT_LAYER[1:]:
            for base, name in itertools.product(("torch_nchw", "torch"), ("native", "ours")):
                if {base, name} <= set(by):
                    what = f"{layers.VARIANTS[base]}: time over that of {name}, {problem}"
                    remark = "" if sources.REPORT_LAYER[0] == problem.N else "the report's batch is 128"
                    gain = by[base]["ms"] / by[name]["ms"]
                    run.compare(what, sources.REPORT_LAYER_GAIN, round(gain, 2), "x", f"{sources.REPORT}: CPU", remark)
            if sources.REPORT_LAYER[0] == problem.N:
                theirs = dict(zip(("torch_nchw", "ours"), sources.REPORT_LAYER_SECONDS))
                for name in [name for name in theirs if name in by]:
                    what = f"seconds of {problem}: {layers.VARIANTS[name]}"
                    run.compare(what, theirs[name], round(by[name]["ms"] / 1e3, 4), "s", f"{sources.REPORT}: CPU")


def main(argv: list[str]) -> None:
    options.no_arguments(argv)
    if _CASES.value:
        set_device()
        title = f"Cases {_CASES.value!r}, float32, {results.threads_in_use(_THREADS.value)} threads, {_DEVICE.value}"
        run = results.Results(_OUTPUT.value, title)
        run.describe(seed=_SEED.value, repeat=_REPEAT.value, seconds=_SECONDS.value, match=_MATCH.value)
        measure_cases(run)
        run.save()
        return
    asked = problems()
    modes, absent = _MODES.value, layers.missing(_VARIANTS.value)
    variants = [name for name in _VARIANTS.value if name not in absent]
    if not [name for name in variants if not (_TRAIN.value and name in ("native", *layer_runtimes.RUNTIMES))]:
        raise app.UsageError(f"--variants={','.join(_VARIANTS.value)} leaves nothing to time here")
    if _PLOT.value:
        plots.require()
    freed = machine.keep_memory()
    set_device()
    limit, how = machine.limits(_DTYPE.value)
    kind = "forward and backward" if _TRAIN.value else "forward"
    title = f"One layer, {_DTYPE.value}, {kind}, {results.threads_in_use(_THREADS.value)} threads, {_DEVICE.value}"
    run = results.Results(_OUTPUT.value, title)
    run.describe(seed=_SEED.value, repeat=_REPEAT.value, seconds=_SECONDS.value, limit=how, freed_memory=freed)
    run.note(f"limit: {how}")
    for name in absent:
        run.note(f"{name}: not installed ({', '.join(layers.NEEDS[name])})")
    if "xla" in modes and "ours" in variants:
        run.note("ours in XLA is stock ops: our op cannot be called from there")
    found = []
    for problem in asked:
        rows = measure(problem, variants, modes, limit)
        results.Results.print_table(str(problem), {k: v for k, v in COLUMNS.items() if k != "layer"}, rows)
        found.append((problem, rows))
    run.table("layers", title, COLUMNS, [row for _, rows in found for row in rows], show=False)
    compare(run, found)
    if _PLOT.value:
        caption = f"{title}. Bars are medians, lines run from the lower to the upper quartile."
        draw(found, title, run.figure("layer.png", caption))
    run.save()


if __name__ == "__main__":
    app.run(main)
