"""Reads layers: what of a convolution, a normalisation or an activation goes into a fused block.

Weights are read as float64, and only what was folded is rounded to the variables' dtype.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import numbers
from typing import Any, Optional

import keras
import numpy as np
import tensorflow as tf

from tf_dwsconv._keras_graph import called_in_training, is_one_by_one, only_input
from tf_dwsconv.activations import NONE, Fused
from tf_dwsconv.convert import _activations, _cost
from tf_dwsconv.convert._affine import Affine
from tf_dwsconv.layers import DepthwiseSepConv2D

try:
    from keras.src.applications.convnext import LayerScale, StochasticDepth
except ImportError:  # another Keras keeps them elsewhere: ConvNeXt's blocks are fused up to them
    LayerScale = StochasticDepth = None
try:
    from keras.src.applications.inception_resnet_v2 import CustomScaleLayer
except ImportError:
    CustomScaleLayer = None

L = keras.layers

# A copy of a Dense layer's weights in the kernels' order is kept, so large ones are left alone: 16 MiB in float32.
LARGE_DENSE = 1 << 22


def array(weight: Any) -> np.ndarray:
    """A weight in float64."""
    return np.asarray(keras.ops.convert_to_numpy(keras.ops.cast(weight, "float64")))


@dataclasses.dataclass
class Convolution:
    """The weights of a convolution, into whose filter and bias scales and offsets of its results are folded.

    kernel: float64 [..., outputs] (the last two axes of a depthwise one are outputs together); bias: float64 [outputs],
    or None. activation: the layer's own; None where the kernels do not know it (`function` has it then).
    """

    layer: Any
    kernel: np.ndarray
    bias: Optional[np.ndarray]
    activation: Optional[Fused] = NONE
    function: Any = None
    depthwise: bool = False

    @property
    def is_linear(self) -> bool:
        return self.activation is not None and self.activation.word == "none"

    @property
    def outputs(self) -> int:
        return int(np.prod(self.kernel.shape[-2:])) if self.depthwise else self.kernel.shape[-1]

    def scale_outputs(self, scale: Any, shift: Any) -> None:
        """Makes it compute `y * scale + shift` in place of `y`."""
        scale = np.broadcast_to(scale, [self.outputs])
        self.kernel = self.kernel * scale.reshape(self.kernel.shape[-2:] if self.depthwise else [-1])
        bias = 0.0 if self.bias is None else self.bias
        self.bias = bias * scale + shift

    def scale_inputs(self, scale: Any, shift: Any) -> None:
        """Makes a dense 1x1 convolution apply itself to `x * scale + shift` in place of `x`."""
        scale, shift = (np.broadcast_to(value, [self.kernel.shape[-2]]) for value in (scale, shift))
        bias = 0.0 if self.bias is None else self.bias
        self.bias = bias + shift @ self.kernel.reshape(self.kernel.shape[-2:])
        self.kernel = self.kernel * scale[:, None]


def _convolution(layer: Any, kernel: Any, activation: Any, bias: Any, depthwise: bool = False) -> Convolution:
    fused = _activations.of_function(activation)
    bias = None if bias is None else array(bias)
    return Convolution(layer, kernel, bias, fused, activation if fused is None else None, depthwise)


def _is_plain(layer: Any) -> bool:
    """Whether the layer's weights are floats as they are."""
    return getattr(layer, "quantization_mode", None) is None and layer.built


def depthwise(layer: Any) -> Optional[Convolution]:
    """A depthwise convolution, or a grouped one that is one."""
    if type(layer) not in (L.DepthwiseConv2D, L.Conv2D) or not _is_plain(layer):
        return None
    is_grouped = type(layer) is L.Conv2D
    if is_grouped and (layer.groups == 1 or layer.kernel.shape[2] != 1):
        return None
    kernel = array(layer.kernel)
    if is_grouped:  # [R, S, 1, C*M]: each input channel is a group of its own
        kernel = kernel.reshape(*kernel.shape[:2], layer.groups, -1)
    return _convolution(layer, kernel, layer.activation, layer.bias, depthwise=True)


