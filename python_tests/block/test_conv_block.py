"""The block: every stage and their combinations against NumPy in float64, gradients, shapes, bad input."""

from __future__ import annotations

import numpy as np
import pytest
import reference
import tensorflow as tf
from conftest import op_calls

from tf_dwsconv._arguments import Attributes, Tensors
from tf_dwsconv._tf import dispatch
from tf_dwsconv.activations import NONE, Fused

pytestmark = pytest.mark.usefixtures("op_library")

N, H, W, E, C, M, K = 2, 9, 7, 5, 6, 2, 4

# Stages: e expand, d depthwise, n norm, s scale, p pointwise, r residual. b: with biases.
STAGES = ["dp", "dpr", "edp", "edpr", "d", "ed", "dr", "p", "pr", "sp", "dsp", "dnp", "ednspr", "e", "er", "np"]
ACTIVATIONS = ["none", "relu6", "hard_swish", "leaky_relu"]


class Case:
    """A random block: its arrays in float64, its attributes, its result by NumPy."""

    def __init__(self, stages, *, seed=0, biased=True, data_format="NHWC", padding="SAME", strides=(1, 1), **options):
        rng = np.random.default_rng(seed)
        words = options.get("words") or [ACTIVATIONS[(seed + i) % len(ACTIVATIONS)] for i in range(3)]
        depthwise, pointwise = "d" in stages, "p" in stages
        self.x = rng.standard_normal((N, H, W, E))
        channels, dilations = E, options.get("dilations", (1, 1))
        arrays, z = {}, self.x

        def bias(name, size):
            if biased:
                arrays[name] = rng.standard_normal(size)
            return arrays.get(name, 0.0)

        def activate(z, word, slope=0.3):
            return reference.ACTIVATIONS[word](z, slope)

        if "e" in stages:
            channels = C
            arrays["expand_filter"] = rng.standard_normal((1, 1, E, C)) / 2
            z = activate(z @ arrays["expand_filter"][0, 0] + bias("expand_bias", C), words[0])
        if depthwise:
            arrays["depthwise_filter"] = rng.standard_normal((3, 2, channels, M))
            layer = reference.Layer(
                arrays["depthwise_filter"], None, strides=strides, dilations=dilations, padding=padding
            )
            channels *= M
            z = activate(reference.depthwise(z, layer) + bias("depthwise_bias", channels), words[1])
        epsilon = 1e-3 if "n" in stages else None
        if epsilon is not None:
            z = (z - z.mean(-1, keepdims=True)) / np.sqrt(z.var(-1, keepdims=True) + epsilon)
        if "s" in stages:
            arrays["gate"] = rng.random((N, 1, 1, channels))
            z = z * arrays["gate"]
        if pointwise:
            arrays["pointwise_filter"] = rng.standard_normal((1, 1, channels, K))
            z = z @ arrays["pointwise_filter"][0, 0] + bias("bias", K)
        if "r" in stages:
            arrays["residual"] = rng.standard_normal(z.shape)
            z = z + arrays["residual"]
        self.y = activate(z, words[2]) if pointwise else z
        self.nchw = data_format == "NCHW"
        self.arrays = arrays
        explicit = ()
        if not isinstance(padding, str):
            spatial = (*padding[0], *padding[1])
            explicit = (0, 0, 0, 0, *spatial) if self.nchw else (0, 0, *spatial, 0, 0)

        def fused(word, there):
            return Fused(word, 0.3) if there else NONE

        self.attributes = Attributes(
            strides,
            dilations,
            padding if isinstance(padding, str) else "EXPLICIT",
            explicit,
            data_format,
            fused(words[1], depthwise),
            fused(words[2], pointwise),
            expand_activation=fused(words[0], "e" in stages),
            epsilon=epsilon,
        )

    def layout(self, array):
        return np.moveaxis(array, -1, 1) if self.nchw else array

    def tensors(self, dtype=tf.float32):
        pictures = ("gate", "residual")
        return tf.constant(self.layout(self.x), dtype), Tensors(
            **{
                name: tf.constant(self.layout(array) if name in pictures else array, dtype)
                for name, array in self.arrays.items()
            }
        )

    def check(self, y, tolerance=2e-5):
        y = np.asarray(tf.cast(y, tf.float64))
        expected = self.layout(self.y)
        assert y.shape == expected.shape
        assert np.abs(y - expected).max() <= tolerance * max(1.0, np.abs(expected).max())


@pytest.mark.parametrize("data_format", ["NHWC", "NCHW"])
@pytest.mark.parametrize("stages", STAGES)
def test_against_numpy(stages, data_format):
    for seed, biased in ((0, True), (1, False)):
        case = Case(stages, seed=seed, biased=biased, data_format=data_format)
        x, tensors = case.tensors()
        case.check(dispatch.run(x, tensors, case.attributes))
        case.check(dispatch.run_stock(x, tensors, case.attributes))


