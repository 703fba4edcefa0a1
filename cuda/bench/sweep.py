"""Measures tiles x groups x segments of the fused kernels, and writes the planner's rates: `sweep.py OUT [options]`.

Each plan of each layer is a row of OUT/sweep.jsonl as soon as it is measured: microseconds, and what the planner says.
Then the rates are fitted to them and written as OUT/rates.h: what cc/plan/cuda/rates.h should be. OUT/sweep.md has how
far the planner was off before and after, and for each layer how far its own choice was from the best plan.

`--fit FILE` fits to the rows of an earlier sweep, which needs no card.
"""

from __future__ import annotations

import argparse
import ctypes
import itertools
import json
import math
import re
import statistics
import sys
from pathlib import Path

from rows import Rows, table

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "python_tests" / "cuda"))

# The rates in the order of CudaRates: name, and what the header says of it.
RATES = {
    "fma": "multiply-adds on CUDA cores",
    "tensor16": "on tensor cores, of 16-bit elements",
    "tf32": "the same of TF32",
    "outputs": "an epilogue's: bias, activation, rounding, store",
    "latency_cycles": "from asking DRAM to having it, under load",
    "launch_us": "",
    "group16": "tensor16 by 9.0's own instructions",
    "group32": "tf32 by them",
}
HEADER = ROOT / "cc" / "plan" / "cuda" / "rates.h"
TODAY = tuple(float(number) for number in re.findall(r"double \w+ = ([\d.e+]+);", HEADER.read_text(encoding="utf-8")))
# batch, H = W, C, K, kernel, stride; what bounds them differs.
LAYERS = (
    (16, 224, 128, 128, 3, 1), (64, 56, 128, 128, 3, 1), (64, 112, 32, 64, 3, 1), (64, 112, 64, 128, 3, 2),
    (16, 56, 96, 96, 5, 1), (8, 56, 96, 384, 7, 1), (1, 56, 64, 64, 3, 1), (1, 14, 128, 128, 3, 1),
    (128, 28, 256, 256, 3, 1), (128, 14, 512, 512, 3, 1),
)  # fmt: skip
TILES = ((4, 8), (8, 4), (4, 16), (8, 8), (16, 4), (8, 16), (4, 24), (4, 32), (16, 8))


def plans_of(library, layer: tuple, dtype: str):
    """The options of all plans of a layer, two_step's too, that the planner can make."""
    yield {"path": "two_step"}
    try:
        call_of(library, layer, dtype, {"path": "two_step_wgmma"})
        yield {"path": "two_step_wgmma"}
    except ValueError:  # other cards than those of 9.0
        pass
    cuts = itertools.product(("stream", "tensor_stream", "deep"), TILES, (1, 2, 3), (1, 2, 4))
    for path, tile, groups, segments in cuts:
        options = {"path": path, "tile": tile, "groups": groups, "segments": segments}
        try:
            call_of(library, layer, dtype, options)
        except ValueError:  # it has no room, or no such tile
            continue
        yield options


def call_of(library, layer: tuple, dtype: str, options: dict):
    from cuda_library import Call

    n, size, c, k, kernel, stride = layer
    math_mode = "tf32" if dtype == "float32" else "exact"
    shapes = (n, size, size, c), (kernel, kernel, c, 1), (1, 1, c, k)
    return Call(library, *shapes, dtype, bias=True, strides=(stride, stride), math=math_mode, **options)


def set_rates(library, rates) -> None:
    """The planner's rates from now on; None: its own."""
    function = library.handle.dwsconv_cuda_set_rates
    function.restype = ctypes.c_char_p
    error = function(None if rates is None else (ctypes.c_double * len(RATES))(*rates))
    if error:
        raise ValueError(error.decode())


def modelled(library, rows: list, rates) -> list:
    """What the planner thinks of each row, by other rates."""
    set_rates(library, rates)
    try:
        return [call_of(library, tuple(row["layer"]), row["dtype"], row["options"]).plan.modelled_us for row in rows]
    finally:
        set_rates(library, None)


def off(library, rows: list, rates) -> float:
    """The root mean square of the logarithms by which the planner is off."""
    pairs = zip(modelled(library, rows, rates), (row["us"] for row in rows))
    return math.sqrt(statistics.mean(math.log(model / us) ** 2 for model, us in pairs))


def fit(library, rows: list, rates=TODAY, rounds: int = 3) -> tuple:
    """Rates that the rows fit best: one after the other, by ever smaller steps, as long as it helps."""
    best, least = list(rates), off(library, rows, rates)
    for step in [1.5, 1.2, 1.08, 1.03][: rounds + 1]:
        improved = True
        while improved:
            improved = False
            for at, factor in itertools.product(range(len(best)), (step, 1 / step)):
                tried = [rate * factor if i == at else rate for i, rate in enumerate(best)]
                error = off(library, rows, tried)
                if error < least - 1e-6:
                    best, least, improved = tried, error, True
    return tuple(best), least


