"""Shapes of one call: checked as far as they are known, in Python's unbounded integers.

The op's own kernel and shape function hold the same rules; these are for what never reaches it: stock ops (which end
the process on some wrong shapes) and Keras' symbolic tensors. None stands for an unknown dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Optional

from tf_dwsconv._arguments import Attributes

Dim = Optional[int]
Shape = Optional[Sequence[Dim]]  # None: of unknown rank

MAX_ELEMENTS = 2**62  # as many as a tensor may have, with room for its size in bytes


class Operands(NamedTuple):
    """The shapes of a call's tensors; `absent` marks an optional one that was not given."""

    input: Shape
    depthwise_filter: Shape
    pointwise_filter: Shape
    depthwise_bias: Shape | str
    bias: Shape | str
    residual: Shape | str


absent = "absent"


def output_size(
    axis: str,
    size: int,
    kernel: int,
    stride: int,
    dilation: int,
    padding: str,
    before: int,
    after: int,
    name: str = "depthwise_filter",
) -> int:
    """Outputs along one axis.

    Raises:
        ValueError: the window is larger than the padded input.
    """
    if padding == "SAME":
        return -(-size // stride)
    window = (kernel - 1) * dilation + 1
    padded = size + before + after
    if window > padded:
        raise ValueError(f"{window_message(axis, padding, name)} It spans {window} pixels of {padded}.")
    return (padded - window) // stride + 1


def window_message(axis: str, padding: str, name: str = "depthwise_filter") -> str:
    """What is wrong where a window does not fit."""
    return f"`{name}` with `dilations` is larger than the padded `x` along the {axis}; `padding` is {padding}."


def _rank4(shape: Shape, name: str, axes: str) -> list[Dim]:
    if shape is None:
        return [None] * 4
    if len(shape) != 4:
        raise ValueError(f"`{name}` must have rank 4, {axes}; given shape {tuple(shape)}.")
    return list(shape)


def _agree(a: Dim, b: Dim) -> bool:
    return a is None or b is None or a == b


def _vector(shape: Shape, name: str, size: Dim, meaning: str) -> None:
    if shape is not None and (len(shape) != 1 or not _agree(shape[0], size)):
        raise ValueError(f"`{name}` must have shape [{meaning}] = [{size}]; given {tuple(shape)}.")


def spatial_sizes(
    x: Sequence[Dim], kernel: Sequence[Dim], attributes: Attributes, name: str = "depthwise_filter"
) -> list[Dim]:
    """Output height and width, from the input's four sizes and the filter's, whose name is for messages."""
    spatial: list[Dim] = []
    for i, (axis, word) in enumerate(zip(attributes.spatial_axes, ("height", "width"))):
        before, after = attributes.pads(axis) if attributes.padding == "EXPLICIT" else (0, 0)
        if x[axis] is None or (kernel[i] is None and attributes.padding != "SAME"):
            spatial.append(None)
            continue
        spatial.append(
            output_size(
                word,
                x[axis],
                kernel[i] or 1,
                attributes.strides[i],
                attributes.dilations[i],
                attributes.padding,
                before,
                after,
                name,
            )
        )
    return spatial


def check(operands: Operands, attributes: Attributes) -> list[Dim]:
    """Checks the shapes of a call against each other.

    Returns:
        The shape of the output in the layout of `attributes`.

    Raises:
        ValueError: naming the argument, what was given and what is allowed.
    """
    nhwc = attributes.data_format == "NHWC"
    x = _rank4(operands.input, "x", "[N, H, W, C]" if nhwc else "[N, C, H, W]")
    kernel = _rank4(operands.depthwise_filter, "depthwise_filter", "[R, S, C, M]")
    pointwise = _rank4(operands.pointwise_filter, "pointwise_filter", "[1, 1, C*M, K]")
    for name, shape in (("depthwise_filter", kernel), ("pointwise_filter", pointwise)):
        if any(dim == 0 for dim in shape):
            raise ValueError(f"`{name}` must have no axis of size 0; given shape {tuple(shape)}.")
    channels = x[attributes.channel_axis]
    if not _agree(channels, kernel[2]):
        raise ValueError(
            f"`depthwise_filter` must have as many input channels as `x`, {channels}; given shape {tuple(kernel)}."
        )
    if not _agree(pointwise[0], 1) or not _agree(pointwise[1], 1):
        raise ValueError(f"`pointwise_filter` must have shape [1, 1, C*M, K]; given {tuple(pointwise)}.")
    middle = None
    if kernel[3] is not None and (kernel[2] is not None or channels is not None):
        middle = kernel[3] * (kernel[2] if kernel[2] is not None else channels)
    if not _agree(pointwise[2], middle):
        raise ValueError(
            f"`pointwise_filter` must have shape [1, 1, C*M, K] with C*M = {middle}; given {tuple(pointwise)}."
        )
    if operands.depthwise_bias is not absent:
        _vector(operands.depthwise_bias, "depthwise_bias", middle if middle is not None else pointwise[2], "C*M")
    if operands.bias is not absent:
        _vector(operands.bias, "bias", pointwise[3], "K")

    spatial = spatial_sizes(x, kernel, attributes)
    output = [x[0], *spatial, pointwise[3]] if nhwc else [x[0], pointwise[3], *spatial]
    elements = 1
    for dim in output:
        elements *= 1 if dim is None else dim
    if elements > MAX_ELEMENTS:
        raise ValueError(f"the output would have shape {tuple(output)}, more than {MAX_ELEMENTS} elements.")
    if operands.residual is not absent and operands.residual is not None:
        residual = list(operands.residual)
        if len(residual) != 4 or not all(_agree(a, b) for a, b in zip(residual, output)):
            raise ValueError(f"`residual` must have the shape of the output, {tuple(output)}; given {tuple(residual)}.")
    return output
