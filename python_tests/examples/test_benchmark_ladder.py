"""The benchmark of the ladder: its tables, its plots, and what it says of wrong flags. Nothing here is timed."""

import pytest
from example_support import rows_of, run_quickly

from tf_dwsconv import native

PROGRAM = "benchmarks/benchmark_ladder.py"


def check_gains(rows):
    """That the columns of gains follow from the milliseconds."""
    last = first = rows[0]["ms"]
    for row in rows:
        assert row["over_first"] == pytest.approx(first / row["ms"], abs=0.01)
        assert row["over_last"] == pytest.approx(last / row["ms"], abs=0.01)
        assert float(row["difference"]) < 1e-5
        last = row["ms"]


def test_single_layers(tmp_path):
    found = run_quickly(PROGRAM, tmp_path, "--shape=1,9,8,5", "--shape=1,16,16,5", "--filters=7", "--repeat=1")
    rows = rows_of(found, "layers")
    assert tuple(row["variant"] for row in rows) == native.LADDER * 2
    for start in (0, len(native.LADDER)):
        check_gains(rows[start : start + len(native.LADDER)])
    assert [figure["file"] for figure in found["figures"]] == ["ladder_shapes.png"]
    steps = {each["what"]: each for each in found["comparisons"]}
    gain = steps["unrolling: reordered over unrolled"]
    assert gain["reported"] == 1.5
    by = {(row["layer"], row["variant"]): row["ms"] for row in rows}
    layers = {row["layer"] for row in rows}
    assert gain["ours"] == pytest.approx(
        max(by[layer, "reordered"] / by[layer, "unrolled"] for layer in layers), abs=0.01
    )


def test_sweeps(tmp_path):
    flags = ["--sizes=8,16", "--batch_size=1", "--channels=4,8", "--size=8", "--variants=naive,simd,fused"]
    found = run_quickly(PROGRAM, tmp_path, *flags, "--repeat=2")
    assert [row["layer"] for row in rows_of(found, "sizes")] == ["1x8x8x3 -> 3"] * 3 + ["1x16x16x3 -> 3"] * 3
    assert [row["layer"] for row in rows_of(found, "channels")] == ["1x8x8x4 -> 4"] * 3 + ["1x8x8x8 -> 8"] * 3
    assert {figure["file"] for figure in found["figures"]} == {"ladder_sizes.png", "ladder_channels.png"}
