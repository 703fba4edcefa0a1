"""Timing two or more functions fairly on a machine that is not quiet."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Hashable

import tensorflow as tf


def time_in_turn(functions: dict[Hashable, Callable[[], object]], repeat: int) -> dict[Hashable, float]:
    """Times each function after a warm-up.

    One call of each is taken in turn, so that a slow moment of the machine does not fall on one of them alone, and the
    order turns round every time, as what ran before leaves its traces in caches and clocks.

    Args:
        functions: callables without arguments that run TensorFlow ops, by name.
        repeat: timed calls of each.

    Returns:
        Milliseconds of one call by name: the median.
    """
    for _ in range(3):
        for function in functions.values():
            function()
    taken = {name: [] for name in functions}
    order = list(functions)
    for _ in range(repeat):
        order.reverse()
        for name in order:
            tf.test.experimental.sync_devices()
            start = time.perf_counter()
            functions[name]()
            tf.test.experimental.sync_devices()  # GPUs run behind; the CPU has ended already
            taken[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(times) for name, times in taken.items()}
