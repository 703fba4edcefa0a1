"""Times the steps from plain loops to the fused, planned kernel, and plots what each of them gains.

  python examples/ladder.py                                   # time over input sizes, then over channels: two plots
  python examples/ladder.py --shape=1,56,56,128,128           # one layer N,H,W,C,K; repeat the flag for more
  python examples/ladder.py --shape=128,512,512,3,32 --variants=simd,openmp,fused_unblocked,fused --repeat=3

Needs NumPy, absl and matplotlib, no TensorFlow. docs/ladder.md says what each step changes.
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path
from typing import Optional

import numpy as np
from absl import app, flags

from tf_dwsconv import native

_SHAPE = flags.DEFINE_multi_string("shape", [], "A layer N,H,W,C,K; repeatable. The two sweeps where none is given.")
_SIZES = flags.DEFINE_list(
    "sizes", ["16", "32", "64", "96", "128", "192", "256"], "Rows and columns of the first sweep."
)
_CHANNELS = flags.DEFINE_list("channels", ["4", "8", "16", "32", "64", "128", "256"], "C = K of the second sweep.")
_KERNEL = flags.DEFINE_integer("kernel", 3, "Rows and columns of the depthwise filter.", lower_bound=1)
_STRIDES = flags.DEFINE_integer("strides", 1, "Stride along both axes.", lower_bound=1)
_DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16", "float16"], "Of all tensors.")
_THREADS = flags.DEFINE_integer("threads", 0, "Threads of the steps that use them; 0 for all cores.", 0, 1024)
_VARIANTS = flags.DEFINE_list("variants", list(native.LADDER), "Steps to time, in this order.")
_REPEAT = flags.DEFINE_integer("repeat", 5, "Rounds through all the steps; medians are printed.", lower_bound=1)
_OUTPUT = flags.DEFINE_string("output", "output", "Folder for the plots; empty for none.")

SIZES_BATCH, SIZES_CHANNELS = 16, 3  # the report's pictures of 3 channels, an eighth of its batch
CHANNELS_SIZE = 56

Shape = tuple[int, int, int, int, int]


def positive_integers(flag: str, words: list[str], what: str) -> list[int]:
    """The numbers of a flag; raises UsageError naming it."""
    if not words or not all(word.strip().isdigit() and int(word) > 0 for word in words):
        raise app.UsageError(f"--{flag} must be {what}, got {','.join(words)!r}")
    return [int(word) for word in words]


def parse_shape(text: str) -> Shape:
    what = "five positive integers N,H,W,C,K"
    numbers = positive_integers("shape", text.split(","), what)
    if len(numbers) != 5:
        raise app.UsageError(f"--shape must be {what}, got {text!r}")
    return tuple(numbers)


def numpy_type(word: str) -> type:
    if word == "bfloat16":
        import ml_dtypes

        return ml_dtypes.bfloat16
    return np.dtype(word).type


def label(shape: Shape) -> str:
    return "x".join(map(str, shape[:4])) + f" -> {shape[4]}"


def time_steps(shape: Shape, variants: list[str]) -> dict[str, Optional[tuple[float, float]]]:
    """Times one layer, filters packed beforehand, the output written in place.

    Every round takes the steps in turn, so that a slow moment of the machine does not fall on one of them alone. A
    fast step is called several times a round, after one call that warms the caches again.

    Args:
        shape: N, H, W, C, K.
        variants: steps to time.

    Returns:
        For each step milliseconds of a call (the median) and the largest difference to the first step's result,
        relative to its largest output; None where its intermediate tensor does not fit in memory.
    """
    n, h, w, c, k = shape
    rng, dtype = np.random.default_rng(0), numpy_type(_DTYPE.value)

    def draw(*size: int) -> np.ndarray:
        return rng.standard_normal(size, np.float32).astype(dtype)

    x, depthwise, pointwise = draw(n, h, w, c), draw(_KERNEL.value, _KERNEL.value, c, 1), draw(1, 1, c, k)
    layers, differences, once = {}, {}, {}
    first = out = None
    for step, variant in enumerate(variants):
        progress(f"{label(shape)}: first call of {variant} ({step + 1} of {len(variants)})")
        layer = native.Layer(depthwise, pointwise, strides=_STRIDES.value, variant=variant)
        start = time.perf_counter()
        try:
            out = layer(x, out=out, num_threads=_THREADS.value)
        except MemoryError:
            continue
        once[variant] = time.perf_counter() - start
        if first is None:
            first = out.astype(np.float32)
        largest = max(float(np.abs(first).max()), 1e-30)
        differences[variant] = float(np.abs(first - out.astype(np.float32)).max()) / largest
        layers[variant] = layer
    taken = {variant: [] for variant in layers}
    for turn in range(_REPEAT.value):
        for variant, layer in layers.items():
            progress(f"{label(shape)}: round {turn + 1} of {_REPEAT.value}, {variant}")
            calls = 1 if once[variant] > 0.05 else 5
            if calls > 1:
                layer(x, out=out, num_threads=_THREADS.value)
            for _ in range(calls):
                start = time.perf_counter()
                layer(x, out=out, num_threads=_THREADS.value)
                taken[variant].append(1e3 * (time.perf_counter() - start))
    progress("")
    return {
        variant: (statistics.median(taken[variant]), differences[variant]) if variant in taken else None
        for variant in variants
    }


def progress(text: str) -> None:
    """One line that the next overwrites; nothing where nobody watches."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def print_table(shape: Shape, times: dict[str, Optional[tuple[float, float]]]) -> None:
    plan = native.plan(
        shape[:4],
        (_KERNEL.value, _KERNEL.value, shape[3], 1),
        (1, 1, shape[3], shape[4]),
        strides=_STRIDES.value,
        dtype=_DTYPE.value,
    )
    print(f"== {label(shape)}, {plan['flops'] / 1e6:.1f} MFLOP")
    start = next((word for word, result in times.items() if result is not None), "")
    print(
        f"  {'variant':16} {'ms':>10} {'x over ' + start:>22} {'x over the last':>16} {'GFLOP/s':>9} {'difference':>11}"
    )
    previous = None
    for word, result in times.items():
        if result is None:
            print(f"  {word:16} no memory for the intermediate tensor")
            continue
        ms, difference = result
        previous = ms if previous is None else previous
        gflops = plan["flops"] / ms / 1e6
        gains = f"{times[start][0] / ms:22.2f} {previous / ms:16.2f}"
        print(f"  {word:16} {ms:10.4g} {gains} {gflops:9.1f} {difference:11.1e}")
        previous = ms
    sys.stdout.flush()


