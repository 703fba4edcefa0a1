"""Which activation some calls of a graph compute together: by layer, by op, by a function, or written out.

What the calls compute is read as algebra (`_algebra.py`), so it does not matter how it is spelled. A function that a
user wrote is traced into TensorFlow ops once, and those are read; it is never tried on numbers.
"""

from __future__ import annotations

import functools
import numbers
import types
import weakref
from collections.abc import Iterator
from typing import Any, Callable, NamedTuple, Optional

import keras
import numpy as np
import tensorflow as tf

from tf_dwsconv import activations
from tf_dwsconv._keras_graph import Graph, only_input
from tf_dwsconv.activations import PRELU, Fused
from tf_dwsconv.convert import _algebra as algebra
from tf_dwsconv.convert import _homogeneous as homogeneous
from tf_dwsconv.convert._algebra import Expression

L = keras.layers

_MOST_CALLS = 12
_MOST_OPS = 64


class Found(NamedTuple):
    """An activation: what it is, PReLU's slopes (one a channel, or None), and the calls that compute it."""

    fused: Fused
    slopes: Optional[np.ndarray]
    nodes: list


def behind(graph: Graph, x: Any, layout: str, usable: Callable[[Any], bool]) -> Optional[Found]:
    """The activation that the calls behind a tensor compute, if no other call reads them; the longest one.

    Args:
        graph: of the calls.
        x: the tensor.
        layout: of the channels.
        usable: whether a call may be taken.
    """
    if id(x) in graph.outputs:
        return None
    node = graph.reader(x)
    slopes = None if node is None or not usable(node) else prelu_slopes(node, layout)
    if slopes is not None:
        return Found(PRELU, slopes, [node])
    alone = of_one_call(node) if node is not None and usable(node) else None
    found = None if alone is None else Found(alone, None, [node])
    values: dict[int, Any] = {id(x): algebra.X}
    for nodes in _inner(graph, x, values, lambda node: _value(node, values) if usable(node) else None):
        fused = algebra.identify(values[id(nodes[-1].outputs[0])])
        if fused is not None and not (fused == activations.NONE and len(nodes) > 1):
            found = Found(fused, None, nodes)
    return found or _written_out_prelu(graph, x, layout, usable)


def _written_out_prelu(graph: Graph, x: Any, layout: str, usable: Callable[[Any], bool]) -> Optional[Found]:
    """A PReLU of some calls, which is none of the activations without weights."""
    values: dict[int, Any] = {id(x): homogeneous.X}
    channels = x.shape[-1 if layout == "channels_last" else 1]
    found = None

    def value(node: Any) -> Optional[homogeneous.Halves]:
        return homogeneous.value(node, values, layout) if usable(node) else None

    for nodes in _inner(graph, x, values, value):
        slopes = homogeneous.slopes(values[id(nodes[-1].outputs[0])], channels)
        if slopes is not None and np.any(slopes != 1.0):
            found = Found(PRELU, slopes, nodes)
    return found


def _inner(graph: Graph, x: Any, values: dict, value: Callable[[Any], Any]) -> Iterator[list]:
    """The calls behind a tensor whose values are known, as often as no other call reads what lies between.

    values: gets that of each call's result, and `value` reads it.
    """
    tensors = [x]
    nodes: list = []
    while len(nodes) < _MOST_CALLS:
        node = _next(graph, tensors, values, nodes)
        result = None if node is None else value(node)
        if result is None:
            return
        nodes.append(node)
        tensors.append(node.outputs[0])
        values[id(node.outputs[0])] = result
        if all(_is_inside(graph, t, nodes) for t in tensors[:-1]):
            yield list(nodes)


def _is_inside(graph: Graph, tensor: Any, nodes: list) -> bool:
    """Whether no call but those reads a tensor."""
    ids = {id(node) for node in nodes}
    return id(tensor) not in graph.outputs and all(id(node) in ids for node in graph.readers(tensor))


def _next(graph: Graph, tensors: list, values: dict, nodes: list) -> Optional[Any]:
    """A call whose inputs are all known."""
    seen = {id(node) for node in nodes}
    for tensor in tensors:
        for node in graph.readers(tensor):
            if id(node) not in seen and all(id(t) in values for t in node.arguments.keras_tensors):
                return node
    return None


