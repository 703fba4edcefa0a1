"""Swaps tf_dwsconv's layers into a Keras model where a training step stays exactly what it was.

Where batch norms are trained `tf_dwsconv.convert(model, training=True)` does that. Where they are frozen more can be
fused: the chain DepthwiseConv2D -> BatchNormalization -> activation -> 1x1 Conv2D [-> BatchNormalization ->
activation]. Its batch norms scale and shift their channels then, which filters and biases can do.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, Optional

import keras
import tensorflow as tf

import tf_dwsconv
from tf_dwsconv import activations


@dataclasses.dataclass
class Chain:
    """One chain of a model, by its layers; those that are not there are None."""

    depthwise: Any
    depthwise_norm: Any
    depthwise_activation: Any
    pointwise: Any
    norm: Any = None
    activation: Any = None

    def layers(self) -> list:
        every = (getattr(self, field.name) for field in dataclasses.fields(self))
        return [layer for layer in every if layer is not None]


class FrozenBlock(keras.layers.Layer):
    """A chain with frozen batch norms as one fused op. The filters are trained, the batch norms only read.

    Args:
        chain: the stock layers, built; their weights are copied.

    Input shape: `(batch, height, width, channels)`. Output shape: that of the chain.
    """

    def __init__(self, chain: Chain, **kwargs):
        super().__init__(**kwargs)
        self.chain = chain  # a dataclass: Keras does not look into it for layers to track
        self._settings = {
            "strides": chain.depthwise.strides,
            "dilations": chain.depthwise.dilation_rate,
            "padding": chain.depthwise.padding.upper(),
            "depthwise_activation": chain.depthwise_activation,
            "activation": chain.activation,
        }

    def build(self, input_shape):
        def copy(value, name, trainable=False):
            value = keras.ops.convert_to_numpy(value)
            return self.add_weight(
                name=name, shape=value.shape, initializer=lambda *_, **__: value, trainable=trainable
            )

        chain = self.chain
        self.depthwise_kernel = copy(chain.depthwise.kernel, "depthwise_kernel", trainable=True)
        self.pointwise_kernel = copy(chain.pointwise.kernel, "pointwise_kernel", trainable=True)
        self.depthwise_scale, self.depthwise_shift = (
            copy(value, f"depthwise_{name}") for name, value in _scale_and_shift(chain.depthwise_norm).items()
        )
        self.scale = self.shift = None
        if chain.norm is not None:
            self.scale, self.shift = (copy(value, name) for name, value in _scale_and_shift(chain.norm).items())

    def call(self, x):
        pointwise = self.pointwise_kernel if self.scale is None else self.pointwise_kernel * self.scale
        scale = tf.reshape(self.depthwise_scale, self.depthwise_kernel.shape[2:])  # by channel and multiplier
        return tf_dwsconv.depthwise_sep_conv2d(
            x,
            self.depthwise_kernel * scale,
            tf.convert_to_tensor(pointwise),
            depthwise_bias=tf.convert_to_tensor(self.depthwise_shift),
            bias=None if self.shift is None else tf.convert_to_tensor(self.shift),
            **self._settings,
        )


class _Passed(keras.layers.Layer):
    """Stands where a layer was that a `FrozenBlock` has taken over; takes whatever that one was called with."""

    def call(self, x, mask=None, training=None):
        return x


def _scale_and_shift(norm: Any) -> dict[str, Any]:
    """What a frozen batch norm does to a channel: x * scale + shift."""
    scale = 1 / keras.ops.sqrt(norm.moving_variance + norm.epsilon)
    if norm.scale:
        scale = scale * norm.gamma
    shift = -norm.moving_mean * scale
    return {"scale": scale, "shift": shift + norm.beta if norm.center else shift}


def _consumers(model: Any) -> dict[str, list[str]]:
    """For each layer of a functional model the names of those that read its output."""

    def sources(entry: Any) -> Iterator[str]:
        if isinstance(entry, dict):
            if "keras_history" in entry:
                yield entry["keras_history"][0]
            for value in entry.values():
                yield from sources(value)
        elif isinstance(entry, (list, tuple)):
            for value in entry:
                yield from sources(value)

    result: dict[str, list[str]] = {layer.name: [] for layer in model.layers}
    for entry in model.get_config()["layers"]:
        for source in sources(entry["inbound_nodes"]):
            result[source].append(entry["name"])
    return result


def find_chains(model: Any) -> list[Chain]:
    """All chains whose results between nothing else reads, and whose activations the kernel knows."""
    consumers = _consumers(model)

    def after(layer: Any, kinds: Any) -> Optional[Any]:
        """The only reader of a layer's output, if it is of the kinds."""
        names = consumers[layer.name]
        following = model.get_layer(names[0]) if len(names) == 1 else None
        return following if type(following) in kinds else None

    found = []
    for layer in model.layers:
        if type(layer) is not keras.layers.DepthwiseConv2D or layer.use_bias:
            continue
        norm = after(layer, (keras.layers.BatchNormalization,))
        activation = norm and _activation_after(norm, after)
        pointwise = norm and after(activation or norm, (keras.layers.Conv2D,))
        if pointwise is None or pointwise.kernel_size != (1, 1) or pointwise.strides != (1, 1) or pointwise.use_bias:
            continue
        if pointwise.groups != 1 or layer.data_format != "channels_last":
            continue
        chain = Chain(layer, norm, activation, pointwise, after(pointwise, (keras.layers.BatchNormalization,)))
        if chain.norm is not None:
            chain.activation = _activation_after(chain.norm, after)
        found.append(chain)
    return found


