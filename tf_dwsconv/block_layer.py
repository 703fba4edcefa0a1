"""The Keras layer of a whole block, which `tf_dwsconv.convert` puts where the layers of a block were."""

from __future__ import annotations

import math
from typing import Any, Optional

import keras

from tf_dwsconv import _arguments, _tf_keras, activations
from tf_dwsconv._arguments import Attributes
from tf_dwsconv.layers import _callable_activation, _value, check_backend

if keras.config.backend() == "tensorflow":
    import tensorflow as tf

    from tf_dwsconv import conv_block, ops


@keras.saving.register_keras_serializable(package="tf_dwsconv")
class FusedConvBlock(_tf_keras.NotInside, keras.layers.Layer):
    """A block of a network as one fused op; every stage is optional, but one convolution is there.

        y = activation( pointwise( gate * norm( Z ) ) + bias + residual )
        Z = depthwise_activation( depthwise( expand_activation( expand(x) + expand_bias ) ) + depthwise_bias )

    `tf_dwsconv.convert` makes these layers, with batch norms folded into filters and biases; they may be used by hand
    as well. The layer trains: its gradient is native where nothing but depthwise and pointwise is there, and that of
    stock TensorFlow ops elsewhere. As `DepthwiseSepConv2D`, it leaves XLA alone.

    Args:
        filters: K, outputs of the pointwise convolution; None for a block without one.
        kernel_size: an integer, or a pair (height, width): the depthwise window; None for a block without one.
        strides: an integer, or a pair (height, width), of the depthwise convolution, or of the dense one.
        padding: `"same"`, `"valid"`, or two pairs ((top, bottom), (left, right)), of the same.
        data_format: `"channels_last"` or `"channels_first"`; by default what Keras is configured to.
        dilation_rate: an integer, or a pair (height, width), of the same.
        depth_multiplier: M, the outputs of the depthwise convolution for each input channel.
        activation: after the pointwise convolution, its bias and the residual: None, a name, a function, a layer, a
            pair such as `("leaky_relu", slope)` (see `tf_dwsconv.activations.parse`), or `"prelu"`, for which the layer
            has one slope a channel as a weight. One that the kernel does not know is applied as an op of its own.
        use_bias: whether to add a bias after the pointwise convolution.
        expand_filters: C, outputs of a dense 1x1 convolution in front; None for a block without one.
        expand_use_bias: whether that adds a bias.
        expand_activation: applied after that; as `activation`, but only those that the kernel knows.
        depthwise_use_bias: whether to add a bias after the depthwise convolution.
        depthwise_activation: applied after that; as `expand_activation`.
        epsilon: where given, each pixel is normalised over its channels in front of the pointwise convolution:
            `(z - mean) / sqrt(variance + epsilon)`. A scale and an offset belong into the pointwise filter and bias.
        dense_kernel_size: an integer, or a pair (height, width): the window of a dense convolution, in the place of the
            pointwise one; for blocks of that alone, without expansion, depthwise convolution, norm and gate. None for
            1x1.
        gated: whether the layer is called with a gate, which scales the channels in front of the pointwise convolution.
        residual: whether the layer is called with a residual, which is added before the last activation.
        kernel_initializer: initializer of all filters. Biases and the slopes of PReLU start at zero.
        **kwargs: of `keras.layers.Layer`: `name`, `dtype`, `trainable`, ...

    Input shape:
        `(batch, height, width, channels)`, or with `"channels_first"` `(batch, channels, height, width)`. With `gated`
        or `residual` a list `[x, gate, residual]` of those that there are: `gate` is `(batch, 1, 1, C*M)` (with
        `"channels_first"` `(batch, C*M, 1, 1)`) or `(batch, C*M)`, and `residual` has the output's shape. Without a
        window `x` may be `(batch, channels)`: then each row is a pixel, and the layer is a `keras.layers.Dense`.

    Output shape:
        `(batch, new_height, new_width, filters)`, or `(batch, filters, new_height, new_width)`, or `(batch, filters)`.
        C*M channels without a pointwise convolution, C without a depthwise one too.

    Returns:
        A tensor of the layer's compute dtype: float32, bfloat16, float16 or float64 (which stock ops compute).

    Raises:
        ValueError: an argument out of range, stages that do not go together, inputs whose shapes or number do not fit,
            or a Keras backend other than TensorFlow.
        TypeError: an argument of a kind that cannot be one.

    Source: Sandler et al., "MobileNetV2" (2018); Hu et al., "Squeeze-and-Excitation Networks" (2018) for the gate; Liu
    et al., "A ConvNet for the 2020s" (2022) for the norm.

    Example:

    >>> import numpy as np
    >>> import tf_dwsconv
    >>> x = np.zeros((2, 14, 14, 16), "float32")
    >>> block = tf_dwsconv.FusedConvBlock(  # an inverted residual
    ...     16, 3, expand_filters=96, expand_activation="relu6", depthwise_activation="relu6", residual=True)
    >>> block([x, x]).shape
    TensorShape([2, 14, 14, 16])
    >>> [(weight.name, tuple(weight.shape)) for weight in block.weights if "kernel" in weight.name]
    [('expand_kernel', (1, 1, 16, 96)), ('depthwise_kernel', (3, 3, 96, 1)), ('pointwise_kernel', (1, 1, 96, 16))]
    """

    def __init__(
        self,
        filters=None,
        kernel_size=None,
        strides=1,
        padding="same",
        data_format=None,
        dilation_rate=1,
        depth_multiplier=1,
        activation=None,
        use_bias=True,
        *,
        expand_filters=None,
        expand_use_bias=True,
        expand_activation=None,
        depthwise_use_bias=True,
        depthwise_activation=None,
        epsilon=None,
        dense_kernel_size=None,
        gated=False,
        residual=False,
        kernel_initializer="glorot_uniform",
        **kwargs,
    ):
        check_backend("FusedConvBlock", "stock layers")
        super().__init__(**kwargs)
        self.filters = _count(filters, "filters")
        self.expand_filters = _count(expand_filters, "expand_filters")
        self.kernel_size = None if kernel_size is None else _arguments._pair(kernel_size, "kernel_size")
        self.dense_kernel_size = None
        if dense_kernel_size is not None:
            self.dense_kernel_size = _arguments._pair(dense_kernel_size, "dense_kernel_size")
        self.strides = _arguments._pair(strides, "strides")
        self.dilation_rate = _arguments._pair(dilation_rate, "dilation_rate")
        self.depth_multiplier = _arguments._positive(depth_multiplier, "depth_multiplier")
        self.padding = _arguments.layer_padding(padding)
        self.data_format = keras.config.image_data_format() if data_format is None else data_format
        if self.data_format not in ("channels_last", "channels_first"):
            raise ValueError(f"`data_format` must be 'channels_last' or 'channels_first'; given {data_format!r}.")
        self.use_bias, self.expand_use_bias, self.depthwise_use_bias = use_bias, expand_use_bias, depthwise_use_bias
        self.expand_activation = _inner(expand_activation, "expand_activation")
        self.depthwise_activation = _inner(depthwise_activation, "depthwise_activation")
        if isinstance(activation, str) and activation == "prelu":
            self.activation = activation
        else:
            self.activation = keras.activations.get(_callable_activation(activation, "activation"))
        self.epsilon = None if epsilon is None else _epsilon(epsilon)
        self.gated, self.residual = bool(gated), bool(residual)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self._check_stages()
        self.supports_jit = False
        last = activations.PRELU if self.activation == "prelu" else activations.parse(self.activation)
        if last is not None and last.word == "sigmoid":
            last = None  # stays Keras' own, which leaves its argument on its result for crossentropy losses
        is_in_op = last is not None and (self.filters is not None or last.word == "none")
        self._after = None if is_in_op else self.activation
        self._attributes = self._op_attributes(last or activations.NONE)

    def _check_stages(self) -> None:
        if self.filters is None and self.kernel_size is None and self.expand_filters is None:
            raise ValueError("one of `filters`, `kernel_size` and `expand_filters` must be given.")
        if self.kernel_size is None:
            without = {
                "depth_multiplier": self.depth_multiplier != 1,
                "depthwise_activation": self.depthwise_activation.word != "none",
            }
            if self.dense_kernel_size is None:
                without["strides"] = self.strides != (1, 1)
                without["dilation_rate"] = self.dilation_rate != (1, 1)
                without["padding"] = not isinstance(self.padding, str)
            given = [name for name, is_given in without.items() if is_given]
            if given:
                raise ValueError(f"`{given[0]}` belongs to the depthwise convolution; give `kernel_size` with it.")
        if self.dense_kernel_size is not None:
            others = {
                "kernel_size": self.kernel_size,
                "expand_filters": self.expand_filters,
                "epsilon": self.epsilon,
                "gated": self.gated or None,
            }
            given = [name for name, value in others.items() if value is not None]
            if given or self.filters is None:
                wrong = f"not with `{given[0]}`" if given else "with `filters`"
                raise ValueError(f"`dense_kernel_size` must be given {wrong}; given {self.dense_kernel_size}.")
        if self.filters is None and self.activation == "prelu":
            raise ValueError("`activation` 'prelu' belongs to the pointwise convolution; give `filters` with it.")
        if self.expand_filters is None and self.expand_activation.word != "none":
            raise ValueError("`expand_activation` belongs to the expansion; give `expand_filters` with it.")

    def _op_attributes(self, last: activations.Fused) -> Any:
        channels_last = self.data_format == "channels_last"
        padding, explicit = _arguments.of_layer_padding(self.padding, channels_last)
        separable = Attributes(
            strides=self.strides,
            dilations=self.dilation_rate,
            padding=padding,
            explicit_paddings=explicit,
            data_format="NHWC" if channels_last else "NCHW",
            depthwise_activation=self.depthwise_activation,
            activation=last if self.filters is not None else activations.NONE,
        )
        return conv_block.BlockAttributes(separable, self.expand_activation, self.epsilon)

    @property
    def _inputs(self) -> list[str]:
        return ["x", *(["gate"] if self.gated else []), *(["residual"] if self.residual else [])]

    def _split(self, inputs: Any) -> dict[str, Any]:
        """What the layer was called with, by name: tensors or shapes."""
        names = self._inputs
        if len(names) == 1:
            inputs = list(inputs) if _is_list_of_one(inputs) else [inputs]
        is_list = isinstance(inputs, (list, tuple)) and not _is_shape(inputs)
        if not is_list or len(inputs) != len(names):
            given = len(inputs) if is_list else 1
            raise ValueError(f"`inputs` must be a list of {len(names)} tensors, {names}; given {given}.")
        return dict(zip(names, inputs))

    def build(self, input_shape):
        self._refuse_caller()
        shape = self._split(_shapes_in(input_shape))["x"]
        if len(shape) != 4 and not self._takes_rows(shape):
            rows = "" if self.kernel_size or self.dense_kernel_size else ", or rank 2"
            raise ValueError(f"`inputs` must have rank 4, {self.data_format}{rows}; given shape {tuple(shape)}.")
        shape = self._as_pixels(shape)
        channels = shape[-1 if self.data_format == "channels_last" else 1]
        if channels is None:
            raise ValueError(f"the channels of `inputs` must be known; given shape {tuple(shape)}.")
        self.expand_kernel = self.expand_bias = self.depthwise_kernel = self.depthwise_bias = None
        self.pointwise_kernel = self.bias = None
        self.expand_slopes = self.depthwise_slopes = self.slopes = None
        if self.expand_filters is not None:
            self.expand_kernel = self._filter("expand_kernel", (1, 1, channels, self.expand_filters))
            channels = self.expand_filters
            self.expand_bias = self._offset("expand_bias", channels) if self.expand_use_bias else None
            if self.expand_activation.word == "prelu":
                self.expand_slopes = self._offset("expand_slopes", channels)
        if self.kernel_size is not None:
            self.depthwise_kernel = self._filter(
                "depthwise_kernel", (*self.kernel_size, channels, self.depth_multiplier)
            )
            channels *= self.depth_multiplier
            self.depthwise_bias = self._offset("depthwise_bias", channels) if self.depthwise_use_bias else None
            if self.depthwise_activation.word == "prelu":
                self.depthwise_slopes = self._offset("depthwise_slopes", channels)
        if self.filters is not None:
            window = self.dense_kernel_size or (1, 1)
            self.pointwise_kernel = self._filter("pointwise_kernel", (*window, channels, self.filters))
            self.bias = self._offset("bias", self.filters) if self.use_bias else None
            if self.activation == "prelu":
                self.slopes = self._offset("slopes", self.filters)
        self._output_shape(self._split(_shapes_in(input_shape)))  # raises where a gate or residual does not fit

    def _takes_rows(self, shape: Any) -> bool:
        """Whether an input is [N, channels], and the block has no window that would need more."""
        return len(shape) == 2 and self.kernel_size is None and self.dense_kernel_size is None

    def _as_pixels(self, shape: Any) -> tuple:
        """The shape of pictures of one pixel for that of rows; others as they are."""
        if len(shape) != 2:
            return tuple(shape)
        return (shape[0], 1, 1, shape[1]) if self.data_format == "channels_last" else (*shape, 1, 1)

    def _filter(self, name: str, shape: tuple) -> Any:
        return self.add_weight(name=name, shape=shape, initializer=self.kernel_initializer)

    def _offset(self, name: str, size: int) -> Any:
        return self.add_weight(name=name, shape=(size,), initializer="zeros")

    def _weights_by_name(self) -> dict[str, Any]:
        return {
            "expand_filter": self.expand_kernel,
            "expand_bias": self.expand_bias,
            "depthwise_filter": self.depthwise_kernel,
            "depthwise_bias": self.depthwise_bias,
            "pointwise_filter": self.pointwise_kernel,
            "bias": self.bias,
            "expand_slopes": self.expand_slopes,
            "depthwise_slopes": self.depthwise_slopes,
            "slopes": self.slopes,
        }

    def call(self, inputs):
        _tf_keras.refuse_inputs(inputs)
        given = {name: ops.convert(t, name, None) for name, t in self._split(inputs).items()}
        are_rows = given["x"].shape.rank == 2
        if are_rows:
            for name in given.keys() & {"x", "residual"}:
                given[name] = tf.reshape(given[name], self._as_pixels((-1, given[name].shape[1])))
        x = given["x"]
        weights = {name: None if v is None else _value(v, x.dtype) for name, v in self._weights_by_name().items()}
        tensors = conv_block.Tensors(scale=given.get("gate"), residual=given.get("residual"), **weights)
        y = conv_block.run(x, tensors, self._attributes)
        if are_rows:
            y = tf.reshape(y, (-1, self.filters or self.expand_filters))
        return y if self._after is None else self._after(y)

    def _output_shape(self, shapes: dict[str, Any]) -> tuple:
        known = {name: conv_block.Shape(list(v.shape)) for name, v in self._weights_by_name().items() if v is not None}
        for argument, name in (("scale", "gate"), ("residual", "residual")):
            if name in shapes:
                shape = self._as_pixels(shapes[name]) if name == "residual" else shapes[name]
                known[argument] = conv_block.Shape(list(shape))
        x = self._as_pixels(shapes["x"])
        output = conv_block.check(list(x), conv_block.Tensors(**known), self._attributes)
        if len(shapes["x"]) == 4:
            return tuple(output)
        return output[0], output[3 if self.data_format == "channels_last" else 1]

    def compute_output_shape(self, input_shape):
        if not self.built:
            self.build(input_shape)
        return self._output_shape(self._split(_shapes_in(input_shape)))

    def get_config(self):
        config = super().get_config()
        config.update(
            filters=self.filters,
            kernel_size=self.kernel_size,
            strides=self.strides,
            padding=self.padding,
            data_format=self.data_format,
            dilation_rate=self.dilation_rate,
            depth_multiplier=self.depth_multiplier,
            activation="prelu" if self.activation == "prelu" else keras.activations.serialize(self.activation),
            use_bias=self.use_bias,
            expand_filters=self.expand_filters,
            expand_use_bias=self.expand_use_bias,
            expand_activation=activations.spelled(self.expand_activation),
            depthwise_use_bias=self.depthwise_use_bias,
            depthwise_activation=activations.spelled(self.depthwise_activation),
            epsilon=self.epsilon,
            dense_kernel_size=self.dense_kernel_size,
            gated=self.gated,
            residual=self.residual,
            kernel_initializer=keras.initializers.serialize(self.kernel_initializer),
        )
        return config


