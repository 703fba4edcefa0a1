"""PReLU, however it is written out: functions of one channel that are `positive * x` above zero, `negative * x` below.

Sums, maxima and ReLUs of such functions are such functions, so a pair of numbers for each channel tells what a graph of
them computes: `relu(x) - slopes * relu(-x)`, say, or `max(x, 0) + slopes * min(x, 0)`.
"""

from __future__ import annotations

import numbers
from typing import Any, NamedTuple, Optional

import keras
import numpy as np

from tf_dwsconv._keras_graph import only_input
from tf_dwsconv.convert._affine import Affine


class Halves(NamedTuple):
    """The slopes of a function above and below zero: numbers, or arrays of one number a channel."""

    positive: Any
    negative: Any


X = Halves(1.0, 1.0)


def _leaky(a: Halves, slope: float) -> Halves:
    """Where `a * x` is positive it stays: above zero where the slope is, below where it is not."""
    positive, negative = np.asarray(a.positive), np.asarray(a.negative)
    return Halves(
        np.where(positive > 0, positive, positive * slope), np.where(negative < 0, negative, negative * slope)
    )


def _maximum(a: Halves, b: Halves) -> Halves:
    return Halves(np.maximum(a.positive, b.positive), np.minimum(a.negative, b.negative))


def _minimum(a: Halves, b: Halves) -> Halves:
    return Halves(np.minimum(a.positive, b.positive), np.maximum(a.negative, b.negative))


_BINARY = {
    "Add": lambda a, b: Halves(a.positive + b.positive, a.negative + b.negative),
    "Subtract": lambda a, b: Halves(a.positive - b.positive, a.negative - b.negative),
    "Maximum": _maximum,
    "Minimum": _minimum,
}
_ZERO = Halves(0.0, 0.0)


def value(node: Any, values: dict, layout: str) -> Optional[Halves]:
    """What a call computes, from what its inputs are; None where that is no such function.

    Args:
        node: the call.
        values: of tensors, by their id.
        layout: of the channels.
    """
    operation = node.operation
    if isinstance(operation, Affine):
        a, change = values.get(id(only_input(node))), operation.change(len(node.outputs[0].shape), layout)
        return None if a is None or change is None or np.any(change[1]) else _scaled(a, change[0])
    word = type(operation).__name__
    if not type(operation).__module__.startswith("keras.src.") or node.arguments.kwargs or len(node.outputs) != 1:
        return None
    arguments = node.arguments.args
    if len(arguments) == 1 and isinstance(arguments[0], (list, tuple)):
        arguments = arguments[0]  # of a layer that merges
    known = [values.get(id(a)) if isinstance(a, keras.KerasTensor) else a for a in arguments]
    if any(a is None for a in known) or not any(isinstance(a, Halves) for a in known):
        return None
    if word in ("Multiply", "Divide", "TrueDivide") and len(known) == 2:
        factor = next((a for a in known if _is_number(a)), None)
        a = next(a for a in known if isinstance(a, Halves))
        if factor is None or ("Divide" in word and (known[0] is factor or factor == 0)):
            return None
        return _scaled(a, 1 / factor if "Divide" in word else factor)
    if word in _BINARY and len(known) == 2:
        pair = [_ZERO if _is_number(a) and a == 0 else a for a in known]
        return _BINARY[word](*pair) if all(isinstance(a, Halves) for a in pair) else None
    if len(known) != 1:
        return None
    if word in ("Relu", "ReLU"):
        is_plain = word == "Relu" or (operation.max_value is None and not operation.threshold)
        return _leaky(known[0], float(getattr(operation, "negative_slope", 0.0))) if is_plain else None
    if word in ("LeakyRelu", "LeakyReLU"):
        return _leaky(known[0], float(operation.negative_slope))
    if word == "Negative":
        return _scaled(known[0], -1.0)
    if word in ("Absolute", "Abs"):
        return Halves(np.abs(known[0].positive), -np.abs(known[0].negative))
    return None


def _scaled(a: Halves, factor: Any) -> Halves:
    return Halves(a.positive * factor, a.negative * factor)


def _is_number(a: Any) -> bool:
    return isinstance(a, numbers.Real) and not isinstance(a, bool)


def slopes(a: Halves, channels: Optional[int]) -> Optional[np.ndarray]:
    """PReLU's slopes, one a channel, where a function is one."""
    if channels is None or not np.allclose(a.positive, 1.0, rtol=2e-6, atol=0.0):
        return None
    negative = np.asarray(a.negative, np.float64)
    return np.broadcast_to(negative, [channels]) if negative.shape in ((), (1,), (channels,)) else None
