"""The tuner on a machine with other work to do: what it then measures is not believed. All times here are made up."""

from __future__ import annotations

import random
import types

import pytest
from conftest import check_python
from tune_support import PROBLEM, cache, in_use, odd_choice, tuning  # noqa: F401

from tf_dwsconv import tune
from tf_dwsconv.tune import _cache, _search


class Host:
    """Seconds of a call by a plan, on a clock of its own that only these calls move.

    Args:
        quiet: seconds of a call by a plan with nobody else there.
        load: by time, whether somebody has one of the two cores, with which two threads take `slower` times as long.
        told: of the time that others take, the share that the system tells.
    """

    def __init__(self, monkeypatch, quiet, load=lambda now: False, slower=1.6, told=1.0):
        self.now = self.others = 0.0
        self._quiet, self._load, self._slower, self._told = quiet, load, slower, told
        self._random = random.Random(0)
        clock = types.SimpleNamespace(perf_counter=lambda: self.now, process_time=lambda: 0.0)
        monkeypatch.setattr(_search, "time", clock)
        monkeypatch.setattr(_search, "_busy_seconds", lambda: self.others)
        monkeypatch.setattr(_search.Bench, "sample", lambda bench, plan: self._sample(plan))

    def _sample(self, plan):
        seconds = self._quiet(plan) * self._random.uniform(1.0, 1.01)
        loaded = self._load(self.now)
        if loaded and plan["threads"] > 1:
            seconds *= self._slower
        self.now += seconds
        self.others += self._told * seconds if loaded else 0.0
        return seconds


def two_threads_are_better(plan):
    """By 1.3 times; for the rest all plans are alike."""
    return 1e-3 if plan["threads"] > 1 else 1.3e-3


def bursts(share, length):
    """Load for that share of all spans of that length, by chance."""
    return lambda now: random.Random(int(now / length)).random() < share


# Load that may last for all of the measurements can only be told.
LOADS = [
    (share, length, told)
    for share in (0.3, 0.6, 0.85)
    for length in (2e-3, 20e-3, 0.2)
    for told in (0.0, 1.0)
    if told or (share, length) != (0.85, 0.2)
]


@pytest.mark.parametrize("share, length, told", LOADS)
def test_a_busy_core_makes_no_plan_of_one_thread(cache, monkeypatch, share, length, told):
    """Under load one thread seems to win by 1.2 times, which is not true of the machine."""
    host = Host(monkeypatch, two_threads_are_better, bursts(share, length), told=told)
    (result,) = tune.tune([PROBLEM], num_threads=2, seconds=2.0, progress=lambda *told: None)
    assert host.others > 0 or not told
    assert not result.kept and result.planned["threads"] == 2
    assert _cache.read(cache) == []


def test_a_core_that_is_busy_all_the_time(cache, monkeypatch):
    """Then every measurement agrees with every other, and only the system knows."""
    Host(monkeypatch, two_threads_are_better, lambda now: True)
    with pytest.warns(RuntimeWarning, match=r"2x20x20x24 -> 70, 3x3 float32: the machine is not quiet: other programs"):
        (result,) = tune.tune([PROBLEM], num_threads=2)
    assert result.best["threads"] == 1 and result.gain > 1.1 and result.noise > result.gain
    assert not result.kept and "the gain is 1.2" in result.refused
    assert _cache.read(cache) == []


def test_the_pace_changes_between_two_measurements(cache, monkeypatch):
    """The same plan at other paces: whoever wins by less than that has won nothing."""
    host = Host(monkeypatch, lambda plan: (1.0e-3 if plan["threads"] == 1 else 1.1e-3) * (1 + host.now / 2))
    (result,) = tune.tune([PROBLEM], num_threads=2, progress=lambda *told: None)
    assert result.best["threads"] == 1 and result.gain == pytest.approx(1.1, abs=0.02)
    assert not result.kept and "two measurements of one plan differ by 1." in result.refused
    assert _cache.read(cache) == []


def one_thread(bench):
    return lambda plan: plan["threads"] == 1


def one_neighbour(bench):
    """A plan that the first sweep tries."""
    tried = _search._distinct(bench, [{**bench.planned, **change} for change in _search._block_changes(bench)])
    fast = next(plan for plan in tried if plan != bench.planned)
    return lambda plan: plan == fast


@pytest.mark.parametrize("fast", [one_thread, one_neighbour])
@pytest.mark.parametrize("share", [0.0, 0.02])
@pytest.mark.parametrize("gain", [1.06, 1.5])
def test_a_real_gain_is_kept(cache, monkeypatch, gain, share, fast):
    """By another block, or by one thread for two: also beside a little load."""
    is_fast = fast(_search.Bench(PROBLEM, "float32", 2, None))
    Host(monkeypatch, lambda plan: 1e-3 if is_fast(plan) else gain * 1e-3, bursts(share, 2e-3))
    (result,) = tune.tune([PROBLEM], num_threads=2, seconds=4.0)
    assert result.kept and is_fast(result.best) and not is_fast(result.planned) and result.refused == ""
    assert result.gain == pytest.approx(gain, rel=0.02) and result.noise < result.gain
    assert in_use(num_threads=2) == (True, result.best)


def test_what_a_quiet_run_kept_stays(cache, monkeypatch):
    """Noise is no reason to drop a plan either."""
    line = tuning(odd_choice(), num_threads=2)["line"]
    _cache.update(cache, [line])
    Host(monkeypatch, two_threads_are_better, bursts(0.5, 0.3))
    (result,) = tune.tune([PROBLEM], num_threads=2, progress=lambda *told: None)
    assert result.refused and _cache.read(cache) == [line]
    Host(monkeypatch, two_threads_are_better)
    (result,) = tune.tune([PROBLEM], num_threads=2, progress=lambda *told: None)
    assert not result.refused and _cache.read(cache) == []


COMMAND = """
from tf_dwsconv.tune import __main__ as command, _search
_search.OtherPrograms.slowdown = lambda self: 100.0
assert command.main(["--shape=1,8,8,16,16", "--seconds=0.02", "--threads=1"]) == 0
"""


def test_the_command_says_so(cache):
    """A line for the layer, a column of the table, a count at the end; not an error."""
    out = check_python(COMMAND)
    assert "plans, the machine is not quiet: other programs took as much" in out and " not quiet" in out
    assert f"0 plans kept in {cache}\nNot decided, as the machine was not quiet: 1 of 1 layers." in out
    assert _cache.read(cache) == []


def test_one_comparison():
    """`compare` by hand: the least ratio counts, of the duels and of the samples that ran undisturbed."""
    assert _search.compare([([1.2, 1.2, 1.2], [1.0, 1.0, 1.0])] * 3) == (pytest.approx(1.2), 1.0)
    gain, spread = _search.compare([([1.2] * 3, [1.0] * 3), ([1.2] * 3, [1.1] * 3)])
    assert gain == pytest.approx(1.2 / 1.1) and spread == pytest.approx(1.1)
    # Three of twenty samples of the planner's plan had the machine to themselves.
    gain, spread = _search.compare([([0.9] * 3 + [1.2] * 17, [1.0] * 20)])
    assert gain == pytest.approx(0.9) and spread == 1.0


def test_what_others_do_is_read_from_the_system():
    """For real: nothing negative, and no more than there are cores."""
    others = _search.OtherPrograms()
    assert 1.0 <= others.slowdown() <= 100.0
    assert _search._busy_seconds() is None or _search._busy_seconds() > 0
