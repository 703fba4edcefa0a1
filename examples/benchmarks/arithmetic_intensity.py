"""What convolution layers compute and move, dense and depthwise-separable (DWS), and where they stand on the roofline.

  python examples/benchmarks/arithmetic_intensity.py  # the GPU study's layer, its tables, measured points
  python examples/benchmarks/arithmetic_intensity.py --shape=8,56,56,128 --filters=128 --dtype=bfloat16
  python examples/benchmarks/arithmetic_intensity.py --model=MobileNet --batch_size=8 --nomeasure

For each layer three rows: `dense`, the convolution that it takes the place of; `DWS, ideal`, every array moved once, as
a fused layer can; `DWS, unfused`, with the tensor between the halves written and read back: HW(3C + K) in all for
stride 1, as a reader of the study asked. A multiply-add counts as two operations, but for the study's own tables, which
count it as one, take float16, and divide operations by elements.

With --measure each layer is timed too: dense and unfused by Keras in a tf.function, ideal by tf_dwsconv.native.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Optional

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow is imported: warnings and errors only
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for `common`

from absl import app, flags, logging
from common import layer_table, options, record
from common.timing import Timing, time_in_turn
from measuring import layers, machine, plots, results, sources

from tf_dwsconv import analysis
from tf_dwsconv.analysis import Machine, Problem, layer_cost, roofline_seconds

_LAYERS = options.LayerFlags("The study's layer where neither it nor --model is given.")
_MODEL = options.model("", "A .keras file, or the name of a network in keras.applications.")
_BATCH_SIZE = options.batch_size(1, "Pictures in the input of --model.")
_DTYPE = options.dtype()
_MEASURE = flags.DEFINE_bool("measure", True, "Time the layers.")
_THREADS = options.threads()
_REPEAT = options.repeat(10)
_SECONDS = options.seconds(2.0)
_SEED = options.seed()
_PLOT = options.plot("roofline.png")
_OUTPUT = results.define_output("arithmetic_intensity")

STUDY_LAYER = layer_table.SUITES["study"][0].problem()
# What is counted, and the variant of `benchmarks.layers` that measures it.
KINDS = {
    "dense": ("dense", True, "dense"),
    "DWS, ideal": ("dws", True, "native"),
    "DWS, unfused": ("dws", False, "separable"),
}
COLUMNS = {
    "layer": "layer",
    "kind": "kind",
    "parameters": "parameters",
    "mflop": "MFLOP",
    "activations": "in+out elements",
    "accesses": "accesses, elements",
    "mb": "MB",
    "intensity": "FLOP/B",
    "limit_ms": "limit ms",
    "ms": "ms",
    "gflops": "GFLOP/s",
    "gbs": "GB/s",
    "limit_percent": "% limit",
}


def model_calls() -> list:
    """The depthwise layers of --model, as `analysis.summary` finds them; ends the program where there is none."""
    import keras

    name = _MODEL.value
    try:
        if os.path.exists(name):
            model = keras.saving.load_model(name)
        else:
            constructor = getattr(keras.applications, name, None)
            if not callable(constructor):
                raise ValueError("it is neither a file nor a network of keras.applications")
            model = constructor(weights=None)
        summary = analysis.summary(model, batch_size=_BATCH_SIZE.value, dtype=_DTYPE.value)
    except (ValueError, TypeError, OSError) as error:
        record.fail(f"--model={name} cannot be read: {error}")
    return [layer for layer in summary.layers if layer.kind == "dws"] or record.fail(
        f"--model={name} has no depthwise-separable layer"
    )


def study_tables(run: results.Results) -> None:
    """The study's tables, by its own conventions, beside what it printed; and what its readers asked for."""
    found = analysis.study_table(STUDY_LAYER)
    rows = []
    for kind, name in (("dense", "Convolution"), ("dws", "DepSep convolution")):
        row = found[kind]
        parameters, gflop, mb, intensity = sources.STUDY_THEORY[kind]
        rows.append(
            {
                "kind": name,
                "parameters": f"{row.parameters / 1e3:.0f}k",
                "parameters_study": parameters,
                "gflop": f"{row.flops / 1e9:.2g}",
                "gflop_study": f"{gflop:g}",
                "mb": f"{row.accesses_mb:.1f}",
                "mb_study": f"{mb:.1f}",
                "intensity": f"{row.intensity:.1f}",
                "intensity_study": f"{intensity:.1f}",
            }
        )
        batch = sources.STUDY_CONVOLUTIONS["V100, float16", 16][0 if kind == "dense" else 1]
        throughput = batch * round(row.accesses_mb, 1) / 1e3
        run.compare(f"{name}: parameters", parameters, rows[-1]["parameters"], "", f"{sources.STUDY}: theory")
        run.compare(f"{name}: operations", f"{gflop:g}", rows[-1]["gflop"], "GFLOP", f"{sources.STUDY}: theory")
        run.compare(f"{name}: memory accesses", f"{mb:.1f}", rows[-1]["mb"], "MB", f"{sources.STUDY}: theory")
        run.compare(f"{name}: intensity", f"{intensity:.1f}", rows[-1]["intensity"], "", f"{sources.STUDY}: theory")
        reported = f"{sources.STUDY_BANDWIDTH[kind]:.1f}"
        what = f"{name}: {batch} conv/s times {row.accesses_mb:.1f} MB"
        run.compare(
            what, reported, f"{throughput:.1f}", "GB/s", f"{sources.STUDY}: V100", "recomputed from its figures"
        )
    columns = {"kind": ""}
    for key, heading in (("parameters", "parameters"), ("gflop", "GFLOP"), ("mb", "MB"), ("intensity", "intensity")):
        columns |= {key: heading, f"{key}_study": "study"}
    run.table(
        "study", f"The study's tables for {STUDY_LAYER}, in its conventions, beside what it printed", columns, rows
    )


