"""tf_dwsconv.native: the kernels on NumPy arrays, without TensorFlow."""

from __future__ import annotations

import threading
import time

import ml_dtypes
import numpy as np
import pytest
import reference
from conftest import check_python
from hypothesis import given, settings
from strategies import shapes

from tf_dwsconv import native

ISAS = tuple(native.cpu_info()["isas"])
DTYPES = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16}
GUARD = 64  # bytes on either side of an output


def arrays(shape, dtype="float32", seed=0):
    """(x, reference.Layer, residual) in float64, and the keywords of native's functions in `dtype`."""
    x, layer, residual = reference.random_case(np.random.default_rng(seed), DTYPES[dtype], shape)

    def cast(array):
        return None if array is None else array.astype(DTYPES[dtype])

    tensors = {
        "depthwise_filter": cast(layer.depthwise_filter),
        "pointwise_filter": cast(layer.pointwise_filter),
        "bias": cast(layer.bias),
        "depthwise_bias": cast(layer.depthwise_bias),
        **layer.keywords(),
    }
    return (x, layer, residual), cast(x), tensors, cast(residual)


def tolerance(case, expected, dtype):
    """What rounding may do to the largest output.

    float32: 2e-5 of it, and a few roundings of the largest sum of absolute values. 16 bits: one rounding more, at the
    end. bfloat16: where the CPU multiplies it, what lies between the convolutions is rounded too.
    """
    x, layer, _ = case
    largest = np.abs(expected).max(initial=0.0)
    allowed = 2e-5 * largest + 4 * np.finfo(np.float32).eps * reference.magnitude(*case)
    if dtype == "float32":
        return allowed
    eps = float(ml_dtypes.finfo(DTYPES[dtype]).eps)
    if dtype == "bfloat16":
        z = reference.depthwise(x if layer.data_format == "NHWC" else x.transpose(0, 2, 3, 1), layer)
        z = z if layer.depthwise_bias is None else z + layer.depthwise_bias
        z = reference.ACTIVATIONS[layer.depthwise_activation[0]](z, layer.depthwise_activation[1])
        # Half a unit in the last place, eps/2, of each term; the steepest activation has a slope of 1.5.
        allowed += 0.75 * eps * np.matmul(np.abs(z), np.abs(layer.pointwise_filter[0, 0])).max(initial=0.0)
    return allowed + eps * largest


def guarded(shape, dtype, offset=0):
    """An output full of NaN between guard bytes, `offset` bytes off alignment: (the array, a check of the guards)."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = np.full(size + 2 * GUARD + 64 + offset, 0xA5, np.uint8)
    start = -memory.ctypes.data % 64 + GUARD + offset
    out = np.ndarray(shape, dtype, memory.data, start)
    out[...] = np.nan

    def check():
        assert np.all(memory[:start] == 0xA5), "bytes before the output were written"
        assert np.all(memory[start + size :] == 0xA5), "bytes after the output were written"

    return out, check


def check(shape, dtype, isa, variant="auto"):
    case, x, tensors, residual = arrays(shape, dtype, shape["seed"])
    expected = reference.forward(*case)
    out, check_guards = guarded(expected.shape, DTYPES[dtype])
    before = native.calls()[isa]
    keywords = {"isa": isa, "variant": variant}
    result = native.depthwise_sep_conv2d(x, **tensors, residual=residual, out=out, num_threads=2, **keywords)
    assert result is out
    check_guards()
    assert native.calls()[isa] == before + (variant != "reference" and expected.size > 0)
    error = np.abs(out.astype(np.float64) - expected).max(initial=0.0)
    assert error <= tolerance(case, expected, dtype)
    if residual is not None:
        # The residual's own memory may take the output.
        for aliased in (residual.copy(), guarded(expected.shape, DTYPES[dtype], offset=1)[0]):
            aliased[...] = residual
            native.depthwise_sep_conv2d(x, **tensors, residual=aliased, out=aliased, num_threads=2, **keywords)
            np.testing.assert_array_equal(aliased.astype(np.float64), out.astype(np.float64))
    layer = native.Layer(**tensors, **keywords)
    again = layer(x, residual=residual, num_threads=1)
    assert again.dtype == DTYPES[dtype]
    np.testing.assert_array_equal(again.astype(np.float64), out.astype(np.float64))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", ISAS)
def test_agrees_with_float64(isa, dtype):
    @settings(max_examples=150)
    @given(shapes())
    def agrees(shape):
        check(shape, dtype, isa)

    agrees()


@pytest.mark.parametrize("dtype", DTYPES)
def test_plain_loops_agree_with_float64(dtype):
    @settings(max_examples=100)
    @given(shapes())
    def agrees(shape):
        check(shape, dtype, ISAS[-1], variant="reference")

    agrees()


SHAPE = dict(zip("NHWCMKRS", (2, 23, 19, 37, 2, 45, 3, 3)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("attributes", [{}, {"data_format": "NCHW", "strides": (2, 2), "residual": True}])
def test_the_same_bits_for_any_number_of_threads(isa, dtype, attributes):
    _, x, tensors, residual = arrays({**SHAPE, **attributes, "bias": True}, dtype)
    layer = native.Layer(**tensors, isa=isa)
    one = layer(x, residual=residual, num_threads=1)
    for threads in (2, 3, 7):
        assert layer(x, residual=residual, num_threads=threads).tobytes() == one.tobytes()


def test_workers_round_and_flush_as_their_caller_does():
    """TensorFlow flushes subnormals in its threads and Python does not; a worker serves either in turn."""
    check_python(
        """
