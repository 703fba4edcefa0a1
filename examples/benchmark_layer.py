"""Times one depthwise-separable layer, stock Keras beside tf_dwsconv, and plots the result.

  python examples/benchmark_layer.py                                           # layers of MobileNetV1 at batch 1
  python examples/benchmark_layer.py --shape=8,56,56,128 --filters=128 --dtype=bfloat16
  python examples/benchmark_layer.py --shape=8,28,28,256 --filters=256 --train   # forward and backward

Several layers at once: repeat --shape and --filters, in pairs. The calls of both are taken in turn in one process, so
the ratio holds on a machine that is not quiet; the times of two runs do not compare.
"""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow is imported: warnings and errors only

import numpy as np
from absl import app, flags, logging

LAYERS = {"stock": "keras SeparableConv2D", "ours": "tf_dwsconv DepthwiseSepConv2D"}
MOBILENET_V1 = (
    ((1, 112, 112, 32), 64),
    ((1, 56, 56, 128), 128),
    ((1, 28, 28, 256), 256),
    ((1, 14, 14, 512), 512),
    ((1, 7, 7, 1024), 1024),
)

_SHAPE = flags.DEFINE_multi_string("shape", [], "Input N,H,W,C; repeatable. MobileNetV1's layers where none is given.")
_FILTERS = flags.DEFINE_multi_integer("filters", [], "Output channels, one for each --shape.", lower_bound=1)
_KERNEL = flags.DEFINE_integer("kernel", 3, "Rows and columns of the depthwise filter.", lower_bound=1)
_STRIDES = flags.DEFINE_integer("strides", 1, "Stride along both axes.", lower_bound=1)
_DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16", "float16"], "Of the input and of the weights.")
_THREADS = flags.DEFINE_integer("threads", 0, "Threads of both layers; 0 leaves it to TensorFlow.", lower_bound=0)
_WHICH = flags.DEFINE_enum("layers", "both", ["both", *LAYERS], "What to time.")
_TRAIN = flags.DEFINE_bool("train", False, "Time forward and backward (gradients of the input and all weights).")
_REPEAT = flags.DEFINE_integer("repeat", 50, "Timed runs of each.", lower_bound=1)
_PLOT = flags.DEFINE_string("plot", "output/benchmark_layer.png", "Where the plot goes; empty for none.")


def parse_rows(shapes: list[str], filters: list[int]) -> list[tuple[tuple[int, ...], int]]:
    """Pairs (input shape, output channels); raises UsageError naming the flag that is wrong."""
    if not shapes and not filters:
        return list(MOBILENET_V1)
    if len(shapes) != len(filters):
        raise app.UsageError(f"--shape and --filters come in pairs, got {len(shapes)} and {len(filters)}")
    parsed = []
    for shape in shapes:
        sizes = shape.split(",")
        if len(sizes) != 4 or not all(size.strip().isdigit() and int(size) > 0 for size in sizes):
            raise app.UsageError(f"--shape must be four positive integers N,H,W,C, got {shape!r}")
        parsed.append(tuple(map(int, sizes)))
    return list(zip(parsed, filters))


def flops(shape: tuple[int, ...], filters: int, kernel: int, strides: int) -> int:
    """2 x multiply-adds of one forward pass with padding SAME."""
    n, h, w, c = shape
    return 2 * n * -(-h // strides) * -(-w // strides) * c * (kernel * kernel + filters)


def plot(rows: list[tuple[str, dict[str, float]]], title: str, path: Path) -> None:
    """Bars of milliseconds for each layer, with the ratio above where both were timed."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = list(rows[0][1])
    figure, axes = plt.subplots(figsize=(max(6.0, 1.8 * len(rows) + 2), 4.5), layout="constrained")
    width = 0.8 / len(names)
    for i, name in enumerate(names):
        offsets = np.arange(len(rows)) + (i - (len(names) - 1) / 2) * width
        heights = [taken[name] for _, taken in rows]
        axes.bar(offsets, heights, width * 0.95, label=LAYERS[name], color=("0.65", "tab:green")[i])
    for i, (_, taken) in enumerate(rows):
        if len(taken) == 2:
            axes.text(i, max(taken.values()), f"{taken['stock'] / taken['ours']:.2f}x", ha="center", va="bottom")
    axes.set_xticks(range(len(rows)), [label for label, _ in rows])
    axes.set_ylabel("milliseconds, median")
    axes.set_title(title)
    axes.margins(y=0.12)
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"no plain arguments are taken, got {argv[1:]}")
    problems = parse_rows(_SHAPE.value, _FILTERS.value)

    # Imported late: a mistake in the arguments is answered before TensorFlow has started.
    import tensorflow as tf
    from layer_timing import time_layers

    logging.set_verbosity(logging.WARNING)
    if _THREADS.value:
        tf.config.threading.set_intra_op_parallelism_threads(_THREADS.value)
    names = list(LAYERS) if _WHICH.value == "both" else [_WHICH.value]
    kind = "forward and backward" if _TRAIN.value else "forward"
    threads = f"{_THREADS.value or 'all'} threads"
    title = f"{_KERNEL.value}x{_KERNEL.value} stride {_STRIDES.value}, {_DTYPE.value}, {kind}, {threads}"
    print(f"{title}; median of {_REPEAT.value} runs taken in turn")
    print(f"{'N x H x W x C -> K':26}", *(f"{name + ' ms':>10} {'GFLOP/s':>8}" for name in names), end="")
    print(f" {'stock/ours':>11} {'difference':>11}" if len(names) == 2 else "")
    rows = []
    for shape, filters in problems:
        taken, worst = time_layers(
            shape,
            filters,
            names=names,
            kernel=_KERNEL.value,
            strides=_STRIDES.value,
            dtype=_DTYPE.value,
            train=_TRAIN.value,
            repeat=_REPEAT.value,
        )
        work = flops(shape, filters, _KERNEL.value, _STRIDES.value) * (3 if _TRAIN.value else 1)
        print(f"{' x '.join(map(str, shape)) + f' -> {filters}':26}", end=" ")
        print(*(f"{taken[name]:10.3f} {work / taken[name] / 1e6:8.1f}" for name in names), end="")
        print(f" {taken['stock'] / taken['ours']:11.2f} {worst:11.1e}" if len(names) == 2 else "", flush=True)
        rows.append(("x".join(map(str, shape)) + f"\nto {filters}", taken))
    if _PLOT.value:
        try:
            plot(rows, title, Path(_PLOT.value))
        except ImportError as error:
            raise SystemExit(f"benchmark_layer: no plot without matplotlib ({error}); --plot= asks for none") from None
        print(f"saved {_PLOT.value}")


if __name__ == "__main__":
    app.run(main)
