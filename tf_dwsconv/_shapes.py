"""Shapes of one call: checked as far as they are known, in Python's unbounded integers.

The ops' kernels and shape functions hold the same rules. These are for what never reaches them: stock ops (which end
the process on some wrong shapes) and Keras' symbolic tensors. None stands for an unknown dimension.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Optional, Union

from tf_dwsconv._arguments import Attributes, Tensors

Dim = Optional[int]

MAX_ELEMENTS = 2**62  # as many as a tensor may have, with room for its size in bytes


class _Unranked(list):
    """The shape of a tensor of unknown rank: it agrees with every other one."""


UNRANKED = _Unranked()

Shape = Union[Sequence[Dim], _Unranked]


def window_message(axis: str, padding: str, name: str = "depthwise_filter") -> str:
    """What is wrong where a window does not fit."""
    return f"`{name}` with `dilations` is larger than the padded `x` along the {axis}; `padding` is {padding}."


def spatial_sizes(
    x: Sequence[Dim], kernel: Sequence[Dim], attributes: Attributes, name: str = "depthwise_filter"
) -> list[Dim]:
    """Output height and width, from the input's four sizes and the filter's, whose name is for messages.

    Raises:
        ValueError: the window is larger than the padded input.
    """
    found: list[Dim] = []
    for i, (axis, word) in enumerate(zip(attributes.spatial_axes, ("height", "width"))):
        size, stride = x[axis], attributes.strides[i]
        if size is None or (kernel[i] is None and attributes.padding != "SAME"):
            found.append(None)
        elif attributes.padding == "SAME":
            found.append(-(-size // stride))
        else:
            window, padded = (kernel[i] - 1) * attributes.dilations[i] + 1, size + sum(attributes.pads(axis))
            if window > padded:
                message = window_message(word, attributes.padding, name)
                raise ValueError(f"{message} It spans {window} pixels of {padded}.")
            found.append((padded - window) // stride + 1)
    return found


def _agree(a: Dim, b: Dim) -> bool:
    return a is None or b is None or a == b


def _fits(shape: Shape, expected: Sequence[Dim]) -> bool:
    if isinstance(shape, _Unranked):
        return True
    return len(shape) == len(expected) and all(_agree(a, b) for a, b in zip(shape, expected))


def _rank4(shape: Shape, name: str, axes: str) -> list[Dim]:
    if isinstance(shape, _Unranked):
        return [None] * 4
    if len(shape) != 4:
        raise ValueError(f"`{name}` must have rank 4, {axes}; given shape {tuple(shape)}.")
    return list(shape)


def _filter(shape: Shape, name: str, axes: str) -> list[Dim]:
    sizes = _rank4(shape, name, axes)
    if 0 in sizes:
        raise ValueError(f"`{name}` must have no axis of size 0; given shape {tuple(sizes)}.")
    return sizes


def _vector(shape: Optional[Shape], name: str, size: Dim, meaning: str) -> None:
    if shape is not None and not _fits(shape, [size]):
        raise ValueError(f"`{name}` must have shape [{meaning}] = [{size}]; given {tuple(shape)}.")


def check(x: Shape, shapes: Tensors, attributes: Attributes) -> list[Dim]:
    """Checks that the stages of a call go together, and its shapes against each other.

    Args:
        x: the input's shape; `UNRANKED` where even its rank is unknown.
        shapes: the other tensors' shapes, likewise.
        attributes: of the call.

    Returns:
        The shape of the output in the layout of `attributes`.

    Raises:
        ValueError: naming the argument, what was given and what is allowed.
    """
    _check_stages(shapes, attributes)
    sizes = _rank4(x, "x", "[N, H, W, C]" if attributes.data_format == "NHWC" else "[N, C, H, W]")
    axis = attributes.channel_axis
    if shapes.expand_filter is not None:
        sizes[axis] = _one_by_one(shapes.expand_filter, "expand_filter", ("C", "E"), sizes[axis])
        _vector(shapes.expand_bias, "expand_bias", sizes[axis], "E")
        _vector(shapes.expand_slopes, "expand_slopes", sizes[axis], "E")
    if shapes.depthwise_filter is not None:
        sizes = _depthwise(shapes, sizes, attributes)
    if shapes.gate is not None:
        _check_gate(shapes.gate, sizes, attributes)
    if shapes.is_dense:
        sizes = _dense(shapes, sizes, attributes)
    elif shapes.pointwise_filter is not None:
        sizes[axis] = _one_by_one(shapes.pointwise_filter, "pointwise_filter", ("C*M", "K"), sizes[axis])
    if shapes.pointwise_filter is not None:
        _vector(shapes.bias, "bias", sizes[axis], "K")
    _vector(shapes.slopes, "slopes", sizes[axis], "K")
    if math.prod(1 if size is None else size for size in sizes) > MAX_ELEMENTS:
        raise ValueError(f"the output would have shape {tuple(sizes)}, more than {MAX_ELEMENTS} elements.")
    if shapes.residual is not None and not _fits(shapes.residual, sizes):
        given = tuple(shapes.residual)
        raise ValueError(f"`residual` must have the shape of the output, {tuple(sizes)}; given {given}.")
    return sizes


def _check_stages(shapes: Tensors, attributes: Attributes) -> None:
    stages = {"expand_": "expand_filter", "depthwise_": "depthwise_filter", "": "pointwise_filter"}
    if all(getattr(shapes, name) is None for name in stages.values()):
        raise ValueError("one of `expand_filter`, `depthwise_filter` and `pointwise_filter` must be given.")
    for prefix, name in stages.items():
        word = getattr(attributes, f"{prefix}activation").word
        given = {f"{prefix}bias": getattr(shapes, f"{prefix}bias") is not None, f"{prefix}activation": word != "none"}
        for argument, is_given in given.items():
            if is_given and getattr(shapes, name) is None:
                raise ValueError(f"`{argument}` must not be given without `{name}`.")
        if (word == "prelu") != (getattr(shapes, f"{prefix}slopes") is not None):
            raise ValueError(
                f"`{prefix}slopes` must be given where `{prefix}activation` is 'prelu', and nowhere else; "
                f"`{prefix}activation` is {word!r}."
            )


def _one_by_one(shape: Shape, name: str, letters: tuple[str, str], channels: Dim) -> Dim:
    """Checks a dense 1x1 convolution and returns its output channels."""
    axes = f"[1, 1, {letters[0]}, {letters[1]}]"
    sizes = _filter(shape, name, axes)
    if not _fits(sizes, (1, 1, channels, None)):
        raise ValueError(f"`{name}` must have shape {axes} with {letters[0]} = {channels}; given {tuple(sizes)}.")
    return sizes[3]


def _depthwise(shapes: Tensors, sizes: list[Dim], attributes: Attributes) -> list[Dim]:
    """Checks a depthwise convolution and returns its output's shape."""
    kernel = _filter(shapes.depthwise_filter, "depthwise_filter", "[R, S, C, M]")
    channels = sizes[attributes.channel_axis]
    if not _agree(channels, kernel[2]):
        raise ValueError(
            f"`depthwise_filter` must have as many input channels as `x`, {channels}; given shape {tuple(kernel)}."
        )
    channels = kernel[2] if channels is None else channels
    outputs = None if channels is None or kernel[3] is None else channels * kernel[3]
    _vector(shapes.depthwise_bias, "depthwise_bias", outputs, "C*M")
    _vector(shapes.depthwise_slopes, "depthwise_slopes", outputs, "C*M")
    return _output(sizes, kernel, outputs, attributes, "depthwise_filter")


