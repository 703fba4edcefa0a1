"""Trains one network on handwritten digits twice: with stock Keras layers, and with tf_dwsconv's in their place.

  python examples/training/train_digits.py  # 12 epochs of each, about half a minute on two cores
  python examples/training/train_digits.py --epochs=30 --seed=7

Both start from the same weights and see the same batches. Their epochs are taken in turn, so that the seconds compare.
Prints loss, accuracy on the test pictures and seconds of each epoch, and writes curves.png, epochs.csv and run.json.
Ends with 1 if either network stays below --target.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow is imported: warnings and errors only
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for `common`

import numpy as np
from absl import app, flags, logging
from common import options, record
from learning import digits

_EPOCHS = options.epochs(12, "Passes over the training pictures, of each network.")
_BATCH_SIZE = options.batch_size(32, "Pictures a step.", digits.TRAINING_PICTURES)
_RATE = options.learning_rate(3e-3, "Of Adam, at the start; falls to nothing as a cosine.")
_SEED = options.seed(1, "Of the initial weights and of the order of the pictures.")
_TARGET = flags.DEFINE_float("target", 0.97, "The least test accuracy, a fraction, for exit status 0.", 0.0, 1.0)
_VARIANTS = options.words("variants", ["stock", "ours"], ["stock", "ours"], "Networks to train:")
_PLOT = options.plot("curves.png")
_OUTPUT = options.output("train_digits", "the curves and the numbers")


def build(names: list[str], steps: int) -> dict:
    """The networks by name, compiled, with the same initial weights."""
    import keras

    import tf_dwsconv

    kinds = {"stock": keras.layers.SeparableConv2D, "ours": tf_dwsconv.DepthwiseSepConv2D}
    keras.utils.set_random_seed(_SEED.value)
    models = {name: digits.network(kinds[name]) for name in names}
    first = models[names[0]]
    for model in models.values():
        model.set_weights(first.get_weights())
        model.compile(
            keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(_RATE.value, steps)),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
            jit_compile=False,
        )
    return models


def train(models: dict, data: digits.Digits) -> list[dict]:
    """Trains all, an epoch of each in turn; returns a row for each epoch of each."""
    rows = []
    width = max(map(len, models))
    for epoch in range(_EPOCHS.value):
        order = digits.epoch_order(_SEED.value, epoch, len(data.train_y))
        x, y = data.train_x[order], data.train_y[order]
        for name, model in models.items():
            start = time.perf_counter()
            history = model.fit(x, y, _BATCH_SIZE.value, shuffle=False, verbose=0).history
            seconds = time.perf_counter() - start
            _, accuracy = model.evaluate(data.test_x, data.test_y, len(data.test_y), verbose=0)
            row = {
                "variant": name,
                "epoch": epoch + 1,
                "loss": history["loss"][0],
                "train_accuracy": history["accuracy"][0],
                "test_accuracy": float(accuracy),
                "seconds": seconds,
            }
            rows.append(row)
            print(
                f"epoch {epoch + 1:3}/{_EPOCHS.value}  {name:{width}}  loss {row['loss']:.4f}  "
                f"test accuracy {100 * accuracy:6.2f}%  {seconds:6.2f} s",
                flush=True,
            )
    return rows


def summarise(rows: list[dict], names: list[str]) -> dict[str, dict]:
    """For each network its last accuracy and its median seconds an epoch; the first epoch also traces the graph."""
    result = {}
    for name in names:
        own = [row for row in rows if row["variant"] == name]
        result[name] = {
            "test_accuracy": own[-1]["test_accuracy"],
            "loss": own[-1]["loss"],
            "seconds_first_epoch": own[0]["seconds"],
            "seconds_an_epoch": statistics.median(row["seconds"] for row in own[1:] or own),
        }
    return result


def plot(rows: list[dict], names: list[str], path: Path) -> None:
    """Loss and test error of each network over the epochs, beside each other."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    styles = {"stock": {"color": "0.45", "linewidth": 3}, "ours": {"color": "tab:green", "linestyle": "--"}}
    labels = {"stock": "keras SeparableConv2D", "ours": "tf_dwsconv DepthwiseSepConv2D"}
    for name in names:
        own = [row for row in rows if row["variant"] == name]
        epochs = [row["epoch"] for row in own]
        left.plot(epochs, [row["loss"] for row in own], label=labels[name], **styles[name])
        right.plot(epochs, [100 * row["test_accuracy"] for row in own], label=labels[name], **styles[name])
    left.set(xlabel="epoch", ylabel="training loss", yscale="log", title="Handwritten digits: training loss")
    right.set(xlabel="epoch", ylabel="test accuracy, %", title="Accuracy on 360 test pictures")
    right.axhline(100 * _TARGET.value, color="tab:red", linewidth=0.8)
    right.set_ylim(80, 100.5)
    left.legend()
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main(argv: list[str]) -> int:
    options.no_arguments(argv)
    output = record.make_folder("output", _OUTPUT.value)
    try:
        data = digits.load()
        if _PLOT.value:
            import matplotlib  # noqa: F401  missing: said before the training
    except ImportError as error:
        record.fail(f"{error}" + (" (--noplot needs no matplotlib)" if "matplotlib" in str(error) else ""))

    logging.set_verbosity(logging.WARNING)
    names = _VARIANTS.value
    models = build(names, _EPOCHS.value * -(-len(data.train_y) // _BATCH_SIZE.value))
    settings = record.settings(
        seed=_SEED.value,
        epochs=_EPOCHS.value,
        batch_size=_BATCH_SIZE.value,
        learning_rate=_RATE.value,
        target=_TARGET.value,
    )
    record.print_settings(settings)
    rows = train(models, data)
    summary = summarise(rows, names)
    for name in names:
        print(
            f"{name}: test accuracy {100 * summary[name]['test_accuracy']:.2f}%, "
            f"{summary[name]['seconds_an_epoch']:.2f} s an epoch"
        )
    if len(names) == 2:
        losses = (np.array([row["loss"] for row in rows if row["variant"] == name]) for name in names)
        apart = float(np.abs(np.subtract(*losses)).max())
        ratio = summary["stock"]["seconds_an_epoch"] / summary["ours"]["seconds_an_epoch"]
        summary.update(largest_loss_difference=apart, stock_over_ours=ratio)
        print(f"largest difference of an epoch's loss: {apart:.1e}; seconds stock / ours: {ratio:.2f}")
    record.write_csv(output / "epochs.csv", rows)
    record.write_json(output / "run.json", {"settings": settings, "summary": summary})
    if _PLOT.value:
        plot(rows, names, output / "curves.png")
    print(f"saved epochs.csv, run.json{' and curves.png' if _PLOT.value else ''} in {output}")
    return int(any(summary[name]["test_accuracy"] < _TARGET.value for name in names))


if __name__ == "__main__":
    app.run(main)
