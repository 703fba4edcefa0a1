"""Times the steps from plain loops to the fused, planned kernel, and plots what each of them gains.

  python examples/benchmarks/benchmark_ladder.py  # time over input sizes, then over channels
  python examples/benchmarks/benchmark_ladder.py --shape=1,56,56,128,128  # one layer N,H,W,C,K; or more
  python examples/benchmarks/benchmark_ladder.py --shape=128,512,512,3,32 --variants=simd,openmp,fused --repeat=3

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
from absl import app, flags
from common import options
from common.timing import Timing, time_in_turn
from measuring import plots, results, sources

from tf_dwsconv import native

_SHAPE = flags.DEFINE_multi_string("shape", [], "A layer N,H,W,C,K; repeatable. The two sweeps where none is given.")
_SIZES = flags.DEFINE_list(
    "sizes", ["16", "32", "64", "96", "128", "192", "256", "512"], "Rows and columns of the first sweep, pixels."
)
_SIZES_BATCH = flags.DEFINE_integer("sizes_batch", 16, "Pictures of 3 channels in the first sweep.", lower_bound=1)
_CHANNELS = flags.DEFINE_list("channels", ["4", "8", "16", "32", "64", "128", "256"], "C = K of the second sweep.")
_CHANNELS_SIZE = flags.DEFINE_integer("channels_size", 56, "Rows and columns of the second sweep.", lower_bound=1)
_KERNEL = flags.DEFINE_integer("kernel", 3, "Rows and columns of the depthwise filter.", lower_bound=1)
_STRIDES = flags.DEFINE_integer("strides", 1, "Stride along both axes.", lower_bound=1)
_DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16", "float16"], "Of all tensors.")
_THREADS = flags.DEFINE_integer("threads", 0, "Threads of the steps that use them; 0 for all cores.", 0, 1024)
_VARIANTS = flags.DEFINE_list("variants", list(native.LADDER), "Steps to time, in this order.")
_REPEAT = flags.DEFINE_integer("repeat", 15, "Timed calls of each step, at the most.", lower_bound=1)
_SECONDS = flags.DEFINE_float("seconds", 2.0, "Seconds after which one step is not called again.", 0.0)
_SEED = flags.DEFINE_integer("seed", 0, "Of the random arrays.", 0, 2**31 - 1)
_PLOT = flags.DEFINE_bool("plot", True, "Draw the plots (needs matplotlib).")
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

Shape = tuple[int, int, int, int, int]


def label(shape: Shape) -> str:
    return "x".join(map(str, shape[:4])) + f" -> {shape[4]}"


def time_steps(shape: Shape, variants: list[str]) -> dict[str, Optional[tuple[Timing, float]]]:
    """Times one layer, filters packed beforehand, the output written in place, the steps taken in turn.

    Args:
        shape: N, H, W, C, K.
        variants: steps to time.

    Returns:
        For each step its `Timing` and the largest difference to the first step's result, relative to its largest
        output; None where its intermediate tensor does not fit in memory.
    """
    n, h, w, c, k = shape
    rng = np.random.default_rng(_SEED.value)
    dtype = ml_dtypes.bfloat16 if _DTYPE.value == "bfloat16" else np.dtype(_DTYPE.value)

    def draw(*size: int) -> np.ndarray:
        return rng.standard_normal(size, np.float32).astype(dtype)

    x, depthwise, pointwise = draw(n, h, w, c), draw(_KERNEL.value, _KERNEL.value, c, 1), draw(1, 1, c, k)
    calls, differences = {}, {}
    first = out = None
    for step, variant in enumerate(variants):
        results.progress(f"{label(shape)}: first call of {variant} ({step + 1} of {len(variants)})")
        layer = native.Layer(depthwise, pointwise, strides=_STRIDES.value, variant=variant)
        try:
            out = layer(x, out=out, num_threads=_THREADS.value)
        except MemoryError:
            continue
        found = out.astype(np.float32)
        if first is None:
            first = found
        differences[variant] = float(np.abs(first - found).max()) / max(float(np.abs(first).max()), 1e-30)
        calls[variant] = functools.partial(layer, x, out=out, num_threads=_THREADS.value)
    taken = time_in_turn(
        calls,
        _REPEAT.value,
        _SECONDS.value,
        warmups=1,
        burst=25,
        show=lambda text: results.progress(text and f"{label(shape)}, {text}"),
    )
    return {variant: (taken[variant], differences[variant]) if variant in taken else None for variant in variants}


def rows_of(shape: Shape, times: dict[str, Optional[tuple[Timing, float]]]) -> list[dict]:
    """The table of one layer: what each step took and gained."""
    n, h, w, c, k = shape
    filters = ((_KERNEL.value, _KERNEL.value, c, 1), (1, 1, c, k))
    flops = native.plan((n, h, w, c), *filters, strides=_STRIDES.value, dtype=_DTYPE.value)["flops"]
    rows, first, last = [], None, None
    for word, result in times.items():
        if result is None:
            rows.append({"layer": label(shape), "variant": word, "quartiles": "no memory for the intermediate tensor"})
            continue
        timing, difference = result
        first, last = first or timing.median, last or timing.median
        rows.append(
            {
                "layer": label(shape),
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
    return f"{_KERNEL.value}x{_KERNEL.value}, stride {_STRIDES.value}, {_DTYPE.value}, {cpu['isa']}, {threads}"


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


def plot_shapes(shapes: list[Shape], times: list[dict], path: Path) -> None:
    """Bars for each layer, with the gain over the step before behind each."""
    figure, panels = plots.new_figure(9, 1.2 + (0.6 + 0.3 * len(_VARIANTS.value)) * len(shapes), len(shapes))
    colour = colours(_VARIANTS.value)
    for axes, shape, result in zip(panels, shapes, times):
        words = [word for word in _VARIANTS.value if result[word] is not None]
        timings = [result[word][0] for word in words]
        gains = [1.0, *(before.median / after.median for before, after in zip(timings, timings[1:]))]
        texts = [
            f"{t.median:.3g} ms" + (f" ({gain:.2f}x)" if i else "") for i, (t, gain) in enumerate(zip(timings, gains))
        ]
        plots.bars(axes, words, timings, [colour[word] for word in words], texts.__getitem__)
        axes.set_title(label(shape), fontsize=10)
    panels[-1].set_xlabel("milliseconds, median and quartiles; in brackets the gain over the step before")
    figure.suptitle(conditions(), fontsize=11)
    plots.save(figure, path)


def measure(run: results.Results, name: str, shapes: list[Shape]) -> list[dict]:
    """Times some layers, prints their tables, and adds one of all."""
    times, rows = [], []
    for shape in shapes:
        times.append(time_steps(shape, _VARIANTS.value))
        own = rows_of(shape, times[-1])
        run.print_table(label(shape), COLUMNS, own)
        rows += own
    run.table(name, f"The ladder, {conditions()}", {"layer": "layer", **COLUMNS}, rows, show=False)
    return times


def compare(run: results.Results, shapes: list[Shape], times: list[dict]) -> None:
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
            (result[slow][0].median / result[fast][0].median, label(shape))
            for shape, result in zip(shapes, times)
            if result.get(slow) and result.get(fast)
        ]
        if gains:
            gain, where = max(gains)
            text = f"largest, at {where}; least {min(gains)[0]:.2f}" + (f"; {remark}" if remark else "")
            run.compare(what, reported, round(gain, 2), "x", f"{sources.REPORT}: CPU", text)


def main(argv: list[str]) -> None:
    options.no_arguments(argv)
    options.words_of("variants", _VARIANTS.value, native.LADDER)
    shapes = [options.shape("shape", text, 5) for text in _SHAPE.value]
    sizes = options.positive_integers("sizes", _SIZES.value)
    channels = options.positive_integers("channels", _CHANNELS.value)
    if _PLOT.value:
        plots.require()
    run = results.Results(_OUTPUT.value, f"The ladder: {conditions()}; medians of calls taken in turn")
    run.describe(seed=_SEED.value, repeat=_REPEAT.value, seconds=_SECONDS.value)
    if shapes:
        times = measure(run, "layers", shapes)
        if _PLOT.value:
            plot_shapes(shapes, times, run.figure("ladder_shapes.png", f"The steps of single layers; {conditions()}."))
        compare(run, shapes, times)
        run.save()
        return
    n, c = _SIZES_BATCH.value, PICTURE_CHANNELS
    by_size = [(n, size, size, c, c) for size in sizes]
    times = measure(run, "sizes", by_size)
    if _PLOT.value:
        title = f"{n} pictures of {c} channels to {c}"
        path = run.figure("ladder_sizes.png", f"Time over the input's size (the report's section 6.1.1): {title}.")
        plot_sweep("rows and columns of the input, pixels", title, sizes, times, path)
    size = _CHANNELS_SIZE.value
    by_channels = [(1, size, size, c, c) for c in channels]
    more = measure(run, "channels", by_channels)
    if _PLOT.value:
        title = f"One input of {size}x{size}"
        path = run.figure("ladder_channels.png", f"Time over channels (the report's figure 3): {title}.")
        plot_sweep("channels, C = K", title, channels, more, path)
    compare(run, by_size + by_channels, times + more)
    run.save()


if __name__ == "__main__":
    app.run(main)