def prelu_slopes(node: Any, layout: str) -> Optional[np.ndarray]:
    """The slopes of a PReLU layer that has one for each channel."""
    layer = node.operation
    if type(layer) is not L.PReLU or only_input(node) is None or not layer.built:
        return None
    shape, rank = tuple(layer.alpha.shape), len(node.outputs[0].shape)
    channel = rank - 2 if layout == "channels_last" else 0
    if any(size != 1 for axis, size in enumerate(shape) if axis != channel):
        return None
    slopes = np.asarray(keras.ops.convert_to_numpy(keras.ops.cast(layer.alpha, "float64"))).reshape(-1)
    channels = node.outputs[0].shape[channel + 1]
    return np.broadcast_to(slopes, [channels]) if channels is not None else None


def of_one_call(node: Any) -> Optional[Fused]:
    """The activation that one call applies to its only input, if the kernels know it without weights."""
    x = only_input(node)
    value = None if x is None else _value(node, {id(x): algebra.X})
    fused = None if value is None else algebra.identify(value)
    # A threshold is no polynomial.
    return fused if value is not None else _of_layer(node.operation) if x is not None else None


def _of_layer(layer: Any) -> Optional[Fused]:
    if type(layer) is L.Activation:
        return of_function(layer.activation)
    return activations.parse(layer) if type(layer) in (L.ReLU, L.LeakyReLU, L.ELU) else None


def of_function(function: Any) -> Optional[Fused]:
    """The activation of the kernels that a user's function computes, if it is one."""
    known = activations.parse(function)
    if known is not None or not isinstance(function, (types.FunctionType, functools.partial)):
        return known
    value = traced(function)
    return None if value is None else algebra.identify(value)


def _value(node: Any, values: dict) -> Optional[Expression]:
    """What a call computes, from what its inputs are."""
    if len(node.outputs) != 1 or not keras.backend.is_float_dtype(node.outputs[0].dtype):
        return None
    operation = node.operation
    if isinstance(operation, keras.Layer):
        return _of_layer_call(node, operation, values)
    if not type(operation).__module__.startswith("keras.src.") or node.arguments.kwargs:
        return None
    arguments = [_operand(argument, values) for argument in node.arguments.args]
    if None in arguments:
        return None
    return _operation(type(operation).__name__, arguments, operation)


def _of_layer_call(node: Any, layer: Any, values: dict) -> Optional[Expression]:
    inputs = [values.get(id(t)) for t in node.arguments.keras_tensors]
    if None in inputs:
        return None
    if type(layer) in (L.Add, L.Multiply, L.Maximum, L.Minimum) and len(inputs) == 2 and not node.arguments.kwargs:
        return _operation(type(layer).__name__, inputs, layer)
    if only_input(node) is None:
        return None
    if type(layer) is L.Lambda:
        value = traced(layer.function, tuple(layer.arguments.items())) if layer.mask is None else None
        return value if inputs[0] == algebra.X else None
    fused = _of_layer(layer)
    if fused is None and type(layer) is L.Activation and isinstance(layer.activation, types.FunctionType):
        return traced(layer.activation) if inputs[0] == algebra.X else None
    return None if fused is None else algebra.apply(fused, inputs[0])


def _operand(argument: Any, values: dict) -> Optional[Expression]:
    if isinstance(argument, keras.KerasTensor):
        return values.get(id(argument))
    if isinstance(argument, numbers.Real) and not isinstance(argument, bool):
        return algebra.constant(float(argument))
    return None


def _operation(word: str, a: list, options: Any) -> Optional[Expression]:
    """An op of Keras, or a layer of the same name, of expressions."""
    if word in _BINARY and len(a) == 2:
        return _BINARY[word](*a)
    if len(a) != 1:
        return None
    words = {"Relu": "relu", "Relu6": "relu6", "Silu": "silu", "HardSilu": "hard_swish"}
    fused = Fused(words[word]) if word in words else None
    if word == "LeakyRelu":
        fused = Fused("leaky_relu", float(options.negative_slope))
    elif word == "Elu":
        fused = Fused("elu", float(options.alpha))
    elif word == "Gelu":
        fused = Fused("gelu_tanh" if options.approximate else "gelu")
    if fused is not None:
        return algebra.apply(fused, a[0])
    if word == "Clip":
        low, high = options.x_min, options.x_max
        bounds = all(bound is None or isinstance(bound, numbers.Real) for bound in (low, high))
        return algebra.clip(a[0], low, high) if bounds else None
    return _UNARY[word](a[0]) if word in _UNARY else None


