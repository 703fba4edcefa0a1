"""A convolution that no block takes, with the batch norms behind it folded into its weights: it stays a stock layer."""

from __future__ import annotations

from typing import Any, Optional

from tf_dwsconv._keras_graph import called_in_training, only_input
from tf_dwsconv.convert import _read
from tf_dwsconv.convert._block import Folded
from tf_dwsconv.convert._search import Search, no_objection

check = no_objection


def pattern(search: Search, node: Any) -> bool:
    return search.is_alone(node) and only_input(node) is not None and _read.foldable(node.operation) is not None


def rewrite(search: Search, node: Any) -> Optional[Folded]:
    if called_in_training(node):
        return None
    convolution, layout = _read.foldable(node.operation), _read.data_format(node.operation)
    found = Folded(only_input(node), node.outputs[0], [node], convolution)
    while (following := search.graph.reader(found.out)) is not None:
        is_norm = _read.is_norm(following) and search.usable(following)
        same_type = _read.compute_dtype(following) == _read.compute_dtype(node)
        change = _read.affine(following, layout) if is_norm and same_type else None
        if change is None:
            break
        convolution.scale_outputs(*change)
        found.nodes.append(following)
        found.out = following.outputs[0]
    return found if len(found.nodes) > 1 else None
