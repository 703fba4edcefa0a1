"""The block's CPU kernel on every instruction set: the ways it cuts a block into tasks, against NumPy in float64."""

from __future__ import annotations

import numpy as np
import pytest
import reference
import tensorflow as tf
from conftest import op_calls
from native_support import ISAS

from tf_dwsconv._arguments import Attributes, Tensors
from tf_dwsconv._tf import dispatch
from tf_dwsconv.activations import NONE, Fused

pytestmark = pytest.mark.usefixtures("op_library")


@pytest.fixture(params=ISAS, autouse=True)
def isa(request, monkeypatch):
    monkeypatch.setenv("DWSCONV_ISA", request.param)
    before = op_calls()
    yield request.param
    ran = {name for name, calls in op_calls().items() if calls > before[name]}
    assert ran == {request.param}


def gate(z, word):
    return reference.ACTIVATIONS[word](z, 0.2)


def check(dtype, x, arrays, *, words=("relu6", "relu6", "none"), strides=(1, 1), dilations=(1, 1), padding="SAME",
          epsilon=None):  # fmt: skip
    """Runs a block and its reference on numbers that `dtype` holds exactly."""
    given = {name: tf.cast(tf.constant(array), dtype) for name, array in arrays.items()}
    x = tf.cast(tf.constant(x), dtype)
    explicit = () if isinstance(padding, str) else (0, 0, *padding[0], *padding[1], 0, 0)
    attributes = Attributes(
        strides,
        dilations,
        "EXPLICIT" if explicit else padding,
        explicit,
        "NHWC",
        Fused(words[1]) if "depthwise_filter" in given else NONE,
        Fused(words[2]) if "pointwise_filter" in given else NONE,
        expand_activation=Fused(words[0]) if "expand_filter" in given else NONE,
        epsilon=epsilon,
    )
    y = tf.cast(dispatch.run(x, Tensors(**given), attributes), tf.float64).numpy()

    exact = {name: tf.cast(tensor, tf.float64).numpy() for name, tensor in given.items()}
    z = tf.cast(x, tf.float64).numpy()
    # Beside the values, what the sums of absolute values bound: errors of 16-bit roundings in between grow with them.
    if "expand_filter" in exact:
        z = gate(z @ exact["expand_filter"][0, 0] + exact.get("expand_bias", 0.0), words[0])
    if "depthwise_filter" in exact:
        layer = reference.Layer(exact["depthwise_filter"], None, strides=strides, dilations=dilations, padding=padding)
        z = gate(reference.depthwise(z, layer) + exact.get("depthwise_bias", 0.0), words[1])
    if epsilon is not None:
        z = (z - z.mean(-1, keepdims=True)) / np.sqrt(z.var(-1, keepdims=True) + epsilon)
    if "gate" in exact:
        z = z * exact["gate"][:, None, None, :]
    if "pointwise_filter" in exact:
        z = z @ exact["pointwise_filter"][0, 0] + exact.get("bias", 0.0)
    z = z + exact.get("residual", 0.0)
    z = gate(z, words[2]) if "pointwise_filter" in exact else z
    assert y.shape == z.shape
    # float32: rounding of the sums; 16 bits: of each stage's result, which is of the size of the largest.
    eps = {tf.float32: 2e-5, tf.bfloat16: 3 * 2**-8, tf.float16: 3 * 2**-11}[dtype]
    assert np.abs(y - z).max() <= eps * max(1.0, np.abs(z).max())
    return y


def numbers(shape, seed, size=1.0):
    return (np.random.default_rng([seed, *shape]).standard_normal(shape) * size).astype(np.float32)


def inverted(n, h, w, e, c, k, *, r=3, m=1, seed=0, stages="edp", residual=None, biased=True):
    """Arrays of a block with an expansion; each stage keeps the size of numbers near one."""
    arrays = {
        "expand_filter": numbers((1, 1, e, c), seed, e**-0.5),
        "depthwise_filter": numbers((r, r, c, m), seed, 1 / r),
    }
    if biased:
        arrays.update(expand_bias=numbers((c,), seed), depthwise_bias=numbers((c * m,), seed + 1))
    if "p" in stages:
        arrays["pointwise_filter"] = numbers((1, 1, c * m, k), seed, (c * m) ** -0.5)
        if biased:
            arrays["bias"] = numbers((k,), seed)
    if "s" in stages:
        arrays["gate"] = np.abs(numbers((n, c * m), seed))
    if residual is not None:
        arrays["residual"] = numbers(residual, seed)
    return numbers((n, h, w, e), seed), arrays


@pytest.mark.parametrize("dtype", [tf.float32, tf.bfloat16, tf.float16], ids=lambda d: d.name)
@pytest.mark.parametrize(
    "n, h, w, c, stride",
    [
        (4, 9, 7, 96, 1),  # whole images, channels by pieces
        (4, 9, 8, 200, 2),
        (1, 11, 13, 160, 1),  # one image: threads share its channels
        (3, 7, 7, 100, 2),
        (1, 44, 40, 96, 1),  # strips of rows, some of which are kept
        (2, 61, 40, 72, 2),
    ],
)
def test_ways_to_cut(dtype, n, h, w, c, stride):
    y = None
    for k, biased in ((24, True), (33, False)):
        x, arrays = inverted(n, h, w, 17, c, k, biased=biased)
        y = check(dtype, x, arrays, strides=(stride, stride))
    again = check(dtype, x, arrays, strides=(stride, stride))
    assert (y == again).all()


