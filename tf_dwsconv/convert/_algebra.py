"""Functions of one number as algebra, so that an activation is known however it is written.

An `Expression` is a polynomial in `x` and in functions of such polynomials, with numbers for coefficients. Sums and
products are multiplied out, tanh is written by sigmoid, and whatever is piecewise linear by hinges `max(x - t, 0)`, so
two ways to write a function of the kernels give the same polynomial: `x * relu6(x + 3) / 6`, `x * clip(x / 6 + 0.5, 0,
1)` and Keras' own hard-swish, for example. What cannot be written so is None.
"""

from __future__ import annotations

import itertools
import math
from typing import Any, NamedTuple, Optional

from tf_dwsconv.activations import NONE, Fused, parse

# Numbers in graphs are float32 at times.
_TOLERANCE = 2e-6
_MOST_TERMS = 32


class Expression(NamedTuple):
    """A sum of products. terms: coefficients by product, a sorted tuple of factors; () is the number 1.

    A factor is ("x",), ("hinge", t), ("elu", alpha), or ("sigmoid" | "erf" | "softplus", key) of the polynomial of
    which `key` is the key.
    """

    terms: dict

    def key(self) -> tuple:
        """Something hashable that is the same for the same polynomial, whichever precision its numbers went through."""
        return tuple((product, f"{self.terms[product]:.5e}") for product in sorted(self.terms, key=repr))


X = Expression({(("x",),): 1.0})


def constant(number: float) -> Expression:
    return Expression({(): float(number)} if number else {})


def add(a: Expression, b: Expression, factor: float = 1.0) -> Expression:
    """`a + factor * b`."""
    terms = dict(a.terms)
    for product, coefficient in b.terms.items():
        terms[product] = terms.get(product, 0.0) + factor * coefficient
    largest = max(map(abs, [*a.terms.values(), *b.terms.values()]), default=0.0)
    return Expression({product: c for product, c in terms.items() if abs(c) > _TOLERANCE * largest})


def scale(a: Expression, factor: float) -> Expression:
    return Expression({product: c * factor for product, c in a.terms.items()} if factor else {})


def multiply(a: Expression, b: Expression) -> Optional[Expression]:
    result = Expression({})
    if len(a.terms) * len(b.terms) > _MOST_TERMS:
        return None
    for (p, c), (q, d) in itertools.product(a.terms.items(), b.terms.items()):
        result = add(result, Expression({tuple(sorted(p + q, key=repr)): c * d}))
    return result


def number(a: Expression) -> Optional[float]:
    """The value of an expression that does not depend on x."""
    if not a.terms:
        return 0.0
    return a.terms[()] if set(a.terms) == {()} else None


def _flips(a: Expression) -> bool:
    """Whether -a is the one of the two of which functions are kept."""
    leading = [product for product in sorted(a.terms, key=repr) if product]
    return bool(leading) and a.terms[leading[0]] < 0


def sigmoid(a: Expression) -> Expression:
    if _flips(a):
        return add(constant(1), sigmoid(scale(a, -1)), -1)
    return Expression({(("sigmoid", a.key()),): 1.0})


def tanh(a: Expression) -> Expression:
    return add(constant(-1), sigmoid(scale(a, 2)), 2)


def erf(a: Expression) -> Expression:
    return scale(erf(scale(a, -1)), -1) if _flips(a) else Expression({(("erf", a.key()),): 1.0})


def softplus(a: Expression) -> Expression:
    return Expression({(("softplus", a.key()),): 1.0})


def elu(a: Expression, alpha: float) -> Optional[Expression]:
    return Expression({(("elu", float(alpha)),): 1.0}) if a == X else None


def maximum(a: Expression, b: Expression) -> Optional[Expression]:
    above = _positive_part(add(a, b, -1))
    return None if above is None else add(b, above)


def minimum(a: Expression, b: Expression) -> Optional[Expression]:
    above = _positive_part(add(a, b, -1))
    return None if above is None else add(a, above, -1)


def clip(a: Expression, low: Any, high: Any) -> Optional[Expression]:
    """Between two numbers, either of which may be None."""
    if low is not None:
        a = maximum(a, constant(low))
    return a if a is None or high is None or math.isinf(high) else minimum(a, constant(high))


def _hinge(t: float) -> Expression:
    return Expression({(("hinge", float(t)),): 1.0})


def _piecewise(a: Expression) -> Optional[tuple[float, float, dict[float, float]]]:
    """(constant, slope at the left, changes of the slope by their places) of what is piecewise linear in x."""
    offset = slope = 0.0
    changes = {}
    for product, coefficient in a.terms.items():
        if product == ():
            offset = coefficient
        elif product == (("x",),):
            slope = coefficient
        elif len(product) == 1 and product[0][0] == "hinge":
            changes[product[0][1]] = coefficient
        else:
            return None
    return offset, slope, dict(sorted(changes.items()))


