"""The Keras layer of a depthwise-separable convolution."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras

from tf_dwsconv import _arguments, _shapes, _tf_keras, activations
from tf_dwsconv.layers._shared import check_backend, keras_activation, last_activation, value

if keras.config.backend() == "tensorflow":
    from tf_dwsconv._tf import dispatch, library


@keras.saving.register_keras_serializable(package="tf_dwsconv")
class DepthwiseSepConv2D(_tf_keras.NotInside, keras.layers.SeparableConv2D):
    """2D separable convolution whose halves, biases and activations run as one fused kernel.

    It replaces `keras.layers.SeparableConv2D`: arguments, weights, config and results are the same. In addition,
    the layer takes a bias and an activation between the halves, and strides together with dilations.

    An activation that the kernel does not know runs as an op of its own after it. Inside XLA, in float64 and if the op
    library cannot load, stock TensorFlow ops compute the same, with one warning unless a user chose that.
    A `tf.function` that was traced outside XLA keeps the kernel, and TensorFlow refuses to compile it from within one
    with `jit_compile=True`: call the layer there, or a `tf.function` of its own.

    Args:
        filters: K, the number of output channels.
        kernel_size: an integer, or a pair (height, width): the depthwise window.
        strides: an integer, or a pair (height, width).
        padding: `"valid"`, `"same"`, or two pairs ((top, bottom), (left, right)).
        data_format: `"channels_last"` or `"channels_first"`; by default what Keras is configured to.
        dilation_rate: an integer, or a pair (height, width).
        depth_multiplier: M, the outputs of the depthwise half for each input channel.
        activation: None, a name, a function, a layer, or a pair such as `("leaky_relu", slope)` or
            `("relu", {"max_value": 4.0})` (see `tf_dwsconv.activations.parse`).
        use_bias: whether to add a bias after the pointwise half.
        depthwise_initializer, pointwise_initializer, bias_initializer: initializers of the weights.
        depthwise_regularizer, pointwise_regularizer, bias_regularizer: regularizers of the weights, or None.
        activity_regularizer: regularizer of the output, or None.
        depthwise_constraint, pointwise_constraint, bias_constraint: constraints on the weights, or None.
        depthwise_use_bias: whether to add a bias between the halves.
        depthwise_activation: applied between the halves; as `activation`. One that the kernel does not know makes stock
            ops compute the layer, with one warning.
        depthwise_bias_initializer, depthwise_bias_regularizer, depthwise_bias_constraint: of the bias between.
        **kwargs: of `keras.layers.Layer`: `name`, `dtype`, `trainable`, ...

    Input shape:
        `(batch, height, width, channels)`, or `(batch, channels, height, width)` with `"channels_first"`.

    Output shape:
        `(batch, new_height, new_width, filters)`, or `(batch, filters, new_height, new_width)`.

    Returns:
        A tensor of the layer's compute dtype: float32, bfloat16, float16 or float64.

    Raises:
        ValueError: an argument out of range, or a Keras backend other than TensorFlow.
        TypeError: an activation of a kind that cannot be one.

    Source: Chollet, "Xception: Deep Learning with Depthwise Separable Convolutions" (2017); Sandler et al.,
    "MobileNetV2" (2018) for the activation between the halves.

    Example:

    >>> import numpy as np
    >>> import tf_dwsconv
    >>> layer = tf_dwsconv.DepthwiseSepConv2D(
    ...     8, 3, strides=2, padding="same", activation="relu6", depthwise_use_bias=True, depthwise_activation="relu6")
    >>> layer(np.zeros((4, 10, 10, 12), "float32")).shape
    TensorShape([4, 5, 5, 8])
    >>> [tuple(weight.shape) for weight in layer.weights]
    [(3, 3, 12, 1), (1, 1, 12, 8), (8,), (12,)]
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int] = (1, 1),
        padding: str | Sequence[Any] = "valid",
        data_format: str | None = None,
        dilation_rate: int | Sequence[int] = (1, 1),
        depth_multiplier: int = 1,
        activation: Any = None,
        use_bias: bool = True,
        depthwise_initializer: Any = "glorot_uniform",
        pointwise_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        depthwise_regularizer: Any = None,
        pointwise_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        depthwise_constraint: Any = None,
        pointwise_constraint: Any = None,
        bias_constraint: Any = None,
        *,
        depthwise_use_bias: bool = False,
        depthwise_activation: Any = None,
        depthwise_bias_initializer: Any = "zeros",
        depthwise_bias_regularizer: Any = None,
        depthwise_bias_constraint: Any = None,
        **kwargs: Any,
    ) -> None:
        check_backend("DepthwiseSepConv2D", "keras.layers.SeparableConv2D")
        padding = _arguments.layer_padding(padding)
        super().__init__(
            filters, kernel_size, strides, padding if isinstance(padding, str) else "valid", data_format, dilation_rate,
            depth_multiplier, keras_activation(activation, "activation"), use_bias, depthwise_initializer,
            pointwise_initializer, bias_initializer, depthwise_regularizer, pointwise_regularizer, bias_regularizer,
            activity_regularizer, depthwise_constraint, pointwise_constraint, bias_constraint, **kwargs,
        )  # fmt: skip
        self.padding = padding  # which Keras knows by word alone
        self.depthwise_use_bias = depthwise_use_bias
        self.depthwise_activation = keras_activation(depthwise_activation, "depthwise_activation")
        self.depthwise_bias_initializer = keras.initializers.get(depthwise_bias_initializer)
        self.depthwise_bias_regularizer = keras.regularizers.get(depthwise_bias_regularizer)
        self.depthwise_bias_constraint = keras.constraints.get(depthwise_bias_constraint)
        self.depthwise_bias = None
        # XLA cannot call the kernel: with this, jit_compile="auto" leaves it alone.
        self.supports_jit = False
        self._arguments = _call_of(self)

    def build(self, input_shape: Any) -> None:
        self._refuse_caller()
        if len(input_shape) != 4:
            raise ValueError(f"`inputs` must have rank 4, {self.data_format}; given shape {tuple(input_shape)}.")
        super().build(input_shape)
        if self.depthwise_use_bias:
            channels = input_shape[-1 if self.data_format == "channels_last" else 1]
            self.depthwise_bias = self.add_weight(
                name="depthwise_bias",
                shape=(channels * self.depth_multiplier,),
                initializer=self.depthwise_bias_initializer,
                regularizer=self.depthwise_bias_regularizer,
                constraint=self.depthwise_bias_constraint,
                trainable=True,
                dtype=self.dtype,
            )
        self.input_spec = keras.layers.InputSpec(ndim=4, axes=self.input_spec.axes)

    def call(self, inputs: Any) -> Any:
        arguments = self._arguments
        if arguments.settings != _settings(self):  # users do set, say, `layer.activation` later
            arguments = self._arguments = _call_of(self)
        _tf_keras.refuse_inputs(inputs)
        x = dispatch.convert(inputs, "inputs", None)
        tensors = _arguments.Tensors(
            depthwise_filter=value(self.depthwise_kernel, x.dtype),
            depthwise_bias=value(self.depthwise_bias, x.dtype),
            pointwise_filter=value(self.pointwise_kernel, x.dtype),
            bias=value(self.bias, x.dtype),
        )
        if arguments.depthwise_function is None:
            outputs = dispatch.run(x, tensors, arguments.attributes)
        else:
            library.warn_once(
                "depthwise_activation",
                f"tf_dwsconv computes with stock TensorFlow ops where `depthwise_activation` is not one of "
                f"{', '.join(activations.WORDS)}; here it is {arguments.depthwise_function!r}.",
            )
            outputs = dispatch.run_stock(
                x, tensors, arguments.attributes, depthwise_function=arguments.depthwise_function
            )
        return outputs if arguments.after is None else arguments.after(outputs)

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        if isinstance(self.padding, str):
            return super().compute_output_shape(input_shape)
        attributes = self._arguments.attributes
        rows, columns = _shapes.spatial_sizes(input_shape, self.kernel_size, attributes, "kernel_size")
        channels_last = self.data_format == "channels_last"
        return (input_shape[0], *((rows, columns, self.filters) if channels_last else (self.filters, rows, columns)))

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        config.update(
            depthwise_use_bias=self.depthwise_use_bias,
            depthwise_activation=keras.activations.serialize(self.depthwise_activation),
            depthwise_bias_initializer=keras.initializers.serialize(self.depthwise_bias_initializer),
            depthwise_bias_regularizer=keras.regularizers.serialize(self.depthwise_bias_regularizer),
            depthwise_bias_constraint=keras.constraints.serialize(self.depthwise_bias_constraint),
        )
        return config


class _Call(NamedTuple):
    """A layer's settings as the op takes them, worked out once and not at each call.

    settings: what they were worked out from. depthwise_function: the activation between the halves if the kernel does
    not know it. after: the last activation if the op does not apply it.
    """

    settings: tuple
    attributes: _arguments.Attributes
    depthwise_function: Any
    after: Any


_settings = operator.attrgetter(
    "strides", "dilation_rate", "padding", "data_format", "depthwise_activation", "activation"
)


def _call_of(layer: DepthwiseSepConv2D) -> _Call:
    middle = activations.parse(layer.depthwise_activation, "depthwise_activation")
    last, after = last_activation(layer.activation)
    attributes = _arguments.of_layer(
        layer, _arguments.layer_padding(layer.padding), depthwise_activation=middle or activations.NONE, activation=last
    )
    return _Call(_settings(layer), attributes, layer.depthwise_activation if middle is None else None, after)