import os
import numpy as np
import tensorflow as tf
import tf_dwsconv
from tf_dwsconv import native
x, d = np.full((1, 96, 96, 8), 1e-20, "f"), np.full((3, 3, 8, 1), 1e-20, "f")
p = np.ones((1, 1, 8, 64), "f")
tensors = [tf.constant(a) for a in (x, d, p)]
assert tf_dwsconv.build_info()["op_library"]
graph = tf.function(lambda: tf_dwsconv.depthwise_sep_conv2d(*tensors))
calls = {
    "native": lambda: native.depthwise_sep_conv2d(x, d, p),
    "eager": lambda: tf_dwsconv.depthwise_sep_conv2d(*tensors).numpy(),
    "function": lambda: graph().numpy(),
}
for _ in range(10):
    for name, call in calls.items():
        values = []
        for threads in ("1", "2", "2"):
            os.environ["DWSCONV_NUM_THREADS"] = threads
            values.append(call())
        assert values[0].tobytes() == values[1].tobytes() == values[2].tobytes(), name
        assert (values[0].min() > 0) == (name == "native"), name
"""
    )


@pytest.mark.parametrize("offset", [1, 2, 3, 5])
@pytest.mark.parametrize("dtype", DTYPES)
def test_any_alignment(dtype, offset):
    _, x, tensors, residual = arrays({**SHAPE, "residual": True, "bias": True, "depthwise_bias": True}, dtype)
    expected = native.depthwise_sep_conv2d(x, **tensors, residual=residual)

    def moved(array):
        if not isinstance(array, np.ndarray):
            return array
        copy = guarded(array.shape, array.dtype, offset)[0]
        copy[...] = array
        return copy

    out, check_guards = guarded(expected.shape, expected.dtype, offset)
    tensors = {name: moved(value) for name, value in tensors.items()}
    native.depthwise_sep_conv2d(moved(x), **tensors, residual=moved(residual), out=out)
    check_guards()
    assert out.tobytes() == expected.tobytes()


def test_arrays_of_any_strides():
    _, x, tensors, _ = arrays(SHAPE)
    expected = native.depthwise_sep_conv2d(x, **tensors)
    strided = {name: np.asfortranarray(v) if isinstance(v, np.ndarray) else v for name, v in tensors.items()}
    mirrored = x[:, ::-1].copy()[:, ::-1]
    assert not mirrored.flags.c_contiguous
    np.testing.assert_array_equal(native.depthwise_sep_conv2d(mirrored, **strided), expected)
    read_only = x.copy()
    read_only.flags.writeable = False
    np.testing.assert_array_equal(native.depthwise_sep_conv2d(read_only, **tensors), expected)


def test_a_layer_does_not_see_later_changes_of_its_filters():
    for variant in ("auto", "reference"):
        _, x, tensors, _ = arrays({**SHAPE, "bias": True, "depthwise_bias": True})
        layer = native.Layer(**tensors, variant=variant)
        expected = layer(x)
        for value in tensors.values():
            if isinstance(value, np.ndarray):
                value[...] = np.nan
        np.testing.assert_array_equal(layer(x), expected)


def test_a_layer_packs_once_and_takes_images_of_any_size():
    case, _, tensors, _ = arrays(SHAPE)
    layer = native.Layer(**tensors)
    packs = native.calls()["pack"]
    for size in ((1, 5, 7), (3, 40, 1), (2, 1, 1), (0, 9, 9)):
        x = np.random.default_rng(1).standard_normal((*size, SHAPE["C"])).astype(np.float32)
        expected = reference.forward(x, case[1])
        assert layer(x).shape == expected.shape
        np.testing.assert_allclose(layer(x), expected, rtol=0, atol=1e-4 * np.abs(expected).max(initial=1))
    assert native.calls()["pack"] == packs


@pytest.mark.parametrize("data_format", ["NHWC", "NCHW"])
def test_spellings_of_padding(data_format):
    _, x, tensors, _ = arrays({**SHAPE, "data_format": data_format})
    pads = [(2, 1), (0, 3)]
    four = [(0, 0), *pads, (0, 0)] if data_format == "NHWC" else [(0, 0), (0, 0), *pads]
    results = [
        native.depthwise_sep_conv2d(x, **{**tensors, "padding": padding}) for padding in (pads, four, np.array(four))
    ]
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])
    for word in ("SAME", "VALID"):
        a, b = (native.depthwise_sep_conv2d(x, **{**tensors, "padding": p}) for p in (word, word.lower()))
        np.testing.assert_array_equal(a, b)


def test_empty_results():
    d, p = np.ones((3, 3, 2, 1), np.float32), np.ones((1, 1, 2, 5), np.float32)
    for shape, expected in (((0, 8, 8, 2), (0, 8, 8, 5)), ((2, 0, 8, 2), (2, 0, 8, 5)), ((2, 8, 0, 2), (2, 8, 0, 5))):
        x = np.ones(shape, np.float32)
        assert native.depthwise_sep_conv2d(x, d, p).shape == expected
        assert native.plan(shape, d.shape, p.shape)["tasks"] == 0


X, D, P = np.ones((1, 5, 6, 4), np.float32), np.ones((3, 3, 4, 2), np.float32), np.ones((1, 1, 8, 3), np.float32)
OUT = np.zeros((1, 5, 6, 3), np.float32)
SHARED = np.empty(1000, np.float32)


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    "error, words, arguments",
    [
        (TypeError, "x must have dtype.*float64", {"x": X.astype(np.float64)}),
        (TypeError, "x must have dtype.*int32", {"x": X.astype(np.int32)}),
        (TypeError, "x must have dtype.*bool", {"x": X.astype(bool)}),
        (TypeError, "x must have dtype.*complex64", {"x": X.astype(np.complex64)}),
        (TypeError, "x must have dtype.*native byte order", {"x": X.astype(">f4")}),
        (TypeError, "x must have dtype", {"x": X.astype(object)}),
        (TypeError, "x must have dtype", {"x": "picture"}),
        (TypeError, "x must have dtype", {"x": None}),
        (TypeError, "x must have the dtype of depthwise_filter", {"x": X.astype(np.float16)}),
        (TypeError, "pointwise_filter must have the dtype", {"pointwise_filter": P.astype(ml_dtypes.bfloat16)}),
        (TypeError, "bias must have the dtype", {"bias": np.ones(3, np.float16)}),
        (TypeError, "residual must have the dtype", {"residual": OUT.astype(np.float16)}),
        (ValueError, r"x must have rank 4.*\[5,6,4\]", {"x": X[0]}),
        (ValueError, r"x must have rank 4.*\[\]", {"x": np.float32(1)}),
        (ValueError, r"depthwise_filter must have rank 4.*\[3,3,4\]", {"depthwise_filter": D[..., 0]}),
        (ValueError, "depthwise_filter must be.*C = 3", {"x": X[..., :3]}),
        (ValueError, "depthwise_filter must have no axis of size 0", {"depthwise_filter": D[:0]}),
        (ValueError, "depthwise_filter must have no axis of size 0", {"depthwise_filter": D[..., :0]}),
        (ValueError, r"pointwise_filter must have rank 4.*\[8,3\]", {"pointwise_filter": P[0, 0]}),
        (ValueError, "pointwise_filter must be.*C\\*M = 8", {"pointwise_filter": P[:, :, :7]}),
        (ValueError, "pointwise_filter must be.*K at least 1", {"pointwise_filter": P[..., :0]}),
        (ValueError, "pointwise_filter must be", {"pointwise_filter": np.ones((1, 2, 8, 3), np.float32)}),
        (ValueError, r"depthwise_bias must have shape \[C\*M\] = \[8\]", {"depthwise_bias": np.ones(4, np.float32)}),
        (ValueError, r"bias must have shape \[K\] = \[3\]", {"bias": np.ones((1, 3), np.float32)}),
        (ValueError, r"residual must have the output's shape \[1,5,6,3\]", {"residual": X}),
        (ValueError, "strides", {"strides": 0}),
        (ValueError, "strides", {"strides": (1, 1, 1)}),
        (TypeError, "strides", {"strides": 1.0}),
        (TypeError, "strides", {"strides": (1, True)}),
        (ValueError, "dilations", {"dilations": (1, -1)}),
        (ValueError, "padding", {"padding": "FULL"}),
        (TypeError, "padding", {"padding": 3}),
        (ValueError, "padding", {"padding": [(1, 1)]}),
        (ValueError, "padding", {"padding": [(0, 0), (1, 1), (1, 1), (0, 2)]}),
        (ValueError, "padding", {"padding": [(1, -1), (0, 0)]}),
        (
            ValueError,
            "depthwise_filter is larger than the input along the height",
            {"padding": "VALID", "dilations": 3},
        ),
        (ValueError, "data_format", {"data_format": "NWHC"}),
        (ValueError, "activation", {"activation": "relu7"}),
        (TypeError, "depthwise_activation", {"depthwise_activation": 3}),
        (ValueError, "activation", {"activation": ("leaky_relu", float("nan"))}),
        (ValueError, "isa must be None or one that this CPU has", {"isa": "sse9"}),
        (TypeError, "isa", {"isa": 2}),
        (ValueError, "variant", {"variant": "naive?"}),
        (ValueError, "num_threads must be 0.*-1", {"num_threads": -1}),
        (ValueError, "num_threads must be 0", {"num_threads": 2**80}),
        (TypeError, "num_threads must be an integer", {"num_threads": 1.5}),
        (TypeError, "out must be None or a NumPy array", {"out": [0.0]}),
        (TypeError, "out must have the dtype of x", {"out": OUT.astype(np.float16)}),
        (ValueError, r"out must have shape \[1,5,6,3\]", {"out": OUT[0]}),
        (ValueError, "out must be C-contiguous", {"out": np.asfortranarray(OUT)}),
        (ValueError, "out must be writeable", {"out": read_only(OUT)}),
        (
            ValueError,
            "out must not share memory with x",
            {"x": SHARED[:120].reshape(X.shape), "out": SHARED[119:209].reshape(OUT.shape)},
        ),
        (
            ValueError,
            "out must not share memory with pointwise_filter",
            {"pointwise_filter": SHARED[80:104].reshape(P.shape), "out": SHARED[:90].reshape(OUT.shape)},
        ),
        (
            ValueError,
            "out must be residual itself",
            {"residual": SHARED[1:91].reshape(OUT.shape), "out": SHARED[:90].reshape(OUT.shape)},
        ),
    ],
)
def test_bad_arguments(error, words, arguments):
    good = {"x": X, "depthwise_filter": D, "pointwise_filter": P}
    with pytest.raises(error, match=words):
        native.depthwise_sep_conv2d(**{**good, **arguments})
    call = {name: arguments.pop(name) for name in ("residual", "out", "num_threads") if name in arguments}
    arguments = {**good, **arguments}
    x = arguments.pop("x")
    if "pointwise_filter" in words and "out" in call:
        native.Layer(**arguments)(x, **call)  # packed: may be overwritten
        return
    with pytest.raises(error, match=words):
        native.Layer(**arguments)(x, **call)


def test_a_layer_judges_its_filters_at_construction():
    with pytest.raises(ValueError, match="pointwise_filter must be"):
        native.Layer(D, P[:, :, :7])
    with pytest.raises(TypeError, match="pointwise_filter must have the dtype"):
        native.Layer(D, P.astype(np.float16))
    with pytest.raises(ValueError, match="bias must have shape"):
        native.Layer(D, P, bias=np.ones(4, np.float32))
    native.Layer(D, P, padding="VALID", dilations=100)  # fits some x


@pytest.mark.parametrize("pads", [2**31 - 1, 2**27])
def test_a_result_that_fits_no_memory(pads):
    with pytest.raises((MemoryError, ValueError)):
        native.depthwise_sep_conv2d(X, D, P, padding=[(pads, pads), (pads, pads)])


@pytest.mark.parametrize("isa", ISAS)
def test_nan_and_infinity_reach_the_outputs_that_read_them(isa):
    x = np.zeros((1, 12, 12, 20), np.float32)
    x[0, 5, 6, 3], x[0, 11, 0, 19] = np.nan, np.inf
    d, p = np.ones((3, 3, 20, 1), np.float32), np.ones((1, 1, 20, 40), np.float32)
    for word in ("none", "relu", "relu6"):
        y = native.depthwise_sep_conv2d(x, d, p, isa=isa, activation=word)
        touched = np.zeros((12, 12), bool)
        touched[4:7, 5:8] = True
        assert np.all(np.isnan(y[0, touched]))
        assert np.all(np.isfinite(y[0, ~touched]) | (y[0, ~touched] == np.inf))
        assert np.all(y[0, 10:, :2] == (6 if word == "relu6" else np.inf))


def test_calls_from_many_threads():
    """One layer and many functions at once, with images of their own."""
    case, _, tensors, _ = arrays({**SHAPE, "bias": True})
    layer = native.Layer(**tensors)
    errors = []

    def work(seed):
        try:
            for step in range(40):
                height = 3 + (seed * 7 + step) % 20
                x = np.random.default_rng(seed).standard_normal((1, height, 9, SHAPE["C"])).astype(np.float32)
                expected = reference.forward(x, case[1]) if step % 10 == 0 else layer(x, num_threads=1)
                scale = np.abs(expected).max()
                np.testing.assert_allclose(layer(x, num_threads=step % 3), expected, rtol=0, atol=1e-4 * scale)
                y = native.depthwise_sep_conv2d(x, **tensors, num_threads=step % 3)
                np.testing.assert_allclose(y, expected, rtol=0, atol=1e-4 * scale)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_other_python_threads_run_while_a_kernel_does():
    layer = native.Layer(np.ones((3, 3, 64, 1), np.float32), np.ones((1, 1, 64, 64), np.float32), variant="reference")
    x = np.ones((1, 160, 160, 64), np.float32)
    ticks, done = [], threading.Event()

    def tick():
        while not done.is_set():
            ticks.append(time.perf_counter())
            time.sleep(0.001)

    ticker = threading.Thread(target=tick)
    ticker.start()
    begin = time.perf_counter()
    layer(x, num_threads=1)
    end = time.perf_counter()
    done.set()
    ticker.join()
    inside = [t for t in ticks if begin + 0.1 * (end - begin) < t < end - 0.1 * (end - begin)]
    assert end - begin > 0.05, "too short to tell"
    assert len(inside) >= 5


def test_many_calls_do_not_grow_memory():
    check_python(
        """
