"""The block: what stands around a depthwise-separable convolution in whole networks, as one call.

    y = activation( pointwise( scale * norm( Z ) ) + bias + residual )
    Z = depthwise_activation( depthwise( expand_activation( expand(x) + expand_bias ) ) + depthwise_bias )

Every stage is optional, but one convolution is there. An inverted residual of MobileNetV2 has expand, depthwise,
pointwise and residual; ConvNeXt has depthwise, norm and pointwise; where squeeze-excite follows, there is a depthwise
convolution alone, and `scale` at the pointwise one behind it.

`run` is what `FusedConvBlock` calls. Where nothing but depthwise and pointwise is there, it is the op of
`tf_dwsconv.depthwise_sep_conv2d`, with its native gradient. All else is the op `TfDwsconv>ConvBlock`, whose gradient is
that of stock TensorFlow ops. Those compute the block itself in XLA, in float64 and where the library has no such op.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, Optional

import tensorflow as tf
from tensorflow.python.framework import ops as framework_ops

from tf_dwsconv import _guard, _library, _shapes, gradients, ops, stock
from tf_dwsconv._arguments import Attributes
from tf_dwsconv.activations import NONE, Fused, of_op, op_arguments


class Tensors(NamedTuple):
    """The tensors of a block beside its input; None for a stage or an addend that is not there.

    expand_filter: [1, 1, E, C], of a dense 1x1 convolution; expand_bias: [C].
    depthwise_filter: [R, S, C, M]; depthwise_bias: [C*M].
    scale: [N, C*M], or [N, 1, 1, C*M] ([N, C*M, 1, 1] with NCHW): a factor for each channel of each picture.
    pointwise_filter: [1, 1, C*M, K]; bias: [K]. With neither expansion nor depthwise convolution it may be that of any
        dense convolution, [R, S, C, K], to which strides, dilations and padding apply.
    residual: of the output's shape.
    expand_slopes: [C], depthwise_slopes: [C*M], slopes: [K]; each is there if its stage's activation is "prelu".
    """

    expand_filter: Optional[tf.Tensor] = None
    expand_bias: Optional[tf.Tensor] = None
    depthwise_filter: Optional[tf.Tensor] = None
    depthwise_bias: Optional[tf.Tensor] = None
    scale: Optional[tf.Tensor] = None
    pointwise_filter: Optional[tf.Tensor] = None
    bias: Optional[tf.Tensor] = None
    residual: Optional[tf.Tensor] = None
    expand_slopes: Optional[tf.Tensor] = None
    depthwise_slopes: Optional[tf.Tensor] = None
    slopes: Optional[tf.Tensor] = None


class BlockAttributes(NamedTuple):
    """The attributes of a block.

    separable: strides, dilations and padding of the depthwise convolution, the layout, the activation after the
        depthwise convolution and the last one.
    expand_activation: after the expansion.
    epsilon: added to the variance before its root, where each pixel is normalised over its channels; None for no norm.
    """

    separable: Attributes = Attributes()
    expand_activation: Fused = NONE
    epsilon: Optional[float] = None


# The op's inputs behind `input`, in its order; each is a list of at most one tensor.
_INPUTS = (
    "expand_filter",
    "expand_bias",
    "depthwise_filter",
    "depthwise_bias",
    "pointwise_filter",
    "bias",
    "scale",
    "residual",
    "expand_slopes",
    "depthwise_slopes",
    "slopes",
)


def run(x: tf.Tensor, tensors: Tensors, attributes: BlockAttributes, name: Optional[str] = None) -> tf.Tensor:
    """Computes a block.

    Args:
        x: `[N, H, W, E]`, or `[N, E, H, W]` with NCHW; C channels where there is no expansion. float32, bfloat16,
            float16, or float64, which stock ops compute.
        tensors: of `x`'s dtype, tensors or variables.
        attributes: see `BlockAttributes`.
        name: of the op, optional.

    Returns:
        `[N, Ho, Wo, K]`, or `[N, K, Ho, Wo]`, of `x`'s dtype; C*M channels where there is no pointwise convolution.

    Raises:
        ValueError: stages that do not go together, or shapes that do not fit, where they are found in Python.
        tf.errors.InvalidArgumentError: shapes that do not fit, where the op finds them.

    Source: Sandler et al., "MobileNetV2" (2018); Howard et al., "Searching for MobileNetV3" (2019) for `scale`; Liu et
    al., "A ConvNet for the 2020s" (2022) for the norm.
    """
    if _is_separable(tensors, attributes):
        return ops.run(
            x,
            tensors.depthwise_filter,
            tensors.pointwise_filter,
            tensors.depthwise_bias,
            tensors.bias,
            tensors.residual,
            attributes.separable,
            name,
        )
    block_op = None if ops.fused_op(x.dtype) is None else _library.block_op()
    if block_op is None:
        return run_stock(x, tensors, attributes, name)
    separable = attributes.separable
    lists = {key: () if value is None else (value,) for key, value in tensors._asdict().items()}
    if tensors.scale is not None:
        lists["scale"] = (_scale_matrix(tensors.scale, separable),)
    return block_op(
        input=x,
        **lists,
        strides=separable.strides,
        dilations=separable.dilations,
        padding=separable.padding,
        explicit_paddings=separable.explicit_paddings,
        data_format=separable.data_format,
        **op_arguments("expand_", attributes.expand_activation),
        **op_arguments("depthwise_", separable.depthwise_activation),
        **op_arguments("", separable.activation),
        normalize=attributes.epsilon is not None,
        epsilon=attributes.epsilon or 0.0,
        stable_filters=framework_ops.executing_eagerly_outside_functions(),
        name=name,
    )


def _is_separable(tensors: Tensors, attributes: BlockAttributes) -> bool:
    """Whether the op of depthwise_sep_conv2d computes it."""
    return (
        tensors.depthwise_filter is not None
        and tensors.pointwise_filter is not None
        and tensors.expand_filter is None
        and tensors.scale is None
        and attributes.epsilon is None
        and tensors.depthwise_slopes is None
        and tensors.slopes is None
    )


def _scale_matrix(scale: tf.Tensor, separable: Attributes) -> tf.Tensor:
    """The scale as the op takes it: [N, C*M] or [N, 1, 1, C*M]. With NCHW it has the same elements in another shape."""
    if separable.data_format == "NCHW" and scale.shape.rank != 2:
        return tf.reshape(scale, tf.shape(scale)[:2])
    return scale


def run_stock(x: Any, tensors: Tensors, attributes: BlockAttributes, name: Optional[str] = None) -> tf.Tensor:
    """As `run`, by stock TensorFlow ops: every sum in float32 (float64 in float64), rounded once at the end."""
    with tf.name_scope(name or "conv_block"):
        x = tf.convert_to_tensor(x)
        tensors = Tensors(*(None if t is None else tf.convert_to_tensor(t) for t in tensors))
        return _stock(x, tensors, attributes)


def _stock(x: tf.Tensor, tensors: Tensors, attributes: BlockAttributes) -> tf.Tensor:
    dtype, separable = x.dtype, attributes.separable
    shapes = Tensors(*(None if t is None else Shape(stock.static_shape(t)) for t in tensors))
    output_shape = check(stock.static_shape(x), shapes, attributes)
    z = stock.to_nhwc(stock.widen(x), separable)
    wide = Tensors(*(None if t is None else stock.widen(t) for t in tensors))
    if wide.expand_filter is not None:
        z = stock.pointwise(z, wide.expand_filter)
        z = z if wide.expand_bias is None else z + wide.expand_bias
        z = stock.activate(z, attributes.expand_activation, wide.expand_slopes)
    if wide.depthwise_filter is not None:
        z = stock.depthwise(*_guarded(z, wide.depthwise_filter, separable), separable)
        z = z if wide.depthwise_bias is None else z + wide.depthwise_bias
        z = stock.activate(z, separable.depthwise_activation, wide.depthwise_slopes)
    if attributes.epsilon is not None:
        mean = tf.reduce_mean(z, axis=-1, keepdims=True)
        variance = tf.reduce_mean(tf.math.squared_difference(z, mean), axis=-1, keepdims=True)
        z = (z - mean) * tf.math.rsqrt(variance + tf.constant(attributes.epsilon, z.dtype))
    if wide.scale is not None:
        batch_and_channels = tf.shape(z)[:1], tf.ones([2], tf.int32), tf.shape(z)[3:]
        z *= tf.reshape(wide.scale, tf.concat(batch_and_channels, axis=0))
    y = z
    if wide.depthwise_filter is None and wide.pointwise_filter is not None and wide.expand_filter is None:
        y = stock.dense(z, wide.pointwise_filter, separable)
    elif wide.pointwise_filter is not None:
        y = stock.pointwise(z, wide.pointwise_filter)
    if wide.bias is not None:
        y += wide.bias
    if wide.residual is not None:
        residual = stock.to_nhwc(wide.residual, separable)
        y += residual if stock.in_xla() else _guard.same_shape(residual, y)
    y = stock.activate(y, separable.activation, wide.slopes)
    y = tf.cast(stock.from_nhwc(y, separable), dtype)
    y.set_shape(output_shape)
    return y


def _guarded(z: tf.Tensor, depthwise_filter: tf.Tensor, separable: Attributes) -> tuple[tf.Tensor, tf.Tensor]:
    """Input and filter of the depthwise convolution, behind assertions of what is not known of their shapes yet."""
    if stock.in_xla() or (z.shape.is_fully_defined() and depthwise_filter.shape.is_fully_defined()):
        return z, depthwise_filter
    # What is checked is the same as for a separable convolution, of which these are the first two tensors.
    nhwc = separable._replace(data_format="NHWC", explicit_paddings=_nhwc_pads(separable))
    channels = _guard.size_of(depthwise_filter, 2) * _guard.size_of(depthwise_filter, 3)
    like_pointwise = tf.ones(tf.stack([1, 1, tf.cast(channels, tf.int32), 1]), z.dtype)
    guarded = _guard.guard(
        {
            "x": z,
            "depthwise_filter": depthwise_filter,
            "pointwise_filter": like_pointwise,
            "depthwise_bias": None,
            "bias": None,
        },
        nhwc,
    )
    return guarded["x"], guarded["depthwise_filter"]


def _nhwc_pads(separable: Attributes) -> tuple[int, ...]:
    if separable.padding != "EXPLICIT":
        return ()
    height, width = separable.spatial_axes
    return (0, 0, *separable.pads(height), *separable.pads(width), 0, 0)


class Shape(NamedTuple):
    """A tensor's shape; `dims` is None where even the rank is unknown."""

    dims: Optional[list]