def colours(variants: list[str]) -> dict[str, tuple]:
    """From dark to light along the ladder, whichever of its steps are shown."""
    import matplotlib

    scale = matplotlib.colormaps["plasma"]
    return {word: scale(0.85 * native.LADDER.index(word) / (len(native.LADDER) - 1)) for word in variants}


def new_figure(width: float, height: float, rows: int = 1) -> tuple:
    """A figure, and a list of its axes, one for each row."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(rows, figsize=(width, height), layout="constrained", squeeze=False)
    return figure, list(axes[:, 0])


def conditions() -> str:
    threads = f"{_THREADS.value or native.cpu_info()['cores']} threads from openmp on"
    kernel = f"{_KERNEL.value}x{_KERNEL.value}, stride {_STRIDES.value}"
    return f"{kernel}, {_DTYPE.value}, {native.cpu_info()['isa']}, {threads}"


def plot_sweep(axis: str, title: str, points: list[int], times: list[dict], path: Path) -> None:
    """Milliseconds over sizes or channels, a line for each step, both axes logarithmic."""
    figure, (axes,) = new_figure(9, 5.5)
    colour = colours(_VARIANTS.value)
    for i, word in enumerate(_VARIANTS.value):
        line = [(point, result[word][0]) for point, result in zip(points, times) if result[word] is not None]
        if line:
            axes.plot(*zip(*line), marker="osv^DPX*"[i], color=colour[word], label=word)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(points, [str(point) for point in points])
    axes.set_xlabel(axis)
    axes.set_ylabel("milliseconds, median")
    axes.set_title(f"{title}\n{conditions()}", fontsize=11)
    axes.grid(which="major", alpha=0.3)
    figure.legend(loc="outside right center", frameon=False)
    save(figure, path)


def plot_shapes(shapes: list[Shape], times: list[dict], path: Path) -> None:
    """Bars for each layer, with the gain over the step before beside each."""
    figure, rows = new_figure(9, 1.2 + (0.6 + 0.3 * len(_VARIANTS.value)) * len(shapes), len(shapes))
    colour = colours(_VARIANTS.value)
    for axes, shape, result in zip(rows, shapes, times):
        words = [word for word in _VARIANTS.value if result[word] is not None]
        heights = [result[word][0] for word in words]
        axes.barh(words, heights, color=[colour[word] for word in words])
        for i, ms in enumerate(heights):
            gain = f"  ({heights[i - 1] / ms:.2f}x)" if i else ""
            axes.text(ms, i, f" {ms:.3g} ms{gain}", va="center", fontsize=9)
        axes.set_xscale("log")
        axes.invert_yaxis()
        axes.margins(x=0.25)
        axes.set_title(label(shape), fontsize=10)
    rows[-1].set_xlabel("milliseconds, median; in brackets the gain over the step before")
    figure.suptitle(conditions(), fontsize=11)
    save(figure, path)


def save(figure, path: Path) -> None:
    import matplotlib.pyplot as plt

    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)
    print(f"saved {path}", flush=True)


def run(shapes: list[Shape]) -> list[dict]:
    times = []
    for shape in shapes:
        times.append(time_steps(shape, _VARIANTS.value))
        print_table(shape, times[-1])
    return times


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"no plain arguments are taken, got {argv[1:]}")
    unknown = [word for word in _VARIANTS.value if word not in native.LADDER]
    if unknown or not _VARIANTS.value or len(set(_VARIANTS.value)) < len(_VARIANTS.value):
        known = ", ".join(native.LADDER)
        raise app.UsageError(f"--variants must be different ones of {known}; got {','.join(_VARIANTS.value)!r}")
    shapes = [parse_shape(text) for text in _SHAPE.value]
    sizes = positive_integers("sizes", _SIZES.value, "positive integers")
    channels = positive_integers("channels", _CHANNELS.value, "positive integers")
    output = Path(_OUTPUT.value)
    if _OUTPUT.value:
        try:
            import matplotlib  # noqa: F401
        except ImportError as error:
            raise SystemExit(f"ladder: no plots without matplotlib ({error}); --output= asks for none") from None

    print(f"{conditions()}; medians over {_REPEAT.value} rounds taken in turn", flush=True)
    if shapes:
        times = run(shapes)
        if _OUTPUT.value:
            plot_shapes(shapes, times, output / "ladder_shapes.png")
        return
    c = SIZES_CHANNELS
    times = run([(SIZES_BATCH, size, size, c, c) for size in sizes])
    if _OUTPUT.value:
        title = f"{SIZES_BATCH} pictures of {c} channels to {c}"
        plot_sweep("rows and columns of the input", title, sizes, times, output / "ladder_sizes.png")
    size = CHANNELS_SIZE
    times = run([(1, size, size, c, c) for c in channels])
    if _OUTPUT.value:
        title = f"One input of {size}x{size}"
        plot_sweep("channels, C = K", title, channels, times, output / "ladder_channels.png")


if __name__ == "__main__":
    app.run(main)
