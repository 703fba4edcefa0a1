"""Means of what a depthwise convolution gives: of the sums of its rows, with the bits of a mean of the whole image."""

from __future__ import annotations

import numpy as np
import pytest
from native_support import ISAS
from program_reference import DTYPES, Builder

from tf_dwsconv import native

KINDS = {  # sizes of the picture, channels of X, of Z, what the chain has besides its depthwise filter
    "plain": ((70, 66), 32, 32, {}),
    "wide": ((29, 31), 160, 160, {"depthwise_activation": "silu"}),
    "no whole vectors": ((60, 58), 41, 41, {"depthwise_activation": "hard_swish"}),
    "one vector": ((120, 130), 16, 16, {"depthwise_activation": "relu"}),
    "few channels": ((180, 190), 5, 5, {}),
    "stride": ((91, 90), 72, 72, {"strides": [2, 2], "depthwise_activation": "relu6"}),
    "expansion": ((40, 40), 12, 96, {"depthwise_activation": "silu"}),
    "expansion, no whole vectors": ((40, 40), 12, 88, {"depthwise_activation": "silu"}),
    "expansion, stride": ((75, 77), 20, 112, {"strides": [2, 2], "depthwise_activation": "relu"}),
    "few rows": ((3, 300), 80, 80, {}),  # of 94 KB: one of 128 KB may be cut where L2 is small
    "projection": ((50, 50), 24, 60, {"depthwise_activation": "relu", "project": 64}),
}


def build(kind, dtype):
    """A program with the mean, and one of the chain alone."""
    _, channels, z_channels, options = KINDS[kind]
    rng = np.random.default_rng(1)
    options = dict(options)
    project = options.pop("project", 0)
    weights = {"depthwise_filter": rng.standard_normal((3, 3, z_channels, 1)) * 0.4}
    if z_channels != channels:
        weights["expand_filter"] = rng.standard_normal((1, 1, channels, z_channels)) * channels**-0.5
    if project:
        weights["pointwise_filter"] = rng.standard_normal((1, 1, z_channels, project)) * z_channels**-0.5
    if "depthwise_activation" in options:
        options["depthwise_activation"] = {"word": options["depthwise_activation"]}
    programs = []
    for mean in (True, False):
        b = Builder(dtype)
        y = b.step("chain", b.input([None, None, None, channels]), weights=weights, padding="same", **options)
        b.output(b.step("mean", y), y) if mean else b.output(y)
        programs.append(b)
    return programs


def mean_of(dtype, channels):
    b = Builder(dtype)
    b.output(b.step("mean", b.input([None, None, None, channels])))
    return b


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_same_bits_as_of_the_image(kind, dtype, isa):
    """The mean beside its chain, by any number of threads, is that of a program that gets what the chain gave."""
    with_mean, chain = (native.Network.from_program(b.text, b.weights, isa=isa) for b in build(kind, dtype))
    sizes, channels = KINDS[kind][:2]
    x = np.random.default_rng(2).standard_normal((3, *sizes, channels)).astype(DTYPES[dtype])
    y = chain(x, num_threads=1)
    alone = mean_of(dtype, y.shape[-1])
    expected = native.Network.from_program(alone.text, alone.weights, isa=isa)(y, num_threads=1)
    exact = y.astype(np.float64).mean((1, 2))
    unit = {"float32": 0, "bfloat16": 2.0**-8, "float16": 2.0**-11}[dtype]
    allowed = unit * np.abs(exact) + sum(sizes) * 2.0**-24 * np.abs(y.astype(np.float64)).mean((1, 2)) + 1e-7
    assert (np.abs(expected.astype(np.float64) - exact) <= allowed).all()
    before = native.calls()["network_means_of_rows"]
    for threads in (1, 2, 3):
        mean, image = with_mean(x, num_threads=threads)
        assert image.tobytes() == y.tobytes()
        assert mean.tobytes() == expected.tobytes(), threads
        assert with_mean(x[1:2], num_threads=threads)[0].tobytes() == expected[1:2].tobytes()
    made = native.calls()["network_means_of_rows"] - before
    large = y[0].nbytes >= 256 << 10 and y.shape[2] >= 14
    assert made > 0 if large else made == 0, made


def test_a_nan_reaches_the_mean():
    b, _ = build("plain", "float32")
    network = native.Network.from_program(b.text, b.weights)
    x = np.zeros((1, 70, 66, 32), np.float32)
    x[0, 69, 65, 7] = np.nan
    before = native.calls()["network_means_of_rows"]
    mean = network(x)[0]
    assert native.calls()["network_means_of_rows"] == before + 1
    assert np.flatnonzero(np.isnan(mean[0])).tolist() == [7]


def test_two_means_and_a_reader_between():
    """The second mean adds up for itself; what stands between the chain and its mean changes nothing."""
    b = Builder("float32")
    filters = np.random.default_rng(3).standard_normal((3, 3, 48, 1))
    y = b.step("chain", b.input([None, 64, 64, 48]), weights={"depthwise_filter": filters}, padding="same")
    z = b.step("activation", y, activation={"word": "relu"})
    mean = b.step("mean", y)
    gate = b.step("activation", mean, activation={"word": "sigmoid"})
    again = b.step("mean", y, keepdims=True)
    b.output(b.step("multiply", z, again), gate)
    network = native.Network.from_program(b.text, b.weights)
    x = np.random.default_rng(4).standard_normal((2, 64, 64, 48)).astype(np.float32)
    for y, expected in zip(network(x), b.expect(x)):
        np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)
