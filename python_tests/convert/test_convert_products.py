"""Products of tensors, or of a tensor and an array: `matmul`, `dot`, `einsum` and EinsumDense in programs."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest
from convert_support import check, difference, functional, pictures
from follow_support import one_program

import tf_dwsconv
from tf_dwsconv import FusedNetwork

pytestmark = pytest.mark.usefixtures("op_library")

L = keras.layers
ops = keras.ops


def among_convolutions(multiply):
    """`multiply` between convolutions, which make it worth a program; its result may have any rank."""

    def make(*xs):
        return multiply(*(L.DepthwiseConv2D(1, name=f"first{i}")(x) for i, x in enumerate(xs)))

    return make


def steps(model):
    [network] = [layer for layer in model.layers if isinstance(layer, FusedNetwork)]
    return [step["op"] for step in json.loads(network.program)["steps"]]


def numbers(*shape, seed=3):
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def becomes(multiply, shapes, expected=None):
    """Checks that a product becomes a program, of some steps."""
    model = functional(among_convolutions(multiply), *shapes)
    converted = one_program(model)
    if expected is not None:
        assert steps(converted)[len(shapes) :] == expected
    check(model)


@pytest.mark.parametrize(("multiply", "shapes", "expected"), [
    (lambda x, y: x @ y, [(3, 5, 4), (3, 4, 6)], ["matmul"]),
    (lambda x, y: ops.matmul(x, ops.swapaxes(y, -1, -2)), [(3, 5, 4), (3, 6, 4)], ["matmul"]),
    (lambda x, y: ops.matmul(ops.transpose(x, (0, 1, 3, 2)), y), [(3, 4, 5), (3, 4, 6)], ["matmul"]),
    (lambda x, y: L.Permute((1, 3, 2))(ops.matmul(L.Permute((1, 3, 2))(x), y)), [(3, 4, 5), (3, 4, 6)], ["matmul"]),
    (lambda x: ops.matmul(x, ops.swapaxes(x, 2, 3)), [(3, 4, 5)], ["matmul"]),
    (lambda x, y: ops.matmul(L.Reshape((5, 12))(x), L.Reshape((12, 2))(y)), [(3, 5, 4), (3, 4, 2)], None),
    (lambda x: x @ numbers(4, 7), [(3, 5, 4)], ["dense"]),
    (lambda x: ops.dot(x, numbers(4, 7)), [(3, 5, 4)], ["dense"]),
    (lambda x: ops.matmul(L.Flatten()(x), numbers(60, 7)), [(3, 5, 4)], ["reshape", "dense"]),
    (lambda x: ops.einsum("abcd,edf->abce", x, numbers(7, 4, 2)), [(3, 5, 4)], ["dense"]),
    (lambda x: ops.matmul(numbers(7, 5), x), [(3, 5, 4)], ["transpose", "dense", "transpose"]),
])  # fmt: skip
def test_matmul(multiply, shapes, expected):
    becomes(multiply, shapes, expected)


@pytest.mark.parametrize(("multiply", "shapes"), [
    (lambda x, y: ops.matmul(x, y), [(3, 5, 4), (1, 4, 6)]),
    (lambda x, y: ops.matmul(x, L.Reshape((4, 6))(y)), [(2, 5, 4), (2, 3, 4)]),
    (lambda x: ops.matmul(x, numbers(4)), [(3, 5, 4)]),
    (lambda x: ops.matmul(x, numbers(3, 4, 2)), [(3, 5, 4)]),
    (lambda x: ops.dot(x, numbers(2, 4, 3)), [(3, 5, 4)]),
    (lambda x, y: ops.einsum("nabc,bncd->nad", x, y), [(2, 2, 4), (2, 4, 6)]),
    (lambda x, y: ops.einsum("nabc,nbcd->nd", x, y), [(3, 5, 4), (5, 4, 6)]),
    (lambda x, y: ops.einsum("n...c,n...c->n...", x, y), [(3, 5, 4), (3, 5, 4)]),
    (lambda x: ops.einsum("nabc,acd->nabd", x, numbers(3, 4, 2)), [(3, 5, 4)]),
    (lambda x: ops.einsum("nabc,cd->nad", x, numbers(4, 2)), [(3, 5, 4)]),
    (lambda x: ops.einsum("nabc,nd->nabcd", x, numbers(2, 2)), [(3, 5, 4)]),
])  # fmt: skip
def test_what_stays(multiply, shapes):
    """Above all what broadcasts a batch or another axis."""
    inputs = [keras.Input(shape, 2) for shape in shapes]
    try:
        model = keras.Model(inputs, L.ReLU()(among_convolutions(multiply)(*inputs)))
    except Exception:
        pytest.skip("this Keras refuses it")
    converted = tf_dwsconv.convert(model)
    words = {type(operation).__name__ for operation in converted.operations}
    assert words & {"Matmul", "Dot", "Einsum"}
    given = [numbers(2, *shape, seed=i) for i, shape in enumerate(shapes)]
    assert difference(converted, model, given) < 1e-5


def test_a_batch_of_one_is_multiplied_with_all():
    inputs = [keras.Input((3, 5, 4)), keras.Input(batch_shape=(1, 3, 4, 2))]
    y = ops.matmul(*(L.DepthwiseConv2D(1)(x) for x in inputs))
    model = keras.Model(inputs, L.DepthwiseConv2D(1)(L.ReLU()(y)))
    given = [numbers(6, 3, 5, 4), numbers(1, 3, 4, 2)]
    assert difference(tf_dwsconv.convert(model), model, given) < 1e-5


@pytest.mark.parametrize(("equation", "left", "right", "expected"), [
    ("bthd,bshd->bhts", (5, 2, 3), (4, 2, 3), ["transpose", "transpose", "matmul"]),
    ("bhtd,bhsd->bhst", (2, 5, 3), (2, 4, 3), ["matmul"]),
    ("bhts,bshd->bthd", (2, 5, 4), (4, 2, 3), ["transpose", "matmul", "transpose"]),
    ("abcd,aecd->acbe", (5, 2, 3), (4, 2, 3), None),
    ("abcd,abcd->abcd", (5, 2, 3), (5, 2, 3), None),
    ("abcd,aefg->aebfcgd", (2, 3, 2), (4, 2, 3), None),
])  # fmt: skip
def test_einsum_of_tensors(equation, left, right, expected):
    becomes(lambda x, y: ops.einsum(equation, x, y), [left, right], expected)


def random_equation(rng, is_constant):
    """Letters of two operands and a result, and sizes; the batch is `a`."""
    kinds = {letter: rng.choice(["both", "inner", "left", "right"]) for letter in "bcdefg"}
    if is_constant:
        kinds = {letter: "inner" if kind == "both" else kind for letter, kind in kinds.items()}
    terms = [[k for k in kinds if kinds[k] in there] for there in (
        ("both", "inner", "left"), ("both", "inner", "right"), ("both", "left", "right"))]  # fmt: skip
    terms = ["".join(rng.permutation(term)) if term else "" for term in terms]
    front = ("a", "" if is_constant else "a", "a")
    return [a + b for a, b in zip(front, terms)], {letter: int(rng.integers(1, 4)) for letter in kinds}


@pytest.mark.parametrize("seed", range(40))
def test_random_einsum(seed):
    """Against NumPy in float64, for every way in which axes may stand."""
    rng = np.random.default_rng(seed)
    is_constant = bool(seed % 2)
    while True:
        terms, sizes = random_equation(rng, is_constant)
        if len(terms[0]) == 4 and (is_constant or len(terms[1]) == 4) and terms[1] and len(terms[2]) >= 2:
            break
    equation = f"{terms[0]},{terms[1]}->{terms[2]}"
    shapes = [tuple(sizes[letter] for letter in term if letter != "a") for term in terms[:2]]
    if is_constant:
        array = rng.standard_normal(shapes.pop()).astype("float32")
    inputs = [keras.Input(shape) for shape in shapes]

    def first(x):
        return L.DepthwiseConv2D(1, depthwise_initializer="ones", use_bias=False)(x)

    y = ops.einsum(equation, *map(first, inputs), *([array] if is_constant else []))
    model = keras.Model(inputs, ops.square(y) + 1.0)
    given = [rng.standard_normal((3, *shape)).astype("float32") for shape in shapes]
    converted = tf_dwsconv.convert(model)
    found = [type(layer) for layer in converted.layers if not isinstance(layer, L.InputLayer)]
    assert found == [FusedNetwork], equation
    operands = [x.astype(np.float64) for x in (*given, *([array] if is_constant else []))]
    expected = np.einsum(equation, *operands) ** 2 + 1
    for network in (converted, tf_dwsconv.to_builtin(converted)):
        np.testing.assert_allclose(network(given if len(given) > 1 else given[0]), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("equation", "shape", "options", "expected"), [
    ("abcd,def->abcef", (5, 4, 2, 3), {"bias_axes": "ef"}, ["dense", "reshape"]),
    ("abcd,def->abcef", (5, 4, 2, 3), {"bias_axes": "f", "activation": "relu"}, ["dense", "reshape"]),
    ("abcd,def->abcfe", (5, 4, 3, 2), {"bias_axes": "fe", "activation": "softmax"}, ["dense", "reshape", "softmax"]),
    ("abcd,cde->abe", (5, 6), {"activation": "hard_sigmoid"}, ["reshape", "dense"]),
    ("abcd,cde->abe", (5, 6), {"bias_axes": "e", "activation": "silu"}, ["reshape", "dense"]),
    ("abcd,cef->aebdf", (2, 5, 3, 3), {"bias_axes": "bf", "activation": "tanh"}, None),
    ("abcd,d->abc", (5, 4), {}, None),
    ("abcd,ef->abcdef", (5, 4, 3, 2, 3), {"bias_axes": "ef"}, None),
    ("abcd,cd->abcd", (5, 4, 3), {"bias_axes": "cd", "activation": "gelu"}, ["multiply", "add"]),
])  # fmt: skip
def test_einsum_dense(equation, shape, options, expected):
    model = functional(among_convolutions(lambda x: L.EinsumDense(equation, shape, **options)(x)), (5, 4, 3))
    words = steps(one_program(model))[1:]
    assert expected is None or words == expected
    check(model)


def test_einsum_dense_of_unknown_sizes():
    def make(x):
        return L.ReLU()(L.EinsumDense("abcd,de->abce", (None, None, 6), bias_axes="e")(L.Conv2D(3, 3)(x)))

    model = functional(make, (None, None, 4))
    one_program(model)
    check(model)


def test_quantized_and_low_rank_layers():
    """Filters in whole numbers stay; small changes to a filter are part of it."""

    def make(x):
        return L.ReLU()(L.EinsumDense("abcd,de->abce", (None, None, 6), bias_axes="e", name="e")(L.Conv2D(3, 3)(x)))

    model = functional(make, (6, 6, 4))
    model.get_layer("e").enable_lora(2)
    for variable in model.get_layer("e").trainable_variables:
        variable.assign(numbers(*variable.shape))
    assert difference(one_program(model), model, pictures(model)) < 1e-5
    model = functional(make, (6, 6, 4))
    model.get_layer("e").quantize("int8")
    assert any(type(layer) is L.EinsumDense for layer in tf_dwsconv.convert(model).layers)


def test_residuals_of_a_product_with_a_filter():
    """A sum goes into the product as its residual; what scales the sum stays behind it."""

    def scaled(x):
        x = L.Reshape((15, 4))(x)
        return L.ReLU()(L.BatchNormalization()(L.Add()([L.Dense(4)(x), x])))

    def in_between(x):
        x = L.Reshape((15, 4))(x)
        return L.ReLU()(L.Add()([x, L.Dense(4)(L.Dense(9, activation="relu")(x))]))

    becomes(scaled, [(3, 5, 4)], ["reshape", "dense", "multiply", "add"])
    becomes(in_between, [(3, 5, 4)], ["reshape", "dense", "dense"])
    becomes(lambda x: L.Add()([L.Dense(4)(x), ops.max(x, axis=[1, 2], keepdims=True)]), [(3, 5, 4)])


def windows(x):
    """Of 4 x 4 pixels, merged with the batch: a convolution and attention in each, and back."""
    y = ops.transpose(ops.reshape(x, (-1, 2, 4, 2, 4, 6)), (0, 1, 3, 2, 4, 5))
    y = L.Conv2D(6, 3, padding="same", activation="relu")(ops.reshape(y, (-1, 4, 4, 6)))
    y = L.Reshape((16, 6))(y)
    y = L.MultiHeadAttention(2, 3)(y, y)
    y = ops.transpose(ops.reshape(y, (-1, 2, 2, 4, 4, 6)), (0, 1, 3, 2, 4, 5))
    return L.Add()([x, ops.reshape(y, (-1, 8, 8, 6))])


def test_windows_that_are_merged_with_the_batch():
    becomes(windows, [(8, 8, 6)])
    model = functional(among_convolutions(windows), (8, 8, 6))
    converted = one_program(model)
    pictures_of = [step.get("pictures") for step in json.loads(converted.layers[-1].program)["steps"]]
    assert [1, 4] in pictures_of and [4, 1] in pictures_of
    x = numbers(5, 8, 8, 6)
    for n in (0, 1, 5):
        np.testing.assert_allclose(converted(x[:n]), model(x[:n]), atol=1e-5)
    np.testing.assert_allclose(converted.predict(x, batch_size=2, verbose=0), model(x), atol=1e-5)
    np.testing.assert_allclose(tf_dwsconv.to_builtin(converted)(x), model(x), atol=1e-5)


def test_pictures_that_are_parts_of_none():
    """What fits some batches alone, and sizes that only a call knows, stay Keras'."""
    with_ends = among_convolutions(lambda x: L.ReLU()(L.Conv2D(6, 1)(ops.reshape(x, (-1, 5, 8, 8)))))
    model = functional(with_ends, (8, 8, 6))
    converted = tf_dwsconv.convert(model)
    assert any(type(operation).__name__ == "Reshape" for operation in converted.operations)
    np.testing.assert_allclose(converted(numbers(5, 8, 8, 6)), model(numbers(5, 8, 8, 6)), atol=1e-5)


def test_parts_of_parts():
    """Reshapes one behind the other are one."""

    def make(x):
        y = ops.reshape(ops.reshape(x, (-1, 4, 8, 6)), (-1, 2, 8, 6))
        y = L.Conv2D(6, 3, padding="same")(y)
        return L.ReLU()(ops.reshape(ops.reshape(y, (-1, 4, 8, 6)), (-1, 8, 8, 6)))

    becomes(make, [(8, 8, 6)], ["reshape", "chain", "reshape", "activation"])
