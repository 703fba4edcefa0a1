"""Every malformed call is an error that names the argument, and the process lives on.

Each set of calls runs in a process of its own, which prints what became of each call: a death is seen as such, and
shows which call it was.
"""

from __future__ import annotations

import json

import pytest
from conftest import run_python

from tf_dwsconv._tf import library as _library

pytestmark = pytest.mark.usefixtures("op_library")

# Python expressions, evaluated in the process: tensors t(shape), and T where only the dtype matters. Each case is
# (arguments that differ from a right call, words of which one must be in the message).
CASES = {
    # Ranks and sizes.
    "x rank 3": ("x=t(5,6,3)", "x|input"),
    "x rank 5": ("x=t(1,1,5,6,3)", "x|input"),
    "x rank 0": ("x=t()", "x|input"),
    "x rank 1": ("x=t(3)", "x|input"),
    "x other channels": ("x=t(2,5,6,4)", "depthwise_filter"),
    "x no channels": ("x=t(2,5,6,0)", "depthwise_filter"),
    "x is NHWC, format NCHW": ("data_format='NCHW'", "depthwise_filter"),
    "depthwise rank 3": ("depthwise_filter=t(3,3,3)", "depthwise_filter"),
    "depthwise rank 5": ("depthwise_filter=t(3,3,3,2,1)", "depthwise_filter"),
    "depthwise no rows": ("depthwise_filter=t(0,3,3,2)", "depthwise_filter"),
    "depthwise no multiplier": ("depthwise_filter=t(3,3,3,0), pointwise_filter=t(1,1,0,4)", "depthwise_filter"),
    "pointwise rank 2": ("pointwise_filter=t(6,4)", "pointwise_filter"),
    "pointwise 3x3": ("pointwise_filter=t(3,3,6,4)", "pointwise_filter"),
    "pointwise C instead of C*M": ("pointwise_filter=t(1,1,3,4)", "pointwise_filter"),
    "pointwise no filters": ("pointwise_filter=t(1,1,6,0)", "pointwise_filter"),
    "depthwise_bias of C": ("depthwise_bias=t(3)", "depthwise_bias"),
    "depthwise_bias rank 2": ("depthwise_bias=t(1,6)", "depthwise_bias"),
    "depthwise_bias rank 0": ("depthwise_bias=t()", "depthwise_bias"),
    "bias of 1": ("bias=t(1)", "bias"),
    "bias of K+1": ("bias=t(5)", "bias"),
    "bias rank 2": ("bias=t(1,4)", "bias"),
    "bias empty": ("bias=t(0)", "bias"),
    "residual of one image": ("residual=t(1,5,6,4)", "residual"),
    "residual to broadcast": ("residual=t(4)", "residual"),
    "residual transposed": ("residual=t(2,6,5,4)", "residual"),
    "residual before strides": ("strides=2, residual=t(2,5,6,4)", "residual"),
    # Windows.
    "VALID window too high": ("padding='VALID', x=t(2,2,6,3)", "height"),
    "VALID window too wide": ("padding='VALID', x=t(2,5,2,3)", "width"),
    "VALID window too large by dilation": ("padding='VALID', dilations=3", "height|dilation"),
    "VALID on an empty image": ("padding='VALID', x=t(2,0,6,3)", "height"),
    "EXPLICIT window too large": ("padding=[[0,0],[0,0],[1,0],[0,0]], x=t(2,2,6,3)", "height"),
    "VALID with a huge dilation": ("padding='VALID', dilations=2**31-1", "height|dilation"),
    # Numbers.
    "strides 0": ("strides=0", "strides"),
    "strides negative": ("strides=(1,-1)", "strides"),
    "strides past 64 bits": ("strides=2**70", "strides"),
    "strides empty": ("strides=()", "strides"),
    "strides of 4": ("strides=(1,2,2,1)", "strides"),
    "strides bool": ("strides=True", "strides"),
    "strides float": ("strides=1.0", "strides"),
    "strides text": ("strides='2'", "strides"),
    "strides None": ("strides=None", "strides"),
    "strides NumPy bool": ("strides=np.array([True, True])", "strides"),
    "strides NumPy float": ("strides=np.array([1.0, 1.0])", "strides"),
    "strides nested": ("strides=((1,1),1)", "strides"),
    "dilations 0": ("dilations=(0,1)", "dilations"),
    "dilations negative": ("dilations=-2", "dilations"),
    "dilations past 64 bits": ("dilations=2**64", "dilations"),
    "dilations of 3": ("dilations=[1,1,1]", "dilations"),
    "dilations bool": ("dilations=(True,1)", "dilations"),
    "padding word": ("padding='FULL'", "padding"),
    "padding EXPLICIT as a word": ("padding='EXPLICIT'", "padding"),
    "padding None": ("padding=None", "padding"),
    "padding number": ("padding=1", "padding"),
    "padding of 2 pairs": ("padding=[[1,1],[1,1]]", "padding"),
    "padding flat": ("padding=[0,0,1,1,1,1,0,0]", "padding"),
    "padding ragged": ("padding=[[0,0],[1],[1,1],[0,0]]", "padding"),
    "padding negative": ("padding=[[0,0],[-1,1],[1,1],[0,0]]", "padding"),
    "padding on the batch": ("padding=[[1,0],[1,1],[1,1],[0,0]]", "padding"),
    "padding on channels": ("padding=[[0,0],[1,1],[1,1],[0,1]]", "padding"),
    "padding on channels of NCHW": (
        "x=t(2,3,5,6), data_format='NCHW', padding=[[0,0],[1,1],[1,1],[0,0]]",
        "padding",
    ),
    "padding huge": ("padding=[[0,0],[2**62,2**62],[0,0],[0,0]]", "padding"),
    "padding past 64 bits": ("padding=[[0,0],[2**80,0],[0,0],[0,0]]", "padding"),
    "padding an output too large to hold": (
        "padding=[[0,0],[2**31-1,2**31-1],[2**31-1,2**31-1],[0,0]]",
        "padding|output|OOM|memory|alloc",
    ),
    "padding float": ("padding=[[0,0],[1.5,1],[1,1],[0,0]]", "padding"),
    "padding NumPy of another shape": ("padding=np.zeros((3,2),int)", "padding"),
    "data_format word": ("data_format='NHCW'", "data_format"),
    "data_format None": ("data_format=None", "data_format"),
    "data_format of Keras": ("data_format='channels_last'", "data_format"),
    # Activations.
    "activation word": ("activation='selu'", "activation"),
    "activation number": ("activation=1", "activation"),
    "activation function of ours unknown": ("activation=tf.nn.selu", "activation"),
    "activation pair of another word": ("activation=('relu', 0.1)", "activation"),
    "activation triple": ("activation=('leaky_relu', 0.1, 0.2)", "activation"),
    "activation NaN slope": ("activation=('leaky_relu', float('nan'))", "activation"),
    "activation infinite slope": ("depthwise_activation=('leaky_relu', float('inf'))", "depthwise_activation"),
    "activation slope of text": ("depthwise_activation=('leaky_relu', 'x')", "depthwise_activation"),
    "depthwise_activation word": ("depthwise_activation='softmax'", "depthwise_activation"),
    "activation empty word": ("activation=''", "activation"),
    # Kinds and dtypes.
    "x None": ("x=None", "x"),
    "x text": ("x='image'", "x"),
    "x object": ("x=object()", "x"),
    "x ragged": ("x=tf.ragged.constant([[[[1.,2.,3.]]],[[[1.,2.,3.]],[[1.,2.,3.]]]])", "x"),
    "x sparse": ("x=tf.sparse.from_dense(t(2,5,6,3))", "x"),
    "x int32": ("x=tf.cast(t(2,5,6,3), tf.int32)", "x"),
    "x uint8": ("x=tf.cast(t(2,5,6,3), tf.uint8)", "x"),
    "x bool": ("x=tf.cast(t(2,5,6,3), tf.bool)", "x"),
    "x complex": ("x=tf.cast(t(2,5,6,3), tf.complex64)", "x"),
    "x of text": ("x=tf.constant([[[['a','b','c']]]])", "x"),
    "x nested lists that do not fit": ("x=[[1.,2.],[3.]]", "x"),
    "depthwise float16": ("depthwise_filter=tf.cast(t(3,3,3,2), tf.float16)", "depthwise_filter"),
    "depthwise None": ("depthwise_filter=None", "depthwise_filter"),
    "pointwise float64": ("pointwise_filter=tf.cast(t(1,1,6,4), tf.float64)", "pointwise_filter"),
    "pointwise None": ("pointwise_filter=None", "pointwise_filter"),
    "bias bfloat16": ("bias=tf.cast(t(4), tf.bfloat16)", "bias"),
    "bias text": ("bias='zeros'", "bias"),
    "depthwise_bias int": ("depthwise_bias=tf.zeros([6], tf.int32)", "depthwise_bias"),
    "residual float64": ("residual=tf.zeros([2,5,6,4], tf.float64)", "residual"),
    "residual ragged": ("residual=tf.ragged.constant([[1.],[1.,2.]])", "residual"),
}

