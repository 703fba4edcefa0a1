"""A Keras network in PyTorch: the same layers and weights, op by op, tensors in channels_last."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import torch
from torch.nn import functional

# A tensor of four axes is [N,C,H,W] here, [N,H,W,C] in Keras.
ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "linear": lambda x: x,
    "relu": functional.relu,
    "relu6": functional.relu6,
    "gelu": functional.gelu,
    "silu": functional.silu,
    "swish": functional.silu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "hard_silu": functional.hardswish,
    "hard_swish": functional.hardswish,
    "hard_sigmoid": functional.hardsigmoid,
}


class UntranslatableError(Exception):
    """A layer that has no translation here; the text names it."""


def _tensor(variable: Any, *order: int) -> Any:
    array = keras.ops.convert_to_numpy(variable)
    value = torch.from_numpy(np.ascontiguousarray(array.transpose(order) if order else array))
    return value.contiguous(memory_format=torch.channels_last) if value.dim() == 4 else value


def _outward(x: Any) -> Any:
    """As Keras orders it."""
    return x.permute(0, 2, 3, 1) if x.dim() == 4 else x


def _inward(x: Any) -> Any:
    return x.permute(0, 3, 1, 2) if x.dim() == 4 else x


def _activation(layer: Any) -> Callable[[Any], Any]:
    name = getattr(layer.activation, "__name__", str(layer.activation))
    if name not in ACTIVATIONS:
        raise UntranslatableError(f"{layer.name}: activation {name}")
    return ACTIVATIONS[name]


def _pad(layer: Any, shape: tuple, kernel: tuple, strides: tuple, dilation: tuple) -> tuple[Any, Callable]:
    """What a convolution is told of its padding, and what is done to its input before."""
    if layer.padding == "valid":
        return 0, lambda x: x
    sides = []
    for size, taps, stride, step in zip(shape[1:3], kernel, strides, dilation):
        total = max((-(-size // stride) - 1) * stride + (taps - 1) * step + 1 - size, 0)
        sides.append((total // 2, total - total // 2))
    (top, bottom), (left, right) = sides
    if top == bottom and left == right:
        return (top, left), lambda x: x
    last = {"memory_format": torch.channels_last}
    return 0, lambda x: functional.pad(x, (left, right, top, bottom)).contiguous(**last)


def _convolution(layer: Any, shape: tuple) -> Callable[[Any], Any]:
    kind = type(layer).__name__
    dilation = tuple(layer.dilation_rate)
    padding, pad = _pad(layer, shape, layer.kernel_size, layer.strides, dilation)
    bias = _tensor(layer.bias) if layer.use_bias else None
    strides, act = tuple(layer.strides), _activation(layer)
    if kind == "Conv2D":
        weight, groups = _tensor(layer.kernel, 3, 2, 0, 1), layer.groups
        return lambda x: act(functional.conv2d(pad(x), weight, bias, strides, padding, dilation, groups))
    kernel = keras.ops.convert_to_numpy(layer.kernel if kind == "DepthwiseConv2D" else layer.depthwise_kernel)
    rows, columns, channels, multiplier = kernel.shape
    kernel = kernel.reshape(rows, columns, 1, channels * multiplier)
    depthwise = _tensor(kernel, 3, 2, 0, 1)
    if kind == "DepthwiseConv2D":
        return lambda x: act(functional.conv2d(pad(x), depthwise, bias, strides, padding, dilation, channels))
    pointwise = _tensor(layer.pointwise_kernel, 3, 2, 0, 1)

    def separable(x: Any) -> Any:
        z = functional.conv2d(pad(x), depthwise, None, strides, padding, dilation, channels)
        return act(functional.conv2d(z, pointwise, bias))

    return separable


def _norm(layer: Any, shape: tuple) -> Callable[[Any], Any]:
    gamma, beta = (None if value is None else _tensor(value) for value in (layer.gamma, layer.beta))
    epsilon = layer.epsilon
    if type(layer).__name__ == "LayerNormalization":
        if list(np.atleast_1d(layer.axis)) not in ([-1], [len(shape) - 1]):
            raise UntranslatableError(f"{layer.name}: layer norm over axes {layer.axis}")
        size = (shape[-1],)
        return lambda x: _inward(functional.layer_norm(_outward(x), size, gamma, beta, epsilon))
    mean, variance = _tensor(layer.moving_mean), _tensor(layer.moving_variance)
    return lambda x: functional.batch_norm(x, mean, variance, gamma, beta, False, 0.0, epsilon)


def _relu(layer: Any) -> Callable[[Any], Any]:
    if layer.threshold or layer.negative_slope:
        raise UntranslatableError(f"{layer.name}: ReLU with a threshold or a slope")
    top = layer.max_value
    return functional.relu if top is None else lambda x: functional.hardtanh(x, 0.0, float(top))


def _translate(layer: Any, shape: tuple) -> Callable[..., Any]:
    """The function of a layer whose first input has `shape` in Keras."""
    kind = type(layer).__name__
    if kind in ("Conv2D", "DepthwiseConv2D", "SeparableConv2D"):
        return _convolution(layer, shape)
    if kind in ("BatchNormalization", "LayerNormalization"):
        return _norm(layer, shape)
    if kind == "ReLU":
        return _relu(layer)
    if kind == "Activation":
        return _activation(layer)
    if kind == "Dense":
        weight, act = _tensor(layer.kernel, 1, 0), _activation(layer)
        bias = _tensor(layer.bias) if layer.use_bias else None
        return lambda x: act(_inward(functional.linear(_outward(x), weight, bias)))
    if kind == "ZeroPadding2D":
        (top, bottom), (left, right) = layer.padding
        return lambda x: functional.pad(x, (left, right, top, bottom))
    if kind == "GlobalAveragePooling2D":
        keep = layer.keepdims
        return lambda x: x.mean((2, 3), keepdim=keep)
    if kind in ("Reshape", "Flatten"):
        target = tuple(layer.target_shape) if kind == "Reshape" else (-1,)
        return lambda x: _inward(_outward(x).reshape(x.shape[0], *target))
    if kind in ("Dropout", "SpatialDropout2D"):
        return lambda x: x
    if kind == "Add":
        return lambda xs: sum(xs[1:], xs[0])
    if kind == "Multiply":
        return lambda xs: xs[0] * xs[1]
    if kind == "Concatenate" and layer.axis in (-1, len(shape) - 1):
        return lambda xs: torch.cat(xs, 1)
    if kind == "Rescaling" and np.ndim(layer.scale) == 0 and np.ndim(layer.offset) == 0:
        scale, offset = float(layer.scale), float(layer.offset)
        return lambda x: x * scale + offset
    raise UntranslatableError(f"{layer.name}: a layer of class {kind}")


def translate(model: Any) -> Callable[[Any], Any]:
    """A function that computes in PyTorch what a functional Keras model computes in inference.

    Args:
        model: built, channels last, one input and one output.

    Returns:
        A function of a tensor `[N,C,H,W]`.

    Raises:
        UntranslatableError: a layer that is not known here.
    """
    # Keras has no public way to walk a model's calls; this is what its own summary uses.
    nodes = [node for depth in sorted(model._nodes_by_depth, reverse=True) for node in model._nodes_by_depth[depth]]
    place: dict[int, int] = {id(model.inputs[0]): 0}
    steps = []
    for node in nodes:
        if type(node.operation).__name__ == "InputLayer":
            continue
        inputs = [place[id(tensor)] for tensor in node.input_tensors]
        many = type(node.operation).__name__ in ("Add", "Multiply", "Concatenate")
        steps.append((_translate(node.operation, tuple(node.input_tensors[0].shape)), inputs, many))
        place[id(node.outputs[0])] = len(steps)
    last_use = {index: number for number, (_, inputs, _) in enumerate(steps) for index in inputs}
    result = place[id(model.outputs[0])]

    def run(x: Any) -> Any:
        values: list[Any] = [x, *([None] * len(steps))]
        for number, (function, inputs, many) in enumerate(steps):
            given = [values[index] for index in inputs]
            values[number + 1] = function(given) if many else function(given[0])
            for index in inputs:  # memory is given back as soon as nobody needs it
                if last_use[index] == number and index != result:
                    values[index] = None
        return values[result]

    return run
