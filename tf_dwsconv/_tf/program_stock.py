"""A program step by step: where the op that runs it whole cannot, and for its gradient.

Chains go through `dispatch`, as any layer's call does. The other steps are TensorFlow's own ops: in float32, rounded to
the program's dtype at the end of each step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Callable

import tensorflow as tf

from tf_dwsconv import _program_shapes
from tf_dwsconv._arguments import Tensors
from tf_dwsconv._program import Program
from tf_dwsconv._program_steps import Step
from tf_dwsconv._tf import dispatch, stock
from tf_dwsconv._tf.guard import size_of
from tf_dwsconv.activations import activate


@tf.autograph.experimental.do_not_convert
def compute(
    program: Program, inputs: Sequence[tf.Tensor], weights: tf.Tensor, to_differentiate: bool = False
) -> list[tf.Tensor]:
    """Computes a program.

    Args:
        program: what to compute.
        inputs: float16, bfloat16 or float32, all of one dtype, which may be another than the program's.
        weights: [count] of that dtype.
        to_differentiate: whether a gradient is sure to follow. Then ops with gradients of their own compute all; the
            block's op, whose gradient computes the block anew, is left out.

    Returns:
        The outputs, of that dtype.

    Raises:
        ValueError: shapes that do not fit, as far as they are known.
        tf.errors.InvalidArgumentError: the same, for what is known only when the graph runs.
    """
    inputs = [tf.convert_to_tensor(x) for x in inputs]
    ranked = [x if x.shape.rank is not None else tf.ensure_shape(x, g.shape) for x, g in zip(inputs, program.inputs)]
    _program_shapes.infer(program, [x.shape.as_list() for x in ranked])
    weights = tf.ensure_shape(tf.convert_to_tensor(weights), [program.count])
    values = {given.tensor: tf.ensure_shape(x, given.shape) for given, x in zip(program.inputs, ranked)}
    parts = _parts(program, weights)
    last = _last_readers(program)
    for i, step in enumerate(program.steps):
        reads = {
            name: [values[t] for t in read] if isinstance(read, tuple) else values[read]
            for name, read in step.reads.items()
        }
        own = {name: parts[index] for name, index in step.weights.items()}
        values[step.output] = (
            _chain(step, reads, own, to_differentiate) if step.op == "chain" else _step(step, reads, own)
        )
        for t in step.sources:  # in eager mode nothing else lets go of them
            if last[t] == i:
                values.pop(t, None)
    return [tf.identity(values[output.tensor]) for output in program.outputs]


def _parts(program: Program, weights: tf.Tensor) -> list[tf.Tensor]:
    """The weights one by one. One split has one gradient; that of a slice would be as large as all weights."""
    order = sorted(range(len(program.weights)), key=lambda i: program.weights[i].offset)
    sizes, places, end = [], {}, 0
    for i in order:
        weight = program.weights[i]
        if weight.size == 0:
            continue
        if weight.offset > end:
            sizes.append(weight.offset - end)
        places[i] = len(sizes)
        sizes.append(weight.size)
        end = weight.offset + weight.size
    sizes.append(program.count - end)
    pieces = tf.split(weights, sizes)
    empty = tf.zeros([0], weights.dtype)
    return [tf.reshape(pieces[places[i]] if i in places else empty, w.shape) for i, w in enumerate(program.weights)]


def _last_readers(program: Program) -> dict[int, int]:
    """The last step that reads each tensor; those that are outputs are read at the end."""
    last = {t: i for i, step in enumerate(program.steps) for t in step.sources}
    last.update((output.tensor, len(program.steps)) for output in program.outputs)
    return last


def _chain(step: Step, reads: dict[str, Any], weights: dict[str, tf.Tensor], to_differentiate: bool) -> tf.Tensor:
    others = {name: t for name, t in reads.items() if name != "x"}
    if step.options["groups"] > 1:
        weights = {**weights, "pointwise_filter": _dense_filter(weights["pointwise_filter"], step.options["groups"])}
    tensors = Tensors(**weights, **others)
    by_stock = to_differentiate and not tensors.is_separable(step.attributes)
    return (dispatch.run_stock if by_stock else dispatch.run)(reads["x"], tensors, step.attributes)


def _dense_filter(kernel: tf.Tensor, groups: int) -> tf.Tensor:
    """The filter `[R, S, C, K]` of one group that computes what those `[R, S, C/groups, K]` do: with zeros elsewhere.

    TensorFlow has no convolution of groups on every CPU, and no gradient of one.
    """
    rows, columns, channels, filters = kernel.shape
    apart = tf.reshape(kernel, [rows, columns, 1, channels, groups, filters // groups])
    own = tf.reshape(tf.eye(groups, dtype=kernel.dtype), [groups, 1, groups, 1])
    return tf.reshape(apart * own, [rows, columns, channels * groups, filters])


def _step(step: Step, reads: dict[str, Any], weights: dict[str, tf.Tensor]) -> tf.Tensor:
    """Any other step."""
    if step.op in _MOVES:
        return _MOVES[step.op](step, reads)
    wide = {name: stock.widen(t) for name, t in {**reads, **weights}.items()}
    y = _STEPS[step.op](step, wide)
    if "activation" in step.options:
        y = activate(y, step.options["activation"], wide.get("slopes"))
    return tf.cast(y, reads["x"].dtype)


def _dense(step: Step, t: dict) -> tf.Tensor:
    y = tf.tensordot(t["x"], t["filter"], axes=1)
    y = y + t["bias"] if "bias" in t else y
    return y + t["residual"] if "residual" in t else y


def _max_pool(step: Step, t: dict) -> tf.Tensor:
    word = _word(step)
    x = t["x"] if word else _padded(step, t["x"], t["x"].dtype.min)
    return tf.nn.max_pool2d(x, step.options["window"], step.options["strides"], word or "VALID")


def _average_pool(step: Step, t: dict) -> tf.Tensor:
    options, word = step.options, _word(step)
    if word:
        return tf.nn.avg_pool2d(t["x"], options["window"], options["strides"], word)
    sums, shares = (
        tf.nn.avg_pool2d(_padded(step, x, 0.0), options["window"], options["strides"], "VALID")
        for x in (t["x"], tf.ones_like(t["x"][:1, :, :, :1]))
    )
    return sums / shares


def _padded(step: Step, x: tf.Tensor, value: float) -> tf.Tensor:
    return tf.pad(x, [[0, 0], *step.options["padding"], [0, 0]], constant_values=value)


def _word(step: Step) -> str:
    padding = step.options["padding"]
    return padding.upper() if isinstance(padding, str) else ""


def _normalize(step: Step, t: dict) -> tf.Tensor:
    y = stock.normalize(t["x"], step.options["epsilon"])
    y = y * t["gamma"] if "gamma" in t else y
    return y + t["beta"] if "beta" in t else y


def _resize(step: Step, t: dict) -> tf.Tensor:
    x, size = t["x"], step.options["size"]
    if size is None:
        size = [size_of(x, axis) * by for axis, by in zip((1, 2), step.options["scale"])]
    return tf.image.resize(x, _sizes(size), step.options["method"])


def _reshape(step: Step, reads: dict) -> tf.Tensor:
    x, shape, (before, after) = reads["x"], list(step.options["shape"]), step.options["pictures"]
    known = math.prod(size for size in shape if size != -1)
    if -1 in shape and known:  # an empty batch leaves nothing to divide
        total = tf.reduce_prod(tf.shape(x)[1:]) if None in x.shape[1:] else math.prod(x.shape[1:])
        shape = [total * before // after // known if size == -1 else size for size in shape]
    n = size_of(x, 0)  # TensorFlow refuses what is left of a division
    return tf.reshape(x, _sizes([n // before * after, *shape]))


def _without(x: tf.Tensor, pairs: Sequence[Sequence[int]]) -> tf.Tensor:
    """Without some elements at both ends of each axis."""
    sizes = [size_of(x, axis) - sum(pair) for axis, pair in enumerate(pairs)]
    message = f"`croppings` {list(map(list, pairs))} must take no more than there is."
    checks = [tf.debugging.assert_non_negative(n, message) for n in sizes if not isinstance(n, int)]
    with tf.control_dependencies([check for check in checks if check is not None]):
        y = tf.slice(x, [pair[0] for pair in pairs], [tf.cast(n, tf.int32) for n in sizes])
    return tf.ensure_shape(y, [n if isinstance(n, int) else None for n in sizes])


def _depth_to_space(step: Step, reads: dict) -> tf.Tensor:
    x, (rows, columns) = reads["x"], step.options["block"]
    n, height, width, channels = (size_of(x, axis) for axis in range(4))
    blocks = [n, height, width, rows, columns, channels // (rows * columns)]
    y = tf.transpose(tf.reshape(x, _sizes(blocks)), [0, 1, 3, 2, 4, 5])
    y = tf.reshape(y, _sizes([n, height * rows, width * columns, blocks[-1]]))
    return _without(y, ((0, 0), *step.options["croppings"], (0, 0))) if any(map(any, step.options["croppings"])) else y


def _sizes(sizes: Sequence[Any]) -> Any:
    return sizes if all(isinstance(n, int) for n in sizes) else tf.stack([tf.cast(n, tf.int32) for n in sizes])


# What only moves elements, in any dtype.
_MOVES: dict[str, Callable] = {
    "concatenate": lambda step, reads: tf.concat(reads["xs"], step.options["axis"]),
    "pad": lambda step, reads: tf.pad(reads["x"], step.options["paddings"], constant_values=step.options["value"]),
    "reshape": _reshape,
    "crop": lambda step, reads: _without(reads["x"], step.options["croppings"]),
    "transpose": lambda step, reads: tf.transpose(reads["x"], step.options["axes"]),
    "depth_to_space": _depth_to_space,
}
_STEPS: dict[str, Callable] = {
    "dense": _dense,
    "max_pool": _max_pool,
    "average_pool": _average_pool,
    "mean": lambda step, t: tf.reduce_mean(t["x"], [1, 2], keepdims=step.options["keepdims"]),
    "max": lambda step, t: tf.reduce_max(t["x"], [1, 2], keepdims=step.options["keepdims"]),
    "add": lambda step, t: t["x"] + t["y"],
    "subtract": lambda step, t: t["x"] - t["y"],
    "multiply": lambda step, t: t["x"] * t["y"],
    "maximum": lambda step, t: tf.maximum(t["x"], t["y"]),
    "minimum": lambda step, t: tf.minimum(t["x"], t["y"]),
    "activation": lambda step, t: t["x"],
    "power": lambda step, t: tf.pow(t["x"], step.options["exponent"]),
    "normalize": _normalize,
    "softmax": lambda step, t: tf.nn.softmax(t["x"]),
    "matmul": lambda step, t: tf.matmul(t["x"], t["y"], step.options["transpose_x"], step.options["transpose_y"]),
    "resize": _resize,
}