PROGRAM = """
import json, sys, warnings
import numpy as np, tensorflow as tf, tf_dwsconv
warnings.simplefilter("ignore")
mode, cases = sys.argv[1], json.loads(sys.argv[2])

def t(*shape):
    return tf.ones(shape)

def arguments(expression):
    right = dict(x=t(2,5,6,3), depthwise_filter=t(3,3,3,2), pointwise_filter=t(1,1,6,4))
    right.update(eval("dict(" + expression + ")"))
    return right

def call(expression):
    given = arguments(expression)
    if mode == "eager":
        return tf_dwsconv.depthwise_sep_conv2d(**given)
    if mode == "graph":
        return tf.function(lambda: tf_dwsconv.depthwise_sep_conv2d(**given))()
    if mode == "xla":
        return tf.function(lambda: tf_dwsconv.depthwise_sep_conv2d(**given), jit_compile=True)()
    # Graph whose shapes are known only when it runs.
    tensors = {k: v for k, v in given.items() if isinstance(v, tf.Tensor)}
    rest = {k: v for k, v in given.items() if k not in tensors}
    known = 4 if mode == "unknown sizes" else None
    specs = [tf.TensorSpec([None] * v.shape.rank if known else None, v.dtype) for v in tensors.values()]
    function = tf.function(lambda *values: tf_dwsconv.depthwise_sep_conv2d(**dict(zip(tensors, values)), **rest),
                           input_signature=specs)
    return function(*tensors.values())

for name, expression in cases:
    print("try", name, flush=True)
    try:
        result = call(expression)
        print("result", json.dumps([name, "none", "returned " + str(getattr(result, "shape", None))]), flush=True)
    except Exception as error:
        kinds = [kind.__name__ for kind in type(error).__mro__]
        print("result", json.dumps([name, kinds, str(error)]), flush=True)
y = tf_dwsconv.depthwise_sep_conv2d(**arguments(""))
assert y.shape == [2, 5, 6, 4] and float(y[0, 2, 2, 0]) == 54.0, y
print("alive", flush=True)
"""

