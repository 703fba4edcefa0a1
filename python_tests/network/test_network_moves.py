"""Layers that split, cut, turn, and put side by side, as steps of one program; Conv2DTranspose among them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import keras
import moved_networks
import numpy as np
import program_reference
import pytest
import tensorflow as tf
from conftest import python_environment
from convert_support import check_network, difference, functional, pictures

import tf_dwsconv
from tf_dwsconv import FusedNetwork, native
from tf_dwsconv._program import Program
from tf_dwsconv.convert.network import _transposed

pytestmark = pytest.mark.usefixtures("op_library")

L = keras.layers
SIZES = (16, 12, 6)


def network_of(converted):
    """The only layer of a converted model that computes."""
    [network] = [layer for layer in converted.layers if not isinstance(layer, (L.InputLayer, L.Identity))]
    assert isinstance(network, FusedNetwork)
    return network


def whole(make, *shapes, tolerance=1e-5):
    """The steps of a model that becomes one network, which is compared with it, in front of Keras and back."""
    model = functional(make, *(shapes or [SIZES]))
    return Program.from_text(network_of(check_network(model, pictures(model), tolerance)).program).steps


def ops(make, *shapes):
    return [step.op for step in whole(make, *shapes)]


STEPS = {
    # Nothing is computed beside the convolutions: batch norms and activations went into them.
    "unet": ["chain", "max_pool", "chain", "max_pool", "chain"]
    + 2 * ["chain", "depth_to_space", "concatenate", "chain"]
    + ["chain"],
    "shuffle": ["chain"]
    + 2 * ["crop", "crop", "chain", "concatenate", "reshape", "transpose", "reshape"]
    + ["chain", "mean"],
    "ghost": ["chain"] + 2 * ["chain", "chain", "concatenate", "crop"] + ["chain", "max"],
    "mix": ["chain"] + 3 * ["crop"] + 3 * ["chain"] + ["concatenate", "chain", "chain", "mean"],
    "focus": ["max_pool", "crop", "max_pool", "crop", "max_pool", "crop", "max_pool"]
    + ["concatenate", "chain", "chain", "mean"],
    "pixels": ["chain", "chain", "reshape", "transpose", "reshape", "chain"],
}


@pytest.mark.parametrize("name", moved_networks.NETWORKS)
def test_networks(name, tmp_path):
    """One program, as its file and as `.keras` too; against stock Keras, and against NumPy in float64."""
    model = functional(moved_networks.NETWORKS[name], SIZES)
    x = pictures(model)
    converted = check_network(model, x)
    network = network_of(converted)
    program = Program.from_text(network.program)
    assert sorted(step.op for step in program.steps) == sorted(STEPS[name])
    converted.save(tmp_path / "model.keras")
    assert difference(keras.models.load_model(tmp_path / "model.keras"), converted, x) == 0
    tf_dwsconv.save_network(converted, tmp_path / "network")
    [expected] = program_reference.run(json.loads(program.text), np.asarray(network.values), x)
    for found in (native.Network(tmp_path / "network")(x[0]), converted(x[0]).numpy()):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_networks_by_stock_ops(tmp_path):
    """In a process in which nothing else computes."""
    for name, make in moved_networks.NETWORKS.items():
        model = functional(make, SIZES)
        [x] = pictures(model)
        model.save(tmp_path / f"{name}.keras")
        np.savez(tmp_path / f"{name}.npz", x=x, y=model(x, training=False))
    done = subprocess.run(
        [sys.executable, str(Path(moved_networks.__file__)), str(tmp_path)],
        env=python_environment(DWSCONV_DISABLE="1"),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.stdout.split() == [word for name in moved_networks.NETWORKS for word in ("right", name)], done.stderr


@pytest.mark.parametrize("policy, tolerance", [("mixed_bfloat16", 0.05), ("float16", 0.02)])
def test_16_bits(policy, tolerance):
    keras.config.set_dtype_policy(policy)
    try:
        for make in (moved_networks.unet, moved_networks.shuffle):
            model = functional(make, SIZES)
            network_of(check_network(model, pictures(model), tolerance))
    finally:
        keras.config.set_dtype_policy("float32")


def transposed(x, kernel, strides, sizes, top, left):
    """A transposed convolution in float64: each pixel adds its kernel; a frame of the sum is the result."""
    n, height, width, _ = x.shape
    rows, columns, filters, _ = kernel.shape
    y = np.zeros((n, height * strides[0] + rows + sizes[0], width * strides[1] + columns + sizes[1], filters))
    for h, w in np.ndindex(height, width):
        at = (slice(None), slice(h * strides[0], h * strides[0] + rows))
        y[(*at, slice(w * strides[1], w * strides[1] + columns))] += np.einsum("nc,rskc->nrsk", x[:, h, w], kernel)
    return y[:, top : top + sizes[0], left : left + sizes[1]]


GEOMETRIES = [
    (taps, stride, padding, more)
    for taps in range(1, 6)
    for stride in range(1, 5)
    for padding in ("same", "valid")
    for more in (None, *range(stride))
]


def result_of(kernel, strides, padding, more, x):
    """What programs make of a Conv2DTranspose with a bias, in NumPy; None where they do not."""
    found = [_transposed.axis(taps, s, padding, more) for taps, s in zip(kernel.shape, strides)]
    if None in found:
        return None
    filters = _transposed.filter_of(kernel, strides)
    [rows, columns] = found
    padded = np.pad(x, [(0, 0), rows.padding, columns.padding, (0, 0)])
    sizes = [n - of.window + 1 for n, of in zip(padded.shape[1:3], found)]
    y = sum(
        padded[:, r : r + sizes[0], s : s + sizes[1]] @ filters[r, s]
        for r, s in np.ndindex(rows.window, columns.window)
    )
    step = {"x": 0, "block": strides, "croppings": (rows.cropping, columns.cropping)}
    return program_reference.OPS["depth_to_space"](step, {0: y}, {})


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("stride", range(1, 5))
def test_transposed_geometry(stride, padding):
    """Kernels of 1 to 5 rows, with output_padding too: sizes as Keras has them, elements as sums say."""
    rng = np.random.default_rng(stride)
    refused = 0
    for taps, s, kind, more in GEOMETRIES:
        if (s, kind) != (stride, padding):
            continue
        strides = (stride, 5 - stride)
        if more is not None and more >= min(strides):
            continue
        kernel, x = rng.standard_normal((taps, (taps + 1) // 2, 2, 3)), rng.standard_normal((2, 5, 4, 3))
        layer = L.Conv2DTranspose(2, kernel.shape[:2], strides, padding, output_padding=more)
        found = result_of(kernel, strides, padding, more, x)
        if found is None:
            refused += 1
            assert more is not None
            continue
        sizes = layer.compute_output_shape(x.shape)[1:3]
        first = [
            max((n - 1) * s + k - size, 0) // 2 if padding == "same" else 0
            for n, s, k, size in zip(x.shape[1:3], strides, kernel.shape, sizes)
        ]
        np.testing.assert_allclose(found, transposed(x, kernel, strides, sizes, *first), atol=1e-12)
    assert refused < 8


TRANSPOSED = {
    "one pixel": {"kernel_size": 2, "strides": 2},
    "one pixel of odd blocks": {"kernel_size": (3, 2), "strides": (3, 2), "padding": "same", "activation": "relu"},
    "a window": {"kernel_size": 3, "strides": 2, "padding": "same"},
    "rows between": {"kernel_size": 2, "strides": 3, "activation": "softmax"},
    "four by two": {"kernel_size": 4, "strides": 2, "padding": "same", "activation": "hard_sigmoid"},
    "stride 1": {"kernel_size": 3, "padding": "valid", "use_bias": False},
    "output_padding": {"kernel_size": 3, "strides": 2, "padding": "same", "output_padding": 1},
    "a long kernel": {"kernel_size": (5, 1), "strides": (2, 1), "padding": "valid", "activation": "silu"},
}


def beside_much(layer):
    """A layer behind convolutions of more work than it has."""
    return lambda x: L.MaxPooling2D()(layer(L.Conv2D(6, 1)(L.SeparableConv2D(300, 3, padding="same")(x))))


@pytest.mark.parametrize("sizes", [(7, 9, 5), (None, None, 5)], ids=str)
@pytest.mark.parametrize("what", TRANSPOSED)
def test_transposed(what, sizes):
    found = ops(beside_much(L.Conv2DTranspose(4, **TRANSPOSED[what])), sizes)
    after = ["softmax"] if "softmax" in TRANSPOSED[what].values() else []
    assert found == ["chain", "chain", "chain", "depth_to_space", *after, "max_pool"] or found == [
        "chain", "chain", "depth_to_space", *after, "max_pool",
    ]  # fmt: skip


def test_transposed_that_stays():
    """What TensorFlow refuses, or computes of the bias alone; dilations; other layouts."""
    for options in (
        {"kernel_size": 3, "strides": 1, "dilation_rate": 2}, {"kernel_size": 2, "strides": 2, "output_padding": 1},
        {"kernel_size": 2, "strides": 2, "data_format": "channels_first"},
    ):  # fmt: skip
        model = functional(beside_much(L.Conv2DTranspose(4, **options)), (8, 8, 5))
        kinds = [type(layer) for layer in tf_dwsconv.convert(model).layers]
        assert L.Conv2DTranspose in kinds


@pytest.mark.parametrize("size", [2, 3, 4, 5])
def test_transposed_of_many_channels(size):
    layer = L.Conv2DTranspose(32, size, strides=2, padding="same")
    found = ops(lambda x: L.MaxPooling2D()(layer(L.SeparableConv2D(32, 3, name="first")(x))))
    assert found == ["chain", "chain", "depth_to_space", "max_pool"]


BEHIND = {
    "norm": lambda y: L.ReLU()(L.BatchNormalization()(y)),
    "numbers": lambda y: L.Activation("silu")(y * 2.0 + 1.0),
    "prelu": lambda y: L.PReLU(shared_axes=[1, 2])(y),
    "norm after a crop": lambda y: L.ReLU(4.0)(L.BatchNormalization()(L.Cropping2D(((4, 1), (0, 5)))(y))),
    "array": lambda y: keras.ops.add(y, np.arange(4, dtype="float32")),
}


@pytest.mark.parametrize("size, padding", [(2, "valid"), (3, "same")])
@pytest.mark.parametrize("what", BEHIND)
def test_what_stands_behind(what, size, padding):
    """Factors, addends and activations of channels go in front of the pixels, into the convolution."""
    layer = lambda x: BEHIND[what](L.Conv2DTranspose(4, size, strides=2, padding=padding)(x))  # noqa: E731
    found = ops(beside_much(layer), (8, 7, 5))
    assert set(found) == {"chain", "depth_to_space", "max_pool"} and found.count("depth_to_space") == 1


def test_what_others_read_stays_behind():
    """A result before its batch norm that another layer reads, or the model's user."""

    def make(x):
        y = L.Conv2DTranspose(4, 2, strides=2, name="up")(L.SeparableConv2D(6, 3, name="first")(x))
        return [L.BatchNormalization(name="norm")(y), y]

    model = functional(make)
    network = network_of(check_network(model, pictures(model)))
    assert len(network.output) == 2


