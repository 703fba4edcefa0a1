"""The roofline as a picture."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from tf_dwsconv.analysis._optional import require
from tf_dwsconv.analysis.costs import Machine, layer_cost
from tf_dwsconv.analysis.problem import Problem, check_problem, choice, positive


def plot_roofline(
    problems: Sequence[Problem],
    machine: Machine,
    path: Any,
    dtype: Any = "float32",
    measured: Any = None,
) -> None:
    """Saves a roofline plot: for each layer the fused DWS layer, the unfused one, and the dense convolution.

    A point is what the roofline allows. Where times are given it is hollow, and the measured one below it is full.

    Args:
        problems: of type `Problem`, at least one.
        machine: a `Machine`.
        path: file to write; its ending names the format (.png, .pdf, .svg).
        dtype: of every array.
        measured: None, or a dict of seconds for each problem by "DWS, fused", "DWS, unfused" and "dense"; any of them.

    Raises:
        TypeError, ValueError: no problems, an argument of the wrong type, an ending matplotlib does not know, times
            under another name or not one for each problem.
        ImportError: matplotlib is missing.
    """
    problems = [check_problem(p) for p in problems]
    if not problems:
        raise ValueError("problems must not be empty")
    if not isinstance(machine, Machine):
        raise TypeError(f"machine must be an analysis.Machine; given {type(machine).__name__}")
    figures = require("matplotlib.figure", "plot_roofline")
    canvas = require("matplotlib.backends.backend_agg", "plot_roofline")
    figure = figures.Figure(figsize=(8, 5))  # not pyplot: no global state, no display
    canvas.FigureCanvasAgg(figure)
    formats = figure.canvas.get_supported_filetypes()
    ending = os.path.splitext(str(path))[1][1:].lower()
    if ending not in formats:
        raise ValueError(f"path must end in one of {', '.join('.' + f for f in sorted(formats))}; given {str(path)!r}")
    axes = figure.add_subplot()
    variants = (("DWS, fused", "dws", True, "o"), ("DWS, unfused", "dws", False, "v"), ("dense", "dense", True, "s"))
    costs = {label: [layer_cost(p, kind, dtype, fused) for p in problems] for label, kind, fused, _ in variants}
    for label, seconds in (measured or {}).items():
        choice("measured", label, tuple(costs))
        if len(seconds) != len(problems):
            raise ValueError(
                f"measured[{label!r}] must hold {len(problems)} times, one a problem; given {len(seconds)}"
            )
    points = {label: [cost.intensity for cost in own] for label, own in costs.items()}
    every = [x for values in points.values() for x in values] + [machine.ridge]
    span = np.geomspace(min(every) / 8, max(every) * 2, 256)

    def limit(x):
        return np.minimum(machine.peak_flops, np.asarray(x) * machine.dram_bytes_per_s) / 1e9

    axes.loglog(span, limit(span), color="black", linewidth=1)
    for i, (label, _, _, marker) in enumerate(variants):
        look = {"color": f"C{i}", "linestyle": "none", "marker": marker}
        if measured is None:
            axes.loglog(points[label], limit(points[label]), label=label, alpha=0.7, **look)
            continue
        axes.loglog(points[label], limit(points[label]), label=f"{label}: limit", fillstyle="none", **look)
        if label in measured:
            rates = [
                cost.flops / positive(f"measured[{label!r}]", seconds) / 1e9
                for cost, seconds in zip(costs[label], measured[label])
            ]
            axes.loglog(points[label], rates, label=f"{label}: measured", alpha=0.8, **look)
            axes.vlines(points[label], rates, limit(points[label]), color=f"C{i}", linewidth=0.6, alpha=0.6)
    axes.axvline(machine.ridge, color="grey", linewidth=0.5, linestyle="--")
    axes.set_xlabel("arithmetic intensity, FLOP a byte of compulsory traffic (log scale)")
    what = "attainable GFLOP/s" if measured is None else "GFLOP/s, attainable and measured"
    axes.set_ylabel(f"{what} (log scale)")
    axes.set_title(
        f"Roofline of {machine.name}: {machine.peak_flops / 1e9:.4g} GFLOP/s, "
        f"{machine.dram_bytes_per_s / 1e9:.4g} GB/s, {dtype}"
    )
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
    if max(limit(span)) < 100 * axes.get_ylim()[0]:  # within two decades the powers of ten alone are too few
        axes.yaxis.set_minor_formatter("{x:g}")
    axes.grid(True, which="both", linewidth=0.2)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)
