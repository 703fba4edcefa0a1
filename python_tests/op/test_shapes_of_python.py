"""The rules of shapes in Python, which stock ops go by, are those of `Infer`, which our ops go by.

Random calls of layers and blocks, right or with one wrong size, with sizes and ranks that are known or not: both infer
the same shape, or both refuse.
"""

from __future__ import annotations

import contextlib
import re

import numpy as np
import pytest
import tensorflow as tf

from tf_dwsconv import _shapes
from tf_dwsconv._arguments import Attributes, Tensors
from tf_dwsconv._tf import dispatch
from tf_dwsconv.activations import NONE, PRELU, Fused

pytestmark = pytest.mark.usefixtures("op_library")
ARGUMENTS = sorted(
    ["x", "input", *(n for n in Tensors._fields if n != "gate"), "scale", "output"], key=len, reverse=True
)


class Calls:
    """Draws calls that fit, and spoils some of their sizes, or forgets them."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)

    def one_of(self, *items):
        return items[self.rng.integers(len(items))]

    def pair(self, *items):
        return self.one_of(*items), self.one_of(*items)

    def attributes(self):
        layout, padding = self.one_of("NHWC", "NCHW"), self.one_of("SAME", "VALID", "EXPLICIT")
        pads = [(0, 0), self.pair(0, 1, 2), self.pair(0, 1, 2)]
        pads.insert(3 if layout == "NHWC" else 1, (0, 0))
        return Attributes(
            strides=self.pair(1, 1, 2, 3), dilations=self.pair(1, 1, 2), padding=padding, data_format=layout,
            explicit_paddings=tuple(np.ravel(pads).tolist()) if padding == "EXPLICIT" else (),
        )  # fmt: skip

    def call(self):
        """(x, shapes, attributes)."""
        attributes = self.attributes()
        is_first = attributes.data_format == "NCHW"
        n, h, w, c, m, k = (int(self.rng.integers(low, high)) for low, high in
                            ((0, 3), (1, 9), (1, 9), (1, 5), (1, 3), (1, 5)))  # fmt: skip
        x, shapes = [n, c, h, w] if is_first else [n, h, w, c], {}
        stages = self.one_of("dp", "dp", "edp", "ed", "d", "p", "dense", "dgp", "")
        if "e" in stages and stages != "dense":
            e = int(self.rng.integers(1, 5))
            shapes.update(expand_filter=[1, 1, c, e], expand_bias=[e], expand_slopes=[e])
            c = e
        if "d" in stages and stages != "dense":
            shapes.update(
                depthwise_filter=[*self.pair(1, 2, 3), c, m], depthwise_bias=[c * m], depthwise_slopes=[c * m]
            )
            c *= m
        if "g" in stages:
            shapes["gate"] = self.one_of([n, c], [n, c, 1, 1] if is_first else [n, 1, 1, c])
        if stages == "dense" or "p" in stages:
            window = self.pair(1, 2, 3) if stages == "dense" else (1, 1)
            shapes.update(pointwise_filter=[*window, c, k], bias=[k], slopes=[k])
        for name in ("expand_bias", "depthwise_bias", "bias"):
            if self.one_of(True, False):
                shapes.pop(name, None)
        words = {}
        for stage in ("expand_", "depthwise_", ""):
            word = self.one_of(NONE, Fused("relu"), PRELU)
            if f"{stage}slopes" in shapes and word != PRELU:
                del shapes[f"{stage}slopes"]
            if stage != "" or "pointwise_filter" in shapes:
                has_stage = {"": True}.get(stage, f"{stage}filter" in shapes)
                words[f"{stage}activation"] = word if has_stage else NONE
        attributes = attributes._replace(**words)
        if self.one_of(True, False):
            with contextlib.suppress(ValueError):
                shapes["residual"] = _shapes.check(x, Tensors(**shapes), attributes)
        return self.spoiled({"x": x, **shapes}, attributes)

    def spoiled(self, shapes, attributes):
        for kind in self.one_of([], ["unknown"], ["size"], ["rank"], ["size"], ["unranked", "unknown", "unknown"]):
            name = self.one_of(*shapes)
            shape = list(shapes[name]) if isinstance(shapes[name], list) else None
            if not shape:
                continue
            place = int(self.rng.integers(len(shape)))
            if kind == "rank":
                shape = [*shape, 1]
            elif kind == "unranked":
                shape = None
            else:
                shape[place] = None if kind == "unknown" else int(self.one_of(0, 1, 2, 7))
            shapes[name] = shape
        return shapes.pop("x"), shapes, attributes


def of_python(x, shapes, attributes):
    known = {name: _shapes.UNRANKED if shape is None else shape for name, shape in shapes.items()}
    try:
        return _shapes.check(_shapes.UNRANKED if x is None else x, Tensors(**known), attributes)
    except ValueError as error:
        return argument(str(error))


def of_infer(x, shapes, attributes):
    with tf.Graph().as_default():
        made = {name: tf.compat.v1.placeholder(tf.float32, shape) for name, shape in {"x": x, **shapes}.items()}
        try:
            y = dispatch.run(made.pop("x"), Tensors(**made), attributes)
        except (ValueError, tf.errors.InvalidArgumentError) as error:
            return argument(str(error))
        assert y.op.type.startswith("TfDwsconv>")
        return y.shape.as_list() if y.shape.rank is not None else [None] * 4


def argument(message):
    """The argument that a message is about. One wrong size contradicts two of them, so it may be either."""
    found = re.search(rf"\b({'|'.join(ARGUMENTS)})\b", message)
    assert found is not None, message
    return found[1]


def agrees(python, infer):
    """Whether both refuse, or give a shape that is the same as far as Python knows: `Infer` reads the residual's."""
    if isinstance(python, str) or isinstance(infer, str):
        return isinstance(python, str) and isinstance(infer, str)
    return len(python) == len(infer) and all(a in (None, b) for a, b in zip(python, infer))


def test_the_same_shapes_and_the_same_refusals():
    counts = {"fit": 0, "refused": 0}
    calls = Calls(0)
    for number in range(1000):
        given = calls.call()
        expected, found = of_infer(*given), of_python(*given)
        assert agrees(found, expected), (number, given, found, expected)
        counts["fit" if isinstance(found, list) else "refused"] += 1
    assert min(counts.values()) > 200, counts