@pytest.mark.parametrize(
    "options",
    [
        {"strides": (2, 2)},
        {"strides": (2, 1), "padding": "VALID"},
        {"dilations": (2, 1)},
        {"padding": ((0, 1), (2, 0)), "strides": (2, 2)},
        {"padding": ((1, 1), (1, 0)), "strides": (1, 2), "data_format": "NCHW"},
    ],
    ids=str,
)
def test_windows(options):
    """The padding surrounds what was expanded: its zeros go through neither bias nor activation of the expansion."""
    for stages in ("ed", "edp", "dnsp"):
        case = Case(stages, seed=2, **options)
        x, tensors = case.tensors()
        case.check(dispatch.run(x, tensors, case.attributes))


@pytest.mark.parametrize("word", ["relu", "silu", "gelu", "sigmoid", "tanh"])
def test_all_activations(word):
    case = Case("edp", words=[word] * 3)
    x, tensors = case.tensors()
    case.check(dispatch.run(x, tensors, case.attributes))


@pytest.mark.parametrize("dtype, tolerance", [(tf.float64, 1e-12), (tf.bfloat16, 0.03), (tf.float16, 0.004)])
def test_dtypes(dtype, tolerance):
    case = Case("ednspr")
    x, tensors = case.tensors(dtype)
    y = dispatch.run(x, tensors, case.attributes)
    assert y.dtype == dtype
    case.check(y, tolerance)


def test_scale_as_a_matrix_and_the_op_of_separable_convolutions():
    case = Case("dsp", data_format="NCHW")
    x, tensors = case.tensors()
    case.check(dispatch.run(x, tensors._replace(gate=tensors.gate[:, :, 0, 0]), case.attributes))
    case = Case("dpr")
    before = sum(op_calls().values())
    case.check(dispatch.run(*case.tensors(), case.attributes))
    assert sum(op_calls().values()) == before + 1


@pytest.mark.parametrize("stages", ["edpr", "dnp", "sp", "ed", "pr"])
def test_gradients(stages):
    """Those of the float32 block, and of the block composed for float64 from end to end."""
    case = Case(stages, words=["silu", "gelu", "tanh"])
    found = []
    for dtype in (tf.float32, tf.float64):
        x, tensors = case.tensors(dtype)
        sources = [x, *(t for t in tensors if t is not None)]
        weights = tf.constant(np.random.default_rng(5).standard_normal(case.y.shape), dtype)
        with tf.GradientTape() as tape:
            tape.watch(sources)
            loss = tf.reduce_sum(dispatch.run(x, tensors, case.attributes) * weights)
        found.append(tape.gradient(loss, sources))
    for ours, exact in zip(*([np.asarray(t) for t in gradients] for gradients in found)):
        assert np.abs(ours - exact).max() <= 1e-4 * max(1.0, np.abs(exact).max())


def test_unknown_shapes_in_a_graph():
    case = Case("ednspr", strides=(2, 2))
    x, tensors = case.tensors()
    given = {name: t for name, t in tensors._asdict().items() if t is not None}

    @tf.function(
        input_signature=[tf.TensorSpec(None), {name: tf.TensorSpec([None] * t.shape.rank) for name, t in given.items()}]
    )
    def run(x, tensors):
        return dispatch.run(x, Tensors(**tensors), case.attributes)

    case.check(run(x, given))
    with pytest.raises(tf.errors.InvalidArgumentError):
        run(x, {**given, "depthwise_filter": given["depthwise_filter"][:, :, :-1]})
    with pytest.raises(tf.errors.InvalidArgumentError):
        run(x, {**given, "residual": given["residual"][:, :1]})


