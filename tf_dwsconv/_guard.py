"""Checks of shapes that are known only when a graph runs, for stock ops.

TensorFlow's depthwise ops end the process on some wrong shapes and answer others with a wrong one, so nothing may reach
them unchecked. What is known when the graph is made, `_shapes.check` has checked; for that nothing is added here.
"""

from __future__ import annotations

from typing import Optional, Union

import tensorflow as tf

from tf_dwsconv import _shapes
from tf_dwsconv._arguments import Attributes

Size = Union[int, tf.Tensor]


def size_of(t: tf.Tensor, axis: int) -> Size:
    """A size, as an int where it is known (also where TensorFlow 1 has a Dimension), else as an int64 tensor."""
    size = t.shape.as_list()[axis]
    return size if size is not None else tf.shape(t, out_type=tf.int64)[axis]


def guard(tensors: dict[str, Optional[tf.Tensor]], attributes: Attributes) -> dict[str, Optional[tf.Tensor]]:
    """The same tensors, behind assertions of what is not known of them yet.

    Args:
        tensors: all arguments of the op by name, None where absent.
        attributes: of the op.

    Returns:
        The tensors, of known rank. InvalidArgumentError is raised when the graph runs.
    """
    if all(t is None or t.shape.is_fully_defined() for t in tensors.values()):
        return tensors
    tensors = {name: t if t is None else _with_rank(t, name) for name, t in tensors.items()}
    checks = [check for check in _assertions(tensors, attributes) if check is not None]
    with tf.control_dependencies(checks):
        return {name: t if t is None else tf.identity(t) for name, t in tensors.items()}


def _with_rank(t: tf.Tensor, name: str) -> tf.Tensor:
    rank = 1 if name in ("bias", "depthwise_bias") else 4
    if t.shape.rank is not None:
        return t
    # Not an assertion: sizes are taken of this, and the graph optimiser lets a Shape op pass by control dependencies.
    # The name of the op is in the error's message.
    return tf.ensure_shape(t, [None] * rank, name=f"{name}_must_have_rank_{rank}")


def _assertions(tensors: dict[str, Optional[tf.Tensor]], attributes: Attributes) -> list:
    x, kernel, pointwise = tensors["x"], tensors["depthwise_filter"], tensors["pointwise_filter"]
    checks = []

    def equal(a: Size, b: Size, message: str) -> None:
        if not (isinstance(a, int) and isinstance(b, int)):
            checks.append(tf.debugging.assert_equal(tf.cast(a, tf.int64), tf.cast(b, tf.int64), message))

    for name, filters in (("depthwise_filter", kernel), ("pointwise_filter", pointwise)):
        if not filters.shape.is_fully_defined():
            checks.append(tf.debugging.assert_positive(tf.shape(filters), f"`{name}` must have no axis of size 0."))
    channels = size_of(kernel, 2)
    middle = channels * size_of(kernel, 3)
    equal(channels, size_of(x, attributes.channel_axis), "`depthwise_filter` must have the input channels of `x`.")
    for axis, size in enumerate((1, 1, middle)):
        equal(size_of(pointwise, axis), size, "`pointwise_filter` must have shape [1, 1, C*M, K].")
    for name, size, meaning in (("depthwise_bias", middle, "C*M"), ("bias", size_of(pointwise, 3), "K")):
        if tensors[name] is not None:
            equal(size_of(tensors[name], 0), size, f"`{name}` must have shape [{meaning}].")
    if attributes.padding != "SAME":
        for i, word in enumerate(("height", "width")):
            checks.append(_window_fits(x, kernel, attributes, i, word))
    return checks


def _window_fits(x: tf.Tensor, kernel: tf.Tensor, attributes: Attributes, i: int, word: str) -> Optional[tf.Operation]:
    axis = attributes.spatial_axes[i]
    pads = attributes.pads(axis) if attributes.padding == "EXPLICIT" else (0, 0)
    size, taps = size_of(x, axis), size_of(kernel, i)
    if isinstance(size, int) and isinstance(taps, int):
        return None
    slack = size + sum(pads) - (taps - 1) * attributes.dilations[i] - 1
    return tf.debugging.assert_non_negative(slack, _shapes.window_message(word, attributes.padding))


def same_shape(residual: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
    """The residual, behind an assertion that nothing will be broadcast."""
    if residual.shape.is_fully_defined() and like.shape.is_fully_defined():
        return residual
    message = "`residual` must have the shape of the output."
    check = tf.debugging.assert_equal(tf.shape(residual), tf.shape(like), message)
    with tf.control_dependencies([] if check is None else [check]):
        return tf.identity(residual)
