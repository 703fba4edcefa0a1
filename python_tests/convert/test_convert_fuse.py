"""`convert(fuse="network")`: which parts of a model become one program, under which names, and what stays."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from convert_support import chain, check, check_network, difference, functional, output_names, pictures, randomise

import tf_dwsconv
from tf_dwsconv import FusedNetwork
from tf_dwsconv._program import Program

pytestmark = pytest.mark.usefixtures("op_library")

L = keras.layers


def networks(model):
    return [layer for layer in model._flatten_layers() if isinstance(layer, FusedNetwork)]


def steps(network):
    """The ops of a network's program."""
    return [step.op for step in Program.from_text(network.program).steps]


def whole(make, *shapes, tolerance=1e-5):
    """The steps of a model that becomes one network, which is compared with it."""
    model = functional(make, *shapes)
    converted = check_network(model, pictures(model), tolerance)
    [network] = converted.layers[len(model.inputs) :]
    assert isinstance(network, FusedNetwork)
    return steps(network)


def test_a_model_of_two_inputs_and_three_results():
    """Results keep their names, their order and their structure; losses find them."""

    def make(x, y):
        z = chain(x, 6, name="a")
        both = L.Concatenate(name="both")([z, L.Conv2D(4, 1, name="b")(y)])
        pooled = L.GlobalAveragePooling2D(name="pooled")(both)
        return {"mask": L.Conv2D(2, 1, name="mask")(both), "label": L.Dense(3, name="label")(pooled), "pooled": pooled}

    model = functional(make, (16, 16, 6), (16, 16, 3))
    converted = check_network(model, pictures(model))
    [network] = networks(converted)
    assert converted.output_names == model.output_names and [t.name for t in converted.inputs] == ["in0", "in1"]
    assert {row.network for row in tf_dwsconv.convert.report(converted)} == {network.name}
    for m in (converted, model):
        m.compile("sgd", {"mask": "mse", "label": "mse", "pooled": "mae"})
    inputs = pictures(model)
    targets = {name: np.zeros([2, *t.shape[1:]], "float32") for name, t in zip(model.output_names, model.outputs)}
    targets["mask"] = np.zeros((2, 16, 16, 2), "float32")
    losses = [m.evaluate(inputs, targets, verbose=0, return_dict=True)["loss"] for m in (converted, model)]
    np.testing.assert_allclose(*losses, rtol=1e-5)
    assert np.isfinite(converted.fit(inputs, targets, verbose=0).history["loss"][0])


@keras.saving.register_keras_serializable(package="tests")
class Foreign(L.Layer):
    """A layer that no program computes."""

    def call(self, x):
        return keras.ops.sort(x, axis=-1)


def test_a_path_that_leaves_and_comes_back():
    """What is in front of a foreign layer and what is behind it are two networks; the first has the way around it."""

    def make(x):
        z = chain(x, 6, name="a")
        around = L.MaxPooling2D(3, 1, "same", name="pool")(chain(z, 6, name="around"))
        z = Foreign(name="foreign")(z)
        z = L.Add(name="sum")([chain(z, 6, name="b"), around])
        return chain(z, 4, name="c")

    model = functional(make)
    converted = check_network(model, pictures(model))
    assert [type(layer).__name__ for layer in converted.layers] == [
        "InputLayer", "FusedNetwork", "Foreign", "FusedNetwork",
    ]  # fmt: skip
    first, second = networks(converted)
    assert len(first.output) == 2 and len(second.input) == 2
    assert second.name == output_names(model)[0]
    rows = {row.layers[0]: row.network for row in tf_dwsconv.convert.report(converted)}
    assert rows["a_dw"] == rows["around_dw"] == first.name and rows["c_dw"] == second.name


def test_too_little_for_a_network():
    """A block alone stays one, and so does what only moves elements beside it."""
    for make in (lambda x: chain(x, 4), lambda x: L.Reshape((64, 16))(chain(x, 4)), lambda x: L.Flatten()(x)):
        converted = tf_dwsconv.convert(functional(make))
        assert not networks(converted)
        assert all(row.network is None for row in tf_dwsconv.convert.report(converted))


def backbone(name):
    x = keras.Input((16, 16, 6))
    return randomise(keras.Model(x, chain(chain(x, 8, name="a"), 8, name="b"), name=name))


