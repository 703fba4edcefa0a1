"""`native.Network`: every op against float64, whole random programs, threads, files, and what is wrong with calls."""

from __future__ import annotations

import json

import numpy as np
import pytest
from conftest import check_python
from native_support import ISAS
from program_reference import DTYPES, Builder

from tf_dwsconv import native

RNG = np.random.default_rng


def eps(dtype: str) -> float:
    return {"float32": 2.0**-23, "bfloat16": 2.0**-7, "float16": 2.0**-10}[dtype]


def network_of(builder: Builder, isa=None) -> native.Network:
    return native.Network.from_program(builder.text, builder.weights, isa=isa)


def check(builder: Builder, *xs, isa=None, terms: int = 1, **call):
    """Runs a program on arrays and compares with float64: `terms` is the length of the longest sum.

    Every tensor may be off by its own rounding, and by that of what it is made of: sums and activations have slopes of
    about 1 here, as weights are drawn for that. A sum of n terms in float32 is off by n roundings of its size at most.
    """
    kept: list = []
    expected = builder.expect(*xs, keep=kept)
    given = network_of(builder, isa)(list(xs), **call)
    given = given if isinstance(given, list) else [given]
    largest = max(np.abs(y).max(initial=1.0) for y in kept)
    steps = len(builder.program["steps"])
    allowed = largest * (4 * steps * eps(builder.dtype) + 2 * terms * eps("float32"))
    for y, wanted in zip(given, expected):
        assert y.shape == wanted.shape and y.dtype == DTYPES[builder.dtype]
        np.testing.assert_allclose(y.astype(np.float64), wanted, rtol=0, atol=allowed)
    return given


def draw(dtype, *shape, seed=0, scale=1.0):
    return (RNG(seed).standard_normal(shape) * scale).astype(DTYPES[dtype])


def one_op(name: str, dtype: str):
    """A program of one op (or two) on odd sizes, and its inputs."""
    b = Builder(dtype)
    x = b.input([None, 7, 9, 37])
    inputs = [draw(dtype, 2, 7, 9, 37)]
    tanh = {"word": "tanh"}
    w = lambda *shape, scale=1.0: RNG(len(shape) + shape[-1]).standard_normal(shape) * scale  # noqa: E731
    if name == "dense":
        y = b.step("dense", x, weights={"filter": w(37, 19, scale=37**-0.5), "bias": w(19)}, activation=tanh)
    elif name == "chain":
        weights = {"depthwise_filter": w(3, 3, 37, 1, scale=0.3), "depthwise_bias": w(37), "bias": w(21)}
        weights["pointwise_filter"] = w(1, 1, 37, 21, scale=37**-0.5)
        y = b.step("chain", x, weights=weights, depthwise_activation={"word": "relu", "max_value": 6.0}, strides=[2, 1])
    elif name == "expanded":
        mean = b.step("mean", x)
        gate = b.step("activation", mean, activation={"word": "sigmoid"})
        weights = {"expand_filter": w(1, 1, 37, 37, scale=37**-0.5), "expand_slopes": w(37, scale=0.2)}
        weights.update(depthwise_filter=w(5, 5, 37, 1, scale=0.2), pointwise_filter=w(1, 1, 37, 37, scale=37**-0.5))
        y = b.step("chain", x, weights=weights, expand_activation={"word": "prelu"}, gate=gate, residual=x)
    elif name in ("max_pool", "average_pool"):
        y = b.step(name, x, window=[3, 2], padding=[[1, 2], [1, 0]], strides=[2, 3])
        y = b.step(name, y, window=[2, 2], padding="same", strides=[1, 1])
    elif name in ("mean", "max"):
        y = b.step(name, x, keepdims=True)
        b.output(b.step(name, x))
    elif name in ("add", "subtract", "multiply", "maximum", "minimum"):
        y = b.step(name, x, b.input([None, 1, 9, 1]), activation=tanh)
        inputs.append(draw(dtype, 2, 1, 9, 1, seed=1))
        y = b.step(name, y, weights={"y": w(7, 1, 37)})
        y = b.step(name, y, y)
    elif name == "activation":
        y = b.step(name, x, activation={"word": "prelu"}, weights={"slopes": w(37, scale=0.3)})
        for word in ("none", "relu", "relu6", "hard_swish", "silu", "gelu", "sigmoid", "elu", "mish", "gelu_tanh"):
            b.output(b.step(name, x, activation={"word": word}))
        spec = {"word": "leaky_relu", "alpha": 0.3, "max_value": 1.5, "threshold": 0.25}
        b.output(b.step(name, x, activation=spec))
    elif name == "normalize":
        y = b.step(name, x, weights={"gamma": w(37), "beta": w(37)}, epsilon=0.01)
        y = b.step(name, y)
    elif name == "matmul":
        b.output(b.step(name, x, y := b.step(name, x, x, transpose_y=True), transpose_x=True))
    elif name in ("softmax", "power"):
        y = b.step(name, x, **({"exponent": 2.0} if name == "power" else {}))
    elif name == "concatenate":
        wide = b.step("resize", b.step("mean", x, keepdims=True), size=[7, 9], method="nearest")
        y = b.step(name, x, wide, x, axis=3)
        y = b.step(name, y, y, axis=1)
    elif name == "pad":
        y = b.step(name, x, paddings=[[0, 0], [2, 1], [0, 3], [0, 0]], value=0.5)
        y = b.step(name, y, paddings=[[0, 0], [0, 0], [1, 0], [2, 3]], value=-2)
    elif name == "resize":
        y = b.step(name, x, scale=[2, 3], method="bilinear")
        b.output(b.step(name, x, size=[5, 4], method="bilinear"), b.step(name, x, scale=[3, 2], method="nearest"))
    elif name == "crop":
        y = b.step(name, x, croppings=[[0, 0], [2, 1], [0, 3], [0, 0]])
        b.output(b.step(name, y, croppings=[[0, 0], [0, 0], [1, 0], [2, 3]]))
    elif name == "transpose":
        y = b.step(name, x, axes=[0, 2, 1, 3])
        b.output(*(b.step(name, x, axes=axes) for axes in ([0, 3, 1, 2], [0, 2, 3, 1], [0, 3, 2, 1], [0, 1, 3, 2])))
    elif name == "depth_to_space":
        y = b.step(name, b.step("crop", x, croppings=[[0, 0], [0, 0], [0, 0], [1, 0]]), block=[2, 3])
        b.output(b.step(name, x, block=[1, 37], croppings=[[1, 0], [40, 50]]))
    else:
        y = b.step("reshape", x, shape=[-1, 37])
        b.output(b.step("reshape", y, shape=[7 * 9 * 37]))
    return b.output(y), inputs


