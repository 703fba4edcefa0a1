"""Checks of shapes that are known only when a graph runs, for stock ops.

TensorFlow's depthwise ops end the process on some wrong shapes and answer others with a wrong one, so nothing may reach
them unchecked. What is known when the graph is made, `_shapes.check` has checked; for that nothing is added here.
"""

from __future__ import annotations

from typing import Union

import tensorflow as tf

from tf_dwsconv import _shapes
from tf_dwsconv._arguments import Attributes, Tensors

Size = Union[int, tf.Tensor]


def size_of(t: tf.Tensor, axis: int) -> Size:
    """A size, as an int where it is known (also where TensorFlow 1 has a Dimension), else as an int64 tensor."""
    size = t.shape.as_list()[axis]
    return size if size is not None else tf.shape(t, out_type=tf.int64)[axis]


def guard(x: tf.Tensor, tensors: Tensors, attributes: Attributes) -> tuple[tf.Tensor, Tensors]:
    """The tensors of a call, of known rank, behind assertions of what is not known of them yet.

    Where one fails, the graph raises InvalidArgumentError when it runs.
    """
    if all(t is None or t.shape.is_fully_defined() for t in (x, *tensors)):
        return x, tensors
    ranked = {name: t if t is None else _with_rank(t, name) for name, t in tensors._asdict().items()}
    x, tensors = _with_rank(x, "x"), Tensors(**ranked)
    checks = [check for check in _Assertions(x, tensors, attributes).checks if check is not None]
    with tf.control_dependencies(checks):
        return tf.identity(x), tensors.map(tf.identity)


def _with_rank(t: tf.Tensor, name: str) -> tf.Tensor:
    if t.shape.rank is not None or name == "gate":  # which may have rank 2 or 4, and is reshaped anyway
        return t
    rank = 1 if name.endswith(("bias", "slopes")) else 4
    # Not an assertion: sizes are taken of this, and the graph optimiser lets a Shape op pass by control dependencies.
    # The name of the op is in the error's message.
    return tf.ensure_shape(t, [None] * rank, name=f"{name}_must_have_rank_{rank}")


class _Assertions:
    """`checks`: an assertion for each rule about sizes that are not all known."""

    def __init__(self, x: tf.Tensor, tensors: Tensors, attributes: Attributes):
        self.checks: list = []
        self._tensors = tensors
        channels = size_of(x, attributes.channel_axis)
        if tensors.expand_filter is not None:
            channels = self._one_by_one("expand_filter", "[1, 1, C, E]", channels)
            self._vector("expand_bias", channels, "E")
        if tensors.depthwise_filter is not None:
            kernel = self._filter("depthwise_filter")
            self._equal(size_of(kernel, 2), channels, "`depthwise_filter` must have the input channels of `x`.")
            channels = size_of(kernel, 2) * size_of(kernel, 3)
            self._vector("depthwise_bias", channels, "C*M")
            self._window("depthwise_filter", x, attributes)
        if tensors.is_dense:
            kernel = self._filter("pointwise_filter")
            self._equal(size_of(kernel, 2), channels, "`pointwise_filter` must have the input channels of `x`.")
            channels = size_of(kernel, 3)
            self._window("pointwise_filter", x, attributes)
        elif tensors.pointwise_filter is not None:
            channels = self._one_by_one("pointwise_filter", "[1, 1, C*M, K]", channels)
        if tensors.pointwise_filter is not None:
            self._vector("bias", channels, "K")

    def _equal(self, a: Size, b: Size, message: str) -> None:
        if not (isinstance(a, int) and isinstance(b, int)):
            self.checks.append(tf.debugging.assert_equal(tf.cast(a, tf.int64), tf.cast(b, tf.int64), message))

    def _filter(self, name: str) -> tf.Tensor:
        filters = getattr(self._tensors, name)
        if not filters.shape.is_fully_defined():
            message = f"`{name}` must have no axis of size 0."
            self.checks.append(tf.debugging.assert_positive(tf.shape(filters), message))
        return filters

    def _one_by_one(self, name: str, axes: str, channels: Size) -> Size:
        filters = self._filter(name)
        for axis, size in enumerate((1, 1, channels)):
            self._equal(size_of(filters, axis), size, f"`{name}` must have shape {axes}.")
        return size_of(filters, 3)

    def _vector(self, name: str, size: Size, meaning: str) -> None:
        vector = getattr(self._tensors, name)
        if vector is not None:
            self._equal(size_of(vector, 0), size, f"`{name}` must have shape [{meaning}].")

    def _window(self, name: str, x: tf.Tensor, attributes: Attributes) -> None:
        for i, word in enumerate(("height", "width") if attributes.padding != "SAME" else ()):
            axis = attributes.spatial_axes[i]
            size, taps = size_of(x, axis), size_of(getattr(self._tensors, name), i)
            if not (isinstance(size, int) and isinstance(taps, int)):
                slack = size + sum(attributes.pads(axis)) - (taps - 1) * attributes.dilations[i] - 1
                message = _shapes.window_message(word, attributes.padding, name)
                self.checks.append(tf.debugging.assert_non_negative(slack, message))


def same_shape(residual: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
    """The residual, behind an assertion that nothing will be broadcast."""
    if residual.shape.is_fully_defined() and like.shape.is_fully_defined():
        return residual
    message = "`residual` must have the shape of the output."
    check = tf.debugging.assert_equal(tf.shape(residual), tf.shape(like), message)
    with tf.control_dependencies([] if check is None else [check]):
        return tf.identity(residual)
