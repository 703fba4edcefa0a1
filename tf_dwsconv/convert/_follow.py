"""Follows layers and models of users' own classes: which layers and ops their `call` calls, and in which order.

`call` runs once on symbolic tensors, as a Functional model is made. What it calls then takes the layer's place in the
model, so that the search for blocks and networks sees through it. Whatever `call` does besides, with TensorFlow's own
functions say, cannot be followed, and the layer stays.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from typing import Any, NamedTuple, Optional

import keras
import numpy as np
import tensorflow as tf
from keras.src.backend import AutocastScope  # what Keras' own `__call__` opens around `call`
from keras.src.models.functional import Functional

from tf_dwsconv._arguments import numpy_dtype
from tf_dwsconv._keras_graph import called_in_training, calls, functional, has_nodes, is_graph
from tf_dwsconv.convert import _copy, _inside, _read, _symbolic
from tf_dwsconv.convert.network._parts import Translator

L = keras.layers

# Of axes whose size a model does not know: a layer that computes with it is found out by another.
_A_SIZE = 96

_CONVOLUTIONS = (L.Conv1D, L.Conv2D, L.Conv2DTranspose, *_inside.DEPTHWISE)


class Calls(NamedTuple):
    """The calls that stand for one call of a layer.

    inputs, outputs: symbolic tensors, in the order of the tensors that the layer was called with and that it returned.
    nodes: each behind those that it reads.
    """

    inputs: list
    nodes: list
    outputs: list


class _UnknownError(Exception):
    """Why a layer cannot be followed."""


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
        self._found: dict[int, Optional[Calls]] = {}
        self._kept: list = []  # so that no id is given out again
        self._inner: set[int] = set()  # calls, by id, that a followed layer makes
        self._counts: dict[int, int] = {}

    def inside(self, node: Any) -> Optional[Calls]:
        """What stands for a call; None for one that stays."""
        if id(node) not in self._found:
            self._kept.append(node)
            self._found[id(node)] = self._look(node)
        return self._found[id(node)]

    def _look(self, node: Any) -> Optional[Calls]:
        layer = node.operation
        if id(node) in self._inner and is_graph(layer):
            return self._within(_of_model(node))
        if not is_custom(layer) or called_in_training(node):
            return None
        try:
            found = self._within(_trace(node, training=None))
            self._check(node, found)
        except _UnknownError as error:
            self.reasons[layer.name] = str(error)
            return None
        if not self._pays(found):
            return None
        self.followed.append(layer)
        return found

    def _within(self, found: Optional[Calls]) -> Optional[Calls]:
        self._inner.update(id(inner) for inner in found.nodes) if found is not None else None
        return found

    def _check(self, node: Any, found: Calls) -> None:
        """Raises the reason why what was found must not stand for a call."""
        if not found.nodes:
            raise _UnknownError("it does nothing in inference")
        for inner in found.nodes:
            layer = inner.operation
            if is_custom(layer) and self.inside(inner) is None:
                _check_copies(layer)
        if self._trains and node.operation._trainable_variables:
            raise _UnknownError("it computes with weights of its own")
        if self._trains and _form(node, found) != _form(node, _trace(node, training=True)):
            raise _UnknownError("it computes something else in training")
        has_free_sizes = any(None in t.shape[1:] for t in node.arguments.keras_tensors)
        if has_free_sizes and _form(node, found) != _form(node, _trace(node, None, _A_SIZE)):
            raise _UnknownError("it computes with the sizes of its arguments, which the model does not know")
        _freeze_variables(found, node.operation)

    def _pays(self, found: Calls) -> bool:
        """Whether anything in it may become part of a block or a network."""
        return self._has_convolution(found) or self._is_translated(found)

    def _has_convolution(self, found: Calls) -> bool:
        for node in found.nodes:
            inner = self.inside(node)
            if self._has_convolution(inner) if inner is not None else isinstance(node.operation, _CONVOLUTIONS):
                return True
        return False

    def _is_translated(self, found: Calls) -> bool:
        for node in found.nodes:
            inner = self.inside(node)
            if not (self._is_translated(inner) if inner is not None else self._translator.kind(node) is not None):
                return False
        return True


def _of_model(node: Any) -> Optional[Calls]:
    """The calls in a model inside a layer."""
    graph = functional(node.operation)
    is_plain = len(graph.inputs) == len(node.arguments.keras_tensors) and not called_in_training(node)
    return Calls(graph.inputs, calls(node.operation), graph.outputs) if is_plain else None


def _trace(node: Any, training: Optional[bool], size: Optional[int] = None) -> Calls:
    """Runs a layer's `call` on symbolic tensors like those of one of its calls; of a size where theirs is not known."""
    layer = node.operation
    built = {id(inner) for inner in layer._flatten_layers() if inner.built}
    if id(layer) not in built:
        raise _UnknownError("it is not built")
    tensors = node.arguments.keras_tensors
    shapes = [(*t.shape[:1], *(size if n is None else n for n in t.shape[1:])) for t in tensors]
    inputs = [keras.KerasTensor(s, _dtype_inside(layer, t), name=t.name) for s, t in zip(shapes, tensors)]
    args, kwargs = node.arguments.fill_in({id(t): new for t, new in zip(tensors, inputs)})
    kwargs.pop("training", None)
    if "training" in inspect.signature(layer.call).parameters:
        kwargs["training"] = training
    try:
        with _symbolic.functions() as made, AutocastScope(_autocast(layer)):
            results = keras.tree.flatten(layer.call(*args, **kwargs))
    except Exception as error:  # of whatever is in it
        raise _UnknownError(f"its `call` cannot run on symbolic tensors: {_copy.in_short(error)}") from error
    if any(not isinstance(t, keras.KerasTensor) for t in results) or (size is None and not _look_alike(results, node)):
        raise _UnknownError("its `call` returns something else on symbolic tensors")
    found = Calls(inputs, _sorted(inputs, results), results)
    built.update(map(id, made))
    for inner in found.nodes:
        if isinstance(inner.operation, keras.Layer) and inner.operation.weights and id(inner.operation) not in built:
            raise _UnknownError(f"{inner.operation.name!r}, which it calls, is not built")
    return found


