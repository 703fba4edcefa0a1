"""What takes parts of tensors, turns their axes, or makes pixels of channels, as the ops that programs know it as."""

from __future__ import annotations

from typing import Any, Callable, Optional

import keras
import numpy as np

from tf_dwsconv.convert.graphs._nodes import attribute
from tf_dwsconv.convert.graphs._view import done, layout_of, named

K = keras.ops


def _transpose(reader: Any, node: Any) -> Optional[str]:
    axes = reader.nodes.value(node.input[1])
    if axes is None or axes.size == 0 or int(axes.reshape(-1)[0]) != 0:
        return "it moves the batch, or its axes are no constants"
    done(reader, node, named(node, K.transpose(reader.tensor(node.input[0]), [int(axis) for axis in axes])))
    return None


def _slice(reader: Any, node: Any) -> Optional[str]:
    begin, size = (reader.nodes.value(ref) for ref in node.input[1:3])
    if begin is None or size is None or begin[0] != 0 or size[0] != -1:
        return "it takes some of the pictures, or its bounds are no constants"
    key = [slice(int(a), None if n == -1 else int(a + n)) for a, n in zip(begin, size)]
    done(reader, node, named(node, reader.tensor(node.input[0])[tuple(key)]))
    return None


def _strided_slice(reader: Any, node: Any) -> Optional[str]:
    """With slices alone, as `x[:, 1:, ..., ::2]` has them."""
    bounds = [reader.nodes.value(ref) for ref in node.input[1:4]]
    masks = {word: int(attribute(node, f"{word}_mask").i) for word in ("begin", "end", "ellipsis")}
    if any(value is None for value in bounds) or any(
        attribute(node, f"{word}_axis_mask").i for word in ("new", "shrink")
    ):
        return "it takes or makes single axes, or its bounds are no constants"
    key: list[Any] = []
    for place, part in enumerate(zip(*bounds)):
        free = [masks["begin"] >> place & 1, masks["end"] >> place & 1, 0]
        numbers = (None if is_free else int(number) for is_free, number in zip(free, part))
        key.append(Ellipsis if masks["ellipsis"] >> place & 1 else slice(*numbers))
    if key[0] not in (Ellipsis, slice(None, None, 1)):
        return "it takes some of the pictures"
    done(reader, node, named(node, reader.tensor(node.input[0])[tuple(key)]))
    return None


def _split(reader: Any, node: Any) -> Optional[str]:
    is_even = node.op == "Split"
    axis = reader.nodes.value(node.input[0 if is_even else 2])
    sizes = attribute(node, "num_split").i if is_even else reader.nodes.value(node.input[1])
    x = reader.tensor(node.input[1 if is_even else 0])
    if axis is None or sizes is None or int(axis.reshape(())) % len(x.shape) == 0:
        return "it takes some of the pictures, or its sizes are no constants"
    if not is_even and -1 in sizes:
        whole = x.shape[int(axis.reshape(()))]
        if whole is None:
            return "one of its sizes is what the others leave of an axis of unknown size"
        sizes = np.where(sizes == -1, whole - sizes.sum() - 1, sizes)
    at = int(sizes) if is_even else [int(sizes[: i + 1].sum()) for i in range(len(sizes) - 1)]
    for number, part in enumerate(K.split(x, at, axis=int(axis.reshape(())))):
        reader.put(f"{node.name}:{number}", named(node, part))
    reader.read.add(node.name)
    return None


def _depth_to_space(reader: Any, node: Any) -> Optional[str]:
    if layout_of(node) != "channels_last" or not hasattr(K.nn, "depth_to_space"):
        return "this Keras has no such op"
    y = K.nn.depth_to_space(reader.tensor(node.input[0]), int(attribute(node, "block_size").i))
    done(reader, node, named(node, y))
    return None


TURNS: dict[str, Callable] = {
    "Transpose": _transpose,
    "Slice": _slice,
    "StridedSlice": _strided_slice,
    "Split": _split,
    "SplitV": _split,
    "DepthToSpace": _depth_to_space,
}