OPS = "dense chain expanded max_pool average_pool mean max add subtract multiply maximum minimum activation"
OPS = (OPS + " normalize power softmax matmul concatenate pad resize reshape crop transpose depth_to_space").split()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", OPS)
def test_op(name, dtype):
    """On every instruction set; the same bits for any number of threads."""
    builder, inputs = one_op(name, dtype)
    for isa in ISAS:
        one = check(builder, *inputs, isa=isa, terms=7 * 9 + 37 * 10, num_threads=1)
        many = check(builder, *inputs, isa=isa, terms=7 * 9 + 37 * 10, num_threads=3)
        assert all(a.tobytes() == b.tobytes() for a, b in zip(one, many))


def random_program(seed: int, dtype: str = "float32"):
    """Some twenty steps over maps of three sizes, vectors behind them, several outputs."""
    rng = RNG(seed)
    b = Builder(dtype)
    size = int(rng.integers(6, 14))
    maps = [(b.input([None, size, size + 1, 12]), (size, size + 1, 12))]
    vectors = []
    words = ("none", "relu", "hard_swish", "silu", "tanh", "sigmoid")
    spec = lambda: {"word": str(rng.choice(words))}  # noqa: E731
    w = lambda *shape, scale=0.3: rng.standard_normal(shape) * scale  # noqa: E731
    for _ in range(int(rng.integers(8, 24))):
        x, (h, wd, c) = maps[rng.integers(len(maps))]
        kind = rng.choice(["chain", "dense", "expand", "gate", "pool", "add", "act", "norm", "cat", "vector", "resize"])
        if kind == "chain":
            k = int(rng.integers(4, 40))
            weights = {"depthwise_filter": w(3, 3, c, 1), "pointwise_filter": w(1, 1, c, k, scale=c**-0.5)}
            y = b.step("chain", x, weights=weights, depthwise_activation=spec(), activation=spec())
            maps.append((y, (h, wd, k)))
        elif kind == "dense":
            y = b.step("chain", x, weights={"pointwise_filter": w(3, 3, c, 8, scale=(9 * c) ** -0.5), "bias": w(8)})
            maps.append((y, (h, wd, 8)))
        elif kind == "expand":
            weights = {"expand_filter": w(1, 1, c, 2 * c, scale=c**-0.5), "depthwise_filter": w(3, 3, 2 * c, 1)}
            weights["pointwise_filter"] = w(1, 1, 2 * c, c, scale=(2 * c) ** -0.5)
            y = b.step("chain", x, weights=weights, expand_activation=spec(), residual=x)
            maps.append((y, (h, wd, c)))
        elif kind == "gate":
            factors = b.step("activation", b.step("mean", x, keepdims=True), activation={"word": "sigmoid"})
            maps.append((b.step("multiply", x, factors), (h, wd, c)))
        elif kind == "pool":
            op = str(rng.choice(["max_pool", "average_pool"]))
            y = b.step(op, x, window=[3, 3], strides=[1, 1], padding="same")
            maps.append((y, (h, wd, c)))
        elif kind == "add":
            same = [m for m in maps if m[1] == (h, wd, c)]
            y = b.step(str(rng.choice(["add", "maximum", "subtract"])), x, same[rng.integers(len(same))][0])
            maps.append((b.step("activation", y, activation={"word": "tanh"}), (h, wd, c)))
        elif kind == "act":
            maps.append((b.step("activation", x, activation=spec()), (h, wd, c)))
        elif kind == "norm":
            y = b.step("normalize", x, weights={"gamma": w(c), "beta": w(c)}, epsilon=1.0)
            maps.append((y, (h, wd, c)))
        elif kind == "cat" and c < 40:
            maps.append((b.step("concatenate", x, x, axis=3), (h, wd, 2 * c)))
        elif kind == "vector":
            y = b.step("dense", b.step("mean", x), weights={"filter": w(c, 10, scale=c**-0.5)}, activation=spec())
            vectors.append(b.step("softmax", y))
        elif kind == "resize" and h < 14:
            y = b.step("resize", x, scale=[2, 2], method="bilinear")
            y = b.step("max_pool", y, window=[2, 2])
            maps.append((y, (h, wd, c)))
    b.output(*vectors, *[m[0] for m in maps[-2:]])
    shape = (size, size + 1, 12)
    return b, shape


