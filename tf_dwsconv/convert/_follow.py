"""Follows layers and models of users' own classes: which layers and ops their `call` calls, and in which order.

`call` runs once on symbolic tensors, as a Functional model is made. What it calls then takes the layer's place in the
model, so that the search for blocks and networks sees through it. Whatever `call` does besides, with TensorFlow's own
functions say, cannot be followed, and the layer stays.
"""

from __future__ import annotations

import contextlib
from typing import Any, Optional

import keras
import tensorflow as tf
from keras.src.models.functional import Functional

from tf_dwsconv._keras_graph import (
    called_in_training,
    calls,
    flat,
    functional,
    has_nodes,
    inputs_called,
    is_graph,
    wrapped,
)
from tf_dwsconv.convert import _copy, _inside, _trace
from tf_dwsconv.convert.network._parts import Translator

L = keras.layers

# Of axes whose size a model does not know: a layer that computes with it is found out by this one, or the next.
_A_SIZE = 96

_CONVOLUTIONS = (L.Conv1D, L.Conv2D, L.Conv2DTranspose, *_inside.DEPTHWISE)


def is_custom(operation: Any) -> bool:
    """Whether a layer's own `call`, of a class that is neither Keras' nor ours, decides what it computes."""
    if not isinstance(operation, keras.Layer) or isinstance(operation, (L.Wrapper, L.Lambda, L.TFSMLayer)):
        return False
    if is_graph(operation) or _inside.is_ours(operation) or type(operation).call is keras.Model.call:
        return False
    return type(operation).__module__.split(".")[0] != "keras"


class Follower:
    """Finds what stands for calls of custom layers.

    Args:
        trains: whether the new model is to train as the old one: a layer that does something else in training, or has
            weights of its own outside the layers that it calls, stays.

    Attributes:
        reasons: why layers stay, by their names.
        followed: the layers that do not.
    """

    def __init__(self, trains: bool):
        self.reasons: dict[str, str] = {}
        self.followed: list = []
        self._trains = trains
        self._translator = Translator()
        self._found: dict[int, Optional[_trace.Calls]] = {}
        self._kept: list = []  # so that no id is given out again
        self._inner: set[int] = set()  # calls, by id, that a followed layer makes

    def inside(self, node: Any) -> Optional[_trace.Calls]:
        """What stands for a call; None for one that stays."""
        if id(node) not in self._found:
            self._kept.append(node)
            self._found[id(node)] = self._look(node)
        return self._found[id(node)]

    def _look(self, node: Any) -> Optional[_trace.Calls]:
        layer = node.operation
        if id(node) in self._inner and is_graph(layer):
            return self._within(_of_model(node))
        if not is_custom(layer) or called_in_training(node):
            return None
        try:
            found = self._within(_trace.trace(node))
            self._check(node, found)
        except _trace.UnknownError as error:
            self.reasons[layer.name] = str(error)
            return None
        if not self._pays(found):
            return None
        self.followed.append(layer)
        return found

    def _within(self, found: Optional[_trace.Calls]) -> Optional[_trace.Calls]:
        self._inner.update(id(inner) for inner in found.nodes) if found is not None else None
        return found

    def _check(self, node: Any, found: _trace.Calls) -> None:
        """Raises the reason why what was found must not stand for a call."""
        if not found.nodes:
            raise _trace.UnknownError("it does nothing in inference")
        for inner in flat(found.nodes):
            layer = inner.operation
            if is_custom(wrapped(layer)) and self.inside(inner) is None:
                _check_copies(layer, self.reasons.get(layer.name, "it has no convolution"))
        _trace.check_ops(found)
        form = _trace.form(node, found)
        if self._trains:
            self._check_training(node, found)
        elif _has_numbers(found) and form != _trace.form(node, _trace.trace(node)):
            raise _trace.UnknownError("it computes something else each time")
        has_free_sizes = any(None in t.shape[1:] for t in node.arguments.keras_tensors)
        if has_free_sizes and any(other != form for other in _forms_of_sizes(node)):
            raise _trace.UnknownError("it computes with the sizes of its arguments, which the model does not know")
        _trace.freeze_variables(found, node.operation)

    def _check_training(self, node: Any, found: _trace.Calls) -> None:
        """Raises the reason why what was found would not train as a call does."""
        layer = node.operation
        inside = {id(inner) for inner in layer._flatten_layers()}
        made = [inner.operation for inner in found.nodes if id(inner.operation) not in inside]
        if (
            layer._trainable_variables
            or any(isinstance(operation, keras.Layer) and operation.weights for operation in made)
            or any(_trace.is_weight(value) for value in _given(found))
        ):
            raise _trace.UnknownError("it computes with weights of its own")
        if layer.activity_regularizer is not None:
            raise _trace.UnknownError("it has an activity regularizer")
        if _trace.form(node, found) != _trace.form(node, _trace.trace(node, training=True)):
            raise _trace.UnknownError("it computes something else in training")

    def _pays(self, found: _trace.Calls) -> bool:
        """Whether anything in it may become part of a block or a network."""
        return self._has_convolution(found) or self._is_translated(found)

    def _has_convolution(self, found: _trace.Calls) -> bool:
        for node in found.nodes:
            inner = self.inside(node)
            if self._has_convolution(inner) if inner is not None else isinstance(node.operation, _CONVOLUTIONS):
                return True
        return False

    def _is_translated(self, found: _trace.Calls) -> bool:
        for node in found.nodes:
            inner = self.inside(node)
            if not (self._is_translated(inner) if inner is not None else self._translator.kind(node) is not None):
                return False
        return True


