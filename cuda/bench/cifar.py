"""Trains a GPU study's CIFAR-10 network, dense and separable: `python cuda/bench/cifar.py OUT [options]`.

Four 3x3 convolutions of 128 channels with batch norm, two poolings, one dense layer, as
examples/training/train_cifar.py has it in Keras; here the separable layers are the kernels' C functions, and
PyTorch is the rest: dense convolutions, batch norm, pooling, loss. Three networks: dense, separable by PyTorch,
separable by ours. Activations and their gradients have --dtype, weights are float32; SGD with momentum; a constant loss
scale for float16.

Pictures are noise around a pattern for each class, which can be learned: the loss has to fall. Writes OUT/cifar.json
and OUT/cifar.md with images a second. The study's figures, training on a V100 at batch 128, float16: 11123 images/s
dense, 9094 separable.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "python_tests" / "cuda"))

CLASSES = 10
STUDY = {"dense": 11123, "separable": 9094}
VARIANTS = ("dense", "torch", "ours")


def missing(device: str) -> str:
    """What a run lacks here, or ""."""
    try:
        import torch
    except ImportError:
        return "PyTorch is not installed"
    return "" if device == "cpu" or torch.cuda.is_available() else "PyTorch finds no GPU"


def parameters(variant: str, channels: int = 128, size: int = 32) -> int:
    """Numbers to train: convolutions with bias, scale and shift of the batch norms, the dense layer."""
    pixels = (size // 4) ** 2
    total = channels * pixels * CLASSES + CLASSES
    for i in range(4):
        before = channels if i else 3
        window = 9 * before * channels if variant == "dense" else 9 * before + before * channels
        total += window + channels + 2 * channels
    return total


def pictures(count: int, size: int, seed: int):
    """(float32 `[count, 3, size, size]` in about -2..2, labels) as NumPy arrays."""
    import numpy as np

    random = np.random.default_rng(seed)
    patterns = random.standard_normal((CLASSES, 3, size // 4, size // 4)).repeat(4, 2).repeat(4, 3)
    labels = random.integers(0, CLASSES, count)
    noise = random.standard_normal((count, 3, size, size))
    return (patterns[labels] + noise).astype("float32"), labels


class Network:
    """One variant's weights, and its training step.

    Args:
        variant: out of VARIANTS.
        plans: a `torch_layer.Plans`; read by "ours" alone.
        dtype: of activations, a key of `torch_layer.DTYPES`.
        channels: of each convolution.
        size: rows and columns of the pictures, a multiple of 4.
        device, seed: where, and of the weights.
        rate, momentum, scale: of SGD, and what the loss is multiplied with.
    """

    def __init__(self, variant, plans, dtype, *, channels=128, size=32, device="cuda", seed=1, rate=0.02,
                 momentum=0.9, scale=None):  # fmt: skip
        import torch
        from torch_layer import DTYPES, Separable

        self._torch, self._separable = torch, Separable
        self.variant, self.plans, self.dtype = variant, plans, DTYPES[dtype]
        self.scale = scale or (1024.0 if dtype == "float16" else 1.0)
        source = torch.Generator().manual_seed(seed)

        def draw(*shape, fan):
            values = torch.randn(*shape, generator=source) * (2 / fan) ** 0.5
            return values.to(device).requires_grad_()

        def constant(value):
            return torch.full((channels,), value, device=device).requires_grad_()

        self.layers = []
        for i in range(4):
            before = channels if i else 3
            if variant == "dense":
                weights = [draw(channels, before, 3, 3, fan=9 * before)]
            else:
                weights = [draw(3, 3, before, fan=9), draw(before, channels, fan=before)]
            self.layers.append(([*weights, constant(0.0)], [constant(1.0), constant(0.0)]))
        self.head = [draw(CLASSES, channels * (size // 4) ** 2, fan=channels * (size // 4) ** 2), None]
        self.head[1] = torch.zeros(CLASSES, device=device).requires_grad_()
        self.weights = [w for both in self.layers for some in both for w in some] + self.head
        self.optimizer = torch.optim.SGD(self.weights, rate, momentum=momentum)

    def _convolve(self, x, weights):
        torch = self._torch
        functional = torch.nn.functional
        weights = [w.to(self.dtype) for w in weights]
        if self.variant == "dense":
            w = weights[0].contiguous(memory_format=torch.channels_last)
            return functional.relu(functional.conv2d(x, w, weights[1], padding=1))
        d, p, b = weights
        if self.variant == "ours":
            return self._separable.apply(x, d, p, b, self.plans, 1, "relu")
        z = functional.conv2d(x, d.permute(2, 0, 1)[:, None], None, padding=1, groups=x.shape[1])
        return functional.relu(functional.conv2d(z, p.t()[:, :, None, None], b))

    def loss(self, x, labels):
        """The mean cross-entropy, float32, of pictures `[N, 3, size, size]`."""
        torch = self._torch
        functional = torch.nn.functional
        x = x.to(self.dtype).contiguous(memory_format=torch.channels_last)
        for i, (weights, (gamma, beta)) in enumerate(self.layers):
            x = self._convolve(x, weights)
            x = functional.batch_norm(x, None, None, gamma, beta, training=True)
            if i % 2:
                x = functional.max_pool2d(x, 2)
        return functional.cross_entropy(functional.linear(x.flatten(1).float(), *self.head), labels)

    def step(self, x, labels):
        """One step of SGD; returns the loss before it, on the device."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(x, labels)
        (loss * self.scale).backward()
        for weight in self.weights:
            weight.grad.div_(self.scale)
        self.optimizer.step()
        return loss.detach()


