"""The Keras layer of a whole block, which `tf_dwsconv.convert` puts where the layers of a block were."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras

from tf_dwsconv import _arguments, _shapes, _tf_keras, activations
from tf_dwsconv._arguments import Tensors
from tf_dwsconv.layers._described import Described
from tf_dwsconv.layers._shared import check_backend, keras_activation, last_activation, value

if keras.config.backend() == "tensorflow":
    import tensorflow as tf

    from tf_dwsconv._tf import dispatch


# Arguments that a config holds as the layer has them.
_PLAIN = (
    "filters", "kernel_size", "strides", "padding", "data_format", "dilation_rate", "depth_multiplier", "use_bias",
    "expand_filters", "expand_use_bias", "depthwise_use_bias", "epsilon", "dense_kernel_size", "gated", "residual",
)  # fmt: skip

# The layer's weights by the names of a call's tensors.
_WEIGHTS = {
    "expand_filter": "expand_kernel",
    "depthwise_filter": "depthwise_kernel",
    "pointwise_filter": "pointwise_kernel",
    **{f"{stage}{kind}": f"{stage}{kind}" for stage in ("expand_", "depthwise_", "") for kind in ("bias", "slopes")},
}


@keras.saving.register_keras_serializable(package="tf_dwsconv")
class FusedConvBlock(Described, _tf_keras.NotInside, keras.layers.Layer):
    """A block of a network as one fused op. Every stage is optional, but it needs a convolution.

        y = activation( pointwise( gate * norm( Z ) ) + bias + residual )
        Z = depthwise_activation( depthwise( expand_activation( expand(x) + expand_bias ) ) + depthwise_bias )

    `tf_dwsconv.convert` makes these layers, with batch norms folded into filters and biases; you may also use them by
    hand. The layer trains: our kernels compute the gradient of a block that has only the depthwise and the pointwise
    convolution, stock TensorFlow ops that of others. Like `DepthwiseSepConv2D`, it stays out of XLA.

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
        expand_filters: E, outputs of a dense 1x1 convolution in front; None for a block without one.
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
        C*M channels without a pointwise convolution, E without a depthwise one too.

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
        filters: int | None = None,
        kernel_size: int | Sequence[int] | None = None,
        strides: int | Sequence[int] = 1,
        padding: str | Sequence[Any] = "same",
        data_format: str | None = None,
        dilation_rate: int | Sequence[int] = 1,
        depth_multiplier: int = 1,
        activation: Any = None,
        use_bias: bool = True,
        *,
        expand_filters: int | None = None,
        expand_use_bias: bool = True,
        expand_activation: Any = None,
        depthwise_use_bias: bool = True,
        depthwise_activation: Any = None,
        epsilon: float | None = None,
        dense_kernel_size: int | Sequence[int] | None = None,
        gated: bool = False,
        residual: bool = False,
        kernel_initializer: Any = "glorot_uniform",
        **kwargs: Any,
    ) -> None:
        check_backend("FusedConvBlock", "stock layers")
        super().__init__(**kwargs)
        self.filters = _optional(_arguments.positive, filters, "filters")
        self.expand_filters = _optional(_arguments.positive, expand_filters, "expand_filters")
        self.kernel_size = _optional(_arguments.pair, kernel_size, "kernel_size")
        self.dense_kernel_size = _optional(_arguments.pair, dense_kernel_size, "dense_kernel_size")
        self.strides = _arguments.pair(strides, "strides")
        self.dilation_rate = _arguments.pair(dilation_rate, "dilation_rate")
        self.depth_multiplier = _arguments.positive(depth_multiplier, "depth_multiplier")
        self.padding = _arguments.layer_padding(padding)
        self.data_format = keras.config.image_data_format() if data_format is None else data_format
        if self.data_format not in ("channels_last", "channels_first"):
            raise ValueError(f"`data_format` must be 'channels_last' or 'channels_first'; given {data_format!r}.")
        self.use_bias, self.expand_use_bias, self.depthwise_use_bias = use_bias, expand_use_bias, depthwise_use_bias
        self.expand_activation = _inner(expand_activation, "expand_activation")
        self.depthwise_activation = _inner(depthwise_activation, "depthwise_activation")
        is_prelu = isinstance(activation, str) and activation == "prelu"
        self.activation = activation if is_prelu else keras_activation(activation, "activation")
        self.epsilon = _optional(_epsilon, epsilon, "epsilon")
        self.gated, self.residual = bool(gated), bool(residual)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self._check_stages()
        self.supports_jit = False
        last, self._after = last_activation(self.activation)
        if self.filters is None and last.word != "none":  # which the op applies behind a pointwise convolution alone
            last, self._after = activations.NONE, self.activation
        self._attributes = _arguments.of_layer(
            self,
            self.padding,
            depthwise_activation=self.depthwise_activation,
            activation=last,
            expand_activation=self.expand_activation,
            epsilon=self.epsilon,
        )

    def _check_stages(self) -> None:
        if self.filters is None and self.kernel_size is None and self.expand_filters is None:
            raise ValueError("one of `filters`, `kernel_size` and `expand_filters` must be given.")
        has_window = self.kernel_size is not None or self.dense_kernel_size is not None
        of_depthwise = {
            "depth_multiplier": self.kernel_size is None and self.depth_multiplier != 1,
            "depthwise_activation": self.kernel_size is None and self.depthwise_activation.word != "none",
            "strides": not has_window and self.strides != (1, 1),
            "dilation_rate": not has_window and self.dilation_rate != (1, 1),
            "padding": not has_window and not isinstance(self.padding, str),
        }
        given = [name for name, is_given in of_depthwise.items() if is_given]
        if given:
            raise ValueError(f"`{given[0]}` belongs to the depthwise convolution; give `kernel_size` with it.")
        if self.dense_kernel_size is not None:
            others = {
                "kernel_size": self.kernel_size is not None,
                "expand_filters": self.expand_filters is not None,
                "epsilon": self.epsilon is not None,
                "gated": self.gated,
            }
            given = [name for name, is_given in others.items() if is_given]
            if given or self.filters is None:
                wrong = f"not with `{given[0]}`" if given else "with `filters`"
                raise ValueError(f"`dense_kernel_size` must be given {wrong}; given {self.dense_kernel_size}.")
        if self.filters is None and self.activation == "prelu":
            raise ValueError("`activation` 'prelu' belongs to the pointwise convolution; give `filters` with it.")
        if self.expand_filters is None and self.expand_activation.word != "none":
            raise ValueError("`expand_activation` belongs to the expansion; give `expand_filters` with it.")

    def describe(self) -> str:
        """The stages in one short line, for example "expand 96 -> dw 3x3/2 -> 24 + residual"."""
        window = self.kernel_size or self.dense_kernel_size
        size = "" if window is None else "x".join(map(str, window))
        for values, sign in ((self.strides, "/"), (self.dilation_rate, " dilated ")):
            if values != (1, 1):
                size += sign + (str(values[0]) if values[0] == values[1] else "x".join(map(str, values)))
        stages = [f"expand {self.expand_filters}"] if self.expand_filters else []
        if self.kernel_size is not None:
            stages.append(f"dw {size}" + (f" x{self.depth_multiplier}" if self.depth_multiplier > 1 else ""))
        stages += [word for word, is_there in (("norm", self.epsilon is not None), ("gate", self.gated)) if is_there]
        if self.dense_kernel_size is not None:
            stages.append(f"conv {size}")
        if self.filters is not None:
            stages += ([] if stages else ["1x1"]) + [str(self.filters)]
        return " -> ".join(stages) + (" + residual" if self.residual else "")

    @property
    def _inputs(self) -> list[str]:
        return ["x", *(["gate"] if self.gated else []), *(["residual"] if self.residual else [])]

    def _split(self, inputs: Any) -> dict[str, Any]:
        """What the layer was called with, by name: tensors or shapes."""
        names = self._inputs
        is_list = isinstance(inputs, (list, tuple)) and not _is_shape(inputs)
        if len(names) == 1 and not (is_list and len(inputs) == 1):
            inputs, is_list = [inputs], True
        if not is_list or len(inputs) != len(names):
            given = len(inputs) if is_list else 1
            raise ValueError(f"`inputs` must be a list of {len(names)} tensors, {names}; given {given}.")
        return dict(zip(names, inputs))

    def build(self, input_shape: Any) -> None:
        self._refuse_caller()
        shapes = self._split(_shapes_in(input_shape))
        shape, has_window = shapes["x"], self.kernel_size is not None or self.dense_kernel_size is not None
        if len(shape) != 4 and not (len(shape) == 2 and not has_window):
            rows = "" if has_window else ", or rank 2"
            raise ValueError(f"`inputs` must have rank 4, {self.data_format}{rows}; given shape {tuple(shape)}.")
        shape = self._as_pixels(shape)
        channels = shape[-1 if self.data_format == "channels_last" else 1]
        if channels is None:
            raise ValueError(f"the channels of `inputs` must be known; given shape {tuple(shape)}.")
        for name in _WEIGHTS.values():
            setattr(self, name, None)
        if self.expand_filters is not None:
            shape, activation = (1, 1, channels, self.expand_filters), self.expand_activation
            channels = self._add_stage("expand_", shape, self.expand_use_bias, activation)
        if self.kernel_size is not None:
            shape, activation = (*self.kernel_size, channels, self.depth_multiplier), self.depthwise_activation
            channels = self._add_stage("depthwise_", shape, self.depthwise_use_bias, activation)
        if self.filters is not None:
            shape = (*(self.dense_kernel_size or (1, 1)), channels, self.filters)
            self._add_stage("", shape, self.use_bias, self._attributes.activation)
        self._output_shape(shapes)  # raises where a gate or residual does not fit

    def _add_stage(self, stage: str, shape: tuple, use_bias: bool, activation: activations.Fused) -> int:
        """Makes the weights of a convolution; returns its output channels."""
        name, channels = f"{stage or 'pointwise_'}kernel", math.prod(shape[2:] if stage == "depthwise_" else shape[3:])
        setattr(self, name, self.add_weight(name=name, shape=shape, initializer=self.kernel_initializer))
        for name, is_there in ((f"{stage}bias", use_bias), (f"{stage}slopes", activation.word == "prelu")):
            if is_there:
                setattr(self, name, self.add_weight(name=name, shape=(channels,), initializer="zeros"))
        return channels

    def _as_pixels(self, shape: Any) -> tuple:
        """The shape of pictures of one pixel for that of rows, [N, channels]; others as they are."""
        if len(shape) != 2:
            return tuple(shape)
        return (shape[0], 1, 1, shape[1]) if self.data_format == "channels_last" else (*shape, 1, 1)

    def call(self, inputs: Any) -> Any:
        _tf_keras.refuse_inputs(inputs)
        given = {name: dispatch.convert(t, name, None) for name, t in self._split(inputs).items()}
        are_rows = given["x"].shape.rank == 2
        if are_rows:
            for name in given.keys() & {"x", "residual"}:
                given[name] = tf.reshape(given[name], self._as_pixels((-1, given[name].shape[1])))
        x = given.pop("x")
        weights = {name: value(getattr(self, attribute), x.dtype) for name, attribute in _WEIGHTS.items()}
        y = dispatch.run(x, Tensors(**given, **weights), self._attributes)
        if are_rows:
            y = tf.reshape(y, (-1, self.filters or self.expand_filters))
        return y if self._after is None else self._after(y)

    def _output_shape(self, shapes: dict[str, Any]) -> tuple:
        weights = {name: getattr(self, attribute) for name, attribute in _WEIGHTS.items()}
        others = {name: shape if name == "gate" else self._as_pixels(shape) for name, shape in shapes.items()}
        x = others.pop("x")
        known = Tensors(**weights).map(lambda weight: tuple(weight.shape))._replace(**others)
        output = _shapes.check(x, known, self._attributes)
        return tuple(output) if len(shapes["x"]) == 4 else (output[0], output[self._attributes.channel_axis])

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        if not self.built:
            self.build(input_shape)
        return self._output_shape(self._split(_shapes_in(input_shape)))

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        config.update({name: getattr(self, name) for name in _PLAIN})
        config.update(
            activation="prelu" if self.activation == "prelu" else keras.activations.serialize(self.activation),
            expand_activation=activations.spelled(self.expand_activation),
            depthwise_activation=activations.spelled(self.depthwise_activation),
            kernel_initializer=keras.initializers.serialize(self.kernel_initializer),
        )
        return config


def _is_shape(inputs: Any) -> bool:
    return all(size is None or isinstance(size, int) for size in inputs)


def _shapes_in(input_shape: Any) -> Any:
    """One shape as a tuple, or several as a list of tuples: Keras hands over lists from saved models."""
    if input_shape and isinstance(input_shape[0], (list, tuple)):
        return [tuple(shape) for shape in input_shape]
    return tuple(input_shape)


def _optional(check: Any, given: Any, argument: str) -> Any:
    return None if given is None else check(given, argument)


def _epsilon(given: Any, argument: str) -> float:
    if isinstance(given, (bool, str)) or not hasattr(given, "__float__") or not 0 < float(given) < math.inf:
        raise ValueError(f"`{argument}` must be a positive number or None; given {given!r}.")
    return float(given)


def _inner(activation: Any, argument: str) -> activations.Fused:
    """An activation in front of another stage, as a user gives it or out of a config."""
    if isinstance(activation, activations.Fused):
        return activation
    if isinstance(activation, str) and activation == "prelu":
        return activations.PRELU
    # In a config a layer or a function may be serialized.
    restored = keras.activations.get(activation) if isinstance(activation, dict) else activation
    return activations.require(restored, argument)