def _of_model(node: Any) -> Optional[_trace.Calls]:
    """The calls in a model inside a layer."""
    inputs = inputs_called(node)
    is_plain = inputs is not None and not called_in_training(node)
    return _trace.Calls(inputs, calls(node.operation), functional(node.operation).outputs) if is_plain else None


def _forms_of_sizes(node: Any) -> list:
    forms = [_trace.form(node, _trace.trace(node, size=_A_SIZE))]
    with contextlib.suppress(_trace.UnknownError):  # a layer need not take pictures of odd sizes
        forms.append(_trace.form(node, _trace.trace(node, size=_A_SIZE + 1)))
    return forms


def _given(found: _trace.Calls) -> list:
    return [value for node in found.nodes for value in _trace.values(node)]


def _has_numbers(found: _trace.Calls) -> bool:
    """Whether something was computed while the layer ran: another time it may be something else."""
    return any(isinstance(value, tf.Tensor) for value in _given(found))


def _check_copies(layer: Any, reason: str) -> None:
    """Raises where a layer inside, which stays one, cannot be made again from its config."""
    try:
        _copy.again(layer)
    except ValueError as error:
        raise _trace.UnknownError(
            f"in it, {layer.name!r} stays ({reason}), and cannot be made from its config"
        ) from error


def called(model: Any) -> Any:
    """A Functional model of one call of another model, whose class has a `call` of its own.

    Raises:
        ValueError: shapes of its arguments are not known, or it cannot be called with symbolic tensors.
    """
    if isinstance(model, Functional) and has_nodes(model):
        structure = model._inputs_struct
        inputs = keras.tree.map_structure(lambda t: keras.Input(batch_shape=t.shape, dtype=t.dtype), structure)
    else:
        inputs = _inputs(model)
    try:
        outputs = model(inputs)
    except Exception as error:  # of whatever is in it
        raise ValueError(
            f"`model` {model.name!r} of class {type(model).__name__} cannot be called on symbolic tensors: "
            f"{_copy.in_short(error)}."
        ) from error
    return keras.Model(inputs, outputs, name=model.name)


def _inputs(model: Any) -> Any:
    """Inputs of the shapes that a model was built for, of any number of pictures."""
    shapes = model._build_shapes_dict if model.built else None
    if not shapes or len(shapes) != 1:
        what = "is not built: call it once" if not shapes else "takes several arguments: call it in a Functional model"
        raise ValueError(f"`model` {model.name!r} of class {type(model).__name__} {what}.")
    dtype = keras.config.floatx()

    def inputs(shape: Any) -> Any:
        if isinstance(shape, dict):
            return {key: inputs(value) for key, value in shape.items()}
        if all(size is None or isinstance(size, int) for size in shape):
            return keras.Input(tuple(shape[1:]), dtype=dtype)
        return type(shape)(inputs(value) for value in shape)

    return inputs(next(iter(shapes.values())))