def check(x: _shapes.Shape, shapes: Tensors, attributes: BlockAttributes) -> list:
    """Checks that the stages of a block go together, and its shapes as far as they are known.

    Args:
        x: the input's shape, None where its rank is unknown.
        shapes: a `Shape` in each tensor's place.
        attributes: of the block.

    Returns:
        The output's shape, with None for what is not known.

    Raises:
        ValueError: naming the argument, what was given and what is allowed.
    """
    _check_stages(shapes, attributes)
    separable = attributes.separable
    sizes = list(x) if x is not None else [None] * 4
    if len(sizes) != 4:
        axes = "[N, H, W, C]" if separable.data_format == "NHWC" else "[N, C, H, W]"
        raise ValueError(f"`x` must have rank 4, {axes}; given shape {tuple(sizes)}.")
    axis = separable.channel_axis
    if shapes.expand_filter is not None:
        sizes[axis] = _dense(shapes.expand_filter, shapes.expand_bias, sizes[axis], "expand_filter", "E", "C")
        _check_slopes(shapes.expand_slopes, "expand_slopes", sizes[axis])
    if shapes.depthwise_filter is not None:
        # A pointwise convolution of unknown shape agrees with everything: what is checked is the depthwise half.
        operands = _shapes.Operands(
            sizes, shapes.depthwise_filter.dims, None, _dims(shapes.depthwise_bias), _shapes.absent, _shapes.absent
        )
        kernel = shapes.depthwise_filter.dims or [None] * 4
        channels = sizes[axis] if sizes[axis] is not None else kernel[2]
        sizes = _shapes.check(operands, separable)
        sizes[axis] = None if channels is None or kernel[3] is None else channels * kernel[3]
        _check_slopes(shapes.depthwise_slopes, "depthwise_slopes", sizes[axis])
    if shapes.scale is not None:
        _check_scale(shapes.scale.dims, sizes[0], sizes[axis], separable)
    if shapes.pointwise_filter is not None and shapes.depthwise_filter is None and shapes.expand_filter is None:
        sizes = _window(shapes, sizes, attributes)
    elif shapes.pointwise_filter is not None:
        sizes[axis] = _dense(shapes.pointwise_filter, shapes.bias, sizes[axis], "pointwise_filter", "C*M", "K")
    _check_slopes(shapes.slopes, "slopes", sizes[axis])
    if shapes.residual is not None and shapes.residual.dims is not None:
        residual = list(shapes.residual.dims)
        if len(residual) != 4 or not all(_agree(a, b) for a, b in zip(residual, sizes)):
            raise ValueError(f"`residual` must have the shape of the output, {tuple(sizes)}; given {tuple(residual)}.")
    if math.prod(1 if size is None else size for size in sizes) > _shapes.MAX_ELEMENTS:
        raise ValueError(f"the output would have shape {tuple(sizes)}, more than {_shapes.MAX_ELEMENTS} elements.")
    return sizes