def measure(problem: Problem) -> dict[str, Timing]:
    """Times the three kinds of one layer, by name."""
    data = layers.draw(problem, True, False, _SEED.value)
    by_variant = {variant: kind for kind, (_, _, variant) in KINDS.items()}
    calls = layers.calls(list(by_variant), ["graph"], data, _DTYPE.value, _THREADS.value)
    named = {by_variant[variant]: call for (variant, _), call in calls.items()}
    return time_in_turn(
        named,
        _REPEAT.value,
        _SECONDS.value,
        burst=25,
        show=results.progress_of(problem),
    )


def rows_of(problem: Problem, name: str, limit: Optional[Machine], taken: dict[str, Timing]) -> list[dict]:
    """The three rows of one layer."""
    rows = []
    for kind, (counted, fused, _) in KINDS.items():
        cost = layer_cost(problem, counted, _DTYPE.value, fused)
        row = {
            "layer": name,
            "kind": kind,
            "parameters": cost.parameters,
            "mflop": cost.flops / 1e6,
            "activations": cost.activations,
            "accesses": cost.accesses,
            "mb": cost.accesses_bytes / 1e6,
            "intensity": cost.intensity,
            "limit_ms": 1e3 * roofline_seconds(cost, limit) if limit else None,
        }
        if kind in taken:
            seconds = taken[kind].median / 1e3
            row |= {
                **taken[kind].row(),
                "gflops": cost.flops / seconds / 1e9,
                "gbs": cost.accesses_bytes / seconds / 1e9,
                "limit_percent": 100 * roofline_seconds(cost, limit) / seconds,
            }
        rows.append(row)
    return rows


def total(rows: list[dict]) -> list[dict]:
    """A row for each kind that sums those of all layers."""
    sums = []
    for kind in KINDS:
        own = [row for row in rows if row["kind"] == kind]
        keys = ("parameters", "mflop", "activations", "accesses", "mb", "limit_ms", "ms")
        row = {key: sum(each[key] for each in own) for key in keys if all(each.get(key) is not None for each in own)}
        sums.append({"layer": "all layers", "kind": kind, **row, "intensity": row["mflop"] / row["mb"]})
    return sums


def main(argv: list[str]) -> None:
    options.no_arguments(argv)
    problems = [layer.problem() for layer in _LAYERS.chosen()] or ([] if _MODEL.value else [STUDY_LAYER])
    named = [(str(problem), problem) for problem in problems]
    if _PLOT.value:
        plots.require()
    logging.set_verbosity(logging.WARNING)
    freed = machine.keep_memory()
    if _MODEL.value:
        named += [(layer.name, layer.problem) for layer in model_calls()]
    limit = None
    if _MEASURE.value or _PLOT.value:
        options.use_threads(_THREADS.value)
        limit, how = machine.limits(_DTYPE.value)
    run = results.Results(_OUTPUT.value, f"Arithmetic intensity, {_DTYPE.value}")
    run.describe(seed=_SEED.value, repeat=_REPEAT.value, seconds=_SECONDS.value, freed_memory=freed)
    if limit:
        run.note(f"limit: {how}")
    study_tables(run)
    taken: dict[Problem, dict[str, Timing]] = {}
    rows = []
    for name, problem in named:
        if _MEASURE.value and problem not in taken:  # a network has many layers of one shape
            taken[problem] = measure(problem)
        rows += rows_of(problem, name, limit, taken.get(problem, {}))
    if len(named) > 1:
        rows += total(rows)
    columns = {key: heading for key, heading in COLUMNS.items() if any(row.get(key) is not None for row in rows)}
    title = f"Layers, {_DTYPE.value}" + (f", of {_MODEL.value} at batch {_BATCH_SIZE.value}" if _MODEL.value else "")
    run.table("layers", title, columns, rows)
    if _PLOT.value:
        distinct = list(dict.fromkeys(problem for _, problem in named))
        caption = f"Roofline, {_DTYPE.value}: hollow points are the limit of each layer"
        measured = None
        if _MEASURE.value:
            caption += ", full ones what was measured"
            names = {"DWS, fused": "DWS, ideal", "DWS, unfused": "DWS, unfused", "dense": "dense"}
            measured = {
                label: [taken[problem][kind].median / 1e3 for problem in distinct] for label, kind in names.items()
            }
        path = run.figure("roofline.png", caption + ".")
        analysis.plot_roofline(distinct, limit, str(path), _DTYPE.value, measured)
    run.save()


if __name__ == "__main__":
    app.run(main)
