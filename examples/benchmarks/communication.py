"""What convolution layers must move, what tilings move, and what the planner's blocks move: bounds, model, simulation.

  python examples/benchmarks/communication.py                             # some layers, and a sweep over blocks of one
  python examples/benchmarks/communication.py --shape=8,28,28,256 --filters=512 --strides=2 --sweep_shape=1,56,56,128
  python examples/benchmarks/communication.py --l2_bytes=262144 --nosweep  # for another L2; no sweep

Three tables and a picture:

- programs: the tilings of the linear programs (Dinh and Demmel) for the halves and for both in one, with the depthwise
  half's windows shared and as im2col, and of the program of Chen et al. for the halves as convolutions; what each tile
  moves in integers, and the lower bounds.
- traffic: the planner's block of each layer, what its model says is moved between L2 and beyond, what a simulation of
  the caches finds, and the least that any order moves. One thread.
- sweep: one layer with many blocks, timed, and simulated: a heat map. The report took its tiles from such a sweep.

Traffic is in megabytes of 10^6 bytes.
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for `common`

import ml_dtypes
import numpy as np
from absl import app, flags
from common import options
from common.layer_table import SUITES, Layer, shapes_of
from common.timing import Timing, time_in_turn
from measuring import plots, results, sources

from tf_dwsconv import analysis, native
from tf_dwsconv.analysis import Problem, layer_cost
from tf_dwsconv.analysis.traffic import layer_traffic

STUDY_BATCH = SUITES["study"][1].problem("VALID")

_LAYERS = options.LayerFlags("Some if none is given.")
_DTYPE = options.dtype()
_L2 = options.integer("l2_bytes", 0, "Fast memory in bytes; 0 for this machine's L2 cache.", 0)
_SWEEP = flags.DEFINE_bool("sweep", True, "Time and simulate blocks of one layer.")
_SWEEP_SHAPE = options.shape("sweep_shape", "8,112,112,32", "Input N,H,W,C of the layer to sweep.")
_SWEEP_FILTERS = options.integer("sweep_filters", 64, "Output channels of the layer to sweep.", 1)
_STUDY = flags.DEFINE_bool("study", True, "Simulate the GPU study's layer at batch 16, beside what it profiled.")
_THREADS = options.threads("Threads of the sweep; 0 for all cores.")
_REPEAT = options.repeat(10)
_SECONDS = options.seconds(0.5)
_SEED = options.seed()
_PLOT = options.plot("sweep.png")
_OUTPUT = results.define_output("communication")

MEGA = 1e6


def l2_bytes() -> int:
    """Fast memory to tile for."""
    return _L2.value or native.cpu_info()["l2_bytes"] or 1 << 20


def tile_text(tile: dict) -> str:
    return " ".join(f"{loop}={round(size)}" for loop, size in tile.items())


def program_rows(problem: Problem) -> list[dict]:
    """The linear programs of one layer: tiles in the reals and in integers, what they move, lower bounds."""
    item = analysis.itemsize(_DTYPE.value)
    memory = max(16, l2_bytes() // item)
    rows = []
    for name, nest in (
        ("pointwise half", analysis.pointwise_nest(problem)),
        ("depthwise half, shared windows", analysis.depthwise_nest(problem)),
        ("depthwise half, im2col (the report's)", analysis.depthwise_nest(problem, "im2col")),
        ("fused", analysis.fused_nest(problem)),
    ):
        tiling = nest.solve(memory)
        tile = nest.integer_tiling(memory)
        rows.append(
            {
                "layer": str(problem),
                "program": f"Dinh and Demmel: {name}",
                "exponent": tiling.objective,
                "optimum": tiling.words * item / MEGA,
                "tile": tile_text(tiling.tile),
                "integers": tile_text(tile),
                "moved": nest.traffic(tile) * item / MEGA,
            }
        )
    if problem.dilation == (1, 1):
        for kind in ("depthwise", "dense"):
            blocking = analysis.conv_blocking(problem, memory, kind=kind)
            bound = analysis.conv_lower_bound(problem, memory).words * item / MEGA if kind == "dense" else None
            rows.append(
                {
                    "layer": str(problem),
                    "program": f"Chen et al., small filters: {kind}",
                    "tile": tile_text(blocking.real),
                    "integers": tile_text(blocking.blocks),
                    "moved": blocking.traffic * item / MEGA,
                    "bound": bound,
                }
            )
    try:
        best = analysis.fused_tiling(problem, memory, quanta=(1, problem.C, 16))
        searched = {
            "integers": f"pixels={best.bp} C={best.bc} K={best.bk}",
            "moved": best.traffic.total * item / MEGA,
        }
    except ValueError:
        searched = {"integers": "none fits with all of C"}
    bound = analysis.dws_lower_bound(problem, memory) * item / MEGA
    rows.append({"layer": str(problem), "program": "fused, best of all integer tiles", **searched, "bound": bound})
    return rows


def traffic_row(problem: Problem) -> dict:
    """The planner's block of one layer: modelled, simulated, bounds; in megabytes."""
    results.progress(f"{problem}: simulating")
    told = layer_traffic(problem, _DTYPE.value, l2_bytes=_L2.value)
    unfused = layer_cost(problem, "dws", _DTYPE.value, fused=False).accesses_bytes
    results.progress("")
    return {
        "layer": str(problem),
        "block": f"{told.block_pixels}x{told.block_channels}",
        "once": told.compulsory / MEGA,
        "unfused": unfused / MEGA,
        "bound": told.bound / MEGA,
        "modelled": told.modelled / MEGA,
        "simulated": told.simulated / MEGA,
        "over_bound": told.simulated / told.bound,
        "z": told.z / MEGA,
        "memory": told.memory / MEGA,
    }


