"""Whole Keras models, with their depthwise-separable convolutions fused and batch norms folded: `convert(model)`.

    fused = tf_dwsconv.convert(model)                 # a new model with the same results; `model` is not changed
    stock = tf_dwsconv.to_builtin(fused)              # the way back to stock layers, for LiteRT, ONNX, ...
    python -m tf_dwsconv.convert m.keras fused.keras --report

docs/converting.md says what is fused, what is not and why, and has recipes for serving.
"""

from __future__ import annotations

import sys
import types
import weakref
from typing import TYPE_CHECKING, Any, Callable

import keras

from tf_dwsconv import _tf_keras
from tf_dwsconv.layers._shared import check_backend

check_backend("convert", "stock layers")

from tf_dwsconv._keras_graph import (  # noqa: E402
    Graph,
    called_in_training,
    calls,
    count_calls,
    has_mask,
    is_graph,
    models_in,
    wrapped,
)
from tf_dwsconv.convert import _builtin, _follow, _trace, graphs, rules  # noqa: E402
from tf_dwsconv.convert._rebuild import Plan, Rebuilder  # noqa: E402
from tf_dwsconv.convert._report import Report, Row, format_report  # noqa: E402
from tf_dwsconv.convert._search import Search  # noqa: E402
from tf_dwsconv.convert.graphs import convert_saved_model  # noqa: E402
from tf_dwsconv.convert.network import _emit, _layers, _parts, _save  # noqa: E402
from tf_dwsconv.convert.network._parts import Translator  # noqa: E402
from tf_dwsconv.convert.rules.exact_separable import same_layer  # noqa: E402
from tf_dwsconv.layers import FusedNetwork  # noqa: E402

__all__ = ["Row", "convert", "convert_saved_model", "format_report", "report", "save_network", "to_builtin"]


# By converted model. Keras would save an attribute with it, and take lists for weights to track.
_reports: Any = weakref.WeakKeyDictionary()


def convert(model: Any, *, training: bool = False, fuse: str = "network", verbose: bool = False) -> Any:
    """Makes a model with fused layers whose results are those of `model` in inference.

    Args:
        model: a Keras model, built; models inside it are converted too, and what the `call` of custom layers calls. It
            is not changed and shares nothing with the result.
        training: if True nothing is folded, and only what trains exactly as before is swapped.
        fuse: "network" makes one `FusedNetwork` of each large part that a program can compute. "blocks" stops at a
            `FusedConvBlock` for each block, which is the way to go on training. With `training` there are no networks.
        verbose: whether to print what was fused, and what not and why.

    Returns:
        A new Keras model: of the same inputs, outputs, names and dtype policies, not compiled. `report` has what was
        fused in it.

    Raises:
        TypeError: `model` is no Keras model.
        ValueError: a model whose layers cannot be found (not built, or a subclass that does what cannot be followed) or
            not be made again, by name; a word for `fuse` that is none of these.

    Example:

    >>> import keras
    >>> import tf_dwsconv
    >>> model = keras.Sequential([
    ...     keras.Input((32, 32, 8)),
    ...     keras.layers.DepthwiseConv2D(3, padding="same", use_bias=False, name="conv"),
    ...     keras.layers.BatchNormalization(name="norm"),
    ...     keras.layers.ReLU(max_value=6.0, name="relu6"),
    ...     keras.layers.Conv2D(16, 1, name="project")])
    >>> fused = tf_dwsconv.convert(model, fuse="blocks", verbose=True)
    pattern          layers                   fused as  note
    depthwise + 1x1  conv ... project (4)     project
    >>> [layer.name for layer in fused.layers]
    ['project']
    """
    _check_model(model, may_be_followed=True)
    if fuse not in ("network", "blocks"):
        raise ValueError(f"`fuse` must be 'network' or 'blocks'; given {fuse!r}.")
    rows = Report()
    given, model = model, _followed(model, rows, trains=training or fuse == "blocks")
    if not training:
        model = _with_stock_parts(model)
    counts = count_calls(model)
    left_alone = _called_inside(model, called_in_training)

    def plan(part: Any) -> Plan:
        if id(part) in left_alone and not training:
            rows.in_training(part)
            return {}
        return _plan(Graph(part, counts), rules.TRAINING if training else rules.INFERENCE, rows)

    converted = Rebuilder(plan, rows, same_layer, folds=not training).model(model)
    if fuse == "network" and not training:
        converted = _join(converted, rows)
    _reports[converted] = rows.close(given)
    if verbose:
        print(format_report(_reports[converted]))
    return converted