def _autocast(layer: Any) -> Optional[str]:
    is_float = keras.backend.is_float_dtype(layer.compute_dtype)
    return layer.compute_dtype if getattr(layer, "autocast", True) and is_float else None


def _dtype_inside(layer: Any, tensor: Any) -> str:
    """The dtype in which `call` gets a tensor."""
    given = keras.backend.standardize_dtype(tensor.dtype)
    dtype = _autocast(layer)
    return given if dtype is None or not keras.backend.is_float_dtype(given) else dtype


def _look_alike(results: list, node: Any) -> bool:
    looks = [
        [(tuple(t.shape), keras.backend.standardize_dtype(t.dtype)) for t in tensors]
        for tensors in (results, node.outputs)
    ]
    return looks[0] == looks[1]


def _sorted(inputs: list, outputs: list) -> list:
    """The calls that lead from some tensors to others, each behind those that it reads."""
    start = {id(t) for t in inputs}
    found: list = []
    seen: set[int] = set()
    todo = [(t, False) for t in reversed(outputs)]
    while todo:
        tensor, is_ready = todo.pop()
        if id(tensor) in start:
            continue
        history = getattr(tensor, "_keras_history", None)
        if history is None or history.operation is None:
            raise _UnknownError("its result does not come from its arguments")
        node = history.operation._inbound_nodes[history.node_index]
        if is_ready and id(node) not in seen:
            seen.add(id(node))
            found.append(node)
        elif id(node) not in seen:
            todo.append((tensor, True))
            todo += [(t, False) for t in reversed(node.arguments.keras_tensors)]
            if node.is_input:
                raise _UnknownError("its result does not come from its arguments alone")
    return found


def _form(node: Any, found: Calls) -> list:
    """What a call calls with which tensors, so that two traces of it can be compared."""
    known = {id(layer) for layer in node.operation._flatten_layers()}
    numbers = {id(t): i for i, t in enumerate(found.inputs)}
    form: list = []
    for inner in found.nodes:
        operation = inner.operation
        what = id(operation) if id(operation) in known else (type(operation), _options(operation))
        form.append((what, [numbers[id(t)] for t in inner.arguments.keras_tensors]))
        numbers.update((id(t), len(numbers) + i) for i, t in enumerate(inner.outputs))
    return [*form, [numbers[id(t)] for t in found.outputs]]


def _options(operation: Any) -> str:
    """What an op, or a layer that a `call` makes, was made with."""
    plain = (bool, int, float, str, tuple, list, type(None))
    hidden = ("name", "_inbound_nodes", "_outbound_nodes")
    return repr(sorted((k, v) for k, v in vars(operation).items() if isinstance(v, plain) and k not in hidden))


def _values(node: Any) -> list:
    """What a call is given besides symbolic tensors."""
    arguments = node.arguments
    return [v for v in keras.tree.flatten((arguments.args, arguments.kwargs)) if not isinstance(v, keras.KerasTensor)]


def _check_copies(layer: Any) -> None:
    """Raises where a layer inside, which stays one, cannot be made again from its config."""
    try:
        _copy.again(layer)
    except ValueError as error:
        raise _UnknownError(f"in it, {layer.name!r} stays and cannot be made from its config") from error


def _freeze_variables(found: Calls, layer: Any) -> None:
    """Puts numbers in the place of the weights and tensors with which a layer's `call` itself computes."""
    dtype = _autocast(layer)

    def number(value: Any) -> Any:
        if not isinstance(value, (keras.Variable, tf.Tensor, tf.Variable)):
            return value
        given = keras.backend.standardize_dtype(value.dtype)
        if not keras.backend.is_float_dtype(given):
            return np.array(keras.ops.convert_to_numpy(value))
        return _read.array(value).astype(numpy_dtype(given if dtype is None else dtype))

    for node in found.nodes:
        if any(isinstance(value, (keras.Variable, tf.Tensor, tf.Variable)) for value in _values(node)):
            if isinstance(node.operation, keras.Layer):
                raise _UnknownError(f"it calls {node.operation.name!r} with a weight")
            arguments = node.arguments
            arguments.args, arguments.kwargs = keras.tree.map_structure(number, (arguments.args, arguments.kwargs))


def called(model: Any) -> Any:
    """A Functional model of one call of another model, whose class has a `call` of its own.

    Raises:
        ValueError: shapes of its arguments are not known.
    """
    if isinstance(model, Functional) and has_nodes(model):
        structure = model._inputs_struct
        inputs = keras.tree.map_structure(lambda t: keras.Input(batch_shape=t.shape, dtype=t.dtype), structure)
    else:
        inputs = _inputs(model)
    return keras.Model(inputs, model(inputs), name=model.name)


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


@contextlib.contextmanager
def calls_forgotten(model: Any) -> Iterator[None]:
    """Takes back, at the end, what calls on symbolic tensors left in a model's layers."""
    layers = model._flatten_layers()
    lengths = [(len(layer._inbound_nodes), len(layer._outbound_nodes)) for layer in layers]
    try:
        yield
    finally:
        for layer, (inbound, outbound) in zip(layers, lengths):
            del layer._inbound_nodes[inbound:]
            del layer._outbound_nodes[outbound:]
