"""Copies of layers: made from their configs, with their state, and sharing nothing with the old ones."""

from __future__ import annotations

import contextlib
import copy
import re
import tempfile
import types
import warnings
from collections.abc import Iterator
from typing import Any, Callable

import keras
import numpy as np
import tensorflow as tf
from keras.src.saving.serialization_lib import SafeModeScope  # for functions that are in memory already

from tf_dwsconv._arguments import numpy_dtype
from tf_dwsconv.convert._inside import is_ours


def in_short(error: Exception) -> str:
    """An error's first words: Keras adds whole configs and examples, and what it wrapped comes last."""
    words = " ".join(re.sub(r"\x1b\[\d+m", "", str(error)).split())
    words = words.rpartition("Error encountered: ")[2]
    return words if len(words) <= 300 else words[:300] + " ..."


def refusal(operation: Any, reason: str) -> ValueError:
    return ValueError(
        f"`model` holds {operation.name!r} of class {type(operation).__name__}, which {reason} "
        "Give the class a `get_config` (and a `from_config`, if need be) from which the layer can be made again, or "
        "convert the parts of the model in front of it and behind it."
    )


def again(operation: Any) -> Any:
    """The same layer or op once more, without state, from its config."""
    if type(operation) is keras.layers.Lambda:
        return _lambda_again(operation)
    if type(operation) is keras.layers.Identity:  # its config cannot be had where its dtype was given as a policy
        dtype = operation.dtype_policy.name
        return keras.layers.Identity(name=operation.name, dtype=dtype, trainable=operation.trainable)
    if isinstance(operation, keras.Model) and type(operation).call is keras.Model.call:
        raise refusal(operation, "has no `call` of its own and is no graph of layers.")
    try:
        with known(operation):
            config = operation.get_config()
            for key in config.keys() & {"activation", "recurrent_activation"}:
                if isinstance(getattr(operation, key, None), types.FunctionType):
                    # Where the layer itself keeps it, it is set below; ours make of it what they compute, when they are
                    # made. Recurrent layers show that of their cell.
                    is_set_below = key in vars(operation) and not is_ours(operation)
                    config[key] = None if is_set_below else getattr(operation, key)
            new = type(operation).from_config(config)
            _same_functions(operation, new)
            return new
    except Exception as error:
        if not isinstance(operation, keras.Layer):
            return _op_again(operation)
        raise refusal(operation, f"cannot be made from its config: {in_short(error)}") from error


def _same_functions(operation: Any, new: Any) -> None:
    """Gives a copy the functions themselves that were arguments: a config need not bring all of them back."""
    if not isinstance(operation, keras.Layer):
        return
    for old, copied in zip(operation._flatten_layers(), new._flatten_layers()):
        functions = {key: value for key, value in vars(old).items() if isinstance(value, types.FunctionType)}
        for key, value in functions.items() if type(old) is type(copied) else ():
            if getattr(copied, key, None) is not value and _is_in_config(old, key):
                setattr(copied, key, value)


def _is_in_config(layer: Any, key: str) -> bool:
    try:
        return key in layer.get_config()
    except NotImplementedError:  # one that a layer around it makes
        return False


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
    new = again(function)
    return new, lambda: copy_state(function, new)


def _lambda_again(layer: Any) -> Any:
    """A Lambda layer around the same function, which need not survive serialization."""
    options = {"name": layer.name, "dtype": layer.dtype_policy, "trainable": layer.trainable}
    return keras.layers.Lambda(layer.function, layer._output_shape, layer.mask, layer.arguments, **options)


@contextlib.contextmanager
def known(operation: Any) -> Iterator[None]:
    """Lets a layer be made from its config: its own functions and classes are in memory and need no registration."""
    with warnings.catch_warnings(), keras.saving.custom_object_scope(_functions(operation)), SafeModeScope(False):
        warnings.simplefilter("ignore")  # of lambdas, that they are not safe to load
        yield


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
    copy_variables(old, list(old.variables), list(new.variables))
    for copied, layer in zip(old._flatten_layers(), new._flatten_layers()):
        layer._trainable = copied._trainable
    if hasattr(old, "save_assets") and hasattr(new, "load_assets"):
        with tempfile.TemporaryDirectory() as folder:
            old.save_assets(folder)
            new.load_assets(folder)
    if isinstance(new, keras.layers.Normalization) and new.built:
        new.finalize_state()  # what it computes with is not what it stores


def copy_variables(old: Any, sources: list, targets: list) -> None:
    """Copies values of variables, and whether they are trained, to those of the copy of a layer."""
    if [tuple(v.shape) for v in sources] != [tuple(v.shape) for v in targets]:
        raise refusal(
            old, f"has {len(sources)} variables, and made again from its config {len(targets)}, or of other shapes."
        )
    for source, target in zip(sources, targets):
        target.assign(owned(source.value))
        target.trainable = source.trainable


def assign(variable: Any, value: np.ndarray) -> None:
    """Sets a variable to a float64 array, rounded once to its dtype."""
    value = np.asarray(value, np.float64).astype(numpy_dtype(variable.dtype)).reshape(variable.shape)
    variable.assign(owned(value))


def assign_values(kernel: Any, old_kernel: Any, bias: Any, old_bias: Any) -> None:
    """Sets the variables of a convolution to the values of others; the bias of one that has none is None."""
    kernel.assign(keras.ops.reshape(old_kernel.value, kernel.shape))
    if old_bias is not None:
        bias.assign(old_bias.value)


def owned(value: Any) -> tf.Tensor:
    """A copy in TensorFlow's own memory.

    A variable takes over what it is assigned, NumPy's memory too where that is aligned. Others may write into that, so
    the op would have to hash such filters in each call to know them again.
    """
    return tf.raw_ops.DeepCopy(x=tf.convert_to_tensor(value))
