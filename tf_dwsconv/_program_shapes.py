"""Shapes of the tensors of a program, as far as those of its inputs are known; None stands for an unknown size.

`Infer` of cc/core holds the same rules for the op. These are for what never reaches it: stock ops (which end the
process on some wrong shapes) and Keras' symbolic tensors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Callable, Optional

from tf_dwsconv import _shapes
from tf_dwsconv._arguments import Tensors
from tf_dwsconv._program import Program
from tf_dwsconv._program_steps import Step

Dim = Optional[int]
Shape = list[Dim]


def infer(program: Program, inputs: Sequence[Sequence[Dim]]) -> dict[int, Shape]:
    """The shape of each tensor of a program, by its number.

    Args:
        program: what is to run.
        inputs: the shapes of its inputs, in their order.

    Raises:
        ValueError: shapes that do not fit, naming the input or the step.
    """
    if len(inputs) != len(program.inputs):
        names = [given.name for given in program.inputs]
        raise ValueError(f"`inputs` must be {len(names)} tensors, {names}; given {len(inputs)}.")
    found: dict[int, Shape] = {}
    for given, shape in zip(program.inputs, inputs):
        fits = len(shape) == len(given.shape) and all(map(_agree, shape, given.shape))
        if not fits:
            allowed = "[" + ", ".join("any" if size is None else str(size) for size in given.shape) + "]"
            raise ValueError(f"`inputs`: {given.name!r} must have shape {allowed}; given {tuple(shape)}.")
        found[given.tensor] = [a if b is None else b for a, b in zip(shape, given.shape)]
    for i, step in enumerate(program.steps):
        reads = {
            name: [found[t] for t in read] if isinstance(read, tuple) else found[read]
            for name, read in step.reads.items()
        }
        weights = {name: list(program.weights[index].shape) for name, index in step.weights.items()}
        try:
            shape = _RULES[step.op](step, reads, weights)
            if math.prod(1 if size is None else size for size in shape) > _shapes.MAX_ELEMENTS:
                raise ValueError(
                    f"the output would have shape {tuple(shape)}, more than {_shapes.MAX_ELEMENTS} elements."
                )
        except ValueError as error:
            raise ValueError(f"step {i} {step.name!r}: {error}") from None
        found[step.output] = shape
    return found


def _agree(a: Dim, b: Dim) -> bool:
    return a is None or b is None or a == b


def _same(a: Dim, b: Dim) -> Dim:
    return b if a is None else a


def _wrong(name: str, allowed: str, given: Any) -> ValueError:
    return ValueError(f"`{name}` must {allowed}; given shape {tuple(given)}.")


def _picture(x: Shape) -> Shape:
    if len(x) != 4:
        raise _wrong("x", "have rank 4, [N, H, W, C]", x)
    return x


def _vector(weights: dict, name: str, size: Dim) -> None:
    given = weights.get(name)
    if given is not None and not (len(given) == 1 and _agree(given[0], size)):
        raise _wrong(name, f"have shape [{size}]", given)


def _chain(step: Step, reads: dict, weights: dict) -> Shape:
    others = {name: shape for name, shape in reads.items() if name != "x"}
    groups, kernel = step.options["groups"], weights.get("pointwise_filter")
    if groups > 1 and len(kernel) == 4:
        if kernel[3] % groups:
            raise _wrong("pointwise_filter", f"have shape [R, S, C/groups, K] with K a multiple of {groups}", kernel)
        weights = {**weights, "pointwise_filter": [*kernel[:2], kernel[2] * groups, kernel[3]]}
    return _shapes.check(_picture(reads["x"]), Tensors(**weights, **others), step.attributes)


def _dense(step: Step, reads: dict, weights: dict) -> Shape:
    x, matrix = reads["x"], weights["filter"]
    if len(x) < 2:
        raise _wrong("x", "have rank 2 or more, [N, ..., C]", x)
    if len(matrix) != 2 or 0 in matrix or not _agree(matrix[0], x[-1]):
        raise _wrong("filter", f"have shape [C, K] with C = {x[-1]}, and no size of 0", matrix)
    _vector(weights, "bias", matrix[1])
    y, residual = [*x[:-1], matrix[1]], reads.get("residual")
    if residual is not None and not (len(residual) == len(y) and all(map(_agree, residual, y))):
        raise _wrong("residual", f"have the output's shape, {tuple(y)}", residual)
    return y


def _pool(step: Step, reads: dict, weights: dict) -> Shape:
    x = _picture(reads["x"])
    sizes = _shapes.spatial_sizes(x, step.options["window"], step.attributes, "window")
    return [x[0], *sizes, x[3]]


def _over_pixels(step: Step, reads: dict, weights: dict) -> Shape:
    x = _picture(reads["x"])
    if 0 in x[1:3]:
        raise _wrong("x", "have pixels", x)
    return [x[0], 1, 1, x[3]] if step.options["keepdims"] else [x[0], x[3]]


def _of_two(step: Step, reads: dict, weights: dict) -> Shape:
    x, y = reads["x"], reads.get("y", weights.get("y"))
    if "y" in reads and len(x) != len(y):
        raise _wrong("y", f"have the rank of `x`, {len(x)}", y)
    if len(y) > len(x):
        raise _wrong("y", f"have no more axes than `x`, {len(x)}", y)
    y = [1] * (len(x) - len(y)) + list(y)
    shape = []
    for a, b in zip(x, y):
        if not _agree(a, b) and 1 not in (a, b):
            raise _wrong("y", f"broadcast with `x`, {tuple(x)}", y)
        shape.append(b if a == 1 else a if b == 1 else _same(a, b))
    return shape


def _activation(step: Step, reads: dict, weights: dict) -> Shape:
    _vector(weights, "slopes", reads["x"][-1])
    return reads["x"]


def _normalize(step: Step, reads: dict, weights: dict) -> Shape:
    if len(reads["x"]) < 2:
        raise _wrong("x", "have rank 2 or more", reads["x"])
    for name in ("gamma", "beta"):
        _vector(weights, name, reads["x"][-1])
    return reads["x"]


def _softmax(step: Step, reads: dict, weights: dict) -> Shape:
    return reads["x"]


def _matmul(step: Step, reads: dict, weights: dict) -> Shape:
    x, y = reads["x"], reads["y"]
    if len(x) < 3:
        raise _wrong("x", "have rank 3 or more, [N, ..., M, C]", x)
    if len(y) != len(x) or not all(map(_agree, x[:-2], y[:-2])):
        raise _wrong("y", f"agree with `x`, {tuple(x)}, in all axes but the last two", y)
    rows, inner = x[-2:][:: -1 if step.options["transpose_x"] else 1]
    also, columns = y[-2:][:: -1 if step.options["transpose_y"] else 1]
    if not _agree(inner, also):
        raise _wrong("y", f"have as many rows as `x`, {tuple(x)}, has columns, transposed as they are", y)
    return [*map(_same, x[:-2], y[:-2]), rows, columns]


def _concatenate(step: Step, reads: dict, weights: dict) -> Shape:
    first, axis = list(reads["xs"][0]), step.options["axis"]
    if axis >= len(first):
        raise ValueError(f"`axis` must be below the rank of `xs`, {len(first)}; given {axis}.")
    for other in reads["xs"][1:]:
        fits = len(other) == len(first) and all(_agree(a, b) for i, (a, b) in enumerate(zip(first, other)) if i != axis)
        if not fits:
            raise _wrong("xs", f"agree in all axes but {axis}, with {tuple(first)}", other)
        total = None if None in (first[axis], other[axis]) else first[axis] + other[axis]
        first = [total if i == axis else _same(a, b) for i, (a, b) in enumerate(zip(first, other))]
    return first


def _pad(step: Step, reads: dict, weights: dict) -> Shape:
    x, pairs = reads["x"], step.options["paddings"]
    if len(pairs) != len(x) or any(pairs[0]):
        raise ValueError(f"`paddings` must be {len(x)} pairs, and [0, 0] for the batch; given {pairs}.")
    return [None if size is None else size + sum(pair) for size, pair in zip(x, pairs)]


def _resize(step: Step, reads: dict, weights: dict) -> Shape:
    x, scale = _picture(reads["x"]), step.options["scale"]
    if 0 in x[1:3]:
        raise _wrong("x", "have pixels", x)
    sizes = step.options["size"] or [None if size is None else size * by for size, by in zip(x[1:3], scale)]
    return [x[0], *sizes, x[3]]


def _reshape(step: Step, reads: dict, weights: dict) -> Shape:
    x, shape, (before, after) = reads["x"], list(step.options["shape"]), step.options["pictures"]
    known = math.prod(size for size in shape if size != -1)
    total = None if None in x[1:] else math.prod(x[1:]) * before
    if total is not None:
        fits = total % after == 0
        total //= after
        if not fits or (total % known if -1 in shape and known else total != known):
            raise _wrong("x", f"have as many elements as shape {tuple(shape)}", x)
    if x[0] is not None and x[0] % before:
        raise _wrong("x", f"have a multiple of {before} pictures", x)
    free = None if total is None or not known else total // known
    batch = None if x[0] is None else x[0] // before * after
    return [batch, *(free if size == -1 else size for size in shape)]


def _crop(step: Step, reads: dict, weights: dict) -> Shape:
    x, pairs = reads["x"], step.options["croppings"]
    if len(x) < 2 or len(pairs) != len(x) or any(pairs[0]):
        raise ValueError(f"`croppings` must be {len(x)} pairs, and [0, 0] for the batch; given {pairs}.")
    return _without(x, pairs)


def _without(shape: Shape, pairs: Sequence[Sequence[int]]) -> Shape:
    if any(size is not None and sum(pair) > size for size, pair in zip(shape, pairs)):
        raise ValueError(f"`croppings` must take no more than there is, {tuple(shape)}; given {pairs}.")
    return [None if size is None else size - sum(pair) for size, pair in zip(shape, pairs)]


MOST_AXES = 8


def _transpose(step: Step, reads: dict, weights: dict) -> Shape:
    x, axes = reads["x"], step.options["axes"]
    if len(x) > MOST_AXES:
        raise _wrong("x", f"have at most {MOST_AXES} axes", x)
    if len(axes) != len(x):
        raise ValueError(f"`axes` must be {len(x)} numbers, one for each axis of `x`; given {axes}.")
    return [x[axis] for axis in axes]


def _depth_to_space(step: Step, reads: dict, weights: dict) -> Shape:
    x, block = _picture(reads["x"]), step.options["block"]
    if x[3] is not None and x[3] % math.prod(block):
        raise ValueError(f"`block` must divide the channels of `x`, {x[3]}, among its pixels; given {block}.")
    sizes = [None if size is None else size * by for size, by in zip(x[1:3], block)]
    channels = None if x[3] is None else x[3] // math.prod(block)
    return [x[0], *_without(sizes, step.options["croppings"]), channels]


_RULES: dict[str, Callable[[Step, dict, dict], Shape]] = {
    "chain": _chain,
    "dense": _dense,
    "max_pool": _pool,
    "average_pool": _pool,
    "mean": _over_pixels,
    "max": _over_pixels,
    **dict.fromkeys(("add", "subtract", "multiply", "maximum", "minimum"), _of_two),
    "activation": _activation,
    "power": lambda step, reads, weights: reads["x"],
    "normalize": _normalize,
    "softmax": _softmax,
    "matmul": _matmul,
    "concatenate": _concatenate,
    "pad": _pad,
    "resize": _resize,
    "reshape": _reshape,
    "crop": _crop,
    "transpose": _transpose,
    "depth_to_space": _depth_to_space,
}
