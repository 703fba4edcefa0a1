"""Scikit-learn's handwritten digits, and a small depthwise-separable network that reads them.

The 1797 pictures of 8x8 pixels lie in scikit-learn's wheel: nothing is downloaded. Source: Alpaydin and Kaynak,
"Optical Recognition of Handwritten Digits", UCI Machine Learning Repository (1998), its test set.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

TEST_PICTURES = 360  # a fifth
TRAINING_PICTURES = 1437


class Digits(NamedTuple):
    """Pictures float32 `[n, 8, 8, 1]` with values 0..1, digits int32 `[n]`; apart for training and test."""

    train_x: np.ndarray
    train_y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray


def load() -> Digits:
    """Reads and splits the digits, always the same way.

    Raises:
        ImportError: scikit-learn is not installed.
    """
    try:
        from sklearn import datasets
    except ImportError as error:
        raise ImportError(f"the digits come with scikit-learn: pip install scikit-learn ({error})") from None
    digits = datasets.load_digits()
    # The pictures stand in the order of their writers. Shuffled, test and training share writers.
    order = np.random.default_rng(0).permutation(len(digits.target))
    x = (digits.images[order, :, :, None] / 16).astype(np.float32)
    y = digits.target[order].astype(np.int32)
    return Digits(x[TEST_PICTURES:], y[TEST_PICTURES:], x[:TEST_PICTURES], y[:TEST_PICTURES])


def network(separable_layer: type, batch_norm: bool = True) -> Any:
    """A dense convolution and three separable ones, 31 thousand parameters.

    Args:
        separable_layer: `keras.layers.SeparableConv2D` or `tf_dwsconv.DepthwiseSepConv2D`; nothing else differs.
        batch_norm: whether batch norm follows each convolution. With it the network learns faster; without it the
            pictures of a batch do not meet, and small differences (of roundings) stay small.

    Returns:
        A Keras model from `[n, 8, 8, 1]` to the logits `[n, 10]`.
    """
    import keras

    def separable(filters: int, strides: int = 1) -> Any:
        return separable_layer(
            filters,
            3,
            strides=strides,
            padding="same",
            activation="relu",
            # Both keep the size of what goes through. Keras' default counts all channels for the depthwise half.
            depthwise_initializer=keras.initializers.RandomNormal(stddev=1 / 3),
            pointwise_initializer="he_uniform",
        )

    first = keras.layers.Conv2D(32, 3, padding="same", activation="relu", kernel_initializer="he_uniform")
    model = keras.Sequential([keras.Input((8, 8, 1))])
    for convolution in (first, separable(64), separable(128, strides=2), separable(128)):
        model.add(convolution)
        if batch_norm:
            model.add(keras.layers.BatchNormalization(momentum=0.9))
    model.add(keras.layers.GlobalAveragePooling2D())
    model.add(keras.layers.Dense(10))
    return model


def epoch_order(seed: int, epoch: int, pictures: int) -> np.ndarray:
    """The order of the pictures in an epoch: a function of both numbers, so that a restarted run meets it again."""
    return np.random.default_rng([seed, epoch]).permutation(pictures)
