"""What `convert_saved_model` says it did: a row for each convolution, and for what is kept or left out."""

from __future__ import annotations

import dataclasses
from typing import Any, Optional

import tensorflow as tf

from tf_dwsconv.convert import _cost
from tf_dwsconv.convert._report import Row
from tf_dwsconv.convert.graphs._nodes import Nodes, node_of
from tf_dwsconv.convert.graphs._ops import CONVOLUTIONS
from tf_dwsconv.convert.graphs._ours import OPS
from tf_dwsconv.convert.graphs._reader import Reader, node_names
from tf_dwsconv.convert.graphs._source import Source

_OTHERS = {
    "Conv2DBackpropInput": "a transposed convolution is none that the kernels compute",
    "Conv3D": "a convolution of volumes is none that the kernels compute",
    "XlaCallModule": "what XLA compiled is kept whole, with the convolutions in it",
}


def _kept(op: str) -> Optional[str]:
    """Why an op that is or may hold a convolution, and none that is read, stays."""
    is_other = "Conv" in op and op not in OPS and op not in CONVOLUTIONS
    return _OTHERS.get(op, "such a convolution is none that the kernels compute" if is_other else None)


class Rows:
    """The rows of one graph, as a conversion goes on.

    Args:
        reader: of the graph as it was.
    """

    def __init__(self, reader: Reader):
        self._reader = reader
        self._order = [node.name for node in reader.nodes.sorted()]
        self._ops = {node.name: node.op for node in reader.nodes}
        self._reasons = dict(reader.reasons)
        self._found: dict[str, Row] = {}  # by the first node
        self._inside: set[str] = set()
        self._networks: dict[str, str] = {}  # by a node of the graph as it is then
        self._kernels = {name: _window(reader.nodes, name) for name, op in self._ops.items() if op in CONVOLUTIONS}
        self._functions = list(_in_functions(reader.nodes))
        self._quantised = [node for node in reader.nodes if "FakeQuant" in node.op]

    def searched(self, search: Any) -> None:
        """Takes over the reasons of a search."""
        for node in search.graph.nodes:
            if id(node) in search.reasons:
                self._reasons[node_names(node.operation.name)] = node_names(search.reasons[id(node)])

    def placed(self, found: Any, out: str) -> None:
        """A find that is in the graph now, as the node of a tensor."""
        names = self._names(found)
        self._inside.update(names)
        self._found[names[0]] = Row(found.pattern, tuple(names), node_of(out), node_names(found.note))

    def in_network(self, names: set[str], network: str) -> None:
        """Nodes, fused or not, that are part of a program now."""
        self._networks.update(dict.fromkeys(names, network))

    def not_placed(self, found: Any) -> None:
        """A find that begins or ends between two nodes' results."""
        for name in self._names(found):
            self._reasons[name] = "what it would be fused with begins inside a node of the graph"

    def _names(self, found: Any) -> list[str]:
        names = [node_names(node.operation.name) for node in found.nodes]
        return [name for name in names if name in self._ops]

    def close(self) -> list[Row]:
        """All rows, in the order of the graph."""
        rows = []
        for name in self._order:
            op = self._ops[name]
            if name in self._found:
                rows.append(self._found[name])
            elif op in CONVOLUTIONS and name not in self._inside:
                rows.append(Row(op, (name,), None, self._reasons.get(name) or self._why_stock(name)))
            elif (kept := _kept(op)) is not None:
                rows.append(Row(op, (name,), None, kept))
        rows += self._functions
        if self._quantised:
            names = tuple(node.name for node in self._quantised)
            rows.append(Row("FakeQuant", names, None, "simulated quantisation is kept, and ends a block"))
        rows = [self._with_network(row) for row in rows]
        if not rows:
            ours = sum(op in OPS for op in self._ops.values())
            reason = f"what could be fused is already: {ours} ops of this package" if ours else "no convolutions"
            rows.append(Row("graph", (), None, reason))
        return rows

    def _with_network(self, row: Row) -> Row:
        network = self._networks.get(row.fused if row.fused is not None else row.layers[0])
        return row if network is None else dataclasses.replace(row, network=network)

    def _why_stock(self, name: str) -> str:
        window = self._kernels[name]
        if window is None or "Depthwise" in self._ops[name]:
            return "no rule takes it"
        rows, columns, channels = window
        return f"TensorFlow computes {rows}x{columns} of {channels} channels faster; from {_cost.MOST_CHANNELS + 1} on"


def _window(nodes: Nodes, name: str) -> Any:
    """Rows, columns and channels of a convolution's filter, if it is a constant."""
    value = nodes.value(nodes.by_name[name].input[1])
    return None if value is None else value.shape[:3]


def _in_functions(nodes: Nodes) -> Any:
    """Rows of the convolutions in functions that stay: of branches and loops, and of what XLA compiles."""
    functions = {function.signature.name: function for function in nodes.graph_def.library.function}
    for name, function in functions.items():
        for node in function.node_def:
            if node.op in CONVOLUTIONS or _kept(node.op) is not None:
                reason = f"it is in the function {name!r}, which a branch, a loop or XLA calls, and is kept"
                yield Row(node.op, (node.name,), None, reason)


def of_source(source: Source) -> list[Row]:
    """What of a model is kept beside its graphs, and what is left out."""
    rows = []
    kept = {name: outside for signature in source.signatures for name, outside in signature.captures.items()}
    if kept:
        kinds = sorted({"an asset" if t.dtype == tf.string else "a resource" for t in kept.values()})
        reason = (
            f"{' and '.join(kinds)} that cannot be a constant, as it is written or is no variable; the model's "
            "variables, tables and files are written with it"
        )
        rows.append(Row("state", tuple(kept), None, reason))
    rows += [Row("left out", (), None, words) for words in source.left]
    return rows
