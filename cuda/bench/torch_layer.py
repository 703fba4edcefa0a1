"""The fused layer as a function that PyTorch differentiates: forward and backward by the kernels' C functions.

PyTorch gives the memory and the order of calls. Tensors are NHWC in memory: logical NCHW in channels_last, as PyTorch's
own convolutions take them. With a library that was built for the CPU (tools/cuda_shim.sh) and tensors there it runs
without a GPU, slowly: for tests.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "python_tests" / "cuda"))

from cuda_backward_library import BackwardCall
from cuda_library import Call

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
NAMES = {dtype: name for name, dtype in DTYPES.items()}


class Plans:
    """Plans and workspace of the layers that run one after another on one device.

    Args:
        library: a `cuda_backward_library.BackwardLibrary`.
    """

    def __init__(self, library):
        self.library = library
        self._known, self._workspace = {}, None

    def of(self, x, kernel: int, filters: int, stride: int, activation: str, wanted: tuple):
        """(forward call, backward call) of a layer with padding SAME, biases as `Separable` has them.

        Args:
            x: `[N, C, H, W]`, channels_last.
            kernel, filters, stride: of the layer.
            activation: its last one, a word.
            wanted: gradients, out of `cuda_backward_library.GRADIENTS`.
        """
        n, c, h, w = x.shape
        key = (x.dtype, n, c, h, w, kernel, filters, stride, activation, wanted)
        if key not in self._known:
            forward = Call(
                self.library, (n, h, w, c), (kernel, kernel, c, 1), (1, 1, c, filters), NAMES[x.dtype],
                bias=True, strides=(stride, stride), activation=(activation, 0.2),
                math="tf32" if x.dtype == torch.float32 and x.is_cuda else "exact",
            )  # fmt: skip
            self._known[key] = forward, BackwardCall(self.library, forward, wanted)
        return self._known[key]

    def workspace(self, size: int, device):
        """One buffer for all, as large as the largest asked for so far."""
        if self._workspace is None or self._workspace.numel() < size:
            self._workspace = torch.empty(max(size, 1), dtype=torch.uint8, device=device)
        return self._workspace.data_ptr()


def _stream(tensor) -> int:
    return torch.cuda.current_stream().cuda_stream if tensor.is_cuda else 0


class Separable(torch.autograd.Function):
    """`y = activation(pointwise(depthwise(x)) + bias)`, with all gradients. x is kept, and y for relu."""

    @staticmethod
    def forward(ctx, x, d, p, b, plans, stride, activation):
        """x `[N, C, H, W]` channels_last, d `[R, R, C]`, p `[C, K]`, b `[K]`, all of one dtype; y as x."""
        x = x.contiguous(memory_format=torch.channels_last)
        wanted = ("x", "d", "p", "b") if ctx.needs_input_grad[0] else ("d", "p", "b")
        forward, backward = plans.of(x, d.shape[0], p.shape[1], stride, activation, wanted)
        n, h, w, k = forward.plan.output
        y = torch.empty((n, h, w, k), dtype=x.dtype, device=x.device)
        forward.run(
            x=x.data_ptr(), d=d.data_ptr(), p=p.data_ptr(), b=b.data_ptr(), y=y.data_ptr(),
            workspace=plans.workspace(forward.plan.workspace_bytes, x.device), stream=_stream(x),
        )  # fmt: skip
        y = y.permute(0, 3, 1, 2)
        ctx.call, ctx.plans, ctx.wanted, ctx.keeps_y = backward, plans, wanted, activation != "none"
        ctx.save_for_backward(x, d, p, b, *([y] if ctx.keeps_y else []))
        return y

    @staticmethod
    def backward(ctx, grad):
        x, d, p, b, *y = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last)
        like = {"x": x, "d": d, "p": p, "b": b}
        gradients = {name: torch.empty_like(like[name]) for name in ctx.wanted}
        ctx.call.run(
            {name: gradient.data_ptr() for name, gradient in gradients.items()},
            x=x.data_ptr(), d=d.data_ptr(), p=p.data_ptr(), b=b.data_ptr(), grad=grad.data_ptr(),
            y=y[0].data_ptr() if y else None,
            workspace=ctx.plans.workspace(ctx.call.plan.workspace_bytes, x.device), stream=_stream(x),
        )  # fmt: skip
        return (*(gradients.get(name) for name in ("x", "d", "p", "b")), None, None, None)
