"""What stands between the convolutions of networks, as the layers and ops that programs know it as.

A reader puts the result into the view, or says why there is none; see `_ops.read`.
"""

from __future__ import annotations

from typing import Any, Callable, Optional

import keras

from tf_dwsconv.convert.graphs._nodes import attribute
from tf_dwsconv.convert.graphs._ours import OPS, Ours
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


def _reduce(reader: Any, node: Any) -> Optional[str]:
    axes = reader.nodes.value(node.input[1])
    if axes is None:
        return "its axes are no constants"
    word, keeps = _REDUCE[node.op], bool(attribute(node, "keep_dims").b)
    axis = tuple(int(number) for number in axes.reshape(-1))
    done(reader, node, named(node, word(reader.tensor(node.input[0]), axis=axis, keepdims=keeps)))
    return None


_REDUCE: dict[str, Callable] = {"Mean": K.mean, "Max": K.max}


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
    """To a shape whose first size is the batch's."""
    shape = reader.nodes.value(node.input[1])
    x = reader.tensor(node.input[0])
    if shape is None or shape.size < 2 or (shape[0] != -1 and shape[0] != x.shape[0]) or -1 in shape[1:]:
        return "its shape is no constant behind the batch"
    done(reader, node, named(node, K.reshape(x, tuple(map(int, shape)))))
    return None


def _squeeze(reader: Any, node: Any) -> Optional[str]:
    axes = tuple(int(number) for number in attribute(node, "squeeze_dims").list.i)
    if not axes or any(number % reader.shape(node.input[0]).rank == 0 for number in axes):
        return "it squeezes the batch, or what is not said"
    done(reader, node, named(node, K.squeeze(reader.tensor(node.input[0]), axis=axes)))
    return None


def _resize(reader: Any, node: Any) -> Optional[str]:
    """Where pixels' centres are what is aligned, as Keras has it."""
    size = reader.nodes.value(node.input[1])
    if size is None or not attribute(node, "half_pixel_centers").b or attribute(node, "align_corners").b:
        return "its size is no constant, or it aligns corners"
    method = "bilinear" if node.op == "ResizeBilinear" else "nearest"
    rows, columns = (int(number) for number in size)
    result = K.image.resize(
        reader.tensor(node.input[0]), (rows, columns), interpolation=method, data_format="channels_last"
    )
    done(reader, node, named(node, result))
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
    **dict.fromkeys(_REDUCE, _reduce),
    "Softmax": _softmax,
    "ConcatV2": _concatenate,
    "Reshape": _reshape,
    "Squeeze": _squeeze,
    "ResizeBilinear": _resize,
    "ResizeNearestNeighbor": _resize,
    **dict.fromkeys(OPS, _ours),
}
