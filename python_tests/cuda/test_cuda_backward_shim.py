"""The GPU kernels' gradients on the CPU (cuda/testing/shim.h), against float64, as test_cuda_shim.py does Y."""

from __future__ import annotations

import ctypes

import cuda_backward_cases as cases
import cuda_cases
import numpy as np
import pytest
import reference
from cuda_backward_library import GRADIENTS, BackwardCall, BackwardLibrary, backward_call_of
from cuda_library import Call, tensors_of
from cuda_shim_support import Fenced, build_shim, conflicts, repairs  # noqa: F401
from native_support import guarded


@pytest.fixture(scope="module")
def library():
    return BackwardLibrary(build_shim())


class NoRoomError(Exception):
    """A fused layer, or tile, that does not fit into shared memory."""


def compute(library, case, dtype, *, grad, y, wanted=GRADIENTS, order=0, blocks=0, offset=0, in_place=False,
            aligned=None, **options):  # fmt: skip
    """Gradients of a case of `reference.random_case` by name, and the plan; checks the bytes around them.

    Inputs end where memory ends, outputs and workspace are NaN before. `aligned`: what the planner is told.
    """
    x, layer, residual = case
    aligned = offset % 16 == 0 if aligned is None else aligned
    try:
        call = backward_call_of(library, x, layer, residual, dtype, wanted=wanted, aligned=aligned, **options)
    except ValueError as error:
        if "no tile of it has room" in str(error):
            raise NoRoomError from error
        raise
    numpy_type = cuda_cases.NUMPY[dtype]
    inputs = tensors_of(x, layer, residual)
    wanted = [name for name in wanted if name in inputs]
    gradients = {name: guarded(inputs[name].shape, numpy_type, offset) for name in wanted}
    arrays = {name: array.astype(numpy_type) for name, array in {**inputs, "grad": grad, "y": y}.items()}
    if in_place and "r" in wanted:
        gradients["r"][0][...] = arrays.pop("grad")
    fenced = {name: Fenced(array, offset) for name, array in arrays.items()}
    workspace, check_workspace = guarded((call.plan.workspace_bytes // 4,), np.float32)
    addresses = {name: fence.address for name, fence in fenced.items()}
    addresses.setdefault("grad", gradients["r"][0].ctypes.data if "r" in gradients else None)
    if layer.activation[0] == "none" or cases.from_input(layer.activation):
        addresses["y"] = None
    library.handle.dwsconv_shim_order(order)
    library.handle.dwsconv_shim_most_blocks(ctypes.c_int64(blocks))
    call.run(
        {name: out.ctypes.data for name, (out, _) in gradients.items()}, workspace=workspace.ctypes.data, **addresses
    )
    for fence in fenced.values():
        fence.close()
    for _, check in gradients.values():
        check()
    check_workspace()
    return {name: out for name, (out, _) in gradients.items()}, call.plan


def made(shape, dtype):
    """(case, float64 gradients, Y, dY) of a shape."""
    rng = np.random.default_rng(shape["seed"])
    numpy_type = cuda_cases.NUMPY[dtype]
    case = reference.random_case(rng, numpy_type, shape)
    expected, y, grad = cases.backward(*case, cases.random_gradient(rng, *case, numpy_type), numpy_type)
    return case, expected, y, grad


def compare(library, shape, dtype, math="exact", **options):
    case, expected, y, grad = made(shape, dtype)
    math = math if dtype == "float32" else "exact"
    before = repairs(library)
    actual, plan = compute(library, case, dtype, grad=grad, y=y, math=math, **options)
    assert repairs(library) == before
    for name, gradient in actual.items():
        error = np.abs(gradient.astype(np.float64) - expected.values[name]).max(initial=0.0)
        allowed = cases.tolerance(expected, name, dtype, math)
        assert error <= allowed, f"{name} is off by {error}, allowed are {allowed}: {plan.text} {shape}"
    return plan


def test_the_reference_is_a_gradient():
    """Its sums against differences of the float64 forward pass."""
    rng = np.random.default_rng(0)
    shape = {**LAYER, **dict(zip("NHWCMKRS", (1, 5, 6, 3, 2, 4, 3, 2))), "strides": (2, 1), "residual": True}
    shape.update(depthwise_activation=("gelu", 0.2), activation=("silu", 0.2))
    x, layer, residual = reference.random_case(rng, np.float64, shape)
    grad = cases.random_gradient(rng, x, layer, residual, np.float64)
    gradients, _, _ = cases.backward(x, layer, residual, grad, np.float64)
    tensors = tensors_of(x, layer, residual)
    assert list(gradients.values) == list(GRADIENTS)
    for name, tensor in tensors.items():
        at = tuple(int(rng.integers(size)) for size in tensor.shape)
        kept, losses = tensor[at], []
        for step in (1e-5, -1e-5):
            tensor[at] = kept + step
            losses.append((reference.forward(x, layer, residual) * grad).sum())
        tensor[at] = kept
        assert gradients.values[name][at] == pytest.approx((losses[0] - losses[1]) / 2e-5, rel=1e-5, abs=1e-6), name


LAYER = {**dict(zip("NHWCMKRS", (1, 21, 37, 40, 1, 72, 3, 3))), "bias": True, "depthwise_bias": True, "seed": 3}


def test_random_layers_agree_with_float64(library, conflicts):
    before = library.backward_calls()
    skipped = 0
    for seed in range(160):
        shape, dtype, math, path, wanted, tile = cases.draw_case(seed)
        odd = path != "fused" and seed % 2 == 1
        try:
            compare(
                library,
                shape,
                dtype,
                math,
                path=path,
                wanted=wanted,
                tile=tile,
                order=seed % 3,
                blocks=seed % 4,
                offset=odd * np.dtype(cuda_cases.NUMPY[dtype]).itemsize,
                in_place=seed % 5 == 0,
            )
        except NoRoomError:
            skipped += 1
    assert skipped <= 40
    ran = {path: calls - before[path] for path, calls in library.backward_calls().items()}
    assert min(ran.values()) >= 20, ran
    assert conflicts() == 0


@pytest.mark.parametrize("dtype, math", cuda_cases.KINDS)
@pytest.mark.parametrize("window, stride", cuda_cases.WINDOWS)
def test_every_fast_kernel(library, conflicts, window, stride, dtype, math):
    """One layer that is no multiple of anything, on each kernel that is compiled."""
    shape = {**LAYER, "R": window, "S": window, "strides": (stride, stride), "depthwise_activation": ("relu6", 0.2)}
    plan = compare(library, shape, dtype, math, path="steps", order=7)
    word = "tensor" if dtype != "float32" and (window, stride) in ((3, 1), (5, 1), (5, 2)) else "window"
    assert plan.text.startswith(f"steps tf32 {word}" if math == "tf32" else f"steps {word}")
    assert conflicts() == 0


@pytest.mark.parametrize("dtype, math", cuda_cases.KINDS)
def test_products_of_several_tiles(library, conflicts, dtype, math):
    """More channels and pixels than one tile of each product has, in vectors and not."""
    channels, filters = (144, 136) if dtype == "float16" or math == "tf32" else (130, 139)
    shape = {**LAYER, "H": 15, "W": 19, "C": channels, "K": filters, "activation": ("relu", 0.2)}
    compare(library, shape, dtype, math, path="steps", order=5)
    assert conflicts() == 0


@pytest.mark.parametrize("activation", cuda_cases.WORDS)
@pytest.mark.parametrize("path", ["general", "steps"])
def test_every_activation(library, path, activation):
    for dtype, math in cuda_cases.KINDS:
        for alpha in (0.3, -0.3) if activation == "leaky_relu" else (0.3,):
            both = {"activation": (activation, alpha), "depthwise_activation": (activation, alpha)}
            compare(library, {**LAYER, "H": 9, "W": 9, **both, "residual": True}, dtype, math, path=path)


@pytest.mark.parametrize("wanted", [*GRADIENTS, "none"])
def test_each_gradient_alone(library, wanted):
    """Nothing but what is asked for is written, and nothing that it needs is missing."""
    names = () if wanted == "none" else (wanted,)
    for activation in ("none", "relu", "silu"):
        shape = {**LAYER, "H": 9, "W": 11, "residual": True, "activation": (activation, 0.2)}
        for path in ("general", "steps"):
            compare(library, shape, "float16", path=path, wanted=names)


@pytest.mark.parametrize("path", ["general", "steps"])
@pytest.mark.parametrize("dtype, math", cuda_cases.KINDS)
def test_same_bits_however_it_runs(library, path, dtype, math):
    """The order of threads, the number of blocks and what else is asked for change no bit."""
    shape = {**LAYER, "N": 2, "activation": ("gelu", 0.2), "depthwise_activation": ("silu", 0.2), "residual": True}
    case, _, y, grad = made(shape, dtype)
    first, _ = compute(library, case, dtype, grad=grad, y=y, math=math, path=path)
    for options in ({"order": 1}, {"order": 9, "blocks": 3}, {"wanted": ("x", "p", "r")}, {"wanted": ("d", "db")}):
        again, _ = compute(library, case, dtype, grad=grad, y=y, math=math, path=path, **options)
        for name, gradient in again.items():
            np.testing.assert_array_equal(gradient, first[name])


@pytest.mark.parametrize("path", ["general", "steps"])
@pytest.mark.parametrize("dtype, math", cuda_cases.KINDS)
def test_gradients_that_are_not_finite(library, path, dtype, math):
    """A NaN in dY reaches what it is part of and no other picture; a derivative of 0 stops it."""
    shape = {**LAYER, "N": 2, "H": 9, "W": 10, "activation": ("relu", 0.2)}
    case, _, y, grad = made(shape, dtype)
    closed, open_ = np.argwhere(y == 0)[0], np.argwhere(y[1] > 0)[0]
    grad[tuple(closed)] = np.inf
    gradients, _ = compute(library, case, dtype, grad=grad, y=y, math=math, path=path)
    assert all(np.isfinite(gradient.astype(np.float64)).all() for gradient in gradients.values())
    grad[(1, *open_)] = np.nan
    gradients, _ = compute(library, case, dtype, grad=grad, y=y, math=math, path=path)
    assert np.isfinite(gradients["x"][0].astype(np.float64)).all()
    assert np.isnan(gradients["x"][1].astype(np.float64)).any()
    assert np.isnan(gradients["b"].astype(np.float64)).sum() == 1
    assert np.isnan(gradients["p"].astype(np.float64)).any(axis=(0, 1, 2)).sum() == 1


@pytest.mark.parametrize("size", ["N", "H"])
def test_gradients_of_nothing_are_zeros(library, size):
    case, _, y, grad = made({**LAYER, size: 0, "padding": "SAME"}, "float32")  # no output either
    gradients, _ = compute(library, case, "float32", grad=grad, y=y)
    assert set(gradients) == {"x", "d", "p", "db", "b"}
    assert all(not gradient.any() for gradient in gradients.values())


@pytest.mark.parametrize("data_format", ["NHWC", "NCHW"])
@pytest.mark.parametrize("dtype, math", cuda_cases.KINDS)
@pytest.mark.parametrize("activation", ["none", "silu"])
def test_gradients_of_windows_of_padding_alone(library, dtype, math, activation, data_format):
    """No pixel of X, but outputs: Z is mid(depthwise bias) everywhere, so dP and both biases' gradients are sums."""
    shape = {
        **LAYER,
        "N": 2,
        "H": 0,
        "W": 3,
        "padding": ((2, 3), (1, 1)),
        "residual": True,
        "activation": (activation, 0.2),
    }
    shape.update(depthwise_activation=("sigmoid", 0.2), data_format=data_format)
    plan = compare(library, shape, dtype, math)
    assert plan.text.startswith("general")
    case, _, y, grad = made(shape, dtype)
    gradients, _ = compute(library, case, dtype, grad=grad, y=y, math=math)
    assert all(np.abs(gradients[name].astype(np.float64)).min() > 0 for name in ("b", "db"))
    assert gradients["x"].size == 0 and not gradients["d"].any()
    with pytest.raises(ValueError, match="an input with pixels"):
        compute(library, case, dtype, grad=grad, y=y, math=math, path="steps")


def call(library, dtype="float16", path="auto", **attributes):
    forward = Call(library, (1, 8, 8, 8), (3, 3, 8, 1), (1, 1, 8, 8), dtype, **attributes)
    return BackwardCall(library, forward, path=path)


@pytest.mark.parametrize("activation", [word for word in reference.ACTIVATIONS if word not in cuda_cases.WORDS])
def test_activations_without_kernels_are_refused(library, activation):
    for name in ("activation", "depthwise_activation"):
        with pytest.raises(ValueError, match="have no GPU kernels"):
            call(library, **{name: (activation, 0.2)})


def test_what_does_not_fit_is_an_error(library):
    few = call(library, activation=("relu", 0.2))
    with pytest.raises(ValueError, match="y must be given"):
        few.run({}, x=None, d=None, p=None, grad=None)
    few.plan.workspace_bytes -= 1
    with pytest.raises(ValueError, match="workspace_bytes must be at least"):
        few.run({}, x=None, d=None, p=None, grad=None)


def test_the_fused_path_wants_aligned_tensors(library):
    forward = Call(library, (1, 8, 8, 8), (3, 3, 8, 1), (1, 1, 8, 8), "float16")
    assert BackwardCall(library, forward, aligned=False).plan.text.startswith("steps")
    with pytest.raises(ValueError, match="multiples of 16 bytes"):
        BackwardCall(library, forward, path="fused", aligned=False)
    with pytest.raises(ValueError, match="multiples of 16 bytes"):
        BackwardCall(library, forward, path="fused").run({}, x=2, d=None, p=None, grad=None)


@pytest.mark.parametrize(
    "size, channels, filters, window, stride, path",
    [
        (112, 32, 64, 3, 1, "steps tensor"),
        (56, 128, 128, 3, 1, "steps tensor"),
        (14, 32, 64, 3, 2, "fused"),  # bound by launches
        (7, 64, 32, 3, 1, "fused"),
        (14, 512, 512, 3, 1, "steps tensor"),  # more channels than sums have room in registers
        (28, 192, 768, 7, 1, "steps window"),
        (28, 64, 64, 2, 1, "steps general"),
    ],
)
def test_planner_chooses_the_path(library, size, channels, filters, window, stride, path):
    filter_shapes = (window, window, channels, 1), (1, 1, channels, filters)
    attributes = {"strides": (stride, stride), "activation": ("relu", 0.2)}
    forward = Call(library, (64, size, size, channels), *filter_shapes, "float16", **attributes)
    plan = BackwardCall(library, forward).plan
    assert plan.text.startswith(path)
    tensors = 64 * size * size * 2  # bytes of a channel of X, and of Y
    assert plan.modelled_us >= tensors * (2 * channels + filters) / stride**2 / 4.3e6  # X, dX and dY at the least


@pytest.mark.parametrize("size, channels, filters", [(112, 32, 64), (56, 128, 128)])
def test_the_fused_path_needs_less_memory(library, size, channels, filters):
    """dZ and the sums' parts alone."""
    shapes = (64, size, size, channels), (3, 3, channels, 1), (1, 1, channels, filters)
    forward = Call(library, *shapes, "float16", activation=("relu", 0.2))
    fused, steps = (BackwardCall(library, forward, path=path).plan.workspace_bytes for path in ("fused", "steps"))
    assert fused < 2 * 64 * size * size * channels * 2
    assert fused < steps


def test_nothing_wanted_needs_no_workspace(library):
    forward = Call(library, (4, 8, 8, 8), (3, 3, 8, 1), (1, 1, 8, 8), "float16", activation=("silu", 0.2))
    assert BackwardCall(library, forward, wanted=()).plan.workspace_bytes == 0