ALLOWED = {"ValueError", "TypeError", "InvalidArgumentError"}


def outcomes(program, mode, cases, **environment):
    """{name: (classes of the error, message)}; fails with the call's name where the process died of one."""
    listed = json.dumps([[name, expression] for name, (expression, _) in cases.items()])
    done = run_python(program, mode, listed, timeout=400, **environment)
    lines = done.stdout.splitlines()
    tried = [line[4:] for line in lines if line.startswith("try ")]
    assert "alive" in lines, f"died of {tried[-1:]} with {done.returncode}: {done.stderr[-2000:]}"
    return {name: (kinds, message) for name, kinds, message in (json.loads(s[7:]) for s in lines if s[:7] == "result ")}


def judge(found, cases, allowed):
    wrong = []
    for name, (_, words) in cases.items():
        kinds, message = found[name]
        if not allowed & set(kinds if isinstance(kinds, list) else []):
            wrong.append((name, kinds, message[:200]))
        elif not any(word in message for word in words.split("|")):
            wrong.append((name, "names nothing", message[:300]))
    assert not wrong, "\n".join(map(str, wrong))


MEMORY = {"ResourceExhaustedError"}


@pytest.mark.parametrize("stock", ["0", "1"], ids=["fused", "stock"])
@pytest.mark.parametrize("mode", ["eager", "graph", "unknown sizes", "unknown ranks"])
def test_malformed_calls(mode, stock):
    judge(outcomes(PROGRAM, mode, CASES, DWSCONV_DISABLE=stock), CASES, ALLOWED | MEMORY)


def test_malformed_calls_inside_xla():
    judge(outcomes(PROGRAM, "xla", CASES), CASES, ALLOWED | MEMORY)


