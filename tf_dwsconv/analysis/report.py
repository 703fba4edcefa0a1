"""Tables of layers: what each costs, what it must move, and what the best tiling moves. For models and for shapes."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, Optional

from tf_dwsconv._text import table
from tf_dwsconv.analysis._optional import require
from tf_dwsconv.analysis.costs import Cost, Machine, layer_cost, roofline_seconds
from tf_dwsconv.analysis.fused import FusedTiling, dws_lower_bound, fused_tiling
from tf_dwsconv.analysis.graph import dws_calls
from tf_dwsconv.analysis.problem import Problem, check_problem, choice, integer, itemsize

_QUANTA = (1, 16, 16)


def format_table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Text columns, the first to the left and the others to the right.

    >>> print(format_table(("layer", "MB"), [("a", "1.0"), ("bb", "12.5")]))
    layer    MB
    a       1.0
    bb     12.5
    """
    return table([headers, *rows])


@dataclasses.dataclass(frozen=True)
class LayerReport:
    """One layer's figures.

    Attributes:
        name, problem, dtype: which layer.
        kind: "dws", or "depthwise" where no pointwise half follows.
        cost: fused (for kind "dws"). unfused: with the intermediate written and read.
        bound_bytes: what any fused order moves, from `dws_lower_bound`.
        tiling: the tiling that moves least with channels in multiples of 16, a vector's worth; None where not even one
            pixel fits, and for kind "depthwise".
        seconds: the roofline's time of the fused layer, None without a machine.
    """

    name: str
    problem: Problem
    kind: str
    dtype: str
    cost: Cost
    unfused: Cost
    bound_bytes: float
    tiling: Optional[FusedTiling]
    seconds: Optional[float]

    @property
    def tiling_bytes(self) -> float:
        """What `tiling` moves, or None."""
        return None if self.tiling is None else self.tiling.traffic.total * self.cost.itemsize


def report_layer(
    problem: Problem,
    name: str | None = None,
    *,
    kind: str = "dws",
    dtype: Any = "float32",
    fast_bytes: int = 1 << 20,
    machine: Machine | None = None,
) -> LayerReport:
    """The figures of one layer.

    Args:
        problem: a `Problem`.
        name: for tables; None: the shape.
        kind: "dws" or "depthwise".
        dtype: of every array.
        fast_bytes: fast memory, a core's L2 cache say.
        machine: a `Machine`, or None.

    Returns:
        A `LayerReport`.

    Raises:
        TypeError, ValueError: an argument out of range.
    """
    check_problem(problem)
    choice("kind", kind, ("dws", "depthwise"))
    memory = max(2, integer("fast_bytes", fast_bytes) // itemsize(dtype))
    if machine is not None and not isinstance(machine, Machine):
        raise TypeError(f"machine must be an analysis.Machine or None; given {type(machine).__name__}")
    cost = layer_cost(problem, kind, dtype)
    unfused, tiling, bound = cost, None, float(cost.accesses)
    if kind == "dws":
        unfused = layer_cost(problem, kind, dtype, fused=False)
        bound = dws_lower_bound(problem, memory)
        # Every other argument is checked by now: what is left to raise is that not even one pixel fits.
        with contextlib.suppress(ValueError):
            tiling = fused_tiling(problem, memory, quanta=_QUANTA)
    seconds = None if machine is None else roofline_seconds(cost, machine)
    layer = name or str(problem), problem, kind, dtype
    return LayerReport(*layer, cost, unfused, bound * cost.itemsize, tiling, seconds)


HEADERS = (
    "layer", "shape", "MFLOP", "params", "fused MB", "unfused MB", "FLOP/B", "bound MB", "tiled MB",
    "tile bp x bc x bk", "limit ms",
)  # fmt: skip


def report_table(reports: Sequence[LayerReport]) -> str:
    """Layer reports as a text table, with a line of totals."""
    rows = []
    for r in reports:
        tile = "-" if r.tiling is None else f"{r.tiling.bp} x {r.tiling.bc} x {r.tiling.bk}"
        sizes = r.cost.accesses_bytes, r.unfused.accesses_bytes, r.bound_bytes, r.tiling_bytes
        rows.append((r.name, str(r.problem), tile, (r.cost.flops, r.cost.parameters, *sizes, r.seconds)))
    if len(reports) > 1:
        columns = zip(*(figures for *_, figures in rows))
        rows.append(("total", "", "", [None if None in column else sum(column) for column in columns]))
    return format_table(HEADERS, [_cells(*row) for row in rows])


def _cells(name, shape, tile, figures):
    flops, parameters, *sizes, seconds = figures
    fused, unfused, bound, tiled = ("-" if size is None else f"{size / 1e6:.2f}" for size in sizes)
    intensity, limit = f"{flops / sizes[0]:.1f}", "-" if seconds is None else f"{seconds * 1e3:.3f}"
    megaflops = f"{flops / 1e6:.1f}"
    return name, shape, megaflops, str(parameters), fused, unfused, intensity, bound, tiled, tile, limit


@dataclasses.dataclass(frozen=True)
class ModelSummary:
    """The DWS layers of a model. `str()` is the table.

    Attributes:
        layers: a `LayerReport` for each call of a layer, in the order of the graph.
    """

    name: str
    layers: tuple[LayerReport, ...]

    def __str__(self) -> str:
        if not self.layers:
            return f"{self.name}: no depthwise layers"
        return f"{self.name}\n{report_table(self.layers)}"


def summary(
    model: Any, *, batch_size: int = 1, dtype: Any = None, fast_bytes: int = 1 << 20, machine: Machine | None = None
) -> ModelSummary:
    """What the DWS layers of a Keras model cost.

    Found are `SeparableConv2D` (and its subclasses), `DepthwiseConv2D` followed, but for batch norms, activations and
    dropouts, by a pointwise `Conv2D`, and other `DepthwiseConv2D` on their own. A `ZeroPadding2D` in front of a VALID
    one counts as the layer's own padding, for that is how it is run fused.

    Args:
        model: a built Functional or Sequential `keras.Model`; models inside it are searched too.
        batch_size: N, where the model leaves it open.
        dtype: of every array; None: each layer's compute dtype.
        fast_bytes: fast memory for the bounds and tilings, in bytes.
        machine: a `Machine` for the roofline's time, or None.

    Returns:
        A `ModelSummary`.

    Raises:
        ImportError: Keras is missing.
        TypeError: model is not a `keras.Model`.
        ValueError: a model without a graph (subclassed, or not built), a layer whose input size is unknown, or an
            argument out of range.
    """
    keras = require("keras", "summary(model)")
    if not isinstance(model, keras.Model):
        raise TypeError(f"model must be a keras.Model; given {type(model).__name__}")
    batch_size = integer("batch_size", batch_size)
    options = {"fast_bytes": fast_bytes, "machine": machine}
    layers = [
        report_layer(call.problem, call.name, kind=call.kind, dtype=dtype or call.dtype, **options)
        for call in dws_calls(model, batch_size)
    ]
    return ModelSummary(model.name, tuple(layers))
