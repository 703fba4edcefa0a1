"""Plots of the benchmark programs: bars and lines with error bars, heat maps, rooflines. Every axis has its unit."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Optional

import numpy as np
from common import record
from common.timing import Timing

MARKERS = "osv^DPX*<>hd"


def require(flag: str = "noplot") -> None:
    """Ends the program with one line where matplotlib is missing; to be called before anything is measured."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        record.fail(f"no plots without matplotlib ({error}); --{flag} asks for none")


def new_figure(width: float, height: float, rows: int = 1, columns: int = 1) -> tuple[Any, list]:
    """A figure, and a list of its axes, row by row."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(rows, columns, figsize=(width, height), layout="constrained", squeeze=False)
    return figure, list(axes.flat)


def save(figure: Any, path: Path) -> None:
    """Marks logarithmic axes as such, writes a figure and forgets it."""
    import matplotlib.pyplot as plt

    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            label = axis.get_label()
            if axis.get_scale() == "log" and label.get_text():
                label.set_text(f"{label.get_text()} (log scale)")
    figure.savefig(path, dpi=130)
    plt.close(figure)


def colors(names: list[str]) -> dict[str, Any]:
    """A colour for each name; ours is green wherever it is shown, the stock layers are grey, the dense one is blue."""
    fixed = {
        "ours": "tab:green",
        "native": "limegreen",
        "separable": "0.45",
        "stock": "0.45",
        "pair": "0.7",
        "dense": "tab:blue",
    }
    others = ["tab:orange", "tab:red", "tab:purple", "tab:brown", "tab:pink", "tab:olive", "tab:cyan"]
    free = [name for name in names if name not in fixed]
    return {name: fixed[name] if name in fixed else others[free.index(name) % len(others)] for name in names}


def plain_ticks(axis: Any) -> None:
    """Numbers as 0.01 and 100, not powers of ten, on a logarithmic axis; the fewer decades, the more of them."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    decades = _decades(axis)
    subs = (1.0,) if decades > 2.5 else (1.0, 2.0, 5.0) if decades > 0.8 else (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0)
    axis.set_major_locator(LogLocator(10, subs=subs))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _decades(axis: Any) -> float:
    low, high = axis.get_data_interval()
    return float(np.log10(high / low)) if 0 < low < high < np.inf else 0.0


def error_of(timings: list[Timing], values: list[float]) -> np.ndarray:
    """Error bars of values that are proportional to the milliseconds: distances down and up, by the quartiles."""
    down = [value * (1 - timing.low / timing.median) for timing, value in zip(timings, values)]
    up = [value * (timing.high / timing.median - 1) for timing, value in zip(timings, values)]
    return np.maximum([down, up], 0)


def error_of_rate(timings: list[Timing], values: list[float]) -> np.ndarray:
    """The same of values that are proportional to one over the milliseconds."""
    down = [value * (1 - timing.median / timing.high) for timing, value in zip(timings, values)]
    up = [value * (timing.median / timing.low - 1) for timing, value in zip(timings, values)]
    return np.maximum([down, up], 0)


def lines(
    axes: Any,
    points: list[float],
    series: dict[str, list[Optional[Timing]]],
    color: dict[str, Any],
    value: Any = lambda timing, point, name: timing.median,
    rate: bool = False,
    labels: Optional[dict[str, str]] = None,
) -> None:
    """Lines over logarithmic axes, with error bars from the lower to the upper quartile.

    Args:
        axes: of matplotlib.
        points: along x; those are its ticks.
        series: for each line a `Timing` for each point, None where there is none.
        color: by line.
        value: what is drawn, of a timing, its point and its line.
        rate: whether the value falls as the time rises.
        labels: for the legend; None for the names.
    """
    for i, (name, timings) in enumerate(series.items()):
        there = [(point, timing) for point, timing in zip(points, timings) if timing is not None]
        if not there:
            continue
        values = [value(timing, point, name) for point, timing in there]
        errors = (error_of_rate if rate else error_of)([timing for _, timing in there], values)
        axes.errorbar(
            [point for point, _ in there],
            values,
            yerr=errors,
            marker=MARKERS[i % len(MARKERS)],
            markersize=5,
            capsize=3,
            linewidth=1.5,
            color=color[name],
            label=(labels or {}).get(name, name),
        )
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    plain_ticks(axes.yaxis)
    axes.set_xticks(points, [f"{point:g}" for point in points])
    axes.xaxis.minorticks_off()
    axes.grid(which="major", alpha=0.3)


def bars(axes: Any, names: list[str], timings: list[Timing], color: list[Any], text: Any) -> None:
    """Horizontal bars of milliseconds from the top down, from zero, with error bars and a text behind each.

    Args:
        axes: of matplotlib.
        names: of the bars.
        timings: their `Timing`s.
        color: of each.
        text: of an index, what stands behind its bar.
    """
    heights = [timing.median for timing in timings]
    axes.barh(range(len(names)), heights, xerr=error_of(timings, heights), color=color, capsize=3, ecolor="0.2")
    for i, timing in enumerate(timings):
        axes.text(timing.high, i, f"  {text(i)}", va="center", fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_xlim(0, max(t.high for t in timings) * 1.6)  # room for the longest bar's text
    axes.invert_yaxis()
    axes.grid(axis="x", which="major", alpha=0.3)


def heat_map(axes: Any, values: np.ndarray, rows: list[str], columns: list[str], label: str, best: str = "low") -> None:
    """Cells coloured and labelled by their value; NaN cells stay empty.

    Args:
        axes: of matplotlib.
        values: `[rows, columns]`.
        rows, columns: names along y and x.
        label: of the colour bar, with the unit.
        best: "low" or "high", which end of the scale is dark green.
    """
    image = axes.imshow(values, aspect="auto", cmap="YlGn_r" if best == "low" else "YlGn")
    axes.figure.colorbar(image, ax=axes, label=label, shrink=0.9)
    axes.set_xticks(range(len(columns)), columns, fontsize=8)
    axes.set_yticks(range(len(rows)), rows, fontsize=8)
    middle = (np.nanmin(values) + np.nanmax(values)) / 2
    for (i, j), value in np.ndenumerate(values):
        if np.isfinite(value):
            dark = value < middle if best == "low" else value > middle
            axes.text(j, i, f"{value:.3g}", ha="center", va="center", fontsize=8, color="white" if dark else "black")
