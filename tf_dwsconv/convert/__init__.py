"""Whole Keras models, with their depthwise-separable convolutions fused and batch norms folded: `convert(model)`.

    fused = tf_dwsconv.convert(model)                 # a new model with the same answers; `model` is not changed
    stock = tf_dwsconv.to_builtin(fused)              # the way back to stock layers, for LiteRT, ONNX, ...
    python -m tf_dwsconv.convert --input m.keras --output fused.keras --report

What is fused, what is not and why, and recipes for serving: docs/converting.md.
"""

from __future__ import annotations

import dataclasses
import sys
import types
import weakref
from typing import Any

import keras

from tf_dwsconv import _tf_keras
from tf_dwsconv.layers import check_backend

check_backend("convert", "stock layers")

from tf_dwsconv.convert import _builtin, _match, _swap, _train  # noqa: E402
from tf_dwsconv.convert._graph import Graph, called_in_training, calls, count_calls, is_graph  # noqa: E402
from tf_dwsconv.convert._rebuild import Plan, Rebuilder  # noqa: E402

__all__ = ["Row", "convert", "format_report", "report", "to_builtin"]


@dataclasses.dataclass(frozen=True)
class Row:
    """What became of one place of a model.

    Attributes:
        pattern: the stages, such as "expand + depthwise + 1x1 + residual"; "convolution + batch norm" for a stock
            convolution into which batch norms were folded; the layer's class where nothing was fused.
        layers: names of the old layers, in their order.
        fused: name of the new layer, or None.
        reason: why not, where `fused` is None; else why the block ends where it does, or "".
    """

    pattern: str
    layers: tuple[str, ...]
    fused: str | None
    reason: str = ""


# By converted model. Keras would save an attribute with it, and take lists for weights to track.
_reports: Any = weakref.WeakKeyDictionary()


def convert(model: Any, *, training: bool = False, verbose: bool = False) -> Any:
    """Makes a model with fused layers that answers as `model` does in inference.

    Args:
        model: a Functional or Sequential Keras model, built; models inside it are converted too. It is not changed and
            shares nothing with the result.
        training: if True nothing is folded, and only what trains exactly as before is swapped.
        verbose: whether to print what was fused, and what not and why.

    Returns:
        A new Keras model: of the same inputs, outputs, names and dtype policies, not compiled. `report` has what was
        fused in it.

    Raises:
        TypeError: `model` is no Keras model.
        ValueError: a model whose layers cannot be found (subclassed, or not built) or not be made again, by name.

    Example:

    >>> import keras
    >>> import tf_dwsconv
    >>> model = keras.Sequential([
    ...     keras.Input((32, 32, 8)),
    ...     keras.layers.DepthwiseConv2D(3, padding="same", use_bias=False, name="conv"),
    ...     keras.layers.BatchNormalization(name="norm"),
    ...     keras.layers.ReLU(max_value=6.0, name="relu6"),
    ...     keras.layers.Conv2D(16, 1, name="project")])
    >>> fused = tf_dwsconv.convert(model, verbose=True)
    pattern          layers                   fused as  note
    depthwise + 1x1  conv ... project (4)     conv
    >>> [layer.name for layer in fused.layers]
    ['conv']
    """
    _check_model(model)
    rows: list[Row] = []
    counts = count_calls(model)
    left_alone = _trained_inside(model)

    def plan(part: Any) -> Plan:
        if id(part) in left_alone and not training:
            rows.append(Row("model", (part.name,), None, "it is called with training=True"))
            return {}
        return (_plan_exact if training else _plan)(Graph(part, counts), rows)

    converted = Rebuilder(plan, _train.same_layer).model(model)
    _reports[converted] = tuple(rows)
    if verbose:
        print(format_report(rows))
    return converted


def to_builtin(model: Any) -> Any:
    """Makes a model of stock Keras layers that answers as `model` does: the way back from `convert`.

    Each `FusedConvBlock` and `DepthwiseSepConv2D` becomes stock layers with its weights; batch norms stay folded.

    Args:
        model: a Functional or Sequential Keras model, built; models inside it are unfused too. It is not changed and
            shares nothing with the result.

    Returns:
        A new Keras model, not compiled. Nothing in it needs this package: LiteRT's converter, tf2onnx and places that
        cannot load an op library take it.

    Raises:
        TypeError: `model` is no Keras model.
        ValueError: as `convert`.

    Example:

    >>> import keras
    >>> import tf_dwsconv
    >>> model = keras.Sequential([
    ...     keras.Input((8, 8, 4)), tf_dwsconv.FusedConvBlock(6, 3, depthwise_activation="relu6", name="block")])
    >>> [type(layer).__name__ for layer in tf_dwsconv.to_builtin(model).layers]
    ['DepthwiseConv2D', 'Conv2D']
    """
    _check_model(model)
    counts = count_calls(model)
    unfuser = _builtin.Unfuser({layer.name for layer in model._flatten_layers()})
    return Rebuilder(lambda part: unfuser.plan(Graph(part, counts))).model(model)


