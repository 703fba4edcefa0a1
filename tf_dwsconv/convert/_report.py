"""What `convert` says it did: a row for each place of a model that it changed, or could not change."""

from __future__ import annotations

import dataclasses
from typing import Any, Optional

import keras

from tf_dwsconv._keras_graph import Graph, is_graph, own_methods
from tf_dwsconv._text import table
from tf_dwsconv.convert import _inside

L = keras.layers


@dataclasses.dataclass(frozen=True)
class Row:
    """What became of one place of a model.

    Attributes:
        pattern: the stages, such as "expand + depthwise + 1x1 + residual"; "convolution + batch norm" for a stock
            convolution into which batch norms were folded; "model" for one of which there is something to say; the
            layer's class, or the op, where nothing was fused.
        layers: names of the old layers, in their order.
        fused: name of the new layer, or None.
        reason: why not, where `fused` is None; else why the block ends where it does, or "".
        network: name of the `FusedNetwork` of which the new layer is a part; None where it is a layer of its own.
    """

    pattern: str
    layers: tuple[str, ...]
    fused: Optional[str]
    reason: str = ""
    network: Optional[str] = None


def format_report(rows: Any) -> str:
    """The rows of a report as a table."""
    lines = [("pattern", "layers", "fused as", "in network", "note")]
    for row in rows:
        names = "".join(row.layers[:1])
        if len(row.layers) > 1:
            names = f"{row.layers[0]} ... {row.layers[-1]} ({len(row.layers)})"
        lines.append((row.pattern, names, row.fused or "-", row.network or "-", row.reason))
    if all(row.network is None for row in rows):
        lines = [(*line[:3], line[4]) for line in lines]
    return table(lines, left=5)


# What a class may have of its own that a plain model does without.
_LOSABLE = (
    "train_step", "test_step", "predict_step", "compute_loss", "compute_metrics", "compile", "fit", "evaluate",
    "predict", "make_train_function", "make_test_function", "make_predict_function", "save", "export",
)  # fmt: skip


