"""The Keras layer of a depthwise convolution alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from tf_dwsconv import _arguments, _tf_keras
from tf_dwsconv._arguments import Tensors
from tf_dwsconv.layers._shared import check_backend, keras_activation, last_activation, value

if keras.config.backend() == "tensorflow":
    from tf_dwsconv._tf import dispatch


@keras.saving.register_keras_serializable(package="tf_dwsconv")
class FusedDepthwiseConv2D(_tf_keras.NotInside, keras.layers.DepthwiseConv2D):
    """2D depthwise convolution whose bias and activation run with it, and whose gradients are one op.

    It replaces `keras.layers.DepthwiseConv2D` where no pointwise convolution follows at once, as in networks with a
    trained batch norm between the halves: arguments, weights, config and results are the same. The gradient reads the
    input and the gradient of the result once for both of its results. In addition, the layer takes strides together
    with dilations.

    An activation that the kernel does not know runs as an op of its own. Inside XLA, in float64 and if the op library
    cannot load, stock TensorFlow ops compute the same, with one warning unless a user chose that.

    Args:
        kernel_size: an integer, or a pair (height, width): the window.
        strides: an integer, or a pair (height, width).
        padding: `"valid"` or `"same"`.
        depth_multiplier: M, the outputs for each input channel.
        data_format: `"channels_last"` or `"channels_first"`; by default what Keras is configured to.
        dilation_rate: an integer, or a pair (height, width).
        activation: None, a name, a function, a layer, or a pair such as `("leaky_relu", slope)` (see
            `tf_dwsconv.activations.parse`).
        **kwargs: the others of `keras.layers.DepthwiseConv2D`.

    Input shape:
        `(batch, height, width, channels)`, or `(batch, channels, height, width)` with `"channels_first"`.

    Output shape:
        `(batch, new_height, new_width, channels * depth_multiplier)`, or with `"channels_first"`
        `(batch, channels * depth_multiplier, new_height, new_width)`.

    Returns:
        A tensor of the layer's compute dtype: float32, bfloat16, float16 or float64.

    Raises:
        ValueError: an argument out of range, or a Keras backend other than TensorFlow.
        TypeError: an activation of a kind that cannot be one.

    Source: Howard et al., "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications" (2017).

    Example:

    >>> import numpy as np
    >>> import tf_dwsconv
    >>> layer = tf_dwsconv.FusedDepthwiseConv2D(3, strides=2, padding="same", use_bias=False)
    >>> layer(np.zeros((4, 10, 10, 12), "float32")).shape
    TensorShape([4, 5, 5, 12])
    """

    def __init__(
        self,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int] = (1, 1),
        padding: str = "valid",
        depth_multiplier: int = 1,
        data_format: str | None = None,
        dilation_rate: int | Sequence[int] = (1, 1),
        activation: Any = None,
        **kwargs: Any,
    ) -> None:
        check_backend("FusedDepthwiseConv2D", "keras.layers.DepthwiseConv2D")
        function = keras_activation(activation, "activation")
        window = (kernel_size, strides, padding, depth_multiplier, data_format, dilation_rate)
        super().__init__(*window, function, **kwargs)
        self.supports_jit = False  # XLA cannot call the kernel: with this, jit_compile="auto" leaves it alone

    def build(self, input_shape: Any) -> None:
        self._refuse_caller()
        super().build(input_shape)

    def call(self, inputs: Any) -> Any:
        _tf_keras.refuse_inputs(inputs)
        x = dispatch.convert(inputs, "inputs", None)
        fused, after = last_activation(self.activation)
        tensors = Tensors(depthwise_filter=value(self.kernel, x.dtype), depthwise_bias=value(self.bias, x.dtype))
        attributes = _arguments.of_layer(self, self.padding, depthwise_activation=fused)
        y = dispatch.run(x, tensors, attributes)
        return y if after is None else after(y)
