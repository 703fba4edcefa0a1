"""The fused kernel with the depthwise half on tensor cores (cuda/fused/tensor_stream_kernel.cuh), on the CPU."""

from __future__ import annotations

import cuda_cases
import numpy as np
import pytest
import reference
import test_cuda_cards as cards
import test_cuda_shim as layer_shim
from cuda_library import Call, Library
from cuda_shim_support import (
    POISONS,
    build_shim,
    check_path_refused,
    compare_poisoned,
    conflicts,  # noqa: F401
    poisoned_case,
)
from test_cuda_shim import LAYER

SIXTEEN = ("float16", "bfloat16")
WINDOWS = ((3, 1), (3, 2), (5, 1), (5, 2))


@pytest.fixture(scope="module")
def library():
    return Library(build_shim())


def compare(library, shape, dtype, **options):
    plan = layer_shim.compare(library, shape, dtype, path="tensor_stream", **options)
    assert plan.text.startswith("tensor_stream tile")
    return plan


@pytest.mark.parametrize("dtype", SIXTEEN)
@pytest.mark.parametrize("window, stride", WINDOWS)
@pytest.mark.parametrize("channels", [40, 72])
def test_every_kernel(library, conflicts, window, stride, dtype, channels):
    """One layer that is no multiple of anything, for up to 64 output channels and for more."""
    shape = {**LAYER, "K": channels, "R": window, "S": window, "strides": (stride, stride), "residual": True,
             "depthwise_activation": ("relu6", 0.2), "activation": ("gelu", 0.2)}  # fmt: skip
    compare(library, shape, dtype, order=7)
    assert conflicts() == 0


def test_random_layers(library, conflicts):
    """Sizes, paddings, layouts, alignments, activations and cuts as of the other kernel's test."""
    ran = 0
    for seed in range(300):
        shape, dtype, _, path, cut = cuda_cases.draw_case(seed)
        if path != "stream" or shape["R"] == 7:
            continue
        dtype = dtype if dtype in SIXTEEN else SIXTEEN[seed % 2]
        shape = {**shape, "K": min(shape["K"], 128)}
        tile = (None, (4, 16), (8, 16))[seed % 3]
        try:
            compare(library, shape, dtype, **{**cut, "tile": tile}, order=seed % 8, blocks=seed % 4,
                    offset=seed % 2 * 2, in_place=seed % 5 == 0)  # fmt: skip
        except layer_shim.NoRoomError:
            continue
        ran += 1
    assert ran >= 60
    assert conflicts() == 0


@pytest.mark.parametrize("activation", cuda_cases.WORDS)
def test_every_activation(library, activation):
    for dtype in SIXTEEN:
        shape = {**LAYER, "H": 9, "W": 9, "activation": (activation, 0.3), "depthwise_activation": (activation, 0.3)}
        compare(library, shape, dtype)


@pytest.mark.parametrize("dtype", SIXTEEN)
def test_same_bits_however_it_is_cut(library, dtype):
    shape = {**LAYER, "N": 2, "activation": ("gelu", 0.2), "residual": True}
    case = reference.random_case(np.random.default_rng(0), cuda_cases.NUMPY[dtype], shape)
    cuts = (
        {},
        {"tile": (8, 16), "segments": 3, "groups": 1},
        {"tile": (4, 16), "groups": 4, "order": 5},
        {"tile": (4, 16), "blocks": 2, "order": 1},
    )
    outputs = [layer_shim.compute(library, case, dtype, path="tensor_stream", **cut)[0] for cut in cuts]
    for output in outputs[1:]:
        np.testing.assert_array_equal(output, outputs[0])


@pytest.mark.parametrize("dtype", SIXTEEN)
@pytest.mark.parametrize("window, stride", WINDOWS)
@pytest.mark.parametrize("poison", POISONS)
def test_infinities_stay_where_they_belong(library, dtype, window, stride, poison):
    """An infinite input is multiplied by the zeros beside a diagonal, an infinite tap by zeros around the image."""
    shape = {**LAYER, "H": 19, "W": 21, "K": 24, "R": window, "S": window, "strides": (stride, stride),
             "depthwise_activation": ("gelu", 0.2)}  # fmt: skip
    case = poisoned_case(shape, dtype, poison)
    compare_poisoned(layer_shim.compute(library, case, dtype, path="tensor_stream")[0], case, dtype)


@pytest.mark.parametrize(
    "change, dtype, options",
    [
        ({}, "float32", {}),
        ({"R": 7, "S": 7}, "float16", {}),
        ({"K": 129}, "float16", {}),
        ({"M": 2}, "float16", {}),
        ({"dilations": (2, 2)}, "float16", {}),
        ({}, "float16", {"tile": (4, 8)}),
        ({}, "float16", {"groups": 5}),
        ({"C": 600}, "float16", {}),
    ],
)
def test_what_does_not_fit_is_an_error(library, change, dtype, options):
    check_path_refused(library, "tensor_stream", {**LAYER, **change}, dtype, options)


def test_the_planner_chooses_it_by_its_model(library):
    """The path with the least modelled time, of those that there are, is the plan."""
    chosen = set()
    layers = ((56, 128, 128, 128), (112, 32, 64, 16), (7, 1024, 1024, 128), (224, 3, 64, 8))
    for size, channels, filters, batch in layers:
        shapes = (batch, size, size, channels), (3, 3, channels, 1), (1, 1, channels, filters)
        times = {}
        for path in ("stream", "tensor_stream", "two_step"):
            try:
                times[path] = Call(library, *shapes, "float16", path=path).plan.modelled_us
            except ValueError:
                assert path != "two_step" and filters > 128
        plan = Call(library, *shapes, "float16").plan
        assert plan.modelled_us == min(times.values())
        assert times[plan.text.split()[0].rstrip(",")] == plan.modelled_us
        chosen.add(plan.text.split()[0])
    assert chosen == {"stream", "tensor_stream", "two_step"}


def test_other_cards(library):
    """One with less shared memory runs it; one before 8.0, whose registers would not do, has the other kernel."""
    shape = {**LAYER, "depthwise_activation": ("relu", 0.2)}
    try:
        cards.card(library, *cards.CARDS["RTX 3060"])
        compare(library, shape, "float16", order=3)
        cards.card(library, *cards.CARDS["T4"])
        with pytest.raises(ValueError, match=r"path tensor_stream needs a card of compute capability 8\.0"):
            compare(library, shape, "float16")
        assert not layer_shim.compare(library, shape, "float16").text.startswith("tensor_stream")
    finally:
        cards.card(library)
