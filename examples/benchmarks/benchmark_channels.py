"""Times one layer over its channels, C = K from 8 to 2048: dense, stock depthwise-separable, tf_dwsconv.

  python examples/benchmarks/benchmark_channels.py  # 56x56 pixels
  python examples/benchmarks/benchmark_channels.py --size=224 --channels=8,32,128,512 --seconds=20  # the GPU study's
  python examples/benchmarks/benchmark_channels.py --dtype=bfloat16 --batch_size=4

The GPU study made this sweep on a V100 and on a TPUv2 with its 224x224 layer, and plotted convolutions a second; its
TPU ran out of memory at 1024 channels. Here a dense layer of 2048 channels takes seconds at 56x56 and 16 times as long
at 224x224. --seconds bounds that, and --max_gflop leaves layers out whose arithmetic is more.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Optional

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow is imported: warnings and errors only
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for `common`

from absl import app, flags, logging
from common import options
from common.layer_table import Layer
from common.timing import Timing, time_in_turn
from measuring import layers, machine, plots, results, sources

from tf_dwsconv.analysis import Problem, roofline_seconds

_CHANNELS = options.sizes("channels", [2**i for i in range(3, 12)], "C = K of the layers.")
_SIZE = options.size(56)
_BATCH_SIZE = options.batch_size(1)
_KERNEL_SIZE = options.kernel_size()
_DTYPE = options.dtype()
_THREADS = options.threads()
_VARIANTS = options.words("variants", ["dense", "separable", "ours", "native"], layers.VARIANTS, "What to time:")
_MAX = flags.DEFINE_float("max_gflop", 1000.0, "Layers of more arithmetic, in GFLOP, are left out.", lower_bound=0)
_REPEAT = options.repeat(15)
_SECONDS = options.seconds(3.0)
_SEED = options.seed()
_PLOT = options.plot("channels.png")
_OUTPUT = results.define_output("benchmark_channels")

COLUMNS = {
    "channels": "C = K",
    "variant": "variant",
    "ms": "ms",
    "quartiles": "quartiles",
    "calls": "calls",
    "conv_per_s": "conv/s",
    "gflops": "GFLOP/s",
    "limit_percent": "% limit",
    "over_dense": "dense / this",
}


def measure(problem: Problem, variants: list[str]) -> dict[str, Optional[Timing]]:
    """Times one layer in each variant; None where its arithmetic is more than --max_gflop."""
    fits = [name for name in variants if layers.cost_of(name, problem, _DTYPE.value).flops <= _MAX.value * 1e9]
    taken: dict[str, Optional[Timing]] = dict.fromkeys(variants)
    if fits:
        data = layers.draw(problem, "dense" in fits, False, _SEED.value)
        calls = layers.calls(fits, ["graph"], data, _DTYPE.value, _THREADS.value)
        found = time_in_turn(
            {variant: call for (variant, _), call in calls.items()},
            _REPEAT.value,
            _SECONDS.value,
            burst=25,
            show=results.progress_of(problem),
        )
        taken.update(found)
    return taken


def draw(
    path, title: str, channels: list[int], problems: list[Problem], taken: list[dict], variants: list[str]
) -> None:
    """Convolutions a second and GFLOP/s over channels, a line for each variant."""
    figure, axes = plots.new_figure(11, 4.8, 1, 2)
    by_channels = dict(zip(channels, problems))
    series = {name: [each[name] for each in taken] for name in variants}
    color = plots.colors(list(layers.VARIANTS))
    plots.lines(
        axes[0],
        channels,
        series,
        color,
        value=lambda timing, point, name: 1e3 * by_channels[point].N / timing.median,
        rate=True,
        labels=layers.VARIANTS,
    )
    axes[0].set_ylabel("convolutions (images) a second")
    plots.lines(
        axes[1],
        channels,
        series,
        color,
        value=lambda timing, point, name: (
            layers.cost_of(name, by_channels[point], _DTYPE.value).flops / timing.median / 1e6
        ),
        rate=True,
    )
    axes[1].set_ylabel("GFLOP/s, a multiply-add counted as two")
    for own in axes:
        own.set_xlabel("channels, C = K")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    figure.suptitle(title, fontsize=11)
    plots.save(figure, path)


def main(argv: list[str]) -> None:
    options.no_arguments(argv)
    channels = sorted(set(_CHANNELS.value))
    absent = layers.missing(_VARIANTS.value)
    variants = [name for name in _VARIANTS.value if name not in absent]
    if not variants:
        raise app.UsageError(f"--variants={','.join(_VARIANTS.value)} leaves nothing to time here")
    if _PLOT.value:
        plots.require()
    logging.set_verbosity(logging.WARNING)
    freed = machine.keep_memory()
    options.use_threads(_THREADS.value)
    limit, how = machine.limits(_DTYPE.value)
    size = f"{_BATCH_SIZE.value}x{_SIZE.value}x{_SIZE.value}"
    title = (
        f"{size}, {_KERNEL_SIZE.value}x{_KERNEL_SIZE.value}, C = K, {_DTYPE.value}, "
        f"{results.threads_in_use(_THREADS.value)} threads"
    )
    run = results.Results(_OUTPUT.value, f"Channels: {title}")
    run.describe(seed=_SEED.value, repeat=_REPEAT.value, seconds=_SECONDS.value, limit=how, freed_memory=freed)
    run.note(f"limit: {how}")
    for name in absent:
        run.note(f"{name}: not installed ({', '.join(layers.NEEDS[name])})")
    problems = [
        Layer(_BATCH_SIZE.value, _SIZE.value, _SIZE.value, c, c, _KERNEL_SIZE.value).problem() for c in channels
    ]
    taken, rows = [], []
    for c, problem in zip(channels, problems):
        taken.append(measure(problem, variants))
        for name, timing in taken[-1].items():
            if timing is None:
                run.note(f"{name} at {c} channels left out: more than {_MAX.value:g} GFLOP")
                continue
            cost = layers.cost_of(name, problem, _DTYPE.value)
            dense = taken[-1].get("dense")
            rows.append(
                {
                    "channels": c,
                    "variant": name,
                    **timing.row(),
                    "quartiles": timing.spread(),
                    "conv_per_s": 1e3 * problem.N / timing.median,
                    "gflops": cost.flops / timing.median / 1e6,
                    "limit_percent": 1e5 * roofline_seconds(cost, limit) / timing.median,
                    "over_dense": dense.median / timing.median if dense else None,
                }
            )
    if not rows:
        raise app.UsageError(f"--max_gflop={_MAX.value:g} leaves nothing to time")
    run.table("channels", title, COLUMNS, rows)
    dense, separable = sources.STUDY_CONVOLUTIONS["V100, float16", 1]
    for c in channels:
        for name in ("separable", "ours"):
            gain = next((r["over_dense"] for r in rows if (r["channels"], r["variant"]) == (c, name)), None)
            if gain and c in (channels[0], 128, channels[-1]):
                reported = round(separable / dense, 2) if c == 128 else None
                what = f"dense time over depthwise-separable time, {c} channels: {name}"
                remark = "the study's sweep is a picture without numbers; this is its layer at batch 1, 224x224"
                source = f"{sources.STUDY}: V100, float16"
                run.compare(what, reported, round(gain, 2), "x", source, remark if reported else "")
    if _PLOT.value:
        caption = f"The study's channel sweep: {title}. Lines are medians, bars run from quartile to quartile."
        draw(run.figure("channels.png", caption), title, channels, problems, taken, variants)
    run.save()


if __name__ == "__main__":
    app.run(main)