def _check_stages(shapes: Tensors, attributes: BlockAttributes) -> None:
    separable = attributes.separable
    if shapes.expand_filter is None and shapes.depthwise_filter is None and shapes.pointwise_filter is None:
        raise ValueError("one of `expand_filter`, `depthwise_filter` and `pointwise_filter` must be given.")
    without = {
        "expand_filter": {
            "`expand_bias`": shapes.expand_bias is not None,
            "`expand_activation`": attributes.expand_activation.word != "none",
        },
        "depthwise_filter": {
            "`depthwise_bias`": shapes.depthwise_bias is not None,
            "`depthwise_activation`": separable.depthwise_activation.word != "none",
        },
        "pointwise_filter": {
            "`bias`": shapes.bias is not None,
            "`activation`": separable.activation.word != "none",
        },
    }
    for stage, arguments in without.items():
        if getattr(shapes, stage) is None and any(arguments.values()):
            given = next(argument for argument, is_given in arguments.items() if is_given)
            raise ValueError(f"{given} must not be given without `{stage}`.")
    activations = (attributes.expand_activation, separable.depthwise_activation, separable.activation)
    for stage, activation in zip(("expand_", "depthwise_", ""), activations):
        if (activation.word == "prelu") != (getattr(shapes, f"{stage}slopes") is not None):
            raise ValueError(
                f"`{stage}slopes` must be given where `{stage}activation` is 'prelu', and nowhere else; "
                f"`{stage}activation` is {activation.word!r}."
            )


