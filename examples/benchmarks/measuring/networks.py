"""Networks to time: those of keras.applications, and one of ConvNeXt's blocks; random weights, sane statistics."""

from __future__ import annotations

from typing import Any

import numpy as np

OWN = ("ConvNeXtBlocks",)


def known() -> list[str]:
    """The names that `build` takes."""
    import keras

    return [*OWN, *(name for name in dir(keras.applications) if name[0].isupper())]


def build(name: str, size: int, seed: int) -> Any:
    """A network without its last softmax, whose batch norms hold statistics of what they are given.

    Args:
        name: of `known`.
        size: rows and columns of the pictures, pixels.
        seed: of the weights, and of the pictures for the statistics.

    Raises:
        ValueError: an unknown name, or a size that the network cannot take.
    """
    import keras

    if name not in known():
        raise ValueError(f"it must be one of {', '.join(known())}")
    keras.utils.set_random_seed(seed)
    if name == "ConvNeXtBlocks":
        model = convnext_blocks(size)
    else:
        maker = getattr(keras.applications, name)
        model = maker(weights=None, input_shape=(size, size, 3), classifier_activation=None)
    settle(model, size, seed)
    return model


def settle(model: Any, size: int, seed: int) -> None:
    """Gives every batch norm the statistics of what reaches it, so that numbers neither vanish nor overflow."""
    import keras

    layers = model._flatten_layers()  # those of inner models too, for which Keras has no public name
    norms = [layer for layer in layers if isinstance(layer, keras.layers.BatchNormalization)]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    x = np.random.default_rng(seed).standard_normal((4, size, size, 3), np.float32)
    for norm in norms:
        norm.momentum = 0.3
    for _ in range(4):
        model(x, training=True)
    for norm, momentum in zip(norms, momenta):
        norm.momentum = momentum


def convnext_blocks(size: int) -> Any:
    """One block of each of ConvNeXt-T's stages, with its stem and its downsampling; without layer scale.

    A block is 7x7 depthwise, layer norm, a dense layer to four times the channels, GELU, a dense layer back, and the
    block's input added. Source: Liu et al., "A ConvNet for the 2020s" (CVPR 2022).
    """
    import keras
    from keras import layers

    def norm(x: Any) -> Any:
        return layers.LayerNormalization(epsilon=1e-6)(x)

    inputs = keras.Input((size, size, 3))
    x = inputs
    for stage, channels in enumerate((96, 192, 384, 768)):
        if stage == 0:
            x = norm(layers.Conv2D(channels, 4, strides=4)(x))
        else:
            x = layers.Conv2D(channels, 2, strides=2)(norm(x))
        y = norm(layers.DepthwiseConv2D(7, padding="same")(x))
        y = layers.Dense(4 * channels, activation="gelu")(y)
        x = layers.Add()([x, layers.Dense(channels)(y)])
    outputs = layers.Dense(1000)(norm(layers.GlobalAveragePooling2D()(x)))
    return keras.Model(inputs, outputs, name="convnext_blocks")