@pytest.mark.parametrize("seed", range(24))
def test_random_program(seed):
    builder, shape = random_program(seed)
    x = draw("float32", 3, *shape, seed=seed)
    one = check(builder, x, terms=500, num_threads=1)
    two = check(builder, x, terms=500, num_threads=2)
    assert all(a.tobytes() == b.tobytes() for a, b in zip(one, two))
    # A picture's result does not depend on those beside it.
    network = network_of(builder)
    alone = network(x[1:2])
    alone = alone if isinstance(alone, list) else [alone]
    assert all(a[1:2].tobytes() == b.tobytes() for a, b in zip(one, alone))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("seed", range(100, 104))
def test_random_program_of_16_bits(seed, dtype):
    builder, shape = random_program(seed, dtype)
    check(builder, draw(dtype, 2, *shape, seed=seed), terms=500)


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_pixel(dtype):
    """By many channels, as behind a mean: groups of panels, single ones, a part of one; bits as in a batch."""
    rng = RNG(0)
    b = Builder(dtype)
    x, addend = b.input([None, 1, 1, 71]), b.input([None, 1, 1, 342])
    weights = {"pointwise_filter": rng.standard_normal((1, 1, 71, 342)) / 8, "bias": rng.standard_normal(342)}
    slopes = {"slopes": rng.standard_normal(342) * 0.3}
    y = b.step("chain", x, weights={**weights, **slopes}, residual=addend, activation={"word": "prelu"})
    z = b.step("chain", x, weights=weights, activation={"word": "relu"})
    flat = b.step("reshape", x, shape=[71])
    b.output(y, z, b.step("dense", flat, weights={"filter": rng.standard_normal((71, 342)) / 8}))
    inputs = [draw(dtype, 3, 1, 1, 71), draw(dtype, 3, 1, 1, 342, seed=1)]
    for isa in ISAS:
        whole = check(b, *inputs, isa=isa, terms=71)
        one = check(b, *(x[1:2] for x in inputs), isa=isa, terms=71, num_threads=2)
        assert all(a[1:2].tobytes() == b.tobytes() for a, b in zip(whole, one))


