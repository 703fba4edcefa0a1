"""Runs every family of GPU kernels once in every element type: `python cuda_smoke_program.py LIBRARY [options]`.

A process each, so that an address that is wrong costs one line and not the visit to a card; each line is printed, and
written to --out, as soon as it is known. Small layers against float64. Needs NumPy and ml_dtypes alone. Exits with 1
where a line is not `passed`.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

KINDS = {"float16": ("float16", "exact"), "bfloat16": ("bfloat16", "exact"), "float32": ("float32", "exact"),
         "tf32": ("float32", "tf32")}  # fmt: skip
SIXTEEN, TENSOR_CORES = ("float16", "bfloat16"), ("float16", "bfloat16", "tf32")

BIASED = {"bias": True, "depthwise_bias": True, "residual": True, "activation": ("gelu", 0.2), "seed": 3,
          "depthwise_activation": ("relu6", 0.2)}  # fmt: skip


def layer(path: str, word: str, letters=(2, 13, 18, 24, 1, 40, 3, 3), kinds=tuple(KINDS), **options):
    return ("layer", path, word, {**BIASED, **dict(zip("NHWCMKRS", letters)), **options}, kinds)


def block(stages: str, word: str, kinds=tuple(KINDS), **options):
    return ("block", stages, word, options, kinds)


def gradients(path: str, letters=(2, 13, 18, 24, 1, 40, 3, 3), kinds=tuple(KINDS), **options):
    shape = {**BIASED, "activation": ("relu", 0.2), **dict(zip("NHWCMKRS", letters)), **options}
    return ("gradients", path, path, shape, kinds)


# name: what is called, by which path or stages, a word that the plan must have, sizes, element types.
FAMILIES = {
    "direct": layer("direct", "direct"),
    "stream": layer("stream", "stream"),
    "stream stride 2": layer("stream", "stream", strides=(2, 2)),
    "tensor stream": layer("tensor_stream", "tensor_stream", kinds=SIXTEEN),
    "tensor stream stride 2": layer("tensor_stream", "tensor_stream", strides=(2, 2), kinds=SIXTEEN),
    "tensor stream 5x5": layer("tensor_stream", "tensor_stream", (1, 13, 18, 24, 1, 104, 5, 5), SIXTEEN),
    "deep": layer("deep", "deep", (2, 13, 18, 136, 1, 144, 3, 3), TENSOR_CORES),
    "deep stride 2": layer("deep", "deep", (2, 13, 18, 72, 1, 264, 5, 5), TENSOR_CORES, strides=(2, 2)),
    "deep 7x7": layer("deep", "deep", (1, 13, 18, 40, 1, 144, 7, 7), TENSOR_CORES),
    "deep by elements": layer("deep", "deep", (1, 13, 18, 13, 1, 11, 3, 3), TENSOR_CORES),
    "stream 7x7": layer("stream", "stream", (1, 13, 18, 24, 1, 40, 7, 7)),
    "window": layer("two_step", "window", (1, 13, 18, 20, 1, 40, 3, 3)),
    "depthwise tensor": layer("two_step", "two_step tensor", kinds=SIXTEEN),
    "depthwise tensor stride 2": layer(
        "two_step", "two_step tensor", (2, 13, 18, 24, 1, 40, 5, 5), SIXTEEN, strides=(2, 2)
    ),
    "depthwise tensor 5x5": layer("two_step", "two_step tensor", (2, 13, 18, 136, 1, 104, 5, 5), SIXTEEN),
    "toeplitz": layer("two_step", "toeplitz", (1, 13, 18, 24, 1, 40, 7, 7), SIXTEEN),
    "general": layer("two_step", "general", (1, 13, 18, 8, 2, 40, 2, 3), dilations=(2, 1)),
    "product": layer("two_step", "two_step", (1, 13, 18, 136, 1, 144, 3, 3)),
    "product by elements": layer("two_step", "two_step", (1, 13, 18, 13, 1, 11, 3, 3)),
    "product wgmma": layer("two_step_wgmma", "two_step_wgmma", (1, 13, 18, 136, 1, 144, 3, 3), TENSOR_CORES),
    "product wgmma 7x7": layer("two_step_wgmma", "two_step_wgmma toeplitz", (2, 9, 18, 24, 1, 264, 7, 7), SIXTEEN),
    "transposed": layer("two_step", "transposed", data_format="NCHW"),
    "strip": block("edpr", "strip", TENSOR_CORES, fusion="always"),
    "block window": block("dn", "window"),
    "pixels": block("np", "pixels"),
    "expand product": block("ep", "expand product"),
    "gated": block("spr", "gated"),
    "dense": block("D", "dense"),
    "convolution": block("D", "general", general=True),
    "gradients fused": gradients("fused", kinds=TENSOR_CORES),
    "gradients steps": gradients("steps"),
    "gradients window": gradients("steps", (1, 13, 18, 20, 1, 40, 3, 3)),
    "gradients stride 2": gradients("steps", (2, 13, 18, 136, 1, 40, 5, 5), strides=(2, 2)),
    # Products of several tiles, on 9.0 by wgmma: with mid' from Z, and as a tensor.
    "gradients vectors": gradients("steps", (2, 13, 18, 136, 1, 200, 3, 3)),
    "gradients vectors silu": gradients("steps", (1, 13, 18, 264, 1, 72, 3, 3), depthwise_activation=("silu", 0.2)),
    "gradients 7x7": gradients("steps", (1, 13, 18, 24, 1, 40, 7, 7)),
    "gradients silu": gradients("steps", activation=("silu", 0.2), depthwise_activation=("silu", 0.2)),
    "gradients general": gradients("general"),
}
CASES = tuple(f"{family} {kind}" for family, (*_, kinds) in FAMILIES.items() for kind in kinds)


def memory_of(host: bool):
    import cuda_memory

    return cuda_memory.Host() if host else cuda_memory.Card()


def run_call(memory, call, inputs: dict, outputs: dict, dtype) -> dict:
    """Outputs by name. `outputs`: their shapes; a call of gradients has them apart from its inputs."""
    from cuda_memory import Tensor

    given = {name: Tensor(memory, array.shape, dtype, array) for name, array in inputs.items()}
    results = {name: Tensor(memory, shape, dtype) for name, shape in outputs.items()}
    workspace = Tensor(memory, (call.plan.workspace_bytes,), np.uint8)
    addresses = {name: tensor.address for name, tensor in given.items()}
    to = {name: tensor.address for name, tensor in results.items()}
    if "y" in to:
        call.run(**addresses, **to, workspace=workspace.address)
    else:
        call.run(to, **addresses, workspace=workspace.address)
    memory.wait()
    workspace.read()
    return {name: tensor.read().astype(np.float64) for name, tensor in results.items()}


def run_layer(memory, library, path, shape, dtype, math):
    import cuda_cases
    import reference
    from cuda_library import Library, call_of, tensors_of

    case = reference.random_case(np.random.default_rng(3), cuda_cases.NUMPY[dtype], shape)
    call = call_of(Library(library), *case, dtype, math=math, path=path)
    actual = run_call(memory, call, tensors_of(*case), {"y": call.plan.output}, cuda_cases.NUMPY[dtype])["y"]
    expected = reference.forward(*case)
    return call.plan.text, [(actual, expected, cuda_cases.tolerance(*case, expected, dtype, math))]


def run_block(memory, library, stages, options, dtype, math):
    import cuda_block_cases
    from cuda_block_library import BlockCall, BlockLibrary
    from cuda_cases import NUMPY

    made = cuda_block_cases.make(stages, dtype)
    x, tensors = made.laid_out()
    shapes = {name: array.shape for name, array in tensors.items()}
    call = BlockCall(BlockLibrary(library), x.shape, shapes, dtype, **made.options, math=math, **options)
    actual = run_call(memory, call, {"x": x, **tensors}, {"y": call.plan.output}, NUMPY[dtype])["y"]
    expected, size = made.expected()
    return call.plan.text, [(actual, expected, made.tolerance(size, math))]


def run_gradients(memory, library, path, shape, dtype, math):
    import cuda_backward_cases as cases
    import cuda_cases
    import reference
    from cuda_backward_library import BackwardLibrary, backward_call_of
    from cuda_library import tensors_of

    rng, numpy_type = np.random.default_rng(3), cuda_cases.NUMPY[dtype]
    case = reference.random_case(rng, numpy_type, shape)
    expected, y, grad = cases.backward(*case, cases.random_gradient(rng, *case, numpy_type), numpy_type)
    call = backward_call_of(BackwardLibrary(library), *case, dtype, math=math, path=path)
    tensors = tensors_of(*case)
    inputs = {**tensors, "grad": grad, "y": y}
    if cases.from_input(case[1].activation):
        del inputs["y"]
    actual = run_call(memory, call, inputs, {name: array.shape for name, array in tensors.items()}, numpy_type)
    return call.plan.text, [
        (actual[name], expected.values[name], cases.tolerance(expected, name, dtype, math)) for name in tensors
    ]


def run_case(library: str, name: str, host: bool) -> str:
    """Runs one case here; returns what is to be said of it.

    A family that the card has no kernels for is left out, and says so.

    Raises:
        AssertionError: a result is off, or the plan is another than the family's.
    """
    family, kind = name.rsplit(" ", 1)
    what, path, word, sizes, _ = FAMILIES[family]
    run = {"layer": run_layer, "block": run_block, "gradients": run_gradients}[what]
    try:
        text, results = run(memory_of(host), library, path, sizes, *KINDS[kind])
    except ValueError as error:
        if "needs a card of compute capability" not in str(error):
            raise
        return f"left out | {error}"
    assert word in text, f"the plan is {text}"
    worst = 0.0
    for actual, expected, allowed in results:
        error = np.abs(actual - expected).max(initial=0.0)
        assert error <= allowed, f"off by {error:.3g}, allowed are {allowed:.3g}: {text}"
        worst = max(worst, error / allowed)
    return f"{worst:.2f} of what is allowed | {text}"


def outcome(command: list, seconds: float) -> tuple:
    """(passed, words, seconds) of a process; whatever it does ends here."""
    begin = time.monotonic()
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return False, f"longer than {seconds:g} s", time.monotonic() - begin
    said = (done.stdout if done.returncode == 0 else done.stderr or done.stdout).strip().splitlines()
    words = said[-1] if said else ""
    if done.returncode != 0:
        words = f"exit {done.returncode}: {words}"
    return done.returncode == 0, words.replace("\n", " "), time.monotonic() - begin


def run_all(names, command_of, seconds: float, together: int, out=None) -> int:
    """Runs a process for each name, some at a time; prints a line of each at once. How many did not pass."""
    failed = 0

    def note(line):
        if out is not None:
            with open(out, "a", encoding="utf-8") as file:
                file.write(line + "\n")

    note("| kernels | outcome | plan | s |\n| --- | --- | --- | ---: |")
    with concurrent.futures.ThreadPoolExecutor(together) as pool:
        running = {pool.submit(outcome, command_of(name), seconds): name for name in names}
        for future in concurrent.futures.as_completed(running):
            passed, words, took = future.result()
            failed += not passed
            said = "passed" if passed else "FAILED"
            print(f"{said} {running[future]}: {words}, {took:.1f} s", flush=True)
            words = words if " | " in words else words + " | "
            note(f"| {running[future]} | {said}: {words} | {took:.1f} |")
    print(f"{len(names) - failed} of {len(names)} passed", flush=True)
    return failed


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library")
    parser.add_argument("--case", choices=CASES, help="this one, in this process")
    parser.add_argument("--only", default="", help="those whose name has this")
    parser.add_argument(
        "--host", action="store_true", help="LIBRARY is the CPU shim's: tensors lie in the host's memory"
    )
    parser.add_argument("--seconds", type=float, default=20, help="that one may take")
    parser.add_argument("--together", type=int, default=max(4, (os.cpu_count() or 4) - 4), help="processes at a time")
    parser.add_argument("--out", type=Path, help="a Markdown file that lines are added to")
    arguments = parser.parse_args(argv)
    host = ["--host"] if arguments.host else []
    if arguments.case:
        try:
            print(run_case(arguments.library, arguments.case, arguments.host))
        except (AssertionError, ValueError, RuntimeError, OSError) as error:
            print(f"{type(error).__name__}: {error}".replace("\n", " "), file=sys.stderr)
            return 1
        return 0
    names = [name for name in CASES if arguments.only in name]
    if not names:
        parser.error(f"--only must be in one of the names, but is {arguments.only!r}")

    def command_of(name):
        return [sys.executable, __file__, arguments.library, "--case", name, *host]

    return int(run_all(names, command_of, arguments.seconds, arguments.together, arguments.out) > 0)


if __name__ == "__main__":
    sys.exit(main())
