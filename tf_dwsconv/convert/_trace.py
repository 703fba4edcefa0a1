"""Runs the `call` of a layer on symbolic tensors, and says what it calls: for `_follow`."""

from __future__ import annotations

import contextlib
import functools
import inspect
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple, Optional

import keras
import numpy as np
import tensorflow as tf
from keras.src.backend import AutocastScope  # what Keras' own `__call__` opens around `call`
from keras.src.backend.common import global_state
from keras.src.layers.layer import CallContext

from tf_dwsconv._arguments import numpy_dtype
from tf_dwsconv.convert import _copy, _read, _symbolic


class Calls(NamedTuple):
    """The calls that stand for one call of a layer.

    inputs, outputs: symbolic tensors, in the order of the tensors that the layer was called with and that it returned.
    nodes: each behind those that it reads.
    """

    inputs: list
    nodes: list
    outputs: list


class UnknownError(Exception):
    """Why a layer cannot be followed."""


def trace(node: Any, training: bool = False, size: Optional[int] = None) -> Calls:
    """Runs a layer's `call` on symbolic tensors like those of one of its calls; of a size where theirs is not known."""
    layer = node.operation
    built = {id(inner) for inner in layer._flatten_layers() if inner.built}
    if id(layer) not in built:
        raise UnknownError("it is not built")
    tensors = node.arguments.keras_tensors
    shapes = [(*t.shape[:1], *(size if n is None else n for n in t.shape[1:])) for t in tensors]
    inputs = [keras.KerasTensor(s, _dtype_inside(layer, t), name=t.name) for s, t in zip(shapes, tensors)]
    args, kwargs = node.arguments.fill_in({id(t): new for t, new in zip(tensors, inputs)})
    kwargs.pop("training", None)
    if "training" in inspect.signature(layer.call).parameters:
        kwargs["training"] = training
    try:
        with _symbolic.functions() as made, _context(layer, training), AutocastScope(_autocast(layer)):
            results = keras.tree.flatten(layer.call(*args, **kwargs))
    except Exception as error:  # of whatever is in it
        raise UnknownError(f"its `call` cannot run on symbolic tensors: {_copy.in_short(error)}") from error
    if any(not isinstance(t, keras.KerasTensor) for t in results) or (size is None and not _look_alike(results, node)):
        raise UnknownError("its `call` returns something else on symbolic tensors")
    found = Calls(inputs, _sorted(inputs, results), results)
    built.update(map(id, made))
    for inner in found.nodes:
        if isinstance(inner.operation, keras.Layer) and inner.operation.weights and id(inner.operation) not in built:
            raise UnknownError(f"{inner.operation.name!r}, which it calls, is not built")
        given = inner.arguments.kwargs.pop("training", None)  # in a model its own word decides
        if given not in (None, training):
            raise UnknownError(f"it calls {inner.operation.name!r} with training={given}, whatever it is told itself")
    return found


@contextlib.contextmanager
def _context(layer: Any, training: bool) -> Iterator[None]:
    """In it the layers that a layer calls take over `training`, as in Keras' own `__call__`."""
    before = global_state.get_global_attribute("current_call_ctx")
    context = CallContext(entry_layer=layer)
    context.training = training
    global_state.set_global_attribute("current_call_ctx", context)
    try:
        yield
    finally:
        global_state.set_global_attribute("current_call_ctx", before)


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
            raise UnknownError("its result does not come from its arguments")
        node = history.operation._inbound_nodes[history.node_index]
        if is_ready and id(node) not in seen:
            seen.add(id(node))
            found.append(node)
        elif id(node) not in seen:
            todo.append((tensor, True))
            todo += [(t, False) for t in reversed(node.arguments.keras_tensors)]
            if node.is_input:
                raise UnknownError("its result does not come from its arguments alone")
    return found


