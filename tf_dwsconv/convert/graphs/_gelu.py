"""GELU as TensorFlow writes it out: `0.5 * x * erfc(-x / sqrt(2))`, or with `1 + erf(x / sqrt(2))`."""

from __future__ import annotations

import math
from typing import Any, Optional

from tf_dwsconv.convert.graphs._nodes import Nodes, tensor_of

_CLOSE = 1e-6


def of(nodes: Nodes, end: Any) -> Optional[tuple[str, frozenset]]:
    """(x, names of the nodes but the last) where a Mul ends such a GELU."""
    factors, number, inner = _factors(nodes, end.input[:2], set())
    if len(factors) != 2:
        return None
    for x, ref in (factors, factors[::-1]):
        node = nodes.producer(ref)
        inside: set = set()
        if node.op == "Erfc":
            argument, wanted, half = node.input[0], -math.sqrt(0.5), 0.5
        elif node.op in ("Add", "AddV2"):
            values = [nodes.value(r) for r in node.input[:2]]
            at = next((i for i, value in enumerate(values) if value is not None and value.size == 1), None)
            erf = None if at is None else nodes.producer(node.input[1 - at])
            if at is None or erf.op != "Erf" or float(values[at].reshape(())) != 1:
                continue
            argument, wanted, half = erf.input[0], math.sqrt(0.5), 0.5
            inside.add(erf.name)
        else:
            continue
        inside.add(node.name)
        source, scale, more = _scaled(nodes, argument, set())
        if source == x and math.isclose(scale, wanted, rel_tol=_CLOSE) and math.isclose(number, half, rel_tol=_CLOSE):
            return x, frozenset(inside | inner | more)
    return None


def _factors(nodes: Nodes, refs: Any, inner: set) -> tuple[list[str], float, set]:
    """The tensors whose product some others are, through one more Mul by a number, and the number."""
    found, number = [], 1.0
    for ref in refs:
        value, node = nodes.value(ref), nodes.producer(ref)
        if value is not None and value.size == 1:
            number *= float(value.reshape(()))
        elif node.op == "Mul" and not inner and any(_is_number(nodes, r) for r in node.input[:2]):
            more, by, _ = _factors(nodes, node.input[:2], {node.name})
            inner = inner | {node.name}
            found += more
            number *= by
        else:
            found.append(tensor_of(ref))
    return found, number, inner


def _is_number(nodes: Nodes, ref: str) -> bool:
    value = nodes.value(ref)
    return value is not None and value.size == 1


def _scaled(nodes: Nodes, ref: str, inner: set) -> tuple[str, float, set]:
    """(x, scale, nodes) where a tensor is a number times another one."""
    node = nodes.producer(ref)
    if node.op == "Neg":
        x, scale, inner = _scaled(nodes, node.input[0], inner)
        return x, -scale, inner | {node.name}
    if node.op in ("Mul", "RealDiv"):
        at = next((i for i in (0, 1) if _is_number(nodes, node.input[i])), None)
        if at is not None and (node.op == "Mul" or at == 1):
            number = float(nodes.value(node.input[at]).reshape(()))
            x, scale, inner = _scaled(nodes, node.input[1 - at], inner)
            factor = number if node.op == "Mul" else 1 / number if number else math.nan
            return x, scale * factor, inner | {node.name}
    return tensor_of(ref), 1.0, inner
