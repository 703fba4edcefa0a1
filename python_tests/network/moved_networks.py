"""Small networks whose layers split, cut, turn and put side by side: a U-Net, units of ShuffleNetV2, GhostNet, MixNet.

    python moved_networks.py FOLDER     # each converted, held to what stock layers answered; prints a line for each

The environment says what computes.
"""

from __future__ import annotations

import sys
from pathlib import Path

import keras
import numpy as np

import tf_dwsconv

L = keras.layers


def separable(x, filters, **options):
    return L.ReLU()(L.BatchNormalization()(L.SeparableConv2D(filters, 3, padding="same", use_bias=False, **options)(x)))


def unet(x):
    """Two levels; the way up by transposed convolutions with batch norms."""
    first = separable(x, 8)
    second = separable(L.MaxPooling2D()(first), 12)
    y = separable(L.MaxPooling2D()(second), 16)
    for skip, filters in ((second, 12), (first, 8)):
        y = L.Conv2DTranspose(filters, 2, strides=2, use_bias=False)(y)
        y = L.Concatenate()([skip, L.ReLU()(L.BatchNormalization()(y))])
        y = separable(y, filters)
    return L.Conv2D(3, 1, activation="sigmoid")(y)


def shuffle(x):
    """A unit of ShuffleNetV2: one half of the channels goes through, and the halves are shuffled."""
    x = separable(x, 16)
    for _ in range(2):
        left, right = keras.ops.split(x, 2, axis=-1)
        right = L.ReLU()(L.BatchNormalization()(L.Conv2D(8, 1, use_bias=False)(right)))
        right = L.BatchNormalization()(L.DepthwiseConv2D(3, padding="same", use_bias=False)(right))
        right = L.ReLU()(L.BatchNormalization()(L.Conv2D(8, 1, use_bias=False)(right)))
        x = L.Concatenate()([left, right])
        _, height, width, channels = x.shape
        x = L.Reshape((height, width, 2, channels // 2))(x)
        x = L.Reshape((height, width, channels))(L.Permute((1, 2, 4, 3))(x))
    return L.GlobalAveragePooling2D()(separable(x, 8, strides=2))


def ghost(x):
    """A module of GhostNet: cheap maps beside dear ones, of which as many are taken as are wanted."""
    x = separable(x, 8)
    for filters in (10, 13):
        primary = L.ReLU()(L.BatchNormalization()(L.Conv2D(filters // 2 + 1, 1, use_bias=False)(x)))
        cheap = L.ReLU()(L.BatchNormalization()(L.DepthwiseConv2D(3, padding="same", use_bias=False)(primary)))
        x = L.Concatenate()([primary, cheap])[..., :filters]
    return L.GlobalMaxPooling2D()(separable(x, 6))


def mix(x):
    """A layer of MixNet: each part of the channels has a kernel of its own."""
    x = separable(x, 12)
    parts = [
        L.DepthwiseConv2D(kernel, padding="same", use_bias=False)(part)
        for kernel, part in zip((3, 5, 7), keras.ops.split(x, [4, 9], axis=3))
    ]
    x = L.Activation("silu")(L.BatchNormalization()(L.Concatenate()(parts)))
    return L.GlobalAveragePooling2D()(L.Conv2D(10, 1)(x))


def focus(x):
    """YOLOX: every other pixel is a channel."""
    parts = [x[:, i::2, j::2, :] for j in (0, 1) for i in (0, 1)]
    return L.GlobalAveragePooling2D()(separable(separable(L.Concatenate()(parts), 8), 8))


def pixels(x):
    """ESPCN: pixels out of channels, by reshapes around a transposition."""
    x = L.Conv2D(12, 1)(separable(x, 8))
    _, height, width, _ = x.shape
    y = keras.ops.transpose(keras.ops.reshape(x, (-1, height, width, 2, 2, 3)), (0, 1, 3, 2, 4, 5))
    return separable(keras.ops.reshape(y, (-1, 2 * height, 2 * width, 3)), 4)


NETWORKS = {make.__name__: make for make in (unet, shuffle, ghost, mix, focus, pixels)}


def main(folder: Path) -> None:
    for name in NETWORKS:
        given = np.load(folder / f"{name}.npz")
        model = tf_dwsconv.convert(keras.models.load_model(folder / f"{name}.keras"))
        assert any(isinstance(layer, tf_dwsconv.FusedNetwork) for layer in model.layers)
        found = model.predict(given["x"], verbose=0)
        np.testing.assert_allclose(found, given["y"], rtol=0, atol=1e-5 * np.abs(given["y"]).max())
        print("right", name, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
