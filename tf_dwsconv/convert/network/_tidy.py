"""Steps that go into the steps before or behind them: what the blocks of the model could not take.

A step goes where nothing else reads what lies between. Each pass over a tensor that is saved so is a pass over memory.
"""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Iterable
from typing import Callable, Optional

import numpy as np

from tf_dwsconv._program_steps import Step, make_step
from tf_dwsconv.activations import NONE, Fused
from tf_dwsconv.convert.network import _gates, _turned
from tf_dwsconv.convert.network._builder import Builder


def tidy(builder: Builder, outputs: Iterable[int]) -> None:
    """Makes the steps of a program fewer; what `outputs` hold stays."""
    outputs = set(outputs)
    _merge_equal(builder, outputs)
    folds = (_activation, _scale, _addend, _zeros, _every_few_before, _every_few_behind, _cut, *_TURNED, *_GATES)
    for rules in (folds, (*folds, _scale_and_shift)):
        while True:
            readers: collections.Counter = collections.Counter(t for step in builder.steps for t in step.sources)
            readers.update(outputs)
            producers = {step.output: step for step in builder.steps}
            if not any(_join(builder, step, producers, readers, rules) for step in builder.steps):
                break


def _merge_equal(builder: Builder, outputs: set[int]) -> None:
    """Steps that compute the same of the same are one: branches of a cell that each begin with a ReLU of one tensor."""
    same: dict[int, int] = {}  # tensors, by those that hold the same
    first: dict[tuple, int] = {}
    steps = []
    for step in builder.steps:
        step = step.reading(same)
        key = (step.op, *(tuple(sorted(of.items())) for of in (step.reads, step.weights, step.options)))
        if key in first and step.output not in outputs:
            same[step.output] = first[key]
            continue
        first.setdefault(key, step.output)
        steps.append(step)
    builder.steps[:] = steps


def _join(builder: Builder, step: Step, producers: dict[int, Step], readers: collections.Counter, rules: tuple) -> bool:
    """Joins a step with one that it reads, if any rule does."""
    for source in step.sources:
        before = producers.get(source)
        if before is None or readers[source] != 1:
            continue
        for rule in rules:
            joined = rule(builder, before, step)
            if joined is not None:
                place = builder.steps.index(step)
                builder.steps[place] = dataclasses.replace(joined, output=step.output)
                builder.steps.remove(before)
                return True
        if _through(builder, before, step, producers, readers):
            return True
    return False


def _through(
    builder: Builder, move: Step, step: Step, producers: dict[int, Step], readers: collections.Counter
) -> bool:
    """Joins a step on channels with what is in front of `move`, which keeps all channels of a pixel together.

    Of the channels that `depth_to_space` makes pixels of, each pixel's have the same factor, addend or slope.
    """
    before = producers.get(move.reads.get("x", -1))
    if before is None or readers[before.output] != 1:
        return False
    if move.op == "depth_to_space":
        pixels = math.prod(move.options["block"])
    elif move.op == "crop" and not any(move.options["croppings"][-1]):
        pixels = 1
    else:
        return False
    steps = _on_channels(builder, move, step)
    if not steps or None in (builder.shapes[before.output][-1], builder.shapes[move.output][-1]):
        return False
    joined: Optional[Step] = before
    for one in steps:
        weights = {key: builder.weight(_for_pixels(builder.value(place), pixels)) for key, place in one.weights.items()}
        moved = dataclasses.replace(one, reads={"x": before.output}, weights=weights)
        joined = _activation(builder, joined, moved) or _scale(builder, joined, moved)
        if joined is None:
            return False
    builder.steps[builder.steps.index(before)] = dataclasses.replace(joined, output=before.output)
    builder.steps[builder.steps.index(move)] = dataclasses.replace(move, output=step.output)
    builder.steps.remove(step)
    return True


def _on_channels(builder: Builder, before: Step, step: Step) -> list[Step]:
    """A step as factors, addends and activations of channels; none where it computes anything else."""
    if step.op == "activation" or _channels(builder, before, step) is not None:
        return [step]
    is_plain = step.op == "chain" and set(step.weights) <= {"depthwise_filter", "depthwise_bias", "depthwise_slopes"}
    if not is_plain or set(step.reads) != {"x"} or step.options["normalize"]:
        return []
    tap = builder.value(step.weights["depthwise_filter"])
    if step.options["strides"] != (1, 1) or not isinstance(step.options["padding"], str) or tap.size != tap.shape[2]:
        return []
    weights = {"multiply": builder.weight(tap.reshape(-1)), "add": step.weights.get("depthwise_bias")}
    found = [
        make_step(op, step.name, step.reads, {"y": place}, {}, step.output)
        for op, place in weights.items()
        if place is not None
    ]
    slopes = {"slopes": step.weights["depthwise_slopes"]} if "depthwise_slopes" in step.weights else {}
    activation = {"activation": step.options["depthwise_activation"]}
    if activation["activation"] != NONE:
        found.append(make_step("activation", step.name, step.reads, slopes, activation, step.output))
    return found


