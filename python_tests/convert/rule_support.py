"""What the tests of the conversion's rules share: one rule alone on one model."""

from __future__ import annotations

import keras
from convert_support import difference, functional, pictures

from tf_dwsconv import convert
from tf_dwsconv._keras_graph import Graph, count_calls
from tf_dwsconv.convert._rebuild import Rebuilder
from tf_dwsconv.convert._report import Report
from tf_dwsconv.convert._search import Search

L = keras.layers


def search(model: keras.Model, *passes: object) -> Search:
    """What rules find in a model; each is tried on a way along the graph of its own."""
    return Search(Graph(model, count_calls(model)), [[rule] for rule in passes])


def rewritten(model: keras.Model, *passes: object, tolerance: float = 1e-5) -> list:
    """What rules find in a model, after a model with that in its place has given the same answers."""
    counts = count_calls(model)
    new = Rebuilder(
        lambda part: convert._plan(Graph(part, counts), [[rule] for rule in passes], Report()), Report()
    ).model(model)
    assert difference(new, model, pictures(model)) < tolerance
    return search(model, *passes).found


def reason(model: keras.Model, rule: object, name: str) -> str:
    """Why a rule does not apply to a layer of a model."""
    found = search(model, rule)
    [node] = [node for node in found.graph.nodes if node.operation.name == name][:1]
    assert rule.pattern(found, node)
    return found.reasons.get(id(node), "")


__all__ = ["L", "functional", "reason", "rewritten", "search"]