def halves(layer: Any, rank: int = 4) -> Optional[tuple[Convolution, Optional[Convolution]]]:
    """The depthwise convolution of a layer, and the 1x1 one behind it where that is in the layer.

    Those of one dimension (rank 3) are read as of pictures of one row. Their channels are last: otherwise a row would
    not lie as the kernels read it.
    """
    first = depthwise(layer) if rank == 4 else None
    if first is not None:
        return first, None
    kinds = (L.SeparableConv2D, DepthwiseSepConv2D) if rank == 4 else (L.DepthwiseConv1D, L.SeparableConv1D)
    if type(layer) not in kinds or not _is_plain(layer) or (rank == 3 and layer.data_format != "channels_last"):
        return None
    axes = () if rank == 4 else (None,)  # of the row
    if type(layer) is L.DepthwiseConv1D:
        return _convolution(layer, array(layer.kernel)[axes], layer.activation, layer.bias, depthwise=True), None
    is_ours = type(layer) is DepthwiseSepConv2D
    activation, bias = (layer.depthwise_activation, layer.depthwise_bias) if is_ours else (None, None)
    first = _convolution(layer, array(layer.depthwise_kernel)[axes], activation, bias, depthwise=True)
    return first, _convolution(layer, array(layer.pointwise_kernel)[axes], layer.activation, layer.bias)


def pointwise(node: Any, rank: int = 4) -> Optional[Convolution]:
    """A dense 1x1 convolution of stride 1 of tensors of some rank, or a Dense over their channels."""
    layer = node.operation
    if type(layer) is L.Dense:
        fits = len(node.outputs[0].shape) == rank and _is_plain(layer)
        fits = fits and (rank > 2 or math.prod(layer.kernel.shape) <= LARGE_DENSE)
    elif type(layer) is L.Conv1D:
        fits = rank == 3 and layer.kernel_size == (1,) and tuple(layer.strides) == (1,) and layer.groups == 1
        fits = fits and layer.data_format == "channels_last" and _is_plain(layer)
    else:
        fits = rank == 4 and type(layer) is L.Conv2D and is_one_by_one(layer) and _is_plain(layer)
    if not fits:
        return None
    kernel = array(layer.kernel)
    return _convolution(layer, kernel.reshape(1, 1, *kernel.shape[-2:]), layer.activation, layer.bias)


def dense(layer: Any) -> Optional[Convolution]:
    """A dense convolution that our kernel computes at least as fast as TensorFlow's: see `_cost`."""
    if type(layer) is not L.Conv2D or layer.groups != 1 or not _is_plain(layer):
        return None
    if not _cost.dense_pays(layer.kernel_size, layer.kernel.shape[2], layer.filters, layer.strides):
        return None
    return _convolution(layer, array(layer.kernel), layer.activation, layer.bias)


def foldable(layer: Any) -> Optional[Convolution]:
    """A stock convolution without an activation, into whose weights what follows can be folded."""
    if type(layer) not in (L.Conv2D, L.DepthwiseConv2D) or not _is_plain(layer):
        return None
    found = _convolution(
        layer, array(layer.kernel), layer.activation, layer.bias, depthwise=type(layer) is L.DepthwiseConv2D
    )
    return found if found.is_linear else None


def data_format(layer: Any) -> str:
    """Of a convolution, or of a Dense, whose channels are last."""
    return getattr(layer, "data_format", "channels_last")


def channel_axis(layout: str) -> int:
    return 3 if layout == "channels_last" else 1


def affine(node: Any, layout: str) -> Optional[tuple[Any, Any]]:
    """(scale, shift) of a call that scales and shifts channels in inference, or None.

    That is batch normalisation, rescaling and normalisation of a network's input, ConvNeXt's LayerScale, and arithmetic
    with a number.
    """
    layer = node.operation
    if not isinstance(layer, keras.Layer):
        return _arithmetic(node, layout)
    if only_input(node) is None:
        return None
    if type(layer) is Affine:
        return layer.change(len(node.outputs[0].shape), layout)
    if type(layer) is L.Rescaling:
        return _rescaling(layer, layout)
    if type(layer) is L.Normalization:
        return _normalization(layer, layout)
    if type(layer) is L.BatchNormalization:
        if layer.axis not in (channel_axis(layout), channel_axis(layout) - 4):
            return None
        if getattr(layer, "renorm", False) or not layer.built:
            return None
        scale = 1 / np.sqrt(array(layer.moving_variance) + layer.epsilon)
        if layer.scale:
            scale = scale * array(layer.gamma)
        shift = -array(layer.moving_mean) * scale
        return scale, shift + array(layer.beta) if layer.center else shift
    if LayerScale is not None and type(layer) is LayerScale and layout == "channels_last":
        return array(layer.gamma), 0.0
    return None


