"""Runs the GPU kernels on a GPU against float64: `python cuda_gpu_program.py LIBRARY [options]`.

Needs PyTorch for memory and float64 references, and neither TensorFlow nor pytest. Every tensor lies between NaNs,
outputs are NaN before each call, and each call runs twice: its bits must not change. Prints a line of each check as it
ends, then one of JSON; exits with 1 where anything failed.
"""

from __future__ import annotations

import sys

import cuda_card_math
import cuda_cases
import cuda_checks
import numpy as np
import reference
import torch
from common.layer_table import LAYERS as TABLE
from cuda_library import Library, call_of, tensors_of

GUARD = 256  # elements on either side of a tensor: keeps it aligned to 16 bytes
BITS = {"float32": (torch.int32, np.int32), "bfloat16": (torch.int16, np.int16), "float16": (torch.int16, np.int16)}


class Guarded:
    """A tensor on the GPU between NaNs, `offset` elements off alignment."""

    def __init__(self, shape, dtype: str, values=None, offset: int = 0):
        self.shape, self.dtype = tuple(shape), dtype
        count = int(np.prod(shape))
        nan = np.full(count + 2 * GUARD + offset, np.nan, cuda_cases.NUMPY[dtype])
        if values is not None:
            nan[GUARD + offset : GUARD + offset + count] = values.ravel()
        self._inside = slice(GUARD + offset, GUARD + offset + count)
        self._before = nan.view(BITS[dtype][1]).copy()
        self.memory = torch.from_numpy(self._before.copy()).cuda()
        self.address = self.memory.data_ptr() + (GUARD + offset) * nan.itemsize

    def read(self):
        """The tensor as NumPy; fails where anything around it was written."""
        bits = self.memory.cpu().numpy()
        guards = np.ones(bits.size, bool)
        guards[self._inside] = False
        assert np.array_equal(bits[guards], self._before[guards]), "memory around the output was written"
        return bits[self._inside].view(cuda_cases.NUMPY[self.dtype]).reshape(self.shape)


def compute(library, case, dtype, *, offset=0, in_place=False, **options):
    """Runs a case of `reference.random_case` twice, on a stream of its own; returns the output and the plan."""
    x, layer, residual = case
    call = call_of(library, x, layer, residual, dtype, **options)
    arrays = {name: array.astype(cuda_cases.NUMPY[dtype]) for name, array in tensors_of(x, layer, residual).items()}
    outputs = []
    for _ in range(2):
        tensors = {name: Guarded(array.shape, dtype, array, offset) for name, array in arrays.items()}
        if in_place and "r" in tensors:
            out = tensors["r"]
        else:
            out = Guarded(call.plan.output, dtype, None, offset)
        workspace = torch.full((call.plan.workspace_bytes // 4 + 1,), float("nan"), device="cuda")
        stream = torch.cuda.Stream()
        torch.cuda.synchronize()
        call.run(
            **{name: tensor.address for name, tensor in tensors.items()},
            y=out.address,
            workspace=workspace.data_ptr(),
            stream=stream.cuda_stream,
        )
        torch.cuda.synchronize()
        outputs.append(out.read())
    same = outputs[0].view(BITS[dtype][1]) == outputs[1].view(BITS[dtype][1])
    assert np.all(same), "two runs gave different bits"
    return outputs[0], call.plan


def compare(library, shape, dtype, math, **options) -> str:
    """Fails where the output is off; returns the plan's words."""
    case = reference.random_case(np.random.default_rng(shape["seed"]), cuda_cases.NUMPY[dtype], shape)
    expected = reference.forward(*case)
    actual, plan = compute(library, case, dtype, math=math, **options)
    error = np.abs(actual.astype(np.float64) - expected).max(initial=0.0)
    allowed = cuda_cases.tolerance(*case, expected, dtype, math)
    assert error <= allowed, f"off by {error}, allowed are {allowed}: {plan.text}"
    return plan.text


# Layers of real sizes, on the path that the planner takes; one or two images of each.
LAYERS = {layer[1:]: layer._replace(N=1 if layer.H > 200 or layer.kernel_size > 5 else 2) for layer in TABLE.values()}


def checks(library, cases: int, small: bool):
    """(name, function that fails or returns the plan's words) of everything that is checked."""
    hopper = torch.cuda.get_device_capability() == (9, 0)
    fused = {"bias": True, "depthwise_bias": True, "depthwise_activation": ("relu6", 0.2), "activation": ("relu", 0.2)}
    for window, stride in cuda_cases.WINDOWS:
        for dtype, math in cuda_cases.KINDS:
            wgmma = ("two_step_wgmma",) if hopper and (dtype, math) != ("float32", "exact") else ()
            for path in ("stream", "two_step", *wgmma, *cuda_cases.other_fused(window, 72, dtype, math)):
                letters = dict(zip("NHWCMKRS", (1, 21, 37, 40, 1, 72, window, window)))
                shape = {**letters, **fused, "strides": (stride, stride), "seed": 3}
                name = f"{path} {window}x{window} stride {stride} {dtype} {math}"
                yield name, lambda s=shape, d=dtype, m=math, p=path: compare(library, s, d, m, path=p)
    for seed in range(cases):
        shape, dtype, math, path, cut = cuda_cases.draw_case(seed)
        options = {"path": path, **cut, "offset": seed % 2, "in_place": seed % 5 == 0}
        yield f"random {seed}", lambda s=shape, d=dtype, m=math, o=options: compare(library, s, d, m, **o)
        if path == "stream":
            for other in cuda_cases.other_fused(shape["R"], shape["K"], dtype, math):
                options = {"path": other, "offset": seed % 2, "in_place": seed % 5 == 0}
                name = f"random {seed} on {other}"
                yield name, lambda s=shape, d=dtype, m=math, o=options: compare(library, s, d, m, **o)
    for n, h, w, c, k, size, stride in [] if small else LAYERS.values():
        shape = {
            **dict(zip("NHWCMKRS", (n, h, w, c, 1, k, size, size))),
            **fused,
            "strides": (stride, stride),
            "seed": 1,
        }
        for dtype, math in cuda_cases.KINDS:
            name = f"layer {h}x{w}x{c}-{k} {size}x{size} {dtype} {math}"
            yield name, lambda s=shape, d=dtype, m=math: compare(library, s, d, m)
        if hopper and c % 8 == k % 8 == 0:
            for dtype, math in (("float16", "exact"), ("float32", "tf32")):
                name = f"layer {h}x{w}x{c}-{k} {size}x{size} {dtype} {math} on two_step_wgmma"
                yield name, lambda s=shape, d=dtype, m=math: compare(library, s, d, m, path="two_step_wgmma")


def main() -> int:
    arguments = cuda_checks.arguments_of(__doc__, 600)
    gpu = cuda_checks.card_or_none(torch)
    if not gpu:
        return 1
    cuda_card_math.install(torch)
    library = Library(arguments.library)
    outcome = cuda_checks.run(
        checks(library, arguments.cases, arguments.small),
        seconds=arguments.seconds,
        skips=lambda name, error: name.startswith("random") and "shared memory" in str(error),  # a tile at random
    )
    ran = library.calls()
    failed = cuda_checks.report(outcome, gpu=gpu, ran=ran)
    return int(failed or (outcome.left == 0 and min(ran.values()) == 0))


if __name__ == "__main__":
    sys.exit(main())
