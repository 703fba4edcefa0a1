"""The bodies of the block's GPU kernels on the CPU (cuda/testing/shim.h), against float64.

Inputs end where memory ends, outputs and the workspace are NaN between guard bytes, the threads of a block run in
several orders.
"""

from __future__ import annotations

import collections
import ctypes

import cuda_block_cases as cases
import numpy as np
import pytest
from cuda_block_library import BlockCall, BlockLibrary
from cuda_cases import KINDS, NUMPY, WORDS
from cuda_shim_support import Fenced, build_shim, conflicts  # noqa: F401
from native_support import guarded


@pytest.fixture(scope="module")
def library():
    return BlockLibrary(build_shim())


def call_of(library, block, **options):
    x, tensors = block.laid_out()
    shapes = {name: array.shape for name, array in tensors.items()}
    return BlockCall(library, x.shape, shapes, block.dtype, **block.options, **options)


def compute(library, block, *, order=0, blocks=0, offset=0, in_place=False, **options):
    """Runs a block and checks the bytes around output and workspace; returns the output and the plan."""
    call = call_of(library, block, **options)
    x, tensors = block.laid_out()
    out, check = guarded(call.plan.output, NUMPY[block.dtype], offset)
    in_place = in_place and "residual" in tensors
    if in_place:
        out[...] = tensors.pop("residual")
    fenced = {name: Fenced(array, offset) for name, array in {"x": x, **tensors}.items()}
    workspace, check_workspace = guarded((call.plan.workspace_bytes // 4,), np.float32)
    addresses = {name: fence.address for name, fence in fenced.items()}
    if in_place:
        addresses["residual"] = out.ctypes.data
    library.handle.dwsconv_shim_order(order)
    library.handle.dwsconv_shim_most_blocks(ctypes.c_int64(blocks))
    call.run(**addresses, y=out.ctypes.data, workspace=workspace.ctypes.data)
    for fence in fenced.values():
        fence.close()
    check()
    check_workspace()
    return out, call.plan


def compare(library, block, math="exact", **options):
    """Fails where the output is off; returns the plan's words."""
    actual, plan = compute(library, block, math=math, **options)
    expected, size = block.expected()
    assert actual.shape == expected.shape
    error = np.abs(actual.astype(np.float64) - expected).max(initial=0.0)
    allowed = block.tolerance(size, math)
    assert error <= allowed, f"off by {error}, allowed are {allowed}: {plan.text}"
    return plan.text


def fusion_of(library, block, math, general) -> str:
    """Always where the kernel for expansion and depthwise convolution takes the block, else as the planner likes."""
    try:
        call_of(library, block, math=math, general=bool(general), fusion="always")
    except ValueError as error:
        assert "fusion" in str(error)
        return "auto"
    return "always"


def test_random_blocks_agree_with_float64(library, conflicts):
    ran = collections.Counter()
    before = library.calls()
    for seed in range(288):
        dtype, math = KINDS[seed // len(cases.STAGES) % len(KINDS)]
        block, general = cases.draw_block(seed, dtype)
        text = compare(
            library,
            block,
            math,
            general=bool(general),
            fusion=fusion_of(library, block, math, general) if seed % 2 else "never",
            order=seed % 3,
            blocks=seed % 4,
            offset=seed % 2 * np.dtype(NUMPY[dtype]).itemsize,
            in_place=seed % 5 != 0,
        )
        ran.update(word for stage in text.split(", ") for word in [stage.split(" tile")[0]])
    assert library.calls() == before + 288
    products = ("strip", "expand product", "expand general", "pointwise", "gated", "dense", "general", "tf32")
    expected = (*products, "window", "pixels", "transposed")
    assert all(ran[word] >= 5 for word in expected), ran
    assert sum(count for word, count in ran.items() if word.startswith("pair ")) >= 5, ran
    assert conflicts() == 0


@pytest.mark.parametrize("dtype, math", KINDS)
@pytest.mark.parametrize("window, stride", cases.WINDOWS)
def test_every_window(library, window, stride, dtype, math):
    """A block that is no multiple of anything, on each kernel that is compiled; with and without the norm."""
    sizes = {"h": 21, "w": 14, "c": 70, "window": (window, window), "strides": (stride, stride)}
    for stages in ("dn", "dnsp", "dr", "dsp"):
        text = compare(library, cases.make(stages, dtype, **sizes), math, order=7, in_place=True)
        assert text.startswith("window")


FUSED = [(dtype, math) for dtype, math in KINDS if (dtype, math) != ("float32", "exact")]


@pytest.mark.parametrize("dtype, math", FUSED)
@pytest.mark.parametrize("window, stride", [pair for pair in cases.WINDOWS if pair[0] <= 5])
def test_expansion_in_the_same_kernel(library, conflicts, window, stride, dtype, math):
    """Blocks that are no multiple of anything, others whose rows are vectors; paddings; more steps than one."""
    sizes = {"window": (window, window), "strides": (stride, stride)}
    pads = ((window // 2, window // 2), (1, window - 1))
    for stages, h, w, e, c, k, padding in (
        ("edpr", 21, 37, 13, 39, 71, "SAME"),
        ("edpr", 26, 18, 24, 72, 24, pads),
        ("edp", 19, 21, 40, 64, 72, "VALID"),
        ("ed", 22, 35, 16, 70, 0, pads),
        ("ed", 37, 9, 3, 37, 0, "SAME"),
    ):
        words = (("silu", 0.2), ("relu6", 0.2), ("hard_swish", 0.2)) if e % 2 else (("relu6", 0.2),) * 3
        n = 2 if stages == "edpr" else 1
        block = cases.make(stages, dtype, n=n, h=h, w=w, e=e, c=c, k=k, padding=padding, words=words, **sizes)
        offset = e % 2 * np.dtype(NUMPY[dtype]).itemsize
        text = compare(library, block, math, fusion="always", order=e, blocks=3, in_place=True, offset=offset)
        assert text.startswith("strip")
    assert conflicts() == 0


@pytest.mark.parametrize(
    "stages, options, message",
    [
        ("dp", {}, "fusion is for an expansion"),
        ("ednp", {}, "without norm and scale"),
        ("edr", {}, "with a residual where"),
        ("edp", {"window": (7, 7)}, "fusion is for 3x3 and 5x5"),
        ("edp", {"m": 2}, "M = 1"),
        ("edp", {"e": 512, "c": 1024}, "does not fit into the"),
    ],
)
def test_what_the_same_kernel_cannot_take(library, stages, options, message):
    with pytest.raises(ValueError, match=message):
        call_of(library, cases.make(stages, "float16", n=1, **options), fusion="always")
    with pytest.raises(ValueError, match="on tensor cores"):
        call_of(library, cases.make("edp", "float32"), fusion="always")
    with pytest.raises(ValueError, match="general kernels"):
        call_of(library, cases.make("edp", "float16"), fusion="always", general=True)


@pytest.mark.parametrize("dtype, math", KINDS)
def test_many_channels(library, dtype, math):
    """More channels than a block of threads takes at a time: without a norm in chunks, with one in two kernels."""
    channels = 800 if dtype != "float32" else 400
    for stages, words in (("dr", "window"), ("dnp", "window, pixels, pointwise")):
        block = cases.make(stages, dtype, n=1, h=5, w=6, c=channels, k=8)
        assert compare(library, block, math, order=3, blocks=2).startswith(words)


@pytest.mark.parametrize("dtype, math", KINDS)
def test_gated_products(library, conflicts, dtype, math):
    """Tiles with pixels of several images, channels that are and are not whole vectors, one image and many blocks."""
    for n, h, w, c, k in ((5, 7, 7, 40, 136), (2, 11, 13, 64, 24), (9, 3, 3, 37, 16), (1, 12, 12, 200, 5)):
        for word in ("none", "hard_swish"):
            block = cases.make("spr", dtype, n=n, h=h, w=w, c=c, k=k, words=((word, 0.2),) * 3)
            assert compare(library, block, math, order=9, blocks=3, in_place=True).startswith("gated")
    assert conflicts() == 0


@pytest.mark.parametrize("dtype, math", KINDS)
def test_dense_products(library, conflicts, dtype, math):
    """First layers of networks and others: few channels, whole vectors, patches without overlap."""
    for h, w, c, k, window, strides, padding in (
        (33, 30, 3, 32, (3, 3), (2, 2), "SAME"),
        (16, 24, 3, 96, (4, 4), (4, 4), "VALID"),
        (13, 11, 16, 24, (3, 3), (1, 1), "SAME"),
        (9, 9, 24, 136, (1, 1), (2, 2), "SAME"),
        (7, 8, 8, 8, (5, 2), (1, 2), ((2, 3), (0, 1))),
        (15, 15, 3, 16, (7, 7), (2, 2), ((3, 3), (3, 3))),
    ):
        for word in ("relu6", "silu"):
            block = cases.make("Dr", dtype, n=3, h=h, w=w, c=c, k=k, window=window, strides=strides, padding=padding,
                               words=((word, 0.2),) * 3)  # fmt: skip
            assert compare(library, block, math, order=9, blocks=3, in_place=True).startswith("dense")
    assert conflicts() == 0


@pytest.mark.parametrize("word", WORDS)
def test_every_activation(library, word):
    for dtype, math in KINDS:
        for stages in ("edp", "ednsp", "sp", "D"):
            compare(library, cases.make(stages, dtype, words=((word, 0.3),) * 3), math)
            compare(library, cases.make(stages, dtype, words=((word, 0.3),) * 3), math, general=True)


@pytest.mark.parametrize("dtype, math", KINDS)
@pytest.mark.parametrize("stages", ["ednspr", "spr", "Dr", "edpr"])
def test_same_bits_however_it_is_cut(library, stages, dtype, math):
    """The number of blocks, the order of threads and other images of the batch change no bit."""
    block = cases.make(stages, dtype, n=3, h=12, w=13, words=(("gelu", 0.2),) * 3)
    first, _ = compute(library, block, math=math)
    for options in ({"blocks": 1, "order": 1}, {"blocks": 2, "order": 5}):
        np.testing.assert_array_equal(compute(library, block, math=math, **options)[0], first)
    for i in range(3):
        pictures = {name: block.tensors[name][i : i + 1] for name in ("scale", "residual") if name in block.tensors}
        one = cases.Block(block.x[i : i + 1], {**block.tensors, **pictures}, block.options, dtype)
        np.testing.assert_array_equal(compute(library, one, math=math)[0][0], first[i])


@pytest.mark.parametrize("way", ["separate", "fused", "general"])
@pytest.mark.parametrize("dtype, math", KINDS)
def test_not_a_number_stays_in_its_pixels(library, dtype, math, way):
    """NaN in a pixel spoils what reads it; in a depthwise filter's corner not the pixels whose tap is outside."""
    options = {"math": math, "general": way == "general", "fusion": "always" if way == "fused" else "never"}
    if way == "fused" and (dtype, math) not in FUSED:
        pytest.skip("there is no such kernel")
    stages_of = (("ed", 1), ("edp", 1), ("ednspr", 1), ("spr", 0), ("np", 0), ("D", 1))
    for stages, reach in stages_of[:2] if way == "fused" else stages_of:
        block = cases.make(stages, dtype, n=2, h=10, w=9)
        block.x[0, 4, 5, 3] = np.nan
        actual, _ = compute(library, block, **options)
        spoiled = np.zeros(actual.shape, bool)
        spoiled[0, 4 - reach : 5 + reach, 5 - reach : 6 + reach] = True
        np.testing.assert_array_equal(np.isnan(actual.astype(np.float64)), spoiled)
    for stages in ("ed", "edp") if way == "fused" else ("dnsp", "ed"):
        block = cases.make(stages, dtype, n=1, h=10, w=9)
        block.tensors["depthwise_filter"][0, 0] = np.nan
        actual, _ = compute(library, block, **options)
        is_nan = np.isnan(actual.astype(np.float64))
        assert is_nan[:, 1:, 1:].all() and not is_nan[:, 0].any() and not is_nan[:, :, 0].any()


def test_nothing_to_do(library):
    for stages in ("ednsp", "p", "D", "d"):
        for empty in ({"n": 0}, {"h": 0}):
            out, plan = compute(library, cases.make(stages, "float32", **empty))
            assert out.size == 0 and plan.text == "nothing" and plan.workspace_bytes == 0


def test_windows_of_nothing_but_padding(library):
    """An input without rows has outputs where there is enough padding: what the biases make of zeros."""
    for stages in ("edp", "ednp", "D"):
        for general in (False, True):
            block = cases.make(stages, "float32", h=0, w=5, padding=((2, 1), (1, 1)), window=(3, 3))
            assert block.expected()[0].size > 0
            compare(library, block, general=general)


@pytest.mark.parametrize(
    "change, options, message",
    [
        ({"expand_filter": (1, 1, 15, 24)}, {}, "expand_filter must be"),
        ({"expand_filter": None}, {}, "expand_bias must not be given without expand_filter"),
        ({"depthwise_filter": (3, 3, 25, 1)}, {}, "depthwise_filter must be"),
        ({"pointwise_filter": (1, 1, 25, 40)}, {}, "pointwise_filter must be"),
        ({"scale": (2, 25)}, {}, "scale must have shape"),
        ({"residual": (2, 9, 7, 41)}, {}, "residual must have the output's shape"),
        ({}, {"words": (("swoosh", 0.2),) * 3}, "activation must be one of"),
        ({}, {"epsilon": float("nan")}, "epsilon must be a finite number"),
        ({}, {"padding": "VALID", "dilations": (9, 9)}, "larger than"),
        ({}, {"math": "tf32"}, "tf32 is for float32 alone"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_an_error(library, change, options, message):
    block = cases.make("ednspr", "float16")
    shapes = {name: array.shape for name, array in block.tensors.items()}
    shapes = {name: shape for name, shape in {**shapes, **change}.items() if shape is not None}
    with pytest.raises(ValueError, match=message):
        BlockCall(library, block.x.shape, shapes, "float16", **{**block.options, **options})


def test_a_small_workspace_is_an_error(library):
    call = call_of(library, cases.make("ednsp", "float16"))
    assert call.plan.workspace_bytes >= 2 * 9 * 7 * 24 * 2 * 2
    call.plan.workspace_bytes -= 1
    with pytest.raises(ValueError, match="workspace_bytes must be at least"):
        call.run(x=None, y=None, workspace=None)


def test_sizes_past_64_bits(library):
    shapes = {"expand_filter": (1, 1, 1 << 20, 8), "depthwise_filter": (3, 3, 8, 1)}
    with pytest.raises(ValueError, match="past 64 bits"):
        BlockCall(library, (1 << 20, 1 << 20, 1 << 4, 1 << 20), shapes, "float16", data_format="NHWC")


@pytest.mark.parametrize(
    "stages, sizes, words",
    [
        ("edp", {"h": 112, "w": 112, "e": 16, "c": 96, "k": 24, "strides": (2, 2)}, "expand product, pair stream"),
        ("edpr", {"h": 56, "w": 56, "e": 24, "c": 144, "k": 24}, "expand product, pair stream"),
        ("edpr", {"h": 7, "w": 7, "e": 160, "c": 960, "k": 160}, "expand product, pair two_step"),
        ("ed", {"h": 56, "w": 56, "e": 24, "c": 144}, "expand product, window"),
        ("ed", {"h": 7, "w": 7, "e": 192, "c": 1152, "window": (5, 5)}, "expand product, window"),
        ("spr", {"h": 14, "w": 14, "c": 480, "k": 112}, "gated"),
        ("dnp", {"h": 14, "w": 14, "c": 384, "k": 1536, "window": (7, 7)}, "window, pointwise"),
        ("dnp", {"h": 7, "w": 7, "c": 768, "k": 3072, "window": (7, 7)}, "window, pointwise"),
        ("pr", {"h": 7, "w": 7, "c": 3072, "k": 768}, "pointwise"),
        ("D", {"h": 32, "w": 32, "c": 3, "k": 32, "strides": (2, 2)}, "dense"),
    ],
)
def test_blocks_of_networks_take_the_fast_kernels(library, stages, sizes, words):
    assert call_of(library, cases.make(stages, "float16", n=1, **sizes)).plan.text.startswith(words)