class Report:
    """Rows, as a conversion goes on.

    Attributes:
        rows: so far.
        kept: why a wrapper keeps what is in it, by its name.
    """

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.kept: dict[str, str] = {}
        self._not_followed: dict[str, str] = {}  # why, by the names of layers
        self._layers: dict[int, tuple] = {}  # the new layers of a row, by its place

    def in_training(self, model: Any) -> None:
        """A model that is left alone, as it is called in training."""
        self.rows.append(Row("model", (model.name,), None, "it is called with training=True"))

    def plain(self, model: Any) -> None:
        """A model that becomes one of Keras' own class."""
        name = type(model).__name__
        kind = "Sequential" if isinstance(model, keras.Sequential) else "Functional"
        lost = own_methods(model, _LOSABLE)
        without = f", without its {', '.join(lost)}" if lost else ""
        reason = f"a plain {kind} model takes its place{without}: {name} has an `__init__` or a `get_config` of its own"
        self.rows.append(Row("model", (model.name,), None, reason))

    def followed(self, model: Any, graph: Any, follower: Any) -> None:
        """Custom layers that what they call takes the place of, and why others stay."""
        self._not_followed = follower.reasons
        if graph is not model:
            self.plain(model)
        for layer in follower.followed:
            if layer is not model:
                reason = "what its `call` calls takes its place"
                self.rows.append(Row(type(layer).__name__, (layer.name,), None, reason))

    def swapped(self, layer: Any) -> None:
        """A stock separable convolution, shared or in a wrapper, that becomes ours."""
        self.rows.append(Row("separable", (layer.name,), layer.name))

    def stays(self, wrapper: Any, reason: str) -> None:
        """A wrapper that keeps what is in it."""
        self.kept[wrapper.name] = reason
        for layer in _inside.depthwise_layers(wrapper):
            self.rows.append(Row(type(layer).__name__, (layer.name,), None, _is_in(wrapper, reason)))

    def in_network(self, layers: list, name: str) -> None:
        """Layers of the report that are part of a `FusedNetwork`."""
        inside = {id(layer) for layer in layers}
        for place, own in self._layers.items():
            if any(id(layer) in inside for layer in own):
                self.rows[place] = dataclasses.replace(self.rows[place], network=name)

    def forget(self, count: int) -> None:
        """Takes back all rows but the first ones."""
        del self.rows[count:]
        self._layers = {place: layers for place, layers in self._layers.items() if place < count}

    def graph(self, graph: Graph, plan: Any, described: dict[int, tuple[Row, tuple]], reasons: dict[int, str]) -> None:
        """What became of a graph's calls, in their order.

        Args:
            graph: of the model.
            plan: what is to become of its calls, as the `Rebuilder` takes it.
            described: rows of what was fused, by the id of the first node, with the new layers.
            reasons: why a call was left alone, by the id of its node.
        """
        seen: set[int] = set()
        for node in graph.nodes:
            operation = node.operation
            if id(node) in described:
                row, self._layers[len(self.rows)] = described[id(node)]
                self.rows.append(row)
            elif id(node) in plan:
                continue
            elif type(operation) is L.SeparableConv2D:
                self.rows.append(Row("separable", (operation.name,), operation.name, reasons.get(id(node), "")))
            elif id(node) in reasons:
                self.rows.append(Row(type(operation).__name__, (operation.name,), None, reasons[id(node)]))
            elif not isinstance(operation, L.Wrapper) and not is_graph(operation) and id(operation) not in seen:
                seen.add(id(operation))
                self.rows += _not_looked_at(node, self._not_followed.get(operation.name, _NOT_FOLLOWED))

    def close(self, model: Any) -> tuple[Row, ...]:
        """All rows; one that says why there is nothing else to say, where there is not."""
        if not any(row.fused is not None or row.reason for row in self.rows):
            ours = sum(_inside.is_ours(layer) for layer in model._flatten_layers())
            reason = "it holds no convolution that could be fused"
            if ours:
                reason = f"what could be fused is already: {ours} of its layers are of this package"
            self.rows.append(Row("model", (model.name,), None, reason))
        return tuple(self.rows)


def _is_in(operation: Any, reason: str) -> str:
    return f"it is in {operation.name!r} of class {type(operation).__name__}: {reason}"


_NOT_FOLLOWED = "what its own `call` computes cannot be followed"


def _not_looked_at(node: Any, reason: str) -> list[Row]:
    """A row for each depthwise convolution in a call that the search does not look into, for some reason."""
    operation = node.operation
    word = _inside.convolution_op(operation)
    if word is not None:
        reason = "its filters are arguments of a call; the layer of the same name has weights that can be folded"
        return [Row(word, (operation.name,), None, reason)]
    if not isinstance(operation, keras.Layer) or _inside.is_ours(operation):
        return []
    if isinstance(operation, _inside.DEPTHWISE):
        return [Row(type(operation).__name__, (operation.name,), None, _why_not_read(operation))]
    rows = [
        Row(type(layer).__name__, (layer.name,), None, _is_in(operation, reason))
        for layer in _inside.depthwise_layers(operation)
    ]
    if not rows and _inside.is_opaque(operation):
        ops = [name for kind, name in _inside.ops_of(node) if kind == "DepthwiseConv2dNative"]
        rows = [Row("DepthwiseConv2dNative", (name,), None, _is_in(operation, reason)) for name in ops]
    return rows


def _why_not_read(layer: Any) -> str:
    if type(layer) not in _inside.DEPTHWISE:
        base = next(kind for kind in _inside.DEPTHWISE if isinstance(layer, kind))
        return f"{type(layer).__name__} is a subclass of {base.__name__} and may compute anything else"
    if type(layer) in (L.DepthwiseConv1D, L.SeparableConv1D):
        return "a convolution of one dimension is fused in inference, with channels last, where it is called once"
    return "its weights are not plain floats"
