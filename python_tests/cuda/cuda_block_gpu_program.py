"""Runs the block's GPU kernels on a GPU against float64: `cuda_block_gpu_program.py LIBRARY [options]`.

Needs PyTorch for memory and float64 references, and neither TensorFlow nor pytest. Every tensor lies between NaNs,
outputs and workspaces are NaN before each call, and each call runs twice: its bits must not change. Prints a line of
each check as it ends, then one of JSON; exits with 1 where anything failed, and where a kernel of the block never ran.
"""

from __future__ import annotations

import collections
import functools
import sys

import cuda_block_cases as cases
import cuda_card_math
import cuda_checks
import numpy as np
import torch
from cuda_block_library import BlockCall, BlockLibrary
from cuda_cases import KINDS
from cuda_gpu_program import BITS, Guarded


def compute(library, block, *, offset=0, in_place=False, **options):
    """Runs a block twice, on a stream of its own; returns the output and the plan."""
    x, tensors = block.laid_out()
    shapes = {name: array.shape for name, array in tensors.items()}
    call = BlockCall(library, x.shape, shapes, block.dtype, **block.options, **options)
    outputs = []
    for _ in range(2):
        given = {name: Guarded(array.shape, block.dtype, array, offset) for name, array in {"x": x, **tensors}.items()}
        in_place = in_place and "residual" in given
        out = given["residual"] if in_place else Guarded(call.plan.output, block.dtype, None, offset)
        workspace = torch.full((call.plan.workspace_bytes // 4 + 1,), float("nan"), device="cuda")
        stream = torch.cuda.Stream()
        torch.cuda.synchronize()
        addresses = {name: tensor.address for name, tensor in given.items()}
        call.run(**addresses, y=out.address, workspace=workspace.data_ptr(), stream=stream.cuda_stream)
        torch.cuda.synchronize()
        outputs.append(out.read())
    same = outputs[0].view(BITS[block.dtype][1]) == outputs[1].view(BITS[block.dtype][1])
    assert np.all(same), "two runs gave different bits"
    return outputs[0], call.plan


def compare(library, block, math, **options) -> str:
    """Fails where the output is off; returns the plan's words."""
    actual, plan = compute(library, block, math=math, **options)
    expected, size = block.expected()
    error = np.abs(actual.astype(np.float64) - expected).max(initial=0.0)
    allowed = block.tolerance(size, math)
    assert error <= allowed, f"off by {error}, allowed are {allowed}: {plan.text}"
    return plan.text


# Blocks of networks at their sizes: stages, and what differs from cuda_block_cases.make's.
BLOCKS = {
    "mobilenetv2 112": ("edp", {"h": 112, "w": 112, "e": 16, "c": 96, "k": 24, "strides": (2, 2)}),
    "mobilenetv2 56": ("edpr", {"h": 56, "w": 56, "e": 24, "c": 144, "k": 24}),
    "mobilenetv2 14": ("edpr", {"h": 14, "w": 14, "e": 64, "c": 384, "k": 64}),
    "mobilenetv3 expand": ("ed", {"h": 28, "w": 28, "e": 40, "c": 120, "window": (5, 5)}),
    "mobilenetv3 gate": ("spr", {"h": 28, "w": 28, "c": 120, "k": 40}),
    "efficientnet expand": ("ed", {"h": 14, "w": 14, "e": 112, "c": 672, "window": (5, 5), "strides": (2, 2)}),
    "efficientnet gate": ("spr", {"n": 5, "h": 7, "w": 7, "c": 1152, "k": 192}),
    "convnext 56": ("dnp", {"h": 56, "w": 56, "c": 96, "k": 384, "window": (7, 7)}),
    "convnext 7": ("dnp", {"h": 7, "w": 7, "c": 768, "k": 3072, "window": (7, 7)}),
    "convnext back": ("pr", {"h": 14, "w": 14, "c": 1536, "k": 384}),
    "convnext wide": ("dnp", {"h": 7, "w": 7, "c": 1024, "k": 64, "window": (7, 7)}),
    "first 3x3": ("D", {"h": 224, "w": 224, "c": 3, "k": 32, "strides": (2, 2)}),
    "first 4x4": ("D", {"h": 224, "w": 224, "c": 3, "k": 96, "window": (4, 4), "strides": (4, 4), "padding": "VALID"}),
    "dense": ("Dr", {"h": 28, "w": 28, "c": 16, "k": 64}),
}
WORDS = {"strip", "window", "pixels", "pointwise", "gated", "dense", "general", "expand product", "expand general"}


def checks(library, count: int, small: bool):
    """(name, function that fails or returns the plan's words) of everything that is checked."""
    for window, stride in cases.WINDOWS:
        for dtype, math in KINDS:
            for stages in ("dnsp", "dr"):
                sizes = {"h": 21, "w": 14, "c": 70, "window": (window, window), "strides": (stride, stride)}
                block = cases.make(stages, dtype, **sizes)
                name = f"{stages} {window}x{window} stride {stride} {dtype} {math}"
                yield name, lambda b=block, m=math: compare(library, b, m, in_place=True)
            if window > 5 or (dtype, math) == ("float32", "exact"):
                continue
            for stages, sizes in (("edpr", {"e": 24, "c": 72, "k": 71}), ("ed", {"e": 13, "c": 39})):
                sizes = {"h": 21, "w": 37, "window": (window, window), "strides": (stride, stride), **sizes}
                block = cases.make(stages, dtype, **sizes)
                name = f"{stages} in one kernel {window}x{window} stride {stride} {dtype} {math}"
                yield name, lambda b=block, m=math: compare(library, b, m, in_place=True, fusion="always")
    for seed in range(count):
        dtype, math = KINDS[seed // len(cases.STAGES) % len(KINDS)]
        block, general = cases.draw_block(seed, dtype)
        options = {"general": bool(general), "offset": seed % 2, "in_place": seed % 5 != 0}
        options["fusion"] = "never" if seed % 3 == 0 else "auto"
        yield f"random {seed}", lambda b=block, m=math, o=options: compare(library, b, m, **o)
    for name, (stages, sizes) in {} if small else BLOCKS.items():
        for dtype, math in KINDS:
            block = cases.make(stages, dtype, **sizes)
            yield f"{name} {dtype} {math}", lambda b=block, m=math: compare(library, b, m, in_place=True)


def main() -> int:
    arguments = cuda_checks.arguments_of(__doc__, 480)
    gpu = cuda_checks.card_or_none(torch)
    if not gpu:
        return 1
    cuda_card_math.install(torch)
    library, ran = BlockLibrary(arguments.library), collections.Counter()

    def counted(check):
        words = check()
        ran.update(word.split(" tile")[0] for word in words.split(", "))
        return words

    all_checks = (
        (name, functools.partial(counted, c)) for name, c in checks(library, arguments.cases, arguments.small)
    )
    outcome = cuda_checks.run(all_checks, seconds=arguments.seconds)
    missing = sorted(WORDS - set(ran)) if arguments.cases >= 48 and outcome.left == 0 else []
    counts = {word: ran[word] for word in sorted(WORDS & set(ran))}
    failed = cuda_checks.report(outcome, gpu=gpu, calls=library.calls(), ran=counts, **{"never ran": missing})
    return int(failed or bool(missing))


if __name__ == "__main__":
    sys.exit(main())
