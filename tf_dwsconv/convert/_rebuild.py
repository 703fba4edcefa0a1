"""Makes a model anew, call by call, with other layers in some places.

Nothing is shared with the old model: layers that stay are made again from their configs, and their state is copied.
"""

from __future__ import annotations

import itertools
from typing import Any, Callable, Optional, Union

import keras

from tf_dwsconv._keras_graph import calls, class_again, functional, is_graph
from tf_dwsconv.convert import _wrapper
from tf_dwsconv.convert._block import Assembly, Emission, fill
from tf_dwsconv.convert._copy import again, copy_state, in_short, refusal
from tf_dwsconv.convert._report import Report
from tf_dwsconv.convert._trace import Calls

# What is to become of a call: None to leave it out, as it is part of an emission that comes later.
Plan = dict[int, Optional[Union[Emission, Assembly]]]


class Rebuilder:
    """Makes models anew.

    Args:
        plan: gives for a model what is to become of its calls, by the id of their nodes; calls that are not there stay.
        report: gets a row for what is not in a plan.
        replace: gives for a layer that stays another one with the same variables, or None for a copy of itself.
        folds: whether plans are right in inference alone.
        inside: gives for a call that stays the calls that stand for it, or None.
        outermost: the layer whose name those calls need not have; None where there is none.
    """

    def __init__(
        self,
        plan: Callable[[Any], Plan],
        report: Report,
        replace: Callable[[Any], Any] = lambda layer: None,
        folds: bool = False,
        inside: Callable[[Any], Optional[Calls]] = lambda node: None,
        outermost: Any = None,
    ):
        self._plan = plan
        self._replace = replace
        self.report = report
        self.folds = folds
        self._inside = inside
        self._names = Names(outermost)
        self._made: dict[int, Any] = {}  # new layers and models by the id of the old ones
        self._kept: list = []  # the old ones, so that no id is given out again
        self._filled: set[int] = set()  # new layers, by id, that have their state already

    def model(self, model: Any) -> Any:
        """A new model; the same one each time that it is asked for."""
        if id(model) not in self._made:
            self._kept.append(model)
            if class_again(model) is not type(model):
                self.report.plain(model)
            self._names.take(model)
            opens = any(self._inside(node) is not None for node in calls(model))
            is_sequence = isinstance(model, keras.Sequential) and not opens
            self._made[id(model)] = (self._sequential if is_sequence else self._functional)(model)
        return self._made[id(model)]

    def _functional(self, model: Any) -> Any:
        plan = self._plan(model)
        tensors = {}
        for t in functional(model).inputs:
            tensors[id(t)] = _input_like(t)
        new_inputs = keras.tree.map_structure(lambda t: tensors[id(t)], functional(model)._inputs_struct)
        waiting = [node for node in calls(model) if plan.get(id(node), node) is not None]
        while waiting:  # of several results the first may be read before the last is made
            left = [node for node in waiting if not self._placed(node, plan.get(id(node)), tensors)]
            if len(left) == len(waiting):
                raise AssertionError(f"the parts of {model.name!r} wait for each other")
            waiting = left
        outputs = keras.tree.map_structure(lambda t: tensors[id(t)], functional(model)._outputs_struct)
        kind = keras.Model if isinstance(model, keras.Sequential) else class_again(model)
        new = kind(inputs=new_inputs, outputs=outputs, name=model.name)
        new._trainable = model._trainable  # of the model alone: each layer has its own
        return new

    def _placed(self, node: Any, emission: Any, tensors: dict[int, Any]) -> bool:
        """Puts a call, or what stands for it, into the new model; False where it is not the turn of it yet."""
        inputs = node.arguments.keras_tensors if emission is None else emission.inputs
        if any(id(t) not in tensors for t in inputs):
            return False
        inside = self._inside(node) if emission is None else None
        if inside is not None:
            outs, results = node.outputs, self._replay(node.operation, inside, [tensors[id(t)] for t in inputs])
            results = [self._names.result(node.operation, t, result) for t, result in zip(outs, results)]
        elif emission is None:
            layer = self.operation(node.operation)
            args, kwargs = node.arguments.fill_in(tensors)
            outs, results = node.outputs, keras.tree.flatten(_call(layer, node.operation, *args, **kwargs))
            self._copy_state(node.operation, layer)
        elif isinstance(emission, Assembly):
            outs, results = emission.outs, emission.call([tensors[id(t)] for t in inputs])
            fill(emission.steps)
        else:
            outs, results = [emission.out], [emission.call([tensors[id(t)] for t in inputs])]
        tensors.update({id(t): result for t, result in zip(outs, results)})
        return True

    def _replay(self, layer: Any, inside: Calls, given: list) -> list:
        """Puts the calls that a layer makes in the place of its own; their results."""
        self._names.inside(layer, inside, passed_on=self._inside(inside.nodes[-1]) is not None)
        reads = {
            id(t)
            for node in inside.nodes
            if not isinstance(node.operation, keras.Layer)
            for t in node.arguments.keras_tensors
        }.union(map(id, inside.outputs))
        tensors = {}
        for own, tensor in zip(inside.inputs, given):
            casts = id(own) in reads and own.dtype != tensor.dtype  # as the layer casts; layers inside do so themselves
            tensors[id(own)] = keras.ops.cast(tensor, own.dtype) if casts else tensor
        for node in inside.nodes:
            self._placed(node, None, tensors)
        return [tensors[id(t)] for t in inside.outputs]

    def _sequential(self, model: Any) -> Any:
        plan = self._plan(model)
        layers, steps, stay = [], [], []
        for node in calls(model):
            if id(node) not in plan:
                layers.append(self.operation(node.operation))
                stay.append(node.operation)
            elif plan[id(node)] is not None:
                layers += [step.layer for step in plan[id(node)].steps]
                steps += plan[id(node)].steps
        start = _input_like(functional(model).inputs[0])
        new = class_again(model)([start, *layers], name=model.name)
        for operation in stay:
            self._copy_state(operation, self._made[id(operation)])
        fill(steps)
        new._trainable = model._trainable
        return new

    def operation(self, operation: Any) -> Any:
        """The new layer or op for an old one."""
        if is_graph(operation):
            return self.model(operation)
        if id(operation) not in self._made:
            self._kept.append(operation)
            new = self._replace(operation)
            if new is None and isinstance(operation, keras.layers.Wrapper):
                new = _wrapper.again(self, operation)
                self._filled.add(id(new))
            new = again(operation) if new is None else new
            new.name = self._names.of(operation)
            self._made[id(operation)] = new
        return self._made[id(operation)]

    def is_replaced(self, layer: Any) -> bool:
        """Whether `operation` gives another layer with the same variables."""
        return self._replace(layer) is not None

    def _copy_state(self, old: Any, new: Any) -> None:
        if isinstance(old, keras.Layer) and not is_graph(old) and id(new) not in self._filled:
            copy_state(old, new)


