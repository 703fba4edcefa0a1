"""What the tests of the layer share: an input, and how near results have to be."""

from __future__ import annotations

import numpy as np

X = np.random.default_rng(0).standard_normal((2, 12, 11, 6)).astype(np.float32)


def close(actual, expected, tolerance=2e-5):
    actual, expected = (np.asarray(t, np.float64) for t in (actual, expected))
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max(initial=0.0) <= tolerance * max(1.0, np.abs(expected).max(initial=0.0))
