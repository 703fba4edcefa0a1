"""What the report opens with: ratios of the run, what is unclear, what was not timed; bars and axes of its plots."""

from __future__ import annotations

import re

import pytest
from common.timing import Timing
from measuring import here, plots


def layer_row(variant, ms, low=None, high=None, layer="1x8x8x4 -> 4, 3x3", mode="graph"):
    row = {"layer": layer, "variant": variant, "mode": mode, "ms": ms}
    return {**row, "ms_low": low or ms, "ms_high": high or ms}


def part(rows, name="layers", title="One layer", loaded=False):
    settings = {"cpu": "A CPU", "cores": 2, "loaded": loaded}
    return {"title": title, "settings": settings, "tables": [{"name": name, "rows": rows}]}


def test_ratios_are_times_of_the_others_over_ours():
    rows = [
        *(
            layer_row(name, ms, layer="a")
            for name, ms in (("separable", 4.0), ("ours", 2.0), ("native", 1.0), ("torch", 0.5))
        ),
        *(layer_row(name, ms, layer="b") for name, ms in (("separable", 8.0), ("ours", 1.0), ("native", 1.0))),
        layer_row("ours", 99.0, layer="a", mode="eager"),
    ]
    comparisons, absent = here.compare({"mobilenet": part(rows)})
    found = {(each.way, each.other): [ratio.times for ratio in each.ratios] for each in comparisons}
    assert found == {
        ("One layer in a tf.function", here.STOCK["separable"]): [2.0, 8.0],
        ("One layer on NumPy arrays", "PyTorch, channels_last"): [0.5],
    }
    assert comparisons[0].mean() == pytest.approx(4.0)
    assert [ratio.case for ratio in comparisons[0].ends()] == ["a", "b"]
    assert len(absent) == 3 and "LiteRT, XNNPACK (one layer on NumPy arrays)" in absent
    html = here.summary({"mobilenet": part(rows)}, {})
    assert "4 times as fast as" in html and "2 times as slow as PyTorch" in html and "OpenVINO" in html
    assert html.count('class="faster"') == html.count('class="slower"') == 1


def test_networks_are_told_by_their_batch():
    def row(peer, batch, ms):
        return {"batch": batch, "peer": peer, "ms": ms, "ms_low": ms, "ms_high": ms}

    rows = [
        row("stock", 1, 3.0),
        row("ours", 1, 2.0),
        row("stock", 8, 9.0),
        row("ours", 8, 3.0),
        row("ours_native", 8, 2.0),
    ]
    (found,), absent = here.compare({"models": part(rows, "models", "Inference of MobileNet, 224 x 224 pixels")})
    assert [(ratio.case, ratio.times) for ratio in found.ratios] == [
        ("MobileNet, batch 1", 1.5),
        ("MobileNet, batch 8", 3.0),
    ]
    assert len(absent) == 5  # the other runtimes


@pytest.mark.parametrize("low, is_unclear", [(1.9, True), (2.2, False)])
def test_times_that_overlap_are_marked(low, is_unclear):
    rows = [layer_row("ours", 2.0, 1.8, 2.1), layer_row("separable", 2.5, low, 2.7)]
    (found,), _ = here.compare({"layer": part(rows)})
    assert found.ratios[0].unclear is is_unclear
    assert ("~ unclear in 1 of 1" in here.summary({"layer": part(rows)}, {})) is is_unclear


def test_a_loaded_machine_is_told_before_any_figure():
    rows = [layer_row("ours", 2.0), layer_row("separable", 3.0)]
    html = here.summary({"layer": part(rows, loaded=True)}, {"layer": "The layer"})
    assert -1 < html.find("LOADED MACHINE") < html.find("The layer") < html.find("1.5 times")
    assert "LOADED" not in here.summary({"layer": part(rows)}, {})
    assert "TRIAL" in here.summary({"layer": part(rows)}, {}, is_trial=True)


@pytest.mark.parametrize("ms, words", [(3.0, "1.5 times as fast"), (1.98, "about as fast"), (1.0, "2 times as slow")])
def test_the_sentence_of_a_comparison(ms, words):
    assert words in here.summary({"layer": part([layer_row("ours", 2.0), layer_row("separable", ms)])}, {})


def test_nothing_to_compare_is_no_summary():
    assert here.summary({"ladder": part([], "sizes")}, {}) == ""


def test_every_variant_is_explained():
    """Words that the chapters' tables use without a sentence beside them."""
    explained = {word for words, _ in here.WORDS for word in re.split(r"[, ()]+", words)}
    assert explained >= {
        "dense",
        "pair",
        "separable",
        "ours",
        "native",
        "ours_native",
        "ours_blocks",
        "frozen",
        "limit",
    }


def test_bars_start_at_zero_and_logarithmic_axes_say_so(tmp_path):
    figure, (left, right) = plots.new_figure(6, 3, 1, 2)
    times = [Timing(1.0, 0.9, 1.2, 5), Timing(50.0, 49.0, 51.0, 5)]
    plots.bars(left, ["a", "b"], times, ["red", "blue"], str)
    left.set_xlabel("ms")
    plots.lines(right, [1, 10], {"a": times}, {"a": "red"})
    right.set_xlabel("batch")
    right.set_ylabel("ms")
    plots.save(figure, tmp_path / "plot.png")
    assert left.get_xscale() == "linear" and left.get_xlim()[0] == 0 and left.get_xlabel() == "ms"
    assert right.get_xlabel() == "batch (log scale)" and right.get_ylabel() == "ms (log scale)"
