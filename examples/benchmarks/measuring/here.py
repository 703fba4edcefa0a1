"""What the report opens with: this package beside stock TensorFlow and other runtimes, as ratios of one run's times."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from measuring import layers, page, peers

STOCK = {"separable": "Keras' SeparableConv2D, in a tf.function", "stock": "stock Keras, in a tf.function"}
# Our way in, the parts of the report that time it, its name there, and what a user would choose instead.
WAYS = (
    ("One layer in a tf.function", ("layer", "mobilenet", "convnext"), "ours", ("separable",)),
    (
        "One layer on NumPy arrays",
        ("layer", "mobilenet", "convnext"),
        "native",
        ("torch", "litert", "onnxruntime", "openvino"),
    ),
    ("A converted network in a tf.function", ("models", "convnext_blocks"), "ours", ("stock",)),
    (
        "A converted network without TensorFlow",
        ("models", "convnext_blocks"),
        "ours_native",
        ("litert", "onnxruntime", "openvino", "openvino_tf", "torch"),
    ),
)


@dataclasses.dataclass(frozen=True)
class Ratio:
    """One case of a comparison: how many times as long the other takes.

    Attributes:
        case: the layer, or the network and its batch.
        times: the other's median over ours.
        unclear: whether the times' quartiles overlap, so that the two may be equally fast.
    """

    case: str
    times: float
    unclear: bool


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One way in beside one other: `ratios` of all cases in which both were timed, at least one."""

    way: str
    other: str
    ratios: tuple[Ratio, ...]

    def mean(self) -> float:
        """The geometric mean."""
        return math.exp(sum(math.log(ratio.times) for ratio in self.ratios) / len(self.ratios))

    def ends(self) -> tuple[Ratio, Ratio]:
        """The least and the greatest."""
        return min(self.ratios, key=lambda r: r.times), max(self.ratios, key=lambda r: r.times)


def _cases(part: str, found: dict[str, Any]) -> dict[str, dict[str, dict[str, Any]]]:
    """The rows of a part's table by case and by what was timed."""
    cases: dict[str, dict[str, dict[str, Any]]] = {}
    for table in found["tables"]:
        for row in table["rows"]:
            if table["name"] == "layers" and row["mode"] in ("graph", "call"):
                cases.setdefault(row["layer"], {})[row["variant"]] = row
            elif table["name"] == "models":
                network = found["title"].removeprefix("Inference of ").partition(",")[0]
                cases.setdefault(f"{network}, batch {row['batch']}", {})[row["peer"]] = row
    return cases


def compare(found: dict[str, dict[str, Any]]) -> tuple[list[Comparison], list[str]]:
    """The comparisons that a run allows, and those whose other side was not timed.

    Args:
        found: the results of the parts that ran, by name.
    """
    comparisons, absent = [], []
    for way, parts, own, others in WAYS:
        cases: dict[str, dict[str, dict[str, Any]]] = {}
        for part in parts:
            cases.update(_cases(part, found[part]) if part in found else {})
        if not any(own in rows for rows in cases.values()):
            continue
        for other in others:
            ratios = tuple(
                Ratio(
                    case,
                    rows[other]["ms"] / rows[own]["ms"],
                    max(rows[other]["ms_low"], rows[own]["ms_low"])
                    <= min(rows[other]["ms_high"], rows[own]["ms_high"]),
                )
                for case, rows in cases.items()
                if {own, other} <= set(rows)
            )
            name = STOCK.get(other) or (layers.VARIANTS if own == "native" else peers.PEERS)[other]
            if ratios:
                comparisons.append(Comparison(way, name, ratios))
            else:
                absent.append(f"{name} ({way[0].lower()}{way[1:]})")
    return comparisons, absent


def _sentence(comparison: Comparison) -> str:
    """The comparison in words."""
    mean, count = comparison.mean(), len(comparison.ratios)
    of = f"geometric mean of {count} cases" if count > 1 else comparison.ratios[0].case
    if 0.95 <= mean <= 1.05:
        return f"{comparison.way}: about as fast as {comparison.other} ({of})."
    if mean > 1:
        return f"{comparison.way}: {mean:.2g} times as fast as {comparison.other} ({of})."
    return f"{comparison.way}: {1 / mean:.2g} times as slow as {comparison.other} ({of})."


def _bars(comparisons: list[Comparison]) -> str:
    """Bars from zero, as HTML, which stay legible on a phone; a line stands where both are equally fast."""
    most = max(1.0, *(comparison.mean() for comparison in comparisons)) * 1.02
    parts, way = [], None
    for comparison in comparisons:
        if comparison.way != way:
            way = comparison.way
            parts.append(f"<h3>{page.text(way)}</h3>")
        mean = comparison.mean()
        unclear = sum(ratio.unclear for ratio in comparison.ratios)
        noise = f" ~ unclear in {unclear} of {len(comparison.ratios)}" if unclear else ""
        kind = "slower" if mean < 1 else "faster"
        parts.append(
            f'<div class="bar"><span class="name">{page.text(comparison.other)}</span><span class="track">'
            f'<span class="{kind}" style="width:{100 * mean / most:.1f}%"></span>'
            f'<span class="one" style="left:{100 / most:.1f}%"></span></span>'
            f'<span class="value"><b>{mean:.2f}</b>{page.text(noise)}</span></div>'
        )
    return "\n".join(parts)


