"""Times the steps from plain loops to the fused, planned kernel, and plots what each of them gains.

  python examples/benchmarks/benchmark_ladder.py  # time over input sizes, then over channels
  python examples/benchmarks/benchmark_ladder.py --shape=1,56,56,128 --filters=128  # one layer, or more
  python examples/benchmarks/benchmark_ladder.py --shape=128,512,512,3 --filters=32 --repeat=3

Needs NumPy, absl and matplotlib, no TensorFlow. docs/ladder.md says what each step changes.
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Optional

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for `common`

import ml_dtypes
import numpy as np
from absl import app
from common import options
from common.layer_table import Layer, shapes_of
from common.timing import Timing, time_in_turn
from measuring import plots, results, sources

from tf_dwsconv import native

_LAYERS = options.LayerFlags("The two sweeps where none is given.")
_SIZES = options.sizes("sizes", [16, 32, 64, 96, 128, 192, 256, 512], "Rows and columns of the first sweep, pixels.")
_BATCH_SIZE = options.batch_size(16, "Pictures of 3 channels in the first sweep.")
_CHANNELS = options.sizes("channels", [4, 8, 16, 32, 64, 128, 256], "C = K of the second sweep.")
_SIZE = options.size(56, "Rows and columns of the second sweep, pixels.")
_DTYPE = options.dtype()
_THREADS = options.threads("Threads of the steps that use them; 0 for all cores.")
_VARIANTS = options.words("variants", native.LADDER, native.LADDER, "Steps to time, in this order:")
_REPEAT = options.repeat(15)
_SECONDS = options.seconds(2.0)
_SEED = options.seed()
_PLOT = options.plot("ladder_*.png")
_OUTPUT = results.define_output("benchmark_ladder")

PICTURE_CHANNELS = 3  # as the report's input sizes have
COLUMNS = {
    "variant": "variant",
    "ms": "ms",
    "quartiles": "quartiles",
    "calls": "calls",
    "over_first": "x over the first",
    "over_last": "x over the last",
    "gflops": "GFLOP/s",
    "difference": "difference",
}


def label(layer: Layer) -> str:
    return "x".join(map(str, layer[:4])) + f" -> {layer.K}"


def time_steps(layer: Layer, variants: list[str]) -> dict[str, Optional[tuple[Timing, float]]]:
    """Times one layer, filters packed beforehand, the output written in place, the steps taken in turn.

    Args:
        layer: its shape.
        variants: steps to time.

    Returns:
        For each step its `Timing` and the largest difference to the first step's result, relative to its largest
        output; None where its intermediate tensor does not fit in memory.
    """
    n, h, w, c, k, size, strides = layer
    rng = np.random.default_rng(_SEED.value)
    dtype = ml_dtypes.bfloat16 if _DTYPE.value == "bfloat16" else np.dtype(_DTYPE.value)

    def draw(*size: int) -> np.ndarray:
        return rng.standard_normal(size, np.float32).astype(dtype)

    x, depthwise, pointwise = draw(n, h, w, c), draw(size, size, c, 1), draw(1, 1, c, k)
    calls, differences = {}, {}
    first = out = None
    for step, variant in enumerate(variants):
        results.progress(f"{label(layer)}: first call of {variant} ({step + 1} of {len(variants)})")
        computed = native.Layer(depthwise, pointwise, strides=strides, variant=variant)
        try:
            out = computed(x, out=out, num_threads=_THREADS.value)
        except MemoryError:
            continue
        found = out.astype(np.float32)
        if first is None:
            first = found
        differences[variant] = float(np.abs(first - found).max()) / max(float(np.abs(first).max()), 1e-30)
        calls[variant] = functools.partial(computed, x, out=out, num_threads=_THREADS.value)
    taken = time_in_turn(
        calls,
        _REPEAT.value,
        _SECONDS.value,
        warmups=1,
        burst=25,
        show=results.progress_of(label(layer)),
    )
    return {variant: (taken[variant], differences[variant]) if variant in taken else None for variant in variants}


def rows_of(layer: Layer, times: dict[str, Optional[tuple[Timing, float]]]) -> list[dict]:
    """The table of one layer: what each step took and gained."""
    flops = native.plan(*shapes_of(layer.problem()), strides=layer.strides, dtype=_DTYPE.value)["flops"]
    rows, first, last = [], None, None
    for word, result in times.items():
        if result is None:
            rows.append({"layer": label(layer), "variant": word, "quartiles": "no memory for the intermediate tensor"})
            continue
        timing, difference = result
        first, last = first or timing.median, last or timing.median
        rows.append(
            {
                "layer": label(layer),
                "variant": word,
                **timing.row(),
                "quartiles": timing.spread(),
                "over_first": round(first / timing.median, 2),
                "over_last": round(last / timing.median, 2),
                "gflops": flops / timing.median / 1e6,
                "difference": f"{difference:.1e}",
            }
        )
        last = timing.median
    return rows


def colours(variants: list[str]) -> dict[str, tuple]:
    """From dark to light along the ladder, whichever of its steps are shown."""
    import matplotlib

    scale = matplotlib.colormaps["plasma"]
    return {word: scale(0.85 * native.LADDER.index(word) / (len(native.LADDER) - 1)) for word in variants}


def conditions() -> str:
    cpu = native.cpu_info()
    threads = f"{results.threads_in_use(_THREADS.value)} threads from openmp on"
    size, strides = _LAYERS.kernel_size.value, _LAYERS.strides.value
    return f"{size}x{size}, stride {strides}, {_DTYPE.value}, {cpu['isa']}, {threads}"


def plot_sweep(axis: str, title: str, points: list[int], times: list[dict], path: Path) -> None:
    """Milliseconds over sizes or channels, a line for each step, both axes logarithmic."""
    figure, (axes,) = plots.new_figure(9, 5.5)
    series = {word: [result[word] and result[word][0] for result in times] for word in _VARIANTS.value}
    plots.lines(axes, points, series, colours(_VARIANTS.value))
    axes.set_xlabel(axis)
    axes.set_ylabel("milliseconds, median and quartiles")
    axes.set_title(f"{title}\n{conditions()}", fontsize=11)
    figure.legend(loc="outside right center", frameon=False)
    plots.save(figure, path)


def plot_layers(layers: list[Layer], times: list[dict], path: Path) -> None:
    """Bars for each layer, with the gain over the step before behind each."""
    figure, panels = plots.new_figure(9, 1.2 + (0.6 + 0.3 * len(_VARIANTS.value)) * len(layers), len(layers))
    colour = colours(_VARIANTS.value)
    for axes, layer, result in zip(panels, layers, times):
        words = [word for word in _VARIANTS.value if result[word] is not None]
        timings = [result[word][0] for word in words]
        gains = [1.0, *(before.median / after.median for before, after in zip(timings, timings[1:]))]
        texts = [
            f"{t.median:.3g} ms" + (f" ({gain:.2f}x)" if i else "") for i, (t, gain) in enumerate(zip(timings, gains))
        ]
        plots.bars(axes, words, timings, [colour[word] for word in words], texts.__getitem__)
        axes.set_title(label(layer), fontsize=10)
    panels[-1].set_xlabel("milliseconds, median and quartiles; in brackets the gain over the step before")
    figure.suptitle(conditions(), fontsize=11)
    plots.save(figure, path)


def measure(run: results.Results, name: str, layers: list[Layer]) -> list[dict]:
    """Times some layers, prints their tables, and adds one of all."""
    times, rows = [], []
    for layer in layers:
        times.append(time_steps(layer, _VARIANTS.value))
        own = rows_of(layer, times[-1])
        run.print_table(label(layer), COLUMNS, own)
        rows += own
    run.table(name, f"The ladder, {conditions()}", {"layer": "layer", **COLUMNS}, rows, show=False)
    return times


def compare(run: results.Results, layers: list[Layer], times: list[dict]) -> None:
    """Sets the gains of single steps beside the report's: the largest among the layers, and where that was."""
    steps = (
        ("loop order: naive over reordered", "naive", "reordered", sources.REPORT_ORDER_GAIN, ""),
        ("unrolling: reordered over unrolled", "reordered", "unrolled", sources.REPORT_UNROLL_GAIN, ""),
        (
            "tiles of the linear program: unrolled over blocked",
            "unrolled",
            "blocked",
            sources.REPORT_LP_GAIN,
            "the report's gain is of its OpenMP version",
        ),
        ("vectors: blocked over simd", "blocked", "simd", None, "one figure for all of it is not in the report"),
        ("threads: simd over openmp", "simd", "openmp", None, ""),
        ("fusion and planning: openmp over fused", "openmp", "fused", None, "the report left fusion out"),
        ("all steps: naive over fused", "naive", "fused", None, ""),
    )
    for what, slow, fast, reported, remark in steps:
        gains = [
            (result[slow][0].median / result[fast][0].median, label(layer))
            for layer, result in zip(layers, times)
            if result.get(slow) and result.get(fast)
        ]
        if gains:
            gain, where = max(gains)
            text = f"largest, at {where}; least {min(gains)[0]:.2f}" + (f"; {remark}" if remark else "")
            run.compare(what, reported, round(gain, 2), "x", f"{sources.REPORT}: CPU", text)


