"""Activations that the fused kernels know, and how to recognise them in what a user passes.

A user may name an activation by word, by a pair `("leaky_relu", slope)`, by a Keras or TensorFlow function (also inside
`functools.partial`) or by a Keras layer. `parse` turns each into a `Fused`, or says that it is not one of ours.

>>> from tf_dwsconv import activations
>>> activations.parse("relu6")
Fused(word='relu6', alpha=0.2)
>>> activations.parse(("leaky_relu", 0.1))
Fused(word='leaky_relu', alpha=0.1)
>>> activations.parse(None)
Fused(word='none', alpha=0.2)
"""

from __future__ import annotations

import functools
import math
import sys
from typing import Any, NamedTuple

from tf_dwsconv import _tf_keras

WORDS = ("none", "relu", "relu6", "hard_swish", "silu", "gelu", "leaky_relu", "sigmoid", "tanh")
DEFAULT_ALPHA = 0.2  # of keras.activations.leaky_relu and tf.nn.leaky_relu alike

# Other words that Keras uses for the same functions.
_ALIASES = {"linear": "none", "swish": "silu", "hard_silu": "hard_swish"}


class Fused(NamedTuple):
    """An activation that the kernels apply: its word, and the slope below zero (read by leaky_relu alone)."""

    word: str
    alpha: float = DEFAULT_ALPHA


NONE = Fused("none")
_BY_WORD = {word: Fused(word) for word in WORDS}
_BY_WORD.update({alias: Fused(word) for alias, word in _ALIASES.items()})


def parse(activation: Any, argument: str = "activation") -> Fused | None:
    """Recognises an activation.

    Args:
        activation: None, a word (`tf_dwsconv.activations.WORDS` or Keras' "linear", "swish", "hard_silu"), a pair
            `("leaky_relu", slope)`, a function of `keras.activations` or `tf.nn`, a `functools.partial` of one, or a
            layer `keras.layers.Activation`, `ReLU` or `LeakyReLU`.
        argument: the argument's name, for messages.

    Returns:
        What the kernels apply, or None where `activation` is a word or a callable that they do not know.

    Raises:
        TypeError: `activation` is none of the kinds above.
        ValueError: a pair that does not hold "leaky_relu" and a finite slope.
    """
    if activation is None:
        return NONE
    if isinstance(activation, str):
        return _BY_WORD.get(activation)
    if isinstance(activation, (tuple, list)):
        return _parse_pair(activation, argument)
    if isinstance(activation, functools.partial):
        return _parse_partial(activation)
    if isinstance(activation, LeakyRelu):
        return Fused("leaky_relu", activation.slope)
    if not callable(activation):
        raise TypeError(f"`{argument}` must be {_KINDS}; given {activation!r} of type {type(activation).__name__}.")
    keras = sys.modules.get("keras")
    if keras is not None and isinstance(activation, getattr(keras, "Layer", ())):
        return _parse_layer(activation, keras, argument)
    word = _known_functions().get(_key(activation))
    return None if word is None else _BY_WORD[word]


def require(activation: Any, argument: str) -> Fused:
    """As `parse`, but raises ValueError, which lists what is allowed, for an activation the kernels do not know."""
    if activation is None:
        return NONE
    fused = parse(activation, argument)
    if fused is None and _tf_keras.is_of(activation):
        raise ValueError(_tf_keras.function_message(f"`{argument}` must be {_KINDS}; given {activation!r}"))
    if fused is None:
        raise ValueError(f"`{argument}` must be {_KINDS}; given {activation!r}.")
    return fused


_KINDS = (
    f"None, one of the words {', '.join(WORDS)}, a pair ('leaky_relu', slope), or a Keras or TensorFlow function or "
    "layer that computes one of them"
)