def around(layer):
    return lambda x: L.SeparableConv2D(4, 3, name="last")(
        layer(L.SeparableConv2D(6, 3, padding="same", name="first")(x))
    )


def both(parts):
    return L.Concatenate()(list(parts)[::-1])


ONE = {
    "cropping": (L.Cropping2D(((4, 0), (2, 3))), ["crop"]),
    "two croppings": (lambda x: L.Cropping2D(4)(L.Cropping2D(((0, 4), (1, 0)))(x[:, 1:])), ["crop"]),
    "permute": (L.Permute((2, 1, 3)), ["transpose"]),
    "permute to itself": (L.Permute((1, 2, 3)), []),
    "transpose": (lambda x: keras.ops.transpose(x, (0, 3, 1, -2)), ["transpose"]),
    "swapaxes": (lambda x: keras.ops.swapaxes(x, 1, -1), ["transpose"]),
    "moveaxis": (lambda x: keras.ops.moveaxis(x, -1, 1), ["transpose"]),
    "split": (lambda x: both(keras.ops.split(x, 3, axis=-1)), 3 * ["crop"] + ["concatenate"]),
    "split at": (lambda x: both(keras.ops.split(x, [1, 4], axis=3)), 3 * ["crop"] + ["concatenate"]),
    "split of rows": (lambda x: both(keras.ops.split(x, 2, axis=1)), 2 * ["crop"] + ["concatenate"]),
    "split into one": (lambda x: keras.ops.split(x, 1, axis=1)[0], []),
    "one part of a split": (lambda x: keras.ops.split(x, 2, axis=-1)[1], ["crop"]),
    "channels": (lambda x: x[..., 2:5], ["crop"]),
    "negative": (lambda x: x[:, -9:-1, :-2, -4:], ["crop"]),
    "beyond the end": (lambda x: x[:, 3:100], ["crop"]),
    "all": (lambda x: x[:, :, ...], []),
    "every other": (lambda x: x[:, ::2, 1::3], ["crop", "max_pool"]),
    "every other of some": (lambda x: x[:, 1:14:4], ["crop", "max_pool"]),
    "pixels": (lambda x: keras.ops.nn.depth_to_space(x[..., :4], 2), ["crop", "depth_to_space"]),
}  # fmt: skip
if not hasattr(keras.ops.nn, "depth_to_space"):
    del ONE["pixels"]


