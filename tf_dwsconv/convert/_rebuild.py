"""Makes a model anew, call by call, with other layers in some places.

Nothing is shared with the old model: layers that stay are made again from their configs, and their state is copied.
"""

from __future__ import annotations

import copy
import dataclasses
import tempfile
import types
import warnings
from typing import Any, Callable, Optional

import keras
import numpy as np
import tensorflow as tf
from keras.src.saving.serialization_lib import SafeModeScope  # for functions that are in memory already

from tf_dwsconv.convert._graph import calls, functional, is_graph


@dataclasses.dataclass
class Step:
    """One new layer.

    layer: not called yet. fill: sets its weights once it is built, or None. others: which of the inputs of its
    `Emission` it is called with besides the result of the step before. prepare: a layer that those go through, or None.
    """

    layer: Any
    fill: Optional[Callable[[], None]] = None
    others: tuple[int, ...] = ()
    prepare: Any = None


@dataclasses.dataclass
class Emission:
    """What stands for some calls of the old model, and takes the place of the last one.

    inputs: tensors of the old model, of which the first goes into the first step. steps: one after the other. out: the
    old tensor whose place the last one's result takes.
    """

    inputs: list
    steps: list[Step]
    out: Any


# What is to become of a call: None to leave it out, as it is part of an emission that comes later.
Plan = dict[int, Optional[Emission]]


class Rebuilder:
    """Makes models anew.

    Args:
        plan: gives for a model what is to become of its calls, by the id of their nodes; calls that are not there stay.
        replace: gives for a layer that stays another one with the same variables, or None for a copy of itself.
    """

    def __init__(self, plan: Callable[[Any], Plan], replace: Callable[[Any], Any] = lambda layer: None):
        self._plan = plan
        self._replace = replace
        self._made: dict[int, Any] = {}  # new layers and models by the id of the old ones
        self._kept: list = []  # the old ones, so that no id is given out again

    def model(self, model: Any) -> Any:
        """A new model; the same one each time that it is asked for."""
        if id(model) not in self._made:
            self._kept.append(model)
            make = self._sequential if isinstance(model, keras.Sequential) else self._functional
            self._made[id(model)] = make(model)
        return self._made[id(model)]

    def _functional(self, model: Any) -> Any:
        plan = self._plan(model)
        tensors = {}
        for t in functional(model).inputs:
            tensors[id(t)] = _input_like(t)
        new_inputs = keras.tree.map_structure(lambda t: tensors[id(t)], functional(model)._inputs_struct)
        for node in calls(model):
            if id(node) not in plan:
                layer = self._operation(node.operation)
                args, kwargs = node.arguments.fill_in(tensors)
                results = keras.tree.flatten(_call(layer, node.operation, *args, **kwargs))
                tensors.update({id(t): result for t, result in zip(node.outputs, results)})
                self._copy_state(node.operation, layer)
                continue
            emission = plan[id(node)]
            if emission is not None:
                inputs = [tensors[id(t)] for t in emission.inputs]
                y = inputs[0]
                for step in emission.steps:
                    others = [inputs[i] if step.prepare is None else step.prepare(inputs[i]) for i in step.others]
                    y = step.layer([y, *others] if others else y)
                    if step.fill is not None:
                        step.fill()
                        step.fill = None
                tensors[id(emission.out)] = y
        outputs = keras.tree.map_structure(lambda t: tensors[id(t)], functional(model)._outputs_struct)
        new = type(functional(model))(inputs=new_inputs, outputs=outputs, name=model.name)
        new._trainable = model._trainable  # of the model alone: each layer has its own
        return new

    def _sequential(self, model: Any) -> Any:
        plan = self._plan(model)
        layers, steps, stay = [], [], []
        for node in calls(model):
            if id(node) not in plan:
                layers.append(self._operation(node.operation))
                stay.append(node.operation)
            elif plan[id(node)] is not None:
                layers += [step.layer for step in plan[id(node)].steps]
                steps += plan[id(node)].steps
        start = _input_like(functional(model).inputs[0])
        new = keras.Sequential([start, *layers], name=model.name)
        for operation in stay:
            self._copy_state(operation, self._made[id(operation)])
        for step in steps:
            if step.fill is not None:
                step.fill()
        new._trainable = model._trainable
        return new

    def _operation(self, operation: Any) -> Any:
        """The new layer or op for an old one."""
        if is_graph(operation):
            return self.model(operation)
        if id(operation) not in self._made:
            self._kept.append(operation)
            replacement = self._replace(operation)
            self._made[id(operation)] = _again(operation) if replacement is None else replacement
        return self._made[id(operation)]

    @staticmethod
    def _copy_state(old: Any, new: Any) -> None:
        if is_graph(old) or not isinstance(old, keras.Layer):
            return
        copy_state(old, new)


def _input_like(tensor: Any) -> Any:
    layer = tensor._keras_history.operation
    new = type(layer).from_config(layer.get_config()).output
    new.name = tensor.name  # that of the serving signature; a layer named by Keras has another one
    return new


def _call(layer: Any, old: Any, *args: Any, **kwargs: Any) -> Any:
    try:
        return layer(*args, **kwargs)
    except Exception as error:
        raise _refusal(old, f"cannot be called once it was made anew: {_in_short(error)}") from error


def _in_short(error: Exception) -> str:
    """An error's first words: Keras adds whole configs and examples."""
    words = " ".join(str(error).split())
    return words if len(words) <= 300 else words[:300] + " ..."


