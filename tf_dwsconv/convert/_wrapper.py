"""Wrappers, such as TimeDistributed, around a model or a convolution: made anew around what that becomes."""

from __future__ import annotations

from typing import Any, Callable

import keras

from tf_dwsconv._keras_graph import is_graph, wrapped
from tf_dwsconv.convert import _copy, _inside
from tf_dwsconv.layers import FusedConvBlock

L = keras.layers

_Filled = tuple[Any, Callable[[], None]]


def again(rebuilder: Any, old: Any) -> Any:
    """A new wrapper, with its state, around a new layer; None for one that is to be a mere copy.

    The reason for that goes to the rebuilder's report.
    """
    inner = wrapped(old)
    if inner is old or not (is_graph(inner) or isinstance(inner, (L.Conv2D, FusedConvBlock, *_inside.DEPTHWISE))):
        return None
    rows = len(rebuilder.report.rows)
    try:
        new, fill = _around(rebuilder, old)
        _try(rebuilder, old, new)
        fill()
        return new
    except Exception as error:
        reason = (
            str(error) if isinstance(error, _StaysError) else f"around another layer it fails: {_copy.in_short(error)}"
        )
        rebuilder.report.forget(rows)
        rebuilder.report.stays(old, reason)
        return None


class _StaysError(Exception):
    """Why a wrapper keeps its layer."""


def _around(rebuilder: Any, old: Any) -> _Filled:
    """A new wrapper, and what gives it its state once it is built."""
    if isinstance(old, L.SpectralNormalization):
        raise _StaysError("it computes with the weights of its layer")
    if getattr(type(old).from_config, "__func__", None) is not L.Wrapper.from_config.__func__:
        raise _StaysError("its class has a `from_config` of its own")
    layer, fill_layer = _layer(rebuilder, old.layer)
    with _copy.known(old):
        config = old.get_config()
        config.pop("layer")
        new = type(old)(layer, **config)

    def fill() -> None:
        fill_layer()
        _copy.copy_variables(old, _own(old), _own(new))

    return new, fill


def _own(wrapper: Any) -> list:
    """The variables of a wrapper that are not its layer's."""
    others = {id(v) for v in wrapper.layer.variables}
    return [v for v in wrapper.variables if id(v) not in others]


def _layer(rebuilder: Any, old: Any) -> _Filled:
    """What a wrapper's layer becomes: a model, a layer, or a wrapper again."""
    if is_graph(old):
        return rebuilder.model(old), lambda: None
    if isinstance(old, L.Wrapper):
        return _around(rebuilder, old)
    if rebuilder.is_replaced(old):  # by one with the same variables, which others that call it share
        rebuilder.report.swapped(old)
        new = rebuilder.operation(old)
        return new, lambda: _copy.copy_state(old, new)
    shape = old.get_build_config()["input_shape"] if old.built else None
    if shape is None or not all(size is None or isinstance(size, int) for size in shape):
        raise _StaysError(f"{old.name!r} takes more than one input")
    # A model of that layer alone, for the same search as anywhere.
    copied = _copy.again(old)
    alone = keras.Sequential([keras.Input(batch_shape=shape, dtype=old.compute_dtype), copied], name=old.name)
    _copy.copy_state(old, copied)
    new = rebuilder.model(alone)
    return (new.layers[0] if len(new.layers) == 1 else new), lambda: None


def _try(rebuilder: Any, old: Any, new: Any) -> None:
    """Calls a new wrapper as the old one is called, on new inputs."""
    node = old._inbound_nodes[0]
    inputs = {id(t): keras.Input(batch_shape=t.shape, dtype=t.dtype) for t in node.arguments.keras_tensors}
    args, kwargs = node.arguments.fill_in(inputs)
    layer, call, modes = new.layer, new.layer.call, []

    def recording(*args: Any, **kwargs: Any) -> Any:
        modes.append(kwargs.get("training"))
        return call(*args, **kwargs)

    if not type(old).__module__.startswith("keras."):
        vars(layer)["call"] = recording
    try:
        results = keras.tree.flatten(new(*args, **kwargs))
    finally:
        vars(layer).pop("call", None)
    new._inbound_nodes.clear()
    if rebuilder.folds and True in modes:
        raise _StaysError("it calls its layer with training=True")
    if [(tuple(t.shape), t.dtype) for t in results] != [(tuple(t.shape), t.dtype) for t in node.outputs]:
        raise _StaysError("around another layer its result has another shape")
