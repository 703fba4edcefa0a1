"""What layers move: modelled by the planner, simulated through the caches of one core, and the least there is.

python -m tf_dwsconv.analysis.traffic --shape 1,56,56,128,128 --shape 4,14,14,384,1536,7     # N,H,W,C,K,kernel,stride
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from typing import Any, Optional

from tf_dwsconv._command import Parser, number, run, step
from tf_dwsconv.analysis._command import SHAPE_HELP, parse_layer
from tf_dwsconv.analysis.costs import compulsory_bytes
from tf_dwsconv.analysis.fused import dws_lower_bound
from tf_dwsconv.analysis.problem import Problem, check_problem, itemsize
from tf_dwsconv.analysis.report import format_table

# Layers of MobileNetV1, Xception, MobileNetV2, ConvNeXt and of the report, where none is asked for.
_SHAPES = (
    "1,112,112,32,64", "8,56,56,128,128", "8,28,28,256,256", "8,28,28,256,512,3,2", "8,14,14,512,512",
    "8,7,7,1024,1024", "8,19,19,728,728", "8,56,56,144,24", "4,56,56,96,384,7", "1,512,512,3,64",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class LayerTraffic:
    """Bytes that one layer moves between a core's L2 and what lies behind it, on one thread.

    Attributes:
        problem: the layer.
        block_pixels, block_channels: the planner's block.
        compulsory: every array once.
        bound: the lower bound for that L2, at least `compulsory` less what no window reads.
        modelled: by the planner's model.
        x, filters, y: simulated: X and the filters read, Y written.
        z: simulated: of the intermediate, read and written. About twice the scratch where it stays in L2.
        fetched: simulated: lines of Y that were read to be stored into; 0 where Y is written around the caches.
        memory: simulated: read and written between L3 and memory, all arrays.
    """

    problem: Problem
    block_pixels: int
    block_channels: int
    compulsory: int
    bound: float
    modelled: float
    x: int
    filters: int
    y: int
    z: int
    fetched: int
    memory: int

    @property
    def simulated(self) -> int:
        """What the model speaks of: `x`, `filters`, `y` and `fetched`."""
        return self.x + self.filters + self.y + self.fetched


def layer_traffic(
    problem: Problem,
    dtype: str = "float32",
    *,
    isa: str | None = None,
    l1d_bytes: int = 0,
    l2_bytes: int = 0,
    l3_bytes: int = 0,
) -> LayerTraffic:
    """Simulates one layer by the planner's plan for one thread; see `tf_dwsconv.native.traffic`.

    Args:
        problem: a `Problem`.
        dtype: "float32", "bfloat16" or "float16".
        isa: whose kernels; None for those in use.
        l1d_bytes, l2_bytes, l3_bytes: caches of another machine; 0 for this one's.

    Returns:
        A `LayerTraffic`.

    Raises:
        TypeError, ValueError: an argument out of range, or a layer of more than 2e12 FLOPs.
        ImportError: the compiled module `tf_dwsconv._native` is missing.
    """
    from tf_dwsconv import native

    p = check_problem(problem)
    padding = p.padding if isinstance(p.padding, str) else list(p.padding)
    options = {"strides": p.stride, "padding": padding, "dilations": p.dilation, "dtype": dtype, "isa": isa}
    told = native.traffic(*p.shapes, l1d_bytes=l1d_bytes, l2_bytes=l2_bytes, l3_bytes=l3_bytes, **options)
    beyond, memory, item = told["beyond_l2"], told["memory"], itemsize(dtype)
    fast = (l2_bytes or native.cpu_info()["l2_bytes"] or 1 << 20) // item
    return LayerTraffic(
        problem=p,
        block_pixels=told["block_pixels"],
        block_channels=told["block_channels"],
        compulsory=compulsory_bytes(p, dtype),
        bound=item * dws_lower_bound(p, fast),
        modelled=told["modelled_bytes"],
        x=beyond["read"]["x"],
        filters=beyond["read"]["filters"],
        y=beyond["written"]["y"],
        z=beyond["read"]["z"] + beyond["written"]["z"],
        fetched=beyond["read"]["y"],
        memory=sum(memory["read"].values()) + sum(memory["written"].values()),
    )


def traffic_table(layers: Sequence[LayerTraffic]) -> str:
    """The traffic of layers as a table: megabytes (10^6 bytes), and what they are over the lower bound."""
    head = ("layer", "block", "once", "bound", "modelled", "simulated", "X", "filters", "Y", "Y fetched", "Z", "memory")
    rows = [
        (
            str(layer.problem),
            f"{layer.block_pixels}x{layer.block_channels}",
            *(f"{size / 1e6:.2f}" for size in (layer.compulsory, layer.bound)),
            *(f"{size / 1e6:.2f} ({size / layer.bound:.2f})" for size in (layer.modelled, layer.simulated)),
            *(f"{size / 1e6:.2f}" for size in (layer.x, layer.filters, layer.y, layer.fetched, layer.z, layer.memory)),
        )
        for layer in layers
    ]
    return format_table(head, rows)


def _parser() -> Parser:
    parser = Parser("analysis.traffic", description="Prints what layers move between the caches of one core.")
    text = f"{SHAPE_HELP}. Some of networks in use where none is given"
    parser.add_argument("--shape", action="append", type=parse_layer, help=text)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"), help="of all arrays")
    parser.add_argument("--isa", choices=("generic", "avx2", "avx512"), help="whose kernels; by default those in use")
    for level in ("l1d", "l2", "l3"):
        text = f"an {level.upper()} cache of another size than this CPU's"
        parser.add_argument(f"--{level}-bytes", type=number(int, 0), default=0, help=text)
    return parser


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Runs the command; returns its exit status."""

    def command(given: Any) -> None:
        caches = {"l1d_bytes": given.l1d_bytes, "l2_bytes": given.l2_bytes, "l3_bytes": given.l3_bytes}
        problems = given.shape or [parse_layer(shape) for shape in _SHAPES]
        with step(f"simulating {len(problems)} layers"):
            found = [layer_traffic(problem, given.dtype, isa=given.isa, **caches) for problem in problems]
        print(f"{given.dtype}, one thread; megabytes between L2 and beyond it, (over the lower bound)")
        print(traffic_table(found))

    return run(command, _parser().parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
