"""Products of matrices as steps of a program: `matmul`, `dot`, `einsum` and EinsumDense.

Axes have letters, as in the equations of `einsum`; the batch's is the first of each tensor.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Optional

import keras
import numpy as np

from tf_dwsconv._program_shapes import MOST_AXES
from tf_dwsconv.activations import NONE, Fused
from tf_dwsconv.convert import _activations, _read
from tf_dwsconv.convert.network._call import Call, is_plain

# Letters that share an axis, the first one outermost.
Groups = Sequence[Sequence[str]]
Sizes = dict[str, Optional[int]]


def shaped(call: Call, x: int, sizes: Sequence[Optional[int]]) -> Optional[int]:
    """`x` with axes of other sizes behind the batch; None where more than one of them is not known."""
    shape = (None, *sizes)
    if shape == call.builder.shapes[x]:
        return x
    wanted = tuple(-1 if size is None else size for size in sizes)
    return None if wanted.count(-1) > 1 else call.step("reshape", x, shape, shape=wanted)


def rearranged(call: Call, x: int, before: Groups, after: Groups, sizes: Sizes) -> Optional[int]:
    """`x`, whose axes are groups of letters, with axes of other groups of the same letters."""
    old, new = ([letter for group in groups for letter in group if sizes[letter] != 1] for groups in (before, after))
    if old != new:
        apart = shaped(call, x, [sizes[letter] for letter in old[1:]])
        if apart is None or len(old) > MOST_AXES:
            return None
        shape = tuple(sizes[letter] for letter in new)
        x = call.step("transpose", apart, shape, axes=tuple(old.index(letter) for letter in new))
    return shaped(call, x, [_size(group, sizes) for group in after[1:]])


def _size(group: Iterable[str], sizes: Sizes) -> Optional[int]:
    known = [sizes[letter] for letter in group]
    return None if None in known else math.prod(size for size in known if size is not None)


def product(call: Call, x: int, y: int, transpose_x: bool = False, transpose_y: bool = False) -> Optional[int]:
    """The step that multiplies matrices; None where the axes in front of them differ, or may."""
    a, b = (call.builder.shapes[t] for t in (x, y))
    if len(a) < 3 or a[:-2] != b[:-2]:
        return None
    rows, inner = a[-2:][:: -1 if transpose_x else 1]
    also, columns = b[-2:][:: -1 if transpose_y else 1]
    if None not in (inner, also) and inner != also:
        return None
    turned = {"transpose_x": transpose_x, "transpose_y": transpose_y}
    return call.step("matmul", {"x": x, "y": y}, (*a[:-2], rows, columns), **turned)


def of_one_batch(call: Call) -> bool:
    """Whether all tensors of a call have as many pictures: Keras multiplies one of them with many."""
    return len({t.shape[0] for t in call.node.arguments.keras_tensors}) == 1


def matmul(call: Call) -> Optional[int]:
    """`keras.ops.matmul` and `@`."""
    args = call.node.arguments.args
    if len(args) != 2:
        return None
    if len(call.x) == 2:
        return product(call, *call.x) if of_one_batch(call) else None
    is_first = isinstance(args[0], keras.KerasTensor)
    constant, rank = _array(args[1 if is_first else 0]), len(call.builder.shapes[call.x[0]])
    if constant is None or constant.ndim != 2 or rank < (2 if is_first else 3):
        return None
    letters = [f"axis {i}" for i in range(rank)]
    if is_first:
        return with_constant(call, letters, constant, (letters[-1], "new"), [*letters[:-1], "new"])
    return with_constant(call, letters, constant, ("new", letters[-2]), [*letters[:-2], "new", letters[-1]])


def dot(call: Call) -> Optional[int]:
    """`keras.ops.dot` with a matrix on the right, which is what `matmul` does."""
    args = call.node.arguments.args
    return matmul(call) if len(call.x) == 1 and isinstance(args[0], keras.KerasTensor) else None


def _array(value: Any) -> Optional[np.ndarray]:
    """An array of numbers, in float64; None for anything else."""
    is_float = isinstance(value, np.ndarray) and keras.backend.is_float_dtype(value.dtype.name)
    found = np.asarray(value, np.float64) if is_float else None
    return found if found is not None and np.isfinite(found).all() else None


def einsum(call: Call) -> Optional[int]:
    """`keras.ops.einsum` of two tensors, or of one and an array."""
    terms, args = _terms(call.layer.subscripts), call.node.arguments.args
    if terms is None or len(args) != 2:
        return None
    if len(call.x) == 2:
        return _of_tensors(call, *terms) if of_one_batch(call) else None
    own = 0 if isinstance(args[0], keras.KerasTensor) else 1
    constant = _array(args[1 - own])
    return None if constant is None else with_constant(call, terms[own], constant, terms[1 - own], terms[2])


def _terms(equation: str) -> Optional[tuple[str, ...]]:
    """The letters of two operands and of the result; None where a letter is there twice, or an ellipsis."""
    found = re.fullmatch("([a-zA-Z]+),([a-zA-Z]+)->([a-zA-Z]+)", equation.replace(" ", ""))
    is_plain = found is not None and all(len(set(term)) == len(term) for term in found.groups())
    return found.groups() if found is not None and is_plain else None


class _Plan(NamedTuple):
    """One of the ways to a product of tensors: what stands on which axes."""

    is_swapped: bool
    turned: tuple[bool, bool]
    groups: list[Groups]  # of both factors and the product
    moves: int  # how many of those need a transposition


def _of_tensors(call: Call, left: str, right: str, out: str) -> Optional[int]:
    sizes: Sizes = {}
    for letters, t in zip((left, right), call.x):
        for letter, size in zip(letters, call.builder.shapes[t]):
            known = sizes.get(letter)
            if None not in (known, size) and known != size:
                return None
            sizes[letter] = size if known is None else known
    are_used = set(left) ^ set(right) <= set(out) <= set(left) | set(right)
    if not are_used or not left[0] == right[0] == out[0]:
        return None
    plan = min(_plans(left, right, out, sizes), key=lambda plan: plan.moves)
    pairs = list(zip(call.x, (left, right)))[:: -1 if plan.is_swapped else 1]
    factors = [rearranged(call, t, list(term), groups, sizes) for (t, term), groups in zip(pairs, plan.groups)]
    if factors[0] is None or factors[1] is None:
        return None
    y = product(call, factors[0], factors[1], *plan.turned)
    return None if y is None else rearranged(call, y, plan.groups[2], list(out), sizes)


def _plans(left: str, right: str, out: str, sizes: Sizes) -> Iterable[_Plan]:
    for is_swapped, turned in itertools.product((False, True), itertools.product((False, True), repeat=2)):
        a, b = (right, left) if is_swapped else (left, right)
        kinds = (
            [letter for letter in a if letter in b and letter in out],
            [letter for letter in a if letter not in b],
            [letter for letter in a if letter in b and letter not in out],
            [letter for letter in b if letter not in a],
        )
        for batch, rows, inner, columns in itertools.product(*(_orders(kind, (a, b, out)) for kind in kinds)):
            front = [[letter] for letter in batch]
            sides = ([rows, inner], [inner, columns])
            groups = [[*front, *side[:: -1 if turn else 1]] for side, turn in zip(sides, turned)]
            groups.append([*front, rows, columns])
            yield _Plan(is_swapped, turned, groups, sum(map(_moves, (a, b, out), groups, [sizes] * 3)))


def _orders(kind: Sequence[str], terms: Iterable[str]) -> list[tuple[str, ...]]:
    """Some letters in the orders in which the terms that have them do."""
    having = [term for term in terms if set(kind) <= set(term)]
    return list(dict.fromkeys(tuple(sorted(kind, key=term.index)) for term in having))


def _moves(term: Iterable[str], groups: Groups, sizes: Sizes) -> bool:
    new = [letter for group in groups for letter in group if sizes[letter] != 1]
    return new != [letter for letter in term if sizes[letter] != 1]


def with_constant(
    call: Call,
    letters: Sequence[str],
    constant: np.ndarray,
    names: Sequence[str],
    out: Sequence[str],
    bias: Optional[np.ndarray] = None,
    activation: Fused = NONE,
) -> Optional[int]:
    """A product with an array: the step `dense`, or factors where nothing is summed.

    Args:
        letters, names, out: of the tensor, of the array and of the result.
        bias: along the letters that the array alone has, in their order in `out`.
        activation: of the result.
    """
    x = call.x[0]
    names, constant = _summed(names, constant, {*letters, *out})
    shape = call.builder.shapes[x]
    if constant.ndim != len(names) or len(shape) != len(letters) or letters[0] in names or out[0] != letters[0]:
        return None
    sizes: Sizes = {**dict(zip(letters, shape)), **dict(zip(names, constant.shape))}
    if any(size not in (None, sizes[letter]) for letter, size in zip(letters, shape)):
        return None
    rows = [letter for letter in letters if letter not in names]
    inner = [letter for letter in letters if letter in names]
    columns = [letter for letter in out if letter not in letters]
    if not {*rows, *columns} <= set(out) <= {*letters, *names}:
        return None
    if set(inner) <= set(out) and inner:
        has_more = bool(columns) or bias is not None or activation != NONE
        return None if has_more else _factors(call, letters, constant, names, out, sizes)
    if set(inner) & set(out):
        return None
    matrix = constant.transpose([names.index(letter) for letter in (*inner, *columns)])
    matrix = matrix.reshape(math.prod(constant.shape[names.index(letter)] for letter in inner), -1)
    together = [letter for letter in out if letter in rows]
    moved = [
        _moves(letters, [order, inner], sizes) + _moves(out, [order, columns], sizes) for order in (rows, together)
    ]
    order = rows if moved[0] <= moved[1] else together
    y = rearranged(call, x, list(map(_only, letters)), [*map(_only, order), inner], sizes)
    if y is None:
        return None
    weights = {"filter": matrix, "bias": None if bias is None else bias.reshape(-1)}
    y = call.step("dense", y, (*(sizes[letter] for letter in order), matrix.shape[1]), weights)
    applied = call.activation(y, activation)
    return rearranged(call, applied, [*map(_only, order), columns], list(map(_only, out)), sizes)


def _only(letter: str) -> tuple[str]:
    return (letter,)


def _summed(names: Sequence[str], constant: np.ndarray, needed: set[str]) -> tuple[tuple[str, ...], np.ndarray]:
    """An array without the axes over which it can be summed beforehand."""
    if constant.ndim == len(names):
        constant = constant.sum(tuple(i for i, name in enumerate(names) if name not in needed))
    return tuple(name for name in names if name in needed), constant


def _factors(
    call: Call, letters: Sequence[str], constant: np.ndarray, names: Sequence[str], out: Sequence[str], sizes: Sizes
) -> Optional[int]:
    there = [letter for letter in letters if letter in names]
    factors = constant.transpose([names.index(letter) for letter in there])
    factors = factors.reshape([constant.shape[names.index(letter)] if letter in names else 1 for letter in letters])
    y = call.step("multiply", call.x[0], tuple(sizes[letter] for letter in letters), {"y": factors})
    return rearranged(call, y, list(map(_only, letters)), list(map(_only, out)), sizes)


def einsum_dense(call: Call) -> Optional[int]:
    """The layer, with a bias along axes of the array alone in the product."""
    layer, terms = call.layer, _terms(call.layer.equation)
    if terms is None or not is_plain(layer):
        return None
    letters, names, out = terms
    fused = _activations.of_function(layer.activation)
    new = [letter for letter in out if letter not in letters]
    bias, rest = None, None
    if layer.bias is not None:
        whole = _read.array(layer.bias)
        rest = whole.reshape([1] * (len(out) - whole.ndim) + list(whole.shape))
        kernel = dict(zip(names, layer.kernel.shape))
        if all(size == 1 or letter in new for letter, size in zip(out, rest.shape)):
            along = rest.reshape([size for letter, size in zip(out, rest.shape) if letter in new])
            bias, rest = np.broadcast_to(along, [kernel[letter] for letter in new]), None
    inside = fused if rest is None and fused is not None else NONE
    y = with_constant(call, letters, _read.array(layer.kernel), names, out, bias, inside)
    if y is None:
        return None
    if rest is not None:
        if rest.shape[0] != 1:
            return None
        y = call.step("add", y, weights={"y": rest})
    return y if inside == fused else call.activation(y, layer.activation)
