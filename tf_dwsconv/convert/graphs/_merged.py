"""Takes apart axes that a graph merges with the batch: [N, 4, 256, 64], reshaped to [-1, 256, 64] and later back.

Networks with windows or patches have such regions, where the first axis is no number of pictures, so no layer of a view
and no program could compute there. In a region all of whose ops can have one more axis, each tensor gets it: the first
axis is that of the pictures again, the second what they were merged with. No element moves.
"""

from __future__ import annotations

import collections
import math
from typing import Any, Callable, Optional

import numpy as np

from tf_dwsconv.convert.graphs._nodes import IDENTITIES, Nodes, attribute, node_of, tensor_of
from tf_dwsconv.convert.graphs._reshapes import constant
from tf_dwsconv.convert.network._parts import Groups

# TensorFlow's ops and programs have no more than 8.
_MOST_AXES = 7
# Element by element, or along the last axis: one more axis makes no difference.
_SAME = (
    *IDENTITIES, "Relu", "Relu6", "LeakyRelu", "Elu", "Selu", "Sigmoid", "Tanh", "Softplus", "Neg", "Abs", "Square",
    "Sqrt", "Rsqrt", "Reciprocal", "Erf", "Erfc", "Exp", "Softmax",
)  # fmt: skip
_BINARY = ("Add", "AddV2", "Sub", "Mul", "RealDiv", "DivNoNan", "Maximum", "Minimum", "SquaredDifference", "Pow")


def take_apart(nodes: Nodes) -> None:
    """Gives the tensors of such regions an axis more."""
    if any(node.op == "Reshape" and nodes.value(node.input[1]) is not None for node in nodes):
        _Regions(nodes).rewrite()


class _Regions:
    """Where the first axis of a graph's tensors is that of the pictures times something.

    Args:
        nodes: the graph; `rewrite` changes it.
    """

    def __init__(self, nodes: Nodes):
        self._nodes, self._readers, self._specs = nodes, nodes.readers(), nodes.specs()
        self._outputs: dict[str, list[str]] = collections.defaultdict(list)
        for ref in self._specs:
            self._outputs[node_of(ref)].append(ref)
        self._times: dict[str, int] = {}  # by tensor, where it is more than one
        self._changes: dict[str, Callable[[], None]] = {}  # by node
        self._regions = Groups()  # of nodes
        self._broken: set[str] = set(nodes.loops())
        self._products: dict[str, Any] = {}  # Reshapes to rows, by those from rows behind a product
        for node in nodes:
            self._find_product(node)
        rows = {node.name for node in self._products.values()}
        for node in nodes.sorted():
            if node.name not in rows:
                self._look_at(node)
        for ref in self._times:
            name = node_of(ref)
            if ref in nodes.fetches or name in nodes.kept or self._readers.get(f"^{name}"):
                self._broken.add(name)
            for reader in self._readers.get(ref, ()):
                self._regions.join(name, reader.name)

    def rewrite(self) -> None:
        broken = {self._regions.root(name) for name in self._broken}
        for name, change in self._changes.items():
            if self._regions.root(name) not in broken:
                change()
        self._nodes.prune()

    def _shape(self, ref: str) -> Optional[list]:
        """A tensor's sizes behind the first, where all are known."""
        shape = self._specs[tensor_of(ref)].shape
        known = shape.rank is not None and shape.rank > 0 and None not in shape.as_list()[1:]
        return shape.as_list()[1:] if known and 0 not in shape.as_list()[1:] else None

    def _find_product(self, node: Any) -> None:
        """A Dense layer over the last of several axes, which Reshape, MatMul and Reshape are: its rows stay rows."""
        if node.op != "MatMul" or self._nodes.value(node.input[1]) is None or attribute(node, "transpose_a").b:
            return
        rows, behind = self._nodes.producer(node.input[0]), self._readers.get(f"{node.name}:0", [])
        if rows.op != "Reshape" or len(behind) != 1 or behind[0].op != "Reshape":
            return
        x, y, wide = (self._shape(ref) for ref in (rows.input[0], f"{behind[0].name}:0", f"{node.name}:0"))
        is_alone = len(self._readers.get(f"{rows.name}:0", ())) == 1
        if is_alone and x and y and self._shape(f"{rows.name}:0") == x[-1:] and y[-1:] == wide:
            self._products[behind[0].name] = rows
            self._regions.join(rows.name, node.name)
            self._regions.join(node.name, behind[0].name)

    def _look_at(self, node: Any) -> None:
        if node.name in self._products:
            self._reshape(node, self._products[node.name].input[0], 1)
            return
        if node.op == "Reshape":
            self._reshape(node, node.input[0], 0)
            return
        data = [tensor_of(ref) for ref in node.input if not ref.startswith("^")]
        times = {self._times[ref] for ref in data if ref in self._times}
        if not times:
            return
        rule = _RULES.get(node.op)
        outputs = self._outputs[node.name]
        change = None
        if len(times) == 1 and rule is not None and len(data) == len(node.input) and self._is_short(data, outputs):
            change = rule(self, node)
        if change is None:
            self._broken.add(node.name)
            return
        self._changes[node.name] = change
        self._times.update(dict.fromkeys(outputs, times.pop()))

    def _is_short(self, *refs: list[str]) -> bool:
        shapes = [self._specs[ref].shape for group in refs for ref in group]
        return all(shape.rank is not None and shape.rank < _MOST_AXES for shape in shapes)

    def _reshape(self, node: Any, source: str, last: int) -> None:
        """What a Reshape makes of the first axis; `last` axes are others for another reason."""
        before, behind = self._shape(source), self._shape(f"{node.name}:0")
        is_merged = tensor_of(source) in self._times
        times = self._times.get(tensor_of(source), 1)
        if before is None or behind is None or self._nodes.value(node.input[1]) is None:
            found, rest = 1, 1
        else:
            inner = (math.prod(sizes[: len(sizes) - last]) for sizes in (before, behind))
            found, rest = divmod(times * next(inner), next(inner))
        if rest or before is None or behind is None or len(behind) + 2 > _MOST_AXES:
            self._broken |= {node.name} if is_merged else set()
            return
        if found > 1:
            self._times[f"{node.name}:0"] = found
        if found > 1 or is_merged:
            shape = [-1, *([found] if found > 1 else []), *behind]
            self._changes[node.name] = lambda: self.give(node, 1, shape)

    # What the rules ask and do.

    def give(self, node: Any, place: int, value: Any) -> None:
        """Gives a node another constant."""
        dtype = self._nodes.value(node.input[place]).dtype if place < len(node.input) else np.int32
        node.input[place] = constant(self._nodes, f"{node.name}/apart", np.asarray(value, dtype))

    def numbers(self, node: Any, place: int, rank: int) -> Optional[list[int]]:
        """The axes in a constant, from the front; None where the first is one of them, or they are none."""
        value = self._nodes.value(node.input[place])
        found = None if value is None else [int(number) % rank for number in value.reshape(-1)]
        return found if found is not None and 0 not in found else None

    def rank(self, ref: str) -> int:
        return self._specs[tensor_of(ref)].shape.rank

    def fits(self, node: Any, refs: Any) -> bool:
        """Whether each operand is merged, all of one rank, or a constant for all pictures."""
        refs = [tensor_of(ref) for ref in refs]
        merged = [ref for ref in refs if ref in self._times]
        values = [self._nodes.value(ref) for ref in refs if ref not in self._times]
        rank = self.rank(merged[0])
        return all(self.rank(ref) == rank for ref in merged) and all(
            value is not None and (value.ndim < rank or (value.ndim == rank and value.shape[0] == 1))
            for value in values
        )