def _for_pixels(value: np.ndarray, pixels: int) -> np.ndarray:
    """One number, or one for each channel, of as many pixels."""
    return value.reshape(-1) if value.size == 1 else np.tile(value.reshape(-1), pixels)


def _stage(step: Step) -> Optional[str]:
    """The stage of a chain that comes last; None for one that ends otherwise."""
    if "pointwise_filter" in step.weights:
        return ""
    ends_otherwise = "residual" in step.reads or "gate" in step.reads or step.options["normalize"]
    return "depthwise_" if "depthwise_filter" in step.weights and not ends_otherwise else None


def _activation(builder: Builder, before: Step, step: Step) -> Optional[Step]:
    """An activation goes into the convolution, product or sum in front of it."""
    if step.op != "activation" or before.op == "activation":
        return None
    stage = _stage(before) if before.op == "chain" else ""
    key = f"{stage}activation"
    is_prelu = step.options["activation"].word == "prelu"
    if stage is None or before.options.get(key) != NONE or (is_prelu and before.op != "chain"):
        return None
    slopes = {f"{stage}slopes": step.weights["slopes"]} if is_prelu else {}
    joined = before.with_options(**{key: step.options["activation"]})
    return dataclasses.replace(joined, weights={**before.weights, **slopes})


def _addend(builder: Builder, before: Step, step: Step) -> Optional[Step]:
    """A sum of two tensors of one shape goes into the chain or the product that makes one of them, as its residual."""
    if step.op != "add" or "y" not in step.reads or before.op not in ("chain", "dense"):
        return None
    x, y = step.reads["x"], step.reads["y"]
    other = y if x == before.output else x
    is_linear = before.options["activation"] == NONE and "residual" not in before.reads
    if not is_linear or x == y or builder.shapes[x] != builder.shapes[y]:
        return None
    if step.options["activation"] != NONE and not {"pointwise_filter", "filter"} & set(before.weights):
        return None
    joined = before.with_options(activation=step.options["activation"])
    return dataclasses.replace(joined, reads={**before.reads, "residual": other})


def _zeros(builder: Builder, before: Step, step: Step) -> Optional[Step]:
    """Zeros around a picture go into a convolution without padding."""
    is_padding = before.op == "pad" and len(before.options["paddings"]) == 4 and before.options["value"] == 0
    if not is_padding or step.op != "chain" or step.reads["x"] != before.output or step.options["padding"] != "valid":
        return None
    if "expand_filter" in step.weights or not _has_window(builder, step):
        return None
    rows, columns = before.options["paddings"][1:3]
    if any(before.options["paddings"][3]) or list(step.reads.values()).count(before.output) != 1:
        return None
    joined = step.with_options(padding=(rows, columns))
    return dataclasses.replace(joined, reads={**step.reads, "x": before.reads["x"]})


def _cut(builder: Builder, before: Step, step: Step) -> Optional[Step]:
    """What a crop leaves of another crop, or of pixels that are put side by side."""
    if step.op != "crop" or before.op not in ("crop", "depth_to_space"):
        return None
    pairs = step.options["croppings"]
    if before.op == "depth_to_space":
        if any(pairs[3]):
            return None
        pairs = pairs[1:3]
    both = tuple((a + c, b + d) for (a, b), (c, d) in zip(before.options["croppings"], pairs))
    return before.with_options(croppings=both)


def _has_window(builder: Builder, step: Step) -> bool:
    """Whether a chain's padding means something."""
    if "depthwise_filter" in step.weights:
        return True
    return builder.value(step.weights["pointwise_filter"]).shape[:2] != (1, 1)


def _every_few_before(builder: Builder, before: Step, step: Step) -> Optional[Step]:
    """A pool of one pixel only leaves pixels out: the 1x1 convolution behind it does so itself."""
    if not _leaves_out(before) or not _is_pointwise(builder, step):
        return None
    if step.reads["x"] != before.output or list(step.sources).count(before.output) != 1:
        return None
    joined = step.with_options(strides=before.options["strides"], padding="valid")
    return dataclasses.replace(joined, reads={**step.reads, "x": before.reads["x"]})


