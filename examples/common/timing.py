"""Timing two or more functions fairly on a machine that is not quiet."""

from __future__ import annotations

import dataclasses
import math
import statistics
import sys
import time
from collections.abc import Callable, Hashable

_BURST_SECONDS = 0.02
# Runtimes keep their threads spinning for a while after a call, on cores that the next one needs: layers of 2.5 ms took
# up to 4.5 ms without a pause. In 20 ms the cores fall asleep: a layer of 0.26 ms then took 0.5 ms, for 25 calls.
_PAUSE_SECONDS = 0.002


@dataclasses.dataclass(frozen=True)
class Timing:
    """What the calls of one function took, in milliseconds.

    Attributes:
        median: of all calls.
        low, high: the lower and the upper quartile, which error bars show. Both are the median where one call was made.
        calls: how many were timed.
    """

    median: float
    low: float
    high: float
    calls: int

    @classmethod
    def of(cls, milliseconds: list[float]) -> Timing:
        """The statistics of some calls, at least one."""
        if len(milliseconds) == 1:
            low = high = milliseconds[0]
        else:
            low, _, high = statistics.quantiles(milliseconds, n=4, method="inclusive")
        return cls(statistics.median(milliseconds), low, high, len(milliseconds))

    def spread(self) -> str:
        """The quartiles for a table."""
        return f"{self.low:.4g}..{self.high:.4g}"

    def row(self) -> dict[str, float]:
        """For a record: `ms`, `ms_low`, `ms_high`, `calls`."""
        return {"ms": self.median, "ms_low": self.low, "ms_high": self.high, "calls": self.calls}


def _wait_for_devices() -> None:
    """GPUs run behind; a CPU has ended already. Nothing to wait for where TensorFlow is not in use."""
    tensorflow = sys.modules.get("tensorflow")
    if tensorflow is not None:
        tensorflow.test.experimental.sync_devices()


def _seconds_of(function: Callable[[], object]) -> float:
    _wait_for_devices()
    start = time.perf_counter()
    function()
    _wait_for_devices()
    return time.perf_counter() - start


def time_in_turn(
    functions: dict[Hashable, Callable[[], object]],
    repeat: int,
    seconds: float = math.inf,
    warmups: int = 3,
    burst: int = 1,
    show: Callable[[str], None] = lambda text: None,
) -> dict[Hashable, Timing]:
    """Times each function after a warm-up.

    One call of each is taken in turn, so that a slow moment of the machine does not fall on one of them alone, and the
    order turns round every time, as what ran before leaves its traces in caches and clocks.

    Args:
        functions: callables without arguments, by name.
        repeat: timed calls of each, at the most.
        seconds: a function that has been timed three times gets no more calls once all of its calls, those of the
            warm-up too, have taken this long. One whose first call takes longer is timed once more and that is all.
        warmups: calls before the timed ones, at the most; a function's warm-up ends early after a third of `seconds`.
        burst: timed calls of a turn, at the most, of a function that takes less than 20 ms: as many as fill that time.
            With more than one there are a short pause before them, in which the last function's threads stop spinning,
            and a call that warms the caches again. Such a function gets up to `burst` times `repeat` calls.
        show: called with the name of what is timed now, for a line of progress.

    Returns:
        A `Timing` for each name.
    """
    spent = dict.fromkeys(functions, 0.0)
    fewest, bursts = {}, {}
    for name, function in functions.items():
        show(f"{name}: first calls")
        for _ in range(max(1, warmups)):
            took = _seconds_of(function)
            spent[name] += took
            if spent[name] > seconds / 3:
                break
        fewest[name] = 1 if spent[name] > seconds else 3
        bursts[name] = max(1, min(burst, int(_BURST_SECONDS / max(took, 1e-9))))
    taken: dict[Hashable, list[float]] = {name: [] for name in functions}
    order = list(functions)
    for turn in range(repeat):
        order.reverse()
        for name in order:
            if len(taken[name]) >= fewest[name] and spent[name] > seconds:
                continue
            show(f"{name}: turn {turn + 1} of {repeat} at the most")
            if burst > 1:
                time.sleep(_PAUSE_SECONDS)
            if bursts[name] > 1:
                spent[name] += _seconds_of(functions[name])
            for _ in range(bursts[name]):
                took = _seconds_of(functions[name])
                spent[name] += took
                taken[name].append(1e3 * took)
    show("")
    return {name: Timing.of(times) for name, times in taken.items()}


def medians_in_turn(functions: dict[Hashable, Callable[[], object]], repeat: int) -> dict[Hashable, float]:
    """`time_in_turn`, and of that the medians alone, in milliseconds by name."""
    return {name: timing.median for name, timing in time_in_turn(functions, repeat).items()}