def _positive_part(a: Expression) -> Optional[Expression]:
    """max(a, 0)."""
    pieces = _piecewise(a)
    if pieces is None:
        return None
    offset, slope, changes = pieces

    def value(x: float) -> float:
        return offset + slope * x + sum(change * max(x - t, 0.0) for t, change in changes.items())

    # Where the slope changes, and where the value passes through zero between two such places.
    places = set(changes)
    edges = [-math.inf, *changes, math.inf]
    at, slopes = slope, []
    for left, right in itertools.pairwise(edges):
        at += changes.get(left, 0.0)
        slopes.append(at)
        inner = right if math.isinf(left) else left
        if at and not (math.isinf(left) and math.isinf(right)):
            zero = inner - value(inner) / at
        elif at:
            zero = -offset / at
        else:
            continue
        if left < zero < right:
            places.add(zero)
    points = sorted(places)
    if not points:
        return constant(max(offset, 0.0))

    def slope_behind(x: float) -> float:
        return slope + sum(change for t, change in changes.items() if t <= x)

    middles = [points[0] - 1.0, *((p + q) / 2 for p, q in itertools.pairwise(points)), points[-1] + 1.0]
    kept = [slope_behind(x) if value(x) > 0 else 0.0 for x in middles]
    result = add(constant(max(value(points[0]), 0.0) - kept[0] * points[0]), X, kept[0])
    for point, (before, behind) in zip(points, itertools.pairwise(kept)):
        result = add(result, _hinge(point), behind - before)
    return result


def apply(fused: Fused, a: Expression) -> Optional[Expression]:
    """An activation of the kernels, of an expression."""
    if fused.word in ("none", "sigmoid", "tanh"):
        return {"none": lambda: a, "sigmoid": lambda: sigmoid(a), "tanh": lambda: tanh(a)}[fused.word]()
    if fused.word in ("relu", "relu6", "leaky_relu"):
        if fused.threshold:
            return None
        top = 6.0 if fused.word == "relu6" else fused.max_value
        slope = fused.alpha if fused.word == "leaky_relu" else 0.0
        positive, negative = clip(a, 0.0, top), minimum(a, constant(0.0))
        return None if positive is None or negative is None else add(positive, negative, slope)
    if fused.word == "elu":
        return elu(a, fused.alpha)
    gates = {
        "silu": lambda: sigmoid(a),
        "hard_swish": lambda: clip(add(scale(a, 1 / 6), constant(0.5)), 0.0, 1.0),
        "gelu": lambda: scale(add(constant(1), erf(scale(a, math.sqrt(0.5)))), 0.5),
        "mish": lambda: tanh(softplus(a)),
        "gelu_tanh": lambda: _gelu_gate(a),
    }
    gate = gates[fused.word]() if fused.word in gates else None
    return None if gate is None else multiply(a, gate)


def _gelu_gate(a: Expression) -> Optional[Expression]:
    square = multiply(a, a)
    cube = None if square is None else multiply(square, a)
    return None if cube is None else sigmoid(scale(add(a, cube, 0.044715), 2 * math.sqrt(2 / math.pi)))


def _same(a: Expression, b: Expression) -> bool:
    return set(a.terms) == set(b.terms) and all(
        math.isclose(c, b.terms[product], rel_tol=_TOLERANCE) for product, c in a.terms.items()
    )


def identify(a: Expression) -> Optional[Fused]:
    """The activation of the kernels that an expression is, if it is one."""
    if _same(a, X):
        return NONE
    pieces = _piecewise(a)
    if pieces is not None:
        return _relu_like(*pieces)
    if len(a.terms) == 1:
        [(product, coefficient)] = a.terms.items()
        if len(product) == 1 and product[0][0] == "elu" and math.isclose(coefficient, 1, rel_tol=_TOLERANCE):
            return Fused("elu", product[0][1])
    for word in ("sigmoid", "tanh", "silu", "hard_swish", "gelu", "gelu_tanh", "mish"):
        known = apply(Fused(word), X)
        if known is not None and _same(a, known):
            return Fused(word)
    return None


def _relu_like(offset: float, slope: float, changes: dict[float, float]) -> Optional[Fused]:
    places = list(changes)
    if offset or not places or places[0] or not math.isclose(changes[0.0], 1 - slope, rel_tol=_TOLERANCE):
        return None
    if len(places) == 1:
        return parse(("relu", {"negative_slope": slope}))
    if len(places) != 2 or not math.isclose(changes[places[1]], -1, rel_tol=_TOLERANCE):
        return None
    return parse(("relu", {"negative_slope": slope, "max_value": places[1]}))
