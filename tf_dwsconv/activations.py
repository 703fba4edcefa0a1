"""Activations that the fused kernels know, and how to recognise them in what a user passes.

A user may name an activation by word, by a pair of a word and its parameter, by a Keras or TensorFlow function (also
inside `functools.partial`) or by a Keras layer. `parse` turns each into a `Fused`, or says that it is not one of ours.

>>> from tf_dwsconv import activations
>>> activations.parse("relu6").word
'relu6'
>>> activations.parse(("leaky_relu", 0.1)).alpha
0.1
>>> activations.parse(("relu", {"max_value": 4})).max_value
4.0
"""

from __future__ import annotations

import functools
import math
import sys
from typing import Any, NamedTuple

# Dotted imports in the modules that all others need: they do not wait for the package, whose import may wait for these.
from tf_dwsconv._tf_keras import function_message, is_of

WORDS = (
    "none", "relu", "relu6", "hard_swish", "silu", "gelu", "leaky_relu", "sigmoid", "tanh", "elu", "mish", "gelu_tanh",
)  # fmt: skip
DEFAULT_ALPHA = 0.2  # of keras.activations.leaky_relu and tf.nn.leaky_relu alike

# Other words that Keras uses for the same functions.
_ALIASES = {"linear": "none", "swish": "silu", "hard_silu": "hard_swish"}


class Fused(NamedTuple):
    """An activation that the kernels apply, with all its parameters but the slopes of "prelu", which are weights.

    Attributes:
        word: one of `WORDS`, or "prelu", which only a block applies.
        alpha: slope below zero of leaky_relu; factor below zero of elu.
        max_value, threshold: of relu and leaky_relu, which return `min(x, max_value)` above the threshold, and below it
            `slope * (x - threshold)`.
    """

    word: str
    alpha: float = DEFAULT_ALPHA
    max_value: float = math.inf
    threshold: float = 0.0

    @property
    def from_input(self) -> bool:
        """Whether the derivative takes what went in; that of the others is known by what came out."""
        if self.word in ("leaky_relu", "elu") and self.alpha < 0:
            return True
        is_bounded = self.word == "leaky_relu" and self.alpha != 0 and self.max_value != math.inf
        has_threshold = self.word in ("relu", "leaky_relu") and self.threshold != 0
        return is_bounded or has_threshold or self.word in ("hard_swish", "silu", "gelu", "gelu_tanh", "mish")


NONE = Fused("none")
PRELU = Fused("prelu")
_BY_WORD = {word: Fused(word) for word in WORDS}
_BY_WORD["elu"] = Fused("elu", 1.0)
_BY_WORD.update({alias: _BY_WORD[word] for alias, word in _ALIASES.items()})


def spelled(fused: Fused) -> Any:
    """An activation as a user would write it, and JSON can hold it."""
    if fused == _BY_WORD.get(fused.word) or fused.word == "prelu":
        return fused.word
    if fused.word in ("relu", "leaky_relu") and (fused.max_value != math.inf or fused.threshold != 0):
        values = {
            "negative_slope": fused.alpha if fused.word == "leaky_relu" else 0.0,
            "max_value": None if fused.max_value == math.inf else fused.max_value,
            "threshold": fused.threshold,
        }
        return ["relu", values]
    return [fused.word, fused.alpha] if fused.word in ("leaky_relu", "elu") else fused.word


def as_callable(fused: Fused) -> Any:
    """An activation as a Keras layer keeps it: None, a function of Keras, or an object with a config."""
    if fused == Fused("leaky_relu", fused.alpha):
        return LeakyRelu(fused.alpha)
    if fused == _BY_WORD.get(fused.word) and fused.word != "gelu_tanh":
        import keras

        return keras.activations.get({"none": None, "hard_swish": "hard_silu"}.get(fused.word, fused.word))
    return Known(spelled(fused))