def is_norm(node: Any) -> bool:
    """Whether a call is a batch norm, or what one comes to in a graph that is no Keras model."""
    return type(node.operation) in (L.BatchNormalization, Affine)


def _rescaling(layer: Any, layout: str) -> Optional[tuple[Any, Any]]:
    scale, shift = (np.asarray(value, np.float64) for value in (layer.scale, layer.offset))
    if scale.ndim > 1 or shift.ndim > 1 or (scale.ndim + shift.ndim > 0 and layout != "channels_last"):
        return None
    return (scale, shift) if keras.config.image_data_format() == "channels_last" or scale.ndim == 0 else None


# `x * scale + shift` loses this many ulps of `(x - mean) / deviation`, where x is near the mean.
_LARGE_SHIFT = 64.0


def _normalization(layer: Any, layout: str) -> Optional[tuple[Any, Any]]:
    if not layer.built or layer.mean is None:
        return None
    if any(size != 1 for i, size in enumerate(layer.mean.shape) if i != channel_axis(layout)):
        return None
    mean, deviation = array(layer.mean).reshape(-1), np.sqrt(array(layer.variance)).reshape(-1)
    deviation = np.maximum(deviation, keras.config.epsilon())
    scale, shift = (deviation, mean) if layer.invert else (1 / deviation, -mean / deviation)
    return (scale, shift) if np.abs(shift).max() <= _LARGE_SHIFT else None


def _arithmetic(node: Any, layout: str) -> Optional[tuple[Any, Any]]:
    """(scale, shift) of an op of keras.ops on one tensor, and one number or one for each channel."""
    word, args = op_word(node.operation), node.arguments.args
    if word not in ("Add", "Subtract", "Multiply", "Divide", "TrueDivide") or len(args) != 2:
        return None
    if node.arguments.kwargs or len(node.arguments.keras_tensors) != 1:
        return None
    first = isinstance(args[0], keras.KerasTensor)
    value = _of_channels(node, args[1] if first else args[0], layout)
    if value is None or ("Divide" in word and not np.all(value)):
        return None
    if word in ("Add", "Multiply"):
        return (1.0, value) if word == "Add" else (value, 0.0)
    if not first:
        return None
    return (1.0, -value) if word == "Subtract" else (1 / value, 0.0)


def _of_channels(node: Any, value: Any, layout: str) -> Any:
    """A number, or an array as a vector over the channels of a call's tensor; None for anything else."""
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        return float(value)
    shape = tuple(node.outputs[0].shape)
    axis = len(shape) - 1 if layout == "channels_last" else 1
    if not isinstance(value, np.ndarray) or value.ndim > len(shape) or node.arguments.keras_tensors[0].shape != shape:
        return None
    sizes = (1,) * (len(shape) - value.ndim) + value.shape
    if len(shape) < 2 or any(size != 1 for i, size in enumerate(sizes) if i != axis):
        return None
    found = value.astype(np.float64).reshape(-1)
    return (float(found[0]) if found.size == 1 else found) if np.isfinite(found).all() else None


def op_word(operation: Any) -> Optional[str]:
    """The name of one of Keras' own ops that is not a layer, such as "Add" of `x + y`."""
    if isinstance(operation, keras.Layer) or not type(operation).__module__.startswith("keras.src."):
        return None
    return type(operation).__name__


def zero_padding(node: Any) -> Optional[tuple]:
    """((top, bottom), (left, right), layout) of a call that pads pictures with zeros; the layout is None if either."""
    layer = node.operation
    if only_input(node) is None:
        return None
    if type(layer) is L.ZeroPadding2D:
        pads, layout = layer.padding, layer.data_format
        return (*(tuple(int(number) for number in pair) for pair in pads), layout)
    if type(layer) is L.Lambda:
        rows = _pads_of_lambda(layer)
    elif op_word(layer) == "Pad" and layer.mode == "constant":
        rows = layer.pad_width
    else:
        return None
    if rows is None or len(rows) != 4 or any(len(row) != 2 or min(row) < 0 for row in rows) or any(rows[0]):
        return None
    rows = [tuple(int(number) for number in row) for row in rows]
    if not any(rows[3]):
        return (*rows[1:3], None if not any(rows[1]) else "channels_last")
    return None if any(rows[1]) else (*rows[2:], "channels_first")


