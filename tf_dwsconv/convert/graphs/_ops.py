"""What each node of a GraphDef is in Keras: the layer or op that the rules of `convert` know it as.

`read` puts the result into the view; or says why there is none, in words that a report may show.
"""

from __future__ import annotations

from typing import Any, Callable, Optional

import keras
import numpy as np

from tf_dwsconv.convert._affine import Affine
from tf_dwsconv.convert.graphs import _products
from tf_dwsconv.convert.graphs._between import BETWEEN
from tf_dwsconv.convert.graphs._nodes import attribute, tensor_of
from tf_dwsconv.convert.graphs._view import done, layer_name, layout_of, named, settings

L = keras.layers
K = keras.ops

CONVOLUTIONS = ("Conv2D", "DepthwiseConv2dNative", "_FusedConv2D", "_FusedDepthwiseConv2dNative")
DTYPES = ("float32", "float16", "bfloat16")


def read(reader: Any, node: Any, pattern: Any) -> Optional[str]:
    """Reads one node, or the last one of a pattern, into the view.

    Returns:
        None where it is read; else why it is not.

    Raises:
        ValueError, TypeError, NotImplementedError: of Keras, which has no such layer.
    """
    if pattern is None and node.op not in _READERS:
        return f"{node.op} is not read"
    if pattern is not None and pattern.word == "dilated":
        return _dilated(reader, node, pattern)
    if reader.dtype(f"{node.name}:0") not in DTYPES:
        return f"it computes in {reader.dtype(f'{node.name}:0')}"
    if pattern is not None:
        return _PATTERNS[pattern.word](reader, node, pattern)
    given = {reader.dtype(ref) for ref in node.input if reader.nodes.value(ref) is None} & {*DTYPES, "float64"}
    if given - {reader.dtype(f"{node.name}:0")}:
        return f"it makes {reader.dtype(f'{node.name}:0')} of {', '.join(sorted(given))}"
    return _READERS[node.op](reader, node)


def _pair(node: Any, name: str) -> tuple[int, int]:
    """The rows and columns of an attribute that has a number for each axis."""
    numbers = list(attribute(node, name).list.i) or [1, 1, 1, 1]
    at = 2 if layout_of(node) == "channels_first" else 1
    return int(numbers[at]), int(numbers[at + 1])


def _pads(node: Any) -> Optional[tuple]:
    """Explicit padding, ((top, bottom), (left, right)); None where it is SAME or VALID."""
    if attribute(node, "padding").s != b"EXPLICIT":
        return None
    numbers = [int(number) for number in attribute(node, "explicit_paddings").list.i]
    at = 4 if layout_of(node) == "channels_first" else 2
    return tuple(numbers[at : at + 2]), tuple(numbers[at + 2 : at + 4])


def _convolution(reader: Any, node: Any) -> Optional[str]:
    dilations = _pair(node, "dilations")
    return _convolve(reader, node, node, node.input[0], dilations, _pads(node))


def _dilated(reader: Any, end: Any, pattern: Any) -> Optional[str]:
    conv, dilations, pads = pattern.values
    if reader.dtype(f"{conv.name}:0") not in DTYPES:
        return f"it computes in {reader.dtype(f'{conv.name}:0')}"
    return _convolve(reader, conv, end, pattern.x, dilations, pads)