def _followed(model: Any, rows: Report, trains: bool) -> Any:
    """A model with the layers and ops that custom layers call in the place of those; itself where there are none."""
    if not any(_follow.is_custom(layer) for layer in model._flatten_layers()):
        return model
    follower = _follow.Follower(trains)
    with _trace.calls_forgotten(model):
        graph = model if is_graph(model) else _follow.called(model)
        nodes = [node for part in models_in(graph) for node in calls(part)]
        found = [node for node in nodes if follower.inside(node) is not None]
        if graph is not model and not found:
            why = follower.reasons.get(model.name, "it has no convolution that could be fused")
            raise ValueError(
                f"`model` {model.name!r} is of class {type(model).__name__}, whose `call` cannot be followed: {why}. "
                "Write it with Keras' layers and `keras.ops`, or convert the Functional models inside it, or what "
                "`model.export` writes, by `convert_saved_model`."
            )
        rows.followed(model, graph, follower)
        return (
            Rebuilder(lambda part: {}, Report(), inside=follower.inside, outermost=model).model(graph)
            if found
            else model
        )


def _with_stock_parts(model: Any) -> Any:
    """A model with Keras' layers in the place of those that `training=True` puts in; itself where there are none."""
    if not any(type(layer) in _builtin.PARTS for layer in model._flatten_layers()):
        return model
    unfuser = _builtin.Unfuser({layer.name for layer in model._flatten_layers()}, _builtin.PARTS)
    counts = count_calls(model)
    return Rebuilder(lambda part: unfuser.plan(Graph(part, counts)), Report()).model(model)


def _join(model: Any, rows: Report) -> Any:
    """A model of blocks once more, with its largest parts in a `FusedNetwork` each."""

    def has_more(node: Any) -> bool:
        return called_in_training(node) or has_mask(node)

    left_alone, translator = _called_inside(model, has_more), Translator()
    if not any(_parts.find(Graph(part), translator) for part in models_in(model)):
        return model

    def plan(part: Any) -> Plan:
        return {} if id(part) in left_alone else _emit.plan(Graph(part), translator, rows)

    return Rebuilder(plan, Report(), folds=True).model(model)


def to_builtin(model: Any, target: Any = None, **options: Any) -> Any:
    """Makes a model of stock Keras layers with the same results as `model`: the way back from `convert`.

    Each layer of this package becomes stock layers with its weights; batch norms that were folded stay so.

    Args:
        model: a Functional or Sequential Keras model, built; models inside it are unfused too. It is not changed and
            shares nothing with the result. Or the path of a SavedModel, such as `convert_saved_model` writes.
        target: the folder to write, where `model` is a path; stock ops stand there.
        **options: as of `convert_saved_model`, where `model` is a path.

    Returns:
        A new Keras model, not compiled; None for a path. Nothing in it needs this package: LiteRT's converter, tf2onnx
        and places that cannot load an op library take it.

    Raises:
        TypeError: `model` is no Keras model.
        ValueError: as `convert` or `convert_saved_model`; or something of this package is where it cannot be replaced,
            as in a Lambda.

    Example:

    >>> import keras
    >>> import tf_dwsconv
    >>> model = keras.Sequential([
    ...     keras.Input((8, 8, 4)), tf_dwsconv.FusedConvBlock(6, 3, depthwise_activation="relu6", name="block")])
    >>> [type(layer).__name__ for layer in tf_dwsconv.to_builtin(model).layers]
    ['DepthwiseConv2D', 'Conv2D']
    """
    if graphs.is_path(model):
        graphs.unfuse_saved_model(model, target, **options)
        return None
    if target is not None or options:
        raise TypeError("`target` and what follows it are of SavedModels; given a model with them, no path.")
    _check_model(model)
    model = _apart(model)
    counts = count_calls(model)
    unfuser = _builtin.Unfuser({layer.name for layer in model._flatten_layers()})
    report = Report()
    stock = Rebuilder(lambda part: unfuser.plan(Graph(part, counts)), report).model(model)
    _builtin.check_nothing_remains(stock, report.kept)
    return stock


def _apart(model: Any) -> Any:
    """A model with a layer for each step of its networks; itself where it has none."""
    if not any(type(node.operation) is FusedNetwork for part in models_in(model) for node in calls(part)):
        return model
    unfuser = _layers.Unfuser({layer.name for layer in model._flatten_layers()})
    return Rebuilder(lambda part: unfuser.plan(Graph(part), isinstance(part, keras.Sequential)), Report()).model(model)


