"""Steps of programs: which ops there are, what each reads, and the options it has, as docs/program.md has them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Callable, Optional, Union

from tf_dwsconv import _arguments
from tf_dwsconv._arguments import Attributes
from tf_dwsconv.activations import NONE, PRELU, WORDS, Fused


@dataclasses.dataclass(frozen=True)
class Step:
    """One step.

    reads: numbers of tensors by the names of docs/program.md; of `xs` a tuple. weights: places among the program's
    weights. options: all that the op has, with their defaults: pairs as tuples, activations as `Fused`.
    """

    op: str
    name: str
    reads: dict[str, Union[int, tuple[int, ...]]]
    weights: dict[str, int]
    options: dict[str, Any]
    output: int

    @property
    def sources(self) -> tuple[int, ...]:
        """The tensors that it reads."""
        return tuple(t for read in self.reads.values() for t in (read if isinstance(read, tuple) else (read,)))

    def reading(self, others: Mapping[int, int]) -> Step:
        """The step with other tensors in the place of some that it reads."""

        def other(read: Any) -> Any:
            return tuple(others.get(t, t) for t in read) if isinstance(read, tuple) else others.get(read, read)

        return dataclasses.replace(self, reads={name: other(read) for name, read in self.reads.items()})

    def with_options(self, **options: Any) -> Step:
        return dataclasses.replace(self, options={**self.options, **options})

    @property
    def attributes(self) -> Attributes:
        """Of a chain, as a call has them; of a pooling, its strides and its padding."""
        o, padding = self.options, self.options["padding"]
        is_word = isinstance(padding, str)
        explicit = () if is_word else (0, 0, *padding[0], *padding[1], 0, 0)
        placed = Attributes(
            o["strides"], o.get("dilations", (1, 1)), padding.upper() if is_word else "EXPLICIT", explicit
        )
        if self.op != "chain":
            return placed
        return placed._replace(
            depthwise_activation=o["depthwise_activation"],
            activation=o["activation"],
            expand_activation=o["expand_activation"],
            epsilon=o["epsilon"] if o["normalize"] else None,
        )


# How an option is read: what it is, in words, and what makes it of JSON or of Python; that returns None for others.
_Reader = tuple[str, Callable[[Any], Any]]


def _integers(value: Any, count: int, low: int) -> Optional[tuple[int, ...]]:
    if not isinstance(value, (list, tuple)) or len(value) != count:
        return None
    numbers = tuple(_arguments.as_integer(number) for number in value)
    return numbers if all(n is not None and low <= n <= _arguments.LIMIT for n in numbers) else None


def _number(value: Any) -> Optional[float]:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) else None


def _pairs(value: Any, count: Optional[int] = None) -> Optional[tuple]:
    if not isinstance(value, (list, tuple)) or (count is not None and len(value) != count):
        return None
    pairs = tuple(_integers(pair, 2, 0) for pair in value)
    return None if None in pairs else pairs


def _padding(value: Any) -> Any:
    return value if value in ("same", "valid") else _pairs(value, 2)


def _shape(value: Any) -> Optional[tuple[int, ...]]:
    sizes = _integers(value, len(value), -1) if isinstance(value, (list, tuple)) else None
    return None if sizes is None or sizes.count(-1) > 1 else sizes


def _axes(value: Any) -> Optional[tuple[int, ...]]:
    axes = _integers(value, len(value), 0) if isinstance(value, (list, tuple)) else None
    return axes if axes and axes[0] == 0 and sorted(axes) == list(range(len(axes))) else None


def _activation(value: Any) -> Optional[Fused]:
    if isinstance(value, Fused):
        return value
    if not isinstance(value, dict) or not set(value) <= {"word", "alpha", "max_value", "threshold"}:
        return None
    word = value.get("word")
    if word not in (*WORDS, PRELU.word):
        return None
    alpha, threshold = _number(value.get("alpha", Fused("none").alpha)), _number(value.get("threshold", 0.0))
    bound = value.get("max_value")
    bound = math.inf if bound is None else _number(bound)
    if alpha is None or bound is None or threshold is None or bound < 0 or threshold < 0:
        return None
    if word == "elu" and "alpha" not in value:
        alpha = 1.0
    return Fused(word, alpha, bound, threshold)


def _activation_data(fused: Fused) -> dict:
    data: dict[str, Any] = {"word": fused.word}
    if fused.word in ("leaky_relu", "elu"):
        data["alpha"] = fused.alpha
    if fused.word in ("relu", "leaky_relu"):
        data.update({} if fused.max_value == math.inf else {"max_value": fused.max_value})
        data.update({} if fused.threshold == 0 else {"threshold": fused.threshold})
    return data


_PAIR: _Reader = ("two numbers >= 1", lambda value: _integers(value, 2, 1))
_PADDING: _Reader = ("'same', 'valid' or [[top, bottom], [left, right]]", _padding)
_ACTIVATION: _Reader = ("an activation {'word': ...} with finite parameters", _activation)
_FLAG: _Reader = ("true or false", lambda value: value if isinstance(value, bool) else None)
_NUMBER: _Reader = ("a finite number", _number)
_POSITIVE: _Reader = ("a number > 0", lambda value: number if (number := _number(value)) and number > 0 else None)

_GROUPS: _Reader = (
    "a number >= 1",
    lambda value: n if (n := _arguments.as_integer(value)) is not None and 1 <= n <= _arguments.LIMIT else None,
)

_REQUIRED = object()


@dataclasses.dataclass(frozen=True)
class _Kind:
    """What an op reads and has: `options` by name, each with its reader and its default."""

    reads: tuple[str, ...] = ("x",)
    optional: tuple[str, ...] = ()
    weights: tuple[str, ...] = ()
    needed: tuple[str, ...] = ()  # of the weights
    options: dict[str, tuple[_Reader, Any]] = dataclasses.field(default_factory=dict)


_STAGES = ("expand_filter", "depthwise_filter", "pointwise_filter")
_CHAIN = _Kind(
    optional=("gate", "residual"),
    weights=(
        *_STAGES, "expand_bias", "expand_slopes", "depthwise_bias", "depthwise_slopes", "bias", "slopes",
    ),
    options={
        "strides": (_PAIR, (1, 1)),
        "dilations": (_PAIR, (1, 1)),
        "groups": (_GROUPS, 1),
        "padding": (_PADDING, "same"),
        "expand_activation": (_ACTIVATION, NONE),
        "depthwise_activation": (_ACTIVATION, NONE),
        "activation": (_ACTIVATION, NONE),
        "normalize": (_FLAG, False),
        "epsilon": (_POSITIVE, 0.001),
    },
)  # fmt: skip
_POOL = _Kind(options={"window": (_PAIR, _REQUIRED), "strides": (_PAIR, None), "padding": (_PADDING, "valid")})
_OVER_PIXELS = _Kind(options={"keepdims": (_FLAG, False)})
_OF_TWO = _Kind(optional=("y",), weights=("y",), options={"activation": (_ACTIVATION, NONE)})
_RESIZE = {
    "scale": (_PAIR, None),
    "size": (_PAIR, None),
    "method": (
        ("'nearest' or 'bilinear'", lambda value: value if value in ("nearest", "bilinear") else None),
        _REQUIRED,
    ),
}
_PAIRS: _Reader = ("a pair of numbers >= 0 for each axis", _pairs)
_PAD = {"paddings": (_PAIRS, _REQUIRED), "value": (_NUMBER, 0.0)}
_TO_SPACE = {
    "block": (_PAIR, _REQUIRED),
    "croppings": (
        ("[[top, bottom], [left, right]], each >= 0", lambda value: _pairs(value, 2)),
        ((0, 0), (0, 0)),
    ),
}
_AXIS = (
    "a number >= 1",
    lambda value: n if (n := _arguments.as_integer(value)) is not None and 1 <= n <= 255 else None,
)

OPS: dict[str, _Kind] = {
    "chain": _CHAIN,
    "dense": _Kind(
        optional=("residual",),
        weights=("filter", "bias"),
        needed=("filter",),
        options={"activation": (_ACTIVATION, NONE)},
    ),
    "max_pool": _POOL,
    "average_pool": _POOL,
    "mean": _OVER_PIXELS,
    "max": _OVER_PIXELS,
    **dict.fromkeys(("add", "subtract", "multiply", "maximum", "minimum"), _OF_TWO),
    "activation": _Kind(weights=("slopes",), options={"activation": (_ACTIVATION, _REQUIRED)}),
    "normalize": _Kind(weights=("gamma", "beta"), options={"epsilon": (_POSITIVE, 0.001)}),
    "softmax": _Kind(),
    "matmul": _Kind(reads=("x", "y"), options={"transpose_x": (_FLAG, False), "transpose_y": (_FLAG, False)}),
    "power": _Kind(options={"exponent": (_NUMBER, _REQUIRED)}),
    "concatenate": _Kind(reads=("xs",), options={"axis": (_AXIS, _REQUIRED)}),
    "pad": _Kind(options=_PAD),
    "resize": _Kind(options=_RESIZE),
    "reshape": _Kind(
        options={"shape": (("sizes, one of which may be -1", _shape), _REQUIRED), "pictures": (_PAIR, (1, 1))}
    ),
    "crop": _Kind(options={"croppings": (_PAIRS, _REQUIRED)}),
    "transpose": _Kind(options={"axes": (("the numbers of all axes, 0 first", _axes), _REQUIRED)}),
    "depth_to_space": _Kind(options=_TO_SPACE),
}


class Place:
    """Where in a program something is wrong, for messages."""

    def __init__(self, where: str = ""):
        self.where = where

    def error(self, key: str, allowed: str, given: Any) -> ValueError:
        return ValueError(f"{self.where}{key} must be {allowed}; given {given!r:.200}.")

    def fields(self, data: Any, what: str, needed: Sequence[str], optional: Sequence[str] = ()) -> dict:
        """An object that has these keys and no others."""
        allowed = f"an object with {', '.join(needed)}" + (f" (and {', '.join(optional)})" if optional else "")
        if not isinstance(data, dict) or not set(needed) <= set(data) <= {*needed, *optional}:
            raise self.error(what, allowed, data)
        return data

    def integer(self, data: Any, key: str, low: int, high: int) -> int:
        number = _arguments.as_integer(data)
        if number is None or not low <= number <= high:
            raise self.error(key, f"a number from {low} to {high}", data)
        return number

    def text(self, data: Any, key: str) -> str:
        if not isinstance(data, str):
            raise self.error(key, "text", data)
        return data

    def items(self, data: Any, key: str) -> list:
        if not isinstance(data, list):
            raise self.error(key, "a list", data)
        return data


def make_step(
    op: str,
    name: str,
    reads: dict[str, Any],
    weights: dict[str, int],
    options: dict[str, Any],
    output: int,
    place: Any = None,
) -> Step:
    """A checked step: `options` may leave out those with defaults, and hold JSON.

    Raises:
        ValueError: naming the key, what was given and what is allowed.
    """
    place = place or Place(f"step {name!r}: ")
    if not isinstance(op, str) or op not in OPS:
        raise place.error("op", f"one of {', '.join(OPS)}", op)
    kind = OPS[op]
    missing = [key for key in kind.reads if key not in reads]
    unknown = [key for key in reads if key not in (*kind.reads, *kind.optional)]
    unknown += [f"weights.{key}" for key in weights if key not in kind.weights]
    unknown += [key for key in options if key not in kind.options]
    missing += [f"weights.{key}" for key in kind.needed if key not in weights]
    missing += [key for key, (_, default) in kind.options.items() if default is _REQUIRED and key not in options]
    if unknown or missing:
        wrong = f"has no {unknown[0]!r}" if unknown else f"needs {missing[0]!r}"
        raise ValueError(f"{place.where}{op!r} {wrong}.")
    found = {}
    for key, ((allowed, read), default) in kind.options.items():
        found[key] = default
        if key in options and not (options[key] is None and default is None):
            found[key] = read(options[key])
            if found[key] is None:
                raise place.error(key, allowed, options[key])
    _check_together(op, reads, weights, found, place)
    return Step(op, name, reads, weights, found, output)


def _check_together(op: str, reads: dict, weights: dict, options: dict, place: Place) -> None:
    """Fills in what follows from other options, and refuses what contradicts them."""
    if op in ("max_pool", "average_pool") and options["strides"] is None:
        options["strides"] = options["window"]
    if op == "resize" and (options["scale"] is None) == (options["size"] is None):
        raise ValueError(f"{place.where}one of scale and size must be given.")
    if OPS[op] is _OF_TWO and ("y" in reads) == ("y" in weights):
        raise ValueError(f"{place.where}y must be given, as a tensor or as a weight.")
    if op == "chain" and not set(weights) & set(_STAGES):
        raise ValueError(f"{place.where}one of {', '.join(_STAGES)} must be given.")
    if op == "chain" and options["groups"] > 1:
        others = [*(set(weights) & {"expand_filter", "depthwise_filter"}), *(set(reads) & {"gate"})]
        if others or options["normalize"]:
            what = others[0] if others else "normalize"
            raise ValueError(f"{place.where}groups must be 1 with {what}; given {options['groups']}.")
    for key, value in options.items():
        if isinstance(value, Fused) and value.word == "prelu":
            slopes = f"{key.removesuffix('activation')}slopes"
            if slopes not in weights:
                raise ValueError(f"{place.where}{key} must not be prelu without weights.{slopes}.")
    if op == "concatenate" and not reads["xs"]:
        raise place.error("xs", "one or more tensors", reads["xs"])


def step_data(step: Step) -> dict:
    data: dict[str, Any] = {"op": step.op, "name": step.name, **step.reads, "output": step.output}
    if step.weights:
        data["weights"] = step.weights
    for key, (_, default) in OPS[step.op].options.items():
        value = step.options[key]
        if value != default and not (key == "strides" and value == step.options.get("window")):
            data[key] = _activation_data(value) if isinstance(value, Fused) else value
    return data
