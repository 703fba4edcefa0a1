"""Reads the graph of a Keras model: calls of layers (Keras' nodes), and who reads which tensor.

The conversion and the analysis read models here and nowhere else. Keras has no public way to walk a model's calls;
`_nodes_by_depth` is what its own `plot_model` and `summary` use.
"""

from __future__ import annotations

import collections
import re
from typing import Any, Optional

import keras
from keras.src.models.functional import Functional  # Keras exports it under no other name
from keras.src.utils.naming import to_snake_case

# What decides which layers a model calls, and with what.
_DECIDING = ("__call__", "call", "compute_output_spec", "_run_through_graph", "_standardize_inputs")


def is_graph(model: Any) -> bool:
    """Whether a model is made of a graph of layers, and nothing else decides what it computes.

    A subclass may have an `__init__` that makes the graph, a `train_step` and whatever does not decide that.
    """
    if isinstance(model, Functional) and not has_nodes(model):
        return False  # a class that makes graphs made this one without
    return _kind(model) is not None and not own_methods(model, _DECIDING)


def has_nodes(model: Any) -> bool:
    """Whether a model has a graph of layers now: a Sequential model that is not built, say, has none yet."""
    graph = model._functional if isinstance(model, keras.Sequential) else model
    return hasattr(graph, "_nodes_by_depth")


def _kind(model: Any) -> Any:
    return next((kind for kind in (Functional, keras.Sequential) if isinstance(model, kind)), None)


def own_methods(model: Any, names: Any) -> list[str]:
    """Those of some methods that a Functional or Sequential model's class has of its own."""
    kind = _kind(model) or keras.Model
    return [name for name in names if getattr(type(model), name, None) is not getattr(kind, name, None)]


def class_again(model: Any) -> Any:
    """The class of a new model: the old one's if it is made as Keras' own are, from inputs and outputs or layers."""
    return _kind(model) if own_methods(model, ("__init__", "get_config")) else type(model)


def wrapped(operation: Any) -> Any:
    """The layer in a wrapper, or in a wrapper in one; what is none is its own."""
    while isinstance(operation, keras.layers.Wrapper) and isinstance(getattr(operation, "layer", None), keras.Layer):
        operation = operation.layer
    return operation


def functional(model: Any) -> Any:
    """The Functional model that a Sequential one keeps; a Functional model itself.

    Raises:
        ValueError: a Sequential model that is not built.
    """
    if not isinstance(model, keras.Sequential):
        return model
    graph = model._functional
    if graph is None:
        raise ValueError(
            f"`model` holds the Sequential model {model.name!r}, which is not built: give it a keras.Input, or call it "
            "once."
        )
    return graph


def calls(model: Any) -> list:
    """The nodes of a model, but those of its inputs, each behind those that it reads."""
    by_depth = functional(model)._nodes_by_depth
    return [node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth] if not node.is_input]


def flat(nodes: Any) -> list:
    """Calls, with those in models inside."""
    return [inner for node in nodes for inner in (flat(calls(node.operation)) if is_graph(node.operation) else [node])]


def inputs_called(node: Any) -> Optional[list]:
    """A model's inputs in the order of the tensors that it was called with; None where there are others.

    A dict may be in the place of a list: then its keys are the inputs' names.
    """
    graph, args = functional(node.operation), node.arguments.args
    if len(graph.inputs) != len(node.arguments.keras_tensors):
        return None
    if not args or not isinstance(args[0], dict) or isinstance(graph._inputs_struct, dict):
        return graph.inputs
    by_name = {t.name: t for t in graph.inputs}
    return [by_name[key] for key in sorted(args[0])] if by_name.keys() == args[0].keys() else None


def count_calls(model: Any) -> collections.Counter:
    """How often each layer is called, by id, in a model and in the models inside it."""
    counts: collections.Counter = collections.Counter()
    for part in models_in(model):
        for node in calls(part):
            counts.update({id(node.operation), id(wrapped(node.operation))})
    return counts


