"""The other runtimes of the layer benchmark compute the same layer; a run on a loaded machine is marked as one."""

from __future__ import annotations

import importlib.util
import time

import numpy as np
import pytest
from common.layer_table import LAYERS, SUITES
from measuring import layer_runtimes, layers, load

from tf_dwsconv.analysis import Problem


@pytest.mark.parametrize("name", layer_runtimes.RUNTIMES)
@pytest.mark.parametrize(
    "problem",
    [
        Problem(N=2, H=9, W=8, C=6, K=5),
        Problem(N=1, H=12, W=9, C=4, K=8, R=5, S=5, stride=2),
        Problem(N=1, H=9, W=9, C=3, K=4, padding="VALID"),
    ],
    ids=str,
)
def test_a_runtime_computes_the_layer(name, problem):
    missing = [package for package in layer_runtimes.NEEDS[name] if importlib.util.find_spec(package) is None]
    if missing:
        pytest.skip(f"{missing[0]} is not installed")
    data = layers.draw(problem, dense=False, train=False, seed=0)
    calls = layers.calls(["separable", name], ["graph"], data, "float32", 1)
    assert list(calls) == [("separable", "graph"), (name, "call")]
    expected = calls["separable", "graph"]()
    for _ in range(2):
        found = calls[name, "call"]()
        assert np.asarray(found).shape == tuple(expected.shape)
        # Sums of at most 25 and of 8 products, in another order.
        assert layers.difference(found, expected) < 4 * 33 * np.finfo(np.float32).eps


def test_runtimes_are_left_out_where_they_cannot_compute():
    problem = Problem(N=1, H=4, W=4, C=2, K=2)
    for dtype, train in (("bfloat16", False), ("float32", True)):
        data = layers.draw(problem, dense=False, train=train, seed=0)
        assert list(layers.calls([*layer_runtimes.RUNTIMES], [], data, dtype, 1)) == []


def test_suites_of_the_performance_page():
    assert len(SUITES["all"]) == len(LAYERS) == 25
    assert len(SUITES["training"]) == 8


def watch_with(monkeypatch, readings, own):
    """A `load.Watch` for which a second passes, and Linux and our own process count as given."""
    counted, used, clock = iter(readings), iter(own), iter([0.0, 1.0, 1.0])
    monkeypatch.setattr(load, "_counted", lambda: next(counted))
    monkeypatch.setattr(load, "_own", lambda: next(used))
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    return load.Watch()


@pytest.mark.parametrize(
    "worked, stolen, own, others",
    [(2.0, 0.0, 2.0, 0.0), (2.0, 0.0, 1.0, 1.0), (1.0, 0.5, 1.0, 0.5), (1.0, 0.0, 1.1, 0.0)],
)
def test_what_others_took(monkeypatch, worked, stolen, own, others):
    watch = watch_with(monkeypatch, [(5.0, 1.0), (5.0 + worked, 1.0 + stolen)], [3.0, 3.0 + own])
    verdict = watch.verdict(2)
    assert verdict == {"others_cores": pytest.approx(others), "loaded": others > 0.2}
    assert ("LOADED" in load.warning(verdict, 2)) == (others > 0.2)


def test_a_system_that_does_not_say(monkeypatch):
    def missing():
        raise OSError("no /proc")

    monkeypatch.setattr(load, "_counted", missing)
    verdict = load.Watch().verdict(2)
    assert verdict == {"others_cores": "unknown", "loaded": "unknown"} and load.warning(verdict, 2) == ""


def test_linux_counts_what_we_use():
    """Busy for a moment, this process counts as itself and not as others."""
    watch = load.Watch()
    end = time.process_time() + 0.2
    while time.process_time() < end:
        pass
    assert load._own() - watch.own >= 0.2
    assert load._counted()[0] - watch.counted[0] >= 0.1