def test_models_inside():
    """One that programs compute goes into the network of the model around it; another has networks of its own."""
    part = backbone("part")
    model = functional(lambda x: L.Dense(3, name="head")(L.GlobalAveragePooling2D()(part(x))))
    converted = check_network(model, pictures(model))
    assert [layer.name for layer in converted.layers[1:]] == ["head"]
    assert [row.network for row in tf_dwsconv.convert.report(converted)] == ["head"] * 2

    x = keras.Input((16, 16, 6))
    mixed = randomise(
        keras.Model(x, chain(Foreign()(chain(chain(x, 6, name="p"), 6, name="q")), 6, name="r"), name="mixed")
    )
    model = functional(lambda x: L.GlobalAveragePooling2D()(chain(mixed(x), 4, name="end")))
    converted = check_network(model, pictures(model))
    assert isinstance(converted.get_layer("mixed"), keras.Model)
    assert len(networks(converted.get_layer("mixed"))) == 1 and len(networks(converted)) == 2


def test_a_model_that_is_called_twice():
    """Its weights are in the program once."""
    part = backbone("part")
    model = functional(lambda x, y: L.Subtract()([part(x), part(y)]), (16, 16, 6), (16, 16, 6))
    [network] = networks(check_network(model, pictures(model)))
    alone = tf_dwsconv.convert(part).layers[-1]
    assert network.count_params() == alone.count_params()


def test_a_sequential_model_stays_one():
    model = randomise(
        keras.Sequential(
            [
                keras.Input((16, 16, 4)), L.SeparableConv2D(8, 3, padding="same", name="first"), L.BatchNormalization(),
                L.ReLU(name="relu"), Foreign(name="foreign"), L.SeparableConv2D(8, 3, name="a"),
                L.MaxPooling2D(name="m"),
                L.SeparableConv2D(4, 3, activation="sigmoid", name="last"),
            ]
        )
    )  # fmt: skip
    converted = check_network(model, pictures(model))
    assert type(converted) is keras.Sequential
    assert [layer.name for layer in converted.layers] == ["relu", "foreign", "last"]
    assert steps(converted.layers[-1]) == ["chain", "max_pool", "chain"]


@pytest.mark.parametrize("policy, tolerance", [("mixed_bfloat16", 0.05), ("mixed_float16", 0.01), ("bfloat16", 0.05)])
def test_dtype_policies(policy, tolerance):
    """A head that computes in float32 is no part of the network."""

    def make(x):
        x = chain(chain(x, 6, name="a"), 6, name="b")
        return L.Activation("softmax", dtype="float32", name="end")(L.GlobalAveragePooling2D()(x))

    keras.config.set_dtype_policy(policy)
    try:
        model = functional(make)
        converted = check_network(model, pictures(model), tolerance)
    finally:
        keras.config.set_dtype_policy("float32")
    [network] = networks(converted)
    assert network.dtype_policy.name == policy and Program.from_text(network.program).dtype == policy.split("_")[-1]
    assert converted.layers[-1].name == "end" and converted.output.dtype == "float32"


def test_what_programs_do_not_have_stays():
    """Other layouts, float64, integers."""
    for options in ({"data_format": "channels_first"}, {"dtype": "float64"}):
        model = functional(
            lambda x: L.SeparableConv2D(6, 3, **options)(L.SeparableConv2D(6, 3, padding="same", **options)(x))  # noqa: B023
        )
        assert not networks(tf_dwsconv.convert(model))
    inputs = keras.Input((16, 16, 3), dtype="uint8")
    model = randomise(keras.Model(inputs, chain(chain(L.Rescaling(1 / 255.0)(inputs), 4, name="a"), 4, name="b")))
    x = np.random.default_rng(0).integers(0, 255, (2, 16, 16, 3), dtype="uint8")
    converted = tf_dwsconv.convert(model)
    assert len(networks(converted)) == 1
    assert difference(converted, model, [x]) < 1e-5


def test_free_sizes():
    make = lambda x: L.GlobalMaxPooling2D()(chain(L.UpSampling2D(2)(chain(x, 6, name="a")), 4, stride=2, name="b"))  # noqa: E731
    assert whole(make, (None, None, 5)) == ["chain", "resize", "chain", "max"]


