"""What layers move: modelled by the planner, simulated through the caches of one core, and the least there is.

python -m tf_dwsconv.analysis.traffic --shape 1,56,56,128,128 --shape 4,14,14,384,1536,7     # N,H,W,C,K,kernel,stride
"""

import dataclasses

from tf_dwsconv.analysis._command import main_of, parse_layer
from tf_dwsconv.analysis._optional import require
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
    def simulated(self):
        """What the model speaks of: `x`, `filters`, `y` and `fetched`."""
        return self.x + self.filters + self.y + self.fetched


def layer_traffic(problem, dtype="float32", *, isa=None, l1d_bytes=0, l2_bytes=0, l3_bytes=0):
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


def traffic_table(layers):
    """`LayerTraffic`s as a table: megabytes (10^6 bytes), and what they are over the lower bound."""
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


@main_of("tf_dwsconv.analysis.traffic")
def main():
    """Runs the command line."""
    caches = {"l1d_bytes": _L1D.value, "l2_bytes": _L2.value, "l3_bytes": _L3.value}
    problems = [parse_layer(shape) for shape in _SHAPE.value or _SHAPES]
    layers = [layer_traffic(problem, _DTYPE.value, isa=_ISA.value, **caches) for problem in problems]
    print(f"{_DTYPE.value}, one thread; megabytes between L2 and beyond it, (over the lower bound)")
    print(traffic_table(layers))


if __name__ == "__main__":
    app = require("absl.app", "the command line of tf_dwsconv.analysis.traffic")
    flags = require("absl.flags", "the command line of tf_dwsconv.analysis.traffic")
    _SHAPE = flags.DEFINE_multi_string(
        "shape", [], "A layer as N,H,W,C,K[,kernel[,stride]] (repeatable); some of networks in use where none is given."
    )
    _DTYPE = flags.DEFINE_string("dtype", "float32", "float32, bfloat16 or float16.")
    _ISA = flags.DEFINE_string("isa", None, "generic, avx2 or avx512; the one in use where none is given.")
    _L1D, _L2, _L3 = (
        flags.DEFINE_integer(f"{level}_bytes", 0, f"An {name} of another size than this CPU's.")
        for level, name in (("l1d", "L1"), ("l2", "L2"), ("l3", "L3"))
    )
    app.run(main)
