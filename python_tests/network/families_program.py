"""The first blocks of each family of keras.applications, predicted and trained: what `test_families.py` runs.

    python families_program.py make FOLDER NAME ...     # the models, and what stock layers answer
    python families_program.py check FOLDER NAME ...    # converted ones, held to that; prints a line for each

The environment says what computes: the fused ops or the fallback, oneDNN or Eigen.
"""

from __future__ import annotations

import sys
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from keras.src.applications.nasnet import NASNet

import tf_dwsconv

A, L = keras.applications, keras.layers
SMALL = {"input_shape": (32, 32, 3), "weights": None, "include_top": False}
# How to make each, and the layer at which it is cut: behind a depthwise convolution at stride 2, a gate or a residual.
FAMILIES = {
    "MobileNet": (lambda: A.MobileNet(alpha=0.25, **SMALL), "conv_pw_2_relu"),
    "MobileNetV2": (lambda: A.MobileNetV2(alpha=0.35, **SMALL), "block_2_add"),
    "MobileNetV3Small": (lambda: A.MobileNetV3Small(alpha=0.75, **SMALL), "expanded_conv_2_add"),
    "MobileNetV3Large": (lambda: A.MobileNetV3Large(alpha=0.75, **SMALL), "expanded_conv_2_add"),
    "EfficientNetB0": (lambda: A.EfficientNetB0(**SMALL), "block2a_project_bn"),
    "EfficientNetV2B0": (lambda: A.EfficientNetV2B0(**SMALL), "block4a_project_bn"),
    "NASNetMobile": (
        lambda: NASNet(num_blocks=1, penultimate_filters=96, stem_block_filters=8, default_size=32, **SMALL),
        60,
    ),
    "Xception": (lambda: A.Xception(**{**SMALL, "input_shape": (71, 71, 3)}), 16),
    "ConvNeXtTiny": (lambda: A.ConvNeXtTiny(**SMALL), 17),
}


def cut(name: str) -> keras.Model:
    """A model whose answers say something: random scales and statistics, and no layer that throws dice."""
    make, end = FAMILIES[name]
    whole = make()
    y = (whole.layers[end] if isinstance(end, int) else whole.get_layer(end)).output
    model = keras.Model(whole.input, L.Dense(5)(L.GlobalAveragePooling2D()(y)), name=name)
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, L.BatchNormalization):
            for weight, low in ((layer.gamma, 0.8), (layer.beta, -0.2), (layer.moving_mean, -0.2)):
                if weight is not None:
                    weight.assign(rng.uniform(low, low + 0.4, weight.shape))
            layer.moving_variance.assign(rng.uniform(0.8, 1.2, layer.moving_variance.shape))
        for rate in ("rate", "drop_path_rate"):
            if hasattr(layer, rate):
                setattr(layer, rate, 0.0)
    return model


def data(model: keras.Model) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    return rng.uniform(-1, 1, (4, *model.input.shape[1:])).astype("float32"), rng.standard_normal((4, 5)).astype(
        "float32"
    )


# Sums of some hundred products, a dozen layers deep, each rounded to 6e-8; training normalises by small batches.
PREDICTED, TRAINED = 1e-4, 1e-3


def rate(model: keras.Model) -> float:
    """A learning rate at which a step takes some 5 % off the loss.

    Far less would hide a wrong gradient, far more lands where the loss is steep.
    """
    x, y = data(model)
    weights = model.get_weights()
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean((model(x, training=True) - y) ** 2)
    gradients = tape.gradient(loss, model.trainable_variables)
    model.set_weights(weights)  # Batch norms have moved their statistics.
    return float(0.05 * loss / sum(tf.reduce_sum(gradient**2) for gradient in gradients))


def losses(model: keras.Model, x: np.ndarray, y: np.ndarray) -> list:
    """Of two steps, and of what they led to; the weights are then as before."""
    weights = model.get_weights()
    history = [model.fit(x, y, batch_size=4, verbose=0).history["loss"][0] for _ in range(2)]
    history.append(float(np.mean((model.predict(x, verbose=0) - y) ** 2)))
    model.set_weights(weights)
    return history


def steady(model: keras.Model) -> list | None:
    """The losses, or None where roundings alone change them.

    A batch norm divides by the deviation of a few pixels, and an activation's slope jumps. Some weights bring a value
    so close to such a place that training in float32 is off by 1 % from training in float64, with stock layers too.
    Weights and images that differ by a hundred roundings tell.
    """
    x, y = data(model)
    rng = np.random.default_rng(2)

    def shaken(values):
        return (values * (1 + 1e-5 * rng.uniform(-1, 1, values.shape))).astype(values.dtype)

    model.compile(keras.optimizers.SGD(rate(model)), "mse")
    found, weights = losses(model, x, y), model.get_weights()
    # A gradient that is wrong by a few percent must show.
    assert abs(found[1] / found[0] - 1) > 20 * TRAINED, found
    for _ in range(4):
        model.set_weights([shaken(values) for values in weights])
        if not np.allclose(losses(model, shaken(x), y), found, rtol=TRAINED / 5, atol=0):
            return None
    model.set_weights(weights)
    return found


def make(folder: Path, names: list) -> None:
    for name in names:
        for seed in range(20):
            keras.utils.set_random_seed(seed)
            model = cut(name)
            answers = model.predict(data(model)[0], verbose=0)
            trained = steady(model)
            builtin = tf_dwsconv.to_builtin(tf_dwsconv.convert(model))
            folded = trained and steady(builtin)
            if folded:
                break
            keras.utils.clear_session()
        else:
            raise AssertionError(f"{name}: no weights of 20 train steadily")
        print(name, "seed", seed, flush=True)
        model.save(folder / f"{name}.keras")
        rates = {
            f"{kind}_rate": float(m.optimizer.learning_rate) for kind, m in (("trained", model), ("folded", builtin))
        }
        np.savez(folder / f"{name}.npz", answers=answers, trained=trained, folded=folded, **rates)
        keras.utils.clear_session()


def check(folder: Path, names: list) -> None:
    for name in names:
        print("at", name, flush=True)
        model = keras.models.load_model(folder / f"{name}.keras", compile=False)
        expected = np.load(folder / f"{name}.npz")
        for options, kind in (({}, "folded"), ({"training": True}, "trained"), ({"fuse": "blocks"}, None)):
            converted = tf_dwsconv.convert(model, **options)
            has_network = any(isinstance(layer, tf_dwsconv.FusedNetwork) for layer in converted.layers)
            assert has_network == (options == {})
            answers = converted.predict(data(model)[0], verbose=0)
            np.testing.assert_allclose(answers, expected["answers"], rtol=0, atol=PREDICTED * np.abs(answers).max())
            if kind is not None:
                converted.compile(keras.optimizers.SGD(float(expected[f"{kind}_rate"])), "mse")
                np.testing.assert_allclose(losses(converted, *data(model)), expected[kind], rtol=TRAINED)
        print("right", name, flush=True)
        keras.utils.clear_session()


if __name__ == "__main__":
    if sys.argv[1] == "make":
        make(Path(sys.argv[2]), sys.argv[3:])
    else:
        check(Path(sys.argv[2]), sys.argv[3:])
