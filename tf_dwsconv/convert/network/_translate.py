"""Layers of Keras as steps of a program.

A rule is a function of a `Call` that adds steps to its builder and returns the number of its result's tensor; None for
a layer with options that programs do not have. `RULES` has them by class; a subclass may compute anything else.
"""

from __future__ import annotations

import types
from typing import Any, Callable, Optional

import keras
import numpy as np

from tf_dwsconv._keras_graph import only_input
from tf_dwsconv.activations import NONE, Fused
from tf_dwsconv.convert import _activations, _read
from tf_dwsconv.convert.network import _attention, _moves, _products, _transposed
from tf_dwsconv.convert.network._call import Call, is_plain, pair
from tf_dwsconv.layers import DepthwiseSepConv2D, FusedConvBlock

L = keras.layers


def _block(call: Call) -> Optional[int]:
    layer, sources = call.layer, dict(zip(("x", *_others(call.layer)), call.x))
    if layer.data_format != "channels_last" or len(sources) != len(call.x):
        return None
    weights = {f"{stage}_filter": getattr(layer, f"{stage}_kernel") for stage in ("expand", "depthwise", "pointwise")}
    for stage in ("expand_", "depthwise_", ""):
        weights.update((f"{stage}{kind}", getattr(layer, f"{stage}{kind}")) for kind in ("bias", "slopes"))
    is_prelu = isinstance(layer.activation, str)
    last = Fused("prelu") if is_prelu else _activations.of_function(layer.activation)
    if len(call.builder.shapes[call.x[0]]) == 2:
        return None if is_prelu else _rows(call, weights, sources, last)
    inside = last if last is not None and layer.filters is not None else NONE
    y = call.step(
        "chain",
        sources,
        weights=weights,
        strides=layer.strides,
        dilations=layer.dilation_rate,
        padding=layer.padding,
        expand_activation=layer.expand_activation,
        depthwise_activation=layer.depthwise_activation,
        activation=inside,
        normalize=layer.epsilon is not None,
        epsilon=layer.epsilon,
    )
    return y if inside == last else call.activation(y, layer.activation)


def _others(layer: Any) -> list[str]:
    """What a block is called with beside `x`."""
    return [name for name, is_there in (("gate", layer.gated), ("residual", layer.residual)) if is_there]


def _rows(call: Call, weights: dict, sources: dict, last: Optional[Fused]) -> Optional[int]:
    """A block of rows, [N, C]: a Dense layer, and a residual."""
    layer = call.layer
    if layer.expand_filters is not None or layer.gated or layer.epsilon is not None:
        return None
    filters = np.asarray(_read.array(weights["pointwise_filter"]))
    y = call.step("dense", weights={"filter": filters.reshape(filters.shape[2:]), "bias": weights["bias"]})
    if "residual" in sources:
        y = call.step("add", {"x": y, "y": sources["residual"]})
    return call.activation(y, layer.activation if last is None else last)


def _convolution(call: Call) -> Optional[int]:
    layer = call.layer
    if not is_plain(layer):
        return None
    inner, weights = NONE, {}
    if isinstance(layer, L.SeparableConv2D):
        weights.update(
            depthwise_filter=layer.depthwise_kernel, pointwise_filter=layer.pointwise_kernel, bias=layer.bias
        )
        if type(layer) is DepthwiseSepConv2D:
            weights["depthwise_bias"] = layer.depthwise_bias
            inner = _activations.of_function(layer.depthwise_activation)
            if inner is None:
                return None
    elif (found := _read.depthwise(layer)) is not None:
        weights.update(depthwise_filter=found.kernel, depthwise_bias=layer.bias)
    elif type(layer) is L.Conv2D:
        weights.update(pointwise_filter=layer.kernel, bias=layer.bias)
    else:
        return None
    padding = tuple(map(tuple, layer.padding)) if isinstance(layer.padding, (list, tuple)) else layer.padding
    steps = {"strides": tuple(layer.strides), "dilations": tuple(layer.dilation_rate), "padding": padding}
    if "depthwise_filter" not in weights:
        steps["groups"] = layer.groups
    y = call.step("chain", weights=weights, depthwise_activation=inner, **steps)
    return call.activation(y, layer.activation)


def _dense(call: Call) -> Optional[int]:
    layer = call.layer
    if not is_plain(layer):
        return None
    y = call.step("dense", weights={"filter": layer.kernel, "bias": layer.bias})
    return call.activation(y, layer.activation)


def _pool(op: str) -> Callable[[Call], Optional[int]]:
    def rule(call: Call) -> Optional[int]:
        layer = call.layer
        if layer.data_format != "channels_last":
            return None
        window, strides = map(pair, (layer.pool_size, layer.strides))
        return call.step(op, window=window, strides=strides, padding=layer.padding)

    return rule