def _activation_after(layer: Any, after: Any) -> Optional[Any]:
    following = after(layer, (keras.layers.ReLU, keras.layers.Activation))
    known = following is not None and activations.parse(following, "activation") is not None
    return following if known else None


def swap(model: Any, frozen: bool) -> tuple[Any, int, list[tuple]]:
    """A copy of a functional model with tf_dwsconv's layers in every place where the training step stays the same.

    Args:
        model: of Keras, built. Batch norms are to be frozen (`trainable = False`) by the caller where `frozen` says so.
        frozen: whether chains with batch norm between the halves are swapped.

    Returns:
        `(copy, count, pairs)`: the model with the same weights; how many layers or chains were swapped; and the
        trainable variables of both models in pairs.
    """
    return _with_frozen_chains(model) if frozen else _converted(model)


def _converted(model: Any) -> tuple[Any, int, list[tuple]]:
    copy = tf_dwsconv.convert(model, training=True)
    pairs = list(zip(model.trainable_variables, copy.trainable_variables))
    if any(a.shape != b.shape for a, b in pairs):  # the joined halves of a layer have theirs in another order
        raise NotImplementedError(f"the variables of {model.name!r} and of what it was converted to are no pairs")
    return copy, sum(row.fused is not None for row in tf_dwsconv.convert.report(copy)), pairs


def _with_frozen_chains(model: Any) -> tuple[Any, int, list[tuple]]:
    chains = {chain.depthwise.name: chain for chain in find_chains(model)}
    inside = {layer.name for chain in chains.values() for layer in chain.layers()}
    separable = [layer.name for layer in model.layers if type(layer) is keras.layers.SeparableConv2D]

    def clone(layer):
        if layer.name in chains:
            return FrozenBlock(chains[layer.name], name=layer.name)
        if layer.name in inside:
            return _Passed(name=layer.name)
        kind = tf_dwsconv.DepthwiseSepConv2D if layer.name in separable else type(layer)
        return kind.from_config(layer.get_config())

    copy = keras.models.clone_model(model, clone_function=clone)
    pairs = []
    for layer in model.layers:
        if isinstance(layer, keras.layers.InputLayer):
            continue
        own = copy.get_layer(layer.name)
        if layer.name in chains:
            chain = chains[layer.name]
            pairs += [(chain.depthwise.kernel, own.depthwise_kernel), (chain.pointwise.kernel, own.pointwise_kernel)]
        elif layer.name not in inside:
            own.trainable = layer.trainable
            own.set_weights(layer.get_weights())
            if getattr(layer, "seed_generator", None) is not None:  # dropout: drops the same
                own.seed_generator.state.assign(layer.seed_generator.state)
            pairs += zip(layer.trainable_weights, own.trainable_weights)
    return copy, len(separable) + len(chains), pairs