def activate(x: Any, activation: Fused, slopes: Any = None) -> Any:
    """Applies an activation by stock TensorFlow ops; `slopes` are prelu's, one for each channel of NHWC."""
    import tensorflow as tf

    word, alpha = activation.word, activation.alpha
    if word == "none":
        return x
    if word == "prelu":
        return tf.where(x < 0, x * slopes, x)
    if word == "elu":
        return tf.where(x > 0, x, tf.constant(alpha, x.dtype) * tf.math.expm1(tf.where(x > 0, tf.zeros_like(x), x)))
    if word in ("relu", "leaky_relu") and (activation.max_value != math.inf or activation.threshold != 0):
        max_value, threshold = (tf.constant(n, x.dtype) for n in (activation.max_value, activation.threshold))
        slope = alpha if word == "leaky_relu" else 0.0
        # Zero without a slope, but a NaN stays one.
        below = (x - threshold) * tf.constant(slope, x.dtype) if slope else tf.nn.relu(tf.minimum(x, 0.0))
        return tf.where(x > threshold, tf.where(x > max_value, max_value, x), below)
    if word == "leaky_relu":  # TensorFlow's op keeps the slope in float32
        return tf.where(x > 0, x, x * alpha) if x.dtype == tf.float64 else tf.nn.leaky_relu(x, alpha=alpha)
    return _FUNCTIONS[word](tf, x)


_FUNCTIONS = {
    "relu": lambda tf, x: tf.nn.relu(x),
    "relu6": lambda tf, x: tf.nn.relu6(x),
    "hard_swish": lambda tf, x: x * tf.nn.relu6(x + 3.0) / 6.0,
    # Not tf.nn.silu: its custom gradient holds no second derivative in graphs of TensorFlow 1.
    "silu": lambda tf, x: x * tf.sigmoid(x),
    # Not tf.nn.gelu, which takes the root of two from float32 also in float64.
    "gelu": lambda tf, x: 0.5 * x * (1.0 + tf.math.erf(x * tf.constant(math.sqrt(0.5), x.dtype))),
    "sigmoid": lambda tf, x: tf.sigmoid(x),
    "tanh": lambda tf, x: tf.tanh(x),
    "mish": lambda tf, x: x * tf.tanh(tf.math.softplus(x)),
    # 0.5 * x * (1 + tanh(u)) without cancellation.
    "gelu_tanh": lambda tf, x: x * tf.sigmoid(2.0 * math.sqrt(2.0 / math.pi) * (x + 0.044715 * x * x * x)),
}


def parse(activation: Any, argument: str = "activation") -> Fused | None:
    """Recognises an activation.

    Args:
        activation: None, a word (`tf_dwsconv.activations.WORDS` or Keras' "linear", "swish", "hard_silu"), a pair
            `("leaky_relu", slope)`, `("elu", alpha)` or `("relu", {...})` with any of `negative_slope`, `max_value` and
            `threshold` of `keras.layers.ReLU`, a function of `keras.activations` or `tf.nn`, a `functools.partial` of
            one, or a layer `keras.layers.Activation`, `ReLU`, `LeakyReLU` or `ELU`.
        argument: the argument's name, for messages.

    Returns:
        What the kernels apply, or None where `activation` is a word or a callable that they do not know.

    Raises:
        TypeError: `activation` is none of the kinds above.
        ValueError: a pair of another word, or whose parameter is out of range.
    """
    if activation is None:
        return NONE
    if isinstance(activation, str):
        return _BY_WORD.get(activation)
    if isinstance(activation, Fused):
        return activation
    if isinstance(activation, (tuple, list)):
        return _parse_pair(activation, argument)
    if isinstance(activation, functools.partial):
        return _parse_partial(activation)
    if isinstance(activation, (LeakyRelu, Known)):
        return activation.fused
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
    if fused is None and is_of(activation):
        raise ValueError(function_message(f"`{argument}` must be {_KINDS}; given {activation!r}"))
    if fused is None:
        raise ValueError(f"`{argument}` must be {_KINDS}; given {activation!r}.")
    return fused


_KINDS = (
    f"None, one of the words {', '.join(WORDS)}, a pair ('leaky_relu', slope), ('elu', alpha) or ('relu', "
    "{'negative_slope': ..., 'max_value': ..., 'threshold': ...}), or a Keras or TensorFlow function or layer that "
    "computes one of them"
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

    @property
    def fused(self) -> Fused:
        return Fused("leaky_relu", self.slope)

    def __call__(self, x: Any) -> Any:
        import tensorflow as tf

        return tf.nn.leaky_relu(x, alpha=self.slope)

    def get_config(self) -> dict:
        return {"slope": self.slope}

    @classmethod
    def from_config(cls, config: dict) -> LeakyRelu:
        return cls(**config)


class Known:
    """An activation of the kernels that Keras has no name for: what a layer keeps for a pair, or for "gelu_tanh".

    Args:
        activation: a word or a pair, as `parse` takes them.

    Raises:
        ValueError: another activation.
    """

    def __init__(self, activation: Any):
        self.fused = require(tuple(activation) if isinstance(activation, list) else activation, "activation")

    def __call__(self, x: Any) -> Any:
        import tensorflow as tf

        return activate(tf.convert_to_tensor(x), self.fused)

    def get_config(self) -> dict:
        return {"activation": spelled(self.fused)}

    @classmethod
    def from_config(cls, config: dict) -> Known:
        return cls(**config)


def _finite(value: Any, argument: str) -> float:
    if isinstance(value, (bool, str)) or not hasattr(value, "__float__"):
        raise ValueError(f"`{argument}` must be a finite number; given {value!r}.")
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"`{argument}` must be a finite number; given {value!r}.")
    return number


