"""Ways that only some sizes and machines ask for: shares of the output channels, images in groups, stores around L3.

Each test makes its way the one that is gone, whatever machine it runs on, and says so by what it asserts of the plan.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
import reference
import tensorflow as tf
from conftest import check_python, op_calls
from gradient_cases import check_against_float64, gradients, tensors_of
from native_support import DTYPES, ISAS, arrays, guarded, rounds_between, tolerance

from tf_dwsconv import native
from tf_dwsconv._arguments import Attributes, Tensors
from tf_dwsconv._tf import dispatch
from tf_dwsconv.activations import NONE, Fused

pytestmark = pytest.mark.usefixtures("op_library")


def shape_of(n, h, w, c, m, k, r, s, **attributes):
    return {**dict(zip("NHWCMKRS", (n, h, w, c, m, k, r, s))), **attributes}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(
    "sizes, strides", [((1, 7, 7, 160, 1, 200), 1), ((1, 7, 7, 384, 1, 457), 2), ((2, 3, 3, 96, 2, 1001), 1)]
)
@pytest.mark.parametrize("word", ["relu", "silu"])  # of the sums; in Y once a share is there, if nothing is added
def test_few_pixels_by_many_channels(isa, dtype, sizes, strides, word):
    """Threads that pixels cannot keep busy share the output channels: each share to its last channel."""
    shape = shape_of(*sizes, 3, 3, strides=(strides, strides), bias=True, activation=(word, 0.0))
    shape["residual"] = word == "relu"
    case, x, tensors, residual = arrays(shape, dtype)
    plan = native.plan(
        x.shape, tensors["depthwise_filter"].shape, tensors["pointwise_filter"].shape,
        strides=strides, dtype=dtype, isa=isa, num_threads=8,
    )  # fmt: skip
    assert plan["block_channels"] < shape["K"] and plan["threads"] > 2
    expected = reference.forward(*case)
    out, check_guards = guarded(expected.shape, DTYPES[dtype])
    native.depthwise_sep_conv2d(x, **tensors, residual=residual, out=out, isa=isa, num_threads=8)
    check_guards()
    assert np.abs(out.astype(np.float64) - expected).max() <= tolerance(case, expected, dtype)


# Transposed copies of more than 8 MiB are made of a few images at a time: here of three or four in float32, of six or
# nine in 16 bits.
GROUPS = {"n": 10, "h": 48, "w": 48, "c": 96, "k": 96}
COPIES = 8 << 20


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("with_residual", [True, False])
def test_groups_of_images_of_the_layer(dtype, with_residual):
    n, h, w, c, k = GROUPS.values()
    shape = shape_of(n, h, w, c, 1, k, 3, 3, data_format="NCHW", bias=True, residual=with_residual)
    case, x, tensors, residual = arrays(shape, dtype)
    copies = x.nbytes + n * h * w * k * x.itemsize * (2 if with_residual else 1)
    assert COPIES < copies < n * COPIES
    expected = reference.forward(*case)
    for threads in (1, 2):
        y = native.depthwise_sep_conv2d(x, **tensors, residual=residual, num_threads=threads)
        assert np.abs(y.astype(np.float64) - expected).max() <= tolerance(case, expected, dtype)


@pytest.mark.parametrize("stages", ["sp", "dsp", "dspr", "eds", "edspr", "pr", "dr"])
def test_groups_of_images_of_a_block(stages):
    """Each group has its own images' factors, residual and results."""
    n, h, w, c, k = GROUPS.values()
    rng = np.random.default_rng(3)

    def draw(*shape, scale=1.0):
        return (rng.standard_normal(shape) * scale).astype(np.float32)

    x, given = draw(n, c, h, w), {}
    z = x.transpose(0, 2, 3, 1).astype(np.float64)
    if "e" in stages:
        given["expand_filter"] = draw(1, 1, c, c, scale=c**-0.5)
        z = np.maximum(z @ given["expand_filter"][0, 0], 0)
    if "d" in stages:
        given["depthwise_filter"] = draw(3, 3, c, 1, scale=1 / 3)
        z = reference.depthwise(z, reference.Layer(given["depthwise_filter"], None))
    if "s" in stages:
        given["gate"] = draw(n, c)
        z = z * given["gate"][:, None, None, :]
    if "p" in stages:
        given["pointwise_filter"] = draw(1, 1, c, k, scale=c**-0.5)
        z = z @ given["pointwise_filter"][0, 0]
    if "r" in stages:
        given["residual"] = draw(*z.transpose(0, 3, 1, 2).shape)
        z = z + given["residual"].transpose(0, 2, 3, 1)
    assert x.nbytes + z.size * 4 * (2 if "r" in stages else 1) > COPIES
    attributes = Attributes(data_format="NCHW", expand_activation=Fused("relu") if "e" in stages else NONE)
    before = sum(op_calls().values())
    y = dispatch.run(tf.constant(x), Tensors(**{name: tf.constant(a) for name, a in given.items()}), attributes)
    assert sum(op_calls().values()) == before + 1
    # Sums of 96 products of numbers near one.
    np.testing.assert_allclose(y.numpy().transpose(0, 2, 3, 1), z, rtol=0, atol=2e-5 * np.abs(z).max())


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_groups_of_images_of_a_gradient(dtype):
    """What went into the last activation is computed again in float, of two million floats' images at a time."""
    n, h, w, c, k = GROUPS.values()
    assert (2 << 20) < n * h * w * (c + k) < n * (2 << 20)
    shape = shape_of(n, h, w, c, 1, k, 3, 3, residual=True, bias=True, activation=("silu", 0.2))
    check_against_float64(shape, dtype, {"bfloat16": 0.03, "float16": 0.004}[dtype])


