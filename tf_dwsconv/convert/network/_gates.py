"""Factors for each picture and channel, which a 1x1 convolution takes as its gate: of squeeze-excite, of ConvNeXt V2.

Global response normalization (Woo et al., "ConvNeXt V2", 2023) is `x + gamma * (x * n) + beta` with a factor n for each
channel of a picture. Written as `x * (gamma * n + 1) + beta` it costs the convolution behind it next to nothing.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Callable, Optional

import numpy as np

from tf_dwsconv._program_steps import Step
from tf_dwsconv.activations import NONE
from tf_dwsconv.convert.network._builder import Builder

_IsPointwise = Callable[[Builder, Step], bool]


def gate(builder: Builder, before: Step, step: Step, is_pointwise: _IsPointwise) -> Optional[Step]:
    """A product with such factors in front of a 1x1 convolution."""
    parts = _gated(builder, before)
    if parts is None or not is_pointwise(builder, step) or not _reads_alone(step, before):
        return None
    x, factors = parts
    return dataclasses.replace(step, reads={**step.reads, "x": x, "gate": factors})


def addend(builder: Builder, before: Step, step: Step, is_pointwise: _IsPointwise) -> Optional[Step]:
    """A number for each channel that is added in front of a 1x1 convolution: that adds its share to the bias."""
    shift = _of_channels(builder, before, "add")
    if shift is None or not is_pointwise(builder, step) or not _reads_alone(step, before):
        return None
    kernel = builder.value(step.weights["pointwise_filter"])
    bias = builder.value(step.weights["bias"]) if "bias" in step.weights else 0.0
    matrix = kernel.reshape(kernel.shape[2:])
    bias = bias + np.broadcast_to(shift, [matrix.shape[0]]) @ matrix
    reads = {**step.reads, "x": before.reads["x"]}
    return dataclasses.replace(step, reads=reads, weights={**step.weights, "bias": builder.weight(bias)})


def scaled_factors(builder: Builder, before: Step, step: Step) -> Optional[Step]:
    """A product with numbers for each channel behind one with such factors goes to the factors."""
    parts, scale = _gated(builder, before), _of_channels(builder, step, "multiply")
    if parts is None or scale is None or step.reads["x"] != before.output:
        return None
    x, factors = parts
    return dataclasses.replace(
        step, reads={"x": x, "y": _small(builder, before, step, "multiply", factors, scale)}, weights={}
    )


def gated_sum(builder: Builder, before: Step, step: Step) -> Optional[Step]:
    """What is added to its own product with such factors: the factors grow by 1."""
    if step.op != "add" or "y" not in step.reads or step.options["activation"] != NONE:
        return None
    other = step.reads["x"] if step.reads["y"] == before.output else step.reads["y"]
    # The product, and what is added: to it, to the tensor itself, or to neither.
    for sides in ((before.output, other), (other, before.output)):
        shift, product = _shifted(builder, sides[0])
        _, x = _shifted(builder, sides[1])
        product_step = _producer(builder, product)
        parts = None if product_step is None else _gated(builder, product_step)
        shifts = [s for s in (shift, _shifted(builder, sides[1])[0]) if s is not None]
        if parts is None or parts[0] != x or len(shifts) > 1:
            continue
        factors = _small(builder, step, step, "add", parts[1], np.ones([1]))
        if not shifts:
            return dataclasses.replace(product_step, name=step.name, reads={"x": x, "y": factors})
        y = builder.step("multiply", step.name, {"x": x, "y": factors}, builder.shapes[x])
        builder.steps.insert(builder.steps.index(step), builder.steps.pop())
        return dataclasses.replace(shifts[0], name=step.name, reads={"x": y})
    return None


def _shifted(builder: Builder, tensor: int) -> tuple[Optional[Step], int]:
    """The step that adds a number for each channel, where one made a tensor, and what it adds to."""
    step = _producer(builder, tensor)
    if step is None or _of_channels(builder, step, "add") is None:
        return None, tensor
    return step, step.reads["x"]


def _gated(builder: Builder, step: Step) -> Optional[tuple[int, int]]:
    """(x, factors) of a product of pictures with factors for each of their channels."""
    if step.op != "multiply" or "y" not in step.reads or step.options["activation"] != NONE:
        return None
    for x, factors in ((step.reads["x"], step.reads["y"]), (step.reads["y"], step.reads["x"])):
        shape, other = builder.shapes[x], builder.shapes[factors]
        if len(shape) == 4 and shape[3] is not None and tuple(other[1:]) == (1, 1, shape[3]) and shape[1:3] != (1, 1):
            return x, factors
    return None


def _of_channels(builder: Builder, step: Step, op: str) -> Optional[np.ndarray]:
    """The numbers of a sum or a product with one, or with one for each channel."""
    if step.op != op or "y" not in step.weights or step.options["activation"] != NONE:
        return None
    value, channels = builder.value(step.weights["y"]), builder.shapes[step.output][-1]
    fits = value.size == value.shape[-1] and value.size in (1, channels)
    return value.reshape(-1) if fits and len(builder.shapes[step.output]) == 4 else None


def _small(builder: Builder, before: Step, step: Step, op: str, factors: int, value: Any) -> int:
    """A step on factors, in front of those that are joined."""
    place = builder.steps.index(before)
    y = builder.step(op, step.name, factors, builder.shapes[factors], {"y": value})
    builder.steps.insert(place, builder.steps.pop())
    return y


def _producer(builder: Builder, tensor: int) -> Optional[Step]:
    return next((step for step in builder.steps if step.output == tensor), None)


def _reads_alone(step: Step, before: Step) -> bool:
    """Whether a chain without groups reads a result as its `x`, and as nothing else."""
    is_x = step.reads["x"] == before.output and list(step.sources).count(before.output) == 1
    return is_x and step.options["groups"] == 1