# Straight to the op, past all Python of ours. Attributes that TensorFlow itself cannot hold are TypeErrors of its own.
RAW = {
    "rank 3": ("input=t(5,6,3)", "input"),
    "rank 0": ("input=t()", "input"),
    "channels": ("input=t(2,5,6,4)", "depthwise_filter"),
    "no channels": ("input=t(2,5,6,0)", "depthwise_filter"),
    "pointwise": ("pointwise_filter=t(1,1,3,4)", "pointwise_filter"),
    "pointwise rank": ("pointwise_filter=t(6,4)", "pointwise_filter"),
    "bias": ("bias=[t(5)]", "bias"),
    "two biases": ("bias=[t(4),t(4)]", "bias"),
    "two depthwise biases": ("depthwise_bias=[t(6),t(6)]", "depthwise_bias"),
    "three residuals": ("residual=[t(2,5,6,4)]*3", "residual"),
    "residual": ("residual=[t(2,5,6,3)]", "residual"),
    "strides of 4": ("strides=[1,1,1,1]", "strides"),
    "no strides": ("strides=[]", "strides"),
    "zero stride": ("strides=[0,1]", "strides"),
    "least stride": ("strides=[-2**63,1]", "strides"),
    "dilations of 1": ("dilations=[1]", "dilations"),
    "zero dilation": ("dilations=[1,0]", "dilations"),
    "greatest dilation": ("dilations=[2**63-1,2**63-1]", "dilation"),
    "greatest dilation VALID": ("dilations=[2**63-1,1], padding='VALID'", "dilation|height"),
    "padding": ("padding='CAUSAL'", "padding"),
    "no explicit_paddings": ("padding='EXPLICIT'", "explicit_paddings"),
    "four explicit_paddings": ("padding='EXPLICIT', explicit_paddings=[1,1,1,1]", "explicit_paddings"),
    "explicit_paddings and SAME": ("explicit_paddings=[0,0,1,1,1,1,0,0]", "explicit_paddings"),
    "negative pad": ("padding='EXPLICIT', explicit_paddings=[0,0,-1,1,1,1,0,0]", "explicit_paddings"),
    "batch pad": ("padding='EXPLICIT', explicit_paddings=[0,1,1,1,1,1,0,0]", "explicit_paddings"),
    "huge pads": ("padding='EXPLICIT', explicit_paddings=[0,0,2**62,2**62,2**62,2**62,0,0]", "padding"),
    "huge pads that overflow": ("padding='EXPLICIT', explicit_paddings=[0,0,2**63-1,2**63-1,0,0,0,0]", "padding"),
    "large pads": ("padding='EXPLICIT', explicit_paddings=[0,0,2**40,0,0,0,0,0]", "padding|OOM|memory|alloc"),
    "data_format": ("data_format='NCWH'", "data_format"),
    "activation": ("activation='selu'", "activation"),
    "depthwise_activation": ("depthwise_activation='RELU'", "depthwise_activation"),
    "alpha": ("activation='leaky_relu', alpha=float('nan')", "alpha"),
    "depthwise_alpha": ("depthwise_activation='leaky_relu', depthwise_alpha=float('inf')", "depthwise_alpha"),
    "window": ("padding='VALID', input=t(2,2,6,3)", "height"),
    "dtypes": ("depthwise_filter=tf.cast(t(3,3,3,2), tf.float16)", "depthwise_filter|half|type"),
    "float64": ("input=d(2,5,6,3), depthwise_filter=d(3,3,3,2), pointwise_filter=d(1,1,6,4)", "double|float64|type"),
    "int32": ("input=i(2,5,6,3), depthwise_filter=i(3,3,3,2), pointwise_filter=i(1,1,6,4)", "int32|type"),
}

RAW_PROGRAM = (
    PROGRAM.replace("import numpy as np, tensorflow as tf, tf_dwsconv", "import tensorflow as tf")
    .replace(
        "def arguments(",
        """
op = tf.load_op_library(sys.argv[3]).tf_dwsconv_depthwise_sep_conv2d

def d(*shape):
    return tf.ones(shape, tf.float64)

def i(*shape):
    return tf.ones(shape, tf.int32)

def arguments(""",
    )
    .replace("right = dict(x=", "right = dict(depthwise_bias=[], bias=[], residual=[], input=")
    .replace("tf_dwsconv.depthwise_sep_conv2d", "op")
)


@pytest.mark.parametrize("mode", ["eager", "graph", "unknown sizes", "unknown ranks"])
def test_malformed_calls_of_the_raw_op(mode):
    program = RAW_PROGRAM.replace("sys.argv[3]", repr(str(_library.LIBRARY)))
    # TensorFlow asks for memory that there is not for ten seconds before it gives up: once is enough.
    cases = RAW if mode == "eager" else {name: case for name, case in RAW.items() if name != "large pads"}
    judge(outcomes(program, mode, cases), cases, ALLOWED | MEMORY | {"NotFoundError"})


def test_a_crash_would_be_seen():
    """The harness itself."""
    with pytest.raises(AssertionError, match="died of"):
        outcomes(PROGRAM.replace("given = arguments(expression)", "import os; os.abort()"), "eager", CASES)
