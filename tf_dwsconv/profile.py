"""What each step of a network takes: milliseconds, GFLOP/s, GB/s.

python -m tf_dwsconv.profile network.safetensors
python -m tf_dwsconv.profile model.keras --batch 16 --threads 4

A Keras model is converted first, and has to become one network. A file of `tf_dwsconv.save_network` needs no
TensorFlow. Steps are measured one by one, each the least of several runs, so their sum is more than what a call takes.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

from tf_dwsconv._command import Parser, run
from tf_dwsconv._text import table


def _parser() -> Parser:
    parser = Parser("profile", description="Measures each step of a network, without TensorFlow.")
    parser.add_argument("model", help="a file of tf_dwsconv.save_network, or a .keras file")
    parser.add_argument("--batch", type=int, default=1, help="pictures in a call (default 1)")
    parser.add_argument("--size", metavar="HxW", help="of pictures, where the network leaves it open: 224x224")
    parser.add_argument("--threads", type=int, default=0, help="0 for all cores (the default)")
    parser.add_argument("--repeats", type=int, default=10, help="runs, of which the fastest counts (default 10)")
    parser.add_argument("--top", type=int, help="show the slowest steps alone, so many")
    return parser


def format_profile(steps: Sequence[dict[str, Any]], top: Optional[int] = None) -> str:
    """The rows of `tf_dwsconv.native.Network.profile` as a table, with each step's share of the time.

    Args:
        steps: dicts with step, op, name, shape, ms, gflops and gbs.
        top: how many of the slowest to show, slowest first; None for all in their order.

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
    lines = [("step", "op", "name", "shape", "ms", "share", "GFLOP/s", "GB/s")]
    for step in shown:
        shape = "x".join(map(str, step["shape"]))
        share = f"{step['ms'] / total:.0%}" if total else "-"
        numbers = f"{step['ms']:.4g}", share, f"{step['gflops']:.4g}", f"{step['gbs']:.4g}"
        lines.append((str(step["step"]), step["op"], step["name"], shape, *numbers))
    lines.append(("sum", "", "", "", f"{total:.4g}", "", "", ""))
    return table(lines, left=4)


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
        network = _network(given.model)
        inputs = _inputs(network, given.batch, given.size)
        steps = network.profile(inputs if len(inputs) > 1 else inputs[0], given.threads, given.repeats)
        print(format_profile(steps, given.top))

    return run(command, _parser().parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
