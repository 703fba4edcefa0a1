"""The GPU kernels' bodies on the CPU (cuda/testing/shim.h), against float64.

Inputs end where memory ends, outputs are NaN between guard bytes, the threads of a block run in several orders.
"""

from __future__ import annotations

import ctypes
import subprocess

import cuda_cases
import numpy as np
import pytest
import reference
from conftest import ROOT
from cuda_library import Call, Library, call_of, tensors_of
from cuda_shim_support import (  # noqa: F401
    POISONS,
    Fenced,
    build_shim,
    compare_poisoned,
    conflicts,
    poisoned_case,
    repairs,
)
from native_support import guarded


@pytest.fixture(scope="module")
def library():
    return Library(build_shim())


class NoRoomError(Exception):
    """A random tile that does not fit."""


def compute(library, case, dtype, *, order=0, blocks=0, offset=0, in_place=False, **options):
    """Runs a case of `reference.random_case` and checks the bytes around the output; returns it and the plan."""
    x, layer, residual = case
    try:
        call = call_of(library, x, layer, residual, dtype, **options)
    except ValueError as error:
        if (options.get("tile") or options.get("groups")) and "shared memory" in str(error):
            raise NoRoomError from error
        raise
    out, check = guarded(call.plan.output, cuda_cases.NUMPY[dtype], offset)
    arrays = {name: array.astype(cuda_cases.NUMPY[dtype]) for name, array in tensors_of(x, layer, residual).items()}
    if in_place and residual is not None:
        out[...] = arrays.pop("r")
    fenced = {name: Fenced(array, offset) for name, array in arrays.items()}
    workspace, check_workspace = guarded((call.plan.workspace_bytes // 4,), np.float32)
    addresses = {name: fence.address for name, fence in fenced.items()}
    if in_place and residual is not None:
        addresses["r"] = out.ctypes.data
    library.handle.dwsconv_shim_order(order)
    library.handle.dwsconv_shim_most_blocks(ctypes.c_int64(blocks))
    call.run(**addresses, y=out.ctypes.data, workspace=workspace.ctypes.data)
    for fence in fenced.values():
        fence.close()
    check()
    check_workspace()
    return out, call.plan


def compare(library, shape, dtype, math="exact", **options):
    case = reference.random_case(np.random.default_rng(shape["seed"]), cuda_cases.NUMPY[dtype], shape)
    expected = reference.forward(*case)
    before = repairs(library)
    actual, plan = compute(library, case, dtype, math=math if dtype == "float32" else "exact", **options)
    assert actual.shape == expected.shape and repairs(library) == before
    error = np.abs(actual.astype(np.float64) - expected).max(initial=0.0)
    assert error <= cuda_cases.tolerance(*case, expected, dtype, math), plan.text
    return plan


def test_the_program_that_checks_a_card_finds_nothing_off_here(tmp_path):
    """cuda/testing/layouts.cu, which a GPU runs first: what it expects of a card is what the shim does."""
    program = tmp_path / "layouts"
    flags = ["-std=c++17", "-O1", "-Wno-unknown-pragmas", "-Wno-psabi", "-I.", "-DDWSCONV_SHIM", "-x", "c++"]
    sources = [
        f"cuda/testing/{name}" for name in ("layouts.cu", "shim.cc", "shim_matrices.cc", "shim_hopper.cc", "card.cc")
    ]
    sources.append("cc/plan/cuda/machine.cc")
    subprocess.run(["g++", *flags, *sources, "-o", str(program)], check=True, cwd=ROOT)
    done = subprocess.run([str(program)], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.count("as expected") == 6, done.stdout


def test_random_layers_agree_with_float64(library, conflicts):
    before = library.calls(("direct", "two_step", "stream"))

    skipped = 0
    for seed in range(600):
        shape, dtype, math, path, cut = cuda_cases.draw_case(seed)
        try:
            compare(
                library,
                shape,
                dtype,
                math,
                path=path,
                **cut,
                order=seed % 3,
                blocks=seed % 4,
                offset=seed % 2 * np.dtype(cuda_cases.NUMPY[dtype]).itemsize,
                in_place=seed % 5 == 0,
            )
        except NoRoomError:
            skipped += 1
    ran = {path: calls - before[path] for path, calls in library.calls(before).items()}
    assert min(ran.values()) >= 50, ran
    assert skipped <= 60
    assert conflicts() == 0


LAYER = {**dict(zip("NHWCMKRS", (1, 21, 37, 40, 1, 72, 3, 3))), "bias": True, "depthwise_bias": True, "seed": 3}


@pytest.mark.parametrize("dtype, math", cuda_cases.KINDS)
@pytest.mark.parametrize("window, stride", cuda_cases.WINDOWS)
def test_every_fused_kernel(library, conflicts, window, stride, dtype, math):
    """One layer that is no multiple of anything, on each kernel that is compiled."""
    shape = {**LAYER, "R": window, "S": window, "strides": (stride, stride), "depthwise_activation": ("relu6", 0.2)}
    plan = compare(library, shape, dtype, math, path="stream", order=7)
    assert plan.text.startswith("stream tf32" if math == "tf32" else "stream tile")
    compare(library, shape, dtype, math, path="two_step", order=7)
    assert conflicts() == 0


@pytest.mark.parametrize("activation", cuda_cases.WORDS)
@pytest.mark.parametrize("path", ["direct", "two_step", "stream"])
def test_every_activation(library, path, activation):
    for dtype, math in cuda_cases.KINDS:
        shape = {**LAYER, "H": 9, "W": 9, "activation": (activation, 0.3), "depthwise_activation": (activation, 0.3)}
        compare(library, shape, dtype, math, path=path)


@pytest.mark.parametrize("activation", [word for word in cuda_cases.WORDS if word not in ("none", "relu", "relu6")])
def test_activations_of_every_float16(library, activation):
    """The approximations are right to a rounding of the result, whatever the number: a filter of one tap shows them."""
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    every = every[np.isfinite(every)]
    x = np.resize(every, (1, 62, 128, 8)).astype(np.float64)
    d, p = np.zeros((3, 3, 8, 1)), np.eye(8)[None, None]
    d[1, 1] = 1
    layer = reference.Layer(d, p, activation=(activation, 0.3))
    actual, plan = compute(library, (x, layer, None), "float16", path="stream")
    with np.errstate(over="ignore"):
        expected = reference.forward(x, layer)
        half = np.maximum(np.spacing(np.abs(expected).astype(np.float16)).astype(np.float64), 2.0**-24) / 2
    error = np.abs(actual.astype(np.float64) - expected)
    error[~np.isfinite(half)] = 0  # past the largest number
    assert np.all(error <= 1.05 * half + 2e-7), (plan.text, x[error > 1.05 * half + 2e-7][:5])


@pytest.mark.parametrize("dtype, math", cuda_cases.KINDS)
def test_same_bits_however_it_is_cut(library, dtype, math):
    """Tiles, segments, the number of blocks, the order of threads and other images of the batch change no bit."""
    shape = {**LAYER, "N": 2, "activation": ("gelu", 0.2), "residual": True}
    x, layer, residual = reference.random_case(np.random.default_rng(0), cuda_cases.NUMPY[dtype], shape)
    outputs = [
        compute(library, (x, layer, residual), dtype, math=math, path="stream", **options)[0]
        for options in (
            {},
            {"tile": (8, 8), "segments": 3},
            {"tile": (4, 32), "order": 5},
            {"tile": (4, 8), "blocks": 2},
            {"tile": (4, 8), "groups": 4, "order": 3},
        )
    ]
    outputs.append(
        np.concatenate(
            [
                compute(library, (x[i : i + 1], layer, residual[i : i + 1]), dtype, math=math, path="stream")[0]
                for i in range(2)
            ]
        )
    )
    for output in outputs[1:]:
        np.testing.assert_array_equal(output, outputs[0])


@pytest.mark.parametrize("path", ["direct", "two_step", "stream"])
@pytest.mark.parametrize("dtype, math", cuda_cases.KINDS)
def test_nan_goes_through_and_taps_outside_are_left_out(library, path, dtype, math):
    """A NaN in the filter's first tap spoils the pixels that it is multiplied for, not those whose tap is outside."""
    shape = {**LAYER, "H": 9, "W": 10, "activation": ("relu6", 0.2), "depthwise_activation": ("relu", 0.2)}
    x, layer, residual = reference.random_case(np.random.default_rng(0), cuda_cases.NUMPY[dtype], shape)
    layer.depthwise_filter[0, 0, 5, 0] = np.nan
    x[0, 8, 9, 7] = np.inf
    actual, _ = compute(library, (x, layer, residual), dtype, math=math, path=path)
    with np.errstate(invalid="ignore"):
        expected = reference.forward(x, layer, residual)
    assert 0 < np.isnan(expected).sum() < expected.size
    np.testing.assert_array_equal(np.isnan(actual.astype(np.float64)), np.isnan(expected))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_7x7_on_tensor_cores(library, dtype):
    """All sizes around the tiles and the channels of a block, paddings, biases, activations, orders of threads."""
    rng = np.random.default_rng(0)
    for case in range(18):
        height, width = (int(rng.integers(1, 40)) for _ in "hw")
        shape = {
            **dict(zip("NHWCMKRS", (int(rng.integers(1, 3)), height, width, 8 * int(rng.integers(1, 13)), 1, 8, 7, 7))),
            "depthwise_bias": case % 2 == 0,
            "depthwise_activation": (cuda_cases.WORDS[case % len(cuda_cases.WORDS)], 0.3),
            "padding": "SAME" if case % 3 else ((4, 3), (6, 5)),
            "seed": case,
        }
        plan = compare(library, shape, dtype, path="two_step", order=case, blocks=case % 4)
        assert plan.text.startswith("two_step toeplitz")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("poison", POISONS)
def test_7x7_on_tensor_cores_keeps_infinities_where_they_belong(library, dtype, poison):
    """An infinite input is multiplied by zeros of the Toeplitz matrix, an infinite tap by zeros around the image."""
    shape = {**LAYER, "H": 19, "W": 21, "R": 7, "S": 7, "depthwise_activation": ("gelu", 0.2)}
    case = poisoned_case(shape, dtype, poison)
    actual, plan = compute(library, case, dtype, path="two_step")
    assert plan.text.startswith("two_step toeplitz")
    compare_poisoned(actual, case, dtype)


def test_nothing_to_do(library):
    for size in ("N", "H"):
        shape = {**LAYER, size: 0, "padding": "SAME"}
        case = reference.random_case(np.random.default_rng(0), np.float32, shape)
        out, _ = compute(library, case, "float32")
        assert out.shape == reference.forward(*case).shape


@pytest.mark.parametrize(
    "change, options, message",
    [
        ({"R": 4}, {"path": "stream"}, "3x3 and 5x5"),
        ({"dilations": (2, 2)}, {"path": "stream"}, "dilation 1"),
        ({"M": 2}, {"path": "stream"}, "multiplier 1"),
        ({"K": 4000, "C": 400}, {"path": "stream"}, "shared memory"),
        ({}, {"path": "stream", "tile": (5, 16)}, "no tile of 5x16"),
        ({"padding": "VALID", "H": 2}, {}, "larger than the input"),
        ({"activation": ("swoosh", 0.2)}, {}, "activation must be one of"),
    ],
)
def test_what_does_not_fit_is_an_error(library, change, options, message):
    shape = {**LAYER, **change}
    words = {"activation": shape.pop("activation")} if "activation" in shape else {}
    filters = ((shape["R"], shape["S"], shape["C"], shape["M"]), (1, 1, shape["C"] * shape["M"], shape["K"]))
    attributes = {name: shape[name] for name in ("dilations", "padding") if name in shape}
    with pytest.raises(ValueError, match=message):
        Call(library, tuple(shape[letter] for letter in "NHWC"), *filters, "float16", **attributes, **words, **options)


def test_a_small_workspace_is_an_error(library):
    call = Call(library, (1, 8, 8, 8), (3, 3, 8, 1), (1, 1, 8, 8), "float16", path="two_step")
    assert call.plan.workspace_bytes >= 8 * 8 * 8 * 2
    call.plan.workspace_bytes -= 1
    with pytest.raises(ValueError, match="workspace_bytes must be at least"):
        call.run(x=None, d=None, p=None, y=None)


@pytest.mark.parametrize(
    "size, channels, filters, window, batch, path",
    [
        (224, 128, 128, 3, 16, "stream"),  # bound by memory: fused
        (112, 32, 64, 3, 128, "stream"),
        (512, 3, 64, 3, 8, "stream"),
        (56, 144, 24, 3, 32, "stream"),
        (7, 1024, 1024, 3, 128, "two_step"),  # filters that fit no block
        (14, 384, 1536, 7, 32, "two_step"),
    ],
)
def test_planner_chooses_the_path(library, size, channels, filters, window, batch, path):
    call = Call(
        library, (batch, size, size, channels), (window, window, channels, 1), (1, 1, channels, filters), "float16"
    )
    assert call.plan.text.split()[0].removeprefix("tensor_") == path  # by either fused kernel
    compulsory = 2 * batch * size * size * (channels + filters)
    assert call.plan.modelled_us >= compulsory / 4.3e6
