"""tf_dwsconv.native: the kernels on NumPy arrays, without TensorFlow. What they compute."""

from __future__ import annotations

import numpy as np
import pytest
import reference
from conftest import check_python
from hypothesis import given, settings
from native_support import DTYPES, ISAS, SHAPE, arrays, guarded, tolerance
from strategies import shapes

from tf_dwsconv import native


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