@pytest.mark.parametrize("seed", range(5, 17))
def test_many_images(seed):
    """As many as each thread takes some through the first steps alone: the same bits."""
    builder, shape = random_program(seed)
    builder.output(builder.program["steps"][0]["output"], 0, builder.program["steps"][0]["output"])
    x = draw("float32", 17, *shape)
    network = network_of(builder)
    before = native.calls()["network_by_image"]
    whole = network(x, num_threads=2)
    assert native.calls()["network_by_image"] == before + 1
    for i in (0, 8, 16):
        for a, b in zip(whole, network(x[i : i + 1], num_threads=1)):
            assert a[i : i + 1].tobytes() == b.tobytes()
    assert native.calls()["network_by_image"] == before + 1


def test_images_that_do_not_go_alone():
    """An input without the batch, and weights for each image."""
    other, weights = Builder(), Builder()
    x, y = other.input([None, 6, 6, 4]), other.input([1, 6, 6, 4])
    for _ in range(5):
        x = other.step("add", x, y)
    z = weights.input([None, 6, 6, 4])
    for i in range(5):
        z = weights.step("add", z, weights={"y": RNG(i).standard_normal((9, 1, 1, 4))})
    before = native.calls()["network_by_image"]
    inputs = [draw("float32", 9, 6, 6, 4), draw("float32", 1, 6, 6, 4)]
    check(other.output(x), *inputs, num_threads=2)
    check(weights.output(z), inputs[0], num_threads=2)
    assert native.calls()["network_by_image"] == before


def small():
    b = Builder()
    x, y = b.input([None, 4, 4, 3], "image"), b.input([None, 3], "shift")
    total = b.step("add", b.step("mean", x), y)
    return b.output(total, x, b.step("reshape", total, shape=[3, 1]), total)


def test_inputs_and_outputs():
    """By order and by name; an input as an output, one tensor as two; out arrays; an empty batch."""
    builder = small()
    network = network_of(builder)
    x, y = draw("float32", 2, 4, 4, 3), draw("float32", 2, 3, seed=1)
    expected = builder.expect(x, y)
    out = [np.empty_like(e, np.float32) for e in expected]
    for given in ([x, y], (x, y), {"shift": y, "image": x}):
        results = network(given)
        for result, wanted in zip(results, expected):
            np.testing.assert_allclose(result, wanted, atol=1e-5)
    results = network([x, y], out=out)
    assert all(a is b for a, b in zip(results, out))
    assert network([x[:0], y[:0]])[2].shape == (0, 3, 1)
    assert network.inputs == [
        {"name": "image", "shape": (None, 4, 4, 3), "dtype": "float32"},
        {"name": "shift", "shape": (None, 3), "dtype": "float32"},
    ]
    assert [o["shape"] for o in network.outputs] == [(None, 3), (None, 4, 4, 3), (None, 3, 1), (None, 3)]
    assert json.loads(str(network))["outputs"] == builder.program["outputs"]


@pytest.mark.parametrize(
    "x, options, error, words",
    [
        (np.ones((2, 4, 4, 3), np.float32), {}, ValueError, "x must be 2 arrays (image, shift), but is 1"),
        ({"image": 0}, {}, ValueError, "x must have the network's inputs as keys, image, shift, but has ['image']"),
        ([np.ones((2, 4, 4, 3)), np.ones((2, 3))], {}, TypeError, "image must have dtype float32, float16"),
        ([np.ones((2, 4, 4, 3), np.float16)] * 2, {}, TypeError, "image must have the network's dtype, float32"),
        ([np.ones((2, 4, 5, 3), np.float32)] * 2, {}, ValueError, 'input "image" must have shape [?,4,4,3], but its'),
        ([np.ones((2, 4, 4, 3), np.float32), np.ones((3, 3), np.float32)], {}, ValueError, "y must have sizes that"),
        (None, {"out": np.ones(3, np.float32)}, ValueError, "out must be None or 4 arrays, but is 1"),
        (None, {"out": [np.ones(3, np.float32)] * 4}, ValueError, "out must have shape [2,3], but its shape is [3]"),
        (None, {"num_threads": -1}, ValueError, "num_threads must be 0"),
    ],
)
def test_wrong_calls(x, options, error, words):
    if x is None:
        x = [np.ones((2, 4, 4, 3), np.float32), np.ones((2, 3), np.float32)]
    with pytest.raises(error) as caught:
        network_of(small())(x, **options)
    assert words in str(caught.value)