def _is_shape(inputs: Any) -> bool:
    return all(size is None or isinstance(size, int) for size in inputs)


def _is_list_of_one(inputs: Any) -> bool:
    return isinstance(inputs, (list, tuple)) and len(inputs) == 1 and not _is_shape(inputs)


def _shapes_in(input_shape: Any) -> Any:
    """One shape as a tuple, or several as a list of tuples: Keras hands over lists from saved models."""
    if input_shape and isinstance(input_shape[0], (list, tuple)):
        return [tuple(shape) for shape in input_shape]
    return tuple(input_shape)


def _count(value: Any, argument: str) -> Optional[int]:
    return None if value is None else _arguments._positive(value, argument)


def _epsilon(value: Any) -> float:
    if isinstance(value, (bool, str)) or not hasattr(value, "__float__") or not 0 < float(value) < math.inf:
        raise ValueError(f"`epsilon` must be a positive number or None; given {value!r}.")
    return float(value)


def _inner(activation: Any, argument: str) -> activations.Fused:
    """An activation in front of another stage, as a user gives it or out of a config."""
    if isinstance(activation, activations.Fused):
        return activation
    if isinstance(activation, str) and activation == "prelu":
        return activations.PRELU
    # In a config a layer or a function may be serialized.
    restored = keras.activations.get(activation) if isinstance(activation, dict) else activation
    return activations.require(restored, argument)
