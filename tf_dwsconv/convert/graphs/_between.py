"""What stands between the convolutions of networks, as the layers and ops that programs know it as.

A reader puts the result into the view, or says why there is none; see `_ops.read`.
"""

from __future__ import annotations

import math
from typing import Any, Callable, Optional

import keras
import numpy as np

from tf_dwsconv.convert.graphs._nodes import attribute
from tf_dwsconv.convert.graphs._ours import OPS, Ours
from tf_dwsconv.convert.graphs._reductions import REDUCTIONS
from tf_dwsconv.convert.graphs._turns import TURNS
from tf_dwsconv.convert.graphs._view import done, layer_name, layout_of, named, settings

L = keras.layers
K = keras.ops


def _pool(reader: Any, node: Any) -> Optional[str]:
    layout = layout_of(node)
    picture = slice(1, 3) if layout == "channels_last" else slice(2, 4)
    window, strides = (list(attribute(node, name).list.i) for name in ("ksize", "strides"))
    if attribute(node, "padding").s == b"EXPLICIT" or any(
        number != 1 for numbers in (window, strides) for number in (*numbers[: picture.start], *numbers[picture.stop :])
    ):
        return "it pools something else than windows of a picture"
    kind = L.MaxPooling2D if node.op == "MaxPool" else L.AveragePooling2D
    layer = kind(
        tuple(map(int, window[picture])), tuple(map(int, strides[picture])), data_format=layout,
        padding=attribute(node, "padding").s.decode().lower(), **settings(reader, node),
    )  # fmt: skip
    done(reader, node, layer(reader.tensor(node.input[0])))
    return None


def _softmax(reader: Any, node: Any) -> None:
    done(reader, node, named(node, K.softmax(reader.tensor(node.input[0]), axis=-1)))


def _concatenate(reader: Any, node: Any) -> Optional[str]:
    axis = reader.nodes.value(node.input[-1])
    if axis is None or any(reader.nodes.value(ref) is not None for ref in node.input[:-1]):
        return "it takes constants, or its axis is none"
    tensors = [reader.tensor(ref) for ref in node.input[:-1]]
    done(reader, node, named(node, K.concatenate(tensors, axis=int(axis))))
    return None


def _reshape(reader: Any, node: Any) -> Optional[str]:
    """What keeps the pictures: the new shape begins with their number, or leaves as many elements for each."""
    x, sizes = reader.tensor(node.input[0]), reader.sizes(node.input[1])
    if sizes is None or sizes.ndim != 1 or sizes.size < 2:
        return "its shape is no constant behind the batch"
    first, rest, before = sizes[0], list(sizes[1:]), reader.sizes.of(node.input[0])
    # One size alone may be -1.
    fits = all(isinstance(size, int) for size in rest) and [*rest, first].count(-1) <= 1
    if first == -1 and fits and -1 not in rest and None not in x.shape[1:] and 0 not in (*rest, *x.shape[1:]):
        sizes = math.prod(rest), math.prod(x.shape[1:])
        if sizes[0] != sizes[1] and max(sizes) % min(sizes) == 0:  # merged with the batch, or taken apart
            done(reader, node, named(node, K.reshape(x, (-1, *rest))))
            return None
    if first == -1 or first is None:
        fits = fits and -1 not in rest and None not in x.shape[1:] and math.prod(rest) == math.prod(x.shape[1:])
    elif first != before[0]:
        return "it changes how many pictures there are"
    if not fits:
        return "its shape is no constant behind the batch"
    done(reader, node, L.Reshape(tuple(rest), **settings(reader, node))(x))
    return None


def _squeeze(reader: Any, node: Any) -> Optional[str]:
    axes = tuple(int(number) for number in attribute(node, "squeeze_dims").list.i)
    if not axes or any(number % reader.shape(node.input[0]).rank == 0 for number in axes):
        return "it squeezes the batch, or what is not said"
    done(reader, node, named(node, K.squeeze(reader.tensor(node.input[0]), axis=axes)))
    return None


