"""Weights of layers in mixed precision: cast when they change, and not in each call."""

from __future__ import annotations

import contextlib
import functools
from typing import Any

import tensorflow as tf
from tensorflow.python.framework import ops as framework_ops
from tensorflow.python.ops.parallel_for import pfor as parallel_for

from tf_dwsconv._tf import library, stock
from tf_dwsconv._tf.library import CAST_OP_NAME


def once(weight: Any) -> Any:
    """What Keras cast to 16 bits for a call in a graph, by our op, whose kernel keeps the cast of a weight that stays.

    Args:
        weight: a weight in the compute dtype.

    Returns:
        The same. Anything but the cast of a float32 variable's value comes back as it was given; so does everything
        where stock ops compute or a GPU may.
    """
    if tf.executing_eagerly() or isinstance(weight, tf.Variable) or weight.dtype not in (tf.bfloat16, tf.float16):
        return weight
    if weight.op.type != "Cast" or not _is_read(weight.op.inputs[0]):
        return weight
    # Variables of TensorFlow 1's graphs are written into while others hold their buffers.
    if not framework_ops.executing_eagerly_outside_functions() or stock.in_xla() or _may_run_on_gpu():
        return weight
    op = library.cast_op()
    return weight if op is None else op(x=weight.op.inputs[0], T=weight.dtype)


def _is_read(tensor: tf.Tensor) -> bool:
    """Whether a tensor is the value of a float32 variable."""
    while tensor.op.type == "Identity":
        tensor = tensor.op.inputs[0]
    return tensor.op.type == "ReadVariableOp" and tensor.dtype == tf.float32


@functools.lru_cache(maxsize=1)
def _may_run_on_gpu() -> bool:
    return bool(tf.config.list_physical_devices("GPU"))


def _gradient(op: Any, grad: tf.Tensor) -> tf.Tensor:
    return tf.cast(grad, tf.float32)


def _vectorise(pfor_input: Any) -> Any:
    """tf.vectorized_map over weights that differ: they are no variables then, and nothing stays."""
    return parallel_for.wrap(tf.cast(pfor_input.stacked_input(0), pfor_input.get_attr("T")), True)


with contextlib.suppress(KeyError):  # registered already: we were reloaded
    framework_ops.RegisterGradient(CAST_OP_NAME)(_gradient)
with contextlib.suppress(KeyError):
    parallel_for.RegisterPFor(CAST_OP_NAME)(_vectorise)
