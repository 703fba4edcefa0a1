"""Finds the blocks of a model, and the convolutions into which a batch norm behind them can be folded.

A block is a chain of calls of which each but the last is read by the next one alone: nobody misses what lies between.
The search goes along the graph, so what comes first takes what it can use: a 1x1 convolution between two depthwise ones
ends the first block, and does not begin the second. A chain that cannot be followed to its end is cut where the block
was whole before.
"""

from __future__ import annotations

from typing import Any, Optional

import keras
import numpy as np

from tf_dwsconv.convert import _activations, _branches, _read, _sequences
from tf_dwsconv.convert._block import Block, FoldedConvolution
from tf_dwsconv.convert._graph import Graph, only_input
from tf_dwsconv.convert._leftovers import Leftovers
from tf_dwsconv.convert._read import Convolution

L = keras.layers

_CONVOLUTIONS = (L.Conv2D, L.DepthwiseConv2D, L.SeparableConv2D)


class Finder(Leftovers, _branches.Branching, _sequences.Sequences):
    """Finds all blocks of one graph.

    Args:
        graph: the model's.

    Attributes:
        blocks, folded: what was found.
        reasons: why a call begins no block, by the id of its node; for calls that could.
    """

    def __init__(self, graph: Graph):
        self.graph = graph
        self.blocks: list[Block] = []
        self.folded: list[FoldedConvolution] = []
        self.reasons: dict[int, str] = {}
        self._claimed: set[int] = set()
        self._names = {node.operation.name for node in graph.nodes}
        for node in graph.nodes:
            block = None if id(node) in self._claimed else self._begin(node)
            if block is not None:
                self._add(block)
                self.reasons.pop(id(node), None)
        for node in graph.nodes:
            folded = None if id(node) in self._claimed else self._fold(node)
            if folded is not None:
                self.folded.append(folded)
                self._claimed.update(map(id, folded.nodes))
        for begin in (self._scale, self._rows) if self.blocks else ():
            for node in graph.nodes:
                alone = self._usable(node) and not self.graph.shared(node) and only_input(node) is not None
                block = begin(node) if alone else None
                if block is not None:
                    self._add(block)

    def _add(self, block: Block) -> None:
        """Puts a block among those that were found, under a name of its own."""
        layer = next((n.operation for n in block.nodes if n.operation.name == self.graph.name(block.nodes)), block.main)
        is_shared = any(n.operation is layer and self.graph.shared(n) for n in block.nodes)
        block.name = self._copy_name(layer) if is_shared else self.graph.name(block.nodes)
        self.blocks.append(block)
        self._claimed.update(map(id, block.nodes))

    def _usable(self, node: Any, block: Optional[Block] = None) -> bool:
        """Whether a call may be a part of a block: nobody else calls the layer, and it computes in the same type.

        A block that begins with a copy of a shared convolution may go on with another.
        """
        if node is None or id(node) in self._claimed:
            return False
        copies = block is not None and bool(block.nodes) and self.graph.shared(block.nodes[0])
        if self.graph.shared(node) and not (copies and isinstance(node.operation, _CONVOLUTIONS)):
            return False
        return block is None or _read.compute_dtype(node) == block.dtype

    def _next(self, block: Block) -> Optional[Any]:
        """The call that reads the block's result, if it is the only one and may be taken."""
        node = self.graph.reader(block.out)
        return node if self._usable(node, block) else None

    def _begin(self, node: Any) -> Optional[Block]:
        layer = node.operation
        is_depthwise, is_separable = _read.depthwise(layer) is not None, _read.separable(layer) is not None
        is_pointwise, is_dense = _read.pointwise(node) is not None, _read.dense(layer) is not None
        is_stock = _read.foldable(layer) is not None
        is_sequence = _sequences.halves(layer) is not None and not self.graph.shared(node)
        if is_sequence and only_input(node) is not None:
            return self._sequence(node)
        if not (is_depthwise or is_separable or is_pointwise or is_dense or is_stock):
            return None
        x = only_input(node)
        if x is None:
            self.reasons[id(node)] = f"{layer.name!r} is called with more than its input"
            return None
        is_other = not (is_depthwise or is_separable or is_pointwise or is_dense)
        block = self._whole(node, x, is_pointwise, is_dense, is_other)
        if block is None or not self.graph.shared(node):
            return block
        # A copy for each call is worth its memory where each has a norm of its own.
        if not any(type(n.operation) is L.BatchNormalization for n in block.nodes):
            self.reasons[id(node)] = f"{layer.name!r} is called more than once"
            return None
        return block

    def _copy_name(self, layer: Any) -> str:
        """A name for a copy of a layer that others call as well."""
        number = 1
        while f"{layer.name}_{number}" in self._names:
            number += 1
        self._names.add(f"{layer.name}_{number}")
        return f"{layer.name}_{number}"

    def _whole(self, node: Any, x: Any, is_pointwise: bool, is_dense: bool, is_other: bool) -> Optional[Block]:
        layer = node.operation
        block = self._from_branches(node, x)
        if block is not None or id(node) in self._claimed or is_other:
            return block
        block = Block(x, x, _read.data_format(layer), _read.compute_dtype(node), layer, [])
        if is_pointwise:
            self._in_front(block, node)
            longer = None if block.gate is not None else self._expanded(block.fork(), node)
            return longer if longer is not None else self._pointwise_alone(block, node)
        self._padding(block, self.graph.producer(x), node)
        return self._dense(block, node) if is_dense else self._from_depthwise(block, node)

    def _dense(self, block: Block, node: Any) -> Block:
        """A dense convolution of any window."""
        layer = node.operation
        block.take(node)
        block.is_dense = True
        block.pointwise = _read.dense(layer)
        block.window = {
            "dense_kernel_size": tuple(layer.kernel_size),
            "strides": tuple(layer.strides),
            "dilation_rate": tuple(layer.dilation_rate),
            "padding": layer.padding,
            **block.window,
        }
        return self._tail(block)

    def _expanded(self, block: Block, node: Any) -> Optional[Block]:
        """A dense 1x1 convolution in front of a depthwise one."""
        block.take(node)
        block.expand = self._one_by_one(block, node)
        if block.expand.activation is None:
            return None
        if block.expand.is_linear:
            self._affine(block, block.expand)
            self._activation(block, "expand_")
        else:
            block.expand_activation = block.expand.activation
        following = self._next(block)
        if following is not None and _read.zero_padding(following) is not None:
            after = self.graph.reader(following.outputs[0])
            if after is None or not self._padding(block, following, after, forward=True):
                return None
            following = after
        if not self._usable(following, block) or only_input(following) is None:
            return None
        if _read.data_format(following.operation) != block.layout:
            return None
        return self._from_depthwise(block, following)

    def _padding(self, block: Block, node: Optional[Any], following: Any, forward: bool = False) -> bool:
        """Takes zeros around the picture between the block's beginning and a convolution without padding."""
        padding = _read.zero_padding(node) if node is not None and self._usable(node, block) else None
        if padding is None or self.graph.reader(node.outputs[0]) is not following:
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

    def _from_depthwise(self, block: Block, node: Any) -> Optional[Block]:
        layer = node.operation
        halves = _read.separable(layer)
        depthwise = halves[0] if halves is not None else _read.depthwise(layer)
        if depthwise is None:
            return None
        if depthwise.activation is None:
            self.reasons[id(node)] = f"the kernels do not know the activation {depthwise.function!r} of {layer.name!r}"
            return None
        block.take(node)
        block.main = layer
        block.depthwise = depthwise
        block.window = {
            "kernel_size": depthwise.kernel.shape[:2],
            "strides": tuple(layer.strides),
            "dilation_rate": tuple(layer.dilation_rate),
            "padding": layer.padding,
            "depth_multiplier": depthwise.kernel.shape[3],
            **block.window,
        }
        block.depthwise_activation = depthwise.activation
        if halves is not None:
            block.is_separable = True
            block.pointwise = halves[1]
            return self._tail(block)
        return self._behind_depthwise(block)

    def _behind_depthwise(self, block: Block) -> Block:
        if block.depthwise.is_linear:
            self._affine(block, block.depthwise)
            self._activation(block, "depthwise_")
        whole = self._through_pointwise(block)
        return whole if whole.pointwise is not None else self._with_residual(whole)

    def _with_residual(self, block: Block) -> Block:
        """Takes the Add behind a block that ends at its depthwise convolution, if there is one."""
        longer = block.fork()
        while (node := self._next(longer)) is not None and _read.is_identity(node):
            longer.take(node)
        residual = None if node is None else self._residual(longer, node)
        if residual is None:
            return block
        longer.take(node)
        longer.residual = residual
        longer.note = self._why_it_ends(longer) if self._next(longer) is None else ""
        return longer

    def _through_pointwise(self, block: Block) -> Block:
        """Goes on to a 1x1 convolution, through what may stand in front of one; stays where there is none."""
        longer = block.fork()
        scale, shift, is_scaled = 1.0, 0.0, False
        while True:
            node = self._next(longer)
            branches = self._pointwise_branches(longer) if node is None else None
            if branches is not None:
                longer.nodes += branches.nodes
                longer.out, convolution = branches.out, branches.convolution
                break
            if node is None:
                block.note = self._why_it_ends(longer)
                return block
            read = _sequences.pointwise if block.is_sequence else _read.pointwise
            convolution = read(node) if only_input(node) is not None else None
            if convolution is not None and _read.data_format(node.operation) == block.layout:
                break
            norm = _read.layer_norm(node, block.layout)
            gate = self._gate(longer, node)
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
                return block
            longer.take(node)
        if branches is None:
            longer.take(node)
        if is_scaled:
            convolution.scale_inputs(scale, shift)
        longer.pointwise = convolution
        return self._tail(longer)

    def _why_it_ends(self, block: Block) -> str:
        """Why `_next` is None."""
        node = self.graph.reader(block.out)
        if node is None:
            is_last = len(self.graph.readers(block.out)) == 0 and block.out is self.graph.only_output
            return "" if is_last else self.graph.why_not_one_reader(block.out)
        if self.graph.shared(node):
            return f"{node.operation.name!r} is called more than once"
        if _read.compute_dtype(node) != block.dtype:
            return f"{node.operation.name!r} computes in {_read.compute_dtype(node)}"
        return f"{node.operation.name!r} belongs to the block of {self._owner(node)!r}"

    def _owner(self, node: Any) -> str:
        return next(block.name for block in self.blocks if any(n is node for n in block.nodes))

    def _in_front(self, block: Block, node: Any) -> None:
        """Takes a gate or a batch norm in front of a 1x1 convolution."""
        before = self.graph.producer(block.x)
        if not self._usable(before, block) or self.graph.reader(block.x) is not node:
            return
        gate = self._gate(block, before)
        if gate is not None:
            block.gate = gate
            block.x = next(t for t in before.arguments.keras_tensors if t is not gate)
            block.nodes.append(before)
        elif only_input(before) is not None and _read.affine(before, block.layout) is not None:
            block.before = _read.affine(before, block.layout)
            block.x = only_input(before)
            block.nodes.append(before)

    def _one_by_one(self, block: Block, node: Any) -> Convolution:
        """A 1x1 convolution, with what was in front of it folded in."""
        convolution = _read.pointwise(node)
        if block.before is not None:
            convolution.scale_inputs(*block.before)
        return convolution

    def _pointwise_alone(self, block: Block, node: Any) -> Block:
        """A 1x1 convolution with no depthwise one in front."""
        block.take(node)
        block.pointwise = self._one_by_one(block, node)
        return self._tail(block)

    def _gate(self, block: Block, node: Any) -> Optional[Any]:
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
            # Where the pixels are one as well, it is the second operand that scales.
            if len(gate.shape) != 4 or len(scaled.shape) != 4 or gate.shape[axis] != scaled.shape[axis]:
                continue
            if ones == [1, 1] and (sizes != [1, 1] or gate is operands[1] or block.nodes):
                return gate
        return None

    def _tail(self, block: Block) -> Block:
        """What comes behind the pointwise convolution: scales and offsets, a residual, the last activation."""
        convolution = block.pointwise
        if convolution.activation is None:
            block.function = convolution.function
            return block
        if not convolution.is_linear:
            block.activation = convolution.activation
            return block
        self._affine(block, convolution)
        longer = block.fork()
        while (node := self._next(longer)) is not None and _read.is_identity(node):
            longer.take(node)
            self._affine(longer, longer.pointwise)
        residual = None if node is None else self._residual(longer, node)
        if residual is not None:
            longer.take(node)
            longer.residual = residual
            block = longer
        self._activation(block, "")
        return block

    def _residual(self, block: Block, node: Any) -> Optional[Any]:
        """What an Add adds to the block's result, if it has its shape and type."""
        operands = _read.of_two(node, "Add")
        if operands is None:
            return None
        other = operands[1] if operands[0] is block.out else operands[0]
        if tuple(other.shape) != tuple(block.out.shape):
            return None
        return other if keras.backend.is_float_dtype(other.dtype) else None

    def _affine(self, block: Block, convolution: Convolution) -> None:
        """Folds the scales and offsets that follow into a convolution."""
        while (node := self._next(block)) is not None:
            change = _read.affine(node, block.layout)
            if change is None:
                return
            convolution.scale_outputs(*change)
            block.take(node)

    def _activation(self, block: Block, stage: str) -> None:
        """Takes the activation that follows, if the kernels know one; `stage` is "", "depthwise_" or "expand_"."""
        found = _activations.behind(self.graph, block.out, block.layout, lambda node: self._usable(node, block))
        if found is None:
            return
        for node in found.nodes:
            block.take(node)
        setattr(block, f"{stage}activation", found.fused)
        if found.slopes is not None:
            block.slopes[stage] = found.slopes