def _every_few_behind(builder: Builder, before: Step, step: Step) -> Optional[Step]:
    """Pixels that such a pool leaves out need not be computed."""
    if not _leaves_out(step) or before.op != "chain" or "residual" in before.reads:
        return None
    if "expand_filter" in before.weights and "depthwise_filter" not in before.weights:
        return None
    if "depthwise_filter" not in before.weights and not _is_pointwise(builder, before):
        return None
    options, padding = before.options, before.options["padding"]
    if padding == "same":
        if options["strides"] != (1, 1):
            return None  # the padding of more strides depends on the sizes
        key = "depthwise_filter" if "depthwise_filter" in before.weights else "pointwise_filter"
        taps = zip(builder.value(before.weights[key]).shape, options["dilations"])
        around = [(size - 1) * dilation for size, dilation in taps]
        padding = tuple((n // 2, n - n // 2) for n in around)
    strides = tuple(a * b for a, b in zip(options["strides"], step.options["strides"]))
    return before.with_options(strides=strides, padding=padding)


def _leaves_out(step: Step) -> bool:
    """Whether a step is a pool of windows of one pixel."""
    is_pool = step.op in ("max_pool", "average_pool") and step.options["window"] == (1, 1)
    return is_pool and isinstance(step.options["padding"], str)


def _is_pointwise(builder: Builder, step: Step) -> bool:
    """Whether a step is a 1x1 convolution of all pixels, of which strides make a dense one."""
    if step.op != "chain" or {"expand_filter", "depthwise_filter"} & set(step.weights) or "gate" in step.reads:
        return False
    plain = step.options["strides"] == (1, 1) and isinstance(step.options["padding"], str)
    return plain and not step.options["normalize"] and not _has_window(builder, step)


def _scale(builder: Builder, before: Step, step: Step) -> Optional[Step]:
    """Factors and addends of channels go into the filter and the bias in front of them.

    A factor above zero goes through a ReLU: `s * relu(x) = relu(s * x)`, and its bound grows alike.
    """
    value = _channels(builder, before, step)
    if value is None or before.op not in ("chain", "dense"):
        return None
    stage = _stage(before) if before.op == "chain" else ""
    if stage is None or "residual" in before.reads:
        return None
    key = f"{stage}activation"
    activation = before.options[key]
    filter_key = "filter" if before.op == "dense" else f"{stage or 'pointwise_'}filter"
    if step.op == "multiply":
        activation = _scaled(activation, value)
        change: Callable = lambda x: x * value.reshape(-1) if value.size > 1 else x * value.item()  # noqa: E731
    elif activation == NONE:
        change = lambda x: x  # noqa: E731
    else:
        return None
    if activation is None:
        return None
    kernel = builder.value(before.weights[filter_key])
    channels = kernel.shape[-1] if stage == "" else kernel.shape[2] * kernel.shape[3]
    matrix = kernel.reshape(-1, channels)
    weights = {**before.weights, filter_key: builder.weight(change(matrix).reshape(kernel.shape))}
    bias_key = f"{stage}bias"
    bias = builder.value(before.weights[bias_key]) if bias_key in before.weights else None
    if step.op == "add":
        weights[bias_key] = builder.weight(
            (0.0 if bias is None else bias) + np.broadcast_to(value.reshape(-1), [channels])
        )
    elif bias is not None:
        weights[bias_key] = builder.weight(change(bias))
    return dataclasses.replace(before.with_options(**{key: activation}), weights=weights)


def _scale_and_shift(builder: Builder, before: Step, step: Step) -> Optional[Step]:
    """A factor and an addend of pictures, which no convolution took, are a depthwise one of one tap, in one pass."""
    channels = builder.shapes[before.output][-1]
    if before.op != "multiply" or step.op != "add" or len(builder.shapes[before.output]) != 4 or channels is None:
        return None
    scale, shift = (_channels(builder, s, s) for s in (before, step))
    if scale is None or shift is None:
        return None
    weights = {
        "depthwise_filter": builder.weight(np.broadcast_to(scale.reshape(-1), [channels]).reshape(1, 1, -1, 1).copy()),
        "depthwise_bias": builder.weight(np.broadcast_to(shift.reshape(-1), [channels]).copy()),
    }
    return make_step("chain", before.name, {"x": before.reads["x"]}, weights, {}, step.output)


def _channels(builder: Builder, before: Step, step: Step) -> Optional[np.ndarray]:
    """The constant that a multiplication or an addition takes besides a tensor: one number, or one for each channel."""
    if step.op not in ("multiply", "add") or "y" not in step.weights or step.options["activation"] != NONE:
        return None
    value = builder.value(step.weights["y"])
    channels = builder.shapes[before.output][-1]
    is_of_channels = value.size == value.shape[-1] and value.size in (1, channels)
    return value if is_of_channels and len(value.shape) <= len(builder.shapes[before.output]) else None


def _scaled(activation: Fused, value: np.ndarray) -> Optional[Fused]:
    """The activation of what was multiplied by factors before it, where that is one."""
    if activation == NONE:
        return activation
    bound = 6.0 if activation.word == "relu6" else activation.max_value
    if activation.word not in ("relu", "relu6") or activation.threshold != 0 or value.size > 1 or value.item() <= 0:
        return None
    return Fused("relu", max_value=bound * value.item())


_TURNED = (_turned.factor, _turned.result, _turned.reshaped)
_GATES = (
    _gates.scaled_factors,
    _gates.gated_sum,
    lambda builder, before, step: _gates.gate(builder, before, step, _is_pointwise),
    lambda builder, before, step: _gates.addend(builder, before, step, _is_pointwise),
)