@pytest.mark.parametrize("what", ONE)
def test_layers(what):
    layer, expected = ONE[what]
    if isinstance(layer, L.Layer):
        layer = type(layer).from_config(layer.get_config())
    found = ops(around(layer))
    assert [op for op in found if op != "chain"] == expected


FREE = {
    "cropping": (L.Cropping2D(((4, 0), (2, 3))), ["crop"]),
    "slices": (lambda x: x[:, 2:-1, 5:, 1:4], ["crop"]),
    "every other": (lambda x: x[:, 1::2, ::2], ["crop", "max_pool"]),
    "split": (lambda x: both(keras.ops.split(x, 2, axis=-1)), ["crop", "crop", "concatenate"]),
    "permute": (L.Permute((2, 1, 3)), ["transpose"]),
}


@pytest.mark.parametrize("what", FREE)
def test_free_sizes(what):
    found = ops(around(FREE[what][0]), (None, None, 5))
    assert [op for op in found if op != "chain"] == FREE[what][1]


STAY = {
    "an index": lambda x: x[:, 2],
    "a new axis": lambda x: L.Reshape((16, 12, 6))(x[:, None]),
    "backwards": lambda x: x[:, ::-1],
    "every other channel": lambda x: x[..., ::2],
    "some of the batch": lambda x: x[:1, :],
}