def models_in(model: Any) -> list:
    """A model and the models inside it, in wrappers too, each once."""
    found = {id(model): model}
    todo = [model]
    while todo:
        for node in calls(todo.pop()):
            inner = wrapped(node.operation)
            if is_graph(inner) and id(inner) not in found:
                found[id(inner)] = inner
                todo.append(inner)
    return list(found.values())


class Graph:
    """The calls in one model.

    Args:
        model: Functional or Sequential.
        counts: of `count_calls`, of the outermost model; None where the caller does not ask which layers are shared.
    """

    def __init__(self, model: Any, counts: Optional[collections.Counter] = None):
        self.nodes = calls(model)
        outputs = functional(model).outputs
        self.outputs = {id(t) for t in outputs}
        self.only_output = outputs[0] if len(outputs) == 1 else None
        self._counts = counts or collections.Counter()
        self._producers = {id(t): node for node in self.nodes for t in node.outputs}
        self._readers: dict[int, list] = collections.defaultdict(list)
        for node in self.nodes:
            for tensor in node.arguments.keras_tensors:
                self._readers[id(tensor)].append(node)

    def readers(self, tensor: Any) -> list:
        """The calls that read a tensor, one entry for each time."""
        return self._readers[id(tensor)]

    def reader(self, tensor: Any) -> Optional[Any]:
        """The only call that reads a tensor; None where there are several, or the tensor is a result of the model."""
        readers = self.readers(tensor)
        return readers[0] if len(readers) == 1 and id(tensor) not in self.outputs else None

    def producer(self, tensor: Any) -> Optional[Any]:
        """The call that a tensor comes from; None for inputs of the model."""
        return self._producers.get(id(tensor))

    def shared(self, node: Any) -> bool:
        """Whether the layer is called anywhere else."""
        return self._counts[id(node.operation)] > 1

    def name(self, nodes: list) -> str:
        """The name of what takes the place of some calls: that of the last layer, or named op, among them.

        Losses and metrics find a result of the model by its name, so there it is the name of the last call, even of an
        op.
        """
        last = nodes[-1]
        layers = [node.operation.name for node in nodes if not _is_nameless(node.operation)]
        return last.operation.name if id(last.outputs[0]) in self.outputs or not layers else layers[-1]

    def why_not_one_reader(self, tensor: Any) -> str:
        """Why `reader` is None."""
        name = self.producer(tensor).operation.name
        if id(tensor) in self.outputs:
            return f"the result of {name!r} is one of the model's"
        names = sorted({node.operation.name for node in self.readers(tensor)})
        return f"the result of {name!r} is read by {', '.join(map(repr, names))}"


def _is_nameless(operation: Any) -> bool:
    """Whether an op has a name that Keras made up: `convert` gives those at the ends of layers the layers' names."""
    word = to_snake_case(type(operation).__name__)
    return not isinstance(operation, keras.Layer) and re.fullmatch(rf"{word}(_\d+)?", operation.name) is not None


def only_input(node: Any) -> Optional[Any]:
    """The tensor that a layer was called with, if with that alone and in inference or undecided; else None."""
    args, kwargs = node.arguments.args, node.arguments.kwargs
    tensors = node.arguments.keras_tensors
    if len(tensors) != 1 or len(node.outputs) != 1 or any(value not in (None, False) for value in kwargs.values()):
        return None
    return tensors[0] if len(args) == 1 and args[0] is tensors[0] else None


def called_in_training(node: Any) -> bool:
    """Whether a layer was called with `training=True`, or with what is decided later."""
    return node.arguments.kwargs.get("training") not in (None, False)


def has_mask(node: Any) -> bool:
    """Whether a tensor that a call reads has a mask, which Keras hands on from layer to layer beside the tensor."""
    return any(getattr(t, "_keras_mask", None) is not None for t in node.arguments.keras_tensors)


def is_one_by_one(layer: Any) -> bool:
    """Whether a Conv2D is a dense 1x1 convolution of stride 1."""
    return tuple(layer.kernel_size) == (1, 1) and tuple(layer.strides) == (1, 1) and layer.groups == 1
