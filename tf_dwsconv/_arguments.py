"""One description of a call: its attributes and its tensors, of a layer as of a whole block.

    y = activation( pointwise( gate * norm( Z ) ) + bias + residual )
    Z = depthwise_activation( depthwise( expand_activation( expand(x) + expand_bias ) ) + depthwise_bias )

A depthwise-separable layer has the depthwise and the pointwise convolution. A block may have any of the stages, but one
convolution is there. What a user passes as strides, padding and so on is checked here, and made hashable.
"""

from __future__ import annotations

import operator
from typing import Any, NamedTuple, Optional

from tf_dwsconv.activations import NONE, Fused, require

# A larger step or pad than this never means anything on a real tensor, and int32 arithmetic downstream stays safe.
LIMIT = 2**31 - 1


class Attributes(NamedTuple):
    """The attributes of one call, as the ops take them.

    strides, dilations, padding: of the depthwise convolution, or of a dense one.
    epsilon: added to the variance before its root, where each pixel is normalised over its channels; None for no norm.
    """

    strides: tuple[int, int] = (1, 1)  # height, width
    dilations: tuple[int, int] = (1, 1)
    padding: str = "SAME"  # "SAME", "VALID" or "EXPLICIT"
    explicit_paddings: tuple[int, ...] = ()  # EXPLICIT: 8 numbers, (before, after) of each axis in data_format's order
    data_format: str = "NHWC"  # or "NCHW"
    depthwise_activation: Fused = NONE
    activation: Fused = NONE
    expand_activation: Fused = NONE
    epsilon: Optional[float] = None

    @property
    def spatial_axes(self) -> tuple[int, int]:
        """The axes of height and width."""
        return (1, 2) if self.data_format == "NHWC" else (2, 3)

    @property
    def channel_axis(self) -> int:
        return 3 if self.data_format == "NHWC" else 1

    def pads(self, axis: int) -> tuple[int, int]:
        """(before, after) of a spatial axis, as far as padding is explicit."""
        return (0, 0) if self.padding != "EXPLICIT" else self.explicit_paddings[2 * axis : 2 * axis + 2]


class Tensors(NamedTuple):
    """The tensors of a call beside its input, or their shapes; None for a stage or an addend that is not there.

    expand_filter: [1, 1, C, E], of a dense 1x1 convolution; expand_bias: [E]. Below, C is E where it is there.
    depthwise_filter: [R, S, C, M]; depthwise_bias: [C*M].
    gate: [N, C*M], or [N, 1, 1, C*M] ([N, C*M, 1, 1] with NCHW): a factor for each channel of each picture.
    pointwise_filter: [1, 1, C*M, K]; bias: [K]. With neither expansion nor depthwise convolution it may be that of any
        dense convolution, [R, S, C, K], to which strides, dilations and padding apply.
    residual: of the output's shape.
    expand_slopes: [E], depthwise_slopes: [C*M], slopes: [K]; each is there if its stage's activation is "prelu".
    """

    expand_filter: Any = None
    expand_bias: Any = None
    depthwise_filter: Any = None
    depthwise_bias: Any = None
    gate: Any = None
    pointwise_filter: Any = None
    bias: Any = None
    residual: Any = None
    expand_slopes: Any = None
    depthwise_slopes: Any = None
    slopes: Any = None

    def map(self, function: Any) -> Tensors:
        """The results of a function for those that are there."""
        return Tensors(*(None if value is None else function(value) for value in self))

    @property
    def is_dense(self) -> bool:
        """Whether the only convolution is a dense one, which may have a window."""
        return self.pointwise_filter is not None and self.depthwise_filter is None and self.expand_filter is None

    def is_separable(self, attributes: Attributes) -> bool:
        """Whether the layer's op computes the call: nothing but a depthwise and a pointwise convolution is there."""
        return (
            self.depthwise_filter is not None
            and self.pointwise_filter is not None
            and self.expand_filter is None
            and self.gate is None
            and attributes.epsilon is None
            and self.depthwise_slopes is None
            and self.slopes is None
        )


def attributes_of(
    strides: Any, padding: Any, dilations: Any, data_format: Any, depthwise_activation: Any, activation: Any
) -> Attributes:
    """The attributes of a layer's call from a user's arguments.

    Raises:
        TypeError, ValueError: an attribute of a wrong type or value, by name.
    """
    middle, last = require(depthwise_activation, "depthwise_activation"), require(activation, "activation")
    if data_format != "NHWC" and data_format != "NCHW":
        raise ValueError(f"`data_format` must be 'NHWC' or 'NCHW'; given {data_format!r}.")
    word, explicit = _padding(padding, data_format)
    steps = pair(strides, "strides"), pair(dilations, "dilations")
    return Attributes(*steps, word, explicit, data_format, middle, last)


