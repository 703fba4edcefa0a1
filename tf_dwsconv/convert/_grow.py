"""Makes a block longer, call by call, for the rules that begin one.

A block is a chain of calls. The next call alone reads each but the last, so no other call misses what lies between.
What is taken is folded at once into the convolution before or behind it. A chain that cannot be followed to its end is
cut where the block was whole before.
"""

from __future__ import annotations

from typing import Any, Optional

import keras
import numpy as np

from tf_dwsconv._keras_graph import only_input
from tf_dwsconv.convert import _activations, _branches, _read
from tf_dwsconv.convert._block import Block
from tf_dwsconv.convert._read import Convolution
from tf_dwsconv.convert._search import Search


def take_scales(search: Search, block: Block, convolution: Convolution) -> None:
    """Folds the scales and offsets that follow into a convolution."""
    while (node := search.next(block)) is not None:
        change = _read.affine(node, block.layout)
        if change is None:
            return
        convolution.scale_outputs(*change)
        block.take(node)


def take_activation(search: Search, block: Block, stage: str) -> None:
    """Takes the activation that follows, if the kernels know one; `stage` is "", "depthwise_" or "expand_"."""
    found = _activations.behind(search.graph, block.out, block.layout, lambda node: search.usable(node, block))
    if found is None:
        return
    for node in found.nodes:
        block.take(node)
    setattr(block, f"{stage}activation", found.fused)
    if found.slopes is not None:
        block.slopes[stage] = found.slopes


def take_padding(search: Search, block: Block, node: Optional[Any], following: Any, forward: bool = False) -> bool:
    """Takes zeros around the picture between the block's beginning and a convolution without padding."""
    padding = _read.zero_padding(node) if node is not None and search.usable(node, block) else None
    if padding is None or search.graph.reader(node.outputs[0]) is not following:
        return False
    *pads, layout = padding
    if layout not in (None, block.layout) or getattr(following.operation, "padding", None) != "valid":
        return False
    if any(number < 0 for pair in pads for number in pair):
        return False
    block.take(node)
    if not forward:
        block.x = only_input(node)
    block.window["padding"] = tuple(pads)
    return True


def take_residual(search: Search, block: Block) -> bool:
    """Takes the Add that follows, behind calls that do nothing and scales that go into the pointwise convolution.

    The block stays as it is where no Add follows that adds a tensor of the block's shape.
    """
    longer = block.fork()
    while (node := search.next(longer)) is not None and _read.is_identity(node):
        longer.take(node)
        if longer.pointwise is not None:
            take_scales(search, longer, longer.pointwise)
    operands = None if node is None else _read.of_two(node, "Add")
    if operands is None:
        return False
    other = operands[1] if operands[0] is longer.out else operands[0]
    if tuple(other.shape) != tuple(longer.out.shape) or not keras.backend.is_float_dtype(other.dtype):
        return False
    longer.take(node)
    longer.residual = other
    if longer.pointwise is None:
        longer.note = search.why_it_ends(longer) if search.next(longer) is None else ""
    vars(block).update(vars(longer))
    return True


def tail(search: Search, block: Block) -> Block:
    """Takes what comes behind the pointwise convolution: scales and offsets, a residual, the last activation."""
    convolution = block.pointwise
    if convolution.activation is None:
        block.function = convolution.function
        return block
    if not convolution.is_linear:
        block.activation = convolution.activation
        return block
    take_scales(search, block, convolution)
    take_residual(search, block)
    take_activation(search, block, "")
    return block


def behind_depthwise(search: Search, block: Block) -> Block:
    """Takes what comes behind the depthwise convolution, up to a pointwise one and its tail if there is one."""
    if block.depthwise.is_linear:
        take_scales(search, block, block.depthwise)
        take_activation(search, block, "depthwise_")
    longer = _up_to_pointwise(search, block)
    if longer is not None:
        return tail(search, longer)
    take_residual(search, block)
    return block


def _up_to_pointwise(search: Search, block: Block) -> Optional[Block]:
    """A longer block that ends at a 1x1 convolution, through what may stand in front of one.

    Where there is none, the reason goes to the block's note.
    """
    longer = block.fork()
    scale, shift, is_scaled = 1.0, 0.0, False
    while True:
        node = search.next(longer)
        if node is None:
            branches = _pointwise_branches(search, longer)
            if branches is None:
                block.note = search.why_it_ends(longer)
                return None
            longer.nodes += branches.nodes
            longer.out, convolution = branches.out, branches.convolution
            break
        rank = 3 if block.is_sequence else 4
        convolution = _read.pointwise(node, rank) if only_input(node) is not None else None
        if convolution is not None and _read.data_format(node.operation) == block.layout:
            longer.take(node)
            break
        norm = _read.layer_norm(node, block.layout)
        gate = find_gate(longer, node)
        change = _read.affine(node, block.layout)
        if norm is not None and longer.epsilon is None and longer.gate is None and not is_scaled:
            longer.epsilon, scale, shift = norm
            is_scaled = True
        elif gate is not None and longer.gate is None and not np.any(shift):
            longer.gate = gate  # a scale in front of it may as well be behind it; an offset may not
        elif change is not None and longer.gate is None:
            scale, shift, is_scaled = scale * change[0], shift * change[0] + change[1], True
        elif not _read.is_identity(node):
            block.note = f"{node.operation.name!r} follows"
            return None
        longer.take(node)
    if is_scaled:
        convolution.scale_inputs(scale, shift)
    longer.pointwise = convolution
    return longer


def _pointwise_branches(search: Search, block: Block) -> Optional[Any]:
    """The 1x1 convolutions that alone read a block's result, and are added."""
    graph = search.graph
    if len(graph.readers(block.out)) < 2 or id(block.out) in graph.outputs or block.is_sequence:
        return None
    found = _branches.find(search, block.out, block.layout, block.dtype)
    if found is None or found.convolution.depthwise or found.window["kernel_size"] != (1, 1):
        return None
    own = {id(node) for node in found.nodes}
    inside = all(id(node) in own for node in graph.readers(block.out))
    return found if inside and found.window["strides"] == (1, 1) else None


def find_gate(block: Block, node: Any) -> Optional[Any]:
    """What a Multiply scales the channels by: [N, 1, 1, C] times the block's result, or what is to be its input."""
    operands = _read.of_two(node, "Multiply")
    if operands is None:
        return None
    axis = _read.channel_axis(block.layout)
    for gate, scaled in (operands, operands[::-1]):
        if block.nodes and scaled is not block.out:
            continue
        ones = [size for i, size in enumerate(gate.shape) if i not in (0, axis)]
        sizes = [size for i, size in enumerate(scaled.shape) if i not in (0, axis)]
        if len(gate.shape) != 4 or len(scaled.shape) != 4 or gate.shape[axis] != scaled.shape[axis]:
            continue
        # Where the pixels are one as well, it is the second operand that scales.
        if ones == [1, 1] and (sizes != [1, 1] or gate is operands[1] or block.nodes):
            return gate
    return None
