"""Depthwise, pointwise and dense convolutions by TensorFlow's own ops, in float32 or float64, NHWC.

They are right for every attribute, also where TensorFlow's ops are not: strides that differ, strides with dilations,
pads of any size, empty batches.
"""

from __future__ import annotations

from typing import Optional

import tensorflow as tf

from tf_dwsconv._arguments import Attributes
from tf_dwsconv._tf.guard import Size, size_of

# Above these, padding the input would cost more than gathering the rows and columns that are needed; TensorFlow's
# depthwise op also keeps strides and pads in 32 bits without checking them.
_LARGE_STEP = 1024
_LARGE_PAD = 4096


def ensure_rank4(t: tf.Tensor) -> tf.Tensor:
    # TensorFlow's depthwise ops end the process on another rank, so this is checked before them.
    return t if t.shape.rank == 4 else tf.ensure_shape(t, [None] * 4)


def pointwise(z: tf.Tensor, pointwise_filter: tf.Tensor) -> tf.Tensor:
    """`[N, Ho, Wo, C*M]` times `[1, 1, C*M, K]`."""
    pointwise_filter = ensure_rank4(pointwise_filter)
    matrix = tf.reshape(pointwise_filter, tf.shape(pointwise_filter, out_type=tf.int64)[2:])
    matrix.set_shape(pointwise_filter.shape[2:])
    return tf.tensordot(z, matrix, axes=1)


def dense(x: tf.Tensor, dense_filter: tf.Tensor, attributes: Attributes) -> tf.Tensor:
    """A dense convolution without bias: NHWC `[N, H, W, C]` by `[R, S, C, K]`, float32 or float64."""
    x, dense_filter = ensure_rank4(x), ensure_rank4(dense_filter)
    axes = [_Axis(x, dense_filter, attributes, i) for i in (0, 1)]
    is_empty = 0 in x.shape.as_list()
    shape = [size_of(x, 0), axes[0].out, axes[1].out, size_of(dense_filter, 3)]
    x = _padded(x, axes)
    strides, dilations = [axis.stride for axis in axes], [axis.dilation for axis in axes]
    if dilations == [1, 1] and not is_empty:
        return _of_shape(tf.nn.conv2d(x, dense_filter, strides, "VALID"), shape)
    # TensorFlow has strides or dilations, and no gradient of the latter on CPUs: tap by tap.
    y = None
    for r in range(axes[0].kernel):
        for s in range(axes[1].kernel):
            ends = [(axis.out - 1) * axis.stride + 1 for axis in axes]
            top, left = r * dilations[0], s * dilations[1]
            under = x[:, top : top + ends[0] : strides[0], left : left + ends[1] : strides[1], :]
            tap = tf.tensordot(under, dense_filter[r, s], axes=1)
            y = tap if y is None else y + tap
    return y


def depthwise(x: tf.Tensor, depthwise_filter: tf.Tensor, attributes: Attributes) -> tf.Tensor:
    """The depthwise half, without bias: NHWC `[N, H, W, C]` to `[N, Ho, Wo, C*M]`, float32 or float64."""
    x, depthwise_filter = ensure_rank4(x), ensure_rank4(depthwise_filter)
    axes = [_Axis(x, depthwise_filter, attributes, i) for i in (0, 1)]
    method = _method(x, depthwise_filter, axes)
    if method == "gather":
        return _by_gathering(x, depthwise_filter, axes)
    if method == "direct":
        x = _padded(x, axes) if attributes.padding == "EXPLICIT" else x
        z = tf.raw_ops.DepthwiseConv2dNative(input=x, filter=depthwise_filter, **_direct(axes, attributes))
    else:
        z = _by_padding(x, depthwise_filter, axes)
    channels = size_of(depthwise_filter, 2) * size_of(depthwise_filter, 3)
    return _of_shape(z, [size_of(x, 0), axes[0].out, axes[1].out, channels])


