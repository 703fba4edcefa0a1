"""tf_dwsconv.native refuses what cannot be, by name."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from native_support import D, P, X

from tf_dwsconv import native

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
