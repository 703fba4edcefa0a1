"""Convolutions of groups in programs: by the kernels, by stock ops, and what `convert` makes of Keras' own."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from convert_support import check_network, functional, pictures
from native_support import ISAS
from program_reference import DTYPES, Builder

import tf_dwsconv
from tf_dwsconv import native
from tf_dwsconv._program import Program
from tf_dwsconv._tf import program_stock

pytestmark = pytest.mark.usefixtures("op_library")

L = keras.layers
# Of products, and of results.
EPSILON = {"float32": (2.0**-24, 2.0**-24), "bfloat16": (2.0**-24, 2.0**-8), "float16": (2.0**-24, 2.0**-11)}

NETWORKS = {  # H, W, groups, C of one, K of one, kernel, options
    "4 of ResNeXt": (14, 14, 32, 4, 4, (3, 3), {}),
    "8 of RegNet, odd": (15, 17, 13, 8, 8, (3, 3), {"strides": [2, 2]}),
    "64 of RegNet": (9, 14, 3, 64, 64, (3, 3), {}),
    "more out than in": (8, 20, 5, 3, 7, (5, 1), {"padding": "valid"}),
    "one in": (8, 20, 6, 1, 3, (3, 3), {}),
    "one out": (8, 20, 4, 5, 1, (3, 3), {}),
    "1x1": (11, 13, 4, 12, 20, (1, 1), {}),
    "1x1 at strides": (11, 13, 4, 12, 20, (1, 1), {"strides": [2, 3]}),
    "few columns": (9, 3, 4, 8, 16, (3, 3), {}),
    "one pixel": (1, 1, 8, 8, 16, (3, 3), {}),
    "dilated columns": (9, 18, 4, 8, 16, (3, 3), {"dilations": [1, 2]}),
    "one-sided": (6, 25, 2, 9, 40, (2, 4), {"padding": [[0, 1], [3, 0]]}),
    "wide": (3, 96, 2, 40, 100, (3, 3), {}),
}


def drawn(rng, *shape):
    return rng.standard_normal(shape) * np.prod(shape[:-1]) ** -0.5


def program(name, dtype, **others):
    """A convolution of groups with a residual and PReLU behind another one, between channels of other tensors."""
    H, W, groups, C, K, kernel, options = NETWORKS[name]
    rng = np.random.default_rng(3)
    b = Builder(dtype)
    x = b.input([None, H, W, groups * C])
    weights = {"pointwise_filter": drawn(rng, *kernel, C, groups * K), "bias": rng.standard_normal(groups * K)}
    weights["slopes"] = rng.uniform(0.1, 0.9, groups * K)
    options = {"groups": groups, "activation": {"word": "prelu"}, **options, **others}
    y = b.step("chain", x, weights=weights, **options)
    return b, y


def close(dtype, found, expected):
    assert found.shape == expected.shape and np.isfinite(expected).all()
    of_sums, of_result = EPSILON[dtype]
    size = np.abs(expected).max() + 1
    return np.abs(found.astype(np.float64) - expected).max() <= (300 * of_sums + 3 * of_result) * size


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NETWORKS)
def test_on_every_path(name, dtype, isa):
    """The same bits for any number of threads, and for an image by itself."""
    b, y = program(name, dtype)
    b.output(y)
    H, W, groups, C = NETWORKS[name][:4]
    x = np.random.default_rng(4).standard_normal((3, H, W, groups * C)).astype(DTYPES[dtype])
    net = native.Network.from_program(b.text, b.weights, isa=isa)
    found = net(x, num_threads=1)
    assert close(dtype, found, b.expect(x)[0])
    for threads in (2, 3, 16):
        assert net(x, num_threads=threads).tobytes() == found.tobytes()
    assert net(x[1:2], num_threads=2).tobytes() == found[1:2].tobytes()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_residual_mean_and_parts(dtype, isa):
    """Read from channels of a larger tensor, written into a concatenation, added to, and averaged."""
    rng = np.random.default_rng(5)
    b = Builder(dtype)
    x = b.input([None, 12, 18, 48])
    part = b.step("crop", x, croppings=[[0, 0], [0, 0], [0, 0], [16, 0]])
    one = b.step("chain", part, weights={"pointwise_filter": drawn(rng, 3, 3, 8, 32)}, groups=4)
    b.program["steps"][-1].update(residual=part, activation={"word": "silu"})
    two = b.step("chain", part, weights={"pointwise_filter": drawn(rng, 3, 3, 16, 64)}, groups=2)
    dense = b.step("chain", part, weights={"pointwise_filter": drawn(rng, 3, 3, 32, 16), "bias": drawn(rng, 16)})
    joined = b.step("concatenate", one, two, dense, axis=3)
    last = b.step("chain", joined, weights={"pointwise_filter": drawn(rng, 3, 3, 28, 56)}, groups=4)
    b.output(joined, b.step("mean", last))
    values = rng.standard_normal((2, 12, 18, 48)).astype(DTYPES[dtype])
    net = native.Network.from_program(b.text, b.weights, isa=isa)
    parts = native.calls()["network_parts_in_place"]
    for found, expected in zip(net(values, num_threads=2), b.expect(values)):
        assert close(dtype, found, expected)
    assert dtype != "float32" or native.calls()["network_parts_in_place"] > parts


@pytest.mark.parametrize("isa", ISAS)
def test_other_groups_see_nothing_of_a_nan(isa):
    """Groups as wide as a vector are never taken together."""
    b = Builder()
    x = b.input([None, 8, 16, 32])
    b.output(b.step("chain", x, weights={"pointwise_filter": np.ones((3, 3, 16, 32))}, groups=2))
    values = np.zeros((1, 8, 16, 32), "float32")
    values[0, 4, 5, 20] = np.nan
    found = np.isnan(native.Network.from_program(b.text, b.weights, isa=isa)(values))
    assert found[0, 3:6, 4:7, 16:].all() and found.sum() == 9 * 16


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NETWORKS)
def test_by_stock_ops(name, dtype):
    b, y = program(name, dtype)
    b.output(y)
    H, W, groups, C = NETWORKS[name][:4]
    x = np.random.default_rng(6).standard_normal((2, H, W, groups * C)).astype(DTYPES[dtype])
    weights = tf.constant(b.weights)
    with tf.GradientTape() as tape:
        tape.watch(weights)
        [found] = program_stock.compute(Program.from_text(b.text), [tf.constant(x)], weights, to_differentiate=True)
    assert close(dtype, found.numpy(), b.expect(x)[0])
    assert np.isfinite(tape.gradient(found, weights).numpy().astype("float32")).all()


@pytest.mark.parametrize("change, message", [
    ({"groups": 0}, "groups must be at least 1; given 0"),
    ({"groups": 3}, r"pointwise_filter must be \[R,S,C/groups,K\] .* multiples of groups = 3"),
    ({"groups": 8}, r"pointwise_filter must be \[R,S,C/groups,K\]"),
    ({"groups": "2"}, "groups must be"),
    ({"groups": 2**62}, "groups must be a whole number"),
    ({"groups": 2**50}, "multiples of groups"),
])  # fmt: skip
def test_what_does_not_fit(change, message):
    b, y = program("1x1", "float32", **change)
    b.output(y)
    with pytest.raises(ValueError, match=message):
        native.Network.from_program(b.text, b.weights)
    with pytest.raises(ValueError, match=r"groups|pointwise_filter"):
        text = Program.from_text(b.text)
        program_stock.compute(text, [tf.zeros([1, 11, 13, 48])], tf.constant(b.weights))


@pytest.mark.parametrize("other", ["depthwise_filter", "gate"])
def test_what_has_no_groups(other):
    b = Builder()
    x = b.input([None, 8, 8, 4])
    weights = {"pointwise_filter": np.ones((1, 1, 2, 4))}
    if other != "gate":
        weights[other] = np.ones((3, 3, 4, 1))
    b.output(b.step("chain", x, weights=weights, groups=2))
    if other == "gate":
        b.program["steps"][-1]["gate"] = b.input([None, 4])
    for make in (lambda: native.Network.from_program(b.text, b.weights), lambda: Program.from_text(b.text)):
        with pytest.raises(ValueError, match="groups must be 1"):
            make()


def regnet(x, width=16, kernel=3):
    x = L.ReLU()(L.BatchNormalization()(L.Conv2D(2 * width, 3, 2, padding="same", use_bias=False)(x)))
    for stride in (1, 2):
        y = L.ReLU()(L.BatchNormalization()(L.Conv2D(2 * width, 1, use_bias=False)(x)))
        y = L.Conv2D(2 * width, kernel, stride, padding="same", use_bias=False, groups=4, name=f"grouped_{stride}")(y)
        y = L.BatchNormalization()(L.Conv2D(2 * width, 1, use_bias=False)(L.ReLU()(L.BatchNormalization()(y))))
        short = x if stride == 1 else L.Conv2D(2 * width, 1, stride)(x)
        x = L.ReLU()(L.Add()([y, short]))
    x = L.Add()([x, L.Conv2D(2 * width, 3, padding="same", groups=2, name="last")(x)])
    return L.Dense(5)(L.GlobalAveragePooling2D()(L.Activation("gelu")(x)))


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_networks_of_keras(policy, tmp_path):
    keras.config.set_dtype_policy(policy)
    try:
        model = functional(regnet, (32, 32, 3))
    finally:
        keras.config.set_dtype_policy("float32")
    converted = check_network(model, pictures(model), 1e-5 if policy == "float32" else 3e-2)
    [network] = [layer for layer in converted.layers if not isinstance(layer, L.InputLayer)]
    steps = [step for step in Program.from_text(network.program).steps if step.options.get("groups", 1) > 1]
    assert [step.options["groups"] for step in steps] == [4, 4, 2]
    assert steps[0].options["activation"].word == "relu" and "residual" in steps[2].reads
    blocks = tf_dwsconv.convert(model, fuse="blocks")
    assert [layer.groups for layer in blocks.layers if getattr(layer, "groups", 1) > 1] == [4, 4, 2]
    if policy == "float32":
        tf_dwsconv.save_network(converted, tmp_path / "net.safetensors")
        x = pictures(model)[0]
        np.testing.assert_array_equal(native.Network(tmp_path / "net.safetensors")(x), converted(x))
