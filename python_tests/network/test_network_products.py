"""Products of two tensors in programs: by every instruction set and type, turned or not, and as stock ops have them."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from native_support import ISAS
from program_reference import DTYPES, Builder

from tf_dwsconv import native
from tf_dwsconv._program import Program
from tf_dwsconv._tf import program as programs
from tf_dwsconv._tf import program_stock

pytestmark = pytest.mark.usefixtures("op_library")

UNIT = {"float32": 2.0**-24, "bfloat16": 2.0**-8, "float16": 2.0**-11}

# The axes in front, rows, the sum's length, columns: one row, one column, no whole vectors, more than a tile, many
# matrices, and so few of so many rows that threads share them.
SIZES = [
    ((), 1, 5, 3), ((), 7, 1, 1), ((2,), 49, 32, 49), ((2, 3), 16, 17, 65), ((40,), 3, 4, 5), ((), 300, 64, 130),
    ((), 1, 70, 200), ((3,), 57, 33, 31),
]  # fmt: skip


def product(front, rows, inner, columns, turns_x, turns_y, dtype):
    """A program of one product, and random inputs for two pictures."""
    b = Builder(dtype)
    x, y = [rows, inner], [inner, columns]
    shapes = [[None, *front, *(x[::-1] if turns_x else x)], [None, *front, *(y[::-1] if turns_y else y)]]
    options = {"transpose_x": True} if turns_x else {}
    options.update({"transpose_y": True} if turns_y else {})
    b.output(b.step("matmul", *(b.input(shape) for shape in shapes), **options))
    rng = np.random.default_rng(rows + inner)
    return b, [rng.uniform(-1, 1, (2, *shape[1:])).astype(DTYPES[dtype]) for shape in shapes]


def close(y, expected, inner, dtype):
    """Sums of `inner` products of numbers below 1, each rounded to float32; both results to their type."""
    allowed = 2 * inner * 2.0**-24 * inner**0.5 + 2 * UNIT[dtype] * np.abs(expected)
    assert y.shape == expected.shape
    assert (np.abs(np.asarray(y).astype(np.float64) - expected) <= allowed).all()


@pytest.mark.parametrize("turns", [(False, False), (False, True), (True, False), (True, True)])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("front, rows, inner, columns", SIZES)
def test_products(front, rows, inner, columns, dtype, turns):
    b, inputs = product(front, rows, inner, columns, *turns, dtype)
    [expected] = b.expect(*inputs)
    before = native.calls()["network_products"]
    for isa in ISAS:
        network = native.Network.from_program(b.text, b.weights, isa=isa)
        found = [network(inputs, num_threads=threads) for threads in (1, 2, 3)]
        close(found[0], expected, inner, dtype)
        assert len({y.tobytes() for y in found}) == 1
    assert native.calls()["network_products"] == before + 3 * len(ISAS)
    tensors = [tf.constant(x) for x in inputs]
    for compute in (programs.run, program_stock.compute):
        [y] = compute(Program.from_text(b.text), tensors, tf.constant(b.weights))
        close(tf.cast(y, tf.float64).numpy(), expected, inner, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_nothing_to_sum_and_no_pictures(dtype):
    b, inputs = product((2,), 3, 0, 4, False, True, dtype)
    network = native.Network.from_program(b.text, b.weights)
    assert network(inputs).shape == (2, 2, 3, 4) and not network(inputs).astype(np.float32).any()
    b, inputs = product((), 3, 4, 5, True, False, dtype)
    assert native.Network.from_program(b.text, b.weights)([x[:0] for x in inputs]).shape == (0, 3, 5)
    [y] = programs.run(Program.from_text(b.text), [tf.constant(x[:0]) for x in inputs], tf.constant(b.weights))
    assert y.shape == (0, 3, 5)


def test_numbers_that_are_none():
    """NaN and infinity reach the rows and columns that they are in, and no others."""
    b, (x, y) = product((), 20, 33, 40, False, True, "float32")
    x[0, 3, 32], y[1, 17, 5] = np.nan, np.inf
    for isa in ISAS:
        found = native.Network.from_program(b.text, b.weights, isa=isa)([x, y])
        wrong = ~np.isfinite(found)
        expected = np.zeros_like(wrong)
        expected[0, 3], expected[1, :, 17] = True, True
        assert np.array_equal(wrong, expected)


@pytest.mark.parametrize("turns", [(False, False), (True, True)])
def test_gradients(turns):
    b, inputs = product((2,), 5, 6, 7, *turns, "float32")
    program, found = Program.from_text(b.text), []
    for compute in (programs.run, program_stock.compute):
        tensors = [tf.constant(x) for x in inputs]
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            [y] = compute(program, tensors, tf.constant(b.weights))
            loss = tf.reduce_sum(y**2)
        found.append(tape.gradient(loss, tensors))
    for ours, stock in zip(*found):
        np.testing.assert_allclose(ours, stock, rtol=1e-5, atol=1e-5)


def test_attention_by_images():
    """As many pictures as go one at a time through the first steps: attention over 49 pixels, of 4 heads."""
    b = Builder()
    x = b.input([None, 7, 7, 32])
    w = lambda *shape: np.random.default_rng(sum(shape)).uniform(-0.3, 0.3, shape)  # noqa: E731
    start = b.step("chain", x, weights={"depthwise_filter": w(3, 3, 32, 1)})
    rows = b.step("reshape", start, shape=[49, 32])
    parts = []
    for seed in range(3):
        part = b.step("dense", rows, weights={"filter": w(32, 32) + seed * 0.05, "bias": w(32)})
        parts.append(b.step("transpose", b.step("reshape", part, shape=[49, 4, 8]), axes=[0, 2, 1, 3]))
    scores = b.step("matmul", parts[0], parts[1], transpose_y=True)
    mixed = b.step("matmul", b.step("softmax", scores), parts[2])
    back = b.step("reshape", b.step("transpose", mixed, axes=[0, 2, 1, 3]), shape=[7, 7, 32])
    b.output(b.step("add", b.step("dense", back, weights={"filter": w(32, 32)}), x))
    inputs = np.random.default_rng(0).uniform(-1, 1, (16, 7, 7, 32)).astype("float32")
    [expected] = b.expect(inputs)
    before = native.calls()["network_by_image"]
    for isa in ISAS:
        y = native.Network.from_program(b.text, b.weights, isa=isa)(inputs, num_threads=2)
        np.testing.assert_allclose(y, expected, atol=1e-5)
    assert native.calls()["network_by_image"] == before + len(ISAS)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [[None, 24], [None, 7, 24], [None, 3, 5, 24]])
def test_residuals_of_a_product_with_a_filter(shape, dtype):
    """One that ends there, whose memory the result takes, and one that is read again."""
    b = Builder(dtype)
    x, w = b.input(shape), np.random.default_rng(0).uniform(-0.2, 0.2, (24, 24))
    ends = b.step("activation", x, activation={"word": "tanh"})
    y = b.step("dense", x, weights={"filter": w, "bias": w[0]}, residual=ends, activation={"word": "silu"})
    b.output(
        b.step("dense", y, weights={"filter": w}, residual=x), b.step("dense", x, weights={"filter": w}, residual=x)
    )
    inputs = np.random.default_rng(1).uniform(-1, 1, [3, *shape[1:]]).astype(DTYPES[dtype])
    expected = b.expect(inputs)
    for isa in ISAS:
        for y, wanted in zip(native.Network.from_program(b.text, b.weights, isa=isa)(inputs), expected):
            np.testing.assert_allclose(np.float64(y), wanted, rtol=0, atol=8 * UNIT[dtype] + 1e-6)


@pytest.mark.parametrize("shapes, options, message", [
    (([None, 3], [None, 3]), {}, "rank 3 or more"),
    (([None, 2, 3], [None, 2, 2, 3]), {}, "in all axes but the last two"),
    (([None, 4, 2, 3], [None, 5, 3, 2]), {}, "in all axes but the last two"),
    (([None, 2, 3], [None, 2, 3]), {}, "as many rows as"),
    (([None, 2, 3], [None, 3, 2]), {"transpose_x": True, "transpose_y": False}, "as many rows as"),
])  # fmt: skip
def test_what_a_product_needs(shapes, options, message):
    b = Builder()
    b.output(b.step("matmul", *(b.input(shape) for shape in shapes), **options))
    with pytest.raises(ValueError, match=message):
        native.Network.from_program(b.text, b.weights)
    xs = [tf.zeros([1 if size is None else size for size in shape]) for shape in shapes]
    with pytest.raises(ValueError, match=message):
        program_stock.compute(Program.from_text(b.text), xs, tf.constant(b.weights))


@pytest.mark.parametrize("step, message", [
    ({"transpose_y": 1}, "transpose_y must be true or false"),
    ({"transpose_z": True}, "transpose_z"),
    ({"activation": {"word": "relu"}}, "activation"),
])  # fmt: skip
def test_keys_of_a_product(step, message):
    b = Builder()
    b.output(b.step("matmul", b.input([None, 2, 2]), b.input([None, 2, 2]), **step))
    for make in (Program.from_text, lambda text: native.Network.from_program(text, b.weights)):
        with pytest.raises(ValueError, match=message):
            make(b.text)


def test_a_product_needs_y():
    b = Builder()
    b.output(b.step("matmul", b.input([None, 2, 2])))
    for make in (Program.from_text, lambda text: native.Network.from_program(text, b.weights)):
        with pytest.raises(ValueError, match=r"'y'|y must be given"):
            make(b.text)
