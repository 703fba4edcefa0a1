"""Errors for models and functions of tf_keras, which is Keras 2 and does not go together with our layers.

With TF_USE_LEGACY_KERAS=1 `tf.keras` is tf_keras, so users may get there without naming it.
"""

from __future__ import annotations

import sys
from typing import Any


def is_of(value: Any) -> bool:
    """Whether a model, layer, tensor or function comes from tf_keras, or its class is derived from one that does."""
    classes = value.__mro__ if isinstance(value, type) else type(value).__mro__
    names = [getattr(value, "__module__", None), *(kind.__module__ for kind in classes)]
    return any(isinstance(name, str) and name.split(".")[0] == "tf_keras" for name in names)


def message(what: str) -> str:
    """What to tell a user; `what` says what is wrong, and where."""
    return f"{what}. {_WHY} {_REBUILD}"


def function_message(what: str) -> str:
    """As `message`, where it is about a function or a layer that was given for an activation."""
    return f"{what}. {_WHY} Give the word, or the function of Keras 3."


_WHY = "tf_dwsconv works with Keras 3, not with tf_keras, which is what `tf.keras` means under TF_USE_LEGACY_KERAS=1."
_REBUILD = (
    "Unset that, or build the model with `import keras`; `set_weights` takes the weights over from the old model's "
    "`get_weights()`."
)


def refuse_inputs(inputs: Any) -> None:
    """Raises TypeError where a layer of ours is called with a symbolic tensor of tf_keras."""
    if "tf_keras" in sys.modules and any(map(is_of, inputs if isinstance(inputs, (list, tuple)) else [inputs])):
        raise TypeError(message("`inputs` must not be a tensor of tf_keras"))


class NotInside:
    """A layer that says why a model of tf_keras cannot hold it."""

    @property
    def _keras_history(self) -> Any:
        # Sequential.add asks whether a layer has it, and says of ours no more than that it is no layer.
        if sys._getframe(1).f_globals.get("__name__", "").split(".")[0] == "tf_keras":
            raise TypeError(message(f"a model of tf_keras cannot hold {self.name!r}, a {type(self).__name__}"))
        raise AttributeError("_keras_history")

    def _refuse_caller(self) -> None:
        """Raises TypeError where a layer or a model of tf_keras is being called, and so calls this one."""
        utils = sys.modules.get("tf_keras.src.engine.base_layer_utils")
        if utils is not None and utils.call_context().in_call:
            raise TypeError(message(f"a model of tf_keras cannot hold {self.name!r}, a {type(self).__name__}"))