@pytest.mark.parametrize("what", STAY)
def test_what_stays(what):
    """Other ways to index."""
    model = functional(lambda x: STAY[what](L.MaxPooling2D(1)(L.SeparableConv2D(6, 3, padding="same")(x))), SIZES)
    converted = check_network(model, pictures(model))
    assert "GetItem" in [type(operation).__name__ for operation in converted.operations]


def test_both_halves_are_results():
    """Of one op, under names that differ in the program."""

    def make(x):
        return list(keras.ops.split(L.MaxPooling2D()(L.SeparableConv2D(6, 3, padding="same")(x)), 2, axis=-1))

    model = functional(make, SIZES)
    converted = check_network(model, pictures(model))
    [network] = [layer for layer in converted.layers if isinstance(layer, FusedNetwork)]
    names = [output.name for output in Program.from_text(network.program).outputs]
    assert len(set(names)) == 2


@pytest.mark.parametrize("op", ["crop", "depth_to_space"])
def test_a_picture_that_is_smaller_than_what_is_cut_off(op, monkeypatch):
    """A clear error by each way, in graphs and by stock ops too."""
    x = np.zeros((2, 8, 3, 4), "float32")
    text = program_reference.Builder()
    tensor = text.input([None, None, None, 4])
    options = {"croppings": [[0, 0], [0, 0], [2, 2], [0, 0]]}
    options = options if op == "crop" else {"block": [1, 2], "croppings": [[0, 0], [4, 3]]}
    text.output(text.step(op, tensor, **options))
    given = r"x has, \[2,8,3,4\]; given \[0,0,0,0,2,2,0,0\]" if op == "crop" else r"there is, .*; given \[0,0,4,3\]"
    with pytest.raises(ValueError, match=f"croppings must take no more than {given}"):
        native.Network.from_program(text.text, text.weights)(x)
    layer, message = FusedNetwork(text.text), "`?croppings`? .*must take no more than"
    for disabled in ("", "1"):
        monkeypatch.setenv("DWSCONV_DISABLE", disabled)
        with pytest.raises(Exception, match=message):
            layer(x)
        graph = tf.function(layer, input_signature=[tf.TensorSpec([None, None, None, 4])])
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            graph(x)
        assert graph(np.zeros((2, 8, 4, 4), "float32")).shape[1:3] == ((8, 0) if op == "crop" else (8, 1))