STREAMED = [  # widths of Y that are whole cache lines and that are not, tails of vectors and of tiles, odd pictures
    *((2, 9, 7, 20, 1, k, 3, 3) for k in (1, 8, 16, 24, 31, 32, 33, 48, 64, 72, 80, 96, 100, 128)),
    (1, 1, 1, 5, 2, 64, 3, 3),
    (3, 13, 1, 3, 1, 32, 1, 5),
    (1, 5, 23, 64, 1, 160, 5, 5),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", ISAS)
def test_stores_around_the_caches_where_they_cannot_be(isa, dtype):
    """A plan may ask for them anywhere: the same bits, nothing beside Y is written, whatever its alignment."""
    for number, sizes in enumerate(STREAMED):
        for extra in ({}, {"residual": True}, {"activation": ("relu6", 0.0)}, {"activation": ("gelu", 0.0)}):
            shape = shape_of(*sizes, bias=True, seed=number, **extra)
            _, x, tensors, residual = arrays(shape, dtype)
            layer = native.Layer(**tensors, isa=isa)
            expected = layer(x, residual=residual)
            pixels = expected.shape[1] * expected.shape[2]
            for offset in (0, 4, 16, 32, 3):
                for block in (max(1, pixels // 3), pixels):
                    out, check_guards = guarded(expected.shape, DTYPES[dtype], offset)
                    plan = {"block_pixels": block, "block_channels": shape["K"], "threads": 1, "stream": True}
                    layer(x, residual=residual, out=out, plan=plan, num_threads=1)
                    check_guards()
                    assert out.tobytes() == expected.tobytes(), (sizes, extra, offset, block)


def run_on_a_machine(caches):
    """In a process of its own: hashes of the gradients, which on one of the machines are compared with float64, too."""
    import hashlib
    import os

    found = []
    for isa in ISAS:
        os.environ["DWSCONV_ISA"] = isa
        for n, h, w, c, m, k, stride in MACHINE_SHAPES:
            extra = {"strides": (stride, stride), "bias": True, "depthwise_bias": True, "activation": ("tanh", 0.0)}
            for dtype, allowed in (("float32", 1e-4), ("bfloat16", 0.03)):
                shape = shape_of(n, h, w, c, m, k, 3, 3, **extra)
                filters = (3, 3, c, m), (1, 1, c * m, k)
                streams = native.plan((n, h, w, c), *filters, strides=stride, dtype=dtype, isa=isa)["stream"]
                assert streams == (caches == "small"), (isa, shape, dtype)
                if caches == "small":
                    # What rounding Z does to a sum of 9 * C * M numbers near one, where tanh is steep.
                    rounding = 2**-8 * (9 * c * m) ** 0.5 if rounds_between(isa, dtype) else 0
                    check_against_float64(shape, dtype, allowed + rounding)
                tensors, keywords = tensors_of(shape, dtype)
                # The last activation's derivative is known by its result, so that this is among what they depend on.
                results = [g.numpy().tobytes() for g in gradients(tensors, keywords, tf.ones(1))]
                found.append([hashlib.sha256(bits).hexdigest() for bits in results])
    return json.dumps(found)


MACHINE_SHAPES = [  # N H W C M K stride
    (2, 13, 11, 16, 1, 16, 1),
    (2, 12, 13, 32, 1, 64, 2),
    (1, 15, 9, 24, 2, 48, 1),
    (1, 14, 14, 176, 1, 32, 1),
    (1, 9, 10, 192, 1, 100, 1),
    (3, 9, 16, 17, 1, 31, 1),
]


def test_the_same_bits_around_the_caches_and_through_them():
    """The op and its gradient on a machine of hardly any L3, and on one with much of it."""
    program = "import test_forward_ways; print(test_forward_ways.run_on_a_machine({!r}))"
    small, large = (
        json.loads(check_python(program.format(name), DWSCONV_TEST_MACHINE=f"{l3},stores=streamed").splitlines()[-1])
        for name, l3 in (("small", "l2=512K,l3=4K"), ("large", "l2=512K,l3=512M"))
    )
    assert small == large
