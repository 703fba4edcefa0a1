"""Crops, transpositions and `depth_to_space` of any shape in `native.Network`, bit for bit; what is wrong with them."""

from __future__ import annotations

import numpy as np
import pytest
from program_reference import DTYPES, OPS, Builder

from tf_dwsconv import native


def check(step: str, x: np.ndarray, dtype: str, **attributes) -> None:
    """Against NumPy, of shapes that are known and of those that a call brings, on one thread and on three."""
    expected = OPS[step]({"x": 0, **attributes}, {0: x.astype(np.float64)}, {}).astype(DTYPES[dtype])
    for shape in (x.shape, [None] * x.ndim):
        b = Builder(dtype)
        b.output(b.step(step, b.input(shape), **attributes))
        network = native.Network.from_program(b.text, b.weights)
        for threads in (1, 3):
            found = network(x, num_threads=threads)
            assert found.shape == expected.shape and found.tobytes() == expected.tobytes(), (attributes, x.shape)


def numbers(rng, shape, dtype: str) -> np.ndarray:
    return rng.standard_normal(shape).astype(DTYPES[dtype])


# Sizes beside those at which loops change: planes of tiles, some groups of many channels, axes of one element.
SHAPES = [
    (2, 17, 33), (1, 16, 300), (3, 300, 7), (2, 8, 257), (2, 5, 6, 58), (1, 3, 4, 2, 29), (2, 1, 7, 1, 9),
    (1, 2, 3, 4, 5, 6), (0, 4, 5), (2, 3, 1, 2, 3, 2, 1, 4), (1, 64, 64, 3), (5,), (1, 1, 1),
]  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_transpose(shape, dtype):
    rng = np.random.default_rng(sum(shape))
    x = numbers(rng, shape, dtype)
    rank = len(shape)
    orders = [range(1, rank), range(rank - 1, 0, -1), *(1 + rng.permutation(rank - 1) for _ in range(6))]
    for order in orders:
        check("transpose", x, dtype, axes=[0, *map(int, order)])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [shape for shape in SHAPES if len(shape) > 1], ids=str)
def test_crop(shape, dtype):
    """With axes of which nothing is left, too."""
    rng = np.random.default_rng(sum(shape))
    x = numbers(rng, shape, dtype)
    for _ in range(8):
        cuts = [rng.integers(0, n // 2 + 1) if rng.random() < 0.6 else 0 for n in shape for _ in range(2)]
        check("crop", x, dtype, croppings=[[0, 0], *([int(a), int(b)] for a, b in zip(cuts[2::2], cuts[3::2]))])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("block", [[1, 1], [2, 2], [1, 3], [4, 2], [3, 5]], ids=str)
def test_depth_to_space(block, dtype):
    rng = np.random.default_rng(sum(block))
    for channels in (1, 3, 16):
        x = numbers(rng, (2, 5, 7, block[0] * block[1] * channels), dtype)
        check("depth_to_space", x, dtype, block=block)
        for _ in range(4):
            cuts = [[int(rng.integers(0, 5 * n // 2 + 1)) for _ in range(2)] for n in block]
            check("depth_to_space", x, dtype, block=block, croppings=cuts)


WRONG = {
    "rank": ("crop", {"croppings": [[0, 0], [1, 0]]}, "croppings must be a pair >= 0 for each of 4 axes"),
    "more than there is": (
        "crop", {"croppings": [[0, 0], [0, 0], [3, 4], [0, 0]]},
        r"croppings must take no more than x has, \[2,8,6,4\]; given \[0,0,0,0,3,4,0,0\]",
    ),
    "no numbers": ("crop", {"croppings": [[0, 0], [0.5, 0], [0, 0], [0, 0]]}, "croppings must be a whole number"),
    "nothing": ("crop", {}, "croppings must be a pair"),
    "axes": ("transpose", {"axes": [0, 1, 2]}, r"axes must be the numbers 0 to 3 in any order, 0 first; given \[0,1"),
    "no axes": ("transpose", {}, "axes must be the numbers 0 to 3"),
    "a large axis": ("transpose", {"axes": [0, 2**53, 1, 2]}, "axes must be the numbers 0 to 3"),
    "a block": ("depth_to_space", {"block": [3, 1]}, r"block must divide the channels of x, \[2,8,6,4\], among its"),
    "no block": ("depth_to_space", {}, "block must be two numbers >= 1"),
    "a large block": ("depth_to_space", {"block": [2**53, 2**53]}, "block must be two numbers >= 1 whose product fits"),
    "all pixels": ("depth_to_space", {"block": [2, 2], "croppings": [[9, 8], [0, 0]]}, "take no more than there is"),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong(what):
    """With sizes that the program says, and with those of a call."""
    op, attributes, message = WRONG[what]
    for shape in ([2, 8, 6, 4], [None] * 4):
        b = Builder()
        b.output(b.step(op, b.input(shape), **attributes))
        with pytest.raises(ValueError, match=message if shape[0] else message.split(", ")[0]):
            native.Network.from_program(b.text, b.weights)(np.zeros((2, 8, 6, 4), np.float32))


def test_too_many_axes():
    b = Builder()
    b.output(b.step("transpose", b.input([1] * 9), axes=list(range(9))))
    with pytest.raises(ValueError, match="x must have at most 8 axes"):
        native.Network.from_program(b.text, b.weights)


def test_a_profile_counts_what_is_moved():
    b = Builder()
    b.output(b.step("crop", b.input([1, 64, 64, 8]), croppings=[[0, 0], [0, 32], [0, 0], [0, 0]]))
    [row] = native.Network.from_program(b.text, b.weights).profile(np.zeros((1, 64, 64, 8), np.float32), repeats=1)
    assert row["op"] == "crop" and row["shape"] == (1, 32, 64, 8) and row["gbs"] > 0
