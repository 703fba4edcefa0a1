"""Times forward and backward of the fused layer on a GPU beside PyTorch's: `python cuda/bench/layer_training.py OUT`.

A layer is `relu(pointwise(depthwise(x)) + bias)`; a step is its result and the gradients of x, both filters and the
bias. Ours is two calls; PyTorch's is its pair of channels_last convolutions with autograd: called one by one, as a CUDA
graph, and through torch.compile (--compile: the layers it is done for, as compiling takes seconds each). Steps that are
called one by one are bound by Python where layers are small, on both sides; graphs are what the card takes. All go
round several sets of buffers, more than L2 holds; the median of some rounds counts. Before it is timed, ours is
compared with PyTorch, and run twice, which has to give the same bits. Then the memory of a step through ten stacked
layers, beside PyTorch's.

Writes OUT/training.json, OUT/training.md and, where Matplotlib is installed, OUT/training.png. `--once LAYER` runs one
layer a few times and nothing else: for a profiler.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path

from cifar import missing
from rows import Rows

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "python_tests" / "cuda"))

# name: H = W, C, K, kernel, stride; padding SAME.
LAYERS = {
    "mobilenetv1_112x32-64": (112, 32, 64, 3, 1),
    "mobilenetv1_112x64-128_s2": (112, 64, 128, 3, 2),
    "mobilenetv1_56x128-128": (56, 128, 128, 3, 1),
    "mobilenetv1_56x128-256_s2": (56, 128, 256, 3, 2),
    "mobilenetv1_28x256-256": (28, 256, 256, 3, 1),
    "mobilenetv1_14x512-512": (14, 512, 512, 3, 1),
    "mobilenetv1_7x1024-1024": (7, 1024, 1024, 3, 1),
    "xception_19x728-728": (19, 728, 728, 3, 1),
    "study_32x128-128": (32, 128, 128, 3, 1),
    "efficientnet_28x240-40_k5": (28, 240, 40, 5, 1),
    "convnext_28x192-768_k7": (28, 192, 768, 7, 1),
}
COMPILED = ("mobilenetv1_112x32-64", "mobilenetv1_56x128-128", "mobilenetv1_14x512-512", "study_32x128-128")
# Of a gradient's norm. Most of it is the ReLU's: where a result is 0 here and not there, a whole gradient is off.
# What is exact is held to float64 by cuda_backward_gpu_program.py.
TOLERANCE = {"float16": 2e-2, "bfloat16": 6e-2, "float32": 2e-2}
STACK = (32, 56, 128, 10)  # batch, H = W, C = K, layers
TARGETS = {"mean": 2.0, "least": 1.0, "memory": 0.6}


def compulsory_bytes(batch: int, size: int, c: int, k: int, stride: int, itemsize: int) -> int:
    """What a step has to move: X, Y forward; X, Y, dY, dX backward. Filters are left out."""
    pixels = batch * (-(-size // stride)) ** 2
    return itemsize * (3 * batch * size * size * c + 3 * pixels * k)


def summary(rows: list[dict], by: str = "speedup") -> dict:
    """By dtype and batch: the geometric mean of the speedups, and the least with its layer. by: or "graph_speedup"."""
    found = {}
    for key in dict.fromkeys((row["dtype"], row["batch"]) for row in rows if by in row):
        some = [row for row in rows if (row["dtype"], row["batch"]) == key and by in row]
        worst = min(some, key=lambda row: row[by])
        mean = math.exp(sum(math.log(row[by]) for row in some) / len(some))
        found[f"{key[0]}, batch {key[1]}"] = {"mean": mean, "least": worst[by], "layer": worst["layer"]}
    return found


def markdown(result: dict) -> str:
    """The page of what was measured."""
    lines = [f"# {result['gpu']}, PyTorch {result['torch']}: forward and backward", "",
             "| layer | batch | dtype | ours, us | PyTorch, us | compiled, us | speedup | graph: ours, us | "
             "PyTorch, us | speedup | bytes/s | plan |",
             "| --- |" + " ---: |" * 10 + " --- |"]  # fmt: skip
    for row in result["layers"]:
        compiled = f"{row['compile_us']:.0f}" if "compile_us" in row else ""
        lines.append(f"| {row['layer']} | {row['batch']} | {row['dtype']} | {row['ours_us']:.0f} | "
                     f"{row['eager_us']:.0f} | {compiled} | {row['speedup']:.2f} | {row['ours_graph_us']:.0f} | "
                     f"{row['eager_graph_us']:.0f} | {row['graph_speedup']:.2f} | {row['bytes_per_s']:.3g} | "
                     f"{row['plan']} |")  # fmt: skip
    lines.append("")
    for how, by in (("called one by one", "speedup"), ("as graphs", "graph_speedup")):
        for name, found in summary(result["layers"], by).items():
            mean = f"{found['mean']:.2f} times the better of PyTorch's (geometric mean; aimed at {TARGETS['mean']})"
            worst = f"at worst {found['least']:.2f} ({found['layer']}; {TARGETS['least']})"
            lines.append(f"- {name}, {how}: {mean}, {worst}")
    if "memory" in result:
        ours, other = result["memory"]["ours_mib"], result["memory"]["torch_mib"]
        lines.append(f"- memory of a step through ten layers: {ours:.0f} of {other:.0f} MiB, {ours / other:.2f} "
                     f"(aimed at {TARGETS['memory']})")  # fmt: skip
    return "\n".join(lines) + "\n"


def draw(rows: list[dict], path: Path) -> None:
    """Speedups as bars."""
    try:
        import matplotlib
    except ImportError:
        print(f"Matplotlib is not installed: {path.name} is left out")
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 0.3 * len(rows) + 1.5), layout="constrained")
    axes.barh([f"{row['layer']} {row['dtype']} {row['batch']}" for row in rows], [row["speedup"] for row in rows])
    axes.axvline(1, color="black", linewidth=1)
    axes.invert_yaxis()
    axes.set_xlabel("forward and backward: times the better of PyTorch's")
    figure.savefig(path, dpi=120)


class Step:
    """One layer's buffers and the ways to run its step.

    Args:
        library: a `cuda_backward_library.BackwardLibrary`.
        batch, size, c, k, kernel, stride: of the layer.
        dtype: a key of `torch_layer.DTYPES`.
        sets: of buffers; by default as many as hold 256 MiB, and at most 8.
    """

    def __init__(self, library, batch, size, c, k, kernel, stride, dtype, *, device="cuda", sets=None):
        import torch
        from torch_layer import DTYPES, Plans, Separable

        self._torch, self._separable, self.dtype = torch, Separable, dtype
        self.plans, self.kernel, self.stride = Plans(library), kernel, stride
        element = DTYPES[dtype]
        self.bytes = compulsory_bytes(batch, size, c, k, stride, element.itemsize)
        sets = sets or max(2, min(8, math.ceil((256 << 20) / self.bytes)))
        out = -(-size // stride)

        def draw_(*shape):
            return torch.randn(*shape, device=device).to(element)

        last = torch.channels_last
        self.inputs = [draw_(batch, c, size, size).contiguous(memory_format=last).requires_grad_() for _ in range(sets)]
        self.grads = [draw_(batch, k, out, out).contiguous(memory_format=last) for _ in range(sets)]
        self.d, self.p, self.b = (draw_(kernel, kernel, c) / kernel).requires_grad_(), draw_(c, k), draw_(k)
        self.p = (self.p / c**0.5).requires_grad_()
        self.b.requires_grad_()
        self.depthwise = self.d.detach().permute(2, 0, 1)[:, None].contiguous(memory_format=last).requires_grad_()
        self.pointwise = self.p.detach().t()[:, :, None, None].contiguous(memory_format=last).requires_grad_()

    def ours(self, x, grad):
        """(y, gradients of x, d, p, b)."""
        y = self._separable.apply(x, self.d, self.p, self.b, self.plans, self.stride, "relu")
        return y, self._torch.autograd.grad(y, [x, self.d, self.p, self.b], grad)

    def pair(self, x):
        """PyTorch's layer, padded as TensorFlow's SAME where that is the same on both sides, else a row more."""
        functional = self._torch.nn.functional
        z = functional.conv2d(x, self.depthwise, None, self.stride, self.kernel // 2, groups=x.shape[1])
        return functional.relu(functional.conv2d(z, self.pointwise, self.b))

    def others(self, x, grad, layer=None):
        y = (layer or self.pair)(x)
        return y, self._torch.autograd.grad(y, [x, self.depthwise, self.pointwise, self.b], grad)

    def check(self) -> None:
        """Fails where ours is not PyTorch's within what both round, or two runs differ in a bit."""
        x, grad = self.inputs[0], self.grads[0]
        _, mine = self.ours(x, grad)
        again = self.ours(x, grad)[1]
        if not all(self._torch.equal(a, b) for a, b in zip(mine, again)):
            raise AssertionError(f"{tuple(x.shape)} {self.dtype}: two runs differ")
        if self.stride > 1:
            return  # PyTorch pads such a layer in another way
        _, theirs = self.others(x, grad)
        theirs = (theirs[0], theirs[1][:, 0].permute(1, 2, 0), theirs[2][:, :, 0, 0].t(), theirs[3])
        for name, actual, expected in zip("xdpb", mine, theirs):
            error = (actual.float() - expected.float()).norm() / expected.float().norm()
            if not error < TOLERANCE[self.dtype]:
                raise AssertionError(f"{tuple(x.shape)} {self.dtype}: gradient of {name} is {error} from PyTorch's")

    def plan(self) -> str:
        x = self.inputs[0]
        return self.plans.of(x, self.kernel, self.p.shape[1], self.stride, "relu", ("x", "d", "p", "b"))[1].plan.text

    def times(self, compiled: bool) -> dict:
        """Seconds of a step, each way."""
        from benchmark import graph_of, seconds

        self.check()
        sets = len(self.inputs)

        def all_of(step):
            for x, grad in zip(self.inputs, self.grads):
                step(x, grad)

        found = {
            "ours": seconds(lambda: all_of(self.ours)) / sets,
            "eager": seconds(lambda: all_of(self.others)) / sets,
            "ours_graph": seconds(graph_of(lambda: all_of(self.ours))) / sets,
            "eager_graph": seconds(graph_of(lambda: all_of(self.others))) / sets,
        }
        if compiled:
            layer = self._torch.compile(self.pair, dynamic=False)
            found["compile"] = seconds(lambda: all_of(lambda x, g: self.others(x, g, layer))) / sets
        return found


