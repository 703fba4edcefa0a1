"""Numbers in the place of tensors that hold one number all over, as weighted moments compute with weights of one."""

from __future__ import annotations

import math
from typing import Any, Optional

import numpy as np

from tf_dwsconv.convert.graphs._nodes import IDENTITIES, Nodes, attribute, tensor_of
from tf_dwsconv.convert.graphs._reshapes import constant

_BINARY = {
    "Add": np.add, "AddV2": np.add, "Sub": np.subtract, "Mul": np.multiply, "RealDiv": np.divide, "DivNoNan": None,
    "SquaredDifference": None, "Maximum": np.maximum, "Minimum": np.minimum,
}  # fmt: skip
_DTYPES = ("float32", "float16", "bfloat16")


def name_uniform(nodes: Nodes) -> None:
    """Reads numbers where what was read holds one alone; divides by them as numbers can be divided by."""
    if any(node.op in ("OnesLike", "ZerosLike") for node in nodes):
        _Uniform(nodes).rewrite()
        nodes.prune()


class _Uniform:
    """What tensors of a graph hold one number all over.

    Args:
        nodes: the graph; `rewrite` changes it.
    """

    def __init__(self, nodes: Nodes):
        self._nodes, self._specs, self._loops = nodes, nodes.specs(), nodes.loops()
        self._numbers: dict[str, float] = {}
        self._batches: dict[str, Optional[str]] = {}
        for node in nodes.sorted():
            ref = f"{node.name}:0"
            if ref in self._specs and self._specs[ref].dtype.name in _DTYPES and node.name not in self._loops:
                number, self._batches[ref] = self._number(node), self._batch(node)
                if number is not None and math.isfinite(number):
                    self._numbers[ref] = number

    def rewrite(self) -> None:
        instead = {}
        for node in self._nodes.sorted():
            ref = f"{node.name}:0"
            if node.op not in _BINARY or ref in self._numbers or len(node.input) != 2:
                continue
            refs = [tensor_of(r) for r in node.input]
            at = next((i for i, r in enumerate(refs) if r in self._numbers), None)
            if at is None or not self._spreads(refs[at], refs[1 - at]):
                continue
            number, dtype = self._numbers[refs[at]], self._specs[ref].dtype.as_numpy_dtype
            if node.op == "DivNoNan" and (number == 0 or at == 0):
                continue
            if node.op == "Mul" and number == 1 and ref not in self._nodes.fetches:
                instead[ref] = refs[1 - at]
                continue
            node.op = "RealDiv" if node.op == "DivNoNan" else node.op
            if self._nodes.value(node.input[at]) is None:
                node.input[at] = constant(self._nodes, f"{node.name}/number", np.asarray(number, dtype))
            self._make_mean(node, number)
        self._nodes.redirect(instead)

    def _make_mean(self, node: Any, number: float) -> None:
        """A sum over as many elements as it is divided by is their mean."""
        total = self._nodes.producer(node.input[0])
        is_sum = node.op == "RealDiv" and total is not None and total.op == "Sum" and len(total.input) == 2
        if is_sum and self._many(total) == number:
            dtypes = {"T": attribute(node, "T").type, "Tidx": attribute(total, "Tidx").type}
            keeps = attribute(total, "keep_dims").b
            node.op = "Mean"
            node.attr.clear()
            for key, dtype in dtypes.items():
                node.attr[key].type = dtype
            node.attr["keep_dims"].b = keeps
            node.input[:] = total.input[:]

    def _number(self, node: Any) -> Optional[float]:
        """What a node's result holds all over."""
        if node.op in ("OnesLike", "ZerosLike"):
            return 1.0 if node.op == "OnesLike" else 0.0
        if node.op == "Const":
            value = self._nodes.value(f"{node.name}:0")
            return float(value.reshape(())) if value is not None and value.size == 1 else None
        given = [self._numbers.get(tensor_of(ref)) for ref in node.input]
        if node.op in ("Reshape", *IDENTITIES):
            return given[0] if tensor_of(node.input[0]).endswith(":0") else None
        if node.op == "Sum" and given[0] is not None:
            many = self._many(node)
            return None if many is None else given[0] * many
        word = _BINARY.get(node.op)
        return float(word(*given)) if word is not None and len(given) == 2 and None not in given else None

    def _many(self, node: Any) -> Optional[int]:
        """Over how many elements a reduction goes, of each picture."""
        shape, axes = self._specs[tensor_of(node.input[0])].shape, self._nodes.value(node.input[1])
        if shape.rank is None or axes is None:
            return None
        sizes = [shape.as_list()[int(axis)] for axis in axes.reshape(-1)]
        if None in sizes or 0 in [int(axis) % shape.rank for axis in axes.reshape(-1)]:
            return None
        return math.prod(sizes)

    def _batch(self, node: Any) -> Optional[str]:
        """The tensor that has as many pictures as a node's result has; None where that may be any number."""
        own = f"{node.name}:0"
        if node.op in ("OnesLike", "ZerosLike", *IDENTITIES, "Sqrt", "Rsqrt", "Square"):
            return self._batch_of(node.input[0])
        if node.op in ("Reshape", "Sum", "Mean"):
            before, behind = (self._specs[tensor_of(ref)].shape for ref in (node.input[0], own))
            keeps = before.rank and behind.rank and None not in before.as_list()[1:] + behind.as_list()[1:]
            if node.op == "Reshape":
                keeps = keeps and math.prod(before.as_list()[1:]) == math.prod(behind.as_list()[1:])
            else:
                keeps = keeps and self._many(node) is not None
            return self._batch_of(node.input[0]) if keeps else own
        if node.op in _BINARY and len(node.input) == 2:
            refs = [ref for ref in node.input if self._specs[tensor_of(ref)].shape.rank != 0]
            found = {self._batch_of(ref) for ref in refs}  # a constant has one of its own
            return found.pop() if len(found) == 1 else own
        return own

    def _batch_of(self, ref: str) -> str:
        return self._batches.get(tensor_of(ref)) or tensor_of(ref)

    def _spreads(self, ref: str, to: str) -> bool:
        """Whether a tensor has no more elements along any axis than another one."""
        small, large = self._specs[ref].shape, self._specs[to].shape
        if small.rank == 0:
            return large.rank is not None
        if small.rank is None or large.rank != small.rank or self._batch_of(ref) != self._batch_of(to):
            return False
        return all(a == 1 or (a == b and a is not None) for a, b in zip(small.as_list()[1:], large.as_list()[1:]))
