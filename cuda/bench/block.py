"""Times blocks of networks on a GPU beside PyTorch's modules: `python cuda/bench/block.py OUT [options]`.

A block is an inverted residual of MobileNetV2, MobileNetV3 or EfficientNet-B0 (the latter two with their gates) or a
block of ConvNeXt-Tiny, in float16, batch norms folded. Ours is one call of the block's kernels, or two where a gate or
the block's own first result stands between; the gate's pooling and small layers are PyTorch's in both. PyTorch's
modules are channels_last: called one by one, as a CUDA graph, and through torch.compile (--compile: the blocks it is
done for, as compiling takes seconds each). Everything goes round several sets of inputs, more than L2 holds.

Writes OUT/block.json and OUT/block.md. `--once BLOCK` runs one block a few times and nothing else: for a profiler.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from pathlib import Path

import torch
from benchmark import MOST_SETS, ROTATED_BYTES, graph_of, limits, seconds
from rows import Rows, table
from torch import nn
from torch.nn import functional

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "python_tests" / "cuda"))

from cuda_block_library import BlockCall, BlockLibrary  # noqa: E402

# name: H = W, E, C, K, window, stride, activation, channels of the gate's small layer (0: no gate).
INVERTED = {
    "mobilenetv2_112x16-96-24_s2": (112, 16, 96, 24, 3, 2, "relu6", 0),
    "mobilenetv2_56x24-144-24": (56, 24, 144, 24, 3, 1, "relu6", 0),
    "mobilenetv2_56x24-144-32_s2": (56, 24, 144, 32, 3, 2, "relu6", 0),
    "mobilenetv2_28x32-192-32": (28, 32, 192, 32, 3, 1, "relu6", 0),
    "mobilenetv2_14x64-384-64": (14, 64, 384, 64, 3, 1, "relu6", 0),
    "mobilenetv2_14x96-576-96": (14, 96, 576, 96, 3, 1, "relu6", 0),
    "mobilenetv2_7x160-960-160": (7, 160, 960, 160, 3, 1, "relu6", 0),
    "mobilenetv3_28x40-120-40_k5": (28, 40, 120, 40, 5, 1, "relu", 32),
    "mobilenetv3_14x80-184-80": (14, 80, 184, 80, 3, 1, "hard_swish", 0),
    "mobilenetv3_14x112-672-112": (14, 112, 672, 112, 3, 1, "hard_swish", 168),
    "mobilenetv3_7x160-960-160_k5": (7, 160, 960, 160, 5, 1, "hard_swish", 240),
    "efficientnet_112x16-96-24_s2": (112, 16, 96, 24, 3, 2, "silu", 4),
    "efficientnet_56x24-144-24": (56, 24, 144, 24, 3, 1, "silu", 6),
    "efficientnet_28x40-240-40_k5": (28, 40, 240, 40, 5, 1, "silu", 10),
    "efficientnet_14x112-672-112_k5": (14, 112, 672, 112, 5, 1, "silu", 28),
    "efficientnet_7x192-1152-192_k5": (7, 192, 1152, 192, 5, 1, "silu", 48),
}
# name: H = W, C; 7x7, norm, 1x1 to 4C, GELU, 1x1 back, residual.
CONVNEXT = {
    "convnext_56x96": (56, 96),
    "convnext_28x192": (28, 192),
    "convnext_14x384": (14, 384),
    "convnext_7x768": (7, 768),
}
COMPILED = ("mobilenetv2_56x24-144-24", "efficientnet_28x40-240-40_k5", "convnext_56x96")
ACTIVATIONS = {
    "relu": functional.relu,
    "relu6": functional.relu6,
    "hard_swish": functional.hardswish,
    "silu": functional.silu,
}


class Inverted(nn.Module):
    """Expansion, depthwise convolution, gate, projection, residual."""

    def __init__(self, size, e, c, k, window, stride, word, squeezed):
        super().__init__()
        self.activate, self.squeezed, self.residual = ACTIVATIONS[word], squeezed, stride == 1 and e == k
        self.expand, self.project = nn.Conv2d(e, c, 1), nn.Conv2d(c, k, 1)
        self.depthwise = nn.Conv2d(c, c, window, stride, window // 2, groups=c)
        if squeezed:
            self.reduce, self.widen = nn.Linear(c, squeezed), nn.Linear(squeezed, c)

    def gate(self, pooled):
        return torch.sigmoid(self.widen(functional.relu(self.reduce(pooled))))

    def forward(self, x):
        z = self.activate(self.depthwise(self.activate(self.expand(x))))
        if self.squeezed:
            z = z * self.gate(z.mean((2, 3)))[:, :, None, None]
        y = self.project(z)
        return y + x if self.residual else y


class ConvNext(nn.Module):
    """Depthwise convolution, norm over the channels, 1x1 convolutions with GELU between, residual."""

    def __init__(self, size, c):
        super().__init__()
        self.depthwise = nn.Conv2d(c, c, 7, 1, 3, groups=c)
        self.norm = nn.LayerNorm(c, 1e-6, elementwise_affine=False)
        self.wide, self.narrow = nn.Linear(c, 4 * c), nn.Linear(4 * c, c)

    def forward(self, x):
        z = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        return self.narrow(functional.gelu(self.wide(z))).permute(0, 3, 1, 2) + x


def matrix(layer) -> torch.Tensor:
    """A 1x1 convolution's or a linear layer's weights as [1, 1, inputs, outputs]."""
    weight = layer.weight.detach()
    return weight.reshape(weight.shape[:2]).t().contiguous()[None, None]


def taps(layer) -> torch.Tensor:
    """A depthwise convolution's weights as [R, S, C, 1]."""
    return layer.weight.detach().permute(2, 3, 0, 1).contiguous()