def _agree(a: _shapes.Dim, b: _shapes.Dim) -> bool:
    return a is None or b is None or a == b


def _check_slopes(shape: Optional[Shape], name: str, channels: _shapes.Dim) -> None:
    dims = None if shape is None else shape.dims
    if dims is not None and (len(dims) != 1 or not _agree(dims[0], channels)):
        raise ValueError(f"`{name}` must have shape [{channels}]; given {tuple(dims)}.")


def _dims(shape: Optional[Shape]) -> Any:
    return _shapes.absent if shape is None else shape.dims


def _dense(matrix: Shape, bias: Optional[Shape], channels: _shapes.Dim, name: str, into: str, out: str) -> _shapes.Dim:
    """Checks a 1x1 convolution and returns its output channels."""
    dims = matrix.dims if matrix.dims is not None else [None] * 4
    if len(dims) != 4 or not all(_agree(dim, size) for dim, size in zip(dims, (1, 1, channels))) or 0 in dims:
        raise ValueError(
            f"`{name}` must have shape [1, 1, {into}, {out}] with {into} = {channels}; given {tuple(dims)}."
        )
    if bias is not None and bias.dims is not None and (len(bias.dims) != 1 or not _agree(bias.dims[0], dims[3])):
        argument = "bias" if name == "pointwise_filter" else "expand_bias"
        raise ValueError(f"`{argument}` must have shape [{out}] = [{dims[3]}]; given {tuple(bias.dims)}.")
    return dims[3]


