"""Finds parallel branches that add, and makes them one convolution: `rules/branches.py` and `_grow.py` use it.

In inference the sum of convolutions of one tensor, each with its batch norm, is one convolution. Its filter is the sum
of theirs, each where its window lies. A batch norm alone, or the tensor itself, is a 1x1 one. Sums are float64.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Callable, Optional

import keras
import numpy as np

from tf_dwsconv._keras_graph import Graph, only_input
from tf_dwsconv.convert import _read
from tf_dwsconv.convert._block import Folded
from tf_dwsconv.convert._read import Convolution

L = keras.layers


@dataclasses.dataclass
class _Branch:
    nodes: list
    out: Any
    layer: Any  # the convolution's; None for a batch norm alone, or nothing
    convolution: Optional[Convolution] = None
    pads: tuple = ((0, 0), (0, 0))
    scale: Any = 1.0
    shift: Any = 0.0


def find(search: Any, x: Any, layout: str, dtype: str) -> Optional[Folded]:
    """The convolutions of a tensor that one sum joins, two of them at least, as one.

    Args:
        search: says which calls may be taken, and has the graph.
        x: the tensor.
        layout, dtype: of the pictures, and what is computed in.
    """
    graph = search.graph

    def takes(node: Any) -> bool:
        return search.is_alone(node) and _read.compute_dtype(node) == dtype

    sums: dict[int, list[_Branch]] = {id(x): [_Branch([], x, None)]}
    for node in graph.readers(x):
        branch = _follow(graph, node, layout, takes) if takes(node) else None
        if branch is not None:
            sums[id(branch.out)] = [branch]
    adds: list = []
    best = None
    while (node := _sum(graph, sums, x, takes, adds)) is not None:
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
    inside = _behind(graph, node)
    nodes = [n for branch in joined for n in branch.nodes] + [add for add in adds if any(add is n for n in inside)]
    return Folded(x, node.outputs[0], nodes, *folded)


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
    """A sum of branches that no other call reads."""
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
    if len(real) < len(branches) and (
        stride != (1, 1) or first.kernel.shape[3] != (1 if first.depthwise else channels)
    ):
        return None
    for branch in branches:
        if branch.convolution is None:
            branch.convolution = _as_convolution(branch, channels, first.depthwise)
    spatial = (1, 2) if layout == "channels_last" else (2, 3)
    axes = [_Axis(i, x.shape[at], out.shape[at], stride[i], dilation[i]) for i, at in enumerate(spatial)]
    joined = [axis.join(branches) for axis in axes]
    if None in joined:
        return None
    (rows, top, bottom, at_rows), (columns, left, right, at_columns) = joined
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
    return Convolution(largest.layer, kernel, bias, depthwise=first.depthwise), window


def _as_convolution(branch: _Branch, channels: int, depthwise: bool) -> Convolution:
    """A scale and an offset of each channel as a 1x1 convolution."""
    scale, shift = (
        np.broadcast_to(np.asarray(value, np.float64), [channels]) for value in (branch.scale, branch.shift)
    )
    kernel = scale.reshape(1, 1, -1, 1) if depthwise else np.diag(scale)[None, None]
    return Convolution(None, kernel, shift, depthwise=depthwise)


@dataclasses.dataclass
class _Axis:
    """Rows or columns: size and outputs, where they are known, and the steps of all branches."""

    index: int
    size: Optional[int]
    outputs: Optional[int]
    stride: int
    dilation: int

    def join(self, branches: list[_Branch]) -> Optional[tuple]:
        """(taps, zeros before, zeros after, where each branch's first tap lies) of the sum."""
        places = [self._place(branch) for branch in branches]
        if None in places:
            return None
        before = max(pad for _, pad, _ in places)
        if any((before - pad) % self.dilation for _, pad, _ in places):
            return None
        at = [(before - pad) // self.dilation for _, pad, _ in places]
        taps = max(first + count for first, (count, _, _) in zip(at, places))
        reach, excess = (taps - 1) * self.dilation, {e for _, _, e in places}
        if len(excess) == 1 and None not in excess:
            after = excess.pop() + reach - before
        elif self.size is None or self.outputs is None:
            return None
        else:
            after = max(self._span(reach) - self.size - before, 0)
            if (self.size + before + after - reach - 1) // self.stride + 1 != self.outputs:
                return None
        return (taps, before, after, at) if after >= 0 else None

    def _place(self, branch: _Branch) -> Optional[tuple]:
        """(taps, zeros before, excess of zeros over the window or None) of a branch."""
        if branch.layer is None:
            return 1, 0, 0
        taps = branch.convolution.kernel.shape[self.index]
        reach = (taps - 1) * self.dilation
        if branch.layer.padding == "valid":
            before, after = branch.pads[self.index]
            return taps, before, before + after - reach
        if branch.layer.padding != "same":
            return None
        if self.stride == 1:
            return taps, reach // 2, 0
        if self.size is None or self.outputs is None:
            return None
        return taps, max(self._span(reach) - self.size, 0) // 2, None

    def _span(self, reach: int) -> int:
        """Elements that all windows of some reach cover."""
        return (self.outputs - 1) * self.stride + reach + 1
