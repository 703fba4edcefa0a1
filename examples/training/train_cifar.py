"""The training benchmark of a GPU study, on this machine: four convolutions of 128 channels on CIFAR-10.

  python examples/training/train_cifar.py  # pictures of CIFAR-10's shape, 3 x 10 steps
  python examples/training/train_cifar.py --dtype_policy=mixed_bfloat16
  python examples/training/train_cifar.py --data_dir=$HOME/cifar --epochs=10 --steps_per_epoch=0  # the real pictures

The study (a post named "Depth-wise Separable Convolutions": TensorFlow 2.1 on a V100 and others) trained a dense
network ("Normal CNN") and a depthwise-separable one ("DepSep CNN"). Here the separable one is trained twice, with stock
Keras layers and with tf_dwsconv's, from the same weights on the same batches; epochs are taken in turn. Prints images a
second beside the study's, and writes images.png, epochs.csv and run.json.

--data_dir is cifar-10-python.tar.gz or cifar-10-binary.tar.gz, what they unpack to, or a folder that holds either.
Nothing is downloaded. Ends with 2 if the archive is missing or damaged.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow is imported: warnings and errors only
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for `common`

from absl import app, flags, logging
from common import options, record
from learning import cifar

VARIANTS = {
    "dense": "Normal CNN, keras Conv2D",
    "stock": "DepSep CNN, keras SeparableConv2D",
    "ours": "DepSep CNN, tf_dwsconv DepthwiseSepConv2D",
}
# Chip, batch of a chip, images/s of the normal and of the separable network: as the study prints them. XLA everywhere,
# float16 on the V100, bfloat16 on the TPU.
STUDY = (
    ("V100", 128, 11123, 9094),
    ("TPUv2 chip", 32, 2470, 2693),
    ("TPUv2 chip", 128, 6418, 8151),
    ("E5-2698v4 (20 cores)", 32, 150, 687),
)

_DATA = flags.DEFINE_string("data_dir", "", "Where CIFAR-10 lies; random pictures of its shape where it is empty.")
_PICTURES = options.integer("pictures", 2560, "Random pictures, without --data_dir.", 1, 1_000_000)
_VARIANTS = options.words("variants", list(VARIANTS), VARIANTS, "Networks to train:")
_POLICY = options.dtype_policy()
_BATCH_SIZE = options.batch_size(128, "Pictures a step.")
_EPOCHS = options.epochs(3, "Epochs of each network, taken in turn.")
_STEPS = options.integer("steps_per_epoch", 10, "Steps an epoch; 0 for all pictures.", 0)
_RATE = options.learning_rate(1e-3, "Of Adam.")
_SEED = options.seed(1, "Of weights, order and random pictures.")
_PLOT = options.plot("images.png")
_OUTPUT = options.output("train_cifar", "the plot and the numbers")


def network(variant: str):
    """Four 3x3 convolutions of 128 channels with batch norm, two poolings, one dense layer.

    The study names the convolutions and the numbers of parameters, 529 and 136 thousand; that is what these have to
    train. Where it pooled it does not say.
    """
    import keras

    import tf_dwsconv

    kinds = {
        "dense": keras.layers.Conv2D,
        "stock": keras.layers.SeparableConv2D,
        "ours": tf_dwsconv.DepthwiseSepConv2D,
    }
    model = keras.Sequential([keras.Input((32, 32, 3))])
    for i in range(4):
        model.add(kinds[variant](128, 3, padding="same", activation="relu"))
        model.add(keras.layers.BatchNormalization())
        if i % 2:
            model.add(keras.layers.MaxPooling2D())
    model.add(keras.layers.Flatten())
    model.add(keras.layers.Dense(cifar.CLASSES, dtype="float32"))  # logits and loss in float32, as Keras advises
    return model


def build(variants: list[str]) -> dict:
    """The compiled networks by name; the separable ones with the same weights."""
    import keras

    keras.config.set_dtype_policy(_POLICY.value)
    models = {}
    for variant in variants:
        keras.utils.set_random_seed(_SEED.value)
        models[variant] = network(variant)
        models[variant].compile(
            keras.optimizers.Adam(_RATE.value),  # Keras adds the loss scale that mixed_float16 needs
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
            jit_compile=False,
        )
    if {"stock", "ours"} <= set(models):
        models["ours"].set_weights(models["stock"].get_weights())
    return models


def batches(x, y, steps: int):
    """A tf.data pipeline: shuffled anew each epoch by the seed, scaled to -1..1, flipped at random, fetched ahead."""
    import tensorflow as tf

    def prepare(number, batch):
        pictures, labels = batch
        # A seed of the batch's own: what runs in parallel must not decide which pictures are flipped.
        flipped = tf.image.stateless_random_flip_left_right(
            pictures, tf.stack([tf.constant(_SEED.value, tf.int64), number])
        )
        return tf.cast(flipped, tf.float32) / 127.5 - 1, labels

    dataset = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(len(y), seed=_SEED.value)
    dataset = dataset.repeat().batch(_BATCH_SIZE.value).take(steps).enumerate()
    return dataset.map(prepare, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


def stopwatch(label: str):
    """A callback that takes the seconds of each step, the input pipeline's included, and shows how far an epoch is."""
    import keras

    class Stopwatch(keras.callbacks.Callback):
        def __init__(self):
            super().__init__()
            self.seconds = []

        def on_epoch_begin(self, epoch, logs=None):
            self._last = time.perf_counter()

        def on_train_batch_end(self, batch, logs=None):
            now = time.perf_counter()
            self.seconds.append(now - self._last)
            self._last = now
            if batch % 10 == 9:
                print(f"  {label}: step {batch + 1}, {_BATCH_SIZE.value / self.seconds[-1]:.1f} images/s", flush=True)

    return Stopwatch()


