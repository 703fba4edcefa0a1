"""Ops of keras.ops, and operators on Keras tensors, as steps of a program."""

from __future__ import annotations

import math
import numbers
from typing import Any, Callable, Optional, Union

import keras
import numpy as np
import tensorflow as tf

from tf_dwsconv._keras_graph import only_input
from tf_dwsconv.convert import _activations, _read
from tf_dwsconv.convert.network import _attention, _moves, _products, _translate
from tf_dwsconv.convert.network._call import Call

_WORDS = {
    "Add": "add",
    "Subtract": "subtract",
    "Multiply": "multiply",
    "Maximum": "maximum",
    "Minimum": "minimum",
}


def operation_step(call: Call) -> Union[int, tuple[int, ...], None]:
    """The steps of a call of an op: the tensor or, of several results, the tensors; None where programs have none."""
    node = call.node
    word = _read.op_word(node.operation)
    if word is None:
        return None
    if word == "Pad":
        return _pad(call)
    if word == "DotProductAttention":
        return _attention.dot_product_op(call)
    if any(v is not None for v in node.arguments.kwargs.values()):
        return None
    if word in _PARTS:
        return _PARTS[word](call)
    if word in _PRODUCTS:
        return _PRODUCTS[word](call)
    if word in _WORDS:
        return _of_two(call, _WORDS[word])
    if word in ("Divide", "TrueDivide"):
        return _translate.affine(call) if _read.affine(node, "channels_last") else _quotient(call)
    if word == "Power":
        return _power(call)
    if word == "Concatenate":
        return _translate.concatenate(call)
    if only_input(node) is None:
        return None
    if word in _RULES:
        return _RULES[word](call)
    fused = _activations.of_one_call(node)
    return None if fused is None else call.activation(call.x[0], fused)


def _of_two(call: Call, op: str) -> Optional[int]:
    args = call.node.arguments.args
    if len(args) != 2:
        return None
    if len(call.x) == 2:
        return _translate.merge(call, op)
    is_first = isinstance(args[0], keras.KerasTensor)
    constant = _constant(args[1] if is_first else args[0], len(call.shape))
    if constant is None or len(call.shape) != len(call.builder.shapes[call.x[0]]):
        return None
    if _read.affine(call.node, "channels_last") is not None:
        return _translate.affine(call)
    if constant.size == 1 and op == "subtract":
        return call.scale(call.x[0], -1.0, float(constant.reshape(())))
    if op == "subtract" and not is_first:
        return call.step("add", call.scale(call.x[0], -1.0, 0.0), weights={"y": constant})
    return call.step(op, weights={"y": constant})


def _power(call: Call) -> Optional[int]:
    args = call.node.arguments.args
    if len(args) != 2 or len(call.x) != 1 or isinstance(args[1], keras.KerasTensor):
        return None
    exponent = _constant(args[1], 1)
    return None if exponent is None or exponent.size != 1 else _to_the(call, float(exponent.reshape(())))


def _to_the(call: Call, exponent: float) -> int:
    if exponent == 2:
        return call.step("multiply", {"x": call.x[0], "y": call.x[0]})
    return call.step("power", exponent=exponent)


def _mean(call: Call) -> Optional[int]:
    """Over pixels, or over channels, as a product with equal weights."""
    given, shape = call.layer, call.builder.shapes[call.x[0]]
    axes = given.axis if isinstance(given.axis, (list, tuple)) else [given.axis]
    if len(axes) != 1 or axes[0] is None or axes[0] % len(shape) != len(shape) - 1:
        return _over_pixels("mean")(call)
    if shape[-1] is None or len(shape) < 3 or (not given.keepdims and shape[1:-1].count(None) > 1):
        return None
    y = _translate.mean_of_channels(call, call.x[0])
    rest = tuple(-1 if n is None else n for n in shape[1:-1])
    return y if given.keepdims else call.step("reshape", y, shape[:-1], shape=rest)


def _sum(call: Call) -> Optional[int]:
    """Over the pixels of pictures of a known size."""
    shape = call.builder.shapes[call.x[0]]
    if len(shape) != 4 or None in shape[1:3]:
        return None
    mean = _over_pixels("mean")(call)
    return None if mean is None else call.scale(mean, float(shape[1] * shape[2]), 0.0)


def _norm(call: Call) -> Optional[int]:
    """The root of the sum of squares over the pixels; `ord=2` would be the norm of a matrix."""
    given, x = call.layer, call.x[0]
    if given.ord not in (None, "fro") or len(call.builder.shapes[x]) != 4:
        return None
    square = call.step("multiply", {"x": x, "y": x}, call.builder.shapes[x])
    total = _sum(call._replace(x=[square]))
    return None if total is None else call.step("power", total, exponent=0.5)


def _quotient(call: Call) -> Optional[int]:
    """By an array, or by a tensor."""
    args = call.node.arguments.args
    if len(call.x) == 2:
        shape = call.builder.shapes[call.x[1]]
        inverse = call.step("power", call.x[1], shape, exponent=-1.0)
        return _translate.merge(call._replace(x=[call.x[0], inverse]), "multiply")
    if len(args) != 2 or not isinstance(args[0], keras.KerasTensor) or len(call.x) != 1:
        return None
    constant = _constant(args[1], len(call.shape))
    return None if constant is None or not constant.all() else call.step("multiply", weights={"y": 1 / constant})