def report(model: Any) -> tuple[Row, ...]:
    """What `convert` fused in a model, and what not and why.

    Args:
        model: what `convert` returned, in this process; a report is not saved with a model.

    Returns:
        A `Row` for each block, each convolution with a batch norm folded in, and each convolution that was left alone.

    Raises:
        ValueError: a model that `convert` did not return.

    Example:

    >>> import keras
    >>> import tf_dwsconv
    >>> model = keras.Sequential([keras.Input((8, 8, 4)), keras.layers.SeparableConv2D(6, 3, name="conv")])
    >>> tf_dwsconv.convert.report(tf_dwsconv.convert(model))
    (Row(pattern='separable', layers=('conv',), fused='conv', reason=''),)
    """
    try:
        return _reports[model]
    except (KeyError, TypeError):
        raise ValueError(
            "`model` must be a model that tf_dwsconv.convert returned in this process; reports are not saved."
        ) from None


def format_report(rows: Any) -> str:
    """The rows of a report as a table."""
    lines = [("pattern", "layers", "fused as", "note")]
    for row in rows:
        names = row.layers[0] if len(row.layers) == 1 else f"{row.layers[0]} ... {row.layers[-1]} ({len(row.layers)})"
        lines.append((row.pattern, names, row.fused or "-", row.reason))
    widths = [max(len(line[i]) for line in lines) for i in range(3)]
    return "\n".join("  ".join([*(f"{c:{w}}" for c, w in zip(line, widths)), line[3]]).rstrip() for line in lines)


def _check_model(model: Any) -> None:
    if not isinstance(model, keras.Model) and _tf_keras.is_of(model):
        raise TypeError(_tf_keras.message(f"`model` must be a model of Keras 3; given a {type(model).__name__}"))
    if not isinstance(model, keras.Model):
        raise TypeError(f"`model` must be a Keras model; given {model!r:.80} of type {type(model).__name__}.")
    if not is_graph(model):
        raise ValueError(
            f"`model` must be a Functional or Sequential model; {model.name!r} is of class {type(model).__name__}, "
            "whose own methods decide what it computes, so its layers cannot be followed. Convert the Functional "
            "models inside it, or write it as one."
        )


def _trained_inside(model: Any) -> set[int]:
    """Models, by id, that a call inside `model` always runs in training."""
    found: set[int] = set()
    seen: set[int] = set()

    def visit(part: Any) -> None:
        seen.add(id(part))
        for node in calls(part):
            if is_graph(node.operation):
                if called_in_training(node) or id(part) in found:
                    found.add(id(node.operation))
                if id(node.operation) not in seen or id(node.operation) in found:
                    visit(node.operation)

    visit(model)
    return found


def _plan(graph: Graph, rows: list[Row]) -> Plan:
    finder = _match.Finder(graph)
    plan: Plan = {}
    described: dict[int, Row] = {}
    for block in finder.blocks:
        plan.update({id(node): None for node in block.nodes})
        plan[id(block.nodes[-1])] = _swap.fused_block(block)
        described[id(block.nodes[0])] = Row(block.pattern(), _names(block.nodes), block.main.name, block.note)
    for folded in finder.folded:
        plan.update({id(node): None for node in folded.nodes})
        plan[id(folded.nodes[-1])] = _swap.folded_convolution(folded)
        name = folded.convolution.layer.name
        described[id(folded.nodes[0])] = Row("convolution + batch norm", _names(folded.nodes), name)
    _add_rows(rows, graph, plan, described, finder.reasons)
    return plan


def _plan_exact(graph: Graph, rows: list[Row]) -> Plan:
    finder = _train.ExactFinder(graph)
    plan: Plan = {}
    described: dict[int, Row] = {}
    for swap in finder.swaps:
        plan.update({id(node): None for node in swap.nodes})
        plan[id(swap.nodes[-1])] = swap.emission
        described[id(swap.nodes[0])] = Row(swap.pattern, _names(swap.nodes), swap.name)
    _add_rows(rows, graph, plan, described, finder.reasons)
    return plan


def _add_rows(rows: list[Row], graph: Graph, plan: Plan, described: dict[int, Row], reasons: dict[int, str]) -> None:
    """Adds what became of a graph's calls to a report, in their order."""
    for node in graph.nodes:
        operation = node.operation
        if id(node) in described:
            rows.append(described[id(node)])
        elif id(node) not in plan and type(operation) is keras.layers.SeparableConv2D:
            rows.append(Row("separable", (operation.name,), operation.name, reasons.get(id(node), "")))
        elif id(node) not in plan and id(node) in reasons:
            rows.append(Row(type(operation).__name__, (operation.name,), None, reasons[id(node)]))


def _names(nodes: Any) -> tuple[str, ...]:
    return tuple(node.operation.name for node in nodes)


class _Callable(types.ModuleType):
    """The module answers to its function's name: `tf_dwsconv.convert(model)`, and `python -m tf_dwsconv.convert`."""

    def __call__(self, model: Any, *, training: bool = False, verbose: bool = False) -> Any:
        return convert(model, training=training, verbose=verbose)


_Callable.__call__.__doc__ = convert.__doc__
sys.modules[__name__].__class__ = _Callable