def _pads_of_lambda(layer: Any) -> Optional[list]:
    graph = _activations.graph_of(layer.function, tuple(layer.arguments.items())) if layer.mask is None else None
    op = None if graph is None else graph.outputs[0].op
    while op is not None and op.type == "Identity":
        op = op.inputs[0].op
    if op is None or op.type not in ("Pad", "PadV2") or op.inputs[0] is not graph.inputs[0]:
        return None
    values = [tf.get_static_value(t) for t in op.inputs[1:]]
    if values[0] is None or (len(values) == 2 and (values[1] is None or values[1] != 0)):
        return None
    return values[0].tolist()


_IDENTITIES = (
    L.Dropout, L.SpatialDropout2D, L.GaussianDropout, L.GaussianNoise, L.AlphaDropout, L.ActivityRegularization,
    L.Identity, *([StochasticDepth] if StochasticDepth is not None else []),
)  # fmt: skip


def is_identity(node: Any) -> bool:
    """Whether a call returns what it was given, in inference."""
    if type(node.operation) in _IDENTITIES:
        return not called_in_training(node) and only_input(node) is not None
    if op_word(node.operation) == "StopGradient" or is_cast_to_itself(node):
        return only_input(node) is not None
    return _activations.of_one_call(node) == NONE or _returns_its_input(node)


def is_cast_to_itself(node: Any) -> bool:
    """Whether a cast, or what Keras makes sure of inputs by, leaves the dtype as it is."""
    if op_word(node.operation) not in ("Cast", "ConvertToTensor"):
        return False
    dtypes = {keras.backend.standardize_dtype(t.dtype) for t in (*node.arguments.keras_tensors, *node.outputs)}
    return len(dtypes) == 1


def _returns_its_input(node: Any) -> bool:
    """Whether a layer of a user's class, such as a DropPath, hands back the very tensor it is called with.

    Its own `call` decides, run on the symbolic tensor with `training=False`.
    """
    layer, x = node.operation, only_input(node)
    is_custom = isinstance(layer, keras.Layer) and type(layer).__module__.split(".")[0] != "keras"
    if x is None or not is_custom or called_in_training(node) or isinstance(layer, keras.Model) or layer.weights:
        return False
    if "training" not in inspect.signature(layer.call).parameters:
        return False
    try:
        return layer.call(x, training=False) is x
    except Exception:  # what computes with TensorFlow's ops cannot take a symbolic tensor
        return False


def of_two(node: Any, word: str) -> Optional[tuple[Any, Any]]:
    """The operands of an Add or a Multiply of two tensors, by layer or by op."""
    tensors = node.arguments.keras_tensors
    if type(node.operation) is not getattr(L, word) and op_word(node.operation) != word:
        return None
    return tuple(tensors) if len(tensors) == 2 and not node.arguments.kwargs else None


def layer_norm(node: Any, layout: str) -> Optional[tuple[float, Any, Any]]:
    """(epsilon, scale, shift) of a normalisation of each pixel over its channels."""
    layer = node.operation
    if type(layer) is not L.LayerNormalization or only_input(node) is None or layout != "channels_last":
        return None
    axes = layer.axis if isinstance(layer.axis, (list, tuple)) else [layer.axis]
    if list(axes) not in ([-1], [3]) or getattr(layer, "rms_scaling", False) or not layer.built:
        return None
    scale = 1.0 if layer.gamma is None else array(layer.gamma)
    return layer.epsilon, scale, 0.0 if layer.beta is None else array(layer.beta)


def compute_dtype(node: Any) -> str:
    """What a call computes in: a layer's compute dtype, or the dtype of an op's result."""
    if isinstance(node.operation, keras.Layer):
        return node.operation.compute_dtype
    return keras.backend.standardize_dtype(node.outputs[0].dtype)