def test_outputs_that_overlap():
    x, y = np.ones((2, 4, 4, 3), np.float32), np.ones((2, 3), np.float32)
    new = lambda *shape: np.empty(shape, np.float32)  # noqa: E731
    both = new(2, 3)
    with pytest.raises(ValueError, match="share no memory"):
        network_of(small())([x, y], out=[both, new(2, 4, 4, 3), new(2, 3, 1), both])
    with pytest.raises(ValueError, match="out must not share memory with x"):
        network_of(small())([x, y], out=[y, new(2, 4, 4, 3), new(2, 3, 1), new(2, 3)])


def test_wrong_programs():
    builder = small()
    with pytest.raises(ValueError, match="a program must be JSON"):
        native.Network.from_program("{", builder.weights)
    with pytest.raises(ValueError, match=r"weights must have shape \[0\], but its shape is \[1\]"):
        native.Network.from_program(builder.text, np.zeros(1, np.float32))
    with pytest.raises(TypeError, match="weights must have the program's dtype"):
        native.Network.from_program(builder.text, np.zeros(0, np.float16))
    with pytest.raises(ValueError, match="isa must be None or one that this CPU has"):
        native.Network.from_program(builder.text, builder.weights, isa="mmx")


@pytest.mark.parametrize("dtype", DTYPES)
def test_file(tmp_path, dtype):
    """A file gives what the program gives; one that is cut, or not there, an error."""
    builder, inputs = one_op("chain", dtype)
    path = builder.save(tmp_path / "network.safetensors")
    assert native.Network(path)(inputs).tobytes() == network_of(builder)(inputs).tobytes()
    whole = path.read_bytes()
    for length in (0, 7, 8, 100, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="is no file of a program"):
            native.Network(path)
    with pytest.raises(FileNotFoundError):
        native.Network(tmp_path / "nowhere")


def test_several_threads():
    """Calls of one network at once, of several shapes."""
    from concurrent.futures import ThreadPoolExecutor

    builder, shape = random_program(7)
    network = network_of(builder)
    xs = [draw("float32", 1 + i % 3, *shape, seed=i) for i in range(12)]
    single = [network(x, num_threads=1) for x in xs]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            for a, b in zip(single, pool.map(lambda x: network(x, num_threads=2), xs)):
                pairs = zip(a, b) if isinstance(a, list) else [(a, b)]
                assert all(one.tobytes() == other.tobytes() for one, other in pairs)


def test_profile():
    builder, inputs = one_op("expanded", "float32")
    steps = network_of(builder).profile(inputs, repeats=2)
    assert [s["op"] for s in steps] == ["mean", "activation", "chain"]
    assert [s["step"] for s in steps] == [0, 1, 2]
    assert steps[2]["shape"] == (2, 7, 9, 37)
    assert all(s["ms"] > 0 and s["gflops"] > 0 and s["gbs"] > 0 for s in steps)
    with pytest.raises(ValueError, match="repeats must be at least 1"):
        network_of(builder).profile(inputs, repeats=0)


def test_a_small_machine_has_memory_for_it(tmp_path):
    """A network of MobileNetV2's size in a process of its own: 14 MB of weights, read and packed, and all else."""
    b = Builder("float32")
    x = b.input([None, 14, 14, 512])
    for i in range(13):
        weights = {
            "depthwise_filter": RNG(i).standard_normal((3, 3, 512, 1)) * 0.3,
            "pointwise_filter": RNG(i).standard_normal((1, 1, 512, 512)) * 512**-0.5,
        }
        x = b.step("chain", x, weights=weights)
    b.output(b.step("mean", x))
    path = b.save(tmp_path / "network.safetensors")
    check_python(
        f"""
import sys
from tf_dwsconv import native
network = native.Network({str(path)!r})
import numpy as np
y = network(np.ones((1, 14, 14, 512), np.float32))
assert y.shape == (1, 512) and np.isfinite(y).all() and y.any()
assert "tensorflow" not in sys.modules and "keras" not in sys.modules
# With Python and NumPy, in MB; getrusage would tell the parent's.
peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) / 1024
assert {path.stat().st_size} > 13e6 and peak < 100, peak
"""
    )