def train(network: Network, x, labels, batch: int, steps: int) -> list[float]:
    """Losses of the steps, over the pictures in turn."""
    losses = []
    for i in range(steps):
        first = i * batch % (len(x) - batch + 1)
        losses.append(network.step(x[first : first + batch], labels[first : first + batch]))
    return [float(loss) for loss in losses]


def falls(losses: list[float]) -> bool:
    """Whether the mean of the last quarter is below that of the first one, and finite."""
    quarter = max(1, len(losses) // 4)
    first, last = sum(losses[:quarter]), sum(losses[-quarter:])
    return last < first


def table(rows: list[dict]) -> str:
    """Rows as Markdown, beside the study's."""
    lines = ["| network | batch | dtype | images/s | of dense | first loss | last loss |", "|" + " --- |" * 7]
    for row in rows:
        dense = next((r for r in rows if (r["batch"], r["variant"]) == (row["batch"], "dense")), None)
        share = f"{row['images_per_s'] / dense['images_per_s']:.2f}" if dense else ""
        lines.append(f"| {row['variant']} | {row['batch']} | {row['dtype']} | {row['images_per_s']:.0f} | {share} | "
                     f"{row['losses'][0]:.3f} | {row['losses'][-1]:.3f} |")  # fmt: skip
    share = STUDY["separable"] / STUDY["dense"]
    lines.append(f"| study, V100: dense | 128 | float16 | {STUDY['dense']} | 1.00 | | |")
    lines.append(f"| study, V100: separable | 128 | float16 | {STUDY['separable']} | {share:.2f} | | |")
    return "\n".join(lines) + "\n"


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--library", type=Path, default=ROOT / "build" / "cuda" / "libdwsconv_cuda.so")
    parser.add_argument("--batches", type=int, nargs="+", default=[128, 1024])
    parser.add_argument("--dtype", default="float16", choices=("float16", "bfloat16", "float32"))
    parser.add_argument("--steps", type=int, default=60, help="that are timed; as many come before")
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--channels", type=int, default=128)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"), help="cpu: a library of the CPU shim")
    arguments = parser.parse_args(argv)
    why = missing(arguments.device)
    if why:
        print(f"error: {why}", file=sys.stderr)
        return 1
    import torch
    from cuda_backward_library import BackwardLibrary
    from torch_layer import Plans

    torch.backends.cudnn.benchmark = True
    synchronize = torch.cuda.synchronize if arguments.device == "cuda" else lambda: None
    library, rows = BackwardLibrary(arguments.library), []
    for batch in arguments.batches:
        images, numbers = pictures(4 * batch, arguments.size, 0)
        x, labels = torch.from_numpy(images).to(arguments.device), torch.from_numpy(numbers).to(arguments.device)
        for variant in VARIANTS:
            network = Network(variant, Plans(library), arguments.dtype, channels=arguments.channels,
                              size=arguments.size, device=arguments.device)  # fmt: skip
            losses = train(network, x, labels, batch, arguments.steps)
            synchronize()
            begin = time.perf_counter()
            losses += train(network, x, labels, batch, arguments.steps)
            synchronize()
            seconds = time.perf_counter() - begin
            rows.append({"variant": variant, "batch": batch, "dtype": arguments.dtype, "losses": losses,
                         "images_per_s": batch * arguments.steps / seconds})  # fmt: skip
    arguments.out.mkdir(parents=True, exist_ok=True)
    where = torch.cuda.get_device_name() if arguments.device == "cuda" else "CPU"
    result = {"device": where, "torch": torch.__version__, "rows": rows, "study": STUDY}
    (arguments.out / "cifar.json").write_text(json.dumps(result, indent=1), encoding="utf-8")
    text = f"# {where}, PyTorch {torch.__version__}\n\n{table(rows)}"
    (arguments.out / "cifar.md").write_text(text, encoding="utf-8")
    print(text)
    wrong = [f"{row['variant']}, batch {row['batch']}" for row in rows if not falls(row["losses"])]
    if wrong:
        print(f"FAILED: the loss does not fall: {'; '.join(wrong)}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
