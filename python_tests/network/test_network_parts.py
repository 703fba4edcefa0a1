"""Tensors inside others, to be concatenated or cropped: the bits are those of tensors that are copied."""

from __future__ import annotations

import numpy as np
import pytest
from native_support import ISAS
from program_reference import DTYPES, Builder

from tf_dwsconv import native

H, W, C = 12, 14, 20
RNG = np.random.default_rng(3)


def drawn(*shape):
    return RNG.standard_normal(shape) * np.prod(shape[:-1]) ** -0.5


def chain(filters, b, x, channels=C, **options):
    made = {"depthwise_filter": drawn(3, 3, channels, 1), "pointwise_filter": drawn(1, 1, channels, filters)}
    made["bias"] = drawn(filters)
    return b.step("chain", x, weights=made, **options)


def expanded(b, x):
    made = {"expand_filter": drawn(1, 1, C, 64), "depthwise_filter": drawn(3, 3, 64, 1)}
    return b.step("chain", x, weights={**made, "pointwise_filter": drawn(1, 1, 64, 40)})


def residual(b, x):
    y = chain(C, b, x, activation={"word": "silu"})
    b.program["steps"][-1]["residual"] = x
    return y


PRODUCERS = {  # of [N, H, W, C], and of half as many rows and columns; each gives the larger size
    "whole lines": lambda b, x, s: chain(64, b, x, activation={"word": "relu"}),
    "no whole vectors": lambda b, x, s: chain(7, b, x),
    "one channel": lambda b, x, s: chain(1, b, x, activation={"word": "silu"}),
    "activation in Y": lambda b, x, s: chain(48, b, x, activation={"word": "silu"}),
    "many channels": lambda b, x, s: chain(200, b, x, activation={"word": "gelu"}),
    "residual": lambda b, x, s: residual(b, x),
    "depthwise": lambda b, x, s: b.step("chain", x, weights={"depthwise_filter": drawn(3, 3, C, 1)}),
    "multiplier": lambda b, x, s: b.step("chain", x, weights={"depthwise_filter": drawn(3, 3, C, 3)}),
    "expansion": lambda b, x, s: expanded(b, x),
    "expansion alone": lambda b, x, s: b.step(
        "chain", x, weights={"expand_filter": drawn(1, 1, C, 32), "depthwise_filter": drawn(5, 5, 32, 1)}
    ),
    "pointwise": lambda b, x, s: b.step("chain", x, weights={"pointwise_filter": drawn(1, 1, C, 33)}),
    "dense": lambda b, x, s: b.step("chain", x, weights={"pointwise_filter": drawn(3, 3, C, 24)}),
    "largest": lambda b, x, s: b.step("max_pool", x, window=[3, 3], strides=[1, 1], padding="same"),
    "average": lambda b, x, s: b.step("average_pool", x, window=[3, 2], strides=[1, 1], padding="same"),
    "nearest": lambda b, x, s: b.step("resize", s, scale=[2, 2], method="nearest"),
    "bilinear": lambda b, x, s: b.step("resize", s, size=[H, W], method="bilinear"),
    "pixels side by side": lambda b, x, s: b.step(
        "depth_to_space",
        b.step("chain", s, weights={"pointwise_filter": drawn(1, 1, C, 4 * 12)}),
        block=[2, 2],
    ),
    "side by side, cropped": lambda b, x, s: b.step(
        "depth_to_space",
        b.step("chain", s, weights={"pointwise_filter": drawn(1, 1, C, 9 * 5)}),
        block=[3, 3],
        croppings=[[1, 5], [4, 3]],
    ),
    "sum": lambda b, x, s: b.step("add", x, x, activation={"word": "relu"}),
    "scaled": lambda b, x, s: b.step("multiply", x, weights={"y": drawn(C)}),
    "product of a column": lambda b, x, s: b.step("multiply", x, weights={"y": drawn(W, 1)}),
}
COPIED = {  # what has to be copied
    "input": lambda b, x, s: x,
    "activation": lambda b, x, s: b.step("activation", x, activation={"word": "tanh"}),
    "scale and shift": lambda b, x, s: b.step("chain", x, weights={"depthwise_filter": drawn(1, 1, C, 1)}),
}
READERS = {  # what may read a part, too
    "largest": lambda b, y: b.step("max_pool", y, window=[2, 2]),
    "average": lambda b, y: b.step("average_pool", y, window=[3, 3], strides=[2, 2], padding="same"),
    "mean": lambda b, y: b.step("mean", y),
    "max": lambda b, y: b.step("max", y, keepdims=True),
    "nearest": lambda b, y: b.step("resize", y, size=[5, 19], method="nearest"),
    "bilinear": lambda b, y: b.step("resize", y, size=[25, 9], method="bilinear"),
    "sum": lambda b, y: b.step("add", y, y),
    "number": lambda b, y: b.step("multiply", y, weights={"y": np.array([1.5])}),
    "concatenation": lambda b, y: b.step("concatenate", y, y, axis=3),
}