def _expand_dims(reader: Any, node: Any) -> Optional[str]:
    axis, rank = reader.nodes.value(node.input[1]), reader.shape(node.input[0]).rank
    if axis is None or axis.size != 1 or int(axis.reshape(())) % (rank + 1) == 0:
        return "it puts an axis in front of the batch, or where is no constant"
    done(reader, node, named(node, K.expand_dims(reader.tensor(node.input[0]), int(axis.reshape(())))))
    return None


def _resize(reader: Any, node: Any) -> Optional[str]:
    """Where pixels' centres are what is aligned, as Keras has it, or where that makes no difference."""
    sizes = reader.sizes(node.input[1])
    if sizes is None or sizes.shape != (2,) or not all(isinstance(size, int) for size in sizes):
        return "its size is no constant"
    if not _has_centres(node) and not all(
        _is_alike(node, before, after) for before, after in zip(reader.shape(node.input[0]).as_list()[1:3], sizes)
    ):
        return "it aligns something else than the pixels' centres"
    method = "bilinear" if node.op == "ResizeBilinear" else "nearest"
    result = K.image.resize(
        reader.tensor(node.input[0]), tuple(sizes), interpolation=method, data_format="channels_last"
    )
    done(reader, node, named(node, result))
    return None


def _has_centres(node: Any) -> bool:
    return attribute(node, "half_pixel_centers").b and not attribute(node, "align_corners").b


def _is_alike(node: Any, before: Optional[int], after: int) -> bool:
    """Whether an axis is resized as with the pixels' centres aligned: computed as TensorFlow does, in float32."""
    if before is None:
        return False
    if node.op == "ResizeBilinear" or before in (1, after):
        return before in (1, after)
    corners, i = attribute(node, "align_corners").b and after > 1, np.arange(after, dtype=np.float32)
    scale = np.float32(before - corners) / np.float32(after - corners)
    place = np.floor(i * scale + np.float32(0.5)) if corners else np.floor(i * scale)
    centre = np.floor((i + np.float32(0.5)) * (np.float32(before) / np.float32(after)))
    return np.array_equal(*(np.minimum(found, before - 1) for found in (place, centre)))


def _pad(reader: Any, node: Any) -> Optional[str]:
    """Zeros around a picture, which a convolution may take in; else a number beside any axis but the batch."""
    pads = reader.nodes.value(node.input[1])
    value = reader.nodes.value(node.input[2]) if len(node.input) > 2 else np.zeros(())
    if pads is None or value is None or value.size != 1 or not np.isfinite(value).all():
        return "its pads or what it pads with are no constants"
    rows, number = [(int(before), int(behind)) for before, behind in pads], float(value.reshape(()))
    if any(rows[0]):
        return "it pads the batch"
    x = reader.tensor(node.input[0])
    if len(rows) == 4 and not any(rows[3]) and number == 0:
        result = L.ZeroPadding2D(tuple(rows[1:3]), data_format="channels_last", **settings(reader, node))(x)
    else:
        result = named(node, K.pad(x, rows, constant_values=number or None))
    done(reader, node, result)
    return None


def _ours(reader: Any, node: Any) -> Optional[str]:
    """An op of this package, where the reader takes them."""
    if node.name not in reader.ours:
        return f"{node.op} is not read"
    ours = Ours(reader.nodes, reader.ours[node.name], layer_name(node))
    results = ours([reader.tensor(tensor.name) for tensor in ours.tensors])
    for number, result in enumerate(results):
        reader.put(f"{node.name}:{number}", result)
    reader.read.add(node.name)
    return None


BETWEEN: dict[str, Callable] = {
    "MaxPool": _pool,
    "AvgPool": _pool,
    **REDUCTIONS,
    "Softmax": _softmax,
    "ConcatV2": _concatenate,
    "Pad": _pad,
    "PadV2": _pad,
    "Reshape": _reshape,
    "Squeeze": _squeeze,
    "ExpandDims": _expand_dims,
    "ResizeBilinear": _resize,
    "ResizeNearestNeighbor": _resize,
    **TURNS,
    **dict.fromkeys(OPS, _ours),
}
