"""Tunes the layers of a model, or of given shapes, for this machine.

python -m tf_dwsconv.tune MobileNet --batch-size 8
python -m tf_dwsconv.tune my_model.keras --dtype bfloat16
python -m tf_dwsconv.tune --shape 1,56,56,128,128 --shape 8,28,28,256,256,5,2      # N,H,W,C,K,kernel,stride
python -m tf_dwsconv.tune --show
"""

from __future__ import annotations

import collections
import math
import sys
from collections.abc import Sequence
from typing import Any, Optional

from tf_dwsconv import tune
from tf_dwsconv._command import Parser, number, run
from tf_dwsconv.analysis._command import SHAPE_HELP, add_model, model_of, parse_layer
from tf_dwsconv.analysis.report import format_table
from tf_dwsconv.native import _native
from tf_dwsconv.tune import _cache


def _parser() -> Parser:
    parser = Parser("tune", description="Measures plans for layers on this machine, and keeps the faster ones.")
    add_model(parser)
    parser.add_argument("--shape", action="append", type=parse_layer, default=[], help=SHAPE_HELP)
    parser.add_argument(
        "--threads", type=number(int, 0), default=0, help="threads; 0, the default, for what the op uses by default"
    )
    parser.add_argument(
        "--dtype", choices=tune.DTYPES, help="by default what the model computes in, or float32 for a --shape"
    )
    parser.add_argument("--seconds", type=float, default=2.0, help="time for a layer, about; default: %(default)s")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--dry-run", action="store_true", help="measure and print, but leave the cache as it is")
    what.add_argument("--clear", action="store_true", help="forget all tuned plans, and do nothing else")
    what.add_argument("--show", action="store_true", help="list the plans tuned on this CPU, and do nothing else")
    return parser


def _plan(plan):
    if "rows" in plan:
        words = f"{plan['rows']} rows x {plan['channels']}" + (" apart" if plan["by_channels"] else "")
    else:
        words = f"{plan['block_pixels']}x{plan['block_channels']}"
    return words + f" t{plan['threads']}" + (" stream" if plan["stream"] else "")


def _layer(result):
    expand = f"expand {result.E}: " if result.E else ""
    return f"{result.name} {expand}{result.problem}".strip()


def _row(result):
    return (
        _layer(result),
        f"{result.planned_seconds * 1e6:.1f}",
        f"{result.best_seconds * 1e6:.1f}",
        f"{result.default_seconds * 1e6:.1f}",
        f"{result.gain:.3f}",
        _plan(result.planned),
        _plan(result.best),
        "yes" if result.kept else "not quiet" if result.refused else "no",
    )


def _mean(numbers):
    numbers = list(numbers)
    return math.exp(sum(map(math.log, numbers)) / len(numbers))


def _progress(number, count, result):
    verdict = f"{result.gain:.2f} times as fast" if result.kept else result.refused or "the planner's stays"
    print(
        f"[{number}/{count}] {_layer(result)} {result.dtype}: {result.candidates} plans, {verdict}",
        flush=True,
    )


def _report(results):
    headers = ("layer", "planned us", "best us", "default us", "planned/best", "planned", "best", "kept")
    print()
    print(format_table(headers, [_row(result) for result in results]))
    print("A plan: output pixels x output channels of a task, threads, whether it writes around the caches.")
    if any(result.E for result in results):
        print("Of an expanded block: output rows x expanded channels at a time, apart where each task has its own.")
    # The planned plan is one of those swept, so the sweep's best is never behind it.
    gap = _mean(max(result.gain, 1.0) for result in results)
    default = _mean(result.default_seconds / result.planned_seconds for result in results)
    used = _mean(result.gain if result.kept else 1.0 for result in results)
    print(
        f"Geometric means over {len(results)} layers: planned/best {gap:.3f}, default/planned {default:.3f}; "
        f"the plans kept gain {used:.3f}."
    )


def _show():
    path = tune.cache_path()
    if path is None:
        print("The cache is off (DWSCONV_PLAN_CACHE).")
        return
    lines = _cache.read(path)
    own = [line for line in lines if line.startswith(_native.TUNED_PLANS_CPU)]
    print(f"{path}: {len(own)} plans for this CPU, {len(lines) - len(own)} for others")
    rows = []
    for line in own:
        subject, _, rest = line.partition(" : ")
        plan, _, remark = rest.partition(" # ")
        of = collections.defaultdict(lambda: "?", (field.partition("=")[::2] for field in subject.split(" ")))
        dtype = dict(zip("012", ("float32", "bfloat16", "float16"))).get(of["dtype"], "?")
        expand = f"expand {of['E']}: " if "E" in of else ""
        name = (
            f"{expand}{of['N']}x{of['H']}x{of['W']}x{of['C']} -> {of['K']}, {of['R']}x{of['S']} "
            f"s{of['stride_h']}x{of['stride_w']} {dtype}, {of['threads']} threads"
        )
        rows.append((name, plan, remark))
    if rows:
        print(format_table(("layer", "plan", "when tuned"), rows))


def _tune(layers: list[Any], given: Any) -> None:
    options = {"dtype": given.dtype, "seconds": given.seconds, "num_threads": given.threads}
    results = tune.tune(layers, write=not given.dry_run, progress=_progress, **options)
    _report(results)
    kept = sum(result.kept for result in results)
    print(f"{kept} plans would be kept (dry run)." if given.dry_run else f"{kept} plans kept in {tune.cache_path()}")
    refused = sum(result.refused != "" for result in results)
    if refused:
        print(f"Not decided, as the machine was not quiet: {refused} of {len(results)} layers. Try again later.")


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Runs the command; returns its exit status."""
    parser = _parser()

    def command(given: Any) -> None:
        if given.show:
            _show()
            return
        if given.clear:
            print(f"Forgot {tune.clear()} plans.")
            return
        model = model_of(parser, given)
        layers = given.shape + ([] if model is None else tune.model_layers(model, given.batch_size))
        if not layers and model is None:
            parser.error("a model or --shape must be given")
        if not layers:
            raise ValueError("the model has no depthwise-separable layers")
        _tune(layers, given)

    return run(command, parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
