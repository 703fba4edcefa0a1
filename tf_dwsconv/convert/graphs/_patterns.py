"""Finds what a graph spells in several nodes and Keras has one layer for, before the nodes are read one by one.

That is a convolution between SpaceToBatchND and BatchToSpaceND, which dilates it; a Dense over the channels of
pictures, by Reshape and MatMul; a normalisation of each pixel over its channels, or of pictures as a whole; and GELU.
"""

from __future__ import annotations

from typing import Any, Callable, NamedTuple, Optional

import numpy as np

from tf_dwsconv.convert.graphs import _gelu
from tf_dwsconv.convert.graphs._dilated import of_sizes
from tf_dwsconv.convert.graphs._nodes import Nodes, attribute, node_of, tensor_of

# What a shape is computed with.
_OF_SIZES = ("Shape", "GatherV2", "Prod", "ConcatV2", "Pack", "StridedSlice", "Mul")


class Pattern(NamedTuple):
    """Some nodes that one layer stands for.

    word: which layer. x: the tensor that goes in. inner: names of the nodes but the last. values: what the layer is
    made of, by the word: "dilated": the convolution, dilations, pads; "dense": the matrix; "layer_norm": epsilon,
    scale, shift, and so "group_norm"; "gelu": nothing.
    """

    word: str
    x: str
    inner: frozenset
    values: tuple


