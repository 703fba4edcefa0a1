"""On a GPU, where there is one: the kernels by themselves, and the op's placement in TensorFlow."""

from __future__ import annotations

import subprocess

from conftest import ROOT, check_python
from cuda_gpu_support import built_with_gpu_kernels, check_program, needs_gpu, needs_gpu_build


@needs_gpu
def test_kernels_on_the_gpu():
    check_program("cuda_gpu_program.py")


PLACEMENT = """
import ctypes, numpy as np, tensorflow as tf, tf_dwsconv
from tf_dwsconv._tf import library as _library
assert tf.config.list_physical_devices("GPU"), "TensorFlow finds no GPU"
count = ctypes.CDLL(_library.load().path).dwsconv_gpu_calls
count.restype = ctypes.c_int64
calls = lambda: sum(count(path) for path in (b"direct", b"two_step", b"stream"))
tf.config.set_soft_device_placement(False)
tf.config.experimental.enable_tensor_float_32_execution(False)
for dtype, tolerance in (("float32", 1e-4), ("float16", 2e-2), ("bfloat16", 2e-1)):
    rng = np.random.default_rng(0)
    draw = lambda *shape: tf.constant(rng.standard_normal(shape), dtype)
    x, d, p, r = draw(2, 20, 20, 16), draw(3, 3, 16, 1), draw(1, 1, 16, 24), draw(2, 20, 20, 24)
    with tf.device("CPU:0"):
        expected = tf_dwsconv.depthwise_sep_conv2d(x, d, p, residual=r, activation="relu")
    before = calls()
    with tf.device("GPU:0"):
        actual = tf_dwsconv.depthwise_sep_conv2d(x, d, p, residual=r, activation="relu")
        graph = tf.function(lambda: tf_dwsconv.depthwise_sep_conv2d(x, d, p, residual=r, activation="relu"))()
    assert "GPU" in actual.device and calls() == before + 2, (actual.device, calls(), before)
    np.testing.assert_allclose(tf.cast(actual, "float32"), tf.cast(expected, "float32"), atol=tolerance, rtol=tolerance)
    np.testing.assert_array_equal(tf.cast(actual, "float32"), tf.cast(graph, "float32"))
print("placed")
"""


@needs_gpu
@needs_gpu_build
def test_tensorflow_places_the_op_on_the_gpu():
    assert "placed" in check_python(PLACEMENT, CUDA_VISIBLE_DEVICES="0")


def test_what_the_build_says_of_gpu_kernels_is_so():
    """_build_info.json and the library agree, with and without GPU kernels."""
    library = ROOT / "tf_dwsconv" / "_dwsconv_ops.so"
    sections = subprocess.run(["readelf", "-SW", str(library)], check=True, capture_output=True, text=True).stdout
    symbols = subprocess.run(["nm", "-D", str(library)], check=True, capture_output=True, text=True).stdout
    assert built_with_gpu_kernels() == (".nv_fatbin" in sections) == ("dwsconv_gpu_calls" in symbols)
    # The runtime inside is nobody else's.
    assert " T cudaMalloc" not in symbols