def _quotient(a: Expression, b: Expression) -> Optional[Expression]:
    divisor = algebra.number(b)
    return algebra.scale(a, 1 / divisor) if divisor else None


def _power(a: Expression, b: Expression) -> Optional[Expression]:
    exponent, result = algebra.number(b), algebra.constant(1)
    if exponent not in (1, 2, 3):
        return None
    for _ in range(int(exponent)):
        result = None if result is None else algebra.multiply(result, a)
    return result


def _hard_sigmoid(a: Expression) -> Optional[Expression]:
    return algebra.clip(algebra.add(algebra.scale(a, 1 / 6), algebra.constant(0.5)), 0.0, 1.0)


_BINARY: dict[str, Callable] = {
    "Add": algebra.add,
    "Subtract": lambda a, b: algebra.add(a, b, -1),
    "Multiply": algebra.multiply,
    "Divide": _quotient,
    "TrueDivide": _quotient,
    "Power": _power,
    "Maximum": algebra.maximum,
    "Minimum": algebra.minimum,
}
_UNARY: dict[str, Callable] = {
    "Sigmoid": algebra.sigmoid,
    "HardSigmoid": _hard_sigmoid,
    "Tanh": algebra.tanh,
    "Softplus": algebra.softplus,
    "Erf": algebra.erf,
    "Erfc": lambda a: algebra.add(algebra.constant(1), algebra.erf(a), -1),
    "Negative": lambda a: algebra.scale(a, -1),
    "Square": lambda a: algebra.multiply(a, a),
}

# TensorFlow's ops whose names differ from those of Keras.
_TENSORFLOW = {
    "AddV2": "Add", "Sub": "Subtract", "Mul": "Multiply", "RealDiv": "Divide", "Pow": "Power", "Neg": "Negative",
}  # fmt: skip

_traced: Any = weakref.WeakKeyDictionary()


def graph_of(function: Any, arguments: tuple = (), rank: int = 4) -> Optional[Any]:
    """The ops of a function of one tensor, as a TensorFlow graph without state; None where it cannot be traced so."""
    specification = tf.TensorSpec([None] * rank, tf.float32)
    try:
        traced_function = tf.function(lambda x: function(x, **dict(arguments)), autograph=False)
        graph = traced_function.get_concrete_function(specification).graph
    except Exception:  # a user's function may raise anything on a tensor of no particular shape
        return None
    operations = graph.get_operations()
    if graph.captures or len(operations) > _MOST_OPS or len(graph.outputs) != 1:
        return None
    stateful = any(op.op_def.is_stateful and op.type != "Placeholder" for op in operations)
    return None if stateful or any(op.control_inputs for op in operations if op.type != "Identity") else graph


def traced(function: Any, arguments: tuple = ()) -> Optional[Expression]:
    """A user's function of one tensor, element by element, as algebra."""
    try:
        known = _traced.setdefault(function, {})
        key = repr(arguments)
    except TypeError:  # no weak references to it
        known, key = {}, ""
    if key not in known:
        graph = graph_of(function, arguments)
        known[key] = None if graph is None else _of_tensor(graph.outputs[0], graph.inputs[0])
    return known[key]


def _of_tensor(tensor: Any, x: Any) -> Optional[Expression]:
    if tensor is x:
        return algebra.X
    op = tensor.op
    if op.type == "Const":
        value = tf.get_static_value(tensor)
        return algebra.constant(float(value)) if value is not None and np.ndim(value) == 0 else None
    if op.type in ("Identity", "IdentityN"):
        return _of_tensor(op.inputs[tensor.value_index], x)
    if op.type == "Cast":
        same = op.inputs[0].dtype.is_floating and tensor.dtype.is_floating
        return _of_tensor(op.inputs[0], x) if same and tensor.dtype == op.inputs[0].dtype else None
    inputs = [_of_tensor(t, x) for t in op.inputs]
    if None in inputs:
        return None
    if op.type == "LeakyRelu":
        return algebra.apply(Fused("leaky_relu", op.get_attr("alpha")), inputs[0])
    if op.type == "Elu":
        return algebra.apply(Fused("elu", 1.0), inputs[0])
    if op.type == "ClipByValue":
        low, high = (algebra.number(bound) for bound in inputs[1:])
        return None if low is None or high is None else algebra.clip(inputs[0], low, high)
    return _operation(_TENSORFLOW.get(op.type, op.type), inputs, None)
