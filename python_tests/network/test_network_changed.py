"""Programs with numbers that somebody changed: `native.Network` refuses one, or computes what it says now."""

from __future__ import annotations

import copy
import json

import numpy as np
import program_reference
import pytest
from program_reference import Builder
from test_network_native import OPS, one_op, random_program

from tf_dwsconv import native

# None of them makes a map that is large.
NUMBERS = (-1, 0, 1, 2, 3, 4, 7, 19, 37, 0.5, None)


def places(value, path=()):
    """Where numbers stand in a program, as lists of keys."""
    if isinstance(value, dict):
        return [place for key, of in value.items() for place in places(of, (*path, key))]
    if isinstance(value, list):
        return [place for i, of in enumerate(value) for place in places(of, (*path, i))]
    return [path] if isinstance(value, (int, float)) and not isinstance(value, bool) else []


def changed(program: dict, path, number) -> dict:
    """A copy with another number in one place."""
    program = copy.deepcopy(program)
    within = program
    for key in path[:-1]:
        within = within[key]
    within[path[-1]] = number
    return program


def outcome(builder: Builder, program: dict) -> bool:
    """Whether it is a program and runs; if so, it is compared with float64."""
    rng = np.random.default_rng(0)
    try:
        network = native.Network.from_program(json.dumps(program), builder.weights)
        shapes = [[2 if size is None else size for size in entry["shape"]] for entry in network.inputs]
        inputs = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]
        given = network(inputs, num_threads=2)
    except ValueError:
        return False
    if all(min(shape) > 0 for shape in shapes):
        kept: list = []
        with np.errstate(all="ignore"):
            expected = program_reference.run(program, builder.weights, inputs, kept)
        # Sums of a few hundred terms, and what divides by a spread that may be small now.
        largest = max(np.abs(y[np.isfinite(y)]).max(initial=1.0) for y in kept)
        for y, wanted in zip(given if isinstance(given, list) else [given], expected):
            np.testing.assert_allclose(y, wanted, rtol=0, atol=1e-4 * largest)
    return True


def check(builder: Builder, seed: int, changes: int) -> None:
    """Some of the program's changes, drawn: there are some that run, and some that are refused."""
    rng = np.random.default_rng(seed)
    where = [path for path in places(builder.program) if path[0] in ("inputs", "steps", "outputs")]
    outcomes = set()
    for _ in range(changes):
        path, number = where[rng.integers(len(where))], NUMBERS[rng.integers(len(NUMBERS))]
        outcomes.add(outcome(builder, changed(builder.program, path, number)))
    assert outcomes == {False, True}


@pytest.mark.parametrize("name", OPS)
def test_one_op(name):
    check(one_op(name, "float32")[0], OPS.index(name), changes=40)


@pytest.mark.parametrize("seed", range(8))
def test_random_program(seed):
    check(random_program(seed)[0], seed, changes=60)