def _of_shape(z: tf.Tensor, shape: list[Size]) -> tf.Tensor:
    """A convolution's result in the shape that it should have: for an empty batch TensorFlow's ops give the input's.

    The depthwise op does so always, the dense one with oneDNN. What is known to be empty never comes to them.
    """
    if all(isinstance(size, int) for size in shape):
        return z
    # Graph optimisation would trust the shape that the op was inferred to have, and drop the correction; a placeholder
    # is what it cannot see through.
    target = tf.stack([tf.cast(size, tf.int64) for size in shape])
    z = tf.reshape(z, target if tf.executing_eagerly() else tf.compat.v1.placeholder_with_default(target, [4]))
    z.set_shape([size if isinstance(size, int) else None for size in shape])
    return z


def depthwise_gradients(
    x: tf.Tensor, depthwise_filter: tf.Tensor, grad: tf.Tensor, attributes: Attributes, of_x: bool, of_filter: bool
) -> tuple[Optional[tf.Tensor], Optional[tf.Tensor]]:
    """The gradients of `depthwise` with respect to `x` and the filter, None for one that is not wanted.

    TensorFlow's gradient of its depthwise op computes both, wanted or not, so that is called by its parts.
    """
    axes = [_Axis(x, depthwise_filter, attributes, i) for i in (0, 1)]
    if _method(x, depthwise_filter, axes) != "direct":
        sources = [t for t, wanted in ((x, of_x), (depthwise_filter, of_filter)) if wanted]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(sources)
            z = depthwise(x, depthwise_filter, attributes)
        found = iter(tape.gradient(z, sources, output_gradients=grad))
        return next(found) if of_x else None, next(found) if of_filter else None
    options = _direct(axes, attributes)
    padded = _padded(x, axes) if attributes.padding == "EXPLICIT" else x
    grad_x = grad_filter = None
    if of_x:
        grad_x = tf.raw_ops.DepthwiseConv2dNativeBackpropInput(
            input_sizes=tf.shape(padded), filter=depthwise_filter, out_backprop=grad, **options
        )
        if padded is not x:
            grad_x = tf.slice(grad_x, [0, axes[0].before, axes[1].before, 0], tf.shape(x))
        grad_x.set_shape(x.shape)
    if of_filter:
        grad_filter = tf.raw_ops.DepthwiseConv2dNativeBackpropFilter(
            input=padded, filter_sizes=tf.shape(depthwise_filter), out_backprop=grad, **options
        )
        grad_filter.set_shape(depthwise_filter.shape)
    return grad_x, grad_filter


def _method(x: tf.Tensor, depthwise_filter: tf.Tensor, axes: list) -> str:
    """How to compute: "direct", "pad" or "gather"; the first that is right."""
    if any(axis.huge() for axis in axes) or 0 in x.shape.as_list():
        return "gather"
    if any(axis.dilation != 1 for axis in axes):
        return "gather" if None in depthwise_filter.shape.as_list() else "pad"
    return "direct" if axes[0].stride == axes[1].stride else "pad"


def _direct(axes: list, attributes: Attributes) -> dict:
    """Attributes of TensorFlow's depthwise op, for an input that has its explicit padding already.

    The op itself takes explicit padding, but TensorFlow's graph optimiser fuses it with a bias behind it, and ends the
    process when it infers the fused op's shape (2.19 to 2.21, with oneDNN).
    """
    return {
        "strides": [1, axes[0].stride, axes[0].stride, 1],
        "padding": "VALID" if attributes.padding == "EXPLICIT" else attributes.padding,
    }


def _padded(x: tf.Tensor, axes: list) -> tf.Tensor:
    """The input with zeros around it, as the axes ask for; the input itself where they ask for none."""
    pads = [[0, 0], *([axis.before, axis.after] for axis in axes), [0, 0]]
    if all(isinstance(n, int) for row in pads for n in row):
        return tf.pad(x, pads) if any(n for row in pads for n in row) else x
    return tf.pad(x, tf.stack([tf.stack([tf.cast(n, tf.int64) for n in row]) for row in pads]))