def train(models: dict, data: cifar.Cifar) -> tuple[list[dict], dict[str, dict]]:
    """Trains all; returns a row for each epoch of each, and a summary of each."""
    steps = _STEPS.value or -(-len(data.train_y) // _BATCH_SIZE.value)
    inputs = {name: batches(data.train_x, data.train_y, steps) for name in models}
    watches = {name: stopwatch(name) for name in models}
    rows = []
    for epoch in range(_EPOCHS.value):
        for name, model in models.items():
            history = model.fit(inputs[name], shuffle=False, verbose=0, callbacks=[watches[name]]).history
            row = {"network": name, "epoch": epoch + 1, "steps": steps}
            row.update(loss=history["loss"][0], train_accuracy=history["accuracy"][0])
            row["images_per_second"] = rate(watches[name].seconds[-steps:], warm_up=epoch == 0)
            rows.append(row)
            print(
                f"epoch {epoch + 1}/{_EPOCHS.value}  {name:5}  loss {row['loss']:.4f}  train accuracy "
                f"{100 * row['train_accuracy']:5.1f}%  {row['images_per_second']:8.1f} images/s",
                flush=True,
            )
    summary = {}
    for name, model in models.items():
        last = [row for row in rows if row["network"] == name][-1]
        summary[name] = {
            "images_per_second": rate(watches[name].seconds, warm_up=True),
            "parameters": int(sum(weight.numpy().size for weight in model.trainable_weights)),
            "train_accuracy": last["train_accuracy"],
            "loss": last["loss"],
        }
        if not _STEPS.value:
            x = data.test_x.astype("float32") / 127.5 - 1
            summary[name]["test_accuracy"] = float(model.evaluate(x, data.test_y, _BATCH_SIZE.value, verbose=0)[1])
    return rows, summary


def rate(seconds: list[float], warm_up: bool) -> float:
    """Images a second by the median step; the first two steps of all trace the graph and fill the pipeline."""
    return _BATCH_SIZE.value / statistics.median(seconds[2:] or seconds if warm_up else seconds)


def table(summary: dict[str, dict], cores: int) -> list[str]:
    """Images a second, as the study prints them: this machine's lines above the study's."""

    def cell(name: str) -> str:
        return f"{summary[name]['images_per_second']:.0f}" if name in summary else "-"

    def ratio(normal: str, separable: str) -> str:
        return "-" if "-" in (normal, separable) else f"{float(separable) / float(normal):.2f}x"

    rows = [("Chip", "Batch size", "Normal CNN", "DepSep CNN", "DepSep / Normal")]
    for name, label in (("stock", "stock Keras"), ("ours", "tf_dwsconv")):
        if name in summary:
            chip = f"this CPU ({cores} cores), {label}"
            rows.append((chip, str(_BATCH_SIZE.value), cell("dense"), cell(name), ratio(cell("dense"), cell(name))))
    for chip, batch, normal, separable in STUDY:
        rows.append((f"study: {chip}", str(batch), str(normal), str(separable), ratio(str(normal), str(separable))))
    return [f"{chip:36}" + "".join(f"{word:>17}" for word in rest) for chip, *rest in rows]


def plot(summary: dict[str, dict], title: str, path: Path) -> None:
    """Images a second of this machine's networks, and what separable layers gain here and on the study's chips."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.5), layout="constrained")
    colors = {"dense": "tab:blue", "stock": "0.6", "ours": "tab:green"}
    for i, (name, values) in enumerate(summary.items()):
        left.bar(i, values["images_per_second"], color=colors[name])
        left.text(i, values["images_per_second"], f"{values['images_per_second']:.0f}", ha="center", va="bottom")
    left.set_xticks(
        range(len(summary)), [VARIANTS[name].replace(", ", "\n").replace(" Dep", "\nDep") for name in summary]
    )
    left.set(ylabel="images/s, training", title=title)
    gains = [(f"{chip}\nbatch {batch}", separable / normal, "0.8") for chip, batch, normal, separable in STUDY]
    if "dense" in summary:
        for name in ("stock", "ours"):
            if name in summary:
                gain = summary[name]["images_per_second"] / summary["dense"]["images_per_second"]
                gains.append((f"this CPU, {name}\nbatch {_BATCH_SIZE.value}", gain, colors[name]))
    for i, (_, gain, color) in enumerate(gains):
        right.barh(i, gain, color=color)
        right.text(gain, i, f" {gain:.2f}x", va="center")
    right.set_yticks(range(len(gains)), [label for label, _, _ in gains])
    right.axvline(1, color="0.3", linewidth=0.8)
    right.margins(x=0.12)
    right.set(xlabel="images/s, DepSep CNN / Normal CNN", title="What separable layers gain (grey: the study)")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def read_data() -> cifar.Cifar:
    if not _DATA.value:
        return cifar.synthetic(_PICTURES.value, _SEED.value)
    try:
        return cifar.load(_DATA.value)
    except cifar.CifarError as error:
        record.fail(str(error))


def main(argv: list[str]) -> None:
    options.no_arguments(argv)
    variants = _VARIANTS.value
    output = record.make_folder("output", _OUTPUT.value)
    data = read_data()
    if _PLOT.value:
        try:
            import matplotlib  # noqa: F401  missing: said before the training
        except ImportError as error:
            record.fail(f"no plot without matplotlib ({error}); --noplot asks for none")

    logging.set_verbosity(logging.WARNING)
    models = build(variants)
    settings = record.settings(
        seed=_SEED.value,
        pictures="CIFAR-10" if _DATA.value else f"{_PICTURES.value} random",
        dtype_policy=_POLICY.value,
        batch_size=_BATCH_SIZE.value,
        epochs=_EPOCHS.value,
        steps_per_epoch=_STEPS.value,
        learning_rate=_RATE.value,
    )
    record.print_settings(settings)
    rows, summary = train(models, data)
    print()
    for name, values in summary.items():
        accuracy = f", test accuracy {100 * values['test_accuracy']:.1f}%" if "test_accuracy" in values else ""
        print(
            f"{VARIANTS[name]}: {values['parameters']} parameters, {values['images_per_second']:.1f} images/s, train "
            f"accuracy {100 * values['train_accuracy']:.1f}%{accuracy}"
        )
    print("", *table(summary, settings["cores"]), sep="\n")
    if {"stock", "ours"} <= set(summary):
        summary["ours_over_stock"] = summary["ours"]["images_per_second"] / summary["stock"]["images_per_second"]
        print(f"\ntf_dwsconv / stock, DepSep CNN: {summary['ours_over_stock']:.2f}")
    record.write_csv(output / "epochs.csv", rows)
    record.write_json(output / "run.json", {"settings": settings, "summary": summary, "study": STUDY})
    if _PLOT.value:
        networks = {name: summary[name] for name in variants}
        plot(networks, f"CIFAR-10 shapes, batch {_BATCH_SIZE.value}, {_POLICY.value}", output / "images.png")
    print(f"saved epochs.csv, run.json{' and images.png' if _PLOT.value else ''} in {output}")


if __name__ == "__main__":
    app.run(main)