class LeakyRelu:
    """`x` above zero, `slope * x` below: what a layer keeps for the pair `("leaky_relu", slope)`.

    Args:
        slope: a finite number.

    Raises:
        ValueError: `slope` is not a finite number.
    """

    def __init__(self, slope: float = DEFAULT_ALPHA):
        self.slope = _finite(slope, "slope")

    def __call__(self, x):
        import tensorflow as tf

        return tf.nn.leaky_relu(x, alpha=self.slope)

    def get_config(self) -> dict:
        return {"slope": self.slope}

    @classmethod
    def from_config(cls, config: dict) -> LeakyRelu:
        return cls(**config)


def _finite(value: Any, argument: str) -> float:
    if isinstance(value, (bool, str)) or not hasattr(value, "__float__"):
        raise ValueError(f"`{argument}` must be a finite number; given {value!r}.")
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"`{argument}` must be a finite number; given {value!r}.")
    return number


def _parse_pair(pair: Any, argument: str) -> Fused:
    if len(pair) != 2 or pair[0] != "leaky_relu":
        raise ValueError(f"`{argument}` given as a pair must be ('leaky_relu', slope); given {pair!r}.")
    return Fused("leaky_relu", _finite(pair[1], f"{argument}[1]"))


def _parse_layer(layer: Any, keras: Any, argument: str) -> Fused | None:
    # Exact types: a subclass may compute anything.
    if type(layer) is keras.layers.Activation:
        return parse(layer.activation, argument)
    if type(layer) is keras.layers.LeakyReLU:
        return Fused("leaky_relu", _finite(layer.negative_slope, argument))
    if type(layer) is keras.layers.ReLU:
        return _relu(layer.negative_slope, layer.max_value, layer.threshold)
    return None


def _relu(negative_slope: Any = 0.0, max_value: Any = None, threshold: Any = 0.0) -> Fused | None:
    """What Keras' parametrised relu amounts to."""
    if threshold != 0:
        return None
    if max_value is None:
        return _BY_WORD["relu"] if negative_slope == 0 else Fused("leaky_relu", _finite(negative_slope, "slope"))
    return _BY_WORD["relu6"] if max_value == 6 and negative_slope == 0 else None


def _parse_partial(partial: functools.partial) -> Fused | None:
    word = _known_functions().get(_key(partial.func))
    options = dict(partial.keywords)
    if word is None or partial.args:
        return None
    options.pop("name", None)
    if word == "leaky_relu" and len(options) <= 1 and set(options) <= {"alpha", "negative_slope"}:
        return Fused(word, _finite(next(iter(options.values()), DEFAULT_ALPHA), "slope"))
    if word == "relu" and set(options) <= {"negative_slope", "max_value", "threshold"}:
        return _relu(**options)
    if word == "gelu" and options == {"approximate": False}:
        return _BY_WORD[word]
    return None if options else _BY_WORD[word]


def _key(function: Any) -> Any:
    try:
        hash(function)
    except TypeError:
        return None
    return function


def _known_functions() -> dict:
    """Functions of the modules imported so far: a function in a user's hands comes from one that is."""
    return _collect("tensorflow" in sys.modules, "keras" in sys.modules)


@functools.cache
def _collect(with_tensorflow: bool, with_keras: bool) -> dict:
    known: dict = {}
    if with_tensorflow:
        import tensorflow as tf

        for word in ("relu", "relu6", "silu", "gelu", "leaky_relu", "sigmoid", "tanh"):
            known[getattr(tf.nn, word)] = word
        known[tf.nn.swish] = "silu"
        known[tf.identity] = "none"
        known.update({tf.sigmoid: "sigmoid", tf.tanh: "tanh"})
    if with_keras:
        import keras

        # keras.ops has the same functions under the same names.
        for module in (keras.activations, keras.ops):
            for word in ("relu", "relu6", "silu", "leaky_relu", "sigmoid", "tanh", "hard_silu", "swish", "hard_swish"):
                function = getattr(module, word, None)
                if function is not None:
                    known[function] = _ALIASES.get(word, word)
        known[keras.activations.gelu] = "gelu"  # exact by default; keras.ops.gelu is the approximation by default
        known[keras.activations.linear] = "none"
    return known