def around(layer):
    """A layer between two convolutions, in a model that is one network."""
    return lambda x: L.SeparableConv2D(4, 3, name="last")(
        layer(L.SeparableConv2D(6, 3, padding="same", name="first")(x))
    )


ONE = {
    "max pooling": (L.MaxPooling2D(3, 2, "same"), ["max_pool"]),
    "average pooling": (L.AveragePooling2D((2, 1)), ["average_pool"]),
    "zeros": (L.ZeroPadding2D(((1, 2), (0, 1))), []),  # go into the convolution behind them
    "crop": (L.Cropping2D(((1, 0), (0, 2))), ["chain"]),
    "nearest": (L.UpSampling2D((2, 3)), ["resize"]),
    "bilinear": (L.UpSampling2D(2, interpolation="bilinear"), ["resize"]),
    "resizing": (L.Resizing(24, 20), ["resize"]),
    "norm": (L.LayerNormalization(), ["normalize"]),
    "softmax": (L.Softmax(), ["softmax"]),
    "hard sigmoid": (L.Activation("hard_sigmoid"), []),
    "leaky": (L.LeakyReLU(negative_slope=0.4), []),
    "prelu": (L.PReLU(shared_axes=[1, 2]), []),
    "bounded": (L.ReLU(max_value=2.0, threshold=0.25), []),
    "dropout": (L.Dropout(0.5), []),
    "rescaling": (L.Rescaling(0.5, 1.0), []),
    "reshape": (L.Reshape((8, 32, 6)), ["reshape"]),
    "grouped": (L.Conv2D(12, 3, groups=6), ["chain"]),
    "dense": (L.Dense(5, activation="gelu"), ["chain"]),
    "dense softmax": (L.Dense(5, activation="softmax"), ["chain", "softmax"]),
    "numbers": (lambda x: 2.0 - x / 3.0, []),
    "an array": (lambda x: keras.ops.maximum(x, np.float32([[0.1] * 6])), ["maximum"]),
    "mean": (lambda x: keras.ops.multiply(x, keras.ops.mean(x, axis=[1, 2], keepdims=True)), ["mean", "multiply"]),
    "max": (lambda x: x + keras.ops.max(x, axis=(1, 2), keepdims=True), ["max", "add"]),
    "pad": (lambda x: keras.ops.pad(x, [[0, 0], [1, 1], [2, 0], [0, 2]]), ["pad"]),
    "resize": (lambda x: keras.ops.image.resize(x, (20, 20), interpolation="nearest"), ["resize"]),
    "average": (lambda x: L.Average()([x, L.ReLU()(x), x]), ["activation", "add", "add", "multiply"]),
    "minimum": (lambda x: L.Minimum()([x, L.MaxPooling2D(3, 1, "same")(x)]), ["max_pool", "minimum"]),
    "subtract": (lambda x: L.Subtract()([x, L.AveragePooling2D(3, 1, "same")(x)]), ["average_pool", "subtract"]),
    "concatenate": (lambda x: keras.ops.concatenate([x, L.ReLU()(x)], axis=-1), ["activation", "concatenate"]),
    "squeeze": (
        lambda x: x * keras.ops.expand_dims(L.Dense(6, activation="sigmoid")(L.GlobalAveragePooling2D()(x)), (1, 2)),
        ["mean", "dense", "reshape", "multiply"],
    ),
}


@pytest.mark.parametrize("what", ONE)
def test_layers_in_a_network(what):
    layer, expected = ONE[what]
    if isinstance(layer, L.Layer):
        layer = type(layer).from_config(layer.get_config())
    found = whole(around(layer))
    middle = [op for op in found if op != "chain"]
    assert middle == [op for op in expected if op != "chain"]
    assert found.count("chain") <= 2 + expected.count("chain")


def test_a_factor_goes_through_a_relu():
    """As in MobileNetV3: `relu6(x + 3) / 6` is one step with the convolution in front of it."""

    def make(x):
        x = chain(x, 6, name="a")
        gate = L.Conv2D(6, 1, name="squeeze")(L.GlobalAveragePooling2D(keepdims=True)(x))
        return L.Conv2D(4, 1)(L.Multiply()([x, L.ReLU(6.0)(gate + 3.0) * (1 / 6)]))

    assert whole(make) == ["chain", "mean", "chain", "chain"]


