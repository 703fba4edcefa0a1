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


def losses(model: keras.Model) -> list:
    """Of two steps, and of what they led to."""
    x, y = data(model)
    model.compile(keras.optimizers.SGD(0.01), "mse")
    history = [model.fit(x, y, batch_size=4, verbose=0).history["loss"][0] for _ in range(2)]
    return [*history, float(np.mean((model.predict(x, verbose=0) - y) ** 2))]


def make(folder: Path, names: list) -> None:
    for name in names:
        model = cut(name)
        model.save(folder / f"{name}.keras")
        answers = model.predict(data(model)[0], verbose=0)
        folded = tf_dwsconv.to_builtin(tf_dwsconv.convert(model))
        np.savez(folder / f"{name}.npz", answers=answers, trained=losses(model), folded=losses(folded))
        keras.utils.clear_session()


# Sums of some hundred products, a dozen layers deep, each rounded to 6e-8; training normalises by small batches.
PREDICTED, TRAINED = 1e-4, 1e-3


def check(folder: Path, names: list) -> None:
    for name in names:
        print("at", name, flush=True)
        model = keras.models.load_model(folder / f"{name}.keras")
        expected = np.load(folder / f"{name}.npz")
        for options, kind in (({}, "folded"), ({"training": True}, "trained"), ({"fuse": "blocks"}, None)):
            converted = tf_dwsconv.convert(model, **options)
            has_network = any(isinstance(layer, tf_dwsconv.FusedNetwork) for layer in converted.layers)
            assert has_network == (options == {})
            answers = converted.predict(data(model)[0], verbose=0)
            np.testing.assert_allclose(answers, expected["answers"], rtol=0, atol=PREDICTED * np.abs(answers).max())
            if kind is not None:
                np.testing.assert_allclose(losses(converted), expected[kind], rtol=TRAINED)
        print("right", name, flush=True)
        keras.utils.clear_session()


if __name__ == "__main__":
    if sys.argv[1] == "make":
        make(Path(sys.argv[2]), sys.argv[3:])
    else:
        check(Path(sys.argv[2]), sys.argv[3:])
