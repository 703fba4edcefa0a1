"""Prints what depthwise-separable layers cost, must move, and how to tile them.

python -m tf_dwsconv.analysis --shape 1,56,56,128,128 --shape 8,28,28,256,256
python -m tf_dwsconv.analysis MobileNet --peak-gflops 520 --dram-gbs 57 --plot roofline.png
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

from tf_dwsconv._command import Parser, number, run
from tf_dwsconv.analysis import dense, fused, layers, plot, report
from tf_dwsconv.analysis._command import add_model, model_of
from tf_dwsconv.analysis.costs import Machine, layer_cost, study_table
from tf_dwsconv.analysis.problem import DTYPES, Problem, itemsize

_STUDY = "1,224,224,128,128"


def _integers(text: str) -> list[int]:
    try:
        return [int(word) for word in text.replace("x", ",").split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"must hold integers; given {text!r}") from None


def _sizes(text: str) -> list[int]:
    numbers = _integers(text)
    if len(numbers) != 5:
        raise argparse.ArgumentTypeError(f"must be 5 numbers N,H,W,C,K; given {text!r}")
    return numbers


def _pair(text: str) -> tuple[int, int]:
    numbers = _integers(text)
    if len(numbers) not in (1, 2):
        raise argparse.ArgumentTypeError(f"must be one number or rows,columns; given {text!r}")
    return numbers[0], numbers[-1]


def _parser() -> Parser:
    what = "Prints what depthwise-separable layers cost, must move, and how to tile them."
    parser = Parser("analysis", description=what)
    add_model(parser)
    of_study = f"The GPU study's, {_STUDY}, where neither a shape nor a model is given"
    parser.add_argument("--shape", action="append", type=_sizes, help=f"a layer as N,H,W,C,K; repeatable. {of_study}")
    for name, default in (("kernel", (3, 3)), ("stride", (1, 1)), ("dilation", (1, 1))):
        text = f"{name} of --shape: one number, or rows,columns"
        parser.add_argument(f"--{name}", type=_pair, default=default, help=text)
    parser.add_argument("--padding", default="SAME", choices=("SAME", "VALID"), help="padding of --shape")
    parser.add_argument("--depth-multiplier", type=number(int, 1), default=1, help="depth multiplier of --shape")
    parser.add_argument("--dtype", default="float32", choices=DTYPES, help="of all arrays; default: %(default)s")
    text = "fast memory to tile for, a core's L2 cache, say; default: 1 MiB"
    parser.add_argument("--fast-bytes", type=number(int, 1), default=1 << 20, help=text)
    text = "10^9 floating-point operations a second, at the most"
    parser.add_argument("--peak-gflops", type=number(float, 1e-9), help=text)
    parser.add_argument("--dram-gbs", type=number(float, 1e-9), help="10^9 bytes a second from and to memory")
    text = "write a roofline plot there (.png); needs --peak-gflops and --dram-gbs"
    parser.add_argument("--plot", metavar="FILE", help=text)
    parser.add_argument("--overwrite", action="store_true", help="write over what is at --plot")
    return parser


def _problems(parser: Parser, given: Any) -> list[Problem]:
    shapes = given.shape or ([] if given.model or given.model_flag else [_sizes(_STUDY)])
    options = {
        "M": given.depth_multiplier,
        "stride": given.stride,
        "dilation": given.dilation,
        "padding": given.padding,
    }
    r, s = given.kernel
    try:
        return [Problem(*shape, R=r, S=s, **options) for shape in shapes]
    except ValueError as error:
        return parser.error(str(error))


def _machine(parser: Parser, given: Any) -> Optional[Machine]:
    rates = (given.peak_gflops, given.dram_gbs)
    if rates == (None, None):
        if given.plot:
            parser.error("--plot needs --peak-gflops and --dram-gbs")
        return None
    if None in rates:
        parser.error("--peak-gflops and --dram-gbs must be given together")
    if given.plot and Path(given.plot).exists() and not given.overwrite:
        parser.error(f"{given.plot!r} exists; --overwrite writes over it")
    return Machine(given.peak_gflops * 1e9, given.dram_gbs * 1e9)


def _tile(tile: Any) -> str:
    return " ".join(f"{loop}={round(b)}" for loop, b in tile.items())


def _print_layer(problem: Problem, dtype: str, fast_bytes: int) -> None:
    memory = max(2, fast_bytes // itemsize(dtype))
    print(f"\n== {problem}, {dtype}, {memory} elements of fast memory")
    costs = {
        "dense": layer_cost(problem, "dense", dtype),
        "DWS fused": layer_cost(problem, dtype=dtype),
        "DWS unfused": layer_cost(problem, dtype=dtype, fused=False),
    }
    rows = [
        (name, str(c.parameters), f"{c.flops / 1e6:.1f}", f"{c.accesses_bytes / 1e6:.2f}", f"{c.intensity:.1f}")
        for name, c in costs.items()
    ]
    print(report.format_table(("every array once", "parameters", "MFLOP", "MB", "FLOP/B"), rows))
    print("The GPU study's conventions (a multiply-add is one operation, float16, operations an element):")
    rows = [
        (name, str(row.parameters), f"{row.flops / 1e9:.3g}", f"{row.accesses_mb:.1f}", f"{row.intensity:.1f}")
        for name, row in zip(("dense", "DWS"), study_table(problem).values())
    ]
    print(report.format_table(("", "parameters", "GFLOP", "MB", "intensity"), rows))
    rows = []
    for name, nest in (
        ("pointwise", layers.pointwise_nest(problem)),
        ("depthwise", layers.depthwise_nest(problem)),
        ("depthwise, im2col", layers.depthwise_nest(problem, "im2col")),
        ("fused", layers.fused_nest(problem)),
    ):
        tiling = nest.solve(memory)
        rows.append((name, f"{tiling.objective:.4f}", f"{tiling.words:.4g}", _tile(tiling.tile)))
    print("Linear programs (Dinh & Demmel): tiles of M^lambda, elements moved to a constant factor:")
    print(report.format_table(("", "sum lambda", "elements", "tile"), rows))
    bound = dense.conv_lower_bound(problem, memory)
    line = f"Dense convolution (Chen et al.): at least {bound.words:.4g} elements"
    if problem.dilation == (1, 1) and memory >= 12:
        line += f"; blocks {_tile(dense.conv_blocking(problem, memory).blocks)}"
    print(line)
    print(f"Fused DWS layer: at least {fused.dws_lower_bound(problem, memory):.4g} elements")


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Runs the command; returns its exit status."""
    parser = _parser()
    given = parser.parse_args(argv)
    problems, machine = _problems(parser, given), _machine(parser, given)
    options = {"fast_bytes": given.fast_bytes, "machine": machine, "dtype": given.dtype}

    def command(given: Any) -> None:
        if problems:
            rows = [report.report_layer(problem, f"layer {i}", **options) for i, problem in enumerate(problems, 1)]
            print(report.report_table(rows))
            for problem in problems:
                _print_layer(problem, given.dtype, given.fast_bytes)
        model = model_of(parser, given)
        drawn = list(problems)
        if model is not None:
            summary = report.summary(model, batch_size=given.batch_size, **options)
            print(summary)
            drawn += [layer.problem for layer in summary.layers if layer.kind == "dws"]
        if given.plot:
            plot.plot_roofline(drawn, machine, given.plot, given.dtype)
            print(f"{given.plot}: a roofline with {len(drawn)} layers")

    return run(command, given)


if __name__ == "__main__":
    sys.exit(main())
