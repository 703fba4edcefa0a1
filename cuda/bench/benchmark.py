"""Times the fused layer on a GPU beside PyTorch's pair of convolutions: `python cuda/bench/benchmark.py OUT [options]`.

Every layer is timed as a CUDA graph of calls that go round several sets of buffers, more than L2 holds, by events; the
median of some replays. PyTorch's pair is channels_last, with bias, as cuDNN and its own kernels run it: called one by
one, as a CUDA graph, and through torch.compile (--compile: the layers it is done for, as compiling takes seconds each).
Bandwidth of a copy and rate of a matrix product are measured first: the limits that are reported beside each time.

Each row is added to OUT/rows.jsonl and printed as soon as it is measured; one that fails is a row with its error, and
the next ones go on. Writes OUT/benchmark.json, OUT/benchmark.md and, where Matplotlib is installed, OUT/*.png.
`--once LAYER` runs one layer a few times and nothing else: for a profiler.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from pathlib import Path

import torch
from rows import Rows, table

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "python_tests" / "cuda"))

from cuda_library import Call, Library  # noqa: E402

# name: H = W, C, K, kernel, stride; padding SAME.
LAYERS = {
    "mobilenetv1_112x32-64_s1": (112, 32, 64, 3, 1),
    "mobilenetv1_112x64-128_s2": (112, 64, 128, 3, 2),
    "mobilenetv1_56x128-128_s1": (56, 128, 128, 3, 1),
    "mobilenetv1_56x128-256_s2": (56, 128, 256, 3, 2),
    "mobilenetv1_28x256-256_s1": (28, 256, 256, 3, 1),
    "mobilenetv1_28x256-512_s2": (28, 256, 512, 3, 2),
    "mobilenetv1_14x512-512_s1": (14, 512, 512, 3, 1),
    "mobilenetv1_14x512-1024_s2": (14, 512, 1024, 3, 2),
    "mobilenetv1_7x1024-1024_s1": (7, 1024, 1024, 3, 1),
    "gpu-study_224x128-128": (224, 128, 128, 3, 1),
    "xception_19x728-728": (19, 728, 728, 3, 1),
    "first_512x3-64": (512, 3, 64, 3, 1),
    "mobilenetv2_56x144-24": (56, 144, 24, 3, 1),
    "efficientnet_14x480-112_k5": (14, 480, 112, 5, 1),
    "convnext_56x96-384_k7": (56, 96, 384, 7, 1),
    "convnext_14x384-1536_k7": (14, 384, 1536, 7, 1),
}
COMPILED = (
    "mobilenetv1_112x32-64_s1",
    "mobilenetv1_56x128-128_s1",
    "mobilenetv1_14x512-512_s1",
    "convnext_56x96-384_k7",
)
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
ROTATED_BYTES = 256 << 20  # of all sets of buffers together: several times an L2
MOST_SETS = 16
REPLAYS = 7


def seconds(run, replays: int = REPLAYS) -> float:
    """The median time of `run`, by events, after one that does not count."""
    run()
    torch.cuda.synchronize()
    times = []
    for _ in range(replays):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        run()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) * 1e-3)
    return statistics.median(times)


def graph_of(run):
    """`run` captured, to be replayed."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def limits() -> dict:
    """Bytes a second of a copy (read and written), and multiply-adds x 2 a second of matrix products by dtype."""
    source = torch.randint(0, 255, (2 << 30,), dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    copied = seconds(lambda: target.copy_(source))
    found = {"copy_bytes_per_s": 2 * source.numel() / copied}
    for name, dtype in DTYPES.items():
        a, b = (torch.randn(8192, 8192, device="cuda", dtype=dtype) for _ in "ab")
        torch.backends.cuda.matmul.allow_tf32 = True
        found[f"{name}_flops_per_s"] = 2 * 8192**3 / seconds(lambda a=a, b=b: torch.matmul(a, b))
    return found


class Layer:
    """One layer's buffers, several sets of them, and the ways to run it."""

    def __init__(self, library, n, size, c, k, kernel, stride, dtype, padding="SAME", math_mode="exact",
                 activation="none", path="auto"):  # fmt: skip
        self.library, self.dtype, self.torch_dtype = library, dtype, DTYPES[dtype]
        self.shape = (n, size, size, c)
        self.kernel, self.stride, self.padding = kernel, stride, padding
        self.call = Call(
            library, self.shape, (kernel, kernel, c, 1), (1, 1, c, k), dtype,
            bias=True, strides=(stride, stride), padding=padding, math=math_mode, activation=(activation, 0.2),
            path=path,
        )  # fmt: skip
        itemsize = self.torch_dtype.itemsize
        self.pixels = math.prod(self.call.plan.output[:3])
        self.compulsory_bytes = itemsize * (math.prod(self.shape) + self.pixels * k + kernel * kernel * c + c * k)
        self.flops = 2 * self.pixels * c * (kernel * kernel + k)
        sets = max(2, min(MOST_SETS, math.ceil(ROTATED_BYTES / self.compulsory_bytes)))
        draw = lambda *shape: torch.randn(*shape, device="cuda", dtype=self.torch_dtype)  # noqa: E731
        # NHWC in memory is what channels_last is: ours reads the same bytes that PyTorch does.
        self.inputs = [draw(n, c, size, size).to(memory_format=torch.channels_last) for _ in range(sets)]
        self.outputs = [torch.full(self.call.plan.output, float("nan"), device="cuda", dtype=self.torch_dtype)
                        for _ in range(sets)]  # fmt: skip
        self.depthwise, self.pointwise, self.bias = draw(c, 1, kernel, kernel), draw(k, c, 1, 1) / c**0.5, draw(k)
        self.d = self.depthwise[:, 0].permute(1, 2, 0).contiguous()  # [R, S, C]
        self.p = self.pointwise[:, :, 0, 0].t().contiguous()  # [C, K]
        self.pointwise = self.pointwise.to(memory_format=torch.channels_last)
        self.use(self.call)

    def use(self, call):
        """Another call of the same layer from now on."""
        self.call = call
        self.workspace = torch.empty(max(call.plan.workspace_bytes, 1), dtype=torch.uint8, device="cuda")

    def ours(self):
        stream = torch.cuda.current_stream().cuda_stream
        for x, y in zip(self.inputs, self.outputs):
            self.call.run(
                x=x.data_ptr(), d=self.d.data_ptr(), p=self.p.data_ptr(), b=self.bias.data_ptr(), y=y.data_ptr(),
                workspace=self.workspace.data_ptr(), stream=stream,
            )  # fmt: skip

    def pair(self, x):
        """PyTorch's two convolutions, padded as TensorFlow's SAME, which conv2d's padding cannot always say."""
        pad = 0
        if self.padding == "SAME":
            size = self.shape[1]
            total = max((-(-size // self.stride) - 1) * self.stride + self.kernel - size, 0)
            if total % 2:
                x = torch.nn.functional.pad(x, (total // 2, total - total // 2) * 2)
            else:
                pad = total // 2
        z = torch.nn.functional.conv2d(x, self.depthwise, None, self.stride, pad, groups=x.shape[1])
        return torch.nn.functional.conv2d(z, self.pointwise, self.bias)

    def symmetric(self, x):
        """As `pair`, padded alike on both sides: what a PyTorch network would do, without a pass of padding."""
        pad = 0 if self.padding == "VALID" else self.kernel // 2
        z = torch.nn.functional.conv2d(x, self.depthwise, None, self.stride, pad, groups=x.shape[1])
        return torch.nn.functional.conv2d(z, self.pointwise, self.bias)

    def check(self):
        """Fails where ours is not PyTorch's, within what both round."""
        self.ours()
        expected = self.pair(self.inputs[0]).permute(0, 2, 3, 1).float()
        actual = self.outputs[0].float()
        error = (actual - expected).norm() / expected.norm()
        if not error < {"float16": 5e-3, "bfloat16": 3e-2, "float32": 5e-3}[self.dtype]:
            raise AssertionError(f"{self.shape} {self.dtype}: {error} from PyTorch ({self.call.plan.text})")

    def times(self, compiled: bool) -> dict:
        sets = len(self.inputs)

        def others(function=self.symmetric):
            for x in self.inputs:
                function(x)

        with torch.inference_mode():
            self.check()
            found = {
                "ours": seconds(graph_of(self.ours)) / sets,
                "ours_eager": seconds(self.ours) / sets,
                "torch_eager": seconds(others) / sets,
                "torch_graph": seconds(graph_of(others)) / sets,
            }
            if compiled:
                function = torch.compile(self.symmetric, mode="max-autotune-no-cudagraphs", dynamic=False)
                function(self.inputs[0])
                found["torch_compile"] = seconds(graph_of(lambda: others(function))) / sets
        return found


def row_of(layer: Layer, times: dict, limit: dict) -> dict:
    bound = max(layer.compulsory_bytes / limit["copy_bytes_per_s"], layer.flops / limit[f"{layer.dtype}_flops_per_s"])
    best = min(value for name, value in times.items() if name.startswith("torch"))
    return {
        **{f"{name}_us": value * 1e6 for name, value in times.items()},
        "bound_us": bound * 1e6,
        "of_bound": bound / times["ours"],
        "speedup": best / times["ours"],
        "images_per_s": layer.shape[0] / times["ours"],
        "plan": layer.call.plan.text,
        "modelled_us": layer.call.plan.modelled_us,
    }


def mean(rows: list[dict]) -> float:
    return math.exp(statistics.mean(math.log(row["speedup"]) for row in rows))


def layers(library, limit, batches, dtypes, compiled, path=None) -> Rows:
    rows = Rows(path)
    for dtype in dtypes:
        for batch in batches:
            for name, (size, c, k, kernel, stride) in LAYERS.items():

                def measure(n=batch, kind=dtype, layer=name, sizes=(size, c, k, kernel, stride)):
                    torch.cuda.empty_cache()
                    math_mode = "tf32" if kind == "float32" else "exact"
                    made = Layer(library, n, *sizes, kind, math_mode=math_mode)
                    compiles = layer in compiled and n == batches[0] and kind == "float16"
                    return row_of(made, made.times(compiles), limit)

                rows.add({"layer": name, "batch": batch, "dtype": dtype}, measure)
    return rows


def study(library, limit, channels, batches, path=None) -> Rows:
    """The GPU study's microbenchmark: 3x3, VALID, 224x224, float16; a dense convolution beside the separable one."""
    rows = Rows(path)

    def measure(c, batch):
        torch.cuda.empty_cache()
        layer = Layer(library, batch, 224, c, c, 3, 1, "float16", padding="VALID")
        row = row_of(layer, layer.times(False), limit)
        dense = torch.randn(c, c, 3, 3, device="cuda", dtype=torch.float16).to(memory_format=torch.channels_last)
        with torch.inference_mode():
            run = lambda: [torch.nn.functional.conv2d(each, dense) for each in layer.inputs]  # noqa: E731
            row["dense_images_per_s"] = batch * len(layer.inputs) / seconds(run, 3)
        row["torch_images_per_s"] = batch / min(row["torch_eager_us"], row["torch_graph_us"]) * 1e6
        return row

    for batch in batches:
        for c in channels:
            rows.add({"channels": c, "batch": batch}, lambda c=c, batch=batch: measure(c, batch))
    return rows


def plot(rows: list[dict], path: Path) -> None:
    try:
        import matplotlib
    except ImportError:
        print(f"Matplotlib is not installed: {path.name} is left out")
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots()
    for name, label in (("images_per_s", "fused"), ("torch_images_per_s", "PyTorch, separable"),
                        ("dense_images_per_s", "PyTorch, dense")):  # fmt: skip
        axes.loglog([row["channels"] for row in rows], [row[name] for row in rows], marker="o", label=label)
    axes.set_xlabel("input and output channels")
    axes.set_ylabel("images/s, 224x224, float16")
    axes.legend()
    figure.savefig(path, dpi=120)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--library", type=Path, default=ROOT / "build" / "cuda" / "libdwsconv_cuda.so")
    parser.add_argument("--batches", type=int, nargs="+", default=[32, 128])
    parser.add_argument("--dtypes", nargs="+", default=["float16", "float32"], choices=DTYPES)
    parser.add_argument("--compile", nargs="*", default=COMPILED, choices=LAYERS)
    parser.add_argument("--once", choices=LAYERS)
    parser.add_argument("--path", default="auto", help="of --once")
    parser.add_argument("--limits", action="store_true", help="a copy's and a product's rates, and nothing else")
    arguments = parser.parse_args()
    library = Library(arguments.library)
    if arguments.once:
        layer = Layer(library, 32, *LAYERS[arguments.once], "float16", path=arguments.path)
        for _ in range(3):
            layer.ours()
        torch.cuda.synchronize()
        print(json.dumps({"compulsory_bytes": layer.compulsory_bytes, "plan": layer.call.plan.text}))
        return 0
    arguments.out.mkdir(parents=True, exist_ok=True)
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = True
    limit = limits()
    if arguments.limits:
        (arguments.out / "limits.json").write_text(json.dumps(limit), encoding="utf-8")
        print(json.dumps(limit))
        return 0
    result = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "limits": limit}
    parts = [f"# {result['gpu']}, PyTorch {torch.__version__}\n", table([limit])]

    path, failed = arguments.out / "rows.jsonl", []

    def add(name, title, measured):
        failed.append(measured.failed)
        rows = result[name] = measured.kept
        parts.append(f"## {title}\n\n{table(rows)}")
        # Whatever comes next may take too long: what is there is written.
        (arguments.out / "benchmark.json").write_text(json.dumps(result, indent=1), encoding="utf-8")
        (arguments.out / "benchmark.md").write_text("\n".join(parts), encoding="utf-8")
        print(parts[-1], flush=True)

    add("study", "The study's layer: C = K = 128, 224x224, float16", study(library, limit, [128], [1, 16], path))
    rows = layers(library, limit, arguments.batches, arguments.dtypes, arguments.compile, path)
    add("layers", "Layers", rows)
    for dtype in arguments.dtypes:
        some = [row for row in rows.good if row["dtype"] == dtype]
        if not some:
            continue
        worst = min(some, key=lambda row: row["speedup"])
        parts.append(f"{dtype}: {mean(some):.2f} times the better of PyTorch's (geometric mean), "
                     f"at worst {worst['speedup']:.2f} ({worst['layer']}, batch {worst['batch']})\n")  # fmt: skip
        print(parts[-1])
    sweep = study(library, limit, [2**i for i in range(3, 12)], [16], path)
    add("sweep", "Channels: 224x224, batch 16, float16", sweep)
    plot(sweep.good, arguments.out / "channels.png")
    return int(any(failed))


if __name__ == "__main__":
    sys.exit(main())
