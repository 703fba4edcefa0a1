"""What each step of a network takes: milliseconds, GFLOP/s, GB/s, and the share of what the machine can.

python -m tf_dwsconv.profile network.safetensors
python -m tf_dwsconv.profile model.keras --batch 16 --threads 4
python -m tf_dwsconv.profile model.keras --plot profile.png

A Keras model is converted first, and has to become one network. A file of `tf_dwsconv.save_network` needs no
TensorFlow. Steps are measured one by one, each the least of several runs, so their sum is more than what a call takes.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

from tf_dwsconv._command import Parser, number, run
from tf_dwsconv._text import table

# GFLOP/s of arithmetic and GB/s of the memory.
Rates = tuple[float, float]


def _parser() -> Parser:
    parser = Parser("profile", description="Measures each step of a network, without TensorFlow.")
    parser.add_argument("model", help="a file of tf_dwsconv.save_network, or a .keras file")
    parser.add_argument("--batch", type=int, default=1, help="pictures in a call (default 1)")
    parser.add_argument("--size", metavar="HxW", help="of pictures, where the network leaves it open: 224x224")
    parser.add_argument("--threads", type=int, default=0, help="0 for all cores (the default)")
    parser.add_argument("--repeats", type=int, default=10, help="runs, of which the fastest counts (default 10)")
    parser.add_argument("--top", type=int, help="show the slowest steps alone, so many")
    text = "10^9 floating-point operations a second, at the most; default: measured, by matrix products"
    parser.add_argument("--peak-gflops", type=number(float, 1e-9), help=text)
    text = "10^9 bytes a second from and to memory; default: measured, by a copy"
    parser.add_argument("--dram-gbs", type=number(float, 1e-9), help=text)
    parser.add_argument("--plot", metavar="FILE", help="write a picture of the steps there (.png)")
    parser.add_argument("--overwrite", action="store_true", help="write over what is at --plot")
    return parser


def limit_share(step: dict[str, Any], rates: Rates) -> float:
    """The share that a step reaches of arithmetic's rate or of the memory's, whichever is more.

    It is more than 1 where what a step reads comes from a cache.

    Args:
        step: of `tf_dwsconv.native.Network.profile`.
        rates: GFLOP/s of arithmetic and GB/s of the memory.

    >>> limit_share({"gflops": 50.0, "gbs": 5.0}, (200.0, 10.0))
    0.5
    """
    return max(step["gflops"] / rates[0], step["gbs"] / rates[1])


def format_profile(steps: Sequence[dict[str, Any]], top: Optional[int] = None, rates: Optional[Rates] = None) -> str:
    """The rows of `tf_dwsconv.native.Network.profile` as a table, with each step's share of the time.

    Args:
        steps: dicts with step, op, name, shape, ms, gflops and gbs.
        top: how many of the slowest to show, slowest first; None for all in their order.
        rates: of the machine, for a column with each step's `limit_share`; None for no such column.

    Returns:
        text of several lines, the last of which is the sum.

    >>> step = {"step": 0, "op": "mean", "name": "pool", "shape": [1, 8], "ms": 0.25, "gflops": 1.5, "gbs": 2.0}
    >>> print(format_profile([step]))
    step  op    name  shape    ms  share  GFLOP/s  GB/s
    0     mean  pool  1x8    0.25   100%      1.5     2
    sum                      0.25
    """
    total = sum(step["ms"] for step in steps)
    shown = list(steps) if top is None else sorted(steps, key=lambda step: -step["ms"])[:top]
    lines = [("step", "op", "name", "shape", "ms", "share", "GFLOP/s", "GB/s", *(("% limit",) if rates else ()))]
    for step in shown:
        shape = "x".join(map(str, step["shape"]))
        share = f"{step['ms'] / total:.0%}" if total else "-"
        numbers = f"{step['ms']:.4g}", share, f"{step['gflops']:.4g}", f"{step['gbs']:.4g}"
        limit = (f"{100 * limit_share(step, rates):.0f}",) if rates else ()
        lines.append((str(step["step"]), step["op"], step["name"], shape, *numbers, *limit))
    lines.append(("sum", "", "", "", f"{total:.4g}", *[""] * (len(lines[0]) - 5)))
    return table(lines, left=4)


def plot_profile(steps: Sequence[dict[str, Any]], path: Any, rates: Rates, top: int = 40) -> None:
    """Saves a picture of a profile: a bar of each step's time, the part of it that the limit allows in full colour.

    Args:
        steps: of `tf_dwsconv.native.Network.profile`, at least one.
        path: file to write; its ending names the format (.png, .pdf, .svg).
        rates: GFLOP/s of arithmetic and GB/s of the memory.
        top: so many of the slowest steps, in the network's order.

    Raises:
        ValueError: an ending that matplotlib does not know.
        ImportError: matplotlib is missing.
    """
    from tf_dwsconv.analysis._optional import require

    figures = require("matplotlib.figure", "plot_profile")
    canvas = require("matplotlib.backends.backend_agg", "plot_profile")
    slowest = {id(step) for step in sorted(steps, key=lambda step: -step["ms"])[:top]}
    shown = [step for step in steps if id(step) in slowest]
    figure = figures.Figure(figsize=(9, 1.6 + 0.24 * len(shown)), layout="constrained")
    canvas.FigureCanvasAgg(figure)
    formats = figure.canvas.get_supported_filetypes()
    if Path(str(path)).suffix[1:].lower() not in formats:
        raise ValueError(f"path must end in one of {', '.join('.' + f for f in sorted(formats))}; given {str(path)!r}")
    axes = figure.add_subplot()
    rows = range(len(shown))
    axes.barh(rows, [step["ms"] for step in shown], color="#c6d4e6", label="measured")
    least = [step["ms"] * min(1.0, limit_share(step, rates)) for step in shown]
    axes.barh(rows, least, color="#2a5d9c", label=f"at {rates[0]:.0f} GFLOP/s or {rates[1]:.0f} GB/s")
    axes.set_yticks(rows, [f"{step['step']}  {step['name'][-36:]}" for step in shown], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("milliseconds")
    rest = len(steps) - len(shown)
    axes.set_title(f"{sum(step['ms'] for step in steps):.3g} ms in {len(steps)} steps"
                   + (f", of which {rest} short ones are not shown" if rest else ""), fontsize=10)  # fmt: skip
    axes.legend(loc="lower right", fontsize=8)
    figure.savefig(str(path), dpi=120)


def measured_rates(threads: int = 0, dtype: str = "float32") -> Rates:
    """GFLOP/s of matrix products and GB/s of a copy.

    The larger rate counts of NumPy's product, in float32, and of a 1x1 convolution of this library: NumPy's does not
    know every CPU, and ours is not to be its own limit.

    Args:
        threads: 0 for all cores.
        dtype: of the 1x1 convolution: float32, bfloat16 or float16.
    """
    import numpy as np

    from tf_dwsconv import native

    def least(run: Any, times: int = 5) -> float:
        return min(_seconds(run) for _ in range(times))

    cores = native.cpu_info()["cores"]
    used = min(threads or cores, cores)
    a = np.ones((1536, 1536), np.float32)
    out, x, y = np.empty_like(a), np.ones(16 << 20, np.float32), np.zeros(16 << 20, np.float32)
    numpys = 2 * 1536**3 / least(lambda: np.matmul(a, a, out=out)) * used / cores
    network, rows, flops = _product(used, dtype)
    to = network(rows, num_threads=used)
    ours = flops / least(lambda: network(rows, out=to, num_threads=used), 50)
    return max(numpys, ours) * 1e-9, 2 * x.nbytes / least(lambda: np.copyto(y, x)) * 1e-9


def _product(threads: int, dtype: str) -> tuple[Any, Any, int]:
    """A 1x1 convolution that stays in the caches of so many cores: the network, its input, its operations."""
    import numpy as np

    from tf_dwsconv import native
    from tf_dwsconv._arguments import numpy_dtype

    channels, sizes = 256, [1, 16 * threads, 32, 256]
    filters = {"name": "filter", "offset": 0, "shape": [1, 1, channels, channels]}
    program = {
        "format": "tf_dwsconv.program",
        "version": 1,
        "dtype": dtype,
        "inputs": [{"name": "x", "tensor": 0, "shape": sizes}],
        "outputs": [{"name": "y", "tensor": 1}],
        "weights": {"count": channels**2, "tensors": [filters]},
        "steps": [{"op": "chain", "name": "product", "x": 0, "output": 1, "weights": {"pointwise_filter": 0}}],
    }
    random, kind = np.random.default_rng(0), numpy_dtype(dtype)
    network = native.Network.from_program(json.dumps(program), random.standard_normal(channels**2).astype(kind))
    return network, random.standard_normal(sizes).astype(kind), 2 * math.prod(sizes) * channels


def _seconds(run: Any) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _network(path: str) -> Any:
    """The network of a file, or of a Keras model in one."""
    from tf_dwsconv import native

    if not path.endswith(".keras"):
        return native.Network(path)
    import keras

    import tf_dwsconv

    model = tf_dwsconv.convert(keras.saving.load_model(path, compile=False))
    with tempfile.TemporaryDirectory() as folder:
        tf_dwsconv.save_network(model, Path(folder) / "network")
        return native.Network(Path(folder) / "network")


def _inputs(network: Any, batch: int, size: Optional[str]) -> list:
    """Random arrays of the shapes that a network takes."""
    import numpy as np

    from tf_dwsconv._arguments import numpy_dtype

    if batch < 1:
        raise ValueError(f"--batch must be at least 1; given {batch}")
    sizes = [int(part) if part.isdigit() else 0 for part in (size or "").split("x")]
    if size is not None and (len(sizes) != 2 or min(sizes) < 1):
        raise ValueError(f"--size must be HxW, such as 224x224; given {size!r}")
    random, found = np.random.default_rng(0), []
    for given in network.inputs:
        shape = [batch, *given["shape"][1:]]
        if None in shape and (size is None or len(shape) != 4):
            raise ValueError(f"the input {given['name']!r} has shape {given['shape']}; give --size HxW")
        shape = [sizes[i - 1] if n is None else n for i, n in enumerate(shape)]
        found.append(random.standard_normal(shape).astype(numpy_dtype(given["dtype"])))
    return found


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Runs the command; returns its exit status."""

    def command(given: Any) -> None:
        if given.plot and Path(given.plot).exists() and not given.overwrite:
            raise ValueError(f"{given.plot!r} exists; --overwrite writes over it")
        network = _network(given.model)
        inputs = _inputs(network, given.batch, given.size)
        steps = network.profile(inputs if len(inputs) > 1 else inputs[0], given.threads, given.repeats)
        wanted = (given.peak_gflops, given.dram_gbs)
        known = (0.0, 0.0) if None not in wanted else measured_rates(given.threads, network.inputs[0]["dtype"])
        peak, dram = (mine if asked is None else asked for asked, mine in zip(wanted, known))
        print(format_profile(steps, given.top, (peak, dram)))
        words = ["measured" if asked is None else "given" for asked in wanted]
        print(f"limit: {peak:.4g} GFLOP/s ({words[0]}), {dram:.4g} GB/s ({words[1]})")
        if given.plot:
            plot_profile(steps, given.plot, (peak, dram))
            print(f"{given.plot}: a picture of the steps")

    return run(command, _parser().parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
