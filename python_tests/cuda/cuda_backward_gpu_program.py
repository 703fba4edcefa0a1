"""Runs the GPU kernels' gradients on a GPU against float64: `python cuda_backward_gpu_program.py LIBRARY [options]`.

As cuda_gpu_program.py does the forward pass: PyTorch gives the memory, every tensor lies between NaNs, gradients and
workspace are NaN before each call, and each call runs twice, on streams of its own: its bits must not change. Prints a
line of each check as it ends, then one of JSON; exits with 1 where anything failed.
"""

from __future__ import annotations

import sys

import cuda_backward_cases as cases
import cuda_card_math
import cuda_cases
import cuda_checks
import numpy as np
import reference
import torch
from cuda_backward_library import GRADIENTS, PATHS, BackwardLibrary, backward_call_of
from cuda_gpu_program import BITS, LAYERS, Guarded
from cuda_library import tensors_of


def compute(library, case, dtype, *, grad, y, wanted=GRADIENTS, offset=0, **options):
    """Gradients of a case of `reference.random_case` by name, from two runs with the same bits; and the plan."""
    x, layer, residual = case
    call = backward_call_of(library, x, layer, residual, dtype, wanted=wanted, aligned=offset == 0, **options)
    tensors = tensors_of(x, layer, residual)
    wanted = [name for name in wanted if name in tensors]
    arrays = {name: a.astype(cuda_cases.NUMPY[dtype]) for name, a in {**tensors, "grad": grad, "y": y}.items()}
    if layer.activation[0] == "none" or cases.from_input(layer.activation):
        del arrays["y"]
    runs = []
    for _ in range(2):
        inputs = {name: Guarded(array.shape, dtype, array, offset) for name, array in arrays.items()}
        outputs = {name: Guarded(tensors[name].shape, dtype, None, offset) for name in wanted}
        workspace = torch.full((call.plan.workspace_bytes // 4 + 1,), float("nan"), device="cuda")
        stream = torch.cuda.Stream()
        torch.cuda.synchronize()
        call.run(
            {name: out.address for name, out in outputs.items()},
            **{name: tensor.address for name, tensor in inputs.items()},
            workspace=workspace.data_ptr(),
            stream=stream.cuda_stream,
        )
        torch.cuda.synchronize()
        runs.append({name: out.read() for name, out in outputs.items()})
    for name in wanted:
        bits = [run[name].view(BITS[dtype][1]) for run in runs]
        assert np.array_equal(*bits), f"two runs gave different bits of {name}"
    return runs[0], call.plan


def compare(library, shape, dtype, math, **options) -> None:
    """Fails where a gradient is off."""
    rng = np.random.default_rng(shape["seed"])
    numpy_type = cuda_cases.NUMPY[dtype]
    case = reference.random_case(rng, numpy_type, shape)
    expected, y, grad = cases.backward(*case, cases.random_gradient(rng, *case, numpy_type), numpy_type)
    actual, plan = compute(library, case, dtype, grad=grad, y=y, math=math, **options)
    for name, gradient in actual.items():
        error = np.abs(gradient.astype(np.float64) - expected.values[name]).max(initial=0.0)
        allowed = cases.tolerance(expected, name, dtype, math)
        assert error <= allowed, f"{name} is off by {error}, allowed are {allowed}: {plan.text}"


def checks(library, count: int, small: bool):
    """(name, function that fails) of everything that is checked."""
    fused = {"bias": True, "depthwise_bias": True, "depthwise_activation": ("relu6", 0.2), "activation": ("relu", 0.2)}
    paths = [path for path in PATHS if path != "auto"]
    for window, stride in cuda_cases.WINDOWS:
        for dtype, math in cuda_cases.KINDS:
            for path in paths:
                letters = dict(zip("NHWCMKRS", (1, 21, 37, 40, 1, 72, window, window)))
                shape = {**letters, **fused, "strides": (stride, stride), "seed": 3}
                name = f"{path} {window}x{window} stride {stride} {dtype} {math}"
                yield name, lambda s=shape, d=dtype, m=math, p=path: compare(library, s, d, m, path=p)
    # Products at the ends of tiles, on 9.0 by wgmma: mid' from Z, as a tensor, and none.
    for (h, w, c, k), mid in zip(((1, 63, 8, 136), (9, 15, 264, 72), (20, 31, 136, 264)), ("tanh", "silu", "none")):
        letters = dict(zip("NHWCMKRS", (3, h, w, c, 1, k, 3, 3)))
        shape = {**letters, **fused, "depthwise_activation": (mid, 0.2), "seed": 3}
        for dtype, math in cuda_cases.KINDS:
            name = f"products {h}x{w} {c}-{k} {mid} {dtype} {math}"
            yield name, lambda s=shape, d=dtype, m=math: compare(library, s, d, m, path="steps")
    for seed in range(count):
        shape, dtype, math, path, wanted, tile = cases.draw_case(seed)
        options = {"path": path, "wanted": wanted, "tile": tile, "offset": path != "fused" and seed % 2}
        yield f"random {seed}", lambda s=shape, d=dtype, m=math, o=options: compare(library, s, d, m, **o)
    for n, h, w, c, k, size, stride in [] if small else LAYERS.values():
        letters = dict(zip("NHWCMKRS", (n, h, w, c, 1, k, size, size)))
        shape = {**letters, **fused, "strides": (stride, stride), "seed": 1}
        for dtype, math in cuda_cases.KINDS:
            name = f"layer {h}x{w}x{c}-{k} {size}x{size} {dtype} {math}"
            yield name, lambda s=shape, d=dtype, m=math: compare(library, s, d, m)


def main() -> int:
    arguments = cuda_checks.arguments_of(__doc__, 400)
    gpu = cuda_checks.card_or_none(torch)
    if not gpu:
        return 1
    cuda_card_math.install(torch)
    library = BackwardLibrary(arguments.library)
    outcome = cuda_checks.run(
        checks(library, arguments.cases, arguments.small),
        seconds=arguments.seconds,
        skips=lambda name, error: "does not fit" in str(error),  # a path that was drawn at random
    )
    ran = library.backward_calls()
    failed = cuda_checks.report(outcome, gpu=gpu, ran=ran)
    return int(failed or (outcome.left == 0 and min(ran.values()) == 0))


if __name__ == "__main__":
    sys.exit(main())
