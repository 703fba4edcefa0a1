"""Times one training step of a network of keras.applications, with and without tf_dwsconv's layers in it.

  python examples/benchmarks/benchmark_training_step.py  # MobileNet, 16 x 224 x 224
  python examples/benchmarks/benchmark_training_step.py --model=Xception --size=160 --batch_size=8

A step is forward, gradients of all trainable weights and SGD, on random pictures. Only what leaves the step exactly as
it was is swapped, and the gradients of both networks are compared. Three ways to train are timed:

- `train`: batch norm takes the statistics of the batch, as when training from the start;
  `tf_dwsconv.convert(model, training=True)`. The step is a `tf.function`.
- `fit`: the same by `model.fit`, from the begin of a batch to its end.
- `frozen`: batch norm keeps its statistics, as when fine-tuning. Chains with a batch norm between the halves are fused.
"""

from __future__ import annotations

import functools
import os
import statistics
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow is imported: warnings and errors only
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for `common`

from absl import app, flags, logging
from common import options, record

_MODEL = options.model("MobileNet", "A network of keras.applications, by its name there.")
_SIZE = options.size(224, least=32)
_BATCH_SIZE = options.batch_size(16, "Pictures a step.")
_WAY = flags.DEFINE_enum("way", "all", ["all", "train", "fit", "frozen"], "What is timed; see above.")
_REPEAT = options.repeat(10, "Timed steps of each.")
_SEED = options.seed(0, "Of weights and pictures.")
_OUTPUT = options.output("benchmark_training_step", "run.json")

_FIT_STEPS = 4


def build():
    """The stock network with random weights."""
    import keras

    keras.utils.set_random_seed(_SEED.value)
    maker = getattr(keras.applications, _MODEL.value, None)
    if not callable(maker):
        names = [name for name in dir(keras.applications) if name[0].isupper()]
        record.fail(f"--model must be of {', '.join(names)}; given {_MODEL.value!r}")
    try:
        return maker(weights=None, input_shape=(_SIZE.value, _SIZE.value, 3), classifier_activation=None)
    except (TypeError, ValueError) as error:
        record.fail(f"{_MODEL.value} cannot be built with --size={_SIZE.value}: {error}")


def settle(model, x) -> None:
    """Gives every batch norm the statistics of `x`: fine-tuning starts from a network that has seen pictures."""
    import keras

    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    model(x, training=True)
    for norm, momentum in zip(norms, momenta):
        norm.momentum = momentum
        norm.trainable = False


def steps(model):
    """Two functions of a batch: one returns loss and gradients, the other takes the step too."""
    import keras
    import tensorflow as tf

    optimizer = keras.optimizers.SGD(1e-3)
    optimizer.build(model.trainable_variables)
    variables = list(model.trainable_variables)

    def gradients(x, y):
        with tf.GradientTape() as tape:
            logits = model(x, training=True)
            loss = tf.reduce_mean(keras.losses.sparse_categorical_crossentropy(y, logits, from_logits=True))
        return loss, tape.gradient(loss, variables)

    def step(x, y):
        loss, found = gradients(x, y)
        optimizer.apply_gradients(zip(found, variables))
        return loss

    def by_variable(x, y):
        loss, found = gradients_function(x, y)
        return float(loss), {id(variable): gradient for variable, gradient in zip(variables, found)}

    gradients_function = tf.function(gradients, jit_compile=False)
    return by_variable, tf.function(step, jit_compile=False)