def _parse_pair(pair: Any, argument: str) -> Fused:
    if len(pair) == 2 and pair[0] in ("leaky_relu", "elu"):
        return Fused(pair[0], _finite(pair[1], f"{argument}[1]"))
    options = ("negative_slope", "max_value", "threshold")
    if len(pair) == 2 and pair[0] == "relu" and isinstance(pair[1], dict) and set(pair[1]) <= set(options):
        fused = _relu(**pair[1])
        if fused is not None:
            return fused
    raise ValueError(
        f"`{argument}` given as a pair must be ('leaky_relu', slope), ('elu', alpha) or ('relu', options) with a "
        f"finite `negative_slope`, and `max_value` and `threshold` of at least 0; given {pair!r}."
    )


def _parse_layer(layer: Any, keras: Any, argument: str) -> Fused | None:
    # Exact types: a subclass may compute anything.
    if type(layer) is keras.layers.Activation:
        return parse(layer.activation, argument)
    if type(layer) is keras.layers.LeakyReLU:
        return Fused("leaky_relu", _finite(layer.negative_slope, argument))
    if type(layer) is keras.layers.ELU:
        return Fused("elu", _finite(layer.alpha, argument))
    if type(layer) is keras.layers.ReLU:
        return _relu(layer.negative_slope, layer.max_value, layer.threshold)
    return None


def _relu(negative_slope: Any = 0.0, max_value: Any = None, threshold: Any = 0.0) -> Fused | None:
    """What Keras' parametrised relu amounts to; None where its parameters are out of range."""
    try:
        slope, threshold = _finite(negative_slope, "negative_slope"), _finite(threshold, "threshold")
        max_value = math.inf if max_value is None else _finite(max_value, "max_value")
    except ValueError:
        return None
    if max_value < 0 or threshold < 0:
        return None
    if threshold == 0 and slope == 0 and max_value == 6:
        return _BY_WORD["relu6"]
    if slope == 0:
        return Fused("relu", DEFAULT_ALPHA, max_value, threshold)
    return Fused("leaky_relu", slope, max_value, threshold)


def _parse_partial(partial: functools.partial) -> Fused | None:
    word = _known_functions().get(_key(partial.func))
    options = dict(partial.keywords)
    if word is None or partial.args:
        return None
    options.pop("name", None)
    if word == "elu" and set(options) <= {"alpha"}:
        return Fused(word, _finite(options.get("alpha", 1.0), "alpha"))
    if word == "leaky_relu" and len(options) <= 1 and set(options) <= {"alpha", "negative_slope"}:
        return Fused(word, _finite(next(iter(options.values()), DEFAULT_ALPHA), "slope"))
    if word == "relu" and set(options) <= {"negative_slope", "max_value", "threshold"}:
        return _relu(**options)
    if word in ("gelu", "gelu_tanh") and set(options) <= {"approximate"}:
        is_approximate = options.get("approximate", word == "gelu_tanh")
        return _BY_WORD["gelu_tanh" if is_approximate else "gelu"] if isinstance(is_approximate, bool) else None
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

        for word in ("relu", "relu6", "silu", "gelu", "leaky_relu", "sigmoid", "tanh", "elu"):
            known[getattr(tf.nn, word)] = word
        known[tf.nn.swish] = "silu"
        known[tf.identity] = "none"
        known.update({tf.sigmoid: "sigmoid", tf.tanh: "tanh"})
    if with_keras:
        import keras

        # keras.ops has the same functions under the same names.
        words = "relu relu6 silu leaky_relu sigmoid tanh hard_silu swish hard_swish elu mish"
        for module in (keras.activations, keras.ops):
            for word in words.split():
                function = getattr(module, word, None)
                if function is not None:
                    known[function] = _ALIASES.get(word, word)
        known[keras.activations.gelu] = "gelu"  # exact by default
        known[keras.ops.gelu] = "gelu_tanh"  # the approximation by default
        known[keras.activations.linear] = "none"
    return known