@pytest.mark.parametrize(
    "kernel, strides, dilations, padding",
    [
        ((3, 3), (2, 2), (1, 1), "SAME"),
        ((1, 1), (2, 2), (1, 1), "SAME"),
        ((4, 2), (4, 2), (1, 1), "VALID"),
        ((3, 2), (1, 2), (2, 1), "SAME"),
        ((2, 3), (1, 1), (1, 3), "VALID"),
        ((3, 3), (2, 1), (2, 2), ((1, 0), (3, 2))),
        ((1, 1), (1, 1), (1, 1), ((0, 1), (2, 0))),
    ],
)
@pytest.mark.parametrize("data_format", ["NHWC", "NCHW"])
def test_dense_convolution(kernel, strides, dilations, padding, data_format):
    """Without depthwise convolution and expansion: as many depthwise ones with a sum over channels."""
    rng = np.random.default_rng(3)
    for channels, wide in ((3, W), (20, W), (3, 61)):
        x, dense = rng.standard_normal((N, H, wide, channels)), rng.standard_normal((*kernel, channels, K))
        bias = rng.standard_normal(K)
        layer = reference.Layer(dense, None, strides=strides, dilations=dilations, padding=padding)
        z = reference.depthwise(x, layer)  # channel c*K + k
        expected = reference.ACTIVATIONS["relu6"](z.reshape(*z.shape[:3], channels, K).sum(3) + bias, 0.0)
        residual = rng.standard_normal(expected.shape)
        explicit = () if isinstance(padding, str) else (*padding[0], *padding[1])
        if data_format == "NCHW":
            x, expected, residual = (np.moveaxis(array, -1, 1) for array in (x, expected, residual))
            explicit = (0, 0, 0, 0, *explicit) if explicit else ()
        else:
            explicit = (0, 0, *explicit, 0, 0) if explicit else ()
        word = "EXPLICIT" if explicit else padding
        separable = Attributes(strides, dilations, word, explicit, data_format, NONE, Fused("relu6"))
        for dtype, tolerance in ((tf.float32, 2e-5), (tf.float64, 1e-12), (tf.bfloat16, 0.03), (tf.float16, 0.004)):
            tensors = Tensors(pointwise_filter=tf.constant(dense, dtype), bias=tf.constant(bias, dtype))
            for run in (dispatch.run, dispatch.run_stock):
                y = np.asarray(tf.cast(run(tf.constant(x, dtype), tensors, separable), tf.float64))
                assert y.shape == expected.shape
                assert np.abs(y - expected).max() <= tolerance * max(6.0, np.abs(expected).max())
        tensors = Tensors(pointwise_filter=tf.constant(dense), residual=tf.constant(residual))
        plain = separable._replace(activation=NONE)
        found = []
        for dtype in (tf.float32, tf.float64):
            given = [tf.cast(t, dtype) for t in (tf.constant(x), tensors.pointwise_filter, tensors.residual)]
            with tf.GradientTape() as tape:
                tape.watch(given)
                y = dispatch.run(given[0], Tensors(pointwise_filter=given[1], residual=given[2]), plain)
                loss = tf.reduce_sum(y * y)
            found.append([np.asarray(g) for g in tape.gradient(loss, given)])
        for ours, exact in zip(*found):
            assert np.abs(ours - exact).max() <= 1e-4 * np.abs(exact).max()


def test_inside_xla():
    case = Case("ednspr")
    x, tensors = case.tensors()
    case.check(tf.function(lambda x: dispatch.run(x, tensors, case.attributes), jit_compile=True)(x))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"expand_filter": np.ones((1, 1, E + 1, C))}, "expand_filter`? must (have|be)"),
        ({"expand_bias": np.ones(C + 1)}, "expand_bias`? must (have|be)"),
        ({"depthwise_filter": np.ones((3, 3, C + 1, M))}, "depthwise_filter"),
        ({"depthwise_bias": np.ones(C)}, "depthwise_bias`? must (have|be)"),
        ({"gate": np.ones((N, 1, 1, C))}, "scale`? must (have|be)"),
        ({"gate": np.ones((N, 1, C * M))}, "scale`? must (have|be)"),
        ({"pointwise_filter": np.ones((1, 1, C, K))}, "pointwise_filter`? must (have|be)"),
        ({"bias": np.ones(K + 1)}, "bias`? must (have|be)"),
        ({"residual": np.ones((N, H, W, K + 1))}, "residual`? must have the"),
        ({"pointwise_filter": None}, "bias`? must not be given without `?pointwise_filter"),
        ({"expand_filter": None}, "expand_bias`? must not be given without `?expand_filter"),
        ({"depthwise_filter": None}, "depthwise_bias`? must not be given without `?depthwise_filter"),
        (
            {"depthwise_filter": None, "pointwise_filter": None, "expand_filter": None},
            "must be given|must not all be missing",
        ),
    ],
    ids=str,
)
def test_bad_tensors(change, message):
    case = Case("ednspr", words=["none"] * 3)
    x, tensors = case.tensors()
    changed = {name: None if value is None else tf.constant(value, tf.float32) for name, value in change.items()}
    for run in (dispatch.run, dispatch.run_stock):
        with pytest.raises((ValueError, tf.errors.InvalidArgumentError), match=message):
            run(x, tensors._replace(**changed), case.attributes)


def test_attributes_of_stages_that_are_not_there():
    x = tf.zeros([1, 4, 4, 3])
    tensors = Tensors(pointwise_filter=tf.zeros([1, 1, 3, 2]))
    for attributes, message in (
        (Attributes(depthwise_activation=Fused("relu")), "depthwise_activation"),
        (Attributes(expand_activation=Fused("relu")), "expand_activation"),
    ):
        with pytest.raises((ValueError, tf.errors.InvalidArgumentError), match=message):
            dispatch.run(x, tensors, attributes)
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError), match="rank 4"):
        dispatch.run(tf.zeros([4, 4, 3]), tensors, Attributes())