import resource
import numpy as np
from tf_dwsconv import native
d, p, b = np.ones((3, 3, 32, 1), "f"), np.ones((1, 1, 32, 48), "f"), np.ones(48, "f")
x, out = np.ones((1, 20, 20, 32), "f"), np.empty((1, 20, 20, 48), "f")
layer = native.Layer(d, p, bias=b)
def calls(n):
    for i in range(n):
        layer(x[:, : 5 + i % 16])
        layer(x, out=out, residual=out)
        native.depthwise_sep_conv2d(x[..., ::1], d, p, bias=b)
        try:
            layer(x[0])
        except ValueError:
            pass
        native.Layer(d, p)
calls(300)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
calls(2000)
assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2 << 10
"""
    )


def test_needs_no_tensorflow_and_is_quick_to_import():
    check_python(
        """
import sys, time
import numpy
begin = time.perf_counter()
from tf_dwsconv import native
seconds = time.perf_counter() - begin
loaded = {"tensorflow", "keras", "ml_dtypes", "scipy"} & set(sys.modules)
assert not loaded, loaded
assert seconds < 2, seconds
d, p = numpy.ones((3, 3, 2, 1), "f"), numpy.ones((1, 1, 2, 5), "f")
assert native.depthwise_sep_conv2d(numpy.ones((1, 4, 4, 2), "f"), d, p)[0, 1, 1, 0] == 18
assert "tensorflow" not in sys.modules
"""
    )


def test_without_the_compiled_module_the_error_says_what_to_do():
    check_python(
        """