def test_a_dense_convolution_takes_what_stands_around_it():
    """Zeros in front, the residual and the activation behind."""

    def make(x):
        x = chain(x, 6, name="a")
        y = L.Conv2D(6, 3, name="dense")(L.ZeroPadding2D(1)(x))
        return chain(L.ReLU()(L.Add()([x, y])), 400, name="b")

    assert whole(make) == ["chain"] * 3


def test_branches_that_begin_alike():
    """As in NASNet: each branch has a ReLU of its own of one tensor, and two average the same: each once."""

    def make(x):
        x = chain(x, 8, name="stem")
        branches = [chain(L.ReLU()(x), 8, name=name) for name in "ab"]
        means = [L.AveragePooling2D(3, 1, "same")(x) for _ in range(2)]
        return L.Add()([*branches, *means])

    found = whole(make, (16, 16, 6))
    assert found.count("activation") == 1 and found.count("average_pool") == 1


@pytest.mark.parametrize("pool", [L.MaxPooling2D, L.AveragePooling2D])
@pytest.mark.parametrize("sizes", [(16, 16), (15, 17), (None, None)], ids=str)
def test_pools_of_one_pixel(sizes, pool):
    """They leave pixels out, which nobody computes then; NASNet takes every other one, and those beside them."""

    def make(x):
        x = chain(x, 8, name="stem")
        moved = L.Cropping2D(((1, 0), (1, 0)))(L.ZeroPadding2D(((0, 1), (0, 1)))(x))
        halves = [L.Conv2D(6, 1)(pool(1, strides, "valid")(y)) for y, strides in ((x, 2), (moved, (2, 2)))]
        both = L.Concatenate()(halves)
        return L.Add()([pool(1, 2, "same")(L.DepthwiseConv2D(5, padding="same")(both)), pool(1, 2)(both)])

    found = whole(make, (*sizes, 6))
    assert found.count("max_pool") + found.count("average_pool") == 1  # of what is read elsewhere, too


def test_results_that_are_alike():
    """Each keeps its name, whatever else is the same."""
    model = functional(lambda x: (lambda z: [L.ReLU(name=n)(z) for n in "pq"])(chain(x, 8)), (16, 16, 6))
    converted = check_network(model, pictures(model))
    assert converted.output_names == model.output_names


@pytest.mark.parametrize("filters", [2, 64])
def test_dense_convolutions_of_many_channels(filters):
    """As blocks they stay TensorFlow's; each that stayed out of a network would cut it in two."""

    def make(x):
        x = chain(x, 32, name="a")
        x = L.Conv2D(filters, 3, padding="same", name="dense")(x)
        return L.GlobalAveragePooling2D()(chain(x, 64, name="b"))

    model = functional(make, (16, 16, 32))
    blocks, network = tf_dwsconv.convert(model, fuse="blocks"), tf_dwsconv.convert(model)
    assert type(blocks.get_layer("dense")) is L.Conv2D
    assert len(network.layers) == 2 and len(networks(network)) == 1
    check(model)


@pytest.mark.parametrize("kernel", [1, 3])
def test_pixels_left_out_of_a_residual(kernel):
    """A pool of one pixel on the way around a convolution, as in ResNetV2, whose step reads it beside its own input."""

    def make(x):
        x = chain(x, 6, name="a")
        y = L.ReLU()(L.Conv2D(6, kernel, strides=2, padding="same")(x))
        return L.Add()([L.MaxPooling2D(1, strides=2)(x), L.Conv2D(6, 1)(y)])

    assert whole(make, (16, 16, 5)) == ["chain", "chain", "max_pool", "chain"]


def test_words_and_doubles():
    """`fuse` is one of two words; a converted model stays as it is."""
    model = functional(around(L.ReLU()))
    with pytest.raises(ValueError, match="`fuse` must be 'network' or 'blocks'; given 'all'"):
        tf_dwsconv.convert(model, fuse="all")
    once = tf_dwsconv.convert(model)
    again = tf_dwsconv.convert(once)
    assert [layer.name for layer in again.layers] == [layer.name for layer in once.layers]
    assert difference(again, once, pictures(model)) < 1e-7
    assert not networks(tf_dwsconv.convert(model, training=True))
    frozen = functional(around(L.ReLU()))
    frozen.trainable = False
    assert tf_dwsconv.convert(frozen).trainable_variables == []
    check(model)