def save_network(model: Any, path: graphs.PathLike, *, overwrite: bool = False, **options: Any) -> None:
    """Writes the file of a network, which `tf_dwsconv.native.Network` runs without TensorFlow.

    Args:
        model: what `convert` returned, where all of it became one `FusedNetwork`. Inputs and outputs keep their names
            and their order; the weights are rounded to the layer's compute dtype. Or the path of a SavedModel that
            `convert_saved_model` wrote, where a signature became one network as a whole.
        path: of the file to write; docs/program.md says what is in it. Any reader of safetensors opens it.
        overwrite: whether to write over a file that is there.
        **options: `signatures` with the name of one, and `tags`, as of `convert_saved_model`, where `model` is a path.

    Raises:
        TypeError: `model` is no Keras model, or `path` no path.
        ValueError: a model that is not wholly one network, naming a layer that stands outside; a file that exists; no
            folder to write to.

    Example:

    >>> import os, tempfile
    >>> import keras
    >>> import tf_dwsconv
    >>> model = keras.Sequential([
    ...     keras.Input((16, 16, 8)), keras.layers.SeparableConv2D(8, 3), keras.layers.SeparableConv2D(4, 3)])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     tf_dwsconv.save_network(tf_dwsconv.convert(model), os.path.join(folder, "network.safetensors"))
    ...     os.listdir(folder)
    ['network.safetensors']
    """
    if graphs.is_path(model):
        graphs.save_network(model, path, overwrite=overwrite, **options)
        return
    if options:
        names = ", ".join(map(repr, options))
        raise TypeError(f"{names} must not be given with a model, but with the path of a SavedModel.")
    _check_model(model)
    _save.write(*_save.program_of(model), path, overwrite)


def report(model: Any) -> tuple[Row, ...]:
    """What `convert` fused in a model, and what not and why.

    Args:
        model: what `convert` returned, in this process; a report is not saved with a model.

    Returns:
        A `Row` for each block, each convolution with a batch norm folded in, and each depthwise convolution that was
        left alone, wherever in the model it is.

    Raises:
        ValueError: a model that `convert` did not return.

    Example:

    >>> import keras
    >>> import tf_dwsconv
    >>> model = keras.Sequential([keras.Input((8, 8, 4)), keras.layers.SeparableConv2D(6, 3, name="conv")])
    >>> tf_dwsconv.convert.report(tf_dwsconv.convert(model))
    (Row(pattern='separable', layers=('conv',), fused='conv', reason='', network=None),)
    """
    try:
        return _reports[model]
    except (KeyError, TypeError):
        raise ValueError(
            "`model` must be a model that tf_dwsconv.convert returned in this process; reports are not saved."
        ) from None


def _check_model(model: Any, may_be_followed: bool = False) -> None:
    if not isinstance(model, keras.Model) and _tf_keras.is_of(model):
        raise TypeError(_tf_keras.message(f"`model` must be a model of Keras 3; given a {type(model).__name__}"))
    if not isinstance(model, keras.Model):
        raise TypeError(f"`model` must be a Keras model; given {model!r:.80} of type {type(model).__name__}.")
    if not is_graph(model) and not (may_be_followed and _follow.is_custom(model)):
        raise ValueError(
            f"`model` must be a Functional or Sequential model; {model.name!r} is of class {type(model).__name__}, "
            "whose own methods decide what it computes, so its layers cannot be followed. Convert the Functional "
            "models inside it, or write it as one."
        )


def _called_inside(model: Any, so: Callable[[Any], bool]) -> set[int]:
    """Models, by id, that a call inside `model` runs `so`, always in training or with masks say."""
    found: set[int] = set()
    parts = models_in(model)
    count = -1
    while len(found) > count:  # what is in one of them is too
        count = len(found)
        for part in parts:
            inner = ((wrapped(node.operation), so(node)) for node in calls(part))
            found.update(id(m) for m, is_so in inner if is_graph(m) and (is_so or id(part) in found))
    return found


def _plan(graph: Graph, passes: Any, rows: Report) -> Plan:
    search = Search(graph, passes)
    plan: Plan = {}
    described: dict[int, tuple[Row, tuple]] = {}
    for found in search.found:
        names = tuple(node.operation.name for node in found.nodes)
        plan.update({id(node): None for node in found.nodes})
        emission = plan[id(found.nodes[-1])] = found.emission
        row = Row(found.pattern, names, found.name, found.note)
        described[id(found.nodes[0])] = row, tuple(step.layer for step in emission.steps)
    rows.graph(graph, plan, described, search.reasons)
    return plan


if TYPE_CHECKING:
    _Module = object  # of a module a type checker believes any attribute
else:
    _Module = types.ModuleType


class Converter(_Module):
    """The module answers to its function's name: `tf_dwsconv.convert(model)`, and `python -m tf_dwsconv.convert`."""

    if TYPE_CHECKING:
        Row = Row
        format_report = staticmethod(format_report)
        report = staticmethod(report)
        to_builtin = staticmethod(to_builtin)

    def __call__(self, model: Any, *, training: bool = False, fuse: str = "network", verbose: bool = False) -> Any:
        return convert(model, training=training, fuse=fuse, verbose=verbose)


Converter.__call__.__doc__ = convert.__doc__
sys.modules[__name__].__class__ = Converter