import sys
sys.modules["tf_dwsconv._native"] = None
try:
    import tf_dwsconv.native
except ImportError as error:
    assert "make build" in str(error) and "reinstall" in str(error), error
else:
    raise AssertionError("imported")
"""
    )


def test_cpu_info(monkeypatch):
    info = native.cpu_info()
    assert info["isas"][0] == "generic"
    assert info["isa"] == info["isas"][-1]
    assert info["cores"] >= 1
    assert min(info[key] for key in ("l1d_bytes", "l2_bytes", "l3_bytes")) >= 0
    for isa in ISAS:
        monkeypatch.setenv("DWSCONV_ISA", isa)
        assert native.cpu_info()["isa"] == isa
    monkeypatch.setenv("DWSCONV_ISA", "sse9")
    for call in (native.cpu_info, lambda: native.depthwise_sep_conv2d(X, D, P), lambda: native.Layer(D, P)):
        with pytest.raises(ValueError, match="DWSCONV_ISA"):
            call()


def test_plan():
    plan = native.plan((2, 56, 56, 64), (3, 3, 64, 1), (1, 1, 64, 128), strides=2, num_threads=2)
    assert plan["output_shape"] == (2, 28, 28, 128)
    assert plan["flops"] == 2 * 2 * 28 * 28 * 64 * (9 + 128)
    assert plan["isa"] == ISAS[-1]
    assert 1 <= plan["threads"] <= 2
    assert 1 <= plan["block_pixels"] <= 28 * 28
    assert 1 <= plan["block_channels"] <= 128
    assert plan["tasks"] == 2 * -(-28 * 28 // plan["block_pixels"]) * -(-128 // plan["block_channels"])
    assert plan["scratch_bytes_per_thread"] < 2 << 20
    assert (
        native.plan([1, 4, 4, 2], [3, 3, 2, 1], [1, 1, 2, 5], dtype=ml_dtypes.bfloat16, isa="generic")["isa"]
        == "generic"
    )
    # Shapes that fit 64 bits and no memory are planned all the same.
    assert native.plan((2**20, 2**10, 2**10, 4), (3, 3, 4, 1), (1, 1, 4, 4))["flops"] == 2 * 2**40 * 4 * 13


@pytest.mark.parametrize(
    "error, words, arguments",
    [
        (ValueError, "x must have rank 4", {"x_shape": (4, 4, 2)}),
        (TypeError, "x_shape", {"x_shape": 3}),
        (TypeError, "x_shape", {"x_shape": (1, 4.0, 4, 2)}),
        (ValueError, "x_shape", {"x_shape": (1, -4, 4, 2)}),
        (ValueError, "x_shape", {"x_shape": (1, 2**63, 4, 2)}),
        (ValueError, "x is too large", {"x_shape": (2**40, 2**40, 4, 2)}),
        (ValueError, "x is too large", {"x_shape": (0, 2**40, 2**40, 2)}),
        (ValueError, "depthwise_filter is too large", {"depthwise_filter_shape": (2**40, 2**30, 2, 1)}),
        (ValueError, "depthwise_filter has too many output", {"depthwise_filter_shape": (3, 3, 2, 2**62)}),
        (ValueError, "pointwise_filter is too large", {"pointwise_filter_shape": (1, 1, 2, 2**61)}),
        (ValueError, "the output is too large", {"pointwise_filter_shape": (1, 1, 2, 2**59)}),
        (
            ValueError,
            "dilations.*too large along the height",
            {"depthwise_filter_shape": (2**35, 3, 2, 1), "dilations": 2**30},
        ),
        (TypeError, "dtype", {"dtype": "float64"}),
        (TypeError, "dtype", {"dtype": np.int32}),
    ],
)
def test_plans_of_bad_shapes(error, words, arguments):
    good = {"x_shape": (1, 4, 4, 2), "depthwise_filter_shape": (3, 3, 2, 1), "pointwise_filter_shape": (1, 1, 2, 5)}
    with pytest.raises(error, match=words):
        native.plan(**{**good, **arguments})