def row_of(name: str, batch: int, dtype: str, step: Step, times: dict) -> dict:
    best = min(times[key] for key in ("eager", "compile") if key in times)
    return {
        "layer": name,
        "batch": batch,
        "dtype": dtype,
        **{f"{key}_us": value * 1e6 for key, value in times.items()},
        "speedup": best / times["ours"],
        "graph_speedup": times["eager_graph"] / times["ours_graph"],
        "bytes_per_s": step.bytes / times["ours_graph"],
        "plan": step.plan(),
    }


def memory(library, dtype: str = "float16", device: str = "cuda") -> dict:
    """MiB that a step through ten layers takes above what there was before, ours and PyTorch's."""
    import torch
    from torch_layer import DTYPES, Plans, Separable

    batch, size, channels, count = STACK
    found = {}
    for who in ("ours", "torch"):
        plans = Plans(library)
        x = torch.randn(batch, channels, size, size, device=device).to(DTYPES[dtype])
        x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
        shapes = ((3, 3, channels), (channels, channels), (channels,))
        filters = [
            [torch.randn(*shape, device=device).to(x.dtype).requires_grad_() for shape in shapes] for _ in range(count)
        ]
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        y = x
        for d, p, b in filters:
            if who == "ours":
                y = Separable.apply(y, d, p, b, plans, 1, "relu")
            else:
                z = torch.nn.functional.conv2d(y, d.permute(2, 0, 1)[:, None], None, 1, 1, groups=channels)
                y = torch.nn.functional.relu(torch.nn.functional.conv2d(z, p.t()[:, :, None, None], b))
        y.float().mean().backward()
        torch.cuda.synchronize()
        found[f"{who}_mib"] = (torch.cuda.max_memory_allocated() - before) / 2**20
        del x, y, filters
        torch.cuda.empty_cache()
    return found


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--library", type=Path, default=ROOT / "build" / "cuda" / "libdwsconv_cuda.so")
    parser.add_argument("--batches", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--dtypes", nargs="+", default=["float16", "bfloat16", "float32"], choices=TOLERANCE)
    parser.add_argument("--layers", nargs="+", default=list(LAYERS), choices=LAYERS)
    parser.add_argument("--compile", nargs="*", default=COMPILED, choices=LAYERS)
    parser.add_argument("--once", choices=LAYERS)
    arguments = parser.parse_args(argv)
    why = missing("cuda")
    if why:
        print(f"error: {why}", file=sys.stderr)
        return 1
    import torch
    from cuda_backward_library import BackwardLibrary

    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = True
    library = BackwardLibrary(arguments.library)
    if arguments.once:
        step = Step(library, 64, *LAYERS[arguments.once], "float16")
        for x, grad in zip(step.inputs, step.grads):
            step.ours(x, grad)
        torch.cuda.synchronize()
        print(json.dumps({"compulsory_bytes": step.bytes, "plan": step.plan()}))
        return 0
    arguments.out.mkdir(parents=True, exist_ok=True)
    result = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "layers": []}

    def write():
        # Whatever comes next may take too long: what is there is written.
        (arguments.out / "training.json").write_text(json.dumps(result, indent=1), encoding="utf-8")
        (arguments.out / "training.md").write_text(markdown(result), encoding="utf-8")

    measured = Rows(arguments.out / "rows.jsonl")
    result["memory"] = memory(library)
    for dtype in arguments.dtypes:
        for batch in arguments.batches:
            for name in arguments.layers:

                def measure(layer=name, n=batch, kind=dtype):
                    torch.cuda.empty_cache()
                    step = Step(library, n, *LAYERS[layer], kind)
                    compiled = layer in arguments.compile and kind == "float16" and n == arguments.batches[0]
                    return row_of(layer, n, kind, step, step.times(compiled))

                measured.add({"layer": name, "batch": batch, "dtype": dtype}, measure)
                result["layers"] = measured.good
                write()
    draw(result["layers"], arguments.out / "training.png")
    print(markdown(result))
    return int(measured.failed)


if __name__ == "__main__":
    sys.exit(main())
