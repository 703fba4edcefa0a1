"""Sums, means and maxima over any axes behind the batch, by what programs have: over pixels, and over channels."""

from __future__ import annotations

import math
from typing import Any, Callable, Optional

import keras
import numpy as np

from tf_dwsconv.convert.graphs._nodes import attribute
from tf_dwsconv.convert.graphs._view import done, layer_name, named, settings

K = keras.ops
L = keras.layers


def _reduce(reader: Any, node: Any) -> Optional[str]:
    axes = reader.nodes.value(node.input[1])
    if axes is None:
        return "its axes are no constants"
    x, keeps = reader.tensor(node.input[0]), bool(attribute(node, "keep_dims").b)
    rank = len(x.shape)
    axis = tuple(sorted({int(number) % rank for number in axes.reshape(-1)}))
    if not _is_other(x, axis, node.op):
        word = _WORDS[node.op]
        done(reader, node, named(node, word(x, axis=tuple(map(int, axes.reshape(-1))), keepdims=keeps)))
        return None
    run = math.prod(x.shape[axis[0] : axis[-1] + 1])
    before, behind = math.prod(x.shape[1 : axis[0]]), math.prod(x.shape[axis[-1] + 1 :])
    y = _over(reader, node, x, before, run, behind)
    sizes = [1 if i in axis else n for i, n in enumerate(x.shape)]
    rest = sizes[1:] if keeps else [n for i, n in enumerate(sizes) if i and i not in axis]
    done(reader, node, L.Reshape(rest, **settings(reader, node))(y))
    return None


def _is_other(x: Any, axis: tuple, op: str) -> bool:
    """Whether a program needs another shape to reduce: neighbours among known axes behind the batch."""
    rank = len(x.shape)
    if None in x.shape[1:] or not axis or axis[0] == 0 or axis != tuple(range(axis[0], axis[-1] + 1)):
        return False
    return not (rank == 4 and axis == (1, 2)) and not (axis == (rank - 1,) and op == "Mean") and rank > 2


def _over(reader: Any, node: Any, x: Any, before: int, run: int, behind: int) -> Any:
    """A tensor of one element for each place beside the run: [N, before, run, behind] without the run."""
    if behind == 1 and node.op == "Sum":
        rows = L.Reshape((before, run), **settings(reader, node, "/rows"))(x)
        layer = L.Dense(1, use_bias=False, **settings(reader, node, "/over"))
        result = layer(rows)
        layer.kernel.assign(np.ones([run, 1]))
        return result
    if before > 1:  # the run in front, as the pixels of a picture
        x = K.transpose(L.Reshape((before, run, behind), **settings(reader, node, "/apart"))(x), [0, 2, 1, 3])
        x._keras_history.operation.name = layer_name(node, "/turned")
    picture = L.Reshape((run, 1, before * behind), **settings(reader, node, "/picture"))(x)
    y = _WORDS[node.op](picture, axis=(1, 2), keepdims=True)
    y._keras_history.operation.name = layer_name(node, "/pixels")
    return y


_WORDS: dict[str, Callable] = {"Mean": K.mean, "Max": K.max, "Sum": K.sum}
REDUCTIONS: dict[str, Callable] = dict.fromkeys(_WORDS, _reduce)