def _output(sizes: list[Dim], kernel: list[Dim], channels: Dim, attributes: Attributes, name: str) -> list[Dim]:
    output = [sizes[0], *spatial_sizes(sizes, kernel, attributes, name)]
    output.insert(attributes.channel_axis, channels)
    return output


def _dense(shapes: Tensors, sizes: list[Dim], attributes: Attributes) -> list[Dim]:
    """Checks a dense convolution without another one before it, and returns its output's shape."""
    kernel = _filter(shapes.pointwise_filter, "pointwise_filter", "[R, S, C, K]")
    channels = sizes[attributes.channel_axis]
    if not _agree(kernel[2], channels):
        raise ValueError(f"`pointwise_filter` must have shape [R, S, C, K] with C = {channels}; given {tuple(kernel)}.")
    is_plain = all(_agree(size, 1) for size in kernel[:2]) and attributes.strides == (1, 1)
    if not is_plain or attributes.padding == "EXPLICIT":
        for name, given in (("scale", shapes.gate is not None), ("epsilon", attributes.epsilon is not None)):
            if given:
                raise ValueError(
                    f"`{name}` must not be given with a dense convolution: `pointwise_filter` (shape {tuple(kernel)}) "
                    "must be 1 x 1, `strides` 1 and `padding` not explicit."
                )
    return _output(sizes, kernel, kernel[3], attributes, "pointwise_filter")


def _check_gate(shape: Shape, sizes: list[Dim], attributes: Attributes) -> None:
    batch, channels = sizes[0], sizes[attributes.channel_axis]
    full = [batch, 1, 1]
    full.insert(attributes.channel_axis, channels)
    if not _fits(shape, full) and not _fits(shape, [batch, channels]):
        raise ValueError(
            f"`scale` must have shape {tuple(full)} or {(batch, channels)} (it is the `gate` of a layer); given "
            f"{tuple(shape)}."
        )
