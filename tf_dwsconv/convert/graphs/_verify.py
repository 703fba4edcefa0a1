"""Runs a graph before and after its conversion on the same random input."""

from __future__ import annotations

import time
from typing import Any, NamedTuple, Optional

import numpy as np
import tensorflow as tf

from tf_dwsconv.convert.graphs._nodes import is_stateful
from tf_dwsconv.convert.graphs._source import Signature, Source
from tf_dwsconv.convert.graphs._write import function

_BATCH = 2
_SIZE = 64  # of an axis whose size is not known
_ROUNDS = 5
# More than rounding can do, where sums are long and their results small.
_LARGEST = 1e-2


class Comparison(NamedTuple):
    """How one signature answers before and after.

    difference: the largest, of any output. largest: of any output of the graph as it was. before, after: milliseconds.
    """

    signature: str
    difference: float
    largest: float
    before: float
    after: float

    def __str__(self) -> str:
        return (
            f"{self.signature}: largest difference {self.difference:.2g} (largest output {self.largest:.2g}); "
            f"{self.after:.3g} ms (before: {self.before:.3g} ms)"
        )


def why_not(signature: Signature, sizes: bool) -> str:
    """Why a signature cannot be run on random input; "" where it can.

    Args:
        sizes: whether all sizes but the batch's have to be known.
    """
    for key, spec in signature.specs.items():
        if not (spec.dtype.is_floating or spec.dtype.is_integer or spec.dtype.is_bool):
            return f"its input {key!r} is of dtype {spec.dtype.name}"
        if spec.shape.rank is None:
            return f"the rank of its input {key!r} is not known"
        if sizes and None in spec.shape.as_list()[1:]:
            return f"its input {key!r} has sizes that are not known ({spec.shape}); --verify takes {_SIZE} for them"
    return ""


def compare(source: Source, signature: Signature, folder: str) -> Comparison:
    """Runs a signature of what was opened and of the SavedModel that was written, in turn.

    Raises:
        ValueError: the answers differ by more than rounding.
    """
    before = source.original(signature.name)
    if isinstance(before, Signature):
        before = function(before)
    loaded = tf.saved_model.load(folder)
    after = loaded.signatures[signature.name]
    inputs = random_inputs(signature)
    expected, given = before(**inputs), after(**inputs)
    difference, largest = 0.0, 0.0
    for key, spec in signature.results.items():
        old, new = expected[key], given[key]
        if old.dtype != new.dtype or old.shape != new.shape:
            raise ValueError(
                f"the output {key!r} is {new.dtype.name} {new.shape}, and was {old.dtype.name} {old.shape}"
            )
        if not spec.dtype.is_floating:
            continue
        old, new = (np.asarray(tf.cast(t, tf.float64)) for t in (old, new))
        same = (old == new) | (np.isnan(old) & np.isnan(new))
        gap = np.where(same, 0.0, np.abs(np.subtract(new, old, where=~same, out=np.zeros_like(old))))
        difference = max(difference, float(gap.max(initial=0.0)))
        largest = max(largest, float(np.abs(old[np.isfinite(old)]).max(initial=0.0)))
    has_state = any(is_stateful(node.op) for node in signature.nodes if not node.op.startswith("TfDwsconv>"))
    if not has_state and not difference <= _LARGEST * max(largest, 1e-30):
        raise ValueError(f"{signature.name!r} differs by {difference:.2g}, where its largest output is {largest:.2g}")
    times: list[list[float]] = [[], []]
    for _ in range(_ROUNDS):
        for run, taken in zip((before, after), times):
            start = time.perf_counter()
            run(**inputs)
            taken.append(1e3 * (time.perf_counter() - start))
    return Comparison(signature.name, difference, largest, min(times[0]), min(times[1]))


def random_inputs(signature: Signature, seed: int = 0) -> dict[str, Any]:
    """An input for each key of a signature: floats from 0 to 1, small integers."""
    rng = np.random.default_rng(seed)
    inputs = {}
    for key, spec in signature.specs.items():
        shape: list[Optional[int]] = spec.shape.as_list()
        sizes = [_BATCH if size is None and i == 0 else size or _SIZE for i, size in enumerate(shape)]
        values = rng.uniform(0, 1 if spec.dtype.is_floating else 2, sizes)
        inputs[key] = tf.cast(tf.constant(values), spec.dtype)
    return inputs