def _global(op: str) -> Callable[[Call], Optional[int]]:
    def rule(call: Call) -> Optional[int]:
        layer = call.layer
        return call.step(op, keepdims=layer.keepdims) if layer.data_format == "channels_last" else None

    return rule


def _zero_padding(call: Call) -> Optional[int]:
    found = _read.zero_padding(call.node)
    if found is None or found[2] == "channels_first":
        return None
    return call.step("pad", paddings=((0, 0), *found[:2], (0, 0)))


def _up_sampling(call: Call) -> Optional[int]:
    layer = call.layer
    if layer.data_format != "channels_last" or layer.interpolation not in ("nearest", "bilinear"):
        return None
    return call.step("resize", scale=pair(layer.size), method=layer.interpolation)


def resize(call: Call, size: Any) -> Optional[int]:
    """A layer or an op that resizes to a size, as its attributes have it."""
    given = call.layer
    has_method = given.data_format == "channels_last" and given.interpolation in ("nearest", "bilinear")
    cuts = any(getattr(given, key) for key in ("antialias", "crop_to_aspect_ratio", "pad_to_aspect_ratio"))
    if not has_method or cuts or len(call.shape) != 4:
        return None
    return call.step("resize", size=tuple(size), method=given.interpolation)


def _merge(op: str) -> Callable[[Call], Optional[int]]:
    def rule(call: Call) -> Optional[int]:
        return merge(call, op)

    return rule


def merge(call: Call, op: str) -> Optional[int]:
    """Two or more tensors, one after the other."""
    shapes = [call.builder.shapes[t] for t in call.x]
    if len(call.x) < 2 or len({len(shape) for shape in shapes}) != 1:
        return None
    y, shape = call.x[0], shapes[0]
    for other, also in zip(call.x[1:], shapes[1:]):
        shape = tuple(b if a == 1 else a if b == 1 or a is not None else b for a, b in zip(shape, also))
        y = call.step(op, {"x": y, "y": other}, shape)
    return y


def _average(call: Call) -> Optional[int]:
    total = merge(call, "add")
    return None if total is None else call.scale(total, 1 / len(call.x), 0.0)


def _scaled_sum(call: Call) -> Optional[int]:
    """Of InceptionResNetV2."""
    if len(call.x) != 2 or call.x[0] == call.x[1]:
        return None
    return merge(call._replace(x=[call.x[0], call.scale(call.x[1], float(call.layer.scale), 0.0)]), "add")


def concatenate(call: Call) -> Optional[int]:
    rank = len(call.shape)
    axis = call.layer.axis + rank if call.layer.axis < 0 else call.layer.axis
    if not 1 <= axis < rank or any(len(call.builder.shapes[t]) != rank for t in call.x):
        return None
    return call.step("concatenate", {"xs": tuple(call.x)}, axis=axis)


def reshape(call: Call) -> Optional[int]:
    """What keeps the batch, and the order of the elements."""
    sizes = call.shape[1:]
    return None if sizes.count(None) > 1 else call.step("reshape", shape=tuple(-1 if n is None else n for n in sizes))


def _prelu(call: Call) -> Optional[int]:
    slopes = _activations.prelu_slopes(call.node, "channels_last")
    if slopes is None:
        return None
    return call.step("activation", weights={"slopes": np.array(slopes)}, activation=Fused("prelu"))


def _layer_norm(call: Call) -> Optional[int]:
    layer = call.layer
    axes = layer.axis if isinstance(layer.axis, (list, tuple)) else [layer.axis]
    if list(axes) not in ([-1], [len(call.shape) - 1]) or getattr(layer, "rms_scaling", False) or not layer.built:
        return None
    return call.step("normalize", weights={"gamma": layer.gamma, "beta": layer.beta}, epsilon=layer.epsilon)


def _rms_norm(call: Call) -> Optional[int]:
    layer, x, shape = call.layer, call.x[0], call.builder.shapes[call.x[0]]
    axes = layer.axis if isinstance(layer.axis, (list, tuple)) else [layer.axis]
    if list(axes) not in ([-1], [len(shape) - 1]) or not layer.built or len(shape) < 3 or shape[-1] is None:
        return None
    square = call.step("multiply", {"x": x, "y": x}, shape)
    mean = mean_of_channels(call, square)
    root = call.step("power", call.scale(mean, 1.0, layer.epsilon), (*shape[:-1], 1), exponent=-0.5)
    y = call.step("multiply", {"x": x, "y": root}, shape)
    return call.step("multiply", y, shape, {"y": layer.scale})


def mean_of_channels(call: Call, x: int) -> int:
    """The mean over the last axis, which becomes 1: a product with equal weights."""
    shape = call.builder.shapes[x]
    return call.step("dense", x, (*shape[:-1], 1), {"filter": np.full([shape[-1], 1], 1 / shape[-1])})


