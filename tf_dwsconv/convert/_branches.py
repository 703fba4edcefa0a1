"""Parallel branches that add, as one convolution: the blocks of RepVGG and MobileOne as they are trained.

In inference the sum of convolutions of one tensor, each with its batch norm, is one convolution. Its filter is the sum
of theirs, each where its window lies. A batch norm alone, or the tensor itself, is a 1x1 one. Sums are float64.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Callable, Optional

import keras
import numpy as np

from tf_dwsconv.activations import NONE
from tf_dwsconv.convert import _cost, _read
from tf_dwsconv.convert._block import Block, FoldedConvolution
from tf_dwsconv.convert._graph import Graph, only_input
from tf_dwsconv.convert._read import Convolution

L = keras.layers


@dataclasses.dataclass
class Branches:
    """x: what all read; out: the sum; nodes: the calls, the last Add at the end; main: the layer of the largest window;
    window: of the sum, as a `FusedConvBlock` takes it.
    """

    x: Any
    out: Any
    nodes: list
    main: Any
    convolution: Convolution
    window: dict


@dataclasses.dataclass
class _Branch:
    nodes: list
    out: Any
    layer: Any  # the convolution's; None for a batch norm alone, or nothing
    convolution: Optional[Convolution] = None
    pads: tuple = ((0, 0), (0, 0))
    scale: Any = 1.0
    shift: Any = 0.0


def find(graph: Graph, x: Any, layout: str, dtype: str, usable: Callable[[Any], bool]) -> Optional[Branches]:
    """The convolutions of a tensor that one sum joins, two of them at least.

    Args:
        graph: of the calls.
        x: the tensor.
        layout, dtype: of the pictures, and what is computed in.
        usable: whether a call may be taken.
    """

    def takes(node: Any) -> bool:
        return usable(node) and _read.compute_dtype(node) == dtype

    sums: dict[int, list[_Branch]] = {id(x): [_Branch([], x, None)]}
    for node in graph.readers(x):
        branch = _follow(graph, node, layout, takes) if takes(node) else None
        if branch is not None:
            sums[id(branch.out)] = [branch]
    adds: list = []
    best = None
    while True:
        node = _sum(graph, sums, x, takes, adds)
        if node is None:
            break
        adds.append(node)
        joined = [branch for t in node.arguments.keras_tensors for branch in sums[id(t)]]
        sums[id(node.outputs[0])] = joined
        if sum(branch.convolution is not None for branch in joined) >= 2:
            best = node, joined
    if best is None:
        return None
    node, joined = best
    folded = _fold(joined, x, node.outputs[0], layout)
    if folded is None:
        return None
    inside = [add for add in adds if any(add is n for n in _behind(graph, node))]
    nodes = [n for branch in joined for n in branch.nodes] + inside
    return Branches(x, node.outputs[0], nodes, folded[0].layer, *folded)


def _behind(graph: Graph, node: Any) -> list:
    """A sum and the sums that it adds up."""
    found, todo = [], [node]
    while todo:
        add = todo.pop()
        found.insert(0, add)
        producers = [graph.producer(t) for t in add.arguments.keras_tensors]
        todo += [p for p in producers if p is not None and _is_sum(p)]
    return found


def _is_sum(node: Any) -> bool:
    is_add = type(node.operation) is L.Add or _read.op_word(node.operation) == "Add"
    return is_add and not node.arguments.kwargs and len(node.arguments.keras_tensors) >= 2


def _sum(graph: Graph, sums: dict, x: Any, usable: Callable[[Any], bool], seen: list) -> Optional[Any]:
    """A sum of branches that nobody else reads."""
    for node in graph.nodes:
        if not _is_sum(node) or any(node is add for add in seen) or not usable(node):
            continue
        tensors = node.arguments.keras_tensors
        if all(id(t) in sums and (t is x or graph.reader(t) is node) for t in tensors):
            shapes = {tuple(t.shape) for t in tensors}
            if len(shapes) == 1 and sum(t is x for t in tensors) <= 1:
                return node
    return None


def _follow(graph: Graph, node: Any, layout: str, usable: Callable[[Any], bool]) -> Optional[_Branch]:
    """A branch from its first call: [zeros around], a convolution without activation, batch norms; or those alone."""
    branch = _Branch([node], node.outputs[0], None)
    padding = _read.zero_padding(node)
    if padding is not None:
        if padding[2] not in (None, layout):
            return None
        branch.pads = padding[:2]
        node = graph.reader(branch.out)
        if node is None or not usable(node) or getattr(node.operation, "padding", None) != "valid":
            return None
        branch.nodes.append(node)
        branch.out = node.outputs[0]
    convolution = _linear(node)
    if convolution is not None:
        if _read.data_format(node.operation) != layout:
            return None
        branch.layer, branch.convolution = node.operation, convolution
    else:
        change = _read.affine(node, layout) if padding is None and only_input(node) is not None else None
        if change is None:
            return None
        branch.scale, branch.shift = change
    while (node := graph.reader(branch.out)) is not None and usable(node) and only_input(node) is not None:
        change = _read.affine(node, layout)
        if change is None:
            break
        branch.nodes.append(node)
        branch.out = node.outputs[0]
        if convolution is not None:
            convolution.scale_outputs(*change)
        else:
            branch.scale, branch.shift = branch.scale * change[0], branch.shift * change[0] + change[1]
    return branch


def _linear(node: Any) -> Optional[Convolution]:
    """A convolution without an activation, depthwise or of all channels."""
    layer = node.operation
    if only_input(node) is None:
        return None
    convolution = _read.depthwise(layer)
    if convolution is None and type(layer) is L.Conv2D and layer.groups == 1:
        convolution = _read.foldable(layer)
    return convolution if convolution is not None and convolution.is_linear else None


def _fold(branches: list[_Branch], x: Any, out: Any, layout: str) -> Optional[tuple[Convolution, dict]]:
    """One convolution for all, and its window."""
    real = [branch for branch in branches if branch.convolution is not None]
    first = real[0].convolution
    channels = x.shape[_read.channel_axis(layout)]
    strides = {tuple(branch.layer.strides) for branch in real}
    dilations = {tuple(b.layer.dilation_rate) for b in real if tuple(b.layer.kernel_size) != (1, 1)} or {(1, 1)}
    alike = {(branch.convolution.depthwise, branch.convolution.kernel.shape[2:]) for branch in real}
    if len(strides) != 1 or len(dilations) != 1 or len(alike) != 1 or channels is None:
        return None
    [stride], [dilation] = strides, dilations
    if len(real) < len(branches):
        same = first.kernel.shape[3] == (1 if first.depthwise else channels)
        if stride != (1, 1) or not same:
            return None
        for branch in branches:
            if branch.convolution is None:
                branch.convolution = _as_convolution(branch, channels, first.depthwise)
    places = [
        _places(branch, axis, x, out, stride[axis], dilation[axis], layout) for branch in branches for axis in (0, 1)
    ]
    if None in places:
        return None
    axes = [_join(places[axis::2], axis, x, out, stride[axis], dilation[axis], layout) for axis in (0, 1)]
    if None in axes:
        return None
    (rows, top, bottom, at_rows), (columns, left, right, at_columns) = axes
    kernel = np.zeros((rows, columns, *first.kernel.shape[2:]))
    bias = np.zeros(first.outputs)
    for branch, r, s in zip(branches, at_rows, at_columns):
        part = branch.convolution
        kernel[r : r + part.kernel.shape[0], s : s + part.kernel.shape[1]] += part.kernel
        bias = bias + (0.0 if part.bias is None else part.bias)
    largest = max(real, key=lambda branch: branch.convolution.kernel[..., 0, 0].size)
    symmetric = top == bottom and left == right and 2 * top == (rows - 1) * dilation[0]
    is_same = symmetric and 2 * left == (columns - 1) * dilation[1] and stride == (1, 1)
    padding: Any = "same" if is_same else ((top, bottom), (left, right))
    window = {"kernel_size": (rows, columns), "strides": stride, "dilation_rate": dilation, "padding": padding}
    return Convolution(largest.layer, kernel, bias, NONE, depthwise=first.depthwise), window


def _as_convolution(branch: _Branch, channels: int, depthwise: bool) -> Convolution:
    """A scale and an offset of each channel as a 1x1 convolution."""
    scale, shift = (
        np.broadcast_to(np.asarray(value, np.float64), [channels]) for value in (branch.scale, branch.shift)
    )
    kernel = scale.reshape(1, 1, -1, 1) if depthwise else np.diag(scale)[None, None]
    return Convolution(None, kernel, shift, NONE, depthwise=depthwise)


def _sizes(axis: int, x: Any, out: Any, layout: str) -> tuple:
    at = axis + (1 if layout == "channels_last" else 2)
    return x.shape[at], out.shape[at]


def _places(branch: _Branch, axis: int, x: Any, out: Any, stride: int, dilation: int, layout: str) -> Optional[tuple]:
    """(taps, zeros before, excess of zeros over the window or None) of a branch along an axis."""
    taps = branch.convolution.kernel.shape[axis]
    reach = (taps - 1) * dilation
    if branch.layer is None:
        return 1, 0, 0
    before, after = branch.pads[axis]
    if branch.layer.padding == "valid":
        return taps, before, before + after - reach
    if branch.layer.padding != "same":
        return None
    if stride == 1:
        return taps, reach // 2, 0
    size, outputs = _sizes(axis, x, out, layout)
    if size is None or outputs is None:
        return None
    return taps, max((outputs - 1) * stride + reach + 1 - size, 0) // 2, None


def _join(places: list, axis: int, x: Any, out: Any, stride: int, dilation: int, layout: str) -> Optional[tuple]:
    """(taps, zeros before, zeros after, where each branch's first tap lies) along an axis."""
    before = max(pad for _, pad, _ in places)
    if any((before - pad) % dilation for _, pad, _ in places):
        return None
    at = [(before - pad) // dilation for _, pad, _ in places]
    taps = max(first + count for first, (count, _, _) in zip(at, places))
    reach, excess = (taps - 1) * dilation, {e for _, _, e in places}
    if len(excess) == 1 and None not in excess:
        after = excess.pop() + reach - before
    else:
        size, outputs = _sizes(axis, x, out, layout)
        if size is None or outputs is None:
            return None
        after = max((outputs - 1) * stride + reach + 1 - size - before, 0)
        if (size + before + after - reach - 1) // stride + 1 != outputs:
            return None
    return (taps, before, after, at) if after >= 0 else None


class Branching:
    """Methods of `Finder` (`_match.py`), which has the graph and the search along it."""

    graph: Any
    folded: list
    _claimed: set
    _usable: Any
    _behind_depthwise: Any
    _tail: Any

    def _branches(self, x: Any, layout: str, dtype: str) -> Optional[Branches]:
        return find(self.graph, x, layout, dtype, lambda n: self._usable(n) and not self.graph.shared(n))

    def _from_branches(self, node: Any, x: Any) -> Optional[Block]:
        """Convolutions whose results are added, as one."""
        before, layout = self.graph.producer(x), _read.data_format(node.operation)
        if before is not None and _read.zero_padding(before) is not None:
            x = only_input(before)
        found = self._branches(x, layout, _read.compute_dtype(node))
        if found is None or not any(n is node for n in found.nodes):
            return None
        block = Block(x, found.out, layout, _read.compute_dtype(node), found.main, list(found.nodes))
        kernel_size = found.window["kernel_size"]
        if found.convolution.depthwise:
            block.depthwise = found.convolution
            block.window = {**found.window, "depth_multiplier": found.convolution.kernel.shape[3]}
            return self._behind_depthwise(block)
        if not _cost.dense_pays(kernel_size, *found.convolution.kernel.shape[2:], found.window["strides"]):
            if isinstance(found.window["padding"], str):  # TensorFlow's own computes it faster
                self.folded.append(FoldedConvolution(x, found.out, block.nodes, found.convolution, found.window))
                self._claimed.update(map(id, block.nodes))
            return None
        block.pointwise = found.convolution
        if kernel_size != (1, 1) or found.window["strides"] != (1, 1):
            block.is_dense = True
            block.window = {**found.window, "dense_kernel_size": kernel_size}
            del block.window["kernel_size"]
        return self._tail(block)

    def _pointwise_branches(self, block: Block) -> Optional[Branches]:
        """The 1x1 convolutions that alone read a block's result, and are added."""
        if len(self.graph.readers(block.out)) < 2 or id(block.out) in self.graph.outputs or block.is_sequence:
            return None
        found = self._branches(block.out, block.layout, block.dtype)
        if found is None or found.convolution.depthwise or found.window["kernel_size"] != (1, 1):
            return None
        own = {id(node) for node in found.nodes}
        inside = all(id(node) in own for node in self.graph.readers(block.out))
        return found if inside and found.window["strides"] == (1, 1) else None