def form(node: Any, found: Calls) -> list:
    """What a call calls with which tensors, so that two traces of it can be compared."""
    known = {id(layer) for layer in node.operation._flatten_layers()}
    numbers = {id(t): i for i, t in enumerate(found.inputs)}
    said: list = []
    for inner in found.nodes:
        operation = inner.operation
        what = id(operation) if id(operation) in known else (type(operation), _options(operation))
        given = keras.tree.flatten((inner.arguments.args, inner.arguments.kwargs))
        said.append((what, [numbers[id(v)] if isinstance(v, keras.KerasTensor) else _word(v) for v in given]))
        numbers.update((id(t), len(numbers) + i) for i, t in enumerate(inner.outputs))
    return [*said, [numbers[id(t)] for t in found.outputs]]


def _options(operation: Any) -> str:
    """What an op, or a layer that a `call` makes, was made with."""
    plain = (bool, int, float, str, type(None))
    given = {key: keras.tree.flatten(value) for key, value in vars(operation).items() if not key.startswith("_")}
    given.pop("name", None)
    return repr(sorted((k, values) for k, values in given.items() if all(isinstance(v, plain) for v in values)))


def _word(value: Any) -> Any:
    """By which two values can be compared."""
    if isinstance(value, (np.ndarray, tf.Tensor)):
        return np.array(value if isinstance(value, np.ndarray) else value.numpy()).tobytes()
    return id(value) if is_weight(value) else repr(value)


def is_weight(value: Any) -> bool:
    """Whether a value may come from weights."""
    return isinstance(value, (keras.Variable, tf.Variable, tf.Tensor))


def values(node: Any) -> list:
    """What a call is given besides symbolic tensors."""
    arguments = node.arguments
    return [v for v in keras.tree.flatten((arguments.args, arguments.kwargs)) if not isinstance(v, keras.KerasTensor)]


def check_ops(found: Calls) -> None:
    """Raises where an op keeps a function or a weight, which the new model would share."""
    for node in found.nodes:
        if isinstance(node.operation, keras.Layer):
            continue
        kept = keras.tree.flatten(list(vars(node.operation).values()))
        if any(callable(value) for value in (*kept, *values(node))) or any(map(is_weight, kept)):
            raise UnknownError(f"it calls {node.operation.name!r} with a function or a weight")


def freeze_variables(found: Calls, layer: Any) -> None:
    """Puts numbers in the place of the weights and tensors with which a layer's `call` itself computes."""
    dtype = _autocast(layer)

    def number(value: Any) -> Any:
        if not is_weight(value):
            return value
        given = keras.backend.standardize_dtype(value.dtype)
        if not keras.backend.is_float_dtype(given):
            return np.array(keras.ops.convert_to_numpy(value))
        return _read.array(value).astype(numpy_dtype(given if dtype is None else dtype))

    for node in found.nodes:
        if any(map(is_weight, values(node))):
            if isinstance(node.operation, keras.Layer):
                raise UnknownError(f"it calls {node.operation.name!r} with a weight")
            arguments = node.arguments
            arguments.args, arguments.kwargs = keras.tree.map_structure(number, (arguments.args, arguments.kwargs))


_lock = threading.RLock()


@contextlib.contextmanager
def calls_forgotten(model: Any) -> Iterator[None]:
    """Puts a model's layers back, at the end, as they were before calls on symbolic tensors.

    Those leave nodes in lists, which are copies meanwhile, and a `call` may set attributes. Layers that are not built
    refuse to be.
    """
    layers = model._flatten_layers()
    with _lock:  # what one thread puts back must not be what another reads
        before = [(layer, dict(vars(layer))) for layer in layers]
        for layer, attributes in before:
            vars(layer).update((key, list(value)) for key, value in attributes.items() if isinstance(value, list))
            if model.built and not layer.built:
                vars(layer)["_maybe_build"] = functools.partial(_refuse, layer.name)
        try:
            yield
        finally:
            for layer, attributes in before:  # never without them: others may be calling the model
                vars(layer).update(attributes)
                for key in vars(layer).keys() - attributes.keys():
                    del vars(layer)[key]


def _refuse(name: str, *args: Any) -> None:
    raise RuntimeError(f"{name!r}, which it calls, is not built")