class _Axis:
    """The window arithmetic of one spatial axis, in ints where they are known and in int64 tensors elsewhere."""

    def __init__(self, x: tf.Tensor, depthwise_filter: tf.Tensor, attributes: Attributes, i: int):
        self.size: Size = size_of(x, i + 1)
        self.kernel: Size = size_of(depthwise_filter, i)
        self.stride = attributes.strides[i]
        self.dilation = 1 if isinstance(self.kernel, int) and self.kernel == 1 else attributes.dilations[i]
        window = (self.kernel - 1) * self.dilation + 1
        if attributes.padding == "SAME":
            self.out: Size = -(-self.size // self.stride)
            total = (self.out - 1) * self.stride + window - self.size
            total = max(total, 0) if isinstance(total, int) else tf.maximum(total, 0)
            self.before: Size = total // 2
            self.after: Size = total - self.before
        else:
            self.before, self.after = attributes.pads(attributes.spatial_axes[i])
            self.out = (self.size + self.before + self.after - window) // self.stride + 1
        # A stride past the end is never taken: a smaller one that is not taken either keeps sizes in range.
        if isinstance(self.out, int) and isinstance(self.size, int) and self.out <= 1:
            self.stride = min(self.stride, max(self.size, self.size + self.before + self.after - window + 1, 1))

    def huge(self) -> bool:
        pads = [n for n in (self.before, self.after) if isinstance(n, int)]
        return max(self.stride, self.dilation) > _LARGE_STEP or max(pads, default=0) > _LARGE_PAD


def _by_padding(x: tf.Tensor, depthwise_filter: tf.Tensor, axes: list) -> tf.Tensor:
    """Strides that differ, or dilations: pads, convolves at a stride TensorFlow has, and leaves the rest out."""
    x = _padded(x, axes)
    if all(axis.dilation == 1 for axis in axes):
        step = min(axis.stride for axis in axes)
        if any(axis.stride % step for axis in axes):
            step = 1
        z = tf.nn.depthwise_conv2d(x, depthwise_filter, [1, step, step, 1], "VALID")
    else:
        step = 1
        dilations = [axis.dilation for axis in axes]
        z = tf.nn.depthwise_conv2d(x, depthwise_filter, [1, 1, 1, 1], "VALID", dilations=dilations)
    rows, columns = (axis.stride // step for axis in axes)
    return z if rows == columns == 1 else z[:, ::rows, ::columns, :]


def _by_gathering(x: tf.Tensor, depthwise_filter: tf.Tensor, axes: list) -> tf.Tensor:
    """Any attribute at all: takes the rows and columns under every tap, and sums over the taps.

    It holds R*S times the output, so it is for what the others cannot do; it never holds the padding.
    """
    windows = x
    for i, axis in enumerate(axes):
        windows = _take(windows, axis, 1 + 2 * i)
    z = tf.einsum("nprqsc,rscm->npqcm", windows, depthwise_filter)
    shape = tf.shape(z, out_type=tf.int64)
    merged = tf.reshape(z, tf.concat([shape[:3], shape[3:4] * shape[4:]], axis=0))
    sizes = z.shape.as_list()
    merged.set_shape([*sizes[:3], None if None in sizes[3:] else sizes[3] * sizes[4]])
    return merged


def _take(x: tf.Tensor, axis: _Axis, position: int) -> tf.Tensor:
    """Replaces the axis at `position` by two, [outputs, taps]; zero where a tap is outside."""
    taps = tf.range(axis.kernel, dtype=tf.int64) * axis.dilation
    places = tf.range(axis.out, dtype=tf.int64)[:, None] * axis.stride + taps[None, :] - axis.before
    inside = (places >= 0) & (places < tf.cast(axis.size, tf.int64))
    if isinstance(axis.size, int) and axis.size == 0:
        # Nothing can be taken from an empty axis; one row of zeros stands in for what is outside.
        x = tf.pad(x, [[0, 1] if i == position else [0, 0] for i in range(x.shape.rank)])
    places = tf.clip_by_value(places, 0, tf.maximum(tf.cast(axis.size, tf.int64) - 1, 0))
    taken = tf.gather(x, places, axis=position)
    inside = tf.reshape(inside, tf.concat([tf.shape(inside), tf.ones([x.shape.rank - position - 1], tf.int32)], axis=0))
    return tf.where(inside, taken, tf.zeros([], x.dtype))