def main(argv: list[str]) -> None:
    options.no_arguments(argv)
    layers = _LAYERS.chosen()
    if _PLOT.value:
        plots.require()
    run = results.Results(_OUTPUT.value, f"The ladder: {conditions()}; medians of calls taken in turn")
    run.describe(seed=_SEED.value, repeat=_REPEAT.value, seconds=_SECONDS.value)
    if layers:
        times = measure(run, "layers", layers)
        if _PLOT.value:
            plot_layers(layers, times, run.figure("ladder_shapes.png", f"The steps of single layers; {conditions()}."))
        compare(run, layers, times)
        run.save()
        return
    window = (_LAYERS.kernel_size.value, _LAYERS.strides.value)
    n, c = _BATCH_SIZE.value, PICTURE_CHANNELS
    by_size = [Layer(n, size, size, c, c, *window) for size in _SIZES.value]
    times = measure(run, "sizes", by_size)
    if _PLOT.value:
        title = f"{n} pictures of {c} channels to {c}"
        path = run.figure("ladder_sizes.png", f"Time over the input's size (the report's section 6.1.1): {title}.")
        plot_sweep("rows and columns of the input, pixels", title, _SIZES.value, times, path)
    size = _SIZE.value
    by_channels = [Layer(1, size, size, c, c, *window) for c in _CHANNELS.value]
    more = measure(run, "channels", by_channels)
    if _PLOT.value:
        title = f"One input of {size}x{size}"
        path = run.figure("ladder_channels.png", f"Time over channels (the report's figure 3): {title}.")
        plot_sweep("channels, C = K", title, _CHANNELS.value, more, path)
    compare(run, by_size + by_channels, times + more)
    run.save()


if __name__ == "__main__":
    app.run(main)
