"""What the tests of tuned plans share: a layer, plans for it, and a file to keep them in."""

from __future__ import annotations

import numpy as np
import pytest

from tf_dwsconv import native, tune
from tf_dwsconv.analysis import Problem
from tf_dwsconv.native import _native
from tf_dwsconv.tune import _search

# Of this layer in most tests: 20x20 pixels, 24 channels to 70.
PROBLEM = Problem(N=2, H=20, W=20, C=24, K=70)
SHAPES = ((2, 20, 20, 24), (3, 3, 24, 1), (1, 1, 24, 70))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A file for tuned plans, not there yet; in the end this process forgets what it has read of it."""
    path = tmp_path / "cache" / "plans.txt"
    monkeypatch.setenv("DWSCONV_PLAN_CACHE", str(path))
    yield path
    monkeypatch.setenv("DWSCONV_PLAN_CACHE", "off")
    assert tune.reload() == 0


def choice(**changes):
    """The planner's choice for the layer, changed."""
    plan = native.plan(*SHAPES, variant="fused")
    return {**{name: plan[name] for name in _search.CHOICES}, **changes}


def odd_choice():
    """A choice that the planner does not make: a block that is no whole rows, one panel of output channels."""
    tile = tuning()["tile_channels"]
    plan = choice(block_pixels=13, block_channels=tile)
    assert plan != choice()
    return plan


def tuning(plan=None, num_threads=0):
    """What the compiled half tells the tuner of the layer."""
    options = native._options(1, "SAME", 1, "NHWC", None, None, isa=None, variant="auto")
    return _native.tuning((*(list(shape) for shape in SHAPES), None), "float32", options, num_threads, plan)


def arrays(dtype="float32"):
    """Numbers for the layer's input and filters."""
    random = np.random.default_rng(1)
    return [random.uniform(-1, 1, shape).astype(dtype) for shape in SHAPES]


def in_use(**options):
    """What `native.plan` says of the layer."""
    plan = native.plan(*SHAPES, **options)
    return plan["tuned"], {name: plan[name] for name in _search.CHOICES}
