"""A call of a layer or an op, as the rules that make steps of it see it."""

from __future__ import annotations

from typing import Any, NamedTuple, Optional

import keras
import numpy as np

from tf_dwsconv.activations import NONE, Fused
from tf_dwsconv.convert import _activations
from tf_dwsconv.convert.network._builder import Builder, Shape


class Call(NamedTuple):
    """One call of a layer or an op: `x` has the numbers of the tensors that it is called with."""

    node: Any
    builder: Builder
    x: list[int]

    @property
    def layer(self) -> Any:
        return self.node.operation

    @property
    def name(self) -> str:
        return self.node.operation.name

    @property
    def shape(self) -> Shape:
        """Of the result."""
        return tuple(self.node.outputs[0].shape)

    def step(
        self, op: str, reads: Any = None, result: Optional[Shape] = None, weights: Any = None, **options: Any
    ) -> int:
        """A step of the layer's name, of `x` alone where nothing else is said, with a result of the layer's shape."""
        reads = self.x[0] if reads is None else reads
        return self.builder.step(op, self.name, reads, self.shape if result is None else result, weights, **options)

    def activation(self, x: int, function: Any) -> Optional[int]:
        """The steps of an activation function, or of a `Fused`; the tensor itself where it is none."""
        shape = self.builder.shapes[x]
        fused = function if isinstance(function, Fused) else _activations.of_function(function)
        if fused is not None:
            return x if fused == NONE else self.step("activation", x, shape, activation=fused)
        if function is keras.activations.softmax:
            return self.step("softmax", x, shape)
        if function is keras.activations.hard_sigmoid:
            y = self.scale(x, 1 / 6, 0.5)
            return self.step("activation", y, shape, activation=Fused("relu", max_value=1.0))
        return None

    def scale(self, x: int, scale: Any, shift: Any) -> int:
        """The steps of `x * scale + shift` for numbers, or one of each for a channel."""
        shape = self.builder.shapes[x]
        for op, value, nothing in (("multiply", scale, 1), ("add", shift, 0)):
            if np.any(np.not_equal(value, nothing)):
                x = self.step(op, x, shape, {"y": np.asarray(value, np.float64).reshape(-1)})
        return x


def is_plain(layer: Any) -> bool:
    """Whether a layer with weights has channels last, and floats as they are."""
    layout = getattr(layer, "data_format", "channels_last")
    return layout == "channels_last" and layer.built and getattr(layer, "quantization_mode", None) is None


def pair(value: Any) -> tuple:
    return (value, value) if isinstance(value, int) else tuple(value)