def _normalization(call: Call) -> Optional[int]:
    change = _read.affine(call.node, "channels_last")
    if change is not None or call.layer.mean is None or call.layer.invert:
        return None if change is None else call.scale(call.x[0], *change)
    mean, deviation = (np.asarray(keras.ops.convert_to_numpy(t), np.float64) for t in _moments(call.layer))
    if any(size != 1 for size in mean.shape[:-1]):
        return None
    centred = call.step("subtract", weights={"y": mean.reshape(-1)})
    return call.step("multiply", centred, weights={"y": 1 / np.maximum(deviation, keras.config.epsilon()).reshape(-1)})


def _moments(layer: Any) -> tuple[Any, Any]:
    return layer.mean, keras.ops.sqrt(layer.variance)


def affine(call: Call) -> Optional[int]:
    """A batch norm, a Rescaling, arithmetic with a number."""
    change, layer = _read.affine(call.node, "channels_last"), call.layer
    if change is None:
        return None
    if type(layer) is L.BatchNormalization and layer.axis not in (-1, len(call.shape) - 1):
        return None
    if max(np.size(change[0]), np.size(change[1])) > 1 and call.shape[-1] is None:
        return None
    return call.scale(call.x[0], *change)


def _activation(call: Call) -> Optional[int]:
    fused = _activations.of_one_call(call.node)
    if fused is not None:
        return call.activation(call.x[0], fused)
    function = call.layer.activation if type(call.layer) is L.Activation else None
    return call.activation(call.x[0], function) if isinstance(function, types.FunctionType) else None


def same(call: Call) -> int:
    """A layer that does nothing in inference."""
    return call.x[0]


# Of one input; what they are called with besides is nothing but `training` where that is false or undecided.
RULES: dict[type, Callable[[Call], Optional[int]]] = {
    **dict.fromkeys((L.Conv2D, L.DepthwiseConv2D, L.SeparableConv2D, DepthwiseSepConv2D), _convolution),
    L.Dense: _dense,
    L.EinsumDense: _products.einsum_dense,
    L.MaxPooling2D: _pool("max_pool"),
    L.AveragePooling2D: _pool("average_pool"),
    L.GlobalAveragePooling2D: _global("mean"),
    L.GlobalMaxPooling2D: _global("max"),
    L.ZeroPadding2D: _zero_padding,
    L.Cropping2D: _moves.cropping,
    L.Permute: _moves.permute,
    L.Conv2DTranspose: _transposed.convolution,
    L.UpSampling2D: _up_sampling,
    L.Reshape: reshape,
    L.Flatten: reshape,
    L.PReLU: _prelu,
    L.Softmax: _attention.softmax,
    L.LayerNormalization: _layer_norm,
    **({L.RMSNormalization: _rms_norm} if hasattr(L, "RMSNormalization") else {}),
    L.Normalization: _normalization,
    **dict.fromkeys((L.BatchNormalization, L.Rescaling), affine),
    **dict.fromkeys((L.Activation, L.ReLU, L.LeakyReLU, L.ELU), _activation),
    **({} if _read.LayerScale is None else {_read.LayerScale: affine}),
}

# Of a list of inputs.
MERGES: dict[type, Callable[[Call], Optional[int]]] = {
    **{getattr(L, word): _merge(word.lower()) for word in ("Add", "Subtract", "Multiply", "Maximum", "Minimum")},
    L.Average: _average,
    L.Concatenate: concatenate,
    FusedConvBlock: _block,
    L.Attention: _attention.dot_product,
    **({} if _read.CustomScaleLayer is None else {_read.CustomScaleLayer: _scaled_sum}),
}

# Of inputs that have names.
_NAMED: dict[type, Callable[[Call], Optional[int]]] = {
    L.MultiHeadAttention: _attention.multi_head,
    **({L.GroupQueryAttention: _attention.grouped_query} if hasattr(L, "GroupQueryAttention") else {}),
}


def layer_step(call: Call) -> Optional[int]:
    """The steps of a call of a layer; None where programs have none."""
    node, kind = call.node, type(call.layer)
    if _read.is_identity(node):
        return same(call)
    if kind in MERGES:
        is_alone = len(node.arguments.args) == 1 and all(v in (None, False) for v in node.arguments.kwargs.values())
        return MERGES[kind](call) if is_alone else None
    if kind in _NAMED:
        return _NAMED[kind](call)
    if kind is L.Resizing and len(call.x) == 1:  # Keras calls it with training=True, and it does the same
        return resize(call, (call.layer.height, call.layer.width))
    if only_input(node) is None:
        return None
    if kind in RULES:
        return RULES[kind](call)
    return _zero_padding(call) or _activation(call) if kind is L.Lambda else None
