"""What takes parts of a tensor or turns its axes, as steps of a program: layers and ops of keras.ops."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from typing import Any, Optional

import numpy as np

from tf_dwsconv._program_shapes import MOST_AXES
from tf_dwsconv.convert.network._call import Call

# Rows, and columns, that a window with one tap takes away: as many of its taps multiply with zero.
_MOST_BY_WINDOW = 3


def cropping(call: Call) -> Optional[int]:
    """Few rows and columns less: a depthwise window with one tap, of 1, where the pixel is that stays.

    Poolings and convolutions around it take such a window in. The other taps are 0, so a picture with NaN or infinity
    has NaN where stock layers have what is beside it.
    """
    layer, channels = call.layer, call.shape[-1]
    if layer.data_format != "channels_last":
        return None
    rows, columns = (tuple(int(n) for n in sides) for sides in layer.cropping)
    if channels is None or max(sum(rows), sum(columns)) > _MOST_BY_WINDOW:
        return _crop(call, ((0, 0), rows, columns, (0, 0)))
    kernel = np.zeros([sum(rows) + 1, sum(columns) + 1, channels, 1])
    kernel[rows[0], columns[0]] = 1
    return call.step("chain", weights={"depthwise_filter": kernel}, padding="valid")


def _crop(call: Call, pairs: Sequence[tuple[int, int]]) -> int:
    """The step that cuts some of each axis off; the tensor itself where that is nothing."""
    shape = call.builder.shapes[call.x[0]]
    if not any(map(any, pairs)):
        return call.x[0]
    rest = tuple(size if size is None else size - sum(sides) for size, sides in zip(shape, pairs))
    return call.step("crop", result=rest, croppings=tuple(pairs))


def split(call: Call) -> Optional[tuple[int, ...]]:
    """Parts along any axis but the batch: a crop for each."""
    given, node = call.layer, call.node
    shape = call.builder.shapes[call.x[0]]
    axis = given.axis % len(shape)
    size, at = shape[axis], given.indices_or_sections
    if len(node.arguments.args) != 1 or len(call.x) != 1 or axis == 0 or size is None:
        return None
    if isinstance(at, int):
        at = [size // at * i for i in range(1, at)] if at > 0 and size % at == 0 else None
    if at is None or not all(isinstance(n, numbers.Integral) for n in at):
        return None
    ends = [0, *map(int, at), size]
    if len(ends) != len(node.outputs) + 1 or any(a >= b for a, b in zip(ends, ends[1:])):
        return None
    nothing = [(0, 0)] * len(shape)
    return tuple(_crop(call, (*nothing[:axis], (a, size - b), *nothing[axis + 1 :])) for a, b in zip(ends, ends[1:]))


def get_item(call: Call) -> Optional[int]:
    """`x[...]` with slices alone: a crop, and where only every few rows or columns are taken a pooling of one pixel.

    Of a size that nobody knows yet, what is cut off has to be there: other than Keras, a program refuses smaller ones.
    """
    args, shape = call.node.arguments.args, call.builder.shapes[call.x[0]]
    if len(args) != 2 or len(call.x) != 1:
        return None
    key = tuple(args[1]) if isinstance(args[1], (tuple, list)) else (args[1],)
    rest = [place for place, part in enumerate(key) if part is Ellipsis] or [len(key)]
    before, after = key[: rest[0]], key[rest[0] + 1 :]
    free = len(shape) - len(before) - len(after)
    if len(rest) > 1 or free < 0 or not all(isinstance(part, slice) for part in (*before, *after)):
        return None
    found = [_bounds(part, size) for part, size in zip((*before, *[slice(None)] * free, *after), shape)]
    if any(bounds is None for bounds in found) or found[0] != (0, 0, 1):
        return None
    pairs, steps = [bounds[:2] for bounds in found], [bounds[2] for bounds in found]
    if math.prod(steps) > 1 and (len(shape) != 4 or steps[3] > 1):
        return None
    y = _crop(call, pairs)
    return y if math.prod(steps) == 1 else call.step("max_pool", y, window=(1, 1), strides=tuple(steps[1:3]))


def _bounds(part: slice, size: Optional[int]) -> Optional[tuple[int, int, int]]:
    """How many elements of an axis a slice leaves out in front and behind, and its step; None for what is no crop."""
    given = (part.start, part.stop, part.step)
    if not all(n is None or isinstance(n, numbers.Integral) for n in given):
        return None
    if size is not None:
        start, stop, step = part.indices(size)
        return (start, size - stop, step) if start < stop and step > 0 else None
    start, stop, step = int(part.start or 0), part.stop, 1 if part.step is None else int(part.step)
    if start < 0 or step < 1 or (stop is not None and stop >= 0):
        return None
    return start, -int(stop or 0), step


def permute(call: Call) -> Optional[int]:
    return _transpose(call, (0, *call.layer.dims))


def transpose(call: Call) -> Optional[int]:
    """`keras.ops.transpose`, which reverses all axes where it is given none."""
    axes, rank = call.layer.axes, len(call.shape)
    return _transpose(call, range(rank)[::-1] if axes is None else [axis % rank for axis in axes])


def swap_axes(call: Call) -> Optional[int]:
    return _transpose(call, _places(len(call.shape)).swapaxes(call.layer.axis1, call.layer.axis2).shape)


def move_axis(call: Call) -> Optional[int]:
    given = call.layer
    return _transpose(call, np.moveaxis(_places(len(call.shape)), given.source, given.destination).shape)


def _places(rank: int) -> np.ndarray:
    """An array without elements whose sizes are the numbers of its axes."""
    return np.zeros(range(rank))


def _transpose(call: Call, axes: Sequence[int]) -> Optional[int]:
    axes = tuple(int(axis) for axis in axes)
    if axes[0] != 0 or len(axes) > MOST_AXES:
        return None
    return call.x[0] if axes == tuple(range(len(axes))) else call.step("transpose", axes=axes)


def depth_to_space(call: Call) -> Optional[int]:
    """`keras.ops.nn.depth_to_space`, of Keras versions that have it."""
    given: Any = call.layer
    is_last = getattr(given, "data_format", None) == "channels_last"
    return call.step("depth_to_space", block=(given.block_size,) * 2) if is_last and len(call.shape) == 4 else None
