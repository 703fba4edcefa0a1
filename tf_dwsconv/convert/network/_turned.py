"""Transpositions beside products of matrices, and reshapes one behind the other, for `_tidy`."""

from __future__ import annotations

import dataclasses
import math
from typing import Optional

from tf_dwsconv._program_steps import Step
from tf_dwsconv.convert.network._builder import Builder


def factor(builder: Builder, before: Step, step: Step) -> Optional[Step]:
    """A product reads a factor whose last two axes change places as it was before."""
    if step.op != "matmul" or not _turns_matrices(before) or step.reads["x"] == step.reads["y"]:
        return None
    key = "x" if step.reads["x"] == before.output else "y"
    turned = step.with_options(**{f"transpose_{key}": not step.options[f"transpose_{key}"]})
    return dataclasses.replace(turned, reads={**step.reads, key: before.reads["x"]})


def result(builder: Builder, before: Step, step: Step) -> Optional[Step]:
    """A product whose last two axes change places is that of the factors in the other order, each turned."""
    if before.op != "matmul" or not _turns_matrices(step):
        return None
    options = {"transpose_x": not before.options["transpose_y"], "transpose_y": not before.options["transpose_x"]}
    return dataclasses.replace(before.with_options(**options), reads={"x": before.reads["y"], "y": before.reads["x"]})


def _turns_matrices(step: Step) -> bool:
    if step.op != "transpose":
        return False
    axes = tuple(step.options["axes"])
    *front, rows, columns = range(len(axes))
    return len(axes) > 2 and axes == (*front, columns, rows)


def reshaped(builder: Builder, before: Step, step: Step) -> Optional[Step]:
    """Of two reshapes only the last says what there is."""
    if step.op != "reshape" or before.op != "reshape":
        return None
    pairs = zip(before.options["pictures"], step.options["pictures"])
    pictures = tuple(a * b for a, b in pairs)
    joined = step.with_options(pictures=tuple(n // math.gcd(*pictures) for n in pictures))
    return dataclasses.replace(joined, reads={"x": before.reads["x"]})
