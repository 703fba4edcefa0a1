"""The channel sweep: its table, what it leaves out, and what it says of wrong flags. Nothing here is timed."""

import pytest
from example_support import LIMITS, rows_of, run_quickly

PROGRAM = "benchmarks/benchmark_channels.py"


def test_the_sweep(tmp_path):
    flags = ["--channels=16,8,32", "--size=8", "--batch_size=2", "--repeat=1", "--max_gflop=0.002", *LIMITS]
    found = run_quickly(PROGRAM, tmp_path, *flags)
    rows = rows_of(found, "channels")
    # 2 * 2*64 * 9 * 32^2 operations are 0.0024 GFLOP: the dense layer of 32 channels is left out, and that is said.
    assert [(row["channels"], row["variant"]) for row in rows] == [
        *((c, name) for c in (8, 16) for name in ("dense", "separable", "ours", "native")),
        *((32, name) for name in ("separable", "ours", "native")),
    ]
    assert any("dense at 32 channels left out" in note for note in found["notes"])
    by = {(row["channels"], row["variant"]): row for row in rows}
    for row in rows[:8]:
        assert row["over_dense"] == pytest.approx(by[row["channels"], "dense"]["ms"] / row["ms"])
        assert row["conv_per_s"] == pytest.approx(2e3 / row["ms"])
    assert "over_dense" in rows[8] and rows[8]["over_dense"] is None
