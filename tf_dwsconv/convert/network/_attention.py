"""Attention as steps of a program: products of tensors with a softmax between them."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from typing import Any, NamedTuple, Optional

import keras
import numpy as np

from tf_dwsconv.convert import _read
from tf_dwsconv.convert.network._call import Call, is_plain
from tf_dwsconv.convert.network._products import Groups, Sizes, of_one_batch, product, rearranged, shaped

L = keras.layers


def softmax(call: Call) -> Optional[int]:
    """A layer, or the op: over one axis, which comes last meanwhile."""
    axes = call.layer.axis if isinstance(call.layer.axis, (list, tuple)) else [call.layer.axis]
    rank = len(call.shape)
    if len(axes) != 1 or axes[0] is None:
        return None
    axis = axes[0] % rank
    if axis == rank - 1:
        return call.step("softmax")
    letters = [str(i) for i in range(rank)]
    sizes: Sizes = dict(zip(letters, call.builder.shapes[call.x[0]]))
    turned = [*letters[:axis], letters[-1], *letters[axis + 1 : -1], letters[axis]]
    x = rearranged(call, call.x[0], letters, turned, sizes) if axis > 0 else None
    if x is None:
        return None
    return rearranged(call, call.step("softmax", x, call.builder.shapes[x]), turned, letters, sizes)


class _Read(NamedTuple):
    """A query, a key or a value, and which letters its axes have."""

    tensor: int
    groups: Groups


def _attended(call: Call, reads: Sequence[_Read], result: Groups, sizes: Sizes) -> Optional[int]:
    """What the values give by the queries and the keys.

    Args:
        reads: query, key and value. Letters are a word's first: b are axes that all have, h heads, r queries of each
            head, t places of the query, s those of the keys and values, d and e channels.
        result: how the axes of the result are to be, of the letters of the query, and e for d.
    """
    query, *others = reads
    b, t, s = ([word for groups in (query.groups, others[0].groups) for g in groups for word in g if word[0] == letter]
               for letter in "bts")  # fmt: skip
    front = [["n"], *([word] for word in dict.fromkeys(b)), ["h"]]
    rows = [["r", *t], *([*s] for _ in range(2))]
    columns = (["d"], ["d"], ["e"])
    turned = [
        rearranged(call, given.tensor, given.groups, [*front, places, channels], sizes)
        for given, places, channels in zip(reads, rows, columns)
    ]
    if turned[0] is None or turned[1] is None or turned[2] is None:
        return None
    scores = product(call, turned[0], turned[1], transpose_y=True)
    if scores is None:
        return None
    y = product(call, call.step("softmax", scores, call.builder.shapes[scores]), turned[2])
    return None if y is None else rearranged(call, y, [*front, ["r", *t], ["e"]], result, sizes)


def _places(call: Call, tensors: Sequence[int], attended: Sequence[int]) -> Optional[tuple[Sizes, list, list]]:
    """The sizes of the axes between batch and channels, and their letters in queries and in keys."""
    sizes: Sizes = {"n": None}
    words: list[list[str]] = []
    for tensor, letter in zip(tensors, "tss"):
        words.append([f"{letter if axis in attended else 'b'}{axis}" for axis in range(1, _rank(call, tensor) - 1)])
        for word, size in zip(words[-1], call.builder.shapes[tensor][1:]):
            known = sizes.get(word)
            if None not in (known, size) and known != size:
                return None
            sizes[word] = size if known is None else known
    return sizes, words[0], words[1]


def _rank(call: Call, tensor: int) -> int:
    return len(call.builder.shapes[tensor])


def multi_head(call: Call) -> Optional[int]:
    """MultiHeadAttention without masks."""
    layer, tensors = call.layer, _given(call)
    if tensors is None or getattr(layer, "_use_gate", False) or getattr(layer, "_sliding_window", None) is not None:
        return None
    dense = [layer.query_dense, layer.key_dense, layer.value_dense, layer.output_dense]
    if not _are_plain(layer, dense):
        return None
    rank = _rank(call, tensors[0])
    axes = sorted(layer.attention_axes)
    if not axes or axes[0] < 1 or axes[-1] > rank - 2:
        return None
    return _projected(call, tensors, dense, axes, layer.num_heads, 1, layer.key_dim)


def grouped_query(call: Call) -> Optional[int]:
    """GroupQueryAttention without masks: some queries for each head."""
    layer, tensors = call.layer, _given(call)
    if tensors is None or getattr(layer, "use_gate", False) or getattr(layer, "sliding_window", None) is not None:
        return None
    dense = [layer._query_dense, layer._key_dense, layer._value_dense, layer._output_dense]
    if not _are_plain(layer, dense) or _rank(call, tensors[0]) != 3:
        return None
    return _projected(call, tensors, dense, [1], layer.num_key_value_heads, layer.num_repeats, layer.head_dim)


def _given(call: Call) -> Optional[list[int]]:
    """The query, the key and the value; None where anything else is given, such as a mask."""
    arguments = call.node.arguments
    names = ("query", "value", "key")
    if len(arguments.args) > len(names) or not of_one_batch(call):
        return None
    given = {**dict(zip(names, arguments.args)), **arguments.kwargs}
    if any(value is not None and value is not False for name, value in given.items() if name not in names):
        return None
    numbers_of = {id(t): number for t, number in zip(arguments.keras_tensors, call.x)}
    query, value, key = (given.get(name) for name in names)
    found = [numbers_of.get(id(t)) for t in (query, value if key is None else key, value)]
    if None in found or len(call.node.outputs) != 1:
        return None
    tensors = [number for number in found if number is not None]
    ranks = {_rank(call, t) for t in tensors}
    return tensors if len(ranks) == 1 and ranks.pop() >= 3 else None


def _are_plain(layer: Any, dense: Sequence[Any]) -> bool:
    is_flash = getattr(layer, "_flash_attention", False)
    return layer.built and not is_flash and all(type(d) is L.EinsumDense and is_plain(d) for d in dense)


def _projected(
    call: Call, tensors: Sequence[int], dense: Sequence[Any], axes: Sequence[int], heads: int, each: int, channels: int
) -> Optional[int]:
    """Attention between products with filters.

    Args:
        tensors: query, key and value, of channels last.
        dense: the layers of their filters, and of the result's.
        axes: those of the places that are attended to.
        heads, each, channels: how many there are, for how many queries, and of what size; it scales the queries.
    """
    shapes = [call.builder.shapes[t] for t in tensors]
    kernels = [_read.array(d.kernel) for d in dense]
    if list(axes) == list(range(1, len(shapes[0]) - 1)) and len(axes) > 1:  # one axis of places is enough
        flat = [shaped(call, t, (_count(shape[1:-1]), shape[-1])) for t, shape in zip(tensors, shapes)]
        if None in flat:
            return None
        tensors, axes = [t for t in flat if t is not None], [1]
    found = _places(call, tensors, axes)
    if found is None:
        return None
    sizes, places, others = found
    sizes.update(h=heads, r=each, d=channels, e=kernels[2].shape[-1])
    factors = (1 / math.sqrt(channels), 1.0, 1.0)
    reads = []
    for tensor, kernel, layer, factor, words, last in zip(
        tensors, kernels, dense, factors, (places, others, others), (["h", "r", "d"], ["h", "d"], ["h", "e"])
    ):
        made = _dense(call, tensor, kernel.reshape(kernel.shape[0], -1), layer.bias, factor)
        reads.append(_Read(made, [["n"], *([word] for word in words), last]))
    y = _attended(call, reads, [["n"], *([word] for word in places), ["h", "r", "e"]], sizes)
    if y is None:
        return None
    result = kernels[3].reshape(kernels[3].shape[0] * kernels[3].shape[1], -1)
    return shaped(call, _dense(call, y, result, dense[3].bias), (*shapes[0][1:-1], *kernels[3].shape[2:]))


def _count(sizes: Sequence[Optional[int]]) -> Optional[int]:
    return None if None in sizes else math.prod(size for size in sizes if size is not None)


def _dense(call: Call, x: int, matrix: np.ndarray, bias: Any, factor: float = 1.0) -> int:
    weights = {"filter": matrix * factor, "bias": None if bias is None else _read.array(bias).reshape(-1) * factor}
    return call.step("dense", x, (*call.builder.shapes[x][:-1], matrix.shape[1]), weights)


def dot_product(call: Call) -> Optional[int]:
    """The layer Attention without masks, called with a list of query, value and perhaps key."""
    layer, shapes = call.layer, [call.builder.shapes[t] for t in call.x]
    if layer.score_mode != "dot" or len(shapes) not in (2, 3) or {len(shape) for shape in shapes} != {3}:
        return None
    if not of_one_batch(call):
        return None
    scores = product(call, call.x[0], call.x[-1], transpose_y=True)
    if scores is None:
        return None
    if layer.scale is not None:
        scores = call.scale(scores, _read.array(layer.scale), 0.0)
    return product(call, call.step("softmax", scores, call.builder.shapes[scores]), call.x[1])


def dot_product_op(call: Call) -> Optional[int]:
    """`keras.ops.dot_product_attention` of as many heads everywhere, `[N, places, heads, channels]`.

    Keras takes the result's shape to be the query's, so values have as many channels.
    """
    given, arguments = call.layer, call.node.arguments
    factor = arguments.kwargs.get("scale")
    has_more = any(v is not None for key, v in arguments.kwargs.items() if key != "scale") or len(arguments.args) != 3
    options = (given.is_causal, given.flash_attention, getattr(given, "attn_logits_soft_cap", None))
    if has_more or any(options) or len(call.x) != 3 or not of_one_batch(call):
        return None
    shapes = [call.builder.shapes[t] for t in call.x]
    heads, channels = ({shape[axis] for shape in shapes} for axis in (2, 3))
    if len(heads) != 1 or len(channels) != 1 or None in heads | channels:
        return None
    if factor is not None and (isinstance(factor, bool) or not isinstance(factor, numbers.Real)):
        return None
    found = _places(call, call.x, [1])
    if found is None:
        return None
    sizes = {**found[0], "h": heads.pop(), "r": 1, "d": shapes[0][3], "e": shapes[2][3]}
    query = call.scale(call.x[0], 1 / math.sqrt(shapes[0][3]) if factor is None else float(factor), 0.0)
    groups = [["n"], ["t1"], ["h"], ["r", "d"]], [["n"], ["s1"], ["h"], ["d"]], [["n"], ["s1"], ["h"], ["e"]]
    reads = [_Read(t, g) for t, g in zip((query, *call.x[1:]), groups)]
    return _attended(call, reads, [["n"], ["t1"], ["h"], ["r", "e"]], sizes)