def as_integer(value: Any) -> Optional[int]:
    """An int from an int or a NumPy integer; None from anything else, also from a bool, a float or a string."""
    if isinstance(value, (bool, str)) or type(value).__name__ in ("bool_", "bool"):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def _integer(value: Any, argument: str) -> int:
    number = as_integer(value)
    if number is None:
        raise TypeError(f"`{argument}` must hold integers; given {value!r} of type {type(value).__name__}.")
    return number


def positive(value: Any, argument: str) -> int:
    """An int of at least 1, and no larger than sizes and steps can be."""
    number = _integer(value, argument)
    if not 1 <= number <= LIMIT:
        raise ValueError(f"`{argument}` must be between 1 and {LIMIT}; given {number}.")
    return number


def pair(value: Any, argument: str) -> tuple[int, int]:
    """(height, width) from an integer or a pair."""
    if type(value) is int and 1 <= value <= LIMIT:
        return (value, value)
    if _is_sequence(value):
        items = list(value)
        if len(items) != 2:
            raise ValueError(f"`{argument}` must be an integer or a pair (height, width); given {value!r}.")
        return positive(items[0], argument), positive(items[1], argument)
    number = positive(value, argument)
    return (number, number)


def _is_sequence(value: Any) -> bool:
    """A list, a tuple, or an array with an axis."""
    return isinstance(value, (tuple, list)) or (hasattr(value, "__len__") and hasattr(value, "tolist"))


def _pairs(padding: Any, count: int, allowed: str) -> tuple[int, ...]:
    """The numbers of explicit padding, `count` pairs of them."""
    rows = padding.tolist() if hasattr(padding, "tolist") else padding
    is_list = isinstance(rows, (list, tuple)) and len(rows) == count
    if not is_list or any(not isinstance(row, (list, tuple)) or len(row) != 2 for row in rows):
        raise ValueError(f"`padding` must be {allowed}; given {padding!r}.")
    numbers = tuple(_integer(number, "padding") for row in rows for number in row)
    if any(not 0 <= number <= LIMIT for number in numbers):
        raise ValueError(f"`padding` must hold numbers between 0 and {LIMIT}; given {padding!r}.")
    return numbers


def _padding(padding: Any, data_format: str) -> tuple[str, tuple[int, ...]]:
    """`Attributes.padding` and `Attributes.explicit_paddings`."""
    allowed = "'SAME', 'VALID' or four pairs [before, after], one for each axis in the order of `data_format`"
    if isinstance(padding, str):
        word = padding.upper()
        if word in ("SAME", "VALID"):
            return word, ()
        raise ValueError(f"`padding` must be {allowed}; given {padding!r}.")
    if not _is_sequence(padding):
        raise TypeError(f"`padding` must be {allowed}; given {padding!r}.")
    numbers = _pairs(padding, 4, allowed)
    channel = 3 if data_format == "NHWC" else 1
    if any(numbers[:2]) or any(numbers[2 * channel : 2 * channel + 2]):
        raise ValueError(f"`padding` must be [0, 0] on the batch and channel axes of {data_format}; given {padding!r}.")
    return "EXPLICIT", numbers


def numpy_dtype(name: str) -> Any:
    """The NumPy dtype of a name, bfloat16 among them."""
    import numpy as np

    if name == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)


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
    numbers = _pairs(padding, 2, allowed)
    return numbers[:2], numbers[2:]


def of_layer(layer: Any, padding: Any, **others: Any) -> Attributes:
    """The attributes of a Keras layer, whose `padding` is as `layer_padding` returns it."""
    channels_last = layer.data_format == "channels_last"
    explicit: tuple = ()
    if not isinstance(padding, str):
        pads = (*padding[0], *padding[1])
        explicit = (0, 0, *pads, 0, 0) if channels_last else (0, 0, 0, 0, *pads)
    steps, word = (tuple(layer.strides), tuple(layer.dilation_rate)), "EXPLICIT" if explicit else padding.upper()
    return Attributes(*steps, word, explicit, "NHWC" if channels_last else "NCHW", **others)