def fit_in_turn(models: dict, x, y) -> dict:
    """Medians of the steps of `fit`, in milliseconds; each model in turn trains an epoch of a few of them.

    What `fit` does behind its last step is left out: it may wait for a thread that looks every five seconds whether it
    is to end (TensorFlow 2.21), which an epoch of a usual length does not notice.
    """
    import keras
    import numpy as np

    times: dict = {name: [] for name in models}

    class Clock(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            self.begin = time.perf_counter()

        def on_train_batch_end(self, batch, logs=None):
            self.found.append(time.perf_counter() - self.begin)

    x, y = (np.concatenate([np.asarray(t)] * _FIT_STEPS) for t in (x, y))
    for model in models.values():
        model.compile(keras.optimizers.SGD(1e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        model.train_on_batch(x[: _BATCH_SIZE.value], y[: _BATCH_SIZE.value])
    for _ in range(-(-_REPEAT.value // _FIT_STEPS)):
        for name, model in models.items():
            clock = Clock()
            clock.found = times[name]
            model.fit(x, y, batch_size=_BATCH_SIZE.value, shuffle=False, verbose=0, callbacks=[clock])
    return {name: 1e3 * statistics.median(found) for name, found in times.items()}


def relative_difference(stock: dict, ours: dict, pairs: list[tuple]) -> float:
    """|a - b| / |a| of the gradients of all weights as one vector.

    An activation whose argument is 0 or 6 but for a rounding passes its gradient in one network and not in the other:
    deep networks on few pixels differ by percents for that reason.
    """
    import numpy as np

    apart = whole = 0.0
    for a, b in pairs:
        expected, found = np.float64(stock[id(a)]), np.float64(ours[id(b)])
        apart += float(np.sum((expected - found) ** 2))
        whole += float(np.sum(expected**2))
    return (apart / whole) ** 0.5


def measure(way: str) -> dict:
    """Builds both networks, compares a step's gradients, times the step of both in turn."""
    import numpy as np
    import tensorflow as tf
    from common import swap
    from common.timing import medians_in_turn

    random = np.random.default_rng(_SEED.value)
    x = tf.constant(random.standard_normal((_BATCH_SIZE.value, _SIZE.value, _SIZE.value, 3), np.float32))
    y = tf.constant(random.integers(0, 1000, _BATCH_SIZE.value))
    stock = build()
    if way == "frozen":
        settle(stock, x)
    ours, count, pairs = swap.swap(stock, way == "frozen")
    models = {"stock": stock, "ours": ours}
    (gradients, stock_step), (own_gradients, own_step) = map(steps, models.values())
    (loss, expected), (own_loss, found) = gradients(x, y), own_gradients(x, y)
    result = {
        "swapped": count,
        "loss_difference": abs(loss - own_loss) / abs(loss),
        "gradient_difference": relative_difference(expected, found, pairs),
    }
    del expected, found
    if way == "fit":
        result["ms"] = fit_in_turn(models, x, y)
    else:
        calls = {"stock": functools.partial(stock_step, x, y), "ours": functools.partial(own_step, x, y)}
        result["ms"] = medians_in_turn(calls, _REPEAT.value)
    return result


def main(argv: list[str]) -> None:
    options.no_arguments(argv)
    output = record.make_folder("output", _OUTPUT.value)
    import keras

    logging.set_verbosity(logging.WARNING)
    settings = record.settings(
        model=_MODEL.value, size=_SIZE.value, batch_size=_BATCH_SIZE.value, repeat=_REPEAT.value, seed=_SEED.value
    )
    record.print_settings(settings)
    print(f"\n{'way':12}{'swapped':>8}{'stock ms':>12}{'ours ms':>12}{'stock/ours':>12}{'gradients differ':>18}")
    results = {}
    for way in ("train", "fit", "frozen") if _WAY.value == "all" else (_WAY.value,):
        results[way] = row = measure(way)
        keras.backend.clear_session()
        row["stock_over_ours"] = row["ms"]["stock"] / row["ms"]["ours"]
        times = f"{row['ms']['stock']:12.1f}{row['ms']['ours']:12.1f}{row['stock_over_ours']:12.2f}"
        print(f"{way:12}{row['swapped']:8}{times}{row['gradient_difference']:18.1e}", flush=True)
    record.write_json(output / "run.json", {"settings": settings, "results": results})


if __name__ == "__main__":
    app.run(main)