COLUMNS = {
    "way": "tf_dwsconv",
    "other": "beside",
    "mean": "geometric mean",
    "least": "least",
    "least_case": "of",
    "most": "most",
    "most_case": "of",
    "cases": "cases",
    "unclear": "unclear",
}


def _row(comparison: Comparison) -> dict[str, Any]:
    least, most = comparison.ends()
    return {
        "way": comparison.way,
        "other": comparison.other,
        "mean": comparison.mean(),
        "least": least.times,
        "least_case": least.case,
        "most": most.times,
        "most_case": most.case,
        "cases": len(comparison.ratios),
        "unclear": sum(ratio.unclear for ratio in comparison.ratios),
    }


def summary(found: dict[str, dict[str, Any]], titles: dict[str, str], is_trial: bool = False) -> str:
    """The section's HTML; "" where the parts of this run timed nothing that could be compared.

    Args:
        found: the results of the parts that ran, by name.
        titles: of the parts, by name.
        is_trial: whether figures of this run mean nothing.
    """
    comparisons, absent = compare(found)
    if not comparisons:
        return ""
    machine = next(iter(found.values()))["settings"]
    loaded = [name for name, each in found.items() if each["settings"].get("loaded") is True]
    parts = [
        f"<p>Each number is the other's time over that of tf_dwsconv, on this machine ({page.text(machine['cpu'])}, "
        f"{machine['cores']} cores), in this run: at 2 tf_dwsconv is twice as fast, at 0.5 it takes twice as long. "
        "Bars are geometric means and start at zero; the line is where both are equally fast. A case is <i>unclear</i> "
        "(~) where the quartiles of the two times overlap.</p>"
    ]
    if loaded:
        words = "LOADED MACHINE: other processes used its cores while these parts ran, so the ratios are rough: "
        parts.insert(
            0, f'<p class="failed">{words}{page.text("; ".join(titles.get(name, name) for name in loaded))}.</p>'
        )
    if is_trial:
        words = (
            "TRIAL: this run only checks that all programs work. Its calls are too few for figures to mean anything."
        )
        parts.insert(0, f'<p class="failed">{words}</p>')
    parts.append("<ul>" + "".join(f"<li>{page.text(_sentence(each))}</li>" for each in comparisons) + "</ul>")
    parts.append(_bars(comparisons))
    parts.append(page.table(COLUMNS, [_row(each) for each in comparisons]))
    if absent:
        parts.append(
            '<p class="note">Not timed, since not installed or for the reason that the chapter gives: '
            f"{page.text('; '.join(absent))}.</p>"
        )
    return page.section("here", "Here and now", parts)


# Words that the page uses, for a reader who comes to it first.
WORDS = (
    ("depthwise-separable (DWS)", "A convolution of each channel by itself, then a 1x1 one that mixes the channels."),
    ("dense", "An ordinary convolution, keras.layers.Conv2D: what a depthwise-separable layer replaces."),
    ("separable", "keras.layers.SeparableConv2D, the stock layer. TensorFlow runs its two halves one after the other."),
    ("pair", "The same as two Keras layers: DepthwiseConv2D and a 1x1 Conv2D."),
    ("ours", "tf_dwsconv's layer, or the network that tf_dwsconv.convert makes, called through TensorFlow."),
    ("native, ours_native", "The same kernels on NumPy arrays, without TensorFlow."),
    ("ours_blocks", "A converted network with one layer for each block, not one for the network."),
    ("frozen", "The network with its weights as constants, as a server would load it."),
    ("eager (op by op), graph, xla", "How Keras is called: directly, in a tf.function, in one that XLA compiles."),
    ("1x112x112x32 -> 64, 3x3 s2x2", "A layer: batch, rows, columns, channels; output channels; window; strides."),
    ("ms, quartiles", "The median of all calls in milliseconds. Half of the calls lie between the quartiles."),
    ("limit", "The least time that this machine's arithmetic and memory allow: the larger of operations at peak speed "
     "and bytes at memory bandwidth. 100% is the limit."),
    ("arithmetic intensity", "Operations for each byte (or element) that is read from or written to memory."),
    ("roofline", "The speed that the limit allows, drawn over arithmetic intensity."),
    ("ladder", "One layer computed by ever faster code, step by step, from plain loops to the fused kernel."),
    ("difference", "The largest from the first of the list, relative to the largest element: rounding."),
    ("reported", "What one of the two sources measured on its own hardware: the GPU study, or the report (CS 267)."),
)  # fmt: skip


def words() -> str:
    """The page's words, explained."""
    rows = "".join(f"<dt>{page.text(word)}</dt><dd>{page.text(meaning)}</dd>" for word, meaning in WORDS)
    return page.section("words", "Words on this page", [f"<dl>{rows}</dl>"])