@pytest.mark.parametrize("seed", range(12))
def test_random_blocks(seed):
    rng = np.random.default_rng(seed)

    def pick(*choices):
        return choices[rng.integers(len(choices))]

    n, h, w = int(rng.integers(1, 4)), int(rng.integers(1, 30)), int(rng.integers(1, 30))
    e, c, k, m, r = pick(1, 3, 16, 19), pick(1, 7, 32, 70, 130), pick(1, 5, 16, 40), pick(1, 1, 2), pick(1, 3, 5, 7)
    stages = pick("edp", "ed", "edsp")
    strides, dilations = (pick(1, 2), pick(1, 2, 3)), (pick(1, 1, 2), pick(1, 1, 2))
    words = [pick("relu6", "none", "silu", "hard_swish", "gelu") for _ in range(3)]
    padding = "SAME"
    if rng.integers(3) == 0:
        reach = (r - 1) * max(dilations)
        padding = ((reach, int(rng.integers(reach + 1))), (int(rng.integers(reach + 1)), reach))
        if (h + sum(padding[0]) <= reach) or (w + sum(padding[1]) <= reach):
            padding = "SAME"
    x, arrays = inverted(n, h, w, e, c, k, r=r, m=m, seed=seed, stages=stages)
    options = {"strides": strides, "dilations": dilations, "padding": padding, "words": words,
                   "epsilon": pick(None, 1e-3) if c > 1 else None}  # fmt: skip
    y = check(tf.float32, x, arrays, **options)
    arrays["residual"] = numbers(y.shape, seed)
    check(tf.float32, x, arrays, **options)


@pytest.mark.parametrize("dtype", [tf.float32, tf.bfloat16, tf.float16], ids=lambda d: d.name)
def test_without_expansion(dtype):
    for c in (32, 37, 3):
        x, arrays = numbers((3, 12, 11, c), 1), {}
        arrays["depthwise_filter"] = numbers((3, 3, c, 1), 1, 1 / 3)
        for words in (("none", "silu", "none"), ("none", "relu", "none")):
            check(dtype, x, arrays, words=words)
            check(dtype, x, {**arrays, "residual": numbers(x.shape, 2)}, words=words, strides=(1, 1))
        pointwise = {"pointwise_filter": numbers((1, 1, c, 40), 1, c**-0.5), "bias": numbers((40,), 1)}
        check(dtype, x, pointwise, words=("none", "none", "hard_swish"))
        check(dtype, x, {**pointwise, "gate": np.abs(numbers((3, c), 1))})
        check(dtype, x, {**arrays, **pointwise}, epsilon=1e-6, words=("none", "none", "gelu"))
        check(dtype, x, {**pointwise, "residual": numbers((3, 12, 11, 40), 1)})


@pytest.mark.parametrize("dtype", [tf.float32, tf.bfloat16, tf.float16], ids=lambda d: d.name)
@pytest.mark.parametrize("c", [1, 3, 8, 12, 15, 16])
def test_scales_of_few_channels(dtype, c):
    # 16 pixels are taken for one; what is left over, or less than that, is not.
    arrays = {"depthwise_filter": numbers((1, 1, c, 1), 1)}
    for bias in ({}, {"depthwise_bias": numbers((c,), 2)}):
        for shape in ((2, 16, 16, c), (3, 5, 7, c), (1, 3, 2, c), (0, 4, 4, c)):
            x = numbers(shape, 1)
            if x.size:
                check(dtype, x, {**arrays, **bias}, words=("none", "silu", "none"))
            else:
                given = {k: tf.cast(v, dtype) for k, v in {**arrays, **bias}.items()}
                assert dispatch.run(tf.cast(x, dtype), Tensors(**given), Attributes()).shape == shape
                continue
            # Padding and strides count pixels one by one, with the same filters.
            check(dtype, x, {**arrays, **bias}, words=("none", "none", "none"), padding=((1, 0), (0, 2)))
            check(dtype, x, {**arrays, **bias}, words=("none", "none", "none"), strides=(2, 1))


def test_one_filter_for_pixels_together_and_one_by_one():
    filters = tf.Variable(numbers((1, 1, 3, 1), 1))
    x = tf.constant(numbers((2, 8, 8, 3), 1))

    @tf.function
    def both(x):
        padded = Attributes(padding="EXPLICIT", explicit_paddings=(0, 0, 1, 1, 1, 1, 0, 0))
        return [
            dispatch.run(x, Tensors(depthwise_filter=filters), attributes)
            for attributes in (Attributes(), padded, Attributes())
        ]

    for _ in range(2):
        plain, padded, again = both(x)
        expected = x * tf.reshape(filters, [3])
        np.testing.assert_array_equal(plain, expected)
        np.testing.assert_array_equal(again, expected)
        np.testing.assert_array_equal(padded[:, 1:-1, 1:-1], expected)


def test_not_a_number_stays_in_its_pixels():
    x, arrays = inverted(2, 10, 10, 8, 64, 8)
    clean = dispatch.run(tf.constant(x), Tensors(**{k: tf.constant(v) for k, v in arrays.items()}),
                           Attributes()).numpy()  # fmt: skip
    x[0, 0, 0, 0] = np.nan
    y = dispatch.run(tf.constant(x), Tensors(**{k: tf.constant(v) for k, v in arrays.items()}),
                       Attributes()).numpy()  # fmt: skip
    assert np.isnan(y[0, :2, :2]).all()
    touched = np.zeros(y.shape, bool)
    touched[0, :2, :2] = True
    assert (y[~touched] == clean[~touched]).all()