def _constant(value: Any, rank: int) -> Optional[np.ndarray]:
    """A number or an array of no more axes than the tensor, of one picture for all; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (numbers.Real, np.ndarray)):
        return None
    found = np.asarray(value, np.float64)
    found = found.reshape(1) if found.ndim == 0 else found
    is_for_all = found.ndim < rank or (found.ndim == rank and found.shape[0] == 1)
    return found if is_for_all and np.isfinite(found).all() else None


def _over_pixels(op: str) -> Callable[[Call], Optional[int]]:
    def rule(call: Call) -> Optional[int]:
        given, rank = call.layer, len(call.builder.shapes[call.x[0]])
        axes = sorted(axis % rank for axis in given.axis) if isinstance(given.axis, (list, tuple)) else None
        if rank != 4 or axes != [1, 2] or getattr(given, "initial", None) is not None:
            return None
        return call.step(op, keepdims=bool(given.keepdims))

    return rule


def _reshape(call: Call) -> Optional[int]:
    """Where the first axis stays the batch, or is merged with others or taken apart, as of windows of pictures."""
    before, after = call.builder.shapes[call.x[0]][1:], call.shape[1:]
    if None in (*before, *after):
        return None
    sizes = math.prod(after), math.prod(before)
    if sizes[0] == sizes[1]:
        return _translate.reshape(call)
    is_free = call.shape[0] is None and call.node.arguments.keras_tensors[0].shape[0] is None
    if not is_free or 0 in sizes or max(sizes) % min(sizes):
        return None
    return call.step("reshape", shape=after, pictures=tuple(n // math.gcd(*sizes) for n in sizes))


def _axes(call: Call) -> Optional[int]:
    """Axes of one that come or go, behind the batch."""
    axis = call.layer.axis
    axes = axis if isinstance(axis, (list, tuple)) else [axis]
    rank = max(len(call.shape), len(call.builder.shapes[call.x[0]]))
    if any(not isinstance(number, int) or number % rank == 0 for number in axes):
        return None
    return _translate.reshape(call)


def _pad(call: Call) -> Optional[int]:
    """A number beside any axis but the batch."""
    given, kwargs = call.layer, call.node.arguments.kwargs
    value = kwargs.get("constant_values")
    value = 0 if value is None else value
    if given.mode != "constant" or len(given.pad_width) != len(call.shape) or set(kwargs) - {"constant_values"}:
        return None
    if len(call.x) != 1 or not isinstance(value, numbers.Real):
        return None
    if value == -math.inf and _only_maxima_read(given):
        value = _lowest(call.node.outputs[0].dtype)
    if not math.isfinite(value):
        return None
    pairs = tuple(tuple(int(number) for number in pair) for pair in given.pad_width)
    if any(len(pair) != 2 or min(pair) < 0 for pair in pairs) or any(pairs[0]):
        return None
    return call.step("pad", paddings=pairs, value=float(value))


def _only_maxima_read(operation: Any) -> bool:
    """Whether all that reads an op's result are poolings that take maxima, for which -inf is the lowest number too."""
    readers = [node.operation for node in operation._outbound_nodes]
    return bool(readers) and all(type(r) is keras.layers.MaxPooling2D or _read.op_word(r) == "MaxPool" for r in readers)


def _lowest(dtype: str) -> float:
    return float(tf.as_dtype(keras.backend.standardize_dtype(dtype)).min)


# What takes parts of a tensor.
_PARTS: dict[str, Callable[[Call], Any]] = {"Split": _moves.split, "GetItem": _moves.get_item}

# Of two tensors, or of one and an array.
_PRODUCTS: dict[str, Callable[[Call], Optional[int]]] = {
    "Matmul": _products.matmul,
    "Dot": _products.dot,
    "Einsum": _products.einsum,
}

# Of one tensor.
_RULES: dict[str, Callable[[Call], Optional[int]]] = {
    "Mean": _mean,
    "Sum": _sum,
    "Norm": _norm,
    "Sqrt": lambda call: _to_the(call, 0.5),
    "Rsqrt": lambda call: _to_the(call, -0.5),
    "Reciprocal": lambda call: _to_the(call, -1.0),
    "Square": lambda call: _to_the(call, 2.0),
    "Max": _over_pixels("max"),
    "Amax": _over_pixels("max"),
    "Softmax": _attention.softmax,
    "Reshape": _reshape,
    "ExpandDims": _axes,
    "Squeeze": _axes,
    "Transpose": _moves.transpose,
    "Swapaxes": _moves.swap_axes,
    "Moveaxis": _moves.move_axis,
    "DepthToSpace": _moves.depth_to_space,
    **dict.fromkeys(
        ("Cast", "ConvertToTensor"), lambda call: _translate.same(call) if _read.is_cast_to_itself(call.node) else None
    ),
    "Resize": lambda call: _translate.resize(call, call.layer.size),
}
