"""Cases where this package was, or could be, slower than stock TensorFlow: few channels with many multipliers, windows
that are large or one-dimensional, first convolutions of networks as `convert` takes them, and EEGNet.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

PASSES = {
    "forward": "the output",
    "gradient": "the gradients of the input and of both filters",
    "dX": "the gradient of the input alone",
    "predict": "a model and what convert makes of it",
}


@dataclasses.dataclass(frozen=True)
class Case:
    """One layer or network, and which of its passes are timed.

    Attributes:
        kind: "separable", a depthwise-separable convolution by the op; "dense", a model of one `Conv2D`, converted; or
            "eegnet", a whole network, converted.
        shape: of the input: N, H, W, C in elements.
        window: rows and columns of the filter.
        filters: output channels. multiplier: the depth multiplier M, of a separable one.
        stride, padding: along both axes.
        passes: keys of `PASSES`.
    """

    kind: str
    shape: tuple[int, int, int, int]
    window: tuple[int, int] = (1, 1)
    filters: int = 1
    multiplier: int = 1
    stride: int = 1
    padding: str = "same"
    passes: tuple[str, ...] = ("forward", "gradient")

    def __str__(self) -> str:
        if self.kind == "eegnet":
            return f"EEGNet {'x'.join(map(str, self.shape[:3]))}"
        multiplier = f" M{self.multiplier}" if self.kind == "separable" else ""
        stride = f" stride {self.stride}" if self.stride > 1 else ""
        size, window = "x".join(map(str, self.shape)), "x".join(map(str, self.window))
        return f"{self.kind} {size} {window}{multiplier} -> {self.filters}{stride} {self.padding}"


def _separable(shape: Any, window: Any, multiplier: int, filters: int, **more: Any) -> Case:
    return Case("separable", shape, window, filters, multiplier, **more)


def _dense(shape: Any, window: Any, filters: int, **more: Any) -> Case:
    return Case("dense", shape, window, filters, passes=("predict",), **more)


def _sweep() -> tuple[Case, ...]:
    """Dense convolutions over windows, channels and filters: what the rule of convert was made from."""
    found = []
    for channels, windows in (
        (1, ((3, 3), (5, 5), (7, 7), (1, 16), (1, 64), (11, 11), (16, 16))),
        (3, ((3, 3), (5, 5), (7, 7), (9, 9), (1, 32), (11, 11))),
        (8, ((3, 3), (5, 5), (7, 7))),
        (16, ((3, 3), (5, 5))),
    ):
        found += [
            _dense((4, 48, 64, channels), window, filters, stride=stride)
            for window in windows
            for filters in (8, 16, 64)
            for stride in (1, 2)
        ]
    return tuple(found)


_ALL = ("forward", "gradient", "dX")
CASES = {
    "slow": (
        # Few channels, several multipliers.
        _separable((16, 64, 128, 1), (1, 64), 8, 8),
        _separable((4, 256, 256, 1), (3, 3), 32, 16),
        _separable((4, 256, 256, 3), (3, 3), 8, 16),
        _separable((4, 128, 128, 1), (3, 3), 2, 8),
        _separable((4, 128, 128, 1), (5, 5), 16, 16, stride=2),
        _separable((4, 128, 128, 2), (3, 3), 4, 16),
        _separable((4, 128, 128, 3), (7, 7), 3, 16),
        _separable((4, 128, 128, 4), (3, 3), 2, 16),
        _separable((1, 128, 128, 3), (3, 3), 32, 32),
        _separable((4, 64, 64, 6), (5, 5), 4, 32),
        _separable((8, 64, 64, 8), (3, 3), 8, 32),
        _separable((32, 32, 32, 8), (9, 9), 2, 16),
        # One-dimensional windows.
        _separable((32, 64, 256, 8), (64, 1), 2, 16, padding="valid", passes=_ALL),
        _separable((8, 22, 256, 8), (22, 1), 2, 16, padding="valid", passes=_ALL),
        _separable((8, 1, 512, 16), (1, 16), 1, 16),
        _separable((8, 1, 512, 32), (1, 128), 1, 32),
        _separable((8, 128, 16, 32), (64, 1), 1, 32),
        _separable((8, 1, 1024, 64), (1, 31), 1, 64, stride=1),
        # Large windows.
        _separable((8, 64, 64, 64), (31, 31), 1, 64),
        _separable((4, 56, 56, 96), (9, 9), 1, 96),
        _separable((4, 32, 32, 64), (15, 15), 1, 64, stride=2),
        _separable((2, 64, 64, 16), (21, 21), 1, 16, padding="valid"),
        # First convolutions of networks.
        *(_dense((n, 64, 128, 1), (1, 64), 8) for n in (1, 8, 32)),
        *(_dense((n, 64, 64, 3), (9, 9), 64) for n in (1, 8)),
        *(_dense((n, 96, 96, 3), (3, 3), 32, stride=2) for n in (1, 8)),
        _dense((8, 96, 96, 3), (7, 7), 64, stride=2),
        _dense((8, 96, 96, 3), (11, 11), 64, stride=4),
        _dense((8, 96, 96, 3), (3, 3), 64),
        _dense((8, 96, 96, 3), (5, 5), 32),
        _dense((8, 64, 64, 1), (5, 5), 6),
        _dense((8, 64, 64, 1), (31, 31), 8),
        _dense((8, 48, 48, 8), (3, 3), 8),
        _dense((8, 48, 48, 16), (3, 3), 16),
        _dense((8, 48, 48, 16), (3, 3), 128),
        _dense((8, 48, 48, 16), (5, 5), 64),
        _dense((8, 48, 48, 16), (7, 7), 16),
        _dense((8, 64, 128, 2), (64, 1), 16, padding="valid"),
        _dense((8, 16, 1024, 4), (1, 32), 16),
        *(Case("eegnet", (n, 64, 128, 1), passes=("predict",)) for n in (1, 8, 32)),
    ),
    "dense": _sweep(),
}


def eegnet(channels: int, samples: int) -> Any:
    """EEGNet-8,2: a convolution along time, one along channels, a separable one, and a classifier of 4 classes.

    Source: Lawhern et al., "EEGNet: a compact convolutional neural network for EEG-based brain-computer interfaces"
    (J. Neural Eng. 2018).
    """
    import keras
    from keras import layers

    def end(x: Any, pool: int) -> Any:
        x = layers.Activation("elu")(layers.BatchNormalization()(x))
        return layers.Dropout(0.5)(layers.AveragePooling2D((1, pool))(x))

    inputs = keras.Input((channels, samples, 1))
    x = layers.Conv2D(8, (1, samples // 2), padding="same", use_bias=False)(inputs)
    x = layers.BatchNormalization()(x)
    x = layers.DepthwiseConv2D((channels, 1), depth_multiplier=2, use_bias=False)(x)
    x = end(x, 4)
    x = end(layers.SeparableConv2D(16, (1, 16), padding="same", use_bias=False)(x), 8)
    return keras.Model(inputs, layers.Dense(4, activation="softmax")(layers.Flatten()(x)))


def _models(case: Case, seed: int) -> tuple[Any, Any]:
    """A model and what convert makes of it."""
    import keras

    import tf_dwsconv

    keras.utils.set_random_seed(seed)
    if case.kind == "eegnet":
        model = eegnet(*case.shape[1:3])
    else:
        layer = keras.layers.Conv2D(case.filters, case.window, strides=case.stride, padding=case.padding)
        model = keras.Sequential([keras.Input(case.shape[1:]), layer])
    return model, tf_dwsconv.convert(model)


def calls(case: Case, which: str, seed: int) -> dict[str, Callable[[], Any]]:
    """`stock` and `ours`, each a call of a `tf.function`; `which` is one of the case's passes."""
    import tensorflow as tf

    import tf_dwsconv

    random = np.random.default_rng(seed)

    def normal(scale: float, *size: int) -> np.ndarray:
        return (scale * random.standard_normal(size)).astype(np.float32)

    x = tf.constant(normal(1, *case.shape))
    if case.kind != "separable":
        names = zip(("stock", "ours"), _models(case, seed))
        functions = {name: tf.function(lambda x, model=model: model(x, training=False)) for name, model in names}
        return {name: lambda function=function: function(x) for name, function in functions.items()}
    columns, taps = case.shape[3] * case.multiplier, case.window[0] * case.window[1]
    depthwise = tf.Variable(normal(taps**-0.5, *case.window, case.shape[3], case.multiplier))
    pointwise = tf.Variable(normal(columns**-0.5, 1, 1, columns, case.filters))

    def stock(x: Any) -> Any:
        strides = (1, case.stride, case.stride, 1)
        return tf.nn.separable_conv2d(x, depthwise, pointwise, strides, case.padding.upper())

    def ours(x: Any) -> Any:
        return tf_dwsconv.depthwise_sep_conv2d(
            x, depthwise, pointwise, strides=case.stride, padding=case.padding.upper()
        )

    wanted = {"forward": [], "gradient": [x, depthwise, pointwise], "dX": [x]}[which]
    gradient = tf.constant(normal(1, *stock(x).shape)) if wanted else None

    def call(forward: Callable[[Any], Any]) -> Callable[[], Any]:
        if not wanted:
            function = tf.function(forward)
            return lambda: function(x)

        @tf.function
        def backward(x: Any, gradient: Any) -> Any:
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = forward(x)
            return tape.gradient(y, [x, *wanted[1:]], gradient)

        return lambda: backward(x, gradient)

    return {"stock": call(stock), "ours": call(ours)}
