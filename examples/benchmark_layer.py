"""Times one depthwise-separable layer, stock Keras beside tf_dwsconv, and plots the result.

  python examples/benchmark_layer.py                                           # layers of MobileNetV1 at batch 1
  python examples/benchmark_layer.py --shape=8,56,56,128 --filters=128 --dtype=bfloat16
  python examples/benchmark_layer.py --shape=8,28,28,256 --filters=256 --train   # forward and backward

Several layers at once: repeat --shape and --filters, in pairs. The calls of both are taken in turn in one process, so
the ratio holds on a machine that is not quiet; the times of two runs do not compare.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow is imported: warnings and errors only

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags, logging
from timing import time_in_turn

import tf_dwsconv

LAYERS = {"stock": keras.layers.SeparableConv2D, "ours": tf_dwsconv.DepthwiseSepConv2D}
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


def forward_step(layer: keras.layers.Layer) -> tf.types.experimental.PolymorphicFunction:
    return tf.function(layer, jit_compile=False)


def training_step(layer: keras.layers.Layer) -> tf.types.experimental.PolymorphicFunction:
    """Forward, then the gradients of the input and of every weight for a given gradient of the output."""

    @tf.function(jit_compile=False)
    def step(x, output_gradient):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x)
        return y, tape.gradient(y, [x, *[weight.value for weight in layer.trainable_weights]], output_gradient)

    return step


def largest_relative_difference(results: list) -> float:
    """max |a - b| / max |a| over all tensors of two results of the same structure."""
    pairs = zip(*(tf.nest.flatten(result) for result in results))
    arrays = [[np.asarray(tf.cast(tensor, tf.float32)) for tensor in pair] for pair in pairs]
    return max(float(np.abs(a - b).max() / max(np.abs(a).max(), 1e-30)) for a, b in arrays)


def run_row(shape: tuple[int, ...], filters: int, names: list[str]) -> tuple[dict[str, float], float]:
    """Milliseconds by name, and the largest relative difference of the results (0 where only one layer runs)."""
    random = np.random.default_rng(0)
    dtype = tf.as_dtype(_DTYPE.value)
    x = tf.cast(random.standard_normal(shape, np.float32), dtype)
    layers = {
        name: LAYERS[name](filters, _KERNEL.value, strides=_STRIDES.value, padding="same", dtype=_DTYPE.value)
        for name in names
    }
    for layer in layers.values():
        layer.build(x.shape)
    first = next(iter(layers.values()))
    for layer in layers.values():
        layer.set_weights(first.get_weights())
    if _TRAIN.value:
        output_shape = first.compute_output_shape(x.shape)
        gradient = tf.cast(random.standard_normal(output_shape, np.float32), dtype)
        arguments = (x, gradient)
    else:
        arguments = (x,)
    steps = {name: (training_step if _TRAIN.value else forward_step)(layer) for name, layer in layers.items()}
    calls = {name: functools.partial(step, *arguments) for name, step in steps.items()}
    results = [call() for call in calls.values()]
    worst = largest_relative_difference(results) if len(results) == 2 else 0.0
    del results
    return time_in_turn(calls, _REPEAT.value), worst


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
        label = f"{LAYERS[name].__module__.split('.')[0]} {LAYERS[name].__name__}"
        axes.bar(offsets, [taken[name] for _, taken in rows], width * 0.95, label=label, color=("0.65", "tab:green")[i])
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
        taken, worst = run_row(shape, filters, names)
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