def study_rows(run: results.Results) -> None:
    """Loads and stores of the study's layer as Nsight Compute counted them, beside simulated ones, in 16 bits."""
    results.progress(f"{STUDY_BATCH}, float16: simulating")
    told = native.traffic(*shapes_of(STUDY_BATCH), padding="VALID", dtype="float16")
    results.progress("")
    _, _, loaded, stored = sources.STUDY_KERNEL["dws"]
    for what, reported, kind in (("loaded from", loaded, "read"), ("stored to", stored, "written")):
        arrays = {name: size / MEGA for name, size in told["memory"][kind].items() if size > MEGA}
        parts = ", ".join(f"{name} {size:.0f}" for name, size in arrays.items())
        if kind == "read" and "y" in arrays:
            parts += ": lines of Y are fetched to be stored into"
        run.compare(
            f"MB {what} memory, DWS, {STUDY_BATCH}, float16",
            reported,
            round(sum(told["memory"][kind].values()) / MEGA, 1),
            "MB",
            f"{sources.STUDY}: V100, Nsight Compute, main kernel",
            f"simulated caches, one thread ({parts}); MB of 10^6 bytes here, 193 of 2^20 there are 202 of them",
        )


def candidates(problem: Problem) -> tuple[list[int], list[int], dict[str, tuple[int, int]]]:
    """Blocks to sweep: pixels, channels, and the named ones among them, (pixels, channels) by name."""
    plan = planned(problem)
    memory = l2_bytes() // analysis.itemsize(_DTYPE.value)
    tile = analysis.pointwise_nest(problem).solve(memory).tile
    image = problem.Ho * problem.Wo
    lp_pixels = min(image, max(1, round(tile["pixels"] / problem.Wo)) * problem.Wo)
    widths = sorted({plan["block_channels"], *(-(-problem.K // s // 32) * 32 for s in (1, 2, 4))} - {0})
    widths = [width for width in widths if width <= max(problem.K, plan["block_channels"])] or [problem.K]
    rows = {1}
    while max(rows) * 2 <= problem.Ho:
        rows.add(max(rows) * 2)
    pixels = sorted({row * problem.Wo for row in rows} | {plan["block_pixels"], lp_pixels, image})
    widest = max(widths)
    marks = {
        "planner": (plan["block_pixels"], plan["block_channels"]),
        "linear program": (lp_pixels, min(widths, key=lambda width: abs(width - tile["K"]))),
        "one row": (problem.Wo, widest),
    }
    return pixels, widths, marks


def planned(problem: Problem) -> dict:
    return native.plan(*shapes_of(problem), strides=problem.stride, dtype=_DTYPE.value, num_threads=_THREADS.value)


def sweep(problem: Problem) -> tuple[list[int], list[int], dict, dict[tuple[int, int], Timing], dict]:
    """Times and simulates every block that may be run."""
    pixels, widths, marks = candidates(problem)
    kind = ml_dtypes.bfloat16 if _DTYPE.value == "bfloat16" else np.dtype(_DTYPE.value)
    rng = np.random.default_rng(_SEED.value)
    x, depthwise, pointwise = (rng.standard_normal(size, np.float32).astype(kind) for size in shapes_of(problem))
    layer = native.Layer(depthwise, pointwise, strides=problem.stride, variant="fused")
    plan = {key: planned(problem)[key] for key in ("threads", "stream")}
    out = layer(x, num_threads=_THREADS.value)
    calls, moved = {}, {}
    for block in ((p, k) for p in pixels for k in widths):
        own = {**plan, "block_pixels": block[0], "block_channels": block[1]}
        call = functools.partial(layer, x, out=out, num_threads=_THREADS.value, plan=own)
        try:
            call()
        except ValueError:  # a block that no plan may have, such as one whose scratch is too large
            continue
        calls[block] = call
        single = {**own, "threads": 1}
        results.progress(f"{problem}: simulating blocks of {block[0]} pixels")
        told = native.traffic(
            *shapes_of(problem), strides=problem.stride, dtype=_DTYPE.value, plan=single, l2_bytes=_L2.value
        )
        beyond = told["beyond_l2"]
        moved[block] = (sum(beyond["read"].values()) + sum(beyond["written"].values())) / MEGA
    taken = time_in_turn(
        calls,
        _REPEAT.value,
        _SECONDS.value,
        warmups=1,
        burst=25,
        show=results.progress_of(f"{problem}, block"),
    )
    return pixels, widths, marks, taken, moved


def sweep_table(run: results.Results, problem: Problem, taken: dict, moved: dict, marks: dict) -> None:
    """The sweep's table, and what the named blocks lose beside the best one."""
    best = min(timing.median for timing in taken.values())
    names = {block: ", ".join(name for name, own in marks.items() if own == block) for block in taken}
    rows = [
        {
            "block_pixels": block[0],
            "rows": block[0] / problem.Wo,
            "block_channels": block[1],
            **timing.row(),
            "quartiles": timing.spread(),
            "over_best": timing.median / best,
            "moved": moved[block],
            "is": names[block],
        }
        for block, timing in taken.items()
    ]
    columns = {
        "block_pixels": "pixels",
        "rows": "rows",
        "block_channels": "channels",
        "ms": "ms",
        "quartiles": "quartiles",
        "over_best": "x of the best",
        "moved": "MB beyond L2, simulated",
        "is": "which is",
    }
    run.table("sweep", f"Blocks of {problem}, {_DTYPE.value}", columns, rows)
    ms = {name: taken[block].median for name, block in marks.items() if block in taken}
    source = f"{sources.REPORT}: CPU"
    if {"one row", "linear program"} <= set(ms):
        run.compare(
            "tiles of the linear program: one row a task over its tile",
            sources.REPORT_LP_GAIN,
            round(ms["one row"] / ms["linear program"], 2),
            "x",
            source,
            "the fused kernel, all threads",
        )
    for name, reported, what in (
        ("linear program", sources.REPORT_SWEEP_GAIN, "sweep: the linear program's tile over the best of the sweep"),
        ("planner", None, "sweep: the planner's block over the best of the sweep"),
    ):
        if name in ms:
            run.compare(what, reported, round(ms[name] / best, 2), "x", source, str(problem))
    worst = max(timing.median for timing in taken.values())
    run.compare("sweep: its slowest block over its best", None, round(worst / best, 2), "x", source, str(problem))


def draw_sweep(path, problem: Problem, pixels, widths, marks, taken, moved) -> None:
    """Two heat maps over the same blocks: milliseconds, and megabytes beyond L2. Named blocks are framed."""
    from matplotlib.patches import Rectangle

    pixels = [size for size in pixels if any((size, width) in taken for width in widths)]
    figure, axes = plots.new_figure(3.5 + 1.1 * len(widths) * 2, 1.8 + 0.34 * len(pixels), 1, 2)
    grids = (
        (
            np.array([[taken[p, k].median if (p, k) in taken else np.nan for k in widths] for p in pixels]),
            "milliseconds",
        ),
        (
            np.array([[moved.get((p, k), np.nan) for k in widths] for p in pixels]),
            "MB beyond L2, one thread, simulated",
        ),
    )
    look = {"planner": ("red", "-"), "linear program": ("blue", "--"), "one row": ("black", ":")}
    for own, (grid, label) in zip(axes, grids):
        rows = [f"{p} ({p / problem.Wo:g})" for p in pixels]
        plots.heat_map(own, grid, rows, [str(k) for k in widths], label)
        own.set_xlabel("output channels of a block")
        for i, (name, (p, k)) in enumerate(marks.items()):
            if p in pixels and k in widths:
                color, style = look[name]
                at, inset = (widths.index(k) - 0.5, pixels.index(p) - 0.5), 0.03 + 0.05 * i
                own.add_patch(
                    Rectangle(
                        (at[0] + inset, at[1] + inset),
                        1 - 2 * inset,
                        1 - 2 * inset,
                        fill=False,
                        edgecolor=color,
                        linestyle=style,
                        linewidth=2,
                        label=name,
                    )
                )
    axes[0].set_ylabel("output pixels of a block (rows)")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    figure.suptitle(
        f"Blocks of {problem}, {_DTYPE.value}, {results.threads_in_use(_THREADS.value)} threads", fontsize=11
    )
    plots.save(figure, path)


def main(argv: list[str]) -> None:
    options.no_arguments(argv)
    problems = [layer.problem() for layer in _LAYERS.chosen() or SUITES["communication"]]
    if _PLOT.value:
        plots.require()
    run = results.Results(_OUTPUT.value, f"Communication, {_DTYPE.value}, {l2_bytes()} bytes of fast memory")
    run.describe(seed=_SEED.value, repeat=_REPEAT.value, seconds=_SECONDS.value, l2_bytes=l2_bytes())
    columns = {
        "layer": "layer",
        "program": "program",
        "exponent": "sum lambda",
        "optimum": "optimum MB",
        "tile": "tile",
        "integers": "in integers",
        "moved": "moves MB",
        "bound": "bound MB",
    }
    rows = [row for problem in problems for row in program_rows(problem)]
    run.table("programs", "Tilings that move the least, by linear programs and by search", columns, rows)
    columns = {
        "layer": "layer",
        "block": "planner's block",
        "once": "once MB",
        "unfused": "unfused once MB",
        "bound": "bound MB",
        "modelled": "modelled MB",
        "simulated": "simulated MB",
        "over_bound": "x of the bound",
        "z": "Z MB",
        "memory": "memory MB",
    }
    title = f"The planner's blocks (pixels x channels) on one thread, {_DTYPE.value}: traffic between L2 and beyond"
    run.table("traffic", title, columns, [traffic_row(problem) for problem in problems])
    if _STUDY.value:
        study_rows(run)
    if _SWEEP.value:
        swept = Layer(*_SWEEP_SHAPE.value, _SWEEP_FILTERS.value).problem()
        pixels, widths, marks, taken, moved = sweep(swept)
        sweep_table(run, swept, taken, moved, marks)
        if _PLOT.value:
            caption = (
                f"Every block of {swept}: time, and simulated traffic. Empty cells are blocks that no plan may have."
            )
            draw_sweep(run.figure("sweep.png", caption), swept, pixels, widths, marks, taken, moved)
    run.save()


if __name__ == "__main__":
    app.run(main)
