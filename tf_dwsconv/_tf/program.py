"""Where a program is dispatched: to the op that runs it whole, or step by step; and the gradient of that op."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Sequence
from typing import Any

import tensorflow as tf
from tensorflow.python.framework import ops as framework_ops

from tf_dwsconv._program import Program
from tf_dwsconv._tf import dispatch, library, program_stock
from tf_dwsconv._tf.library import NETWORK_OP_NAME


def run(program: Program, inputs: Sequence[tf.Tensor], weights: Any) -> list[tf.Tensor]:
    """Computes a program.

    Args:
        program: of the dtype of the tensors.
        inputs: as many as it has, float32, bfloat16 or float16.
        weights: [count], a tensor or a variable.

    Returns:
        Its outputs.

    Raises:
        ValueError: shapes that do not fit, where they are found in Python.
        tf.errors.InvalidArgumentError: shapes that do not fit, where the op finds them.
    """
    op = None if dispatch.fused_op(inputs[0].dtype) is None else library.network_op()
    if op is None:
        return program_stock.compute(program, inputs, weights)
    # Only variables of TensorFlow 1's graphs are written into while others hold their buffers.
    stable = framework_ops.executing_eagerly_outside_functions()
    count = len(program.outputs)
    return list(op(inputs=inputs, weights=weights, program=program.text, num_outputs=count, stable_filters=stable))


@functools.lru_cache(maxsize=64)
def _parsed(text: str) -> Program:
    return Program.from_text(text)


def _gradient(op: Any, *grads: Any) -> list:
    """Of the op that runs a program: the same steps by ops that TensorFlow differentiates."""
    program = _parsed(op.get_attr("program").decode())
    # New tensors: in a while loop of TensorFlow 1 the op's own are replaced by what a stack gives back.
    tensors = list(map(tf.identity, op.inputs))
    skipped = getattr(op, "skip_input_indices", None) or ()
    wanted = [i for i in range(len(tensors)) if i not in skipped]
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch([tensors[i] for i in wanted])
        outputs = program_stock.compute(program, tensors[:-1], tensors[-1], to_differentiate=True)
    pairs = [(y, grad) for y, grad in zip(outputs, grads) if grad is not None]
    sources = [tensors[i] for i in wanted]
    found: list = [None] * len(tensors)
    for i, gradient in zip(wanted, tape.gradient([y for y, _ in pairs], sources, [grad for _, grad in pairs])):
        if gradient is not None:
            gradient.set_shape(tensors[i].shape)
        found[i] = gradient
    return found


with contextlib.suppress(KeyError):  # registered already: we were reloaded
    framework_ops.RegisterGradient(NETWORK_OP_NAME)(_gradient)