class Patterns:
    """The patterns of a graph.

    Args:
        nodes: the graph.
        readers: of its tensors.
        shapes: of its tensors.
    """

    def __init__(self, nodes: Nodes, readers: dict, shapes: dict):
        self._nodes, self._readers, self._shapes = nodes, readers, shapes
        self.by_end: dict[str, Pattern] = {}
        self.inner: set[str] = set()
        finders: dict[str, Callable] = {
            "BatchToSpaceND": self._dilated, "Reshape": self._dense, "AddV2": self._norm, "Add": self._norm,
            "Mul": self._gelu,
        }  # fmt: skip
        for node in nodes:
            found = finders[node.op](node) if node.op in finders else None
            if found is not None and self._is_closed(node, found.inner):
                self.by_end[node.name] = found
                self.inner |= found.inner

    def _is_closed(self, end: Any, inner: frozenset) -> bool:
        """Whether nothing else reads what lies between."""
        if inner & self.inner or any(ref.startswith("^") for name in inner for ref in self._nodes.by_name[name].input):
            return False
        fetched = {node_of(ref) for ref in self._nodes.fetches} | set(self._nodes.kept)
        names = {*inner, end.name}
        reading = [
            reader.name for name in inner for ref in (f"{name}:0", f"^{name}") for reader in self._readers.get(ref, ())
        ]
        return not inner & fetched and all(name in names for name in reading)

    def _node(self, ref: str, *ops: str) -> Optional[Any]:
        """The node that a tensor comes from, if it is one of some ops."""
        node = self._nodes.producer(ref)
        return node if node is not None and node.op in ops and not ref.startswith("^") else None

    def _dilated(self, end: Any) -> Optional[Pattern]:
        conv = self._node(end.input[0], "Conv2D", "DepthwiseConv2dNative")
        start = None if conv is None else self._node(conv.input[0], "SpaceToBatchND")
        if start is None or attribute(conv, "padding").s != b"VALID" or attribute(conv, "data_format").s == b"NCHW":
            return None
        block, block_again = self._nodes.value(start.input[1]), self._nodes.value(end.input[1])
        if block is None or block.shape != (2,) or not np.array_equal(block, block_again):
            return None
        pads, inner = self._pads(start, end, block)
        if pads is None:
            return None
        steps = (*attribute(conv, "strides").list.i[1:3], *(attribute(conv, "dilations").list.i or [1] * 4)[1:3])
        if any(step != 1 for step in steps) or np.any(pads < 0):
            return None
        dilations = tuple(int(number) for number in block)
        return Pattern(
            "dilated",
            tensor_of(start.input[0]),
            frozenset((start.name, conv.name, *inner)),
            (conv, dilations, tuple(tuple(int(number) for number in pair) for pair in pads)),
        )

    def _pads(self, start: Any, end: Any, block: np.ndarray) -> tuple[Optional[np.ndarray], set[str]]:
        """What a dilated convolution pads its input with, and the nodes that compute it from sizes.

        Beside its padding there are rows and columns that make the sizes multiples of the dilations, and are cropped.
        """
        pads, crops = (self._nodes.value(node.input[2]) for node in (start, end))
        if pads is not None and crops is not None:
            fits = pads.shape == (2, 2) and not np.any(crops[:, 0]) and np.all(pads >= crops)
            return (pads - crops if fits else None), set()
        return of_sizes(self._nodes, self._readers, (start, end), block)

    def _dense(self, end: Any) -> Optional[Pattern]:
        product = self._node(end.input[0], "MatMul")
        rows = None if product is None else self._node(product.input[0], "Reshape")
        matrix = None if rows is None else self._nodes.value(product.input[1])
        if matrix is None or attribute(product, "transpose_a").b:
            return None
        matrix = matrix.T if attribute(product, "transpose_b").b else matrix
        x = tensor_of(rows.input[0])
        before, behind = self._shapes[x], self._shapes[f"{end.name}:0"]
        if before.rank is None or before.rank < 3 or before.as_list()[-1] != matrix.shape[0]:
            return None
        # The product sees rows as long as the channels are many, so they are pixels. Its result has the same pixels if
        # all sizes but one are the same, or if the new shape is made of the old one.
        before, last = before.as_list(), matrix.shape[1]
        known = behind.rank == len(before) and behind.as_list() == [*before[:-1], last]
        if not (known and before.count(None) <= 1) and not self._is_shape_of(end.input[1], x, len(before), last):
            return None
        inner = {rows.name, product.name, *self._sizes_of(x, rows.input[1], end.input[1])}
        return Pattern("dense", x, frozenset(inner), (matrix,))

    def _sizes_of(self, x: str, *refs: str) -> set[str]:
        """The nodes that compute some tensors from the shape of another one."""
        found: set[str] = set()
        todo = [self._node(ref, *_OF_SIZES) for ref in refs]
        while todo:
            node = todo.pop()
            if node is None or node.name in found or (node.op == "Shape" and tensor_of(node.input[0]) != x):
                continue
            found.add(node.name)
            if node.op != "Shape":
                todo += [self._node(ref, *_OF_SIZES) for ref in node.input]
        return found

    def _is_shape_of(self, ref: str, x: str, rank: int, last: int) -> bool:
        """Whether a tensor is the shape of another one with another last size, as tf.tensordot writes it."""
        joined = self._node(ref, "ConcatV2")
        taken = None if joined is None else self._node(joined.input[0], "GatherV2")
        shape = None if taken is None else self._node(taken.input[0], "Shape")
        if shape is None or tensor_of(shape.input[0]) != x or len(joined.input) != 3:
            return False
        axes, size = self._nodes.value(taken.input[1]), self._nodes.value(joined.input[1])
        if axes is None or size is None:
            return False
        return axes.tolist() == list(range(rank - 1)) and size.reshape(-1).tolist() == [last]

    def _gelu(self, end: Any) -> Optional[Pattern]:
        found = _gelu.of(self._nodes, end)
        if found is None or self._shapes[found[0]].rank != self._shapes[f"{end.name}:0"].rank:
            return None
        return Pattern("gelu", *found, ())

    def _norm(self, end: Any) -> Optional[Pattern]:
        """`x * s + (shift - mean * s)` with `s = scale * rsqrt(variance + epsilon)`, in any order of the operands."""
        for scaled_ref, rest_ref in (end.input[:2], end.input[1::-1]):
            scaled = self._node(scaled_ref, "Mul")
            if scaled is None:
                continue
            for x, factor in (scaled.input[:2], scaled.input[1::-1]):
                found = self._factor(tensor_of(x), factor)
                word = None if found is None else found[4]
                rest = None if found is None else self._rest(rest_ref, tensor_of(factor), found[3])
                if rest is not None:
                    epsilon, scale, inner = found[:3]
                    shift, more = rest
                    return Pattern(word, tensor_of(x), frozenset({scaled.name, *inner, *more}), (epsilon, scale, shift))
        return None

    def _factor(self, x: str, ref: str) -> Optional[tuple]:
        """(epsilon, scale, nodes, mean, word) where a tensor is `scale * rsqrt(variance of x + epsilon)`."""
        inner, scale = [], 1.0
        node = self._node(ref, "Mul", "Rsqrt")
        if node is not None and node.op == "Mul":
            inner.append(node.name)
            values = [self._nodes.value(given) for given in node.input[:2]]
            scale = next((value for value in values if value is not None), None)
            node = next((n for n in (self._node(r, "Rsqrt") for r in node.input[:2]) if n is not None), None)
        total = None if node is None or scale is None else self._node(node.input[0], "AddV2", "Add")
        if total is None:
            return None
        epsilon = next((v for v in (self._nodes.value(r) for r in total.input[:2]) if v is not None), None)
        variance = next((n for n in (self._node(r, "Mean") for r in total.input[:2]) if n is not None), None)
        square = None if variance is None else self._node(variance.input[0], "SquaredDifference")
        if square is None or epsilon is None or epsilon.size != 1:
            return None
        refs = [tensor_of(given) for given in square.input[:2]]
        mean = next((n for n in (self._node(r, "Mean") for r in refs if r != x) if n is not None), None)
        if x not in refs or mean is None or tensor_of(mean.input[0]) != x:
            return None
        words = {self._word(mean, x), self._word(variance, x)}
        if len(words) != 1 or None in words:
            return None
        names = [*inner, node.name, total.name, variance.name, square.name, mean.name]
        return float(epsilon.reshape(())), np.asarray(scale, np.float64), names, f"{mean.name}:0", words.pop()

    def _word(self, mean: Any, x: str) -> Optional[str]:
        """What moments over some axes make of a normalisation: of each pixel, or of each picture as a whole."""
        axes, rank = self._nodes.value(mean.input[1]), self._shapes[x].rank
        if axes is None or rank is None or not attribute(mean, "keep_dims").b:
            return None
        found = {int(axis) % rank for axis in axes.reshape(-1)}
        if found == {rank - 1}:
            return "layer_norm"
        sizes = self._shapes[x].as_list()
        is_whole = 0 not in found and None not in sizes[1:] and all(i in found or sizes[i] == 1 for i in range(1, rank))
        return "group_norm" if is_whole else None

    def _rest(self, ref: str, factor: str, mean: str) -> Optional[tuple]:
        """(shift, nodes) where a tensor is `shift - mean * factor`, or `shift + (-mean) * factor`, or has no shift."""
        node = self._node(ref, "Sub", "AddV2", "Add")
        if node is None:
            product = self._negative_product(ref, factor, mean)
            return None if product is None else (np.zeros(()), product)
        values = [self._nodes.value(given) for given in node.input[:2]]
        at = next((i for i, value in enumerate(values) if value is not None), None)
        if at is None or (node.op == "Sub" and at != 0):
            return None
        if node.op == "Sub":
            product = self._product(node.input[1], factor, mean)
        else:
            product = self._negative_product(node.input[1 - at], factor, mean)
        return None if product is None else (np.asarray(values[at], np.float64), [node.name, *product])

    def _negative_product(self, ref: str, factor: str, mean: str) -> Optional[list]:
        """The nodes of `-(mean * factor)`, of `(-mean) * factor` or of `mean * (-factor)`."""
        negative = self._node(ref, "Neg")
        if negative is not None:
            product = self._product(negative.input[0], factor, mean)
            return None if product is None else [negative.name, *product]
        product = self._node(ref, "Mul")
        for one, other in ((mean, factor), (factor, mean)):
            for given, rest in () if product is None else (product.input[:2], product.input[1::-1]):
                negative = self._node(given, "Neg")
                if negative is not None and tensor_of(negative.input[0]) == one and tensor_of(rest) == other:
                    return [product.name, negative.name]
        return None

    def _product(self, ref: str, factor: str, mean: str) -> Optional[list]:
        node = self._node(ref, "Mul")
        return [node.name] if node is not None and {tensor_of(r) for r in node.input[:2]} == {factor, mean} else None
