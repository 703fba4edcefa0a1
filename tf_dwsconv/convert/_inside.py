"""What is in layers that cannot be looked through: custom ones, Lambda, SavedModels. For reports and refusals."""

from __future__ import annotations

import types
from typing import Any, Optional

import keras
import tensorflow as tf

L = keras.layers
DEPTHWISE = (L.DepthwiseConv1D, L.DepthwiseConv2D, L.SeparableConv1D, L.SeparableConv2D)

_PACKAGE = __name__.split(".")[0]
_OPS = {"DepthwiseConv": "keras.ops.depthwise_conv", "SeparableConv": "keras.ops.separable_conv"}


def _is_of_package(value: Any) -> bool:
    """Whether a module, a class or a function is this package's."""
    name = value.__name__ if isinstance(value, types.ModuleType) else getattr(value, "__module__", None)
    return isinstance(name, str) and name.split(".")[0] == _PACKAGE


def is_ours(value: Any) -> bool:
    """Whether a layer or another object is of a class of this package, or of a subclass of one."""
    return any(_is_of_package(kind) for kind in type(value).__mro__)


def convolution_op(operation: Any) -> Optional[str]:
    """The name of one of Keras' ops that is a depthwise or separable convolution."""
    is_op = not isinstance(operation, keras.Layer) and type(operation).__module__.startswith("keras.src.")
    return _OPS.get(type(operation).__name__) if is_op else None


def depthwise_layers(operation: Any) -> list:
    """Stock depthwise and separable convolutions in a layer."""
    layers = operation._flatten_layers(include_self=False)
    return [layer for layer in layers if isinstance(layer, DEPTHWISE) and not is_ours(layer)]


def is_opaque(operation: Any) -> bool:
    """Whether code that is not Keras' decides what a layer, or one in it, computes."""
    layers = operation._flatten_layers() if isinstance(operation, keras.Layer) else [operation]
    return any(
        type(layer).__module__.split(".")[0] != "keras" or isinstance(layer, (L.Lambda, L.TFSMLayer))
        for layer in layers
    )


def ops_of(node: Any) -> list[tuple[str, str]]:
    """TensorFlow's ops in a call, as (op, name); none where it cannot be traced."""
    tensors = node.arguments.keras_tensors

    def call(*values: Any) -> Any:
        args, kwargs = node.arguments.fill_in({id(t): value for t, value in zip(tensors, values)})
        return node.operation(*args, **kwargs)

    try:
        specs = [tf.TensorSpec(t.shape, t.dtype) for t in tensors]
        with keras.StatelessScope():  # the layer's state and losses stay as they are
            graph = tf.function(call, autograph=False).get_concrete_function(*specs).graph.as_graph_def()
    except Exception:  # of whatever is in it
        return []
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    return [(node.op, node.name) for node in nodes]


def _mentioned(function: Any) -> list:
    """What a function's code names: globals, and what it closes over."""
    function = getattr(function, "__func__", function)
    code = getattr(function, "__code__", None)
    if code is None:
        return []
    cells = [cell.cell_contents for cell in function.__closure__ or () if cell != types.CellType()]
    return [*(function.__globals__[name] for name in code.co_names if name in function.__globals__), *cells]


def ours(node: Any) -> Optional[str]:
    """What of this package a call needs, in words; None where nothing was found."""
    operation = node.operation
    layers = operation._flatten_layers() if isinstance(operation, keras.Layer) else [operation]
    for layer in layers:
        if is_ours(layer):
            return f"{layer.name!r} of class {type(layer).__name__}"
    for layer in layers:
        for value in vars(layer).values():
            if is_ours(value):
                return f"{layer.name!r} with a {type(value).__name__} of this package"
    if not is_opaque(operation):
        return None
    for layer in layers:
        function = layer.function if isinstance(layer, L.Lambda) else type(layer).call
        if any(_is_of_package(value) for value in _mentioned(function)):
            return f"code of {layer.name!r} that names this package"
    names = sorted({kind for kind, _ in ops_of(node) if kind.startswith("TfDwsconv>")})
    return f"the op {names[0]}" if names else None
