"""Turns what a user passes as strides, padding and so on into one checked, hashable value."""

from __future__ import annotations

import operator
from typing import Any, NamedTuple

from tf_dwsconv.activations import NONE, Fused

# A larger step or pad than this never means anything on a real tensor, and int32 arithmetic downstream stays safe.
LIMIT = 2**31 - 1


class Attributes(NamedTuple):
    """The attributes of one call, as the op takes them."""

    strides: tuple[int, int] = (1, 1)  # height, width
    dilations: tuple[int, int] = (1, 1)
    padding: str = "SAME"  # "SAME", "VALID" or "EXPLICIT"
    explicit_paddings: tuple[int, ...] = ()  # EXPLICIT: 8 numbers, (before, after) of each axis in data_format's order
    data_format: str = "NHWC"  # or "NCHW"
    depthwise_activation: Fused = NONE
    activation: Fused = NONE

    @property
    def spatial_axes(self) -> tuple[int, int]:
        """The axes of height and width."""
        return (1, 2) if self.data_format == "NHWC" else (2, 3)

    @property
    def channel_axis(self) -> int:
        return 3 if self.data_format == "NHWC" else 1

    def pads(self, axis: int) -> tuple[int, int]:
        """(before, after) of a spatial axis under EXPLICIT padding."""
        return self.explicit_paddings[2 * axis], self.explicit_paddings[2 * axis + 1]


def normalise(
    strides: Any,
    padding: Any,
    dilations: Any,
    data_format: Any,
    depthwise_activation: Fused,
    activation: Fused,
) -> Attributes:
    """Checks the attributes of a call.

    Raises:
        TypeError, ValueError: an attribute of a wrong type or value, by name.
    """
    if data_format != "NHWC" and data_format != "NCHW":
        raise ValueError(f"`data_format` must be 'NHWC' or 'NCHW'; given {data_format!r}.")
    word, explicit = _padding(padding, data_format)
    return Attributes(
        _pair(strides, "strides"),
        _pair(dilations, "dilations"),
        word,
        explicit,
        data_format,
        depthwise_activation,
        activation,
    )


def _integer(value: Any, argument: str) -> int:
    """An int from an int or a NumPy integer; not from a bool, a float or a string."""
    if type(value) is int:
        return value
    if not isinstance(value, (bool, str)) and type(value).__name__ not in ("bool_", "bool"):
        try:
            return operator.index(value)
        except TypeError:
            pass
    raise TypeError(f"`{argument}` must hold integers; given {value!r} of type {type(value).__name__}.")


def _positive(value: Any, argument: str) -> int:
    number = _integer(value, argument)
    if not 1 <= number <= LIMIT:
        raise ValueError(f"`{argument}` must be between 1 and {LIMIT}; given {number}.")
    return number


def _pair(value: Any, argument: str) -> tuple[int, int]:
    if type(value) is int and 1 <= value <= LIMIT:
        return (value, value)
    if isinstance(value, (tuple, list)) or (hasattr(value, "__len__") and hasattr(value, "tolist")):
        items = list(value)
        if len(items) != 2:
            raise ValueError(f"`{argument}` must be an integer or a pair (height, width); given {value!r}.")
        return _positive(items[0], argument), _positive(items[1], argument)
    number = _positive(value, argument)
    return (number, number)


def _padding(padding: Any, data_format: str) -> tuple[str, tuple[int, ...]]:
    if isinstance(padding, str):
        word = padding.upper()
        if word in ("SAME", "VALID"):
            return word, ()
        raise ValueError(f"`padding` must be 'SAME', 'VALID' or {_EXPLICIT}; given {padding!r}.")
    if not isinstance(padding, (list, tuple)) and not (hasattr(padding, "__len__") and hasattr(padding, "tolist")):
        raise TypeError(f"`padding` must be 'SAME', 'VALID' or {_EXPLICIT}; given {padding!r}.")
    rows = padding.tolist() if hasattr(padding, "tolist") else padding
    if len(rows) != 4 or any(not isinstance(row, (list, tuple)) or len(row) != 2 for row in rows):
        raise ValueError(f"`padding` must be 'SAME', 'VALID' or {_EXPLICIT}; given {padding!r}.")
    numbers = tuple(_integer(number, "padding") for row in rows for number in row)
    for number in numbers:
        if not 0 <= number <= LIMIT:
            raise ValueError(f"`padding` must hold numbers between 0 and {LIMIT}; given {padding!r}.")
    channel = 3 if data_format == "NHWC" else 1
    if any(numbers[:2]) or any(numbers[2 * channel : 2 * channel + 2]):
        raise ValueError(f"`padding` must be [0, 0] on the batch and channel axes of {data_format}; given {padding!r}.")
    return "EXPLICIT", numbers


_EXPLICIT = "four pairs [before, after], one for each axis in the order of `data_format`"


def layer_padding(padding: Any) -> Any:
    """The `padding` of a Keras layer, checked: "same", "valid", or two pairs ((top, bottom), (left, right)).

    Raises:
        ValueError, TypeError: it is none of these.
    """
    allowed = "'same', 'valid' or two pairs ((top, bottom), (left, right))"
    if isinstance(padding, str):
        if padding.lower() not in ("same", "valid"):
            raise ValueError(f"`padding` must be {allowed}; given {padding!r}.")
        return padding.lower()
    rows = padding.tolist() if hasattr(padding, "tolist") else padding
    pairs = isinstance(rows, (list, tuple)) and len(rows) == 2
    if not pairs or any(not isinstance(pair, (list, tuple)) or len(pair) != 2 for pair in rows):
        raise ValueError(f"`padding` must be {allowed}; given {padding!r}.")
    numbers = [[_integer(number, "padding") for number in pair] for pair in rows]
    if any(not 0 <= number <= LIMIT for pair in numbers for number in pair):
        raise ValueError(f"`padding` must hold numbers between 0 and {LIMIT}; given {padding!r}.")
    return tuple(tuple(pair) for pair in numbers)


def of_layer_padding(padding: Any, channels_last: bool) -> tuple[str, tuple[int, ...]]:
    """What `layer_padding` returned, as `Attributes.padding` and `Attributes.explicit_paddings`."""
    if isinstance(padding, str):
        return padding.upper(), ()
    pads = (*padding[0], *padding[1])
    return "EXPLICIT", (0, 0, *pads, 0, 0) if channels_last else (0, 0, 0, 0, *pads)
