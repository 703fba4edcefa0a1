"""The benchmark of one layer: its table, its plot, and what it says of wrong flags. Nothing here is timed."""

import pytest
from example_support import LIMITS, check_refused, rows_of, run_quickly

PROGRAM = "benchmarks/benchmark_layer.py"
TWO = ("--shape=1,9,9,8", "--filters=4", "--shape=2,6,5,3", "--filters=7")


@pytest.mark.parametrize(
    ("flags", "tolerance", "rows"),
    [
        ([*TWO, "--modes=eager,graph,xla", "--variants=dense,pair,separable,ours,native"], 2e-5, 2 * (4 * 3 + 1)),
        (
            [
                "--shape=1,9,9,8",
                "--filters=4",
                "--train",
                "--strides=2",
                "--kernel_size=5",
                "--variants=separable,ours",
            ],
            1e-4,
            2,
        ),
        (
            ["--shape=1,9,9,8", "--filters=4", "--dtype=bfloat16", "--threads=1", "--variants=separable,ours,native"],
            3e-2,
            3,
        ),
    ],
    ids=["forward", "train", "bfloat16"],
)
def test_table_and_plot(tmp_path, flags, tolerance, rows):
    found = run_quickly(PROGRAM, tmp_path / "out", *flags, *LIMITS, "--repeat=2")
    table = rows_of(found, "layers")
    assert len(table) == rows and found["figures"][0]["file"] == "layer.png"
    for row in table:
        assert row["ms_low"] <= row["ms"] <= row["ms_high"]
        assert row["variant"] == "dense" or float(row["difference"]) < tolerance
        batch = int(row["layer"].split("x")[0])
        assert row["conv_per_s"] == pytest.approx(1e3 * batch / row["ms"])
    assert found["settings"]["tf_dwsconv_runs"] == "fused kernels"


def test_figures_of_a_row(tmp_path):
    """GFLOP/s, GB/s and the share of the limit, from the counts written out."""
    flags = ["--shape=2,8,8,16", "--filters=32", "--variants=dense,separable", "--repeat=1", "--noplot"]
    found = run_quickly(PROGRAM, tmp_path, *flags, *LIMITS)
    dense, separable = rows_of(found, "layers")
    pixels = 2 * 8 * 8
    for row, multiply_adds, filters in (
        (dense, pixels * 9 * 16 * 32, 9 * 16 * 32),
        (separable, pixels * 16 * (9 + 32), 16 * 9 + 16 * 32),
    ):
        seconds, moved = row["ms"] / 1e3, 4 * (pixels * (16 + 32) + filters)
        assert row["gflops"] == pytest.approx(2e-9 * multiply_adds / seconds)
        assert row["gbs"] == pytest.approx(1e-9 * moved / seconds)
        assert row["limit_percent"] >= 99 * (2 * multiply_adds / 100e9) / seconds
    assert found["figures"] == []


def test_a_package_that_is_not_there_is_named(tmp_path):
    """PyTorch is no part of the test environment; where it is, its result is compared like any other."""
    found = run_quickly(
        PROGRAM, tmp_path, "--shape=1,5,5,2", "--filters=3", "--variants=ours,torch", "--repeat=1", "--noplot", *LIMITS
    )
    variants = [row["variant"] for row in rows_of(found, "layers")]
    assert ("torch" in variants) != any("torch: not installed" in note for note in found["notes"])


def test_cases_are_timed_beside_stock(tmp_path):
    """The list of docs/tuning.md: one of each kind and pass, with the same answers."""
    match = "16x64x128x1|8x22x256x8.*dX|dense 8x64x64x1 5x5|EEGNet 1x"
    flags = ["--cases=slow", f"--match={match}", "--repeat=1", "--seconds=0.01"]
    rows = rows_of(run_quickly(PROGRAM, tmp_path, *flags), "cases")
    assert [row["pass"] for row in rows] == ["forward", "gradient", "dX", "predict", "predict"]
    for row in rows:
        assert row["gain"] == pytest.approx(row["stock_ms"] / row["ours_ms"])
        assert float(row["difference"]) < 1e-4


def test_cases_that_do_not_exist_are_refused(tmp_path):
    check_refused(PROGRAM, tmp_path, ["--cases=fast"], "cases")
    check_refused(PROGRAM, tmp_path, ["--cases=slow", "--match=9x9x9"], "fits no case")
