"""Products of matrices for each picture, as attention has them: `keras.ops.matmul`, or a Dense layer of a constant."""

from __future__ import annotations

import math
from typing import Any, Callable, Optional

import keras
import numpy as np

from tf_dwsconv.convert.graphs._nodes import attribute
from tf_dwsconv.convert.graphs._view import done, layer_name, named, settings

K = keras.ops
L = keras.layers


def batch_product(reader: Any, node: Any, dense: Callable) -> Optional[str]:
    """BatchMatMul and its later versions.

    Args:
        dense: reads a product by a constant matrix: of the reader, the node, the view's tensor and the matrix.
    """
    values = [reader.nodes.value(ref) for ref in node.input[:2]]
    turned = [bool(attribute(node, name).b) for name in ("adj_x", "adj_y")]
    if values[0] is not None:
        return "its first operand is a constant"
    x = reader.tensor(node.input[0])
    if len(x.shape) < 3:
        return "it multiplies no matrices of their own for each picture"
    if values[1] is None:
        return _of_two(reader, node, x, turned)
    matrix = values[1]
    if any(size != 1 for size in matrix.shape[:-2]) or matrix.ndim > len(x.shape):
        return "it multiplies by another constant for each head"
    matrix = matrix.reshape(matrix.shape[-2:])
    x = _turned(node, x, "/x") if turned[0] else x
    return dense(reader, node, x, matrix.T if turned[1] else matrix)


def _of_two(reader: Any, node: Any, x: Any, turned: list[bool]) -> Optional[str]:
    y = reader.tensor(node.input[1])
    if len(x.shape) != len(y.shape) or x.shape[:-2] != y.shape[:-2] or None in x.shape[1:-2]:
        return "it broadcasts one of its operands, or its axes are not known"
    operands = [_turned(node, t, f"/{key}") if is_turned else t for key, t, is_turned in zip("xy", (x, y), turned)]
    done(reader, node, named(node, K.matmul(*operands)))
    return None


def _turned(node: Any, x: Any, suffix: str) -> Any:
    """A tensor with its last two axes exchanged."""
    result = K.swapaxes(x, -1, -2)
    result._keras_history.operation.name = layer_name(node, suffix)
    return result


def einsum(reader: Any, node: Any, dense: Callable) -> Optional[str]:
    """Of two tensors, or of one and a constant that is a Dense layer's matrix."""
    equation = attribute(node, "equation").s.decode().replace(" ", "")
    if len(node.input) != 2 or "..." in equation or "->" not in equation:
        return "it is no product of two tensors, or has axes without names"
    values = [reader.nodes.value(ref) for ref in node.input]
    operands, result = equation.split("->")[0].split(","), equation.split("->")[1]
    if values[0] is not None:
        return "its first operand is a constant"
    x = reader.tensor(node.input[0])
    if values[1] is None:
        if not all(word and word[0] == result[:1] for word in operands) or len(set(result)) != len(result):
            return "it mixes the pictures"
        done(reader, node, named(node, K.einsum(equation, x, reader.tensor(node.input[1]))))
        return None
    # "abc,cd->abd": the last axis of the tensor with the first of the matrix.
    first, second = operands
    if values[1].ndim != 2 or len(second) != 2 or second[0] != first[-1] or result != first[:-1] + second[1]:
        return "its constant is no matrix for the last axis"
    return dense(reader, node, x, values[1]) if len(set(first + second[1])) == len(first) + 1 else "it takes a diagonal"


def broadcast(reader: Any, node: Any, word: Callable, at: int, value: np.ndarray) -> Optional[str]:
    """Arithmetic of a tensor and a constant with axes of its own, the same for all pictures.

    Args:
        word: the op of keras.ops.
        at: which operand is the constant.
    """
    x = reader.tensor(node.input[1 - at])
    shape, rank = (*[1] * (len(x.shape) - value.ndim), *value.shape), len(x.shape)
    fits = value.ndim <= rank and shape[0] == 1 and all(a in (1, b) for a, b in zip(shape[1:], x.shape[1:]))
    if not fits or reader.dtype(f"{node.name}:0") != "float32" or not np.isfinite(value).all():
        return "it broadcasts a constant"
    operands: list = [x, x]
    operands[at] = np.asarray(value, np.float32)
    done(reader, node, named(node, word(*operands)))
    return None


def scaled(node: Any, x: Any, scale: Any, shift: Any) -> Any:
    """`x * scale + shift` by arrays that are broadcast to float32; NaN of them stays with the graph.

    Raises:
        ValueError: one is not finite.
    """
    y = x
    for word, value, nothing, suffix in ((K.multiply, scale, 1.0, "/scale"), (K.add, shift, 0.0, "/shift")):
        value = np.asarray(value, np.float64)
        if not np.isfinite(value).all():
            raise ValueError("its constants are not finite")
        if np.any(value != nothing):
            y = word(y, np.asarray(value, np.float32) if value.ndim else float(value))
            y._keras_history.operation.name = layer_name(node, suffix)
    return K.multiply(x, 1.0) if y is x else y


def whole_norm(reader: Any, node: Any, pattern: Any) -> Optional[str]:
    """A normalisation of each picture as a whole: of one group of channels, all of them."""
    epsilon, scale, shift = pattern.values
    x = reader.tensor(pattern.x)
    if not all(v.ndim < len(x.shape) or (v.ndim == len(x.shape) and v.shape[0] == 1) for v in (scale, shift)):
        return "its scale or its shift has more axes than the tensor"
    if reader.dtype(pattern.x) != "float32":
        return "it normalises whole pictures in another dtype than float32"
    row = L.Reshape((math.prod(x.shape[1:]),), **settings(reader, node, "/row"))(x)
    layer = L.LayerNormalization(epsilon=epsilon, center=False, scale=False, **settings(reader, node, "/norm"))
    y = L.Reshape(x.shape[1:], **settings(reader, node, "/back"))(layer(row))
    y = scaled(node, y, scale, shift)
    if y.shape != x.shape:
        return "its scale or its shift makes it larger"
    done(reader, node, y)
    return None