class Runner:
    """One block's module, several sets of inputs, and the ways to run it."""

    def __init__(self, library, name: str, batch: int):
        self.library, self.name, self.batch = library, name, batch
        size = INVERTED[name][0] if name in INVERTED else CONVNEXT[name][0]
        make = Inverted(*INVERTED[name]) if name in INVERTED else ConvNext(*CONVNEXT[name])
        self.module = make.eval().cuda().half().to(memory_format=torch.channels_last)
        channels = INVERTED[name][1] if name in INVERTED else CONVNEXT[name][1]
        draw = lambda: torch.randn(batch, channels, size, size, device="cuda", dtype=torch.float16)  # noqa: E731
        self.kept = []  # weights in our layout
        self.plans = []
        first = draw().to(memory_format=torch.channels_last)
        self.steps = self.inverted(first) if name in INVERTED else self.convnext(first)
        output = self.steps(first)
        weights = sum(parameter.numel() for parameter in self.module.parameters())
        self.bytes = 2 * (first.numel() + output.numel() + weights) + self.between
        self.flops = 2 * self.multiply_adds
        sets = max(2, min(MOST_SETS, math.ceil(ROTATED_BYTES / self.bytes)))
        self.inputs = [first, *(draw().to(memory_format=torch.channels_last) for _ in range(sets - 1))]

    def call(self, x: tuple, tensors: dict, **options):
        """A function of (x, scale, residual) that runs a block on NHWC memory; its plan is kept."""
        shapes = {name: tuple(t.shape) for name, t in tensors.items()}
        call = BlockCall(self.library, x, shapes, "float16", **options)
        self.plans.append(call.plan.text)
        self.kept.append(tensors)
        workspace = torch.empty(max(call.plan.workspace_bytes, 1), dtype=torch.uint8, device="cuda")
        fixed = {name: t.data_ptr() for name, t in tensors.items() if name not in ("scale", "residual")}

        def run(x, scale=None, residual=None):
            y = torch.empty(call.plan.output, device="cuda", dtype=torch.float16)
            given = {"scale": scale, "residual": residual}
            call.run(
                x=x.data_ptr(),
                y=y.data_ptr(),
                workspace=workspace.data_ptr(),
                stream=torch.cuda.current_stream().cuda_stream,
                **fixed,
                **{name: t.data_ptr() for name, t in given.items() if t is not None},
            )
            return y

        return run

    def inverted(self, x):
        size, e, c, k, window, stride, word, squeezed = INVERTED[self.name]
        module, batch, pad = self.module, self.batch, window // 2
        out = (size + 2 * pad - window) // stride + 1
        self.between = 2 * 2 * batch * out * out * c if squeezed else 0  # Z, which the gate needs whole
        pixels = batch * out * out
        self.multiply_adds = batch * size * size * e * c + pixels * c * (window * window + k)
        first = {
            "expand_filter": matrix(module.expand),
            "expand_bias": module.expand.bias.detach(),
            "depthwise_filter": taps(module.depthwise),
            "depthwise_bias": module.depthwise.bias.detach(),
        }
        last = {"pointwise_filter": matrix(module.project), "bias": module.project.bias.detach()}
        residual = {"residual": x.permute(0, 2, 3, 1)} if module.residual else {}
        around = {"strides": (stride, stride), "padding": ((pad, pad), (pad, pad))}
        words = ((word, 0.2), (word, 0.2), ("none", 0.2))
        shape = (batch, size, size, e)
        if not squeezed:
            run = self.call(shape, {**first, **last, **residual}, **around, words=words)
            return lambda x: run(x, residual=x if module.residual else None)
        before = self.call(shape, first, **around, words=words)
        gate = torch.empty(batch, c, device="cuda", dtype=torch.float16)
        behind = self.call((batch, out, out, c), {**last, **residual, "scale": gate})

        def steps(x):
            z = before(x)
            scale = module.gate(z.mean((1, 2)))
            return behind(z, scale=scale, residual=x if module.residual else None)

        return steps

    def convnext(self, x):
        size, c = CONVNEXT[self.name]
        module, shape = self.module, (self.batch, size, size, c)
        pixels = self.batch * size * size
        self.between = 2 * 2 * pixels * 4 * c  # two 1x1 convolutions, each a call
        self.multiply_adds = pixels * c * (49 + 8 * c)
        first = {
            "depthwise_filter": taps(module.depthwise),
            "depthwise_bias": module.depthwise.bias.detach(),
            "pointwise_filter": matrix(module.wide),
            "bias": module.wide.bias.detach(),
        }
        last = {"pointwise_filter": matrix(module.narrow), "bias": module.narrow.bias.detach()}
        words = (("none", 0.2), ("none", 0.2), ("gelu", 0.2))
        before = self.call(shape, first, words=words, epsilon=1e-6)
        behind = self.call((*shape[:3], 4 * c), {**last, "residual": x.permute(0, 2, 3, 1)})
        return lambda x: behind(before(x), residual=x)

    def ours(self):
        for x in self.inputs:
            self.steps(x)

    def torch(self):
        for x in self.inputs:
            self.module(x)

    def check(self):
        """Fails where ours is not the module's, within what both round."""
        expected = self.module(self.inputs[0]).permute(0, 2, 3, 1).float()
        error = (self.steps(self.inputs[0]).float() - expected).norm() / expected.norm()
        if not error < 1e-2:
            raise AssertionError(f"{self.name}: {error} from PyTorch ({'; '.join(self.plans)})")

    def row(self, compiled: bool, limit: dict) -> dict:
        sets = len(self.inputs)
        self.check()
        found = {
            "ours_us": seconds(graph_of(self.ours)) / sets * 1e6,
            "torch_eager_us": seconds(self.torch) / sets * 1e6,
            "torch_graph_us": seconds(graph_of(self.torch)) / sets * 1e6,
        }
        if compiled:
            function = torch.compile(self.module, mode="max-autotune-no-cudagraphs", dynamic=False)
            function(self.inputs[0])
            run = lambda: [function(x) for x in self.inputs]  # noqa: E731
            found["torch_compile_us"] = seconds(graph_of(run)) / sets * 1e6
        bound = max(self.bytes / limit["copy_bytes_per_s"], self.flops / limit["float16_flops_per_s"]) * 1e6
        best = min(value for name, value in found.items() if name.startswith("torch"))
        return {
            "block": self.name,
            "batch": self.batch,
            **found,
            "bound_us": bound,
            "speedup": best / found["ours_us"],
            "plan": "; ".join(self.plans),
        }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [*INVERTED, *CONVNEXT]
    parser.add_argument("out", type=Path)
    parser.add_argument("--library", type=Path, default=ROOT / "build" / "cuda" / "libdwsconv_cuda.so")
    parser.add_argument("--batches", type=int, nargs="+", default=[32, 128])
    parser.add_argument("--compile", nargs="*", default=COMPILED, choices=names)
    parser.add_argument("--once", choices=names)
    arguments = parser.parse_args()
    library = BlockLibrary(arguments.library)
    torch.backends.cudnn.benchmark = True
    with torch.inference_mode():
        if arguments.once:
            runner = Runner(library, arguments.once, 32)
            for _ in range(3):
                runner.ours()
            torch.cuda.synchronize()
            print(json.dumps({"compulsory_bytes": runner.bytes, "plans": runner.plans}))
            return 0
        arguments.out.mkdir(parents=True, exist_ok=True)
        limit = limits()
        result = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "limits": limit}
        measured = Rows(arguments.out / "rows.jsonl")
        result["blocks"] = measured.kept
        title = f"# Blocks, float16: {result['gpu']}, PyTorch {result['torch']}\n\n"
        for batch in arguments.batches:
            for name in names:

                def measure(block=name, n=batch):
                    torch.cuda.empty_cache()
                    return Runner(library, block, n).row(
                        block in arguments.compile and n == arguments.batches[0], limit
                    )

                measured.add({"block": name, "batch": batch}, measure)
                # Whatever comes next may take too long: what is there is written.
                (arguments.out / "block.json").write_text(json.dumps(result, indent=1), encoding="utf-8")
                (arguments.out / "block.md").write_text(title + table(result["blocks"]), encoding="utf-8")
            rows = [row for row in measured.good if row["batch"] == batch]
            if not rows:
                continue
            mean = math.exp(statistics.mean(math.log(row["speedup"]) for row in rows))
            worst = min(rows, key=lambda row: row["speedup"])
            print(f"batch {batch}: {mean:.2f} times the better of PyTorch's (geometric mean), at worst "
                  f"{worst['speedup']:.2f} ({worst['block']})", flush=True)  # fmt: skip
        print(table(result["blocks"]))
        return int(measured.failed)


if __name__ == "__main__":
    sys.exit(main())