def _refusal(operation: Any, reason: str) -> ValueError:
    return ValueError(
        f"`model` holds {operation.name!r} of class {type(operation).__name__}, which {reason} "
        "Give the class a `get_config` (and a `from_config`, if need be) from which the layer can be made again, or "
        "convert the parts of the model in front of it and behind it."
    )


def _again(operation: Any) -> Any:
    """The same layer or op once more, without state, from its config."""
    if type(operation) is keras.layers.Lambda:
        return _lambda_again(operation)
    if isinstance(operation, keras.Model) and type(operation).call is keras.Model.call:
        raise _refusal(operation, "has no `call` of its own and is no graph of layers.")
    # What a layer holds is in memory, so its own functions and classes need no registration to be found again.
    functions = _functions(operation)
    try:
        with warnings.catch_warnings(), keras.saving.custom_object_scope(functions), SafeModeScope(False):
            warnings.simplefilter("ignore")  # of lambdas, that they are not safe to load
            config = operation.get_config()
            for key in config.keys() & {"activation", "recurrent_activation"}:
                if isinstance(getattr(operation, key, None), types.FunctionType):
                    # Where the layer itself keeps it, it is set below. Recurrent layers show that of their cell.
                    config[key] = None if key in vars(operation) else getattr(operation, key)
            new = type(operation).from_config(config)
            _same_functions(operation, new)
            return new
    except Exception as error:
        if not isinstance(operation, keras.Layer):
            return _op_again(operation)
        raise _refusal(operation, f"cannot be made from its config: {_in_short(error)}") from error


def _same_functions(operation: Any, new: Any) -> None:
    """Gives a copy the functions themselves that were arguments: a config need not bring all of them back."""
    if not isinstance(operation, keras.Layer):
        return
    for old, copied in zip(operation._flatten_layers(), new._flatten_layers()):
        functions = {key: value for key, value in vars(old).items() if isinstance(value, types.FunctionType)}
        for key, value in functions.items() if type(old) is type(copied) else ():
            if getattr(copied, key, None) is not value and key in old.get_config():
                setattr(copied, key, value)


def _op_again(operation: Any) -> Any:
    """One of Keras' ops that has no config, such as one with an array among its arguments: it has no state to share."""
    new = copy.copy(operation)
    new._inbound_nodes, new._outbound_nodes = [], []
    return new


def function_again(function: Any) -> tuple[Any, Callable[[], None]]:
    """An activation for a new layer, and what is to be done once that is built.

    A layer used as an activation has weights of its own (PReLU), which the new one must not share.
    """
    if not isinstance(function, keras.Layer):
        return function, lambda: None
    new = _again(function)
    return new, lambda: copy_state(function, new)


def _lambda_again(layer: Any) -> Any:
    """A Lambda layer around the same function, which need not survive serialization."""
    return keras.layers.Lambda(
        layer.function,
        output_shape=layer._output_shape,
        mask=layer.mask,
        arguments=layer.arguments,
        name=layer.name,
        dtype=layer.dtype_policy,
        trainable=layer.trainable,
    )


def _functions(operation: Any) -> dict[str, Any]:
    """Functions and classes that a config may name: those that the layer, and layers inside it, hold."""
    found = {}
    layers = operation._flatten_layers() if isinstance(operation, keras.Layer) else [operation]
    for layer in layers:
        found[type(layer).__name__] = type(layer)
        for value in vars(layer).values():
            if isinstance(value, types.FunctionType):
                found[value.__name__] = value
            elif type(value).__module__.split(".")[0] not in ("keras", "builtins", "tensorflow"):
                found[type(value).__name__] = type(value)
    return found


def copy_state(old: Any, new: Any) -> None:
    """Copies weights, states of random generators, vocabularies and `trainable` from a layer to its copy."""
    for built, layer in zip(old._flatten_layers(), new._flatten_layers()):
        if built.built and not layer.built:  # a layer used as an activation is built by the first call on numbers
            layer.build_from_config(built.get_build_config())
    sources, targets = list(old.variables), list(new.variables)
    if [tuple(v.shape) for v in sources] != [tuple(v.shape) for v in targets]:
        raise _refusal(
            old,
            f"has {len(sources)} variables, and made anew from its config {len(targets)}, or of other shapes.",
        )
    for source, target in zip(sources, targets):
        target.assign(owned(source.value))
        target.trainable = source.trainable
    for copied, layer in zip(old._flatten_layers(), new._flatten_layers()):
        layer._trainable = copied._trainable
    if hasattr(old, "save_assets") and hasattr(new, "load_assets"):
        with tempfile.TemporaryDirectory() as folder:
            old.save_assets(folder)
            new.load_assets(folder)
    if isinstance(new, keras.layers.Normalization) and new.built:
        new.finalize_state()  # what it computes with is not what it stores


def assign(variable: Any, value: np.ndarray) -> None:
    """Sets a variable to a float64 array, rounded once to its dtype."""
    value = np.asarray(value, np.float64).astype(_numpy_dtype(variable.dtype)).reshape(variable.shape)
    variable.assign(owned(value))


def owned(value: Any) -> tf.Tensor:
    """A copy in TensorFlow's own memory.

    A variable takes over what it is assigned, NumPy's memory too where that is aligned. Others may write into that, so
    the op would have to hash such filters in each call to know them again.
    """
    return tf.raw_ops.DeepCopy(x=tf.convert_to_tensor(value))


def _numpy_dtype(name: str) -> Any:
    if name == "bfloat16":
        import ml_dtypes

        return ml_dtypes.bfloat16
    return np.dtype(name)