class Names:
    """Names of layers and ops that come out of other layers: of their kind there may be several in a model."""

    def __init__(self, outermost: Any) -> None:
        self._outermost = outermost
        self._taken: set[str] = set()
        self._given: set[str] = set()  # those of layers that have gone to the last of their calls
        self._names: dict[int, str] = {}
        self._results: set[int] = set()  # tensors, by id

    def take(self, model: Any) -> None:
        """Keeps the names that there are in a model."""
        self._results.update(map(id, functional(model).outputs))
        inputs = [t._keras_history.operation for t in functional(model).inputs]
        for operation in (*inputs, *(node.operation for node in calls(model))):
            self._taken.add(operation.name)
            self._names.setdefault(id(operation), operation.name)

    def of(self, operation: Any) -> str:
        return self._names.get(id(operation), operation.name)

    def inside(self, layer: Any, inside: Calls, passed_on: bool) -> None:
        """Names what a layer calls: its last call has its own name, by which users know the result.

        passed_on: whether other calls will take the place of that, too.
        """
        last, is_outermost = inside.nodes[-1], layer is self._outermost
        if not is_outermost and len(inside.outputs) == 1 and any(t is inside.outputs[0] for t in last.outputs):
            name = self.of(layer)
            if id(last.operation) not in self._names:
                self._names[id(last.operation)] = name if name not in self._given else self._new("", name)
                self._given.update([] if passed_on else [name])
        for node in inside.nodes:
            operation = node.operation
            if id(operation) not in self._names:
                self._names[id(operation)] = self._new("" if is_outermost else f"{self.of(layer)}_", operation.name)

    def result(self, layer: Any, old: Any, new: Any) -> Any:
        """A layer's result in the new model; behind a layer of its name, if the model's results need one."""
        name = self.of(layer)
        if id(old) not in self._results or layer is self._outermost or name in self._given:
            return new
        if new._keras_history.operation.name == name:
            return new
        self._given.add(name)
        return keras.layers.Identity(name=name, dtype=new.dtype)(new)

    def _new(self, outer: str, name: str) -> str:
        start = name if name.startswith(outer) else outer + name
        names = itertools.chain([start], (f"{start}_{i}" for i in itertools.count(1)))
        found = next(name for name in names if name not in self._taken)
        self._taken.add(found)
        return found


def _input_like(tensor: Any) -> Any:
    layer = tensor._keras_history.operation
    new = type(layer).from_config(layer.get_config()).output
    new.name = tensor.name  # that of the serving signature; a layer named by Keras has another one
    return new


def _call(layer: Any, old: Any, *args: Any, **kwargs: Any) -> Any:
    try:
        return layer(*args, **kwargs)
    except Exception as error:
        raise refusal(old, f"cannot be called once it was made again: {in_short(error)}") from error
