"""Prints what depthwise-separable layers cost, must move, and how to tile them.

python -m tf_dwsconv.analysis --shape 1,56,56,128,128 --shape 8,28,28,256,256
python -m tf_dwsconv.analysis --model MobileNet --peak_gflops 520 --dram_gbs 57 --plot roofline.png
"""

import os

from tf_dwsconv.analysis import dense, fused, layers, plot, report
from tf_dwsconv.analysis._command import application, main_of
from tf_dwsconv.analysis._optional import require
from tf_dwsconv.analysis.costs import Machine, layer_cost, study_table
from tf_dwsconv.analysis.problem import Problem, itemsize

app = require("absl.app", "the command line of tf_dwsconv.analysis")
flags = require("absl.flags", "the command line of tf_dwsconv.analysis")

_SHAPE = flags.DEFINE_multi_string(
    "shape",
    [],
    "A layer as N,H,W,C,K (repeatable). The GPU study's layer, "
    "1,224,224,128,128, where neither --shape nor --model is given.",
)
_KERNEL = flags.DEFINE_list("kernel", ["3"], "Filter size of --shape: one number, or rows,columns.")
_STRIDE = flags.DEFINE_list("stride", ["1"], "Stride of --shape: one number, or rows,columns.")
_DILATION = flags.DEFINE_list("dilation", ["1"], "Dilation of --shape: one number, or rows,columns.")
_PADDING = flags.DEFINE_string("padding", "SAME", "Padding of --shape: SAME or VALID.")
_MULTIPLIER = flags.DEFINE_integer("depth_multiplier", 1, "Depth multiplier of --shape.")
_MODEL = flags.DEFINE_string("model", None, "A .keras file, or the name of a model in keras.applications.")
_BATCH = flags.DEFINE_integer("batch_size", 1, "N of --model.")
_DTYPE = flags.DEFINE_string("dtype", "float32", "float32, bfloat16, float16, float64 or int8.")
_FAST = flags.DEFINE_integer("fast_bytes", 1 << 20, "Fast memory to tile for, in bytes: a core's L2 cache, say.")
_GFLOPS = flags.DEFINE_float("peak_gflops", None, "The machine's peak, 10^9 floating-point operations a second.")
_GBS = flags.DEFINE_float("dram_gbs", None, "The machine's memory bandwidth, 10^9 bytes a second.")
_PLOT = flags.DEFINE_string("plot", None, "Save a roofline plot here (.png); needs --peak_gflops and --dram_gbs.")


def _integers(flag, words):
    try:
        return [int(word) for word in words]
    except ValueError:
        raise ValueError(f"--{flag} must hold integers, got {','.join(words)!r}") from None


def _pair(flag, words):
    numbers = _integers(flag, words)
    if len(numbers) not in (1, 2):
        raise ValueError(f"--{flag} must be one number or rows,columns, got {','.join(words)!r}")
    return numbers[0], numbers[-1]


def _problems():
    shapes = _SHAPE.value or ([] if _MODEL.value else ["1,224,224,128,128"])
    r, s = _pair("kernel", _KERNEL.value)
    options = {
        "M": _MULTIPLIER.value,
        "stride": _pair("stride", _STRIDE.value),
        "dilation": _pair("dilation", _DILATION.value),
        "padding": _PADDING.value,
    }
    problems = []
    for shape in shapes:
        numbers = _integers("shape", shape.replace("x", ",").split(","))
        if len(numbers) != 5:
            raise ValueError(f"--shape must be 5 numbers N,H,W,C,K, got {shape!r}")
        problems.append(Problem(*numbers, R=r, S=s, **options))
    return problems


def _load_model():
    name = _MODEL.value
    if os.path.exists(name):
        return require("keras", "--model").saving.load_model(name)
    model = application(name)
    if model is None:
        raise ValueError(f"--model must be a file or a name in keras.applications (MobileNet, say), got {name!r}")
    return model


def _tile(tile):
    return " ".join(f"{loop}={round(b)}" for loop, b in tile.items())


def _print_layer(problem):
    memory = max(2, _FAST.value // itemsize(_DTYPE.value))
    print(f"\n== {problem}, {_DTYPE.value}, {memory} elements of fast memory")
    costs = {
        "dense": layer_cost(problem, "dense", _DTYPE.value),
        "DWS fused": layer_cost(problem, dtype=_DTYPE.value),
        "DWS unfused": layer_cost(problem, dtype=_DTYPE.value, fused=False),
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


@main_of("tf_dwsconv.analysis")
def main():
    """Runs the command line."""
    machine = None
    if _GFLOPS.value is not None or _GBS.value is not None:
        if None in (_GFLOPS.value, _GBS.value):
            raise ValueError("--peak_gflops and --dram_gbs must be given together")
        machine = Machine(_GFLOPS.value * 1e9, _GBS.value * 1e9)
    if _PLOT.value and machine is None:
        raise ValueError("--plot needs --peak_gflops and --dram_gbs")
    options = {"fast_bytes": _FAST.value, "machine": machine, "dtype": _DTYPE.value}
    problems = _problems()
    if problems:
        layers = [report.report_layer(problem, f"layer {i}", **options) for i, problem in enumerate(problems, 1)]
        print(report.report_table(layers))
        for problem in problems:
            _print_layer(problem)
    if _MODEL.value:
        summary = report.summary(_load_model(), batch_size=_BATCH.value, **options)
        print(summary)
        problems += [layer.problem for layer in summary.layers if layer.kind == "dws"]
    if _PLOT.value:
        plot.plot_roofline(problems, machine, _PLOT.value, _DTYPE.value)
        print(f"Saved {_PLOT.value}")


if __name__ == "__main__":
    app.run(main)