_Change = Optional[Callable[[], None]]


def _nothing() -> None:
    pass


def _binary(regions: _Regions, node: Any) -> _Change:
    return _nothing if regions.fits(node, node.input) else None


def _bias_add(regions: _Regions, node: Any) -> _Change:
    return None if attribute(node, "data_format").s == b"NCHW" else _binary(regions, node)


def _transpose(regions: _Regions, node: Any) -> _Change:
    value, rank = regions._nodes.value(node.input[1]), regions.rank(node.input[0])
    if value is None or value.ndim != 1 or value.size != rank or int(value[0]) != 0:
        return None
    return lambda: regions.give(node, 1, [0, 1, *(int(axis) + 1 for axis in value[1:])])


def _along(place: int, first: int) -> Callable[[_Regions, Any], _Change]:
    """A rule of what goes along axes in a constant: `place` of it among the inputs, `first` of the tensors'."""

    def rule(regions: _Regions, node: Any) -> _Change:
        at = place % len(node.input)
        refs = node.input[:at] if node.op == "ConcatV2" else [node.input[first]]
        axes = regions.numbers(node, at, regions.rank(refs[0]))
        if axes is None or not all(tensor_of(ref) in regions._times for ref in refs) or not regions.fits(node, refs):
            return None
        shape = regions._nodes.value(node.input[at]).shape
        return lambda: regions.give(node, at, np.reshape([axis + 1 for axis in axes], shape))

    return rule


def _product(regions: _Regions, node: Any) -> _Change:
    values = [regions._nodes.value(ref) for ref in node.input]
    if values[0] is not None or (values[1] is not None and node.op == "BatchMatMul"):
        return None
    return _nothing if regions.rank(node.input[0]) > 2 and regions.fits(node, node.input) else None


_RULES: dict[str, Callable[[_Regions, Any], _Change]] = {
    **dict.fromkeys(_SAME, lambda regions, node: _nothing if len(node.input) == 1 else None),
    **dict.fromkeys(_BINARY, _binary),
    **dict.fromkeys(("Mean", "Sum", "Max"), _along(1, 0)),
    **dict.fromkeys(("BatchMatMul", "BatchMatMulV2", "BatchMatMulV3"), _product),
    "BiasAdd": _bias_add,
    "Transpose": _transpose,
    "Split": _along(0, 1),
    "SplitV": _along(2, 0),
    "ConcatV2": _along(-1, 0),
}
