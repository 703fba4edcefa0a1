"""Layers of users' own classes, which the tests of following them share."""

from __future__ import annotations

import keras

import tf_dwsconv
from tf_dwsconv import FusedNetwork

L = keras.layers
ops = keras.ops


class ConvNormAct(L.Layer):
    """Has no `get_config` that Keras could use: it takes a layer."""

    def __init__(self, convolution, activation=None, **kwargs):
        super().__init__(**kwargs)
        self.convolution, self.norm, self.activation = convolution, L.BatchNormalization(), activation

    def call(self, x, training=None):
        x = self.norm(self.convolution(x), training=training)
        return x if self.activation is None else self.activation(x)

    def compute_output_shape(self, shape):
        return self.convolution.compute_output_shape(shape)


class SqueezeExcite(L.Layer):
    def __init__(self, channels, **kwargs):
        super().__init__(**kwargs)
        self.reduce, self.expand = L.Dense(4, activation="relu"), L.Dense(channels, activation="sigmoid")

    def call(self, x):
        gate = self.expand(self.reduce(ops.mean(x, axis=[1, 2], keepdims=True)))
        return x * gate


class InvertedResidual(L.Layer):
    """Layers in layers, a branch that Python decides, and a Sequential."""

    def __init__(self, filters, expansion=3, stride=1, excite=False, **kwargs):
        super().__init__(**kwargs)
        self.filters, self.expansion, self.stride, self.excite = filters, expansion, stride, excite

    def build(self, shape):
        inner = shape[-1] * self.expansion
        self.expand = ConvNormAct(L.Conv2D(inner, 1, use_bias=False), ops.relu6)
        depthwise = L.DepthwiseConv2D(3, self.stride, padding="same", use_bias=False)
        self.depthwise = keras.Sequential([depthwise, L.BatchNormalization(), L.ReLU(6.0)])
        self.gate = SqueezeExcite(inner) if self.excite else None
        self.project = ConvNormAct(L.Conv2D(self.filters, 1, use_bias=False))
        self.is_residual = self.stride == 1 and shape[-1] == self.filters
        super().build(shape)

    def call(self, x, training=False):
        y = self.depthwise(self.expand(x, training=training), training=training)
        y = y if self.gate is None else self.gate(y)
        y = self.project(y, training=training)
        return x + y if self.is_residual else y


def one_program(model):
    """The only layer of a converted model."""
    converted = tf_dwsconv.convert(model)
    layers = [layer for layer in converted.layers if not isinstance(layer, L.InputLayer)]
    assert [type(layer) for layer in layers] == [FusedNetwork]
    return converted
