"""arithmetic_intensity.py and communication.py: the study's tables, counts, bounds, and wrong flags."""

import pytest
from example_support import LIMITS, rows_of, run_quickly

INTENSITY = "benchmarks/arithmetic_intensity.py"
COMMUNICATION = "benchmarks/communication.py"


def test_the_studys_tables_are_reproduced_exactly(tmp_path):
    """147k and 18k parameters, 7.4 and 0.88 GFLOP, 26.0 and 25.7 MB, 569.5 and 68.4, 106.5 and 111.4 GB/s."""
    found = run_quickly(INTENSITY, tmp_path, "--nomeasure", *LIMITS)
    dense, separable = rows_of(found, "study")
    assert [dense[key] for key in ("parameters", "gflop", "mb", "intensity")] == ["147k", "7.4", "26.0", "569.5"]
    assert [separable[key] for key in ("parameters", "gflop", "mb", "intensity")] == ["18k", "0.88", "25.7", "68.4"]
    theory = [each for each in found["comparisons"] if each["source"].startswith("GPU study")]
    assert len(theory) == 10 and all(each["ours"] == each["reported"] for each in theory)
    assert {each["reported"] for each in theory} >= {"106.5", "111.4"}
    # The readers' correction: (3C + K)HW elements and the filters.
    unfused = next(row for row in rows_of(found, "layers") if row["kind"] == "DWS, unfused")
    assert unfused["accesses"] == (3 * 128 + 128) * 224 * 224 + 9 * 128 + 128 * 128
    assert "ms" not in unfused


def test_layers_are_measured(tmp_path):
    found = run_quickly(
        INTENSITY, tmp_path, "--shape=1,8,8,4", "--filters=6", "--shape=2,6,6,3", "--filters=5", "--repeat=1", *LIMITS
    )
    rows = rows_of(found, "layers")
    assert [row["kind"] for row in rows] == ["dense", "DWS, ideal", "DWS, unfused"] * 3
    for row in rows[:6]:
        assert row["gflops"] == pytest.approx(row["mflop"] / row["ms"])
        assert row["gbs"] == pytest.approx(row["mb"] / row["ms"])
        assert row["limit_percent"] == pytest.approx(100 * row["limit_ms"] / row["ms"])
    for kind, total in zip(("dense", "DWS, ideal", "DWS, unfused"), rows[6:]):
        own = [row for row in rows[:6] if row["kind"] == kind]
        assert total["accesses"] == sum(row["accesses"] for row in own)


def test_a_model_is_counted(tmp_path):
    found = run_quickly(INTENSITY, tmp_path, "--model=MobileNet", "--nomeasure", *LIMITS)
    rows = [row for row in rows_of(found, "layers") if row["kind"] == "DWS, ideal"]
    assert len(rows) == 13 + 1  # its layers, and all of them
    # The depthwise and pointwise convolutions of MobileNetV1, but for the first layer and the classifier.
    assert rows[-1]["parameters"] == sum(
        c * (9 + k)
        for c, k in zip(
            (32, 64, 128, 128, 256, 256, *(512,) * 6, 1024), (64, 128, 128, 256, 256, *(512,) * 6, 1024, 1024)
        )
    )


def test_bounds_traffic_and_sweep(tmp_path):
    flags = [
        "--shape=1,16,16,16",
        "--filters=32",
        "--sweep_shape=1,16,16,16",
        "--nostudy",
        "--repeat=1",
        "--seconds=0.01",
    ]
    found = run_quickly(COMMUNICATION, tmp_path, *flags)
    for row in rows_of(found, "programs"):
        # No tile that fits moves less than the bound; the linear programs' optima leave constants out.
        if row.get("bound") and row.get("moved"):
            assert row["moved"] >= row["bound"]
    (traffic,) = rows_of(found, "traffic")
    assert traffic["unfused"] - traffic["once"] == pytest.approx(2 * 4 * 16 * 16 * 16 / 1e6)
    assert traffic["simulated"] >= 0.99 * traffic["bound"]
    sweep = rows_of(found, "sweep")
    assert min(row["over_best"] for row in sweep) == 1
    named = {name: row for row in sweep for name in row["is"].split(", ") if name}
    assert "planner" in named and named["one row"]["block_pixels"] == 16


def test_the_studys_profile_is_simulated(tmp_path):
    """X is read once and Y written once, like the kernels that the study profiled; one image in place of 16."""
    from tf_dwsconv import native

    told = native.traffic((1, 64, 64, 128), (3, 3, 128, 1), (1, 1, 128, 128), padding="VALID", dtype="float16")
    assert told["memory"]["read"]["x"] == pytest.approx(2 * 64 * 64 * 128, rel=0.05)
    found = run_quickly(COMMUNICATION, tmp_path, "--shape=1,8,8,4", "--filters=4", "--nosweep")
    loads, stores = found["comparisons"][-2:]
    assert (loads["reported"], stores["reported"]) == (193, 193)
    assert stores["ours"] == pytest.approx(16 * 222 * 222 * 128 * 2 / 1e6, rel=0.02)
    assert found["figures"] == []