def header(rates, card: str) -> str:
    """cc/plan/cuda/rates.h with other numbers."""
    lines = HEADER.read_text(encoding="utf-8").splitlines()
    begin = next(i for i, line in enumerate(lines) if line.startswith("struct CudaRates"))
    end = next(i for i, line in enumerate(lines) if i > begin and line.startswith("};"))
    fields = []
    for (name, words), rate in zip(RATES.items(), rates):
        field = f"  double {name} = {rate:.4g};"
        fields.append(f"{field:<33}// {words}" if words else field)
    about = [
        "// What a multiprocessor does in a cycle, with what is usually lost already taken off: fitted to what",
        f"// cuda/bench/sweep.py measured on {card}.",
    ]
    first = next(i for i, line in enumerate(lines) if line.startswith("#ifndef"))
    return "\n".join([*about, *lines[first : begin + 1], *fields, *lines[end:]]) + "\n"


def choices(library, rows: list) -> list:
    """Of each layer: the best plan's time, and that of the plan that the planner thinks best."""
    found = []
    for layer, dtype in dict.fromkeys((tuple(row["layer"]), row["dtype"]) for row in rows):
        some = [row for row in rows if (tuple(row["layer"]), row["dtype"]) == (layer, dtype)]
        if not some:
            continue
        times = dict(zip(modelled(library, some, None), some))
        chosen, best = times[min(times)], min(some, key=lambda row: row["us"])
        row = {"layer": "x".join(map(str, layer)), "dtype": dtype, "best_us": best["us"], "best": best["plan"]}
        found.append(
            {**row, "chosen_us": chosen["us"], "chosen": chosen["plan"], "lost": chosen["us"] / best["us"] - 1}
        )
    return found


def conclude(library, rows: list, out: Path, card: str) -> None:
    """Fits, and writes OUT/rates.h and OUT/sweep.md."""
    fitted_to = rows
    before = off(library, fitted_to, TODAY)
    rates, after = fit(library, fitted_to)
    (out / "rates.h").write_text(header(rates, card), encoding="utf-8")
    fitted = [{"rate": name, "today": old, "fitted": new} for name, old, new in zip(RATES, TODAY, rates)]
    text = (f"# Sweep: {card}\n\nThe planner is off by a factor of {math.exp(before):.2f}, by fitted rates "
            f"{math.exp(after):.2f} (root mean square of {len(fitted_to)} plans).\n\n{table(fitted)}\n"
            f"What the planner's choice takes beside the best plan:\n\n{table(choices(library, rows))}")  # fmt: skip
    (out / "sweep.md").write_text(text, encoding="utf-8")
    print(text, flush=True)


def measure(library, rows: Rows, dtypes, seconds_left) -> None:
    """All plans of all layers, until the time is over."""
    from benchmark import Layer, graph_of, seconds

    for dtype in dtypes:
        for layer in LAYERS:
            made = None
            for options in plans_of(library, layer, dtype):
                if seconds_left() <= 0:
                    return

                def timed(layer=layer, dtype=dtype, options=options):
                    nonlocal made
                    if made is None:
                        n, *rest = layer
                        made = Layer(library, n, *rest, dtype, math_mode="tf32" if dtype == "float32" else "exact")
                    made.use(call_of(library, layer, dtype, options))
                    us = seconds(graph_of(made.ours), 3) / len(made.inputs) * 1e6
                    return {"us": us, "modelled_us": made.call.plan.modelled_us, "plan": made.call.plan.text}

                rows.add({"layer": layer, "dtype": dtype, "options": options}, timed)


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--library", type=Path, default=ROOT / "build" / "cuda" / "libdwsconv_cuda.so")
    parser.add_argument(
        "--dtypes", nargs="+", default=["float16", "float32"], choices=["float16", "bfloat16", "float32"]
    )
    parser.add_argument("--seconds", type=float, default=240, help="that measuring may take")
    parser.add_argument("--fit", type=Path, help="fit to these rows instead of measuring")
    arguments = parser.parse_args(argv)
    from cuda_library import Library

    library = Library(arguments.library)
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.fit:
        lines = arguments.fit.read_text(encoding="utf-8").splitlines()
        rows = [row for row in map(json.loads, lines) if "error" not in row]
        if not rows:
            print(f"error: {arguments.fit} has no row that was measured", file=sys.stderr)
            return 1
        conclude(library, rows, arguments.out, arguments.fit.name)
        return 0
    import time

    import torch

    begin = time.monotonic()
    measured = Rows(arguments.out / "sweep.jsonl")
    measure(library, measured, arguments.dtypes, lambda: arguments.seconds - (time.monotonic() - begin))
    if measured.good:
        conclude(library, measured.good, arguments.out, torch.cuda.get_device_name())
    return int(measured.failed or not measured.good)


if __name__ == "__main__":
    sys.exit(main())