def build(dtype, producers, apart, readers=(), late=False):
    """A program that concatenates; with `apart` all that it concatenates is an output, too, so it lies elsewhere.

    The readers of the first part come before or, with `late`, after the last one of the whole.
    """
    global RNG
    RNG = np.random.default_rng(3)
    b = Builder(dtype)
    x, small = b.input([None, H, W, C]), b.input([None, H // 2, W // 2, C])
    made = [make(b, x, small) for make in producers]
    whole = b.step("concatenate", *made, axis=3)
    behind = [] if late else [read(b, made[0]) for read in readers]
    last = b.step("activation", whole, activation={"word": "relu"})
    behind = [read(b, made[0]) for read in readers] if late else behind
    b.output(last, *behind, *(made if apart else ()))
    return b


def outputs(b, xs, isa, threads=2):
    net = native.Network.from_program(b.text, b.weights, isa=isa)
    before = native.calls()["network_parts_in_place"]
    ys = net(xs, num_threads=threads)
    ys = [ys] if isinstance(ys, np.ndarray) else list(ys)
    return ys, native.calls()["network_parts_in_place"] - before


def given(dtype, images):
    rng = np.random.default_rng(4)
    sizes = [(images, H, W, C), (images, H // 2, W // 2, C)]
    return [rng.standard_normal(size).astype(DTYPES[dtype]) for size in sizes]


def assert_near(ys, expected, dtype):
    """Sums of up to 200 terms, and some roundings to the type."""
    unit = {"float32": 2.0**-24, "bfloat16": 2.0**-8, "float16": 2.0**-11}[dtype]
    for y, wanted in zip(ys, expected):
        np.testing.assert_allclose(y.astype(np.float64), wanted, rtol=0, atol=64 * unit * np.abs(wanted).max())


def check(dtype, isa, images, producers, readers, wanted, late=False):
    xs = given(dtype, images)
    apart, none = outputs(build(dtype, producers, True, readers, late), xs, isa)
    assert none == 0
    b = build(dtype, producers, False, readers, late)
    for threads in (1, 3):
        inside, parts = outputs(b, xs, isa, threads)
        assert parts == wanted
        for y, expected in zip(inside, apart):
            assert y.tobytes() == expected.tobytes()
    assert_near(inside, b.expect(*xs), dtype)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("producer", PRODUCERS)
def test_each_producer(producer, dtype, isa):
    """First, last and between others; one image, and some."""
    one, other = PRODUCERS[producer], PRODUCERS["no whole vectors"]
    for images, producers in ((1, [one, other]), (3, [other, one, other])):
        check(dtype, isa, images, producers, (), len(producers))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reader", READERS)
def test_each_reader(reader, dtype, isa):
    for producer in ("whole lines", "no whole vectors", "bilinear", "depthwise"):
        producers = [PRODUCERS[producer], PRODUCERS["residual"]]
        for late in (False, True):
            check(dtype, isa, 2, producers, [READERS[reader]], 2, late)


PRODUCTS = {  # which read X as it is, where it is of floats, or copy the rows that they are about to read
    "depthwise": lambda b, y, c: b.step("chain", y, weights={"depthwise_filter": drawn(3, 3, c, 1)}),
    "depthwise of some rows": lambda b, y, c: b.step(
        "chain", y, weights={"depthwise_filter": drawn(5, 2, c, 1)}, strides=[2, 3], padding=[[3, 0], [0, 1]]
    ),
    "multiplier": lambda b, y, c: b.step("chain", y, weights={"depthwise_filter": drawn(3, 3, c, 3)}),
    "separable": lambda b, y, c: chain(34, b, y, channels=c, dilations=[2, 1], activation={"word": "silu"}),
    "norm": lambda b, y, c: b.step(
        "chain",
        y,
        weights={"depthwise_filter": drawn(7, 7, c, 1), "pointwise_filter": drawn(1, 1, c, 40)},
        normalize=True,
    ),
    "pointwise": lambda b, y, c: b.step("chain", y, weights={"pointwise_filter": drawn(1, 1, c, 18)}),
    "dense": lambda b, y, c: b.step("chain", y, weights={"pointwise_filter": drawn(3, 3, c, 11)}),
    "dense without edges": lambda b, y, c: b.step(
        "chain", y, weights={"pointwise_filter": drawn(2, 3, c, 40)}, strides=[2, 1], padding="valid"
    ),
    "dense of patches": lambda b, y, c: b.step(
        "chain", y, weights={"pointwise_filter": drawn(3, 3, c, 24), "bias": drawn(24)}, dilations=[1, 2]
    ),
    "expansion": lambda b, y, c: b.step(
        "chain", y, weights={"expand_filter": drawn(1, 1, c, 48), "depthwise_filter": drawn(3, 3, 48, 1)}
    ),
    "expansion, projection": lambda b, y, c: b.step(
        "chain",
        y,
        weights={
            "expand_filter": drawn(1, 1, c, 70),
            "depthwise_filter": drawn(3, 3, 70, 1),
            "pointwise_filter": drawn(1, 1, 70, 22),
        },
        strides=[2, 2],
    ),
}


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reader", PRODUCTS)
def test_products_read_parts_of_floats(reader, dtype, isa):
    for producer, channels in (("residual", C), ("whole lines", 64), ("no whole vectors", 7)):
        producers = [PRODUCERS[producer], PRODUCERS["largest"]]
        for images in (1, 3):
            readers = [lambda b, y, c=channels: PRODUCTS[reader](b, y, c)]
            check(dtype, isa, images, producers, readers, 1 + (dtype == "float32"))


def cropped(dtype, source, first, channels, readers, copied):
    """A program that takes channels of a tensor; where they are an output, too, they are a tensor of their own."""
    global RNG
    RNG = np.random.default_rng(3)
    b = Builder(dtype)
    x, small = b.input([None, H, W, C]), b.input([None, H // 2, W // 2, C])
    y = PRODUCERS[source](b, x, small) if source else x
    total = C if source in (None, "residual", "largest") else 64
    cuts = [[0, 0], [0, 0], [0, 0], [first, total - first - channels]]
    part = b.step("crop", y, croppings=cuts)
    ends = [read(b, part) for read in readers]
    # One more reader of all, so that it lives on.
    ends.append(b.step("max_pool", y, window=[2, 2]))
    b.output(*ends, *([part] if copied else []))
    return b


def check_cropped(dtype, isa, source, readers, wanted, first=3, channels=12, others=0):
    """`wanted` tensors lie inside others, `others` of them where the channels are a tensor of their own."""
    for images in (1, 3):
        xs = given(dtype, images)
        copied, none = outputs(cropped(dtype, source, first, channels, readers, True), xs, isa)
        assert none == others
        b = cropped(dtype, source, first, channels, readers, False)
        for threads in (1, 3):
            views, parts = outputs(b, xs, isa, threads)
            assert parts == wanted
            assert [y.tobytes() for y in views] == [y.tobytes() for y in copied[: len(views)]]
        assert_near(views, b.expect(*xs), dtype)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reader", READERS)
def test_channels_are_read_where_they_lie(reader, dtype, isa):
    """Those of an input, of a chain's output, of a pool's; twice, so that nothing happens in place."""
    for source in (None, "residual", "whole lines", "largest"):
        check_cropped(dtype, isa, source, [READERS[reader]], 1)
        check_cropped(dtype, isa, source, [READERS[reader], READERS["sum"]], 1, 0)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reader", PRODUCTS)
def test_products_read_channels_of_floats(reader, dtype, isa):
    for source in (None, "whole lines"):
        check_cropped(dtype, isa, source, [lambda b, y: PRODUCTS[reader](b, y, 12)], int(dtype == "float32"))


@pytest.mark.parametrize("isa", ISAS)
def test_channels_of_channels_and_of_parts(isa):
    """A crop of a crop, both read where the first tensor lies; and of a tensor inside its concatenation."""

    def again(b, y):
        inner = b.step("crop", y, croppings=[[0, 0], [0, 0], [0, 0], [2, 5]])
        return b.step("add", inner, inner)

    check_cropped("float32", isa, "whole lines", [again], 2, others=1)

    def inside(b, y):
        made = chain(24, b, b.step("resize", y, size=[H, W], method="nearest"), channels=12)
        some = b.step("crop", made, croppings=[[0, 0], [0, 0], [0, 0], [4, 4]])
        return b.step("concatenate", made, b.step("add", some, some), y, axis=3)

    # The crop itself, one of a part, and that part; the sum is one as well.
    check_cropped("float32", isa, "whole lines", [inside], 4, others=3)


@pytest.mark.parametrize("isa", ISAS)
def test_channels_that_are_copied(isa):
    """For an activation and a scale; and where rows are cut, too."""
    for read in (
        lambda b, y: b.step("activation", y, activation={"word": "tanh"}),
        lambda b, y: b.step("chain", y, weights={"depthwise_filter": drawn(1, 1, 12, 1)}),
        lambda b, y: b.step("add", b.step("crop", y, croppings=[[0, 0], [1, 0], [0, 0], [0, 0]]), largest_of(b, y)),
    ):
        check_cropped("float32", isa, "whole lines", [read], 0)


def largest_of(b, y):
    return b.step("max", y, keepdims=True)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("copied", COPIED)
def test_what_has_to_be_copied(copied, isa):
    producers = [PRODUCERS["whole lines"], COPIED[copied], PRODUCERS["one channel"]]
    check("float32", isa, 2, producers, (), 2)


@pytest.mark.parametrize("isa", ISAS)
def test_many_parts(isa):
    """Of four, those that are whole lines lie inside."""
    producers = [PRODUCERS[name] for name in ("whole lines", "residual", "no whole vectors", "expansion alone")]
    check("float32", isa, 2, producers, (), 2)


@pytest.mark.parametrize("isa", ISAS)
def test_a_reader_that_needs_dense_rows(isa):
    """An activation reads the first part: it is copied, the other one is not."""
    reader = lambda b, y: b.step("activation", y, activation={"word": "tanh"})  # noqa: E731
    check("float32", isa, 2, [PRODUCERS["residual"], PRODUCERS["largest"]], [reader], 1)


@pytest.mark.parametrize("isa", ISAS)
def test_many_images_one_at_a_time(isa):
    """Where each thread takes images of its own, the parts are those of an image."""
    producers = [PRODUCERS[name] for name in ("expansion", "whole lines", "largest")]
    xs = given("float32", 16)
    apart, _ = outputs(build("float32", producers, True), xs, isa)
    inside, parts = outputs(build("float32", producers, False), xs, isa)
    assert parts in (3, 3 * 16)
    assert inside[0].tobytes() == apart[0].tobytes()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("op", ["add", "subtract", "multiply", "maximum", "minimum"])
def test_a_result_of_one_element(op, isa):
    b = Builder("float32")
    x, y = b.input([None, 1]), b.input([None, 1])
    b.output(b.step(op, x, y))
    xs = [np.full((1, 1), 3, np.float32), np.full((1, 1), 5, np.float32)]
    assert outputs(b, xs, isa)[0][0] == b.expect(*xs)[0]
