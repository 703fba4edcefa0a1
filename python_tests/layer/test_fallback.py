"""Where stock ops stand in, as users run it: in graphs, in a process of its own, with oneDNN and without, in XLA.

TensorFlow's graph optimiser fuses what we emit with what stands around it. An op that is right in eager mode may end
the process there. So tests of the layer, the block and converted networks run again in such a process.
"""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from conftest import check_python, check_tests

from tf_dwsconv._arguments import Attributes
from tf_dwsconv._tf import convolutions


@pytest.mark.parametrize(
    "module, skipped, at_least",
    [
        ("layer/test_layer.py", "other_backends or new_weights", 40),
        ("block/test_conv_block_layer.py", "nothing", 50),
    ],
)
def test_again_in_graphs(module, skipped, at_least):
    """A module of tests with the fallback (see `conftest.FALLBACK`): none fails, and most can run."""
    check_tests(module, "-k", f"not ({skipped})", at_least=at_least, DWSCONV_TEST_FALLBACK="1")


# Each ends the process, or answers wrongly, where a depthwise op with explicit padding is emitted. `stock` has the
# same weights; what is compared is a prediction and two steps of training.
GRAPHS = """
import sys
import keras, numpy as np, tensorflow as tf, tf_dwsconv
L = keras.layers
jit = sys.argv[1] == "jit"
keras.utils.set_random_seed(0)

def least(strides=2, pads=((0, 1), (0, 1)), multiplier=1, dilation=1, norm=False, activation="relu6"):
    x = y = keras.Input((16, 16, 3))
    y = L.Conv2D(8, 1, activation="relu6")(y)
    y = L.ZeroPadding2D(pads)(y)
    y = L.DepthwiseConv2D(3, strides=strides, padding="valid", depth_multiplier=multiplier, dilation_rate=dilation,
                          use_bias=not norm, activation=None if norm else activation)(y)
    y = L.Activation(activation)(L.BatchNormalization()(y)) if norm else y
    y = L.Conv2D(4, 1)(y)
    return keras.Model(x, L.GlobalAveragePooling2D()(y))

def dense():
    x = keras.Input((16, 16, 3))
    y = L.Conv2D(8, 3, strides=2, activation="relu6")(L.ZeroPadding2D(((0, 1), (0, 1)))(x))
    y = L.Conv2D(4, 1, activation="tanh")(y)
    return keras.Model(x, L.GlobalAveragePooling2D()(y))

def of_the_layer():
    x = keras.Input((None, None, 3))
    y = tf_dwsconv.DepthwiseSepConv2D(6, 3, padding=((2, 0), (1, 3)), depthwise_use_bias=True, activation="gelu",
                                      depthwise_activation="relu6", strides=2)(x)
    y = tf_dwsconv.DepthwiseSepConv2D(4, 3, padding="same", dilation_rate=2, strides=(1, 2), depthwise_use_bias=True)(y)
    return keras.Model(x, L.GlobalAveragePooling2D()(y))

models = {
    "least": least(), "stride 1": least(1, ((1, 1), (2, 0))), "multiplier": least(multiplier=2, activation="tanh"),
    "dilation": least(1, ((2, 2), (2, 2)), dilation=2), "norm": least(norm=True), "dense": dense(),
    "layer": of_the_layer(),
}
if jit:
    models = {name: models[name] for name in ("least", "layer")}
rng = np.random.default_rng(0)
x, y = (rng.standard_normal(shape).astype("float32") for shape in ((4, 16, 16, 3), (4, 4)))
for name, model in models.items():
    print("at", name, flush=True)
    ours = tf_dwsconv.convert(model)
    builtin = tf_dwsconv.to_builtin(ours)
    answers = [m(x).numpy() for m in (ours, builtin)]
    np.testing.assert_allclose(answers[0], answers[1], atol=1e-5)
    losses = []
    for m in (ours, builtin):
        m.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=jit)
        np.testing.assert_allclose(m.predict(x, batch_size=2, verbose=0), answers[1], atol=1e-5)
        losses.append([float(m.train_on_batch(x, y)) for _ in range(3)])
    np.testing.assert_allclose(*losses, rtol=1e-5)
    assert losses[0][2] < losses[0][0]
    empty = ours(np.zeros((0, 16, 16, 3), "float32"))
    assert empty.shape == (0, 4)
print("all right")
"""


@pytest.mark.parametrize(
    "mode, environment",
    [
        ("graph", {"TF_ENABLE_ONEDNN_OPTS": "1"}),
        ("graph", {"TF_ENABLE_ONEDNN_OPTS": "1", "DWSCONV_DISABLE": "1"}),
        ("graph", {"TF_ENABLE_ONEDNN_OPTS": "0", "DWSCONV_DISABLE": "1"}),
        ("jit", {}),
    ],
    ids=["fused", "fallback", "fallback without oneDNN", "jit_compile"],
)
def test_graphs(mode, environment):
    """Explicit padding with a bias behind it, and its like, predicted and trained."""
    program = f"import sys\nsys.argv[1:] = [{mode!r}]\n" + GRAPHS
    assert "all right" in check_python(program, **environment)


def operations(function, *arguments):
    graph = tf.function(function).get_concrete_function(*arguments).graph
    return [op for op in graph.get_operations() if "DepthwiseConv2dNative" in op.type]


@pytest.mark.parametrize("pads", [(0, 0, 0, 0), (1, 0, 2, 1), (0, 3, 0, 0)], ids=str)
def test_no_op_with_explicit_padding(pads):
    """In no graph that we make: forward, and both gradients, against the same with the padding as an op in front."""
    rng = np.random.default_rng(0)
    x, kernel = (tf.constant(rng.standard_normal(s), tf.float32) for s in ((2, 7, 9, 3), (3, 3, 3, 2)))
    attributes = Attributes(strides=(2, 2), padding="EXPLICIT", explicit_paddings=(0, 0, *pads, 0, 0))
    padded = tf.pad(x, [[0, 0], pads[:2], pads[2:], [0, 0]])
    with tf.GradientTape() as tape:
        tape.watch((padded, kernel))
        expected = tf.nn.depthwise_conv2d(padded, kernel, [1, 2, 2, 1], "VALID")
    grad = tf.constant(rng.standard_normal(expected.shape), tf.float32)
    grad_padded, grad_kernel = tape.gradient(expected, (padded, kernel), output_gradients=grad)
    grad_x = grad_padded[:, pads[0] : pads[0] + 7, pads[2] : pads[2] + 9]

    def everything(x, kernel, grad):
        return convolutions.depthwise(x, kernel, attributes), *convolutions.depthwise_gradients(
            x, kernel, grad, attributes, True, True
        )

    free = tf.TensorSpec([None, None, None, 3])
    for specs in ((x, kernel, grad), (free, kernel, grad)):
        found = operations(everything, *specs)
        assert len(found) == 3
        assert {op.get_attr("padding") for op in found} == {b"VALID"}
        assert not any(op.get_attr("explicit_paddings") for op in found)
    for actual, reference in zip(tf.function(everything)(x, kernel, grad), (expected, grad_x, grad_kernel)):
        np.testing.assert_allclose(actual, reference, atol=1e-5)