def _window(shapes: Tensors, sizes: list, attributes: BlockAttributes) -> list:
    """Checks a dense convolution without a depthwise one before it, and returns its output's shape."""
    separable = attributes.separable
    kernel = shapes.pointwise_filter.dims if shapes.pointwise_filter.dims is not None else [None] * 4
    channels = sizes[separable.channel_axis]
    if len(kernel) != 4 or 0 in kernel or not _agree(kernel[2], channels):
        raise ValueError(f"`pointwise_filter` must have shape [R, S, C, K] with C = {channels}; given {tuple(kernel)}.")
    trivial = all(_agree(size, 1) for size in kernel[:2]) and separable.strides == (1, 1)
    if not trivial or separable.padding == "EXPLICIT":
        for name, given in (("scale", shapes.scale is not None), ("epsilon", attributes.epsilon is not None)):
            if given:
                raise ValueError(
                    f"`{name}` must not be given with a dense convolution: `pointwise_filter` (shape {tuple(kernel)}) "
                    "must be 1 x 1, `strides` 1 and `padding` not explicit."
                )
    bias = shapes.bias
    if bias is not None and bias.dims is not None and (len(bias.dims) != 1 or not _agree(bias.dims[0], kernel[3])):
        raise ValueError(f"`bias` must have shape [K] = [{kernel[3]}]; given {tuple(bias.dims)}.")
    rows, columns = _shapes.spatial_sizes(sizes, kernel, separable, "pointwise_filter")
    output = [sizes[0], rows, columns]
    output.insert(separable.channel_axis, kernel[3])
    return output


def _check_scale(dims: Optional[list], batch: _shapes.Dim, channels: _shapes.Dim, separable: Attributes) -> None:
    if dims is None:
        return
    long = [batch, 1, 1, channels] if separable.data_format == "NHWC" else [batch, channels, 1, 1]
    expected = {2: [batch, channels], 4: long}.get(len(dims))
    if expected is None or not all(_agree(a, b) for a, b in zip(dims, expected)):
        allowed = f"{tuple(long)} or {(batch, channels)}"
        raise ValueError(f"`scale` must have shape {allowed} (it is the `gate` of a layer); given {tuple(dims)}.")


def read(op: Any, inputs: list) -> tuple[tf.Tensor, Tensors, BlockAttributes]:
    """Input, tensors and attributes of an op `TfDwsconv>ConvBlock`, with `inputs` for its inputs."""
    rest = iter(inputs[1:])
    tensors = {name: next(rest) if op.get_attr(f"num_{name}") else None for name in _INPUTS}

    def text(name: str) -> str:
        value = op.get_attr(name)
        return value.decode() if isinstance(value, bytes) else value

    separable = Attributes(
        strides=tuple(op.get_attr("strides")),
        dilations=tuple(op.get_attr("dilations")),
        padding=text("padding"),
        explicit_paddings=tuple(op.get_attr("explicit_paddings")),
        data_format=text("data_format"),
        depthwise_activation=of_op(op, "depthwise_"),
        activation=of_op(op, ""),
    )
    attributes = BlockAttributes(
        separable,
        of_op(op, "expand_"),
        op.get_attr("epsilon") if op.get_attr("normalize") else None,
    )
    return inputs[0], Tensors(**tensors), attributes


def _gradient(op: Any, grad: tf.Tensor) -> list:
    """Gradients of the op's inputs: computes the block anew by stock ops, which TensorFlow differentiates."""
    # New tensors: in a while loop of TensorFlow 1 the op's own are replaced by what a stack gives back.
    inputs = [tf.identity(t) for t in op.inputs]
    skipped = getattr(op, "skip_input_indices", None) or ()
    wanted = [i for i in range(len(inputs)) if i not in skipped]
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch([inputs[i] for i in wanted])
        y = run_stock(*read(op, inputs))
    found: list = [None] * len(inputs)
    for i, gradient in zip(wanted, tape.gradient(y, [inputs[i] for i in wanted], output_gradients=grad)):
        gradient.set_shape(inputs[i].shape)
        found[i] = gradient
    return found


gradients.once(framework_ops.RegisterGradient(_library.BLOCK_OP_NAME), _gradient)