def _convolve(reader: Any, node: Any, end: Any, x: str, dilations: tuple, pads: Optional[tuple]) -> Optional[str]:
    """A convolution.

    Args:
        node, end: the convolution's, and the one with the result.
        x: the tensor that goes in.
        dilations: rows and columns.
        pads: zeros around the picture; None for what the node's padding says.
    """
    kernel = reader.nodes.value(node.input[1])
    if kernel is None:
        return _why_no_filter(reader, node)
    layout, is_depthwise = layout_of(node), "Depthwise" in node.op
    activation, bias = _fused_ops(reader, node)
    if activation is None:
        return f"it is fused with {', '.join(op.decode() for op in attribute(node, 'fused_ops').list.s)}"
    channels = reader.shape(x).as_list()[3 if layout == "channels_last" else 1] if reader.shape(x).rank == 4 else None
    if channels is None:
        return "the channels of its input are not known"
    options = {
        "kernel_size": kernel.shape[:2], "strides": _pair(node, "strides"), "dilation_rate": dilations,
        "data_format": layout, "activation": activation,
        "padding": "valid" if pads is not None or attribute(node, "padding").s == b"VALID" else "same",
        **settings(reader, node),
    }  # fmt: skip
    others = [] if end is node else [end]
    if bias is None and activation == "linear":
        outputs = kernel.shape[3] * (kernel.shape[2] if is_depthwise else 1)
        bias, others = _bias_behind(reader, end, outputs, layout, others)
    tensor = reader.tensor(x)
    if pads is not None and np.any(pads):
        tensor = L.ZeroPadding2D(pads, data_format=layout, **settings(reader, node, "/pads"))(tensor)
    if is_depthwise:
        layer = L.DepthwiseConv2D(depth_multiplier=kernel.shape[3], use_bias=bias is not None, **options)
    else:
        layer = L.Conv2D(kernel.shape[3], groups=channels // kernel.shape[2], use_bias=bias is not None, **options)
    return _weighted(reader, node, others, layer, tensor, kernel, bias)


def _transposed(reader: Any, node: Any) -> Optional[str]:
    """A transposed convolution, whose result has one of the sizes that Keras gives it."""
    kernel, sizes, x = reader.nodes.value(node.input[1]), reader.sizes(node.input[0]), reader.tensor(node.input[2])
    if kernel is None or sizes is None or sizes.shape != (4,) or not all(isinstance(n, int) for n in sizes[1:]):
        return "its filter or its size is no constant"
    padding, strides = attribute(node, "padding").s.decode().lower(), _pair(node, "strides")
    if layout_of(node) != "channels_last" or _pair(node, "dilations") != (1, 1) or padding == "explicit":
        return "it has dilations, explicit padding or channels first"
    bias, others = _bias_behind(reader, node, kernel.shape[2], "channels_last", [])
    for more in (None, *np.ndindex(*strides)):
        layer = L.Conv2DTranspose(
            kernel.shape[2], kernel.shape[:2], strides, padding, output_padding=more, use_bias=bias is not None,
            data_format="channels_last", **settings(reader, node),
        )  # fmt: skip
        if tuple(layer.compute_output_shape(x.shape)[1:3]) == tuple(sizes[1:3]):
            return _weighted(reader, node, others, layer, x, kernel, bias)
    return "its result has another size than Keras gives it"


def _weighted(reader: Any, node: Any, others: list, layer: Any, x: Any, kernel: Any, bias: Any) -> None:
    """Calls a layer with a kernel, and gives it its weights; the result is that of the last node."""
    result = layer(x)
    layer.kernel.assign(kernel)
    if bias is not None:
        layer.bias.assign(bias)
    done(reader, others[-1] if others else node, result, node, *others)


def _why_no_filter(reader: Any, node: Any) -> str:
    producer = reader.nodes.producer(node.input[1])
    if "FakeQuant" in producer.op:
        return f"its filter goes through {producer.op} {producer.name!r}, which simulates quantised numbers and is kept"
    return f"its filter is no constant: it comes from {producer.name!r} ({producer.op})"


_FUSED_ACTIVATIONS = {b"Relu": "relu", b"Relu6": "relu6", b"Elu": "elu", b"Tanh": "tanh", b"Sigmoid": "sigmoid"}


def _fused_ops(reader: Any, node: Any) -> tuple[Optional[Any], Optional[np.ndarray]]:
    """(activation, bias) of a convolution that TensorFlow's own optimiser fused; the activation is None for others."""
    words = list(attribute(node, "fused_ops").list.s)
    if not words:
        return "linear", None
    bias = reader.nodes.value(node.input[2]) if len(node.input) > 2 else None
    if words[0] != b"BiasAdd" or bias is None or len(words) > 2:
        return None, None
    if words[1:] == [b"LeakyRelu"]:
        return L.LeakyReLU(negative_slope=float(attribute(node, "leakyrelu_alpha").f)), bias
    return (_FUSED_ACTIVATIONS.get(words[1]) if words[1:] else "linear"), bias


def _bias_behind(reader: Any, end: Any, outputs: int, layout: str, others: list) -> tuple[Any, list]:
    """The bias of a convolution from the node that adds it, and the nodes that are read with it."""
    node = reader.only_reader(f"{end.name}:0")
    if node is None or node.op not in ("BiasAdd", "Add", "AddV2") or any(r.startswith("^") for r in node.input):
        return None, others
    if f"^{node.name}" in reader.readers:
        return None, others
    is_first = tensor_of(node.input[0]) == f"{end.name}:0"
    value = reader.nodes.value(node.input[1 if is_first else 0])
    if node.op == "BiasAdd":
        fits = layout_of(node) == layout and value is not None
    else:
        rank = reader.shape(f"{node.name}:0").rank
        axis = None if value is None or rank is None else _vector_axis(value, rank)
        fits = axis is not None and axis == (rank - 1 if layout == "channels_last" else 1)
    if not fits or value.size != outputs:
        return None, others
    return value.reshape(-1), [*others, node]


def _vector_axis(value: np.ndarray, rank: int) -> Optional[int]:
    """The only axis along which a constant differs, where it is broadcast to a tensor of some rank."""
    if value.ndim > rank or value.ndim == 0:
        return None
    long = [i for i, size in enumerate(value.shape) if size != 1]
    return rank - value.ndim + long[0] if len(long) == 1 else None


def _batch_norm(reader: Any, node: Any) -> Optional[str]:
    values = [reader.nodes.value(ref) for ref in node.input[1:5]]
    is_used = any(reader.readers.get(f"{node.name}:{i}") for i in range(1, 6))
    if attribute(node, "is_training").b or is_used or any(value is None for value in values):
        return "it normalises with what it is given"
    scale, shift, mean, variance = (np.asarray(value, np.float64) for value in values)
    scale = scale / np.sqrt(variance + attribute(node, "epsilon").f)
    return _affine(reader, node, node.input[0], scale, shift - mean * scale, _channel_axis(reader, node), passes=2)


def _channel_axis(reader: Any, node: Any) -> int:
    return 1 if layout_of(node) == "channels_first" else reader.shape(f"{node.name}:0").rank - 1


def _affine(reader: Any, node: Any, x: str, scale: Any, shift: Any, axis: int, passes: int = 1) -> None:
    if reader.for_programs and reader.dtype(x) == "float32" and axis == reader.shape(x).rank - 1:
        # The words that programs are made of; those that blocks are have the two in one.
        done(reader, node, _products.scaled(node, reader.tensor(x), scale, shift))
        return
    layer = Affine(scale, shift, axis, passes, **settings(reader, node))
    done(reader, node, layer(reader.tensor(x)))


def _bias_add(reader: Any, node: Any) -> Optional[str]:
    value = reader.nodes.value(node.input[1])
    if value is None:
        return "its bias is no constant"
    return _affine(reader, node, node.input[0], 1.0, np.asarray(value, np.float64), _channel_axis(reader, node))


def _binary(reader: Any, node: Any) -> Optional[str]:
    """Arithmetic of two tensors, or of one and a number or a vector of channels."""
    values = [reader.nodes.value(ref) for ref in node.input]
    word = _BINARY[node.op]
    if values[0] is None and values[1] is None:
        done(reader, node, named(node, word(*(reader.tensor(ref) for ref in node.input))))
        return None
    at = 0 if values[0] is not None else 1
    value, x = np.asarray(values[at], np.float64), node.input[1 - at]
    rank = reader.shape(x).rank
    if value.size == 1 and rank is not None and value.ndim <= rank:
        operands: list = [reader.tensor(x), reader.tensor(x)]
        operands[at] = float(value.reshape(()))
        done(reader, node, named(node, word(*operands)))
        return None
    axis = None if rank is None else _vector_axis(value, rank)
    is_other = rank is not None and reader.for_programs and axis != rank - 1  # what programs know no layer for
    if axis is None or is_other or reader.shape(x).as_list()[axis] != value.size:
        return _products.broadcast(reader, node, word, at, value)
    vector = value.reshape(-1)
    change = {
        "Add": (1.0, vector), "AddV2": (1.0, vector), "Mul": (vector, 0.0),
        "Sub": (1.0, -vector) if at == 1 else (-1.0, vector),
        "RealDiv": (1 / vector, 0.0) if at == 1 and np.all(vector) else None,
    }.get(node.op)  # fmt: skip
    if change is None:
        return "it takes a vector of constants"
    return _affine(reader, node, x, *change, axis)


_BINARY: dict[str, Callable] = {
    "Add": K.add, "AddV2": K.add, "Sub": K.subtract, "Mul": K.multiply, "RealDiv": K.divide, "Maximum": K.maximum,
    "Minimum": K.minimum,
}  # fmt: skip


def _unary(reader: Any, node: Any) -> None:
    done(reader, node, named(node, _UNARY[node.op](reader.tensor(node.input[0]))))


_UNARY: dict[str, Callable] = {
    "Relu": K.relu, "Relu6": K.relu6, "Elu": K.elu, "Sigmoid": K.sigmoid, "Tanh": K.tanh, "Softplus": K.softplus,
    "Erf": K.erf, "Neg": K.negative, "Abs": K.absolute, "Square": K.square, "Sqrt": K.sqrt, "Rsqrt": K.rsqrt,
    "Reciprocal": K.reciprocal,
}  # fmt: skip


def _power(reader: Any, node: Any) -> Optional[str]:
    exponent = reader.nodes.value(node.input[1])
    if exponent is None or exponent.size != 1 or reader.nodes.value(node.input[0]) is not None:
        return "its exponent is no number"
    done(reader, node, named(node, K.power(reader.tensor(node.input[0]), float(exponent.reshape(())))))
    return None


def _leaky_relu(reader: Any, node: Any) -> None:
    slope = float(attribute(node, "alpha").f) if "alpha" in node.attr else 0.2
    done(reader, node, named(node, K.leaky_relu(reader.tensor(node.input[0]), negative_slope=slope)))


def _erfc(reader: Any, node: Any) -> None:
    inner = K.erf(reader.tensor(node.input[0]))
    inner._keras_history.operation.name = layer_name(node, "/erf")
    done(reader, node, named(node, K.subtract(1.0, inner)))


def _selu(reader: Any, node: Any) -> None:
    inner = K.elu(reader.tensor(node.input[0]), alpha=1.6732632423543772)
    inner._keras_history.operation.name = layer_name(node, "/elu")
    done(reader, node, named(node, K.multiply(inner, 1.0507009873554805)))


def _add_n(reader: Any, node: Any) -> Optional[str]:
    if len(node.input) < 2 or any(reader.nodes.value(ref) is not None for ref in node.input):
        return "it adds constants, or a single tensor"
    x, *others = (reader.tensor(ref) for ref in node.input)
    for i, other in enumerate(others):
        x = K.add(x, other)
        x._keras_history.operation.name = layer_name(node, f"/{i}" if i + 1 < len(others) else "")
    done(reader, node, x)
    return None


def _clip(reader: Any, node: Any) -> Optional[str]:
    bounds = [reader.nodes.value(ref) for ref in node.input[1:3]]
    if any(bound is None or bound.size != 1 for bound in bounds):
        return "its bounds are no numbers"
    low, high = (float(bound.reshape(())) for bound in bounds)
    done(reader, node, named(node, K.clip(reader.tensor(node.input[0]), low, high)))
    return None


def _mat_mul(reader: Any, node: Any) -> Optional[str]:
    matrix = reader.nodes.value(node.input[1])
    if matrix is None or attribute(node, "transpose_a").b:
        return "its second operand is no constant"
    return _matrix(reader, node, node.input[0], matrix.T if attribute(node, "transpose_b").b else matrix)


def _dense(reader: Any, node: Any, pattern: Any) -> Optional[str]:
    return _matrix(reader, node, pattern.x, pattern.values[0])


def _matrix(reader: Any, node: Any, x: str, matrix: np.ndarray) -> None:
    return _dense_of(reader, node, reader.tensor(x), matrix)


def _dense_of(reader: Any, node: Any, x: Any, matrix: np.ndarray) -> None:
    if x.shape[-1] != matrix.shape[0]:
        raise ValueError("the channels of its input are not known")
    bias, others = _bias_behind(reader, node, matrix.shape[1], "channels_last", [])
    layer = L.Dense(matrix.shape[1], use_bias=bias is not None, **settings(reader, node))
    return _weighted(reader, node, others, layer, x, matrix, bias)


def _batch_product(reader: Any, node: Any) -> Optional[str]:
    return _products.batch_product(reader, node, _dense_of)


def _einsum(reader: Any, node: Any) -> Optional[str]:
    return _products.einsum(reader, node, _dense_of)


def _layer_norm(reader: Any, node: Any, pattern: Any) -> Optional[str]:
    epsilon, scale, shift = pattern.values
    if any(value.size > 1 and value.shape[-1] != value.size for value in (scale, shift)):
        return "its scale or its shift is none of channels"
    layer = L.LayerNormalization(epsilon=epsilon, **settings(reader, node))
    result = layer(reader.tensor(pattern.x))
    for weight, value in ((layer.gamma, scale), (layer.beta, shift)):
        weight.assign(np.broadcast_to(value.reshape(-1) if value.size > 1 else value.reshape(()), weight.shape))
    done(reader, node, result)
    return None


def _gelu(reader: Any, node: Any, pattern: Any) -> None:
    done(reader, node, named(node, K.gelu(reader.tensor(pattern.x), approximate=False)))


_PATTERNS: dict[str, Callable] = {
    "dense": _dense, "layer_norm": _layer_norm, "group_norm": _products.whole_norm, "gelu": _gelu,
}  # fmt: skip
_READERS: dict[str, Callable] = {
    **dict.fromkeys(CONVOLUTIONS, _convolution),
    "Conv2DBackpropInput": _transposed,
    **dict.fromkeys(("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3"), _batch_norm),
    **dict.fromkeys(_BINARY, _binary),
    **dict.fromkeys(_UNARY, _unary),
    "BiasAdd": _bias_add,
    "Pow": _power,
    "LeakyRelu": _leaky_relu,
    "Erfc": _erfc,
    "Selu": _selu,
    "AddN": _add_n,
    "ClipByValue": _clip,
    "MatMul": _mat_mul,
    **dict.fromkeys(("BatchMatMul", "BatchMatMulV2", "BatchMatMulV3"), _batch_product),
    "Einsum": _einsum,
    **BETWEEN,
}
