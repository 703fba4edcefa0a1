"""On a GPU, where there is one: the block's kernels by themselves, and where TensorFlow places converted models."""

from __future__ import annotations

from conftest import check_python
from cuda_gpu_support import check_program, needs_gpu, needs_gpu_build


@needs_gpu
def test_block_kernels_on_the_gpu():
    check_program("cuda_block_gpu_program.py")


# Small models of the blocks of MobileNetV3 (expansion, depthwise, gate, projection, residual) and ConvNeXt (depthwise,
# norm, 1x1 twice, residual), with the first convolution of each.
PLACEMENT = """
import ctypes, keras, numpy as np, tensorflow as tf, tf_dwsconv
from keras import layers
from tf_dwsconv._tf import library as _library
assert tf.config.list_physical_devices("GPU"), "TensorFlow finds no GPU"
counted = ctypes.CDLL(_library.load().path).dwsconv_gpu_calls
counted.restype = ctypes.c_int64
count = lambda: counted(b"auto")
tf.config.set_soft_device_placement(False)
tf.config.experimental.enable_tensor_float_32_execution(False)

def norm(x, word):
    return layers.Activation(word)(layers.BatchNormalization()(x))

def mobilenet():
    x = given = keras.Input((32, 32, 3))
    x = skip = norm(layers.Conv2D(16, 3, strides=2, padding="same", use_bias=False)(x), "hard_swish")
    x = norm(layers.Conv2D(48, 1, use_bias=False)(x), "hard_swish")
    x = norm(layers.DepthwiseConv2D(5, padding="same", use_bias=False)(x), "hard_swish")
    gate = layers.GlobalAveragePooling2D(keepdims=True)(x)
    gate = layers.Conv2D(48, 1, activation="hard_sigmoid")(layers.Conv2D(16, 1, activation="relu")(gate))
    x = layers.Multiply()([x, gate])
    x = layers.Add()([layers.BatchNormalization()(layers.Conv2D(16, 1, use_bias=False)(x)), skip])
    return keras.Model(given, x)

def convnext():
    x = given = keras.Input((32, 32, 3))
    x = skip = layers.Conv2D(24, 4, strides=4)(x)
    x = layers.LayerNormalization(epsilon=1e-6)(layers.DepthwiseConv2D(7, padding="same")(x))
    x = layers.Dense(24)(layers.Dense(96, activation="gelu")(x))
    return keras.Model(given, layers.Add()([x, skip]))

for make in (mobilenet, convnext):
    for policy, tolerance in (("float32", 1e-3), ("mixed_float16", 2e-2), ("mixed_bfloat16", 1e-1)):
        keras.mixed_precision.set_global_policy(policy)
        keras.utils.set_random_seed(0)
        with tf.device("CPU:0"):
            model = tf_dwsconv.convert(make())
            fused = [layer for layer in model.layers if isinstance(layer, tf_dwsconv.FusedConvBlock)]
            assert len(fused) >= 3, [layer.name for layer in model.layers]
            weights = model.get_weights()
            x = tf.constant(np.random.default_rng(0).standard_normal((2, 32, 32, 3)), "float32")
            expected = np.asarray(tf.cast(model(x), "float32"))
        before = count()
        with tf.device("GPU:0"):
            model = keras.models.clone_model(model)
            model.set_weights(weights)
            actual = model(x)
            graph = tf.function(lambda t: model(t, training=False))
            again = graph(x)
        assert "GPU" in actual.device and count() == before + 2 * len(fused), (actual.device, count(), before)
        every = keras.Model(model.inputs, [layer.output for layer in model.layers])
        with tf.device("GPU:0"):
            devices = {layer.name: y.device for layer, y in zip(model.layers[1:], every(x)[1:])}
        assert len(devices) >= len(fused) and all("GPU" in device for device in devices.values()), devices
        np.testing.assert_allclose(tf.cast(actual, "float32"), expected, atol=tolerance, rtol=tolerance)
        np.testing.assert_allclose(tf.cast(again, "float32"), expected, atol=tolerance, rtol=tolerance)

# Bad input is refused in the same words on both devices; a channels-first block answers as a channels-last one.
keras.mixed_precision.set_global_policy("float32")
op = _library.block_op()
x, p = tf.zeros([1, 4, 4, 3]), tf.zeros([1, 1, 4, 2])
words = []
lists = ("expand_filter", "expand_bias", "depthwise_filter", "depthwise_bias", "bias", "scale", "residual")
for device in ("CPU:0", "GPU:0"):
    with tf.device(device):
        try:
            op(input=x, pointwise_filter=(p,), **{name: () for name in lists})
        except tf.errors.InvalidArgumentError as error:
            words.append(error.message.split(" [Op:")[0].split("}} ")[-1])
assert len(words) == 2 and words[0] == words[1] and "pointwise_filter must be" in words[0], words
with tf.device("GPU:0"):
    x = tf.constant(np.random.default_rng(0).standard_normal((2, 9, 8, 6)), "float32")
    block = tf_dwsconv.FusedConvBlock(5, 3, expand_filters=12, epsilon=1e-3)
    first = tf_dwsconv.FusedConvBlock(5, 3, expand_filters=12, epsilon=1e-3, data_format="channels_first")
    y = block(x)
    first.build((2, 6, 9, 8))
    first.set_weights(block.get_weights())
    np.testing.assert_array_equal(y, tf.transpose(first(tf.transpose(x, [0, 3, 1, 2])), [0, 2, 3, 1]))
print("placed")
"""


@needs_gpu
@needs_gpu_build
def test_converted_models_stay_on_the_gpu():
    assert "placed" in check_python(PLACEMENT, CUDA_VISIBLE_DEVICES="0")
