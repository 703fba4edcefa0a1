"""On a GPU, where there is one: the gradients' kernels by themselves, and training steps in TensorFlow."""

from __future__ import annotations

from conftest import check_python
from cuda_gpu_support import check_program, needs_gpu, needs_gpu_build


@needs_gpu
def test_gradients_on_the_gpu():
    check_program("cuda_backward_gpu_program.py")


STEPS = """
import ctypes, keras, numpy as np, tensorflow as tf, tf_dwsconv
from tf_dwsconv._tf import library as _library
assert tf.config.list_physical_devices("GPU"), "TensorFlow finds no GPU"
handle = ctypes.CDLL(_library.load().path)
handle.dwsconv_gpu_calls.restype = ctypes.c_int64
calls = lambda: sum(handle.dwsconv_gpu_calls(path) for path in (b"general", b"steps", b"fused"))
tf.config.set_soft_device_placement(False)
tf.config.experimental.enable_tensor_float_32_execution(False)
keras.utils.set_random_seed(1)
x = np.random.default_rng(0).standard_normal((4, 20, 20, 16)).astype("float32")

def gradients(device, policy, activation):
    with tf.device(device):
        layer = tf_dwsconv.DepthwiseSepConv2D(
            24, 3, padding="same", activation=activation, depthwise_use_bias=True, depthwise_activation="relu6",
            dtype=policy,
        )
        layer.build(x.shape)
        layer.set_weights(weights)
        step = tf.function(lambda: tape_of(layer))
        return [tf.cast(gradient, "float32").numpy() for gradient in step()]

def tape_of(layer):
    source = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(source)
        loss = tf.reduce_mean(tf.cast(layer(source), "float32") ** 2)
    return tape.gradient(loss, [source, *layer.trainable_weights])

random = np.random.default_rng(1)
shapes = ((3, 3, 16, 1), (16,), (1, 1, 16, 24), (24,))
probe = tf_dwsconv.DepthwiseSepConv2D(24, 3, depthwise_use_bias=True)
probe.build(x.shape)
weights = [random.standard_normal(w.shape).astype("float32") * 0.3 for w in probe.get_weights()]
for policy, tolerance in (("float32", 1e-4), ("mixed_float16", 1e-2), ("mixed_bfloat16", 6e-2)):
    for activation in ("relu", "silu"):
        before = calls()
        on_gpu = gradients("GPU:0", policy, activation)
        assert calls() == before + 1, (calls(), before)
        again = gradients("GPU:0", policy, activation)
        expected = gradients("CPU:0", policy, activation)
        for actual, same, wanted in zip(on_gpu, again, expected):
            np.testing.assert_array_equal(actual, same)
            assert np.abs(actual - wanted).max() <= tolerance * np.abs(wanted).max(), (policy, activation)

# Whole steps: the loss falls, under loss scaling too.
labels = (x[..., 0].mean((1, 2)) > 0).astype("int32")
for policy in ("mixed_float16", "mixed_bfloat16"):
    keras.config.set_dtype_policy(policy)
    model = keras.Sequential([
        keras.Input(x.shape[1:]),
        tf_dwsconv.DepthwiseSepConv2D(32, 3, strides=2, activation="relu"),
        tf_dwsconv.DepthwiseSepConv2D(32, 3, activation="silu"),
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dense(2, dtype="float32"),
    ])
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    before = calls()
    history = model.fit(x, labels, batch_size=4, epochs=30, verbose=0).history["loss"]
    assert calls() >= before + 60 and history[-1] < history[0], (calls() - before, history)
print("trained")
"""


@needs_gpu
@needs_gpu_build
def test_tensorflow_trains_on_the_gpu():
    assert "trained" in check_python(STEPS, CUDA_VISIBLE_DEVICES="0")
