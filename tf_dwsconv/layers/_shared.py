"""What both layers do with a backend, a weight and an activation."""

from __future__ import annotations

from typing import Any

import keras

from tf_dwsconv import activations
from tf_dwsconv.activations import NONE, PRELU, Fused

if keras.config.backend() == "tensorflow":
    from tf_dwsconv._tf import casts

for _class in (activations.LeakyRelu, activations.Known):
    keras.saving.register_keras_serializable(package="tf_dwsconv")(_class)


def check_backend(name: str, instead: str) -> None:
    """Raises ValueError where Keras' backend is not TensorFlow."""
    backend = keras.config.backend()
    if backend != "tensorflow":
        raise ValueError(
            f"tf_dwsconv.{name} runs on Keras' TensorFlow backend; the backend is {backend!r}. Set the environment "
            'variable KERAS_BACKEND=tensorflow (or "backend" in keras.json) before Keras is imported, or use '
            f"{instead}."
        )


def value(variable: Any, dtype: Any) -> Any:
    """A weight in the compute dtype: the variable itself where it has that, which the op reads faster than Python."""
    if variable is None:
        return None
    found = variable.value
    if found.dtype is not dtype and found.dtype != dtype:  # the second takes as long as the rest
        raise TypeError(
            f"`inputs` must be of the dtype of the layer's weights, {found.dtype.name} (see `{variable.path}`); given "
            f"{dtype.name}."
        )
    return casts.once(found)


def keras_activation(activation: Any, argument: str) -> Any:
    """What Keras keeps for an activation, from what we take beyond Keras."""
    if isinstance(activation, str):
        known = {"gelu_tanh": activations.Known, "none": lambda word: None}.get(activation, lambda word: word)
        activation = known(activation)
    elif isinstance(activation, (tuple, list)):
        activation = activations.as_callable(activations.parse(activation, argument))
    elif activation is not None and not callable(activation) and not isinstance(activation, dict):
        activations.parse(activation, argument)  # raises
    return keras.activations.get(activation)


def last_activation(activation: Any) -> tuple[Fused, Any]:
    """What of a layer's last activation the op applies, and the function that is applied behind the op, or None."""
    fused = PRELU if activation == "prelu" else activations.parse(activation)
    # Keras' sigmoid leaves its argument on its result, where a crossentropy loss looks for it to stay accurate.
    if fused is None or fused.word == "sigmoid":
        return NONE, activation
    return fused, None
