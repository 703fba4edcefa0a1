"""What TensorFlow does with the ops' GPU kernels: `python run_tensorflow_gpu.py [SECTION...]`, after `make cuda`.

Each section is told as it ends, and one that fails does not keep the next from running:

    placement   the layer's op on the GPU in every type, called and in a graph, beside the CPU's results
    blocks      converted models of MobileNetV3's and ConvNeXt's blocks, mixed precision too: all layers stay on the GPU
    gradients   gradients beside the CPU's, the same bits twice
    fit         `fit` under loss scaling: the loss falls
    saved       a SavedModel, written on one device and read on the other
    several     a mirrored step on all GPUs that there are; skipped with one

Exits with 1 where a section fails, and with 77 where there is no GPU, or no GPU kernel in the library: nothing was
tested then, and it says so.
"""

from __future__ import annotations

import ctypes
import sys
import tempfile
import traceback

import numpy as np

NOTHING_TESTED = 77
SKIPPED = "skipped"


def cannot_run() -> str:
    """Why nothing can be tested here, or ""."""
    import tensorflow as tf

    import tf_dwsconv

    if not tf.config.list_physical_devices("GPU"):
        return "TensorFlow finds no GPU"
    if not tf_dwsconv.build_info()["built"]["cuda"]:
        return "the op library has no GPU kernels: make cuda builds it so"
    return ""


def count(*paths: str) -> int:
    """Calls so far by path, of all by "auto"."""
    from tf_dwsconv._tf import library

    counted = ctypes.CDLL(library.load().path).dwsconv_gpu_calls
    counted.restype = ctypes.c_int64
    return sum(counted(path.encode()) for path in paths)


def as_float(tensor) -> np.ndarray:
    import tensorflow as tf

    return tf.cast(tensor, "float32").numpy()


def placement() -> None:
    import tensorflow as tf

    import tf_dwsconv

    for dtype, tolerance in (("float32", 1e-4), ("float16", 2e-2), ("bfloat16", 2e-1)):
        rng = np.random.default_rng(0)
        x, d, p, r = (
            tf.constant(rng.standard_normal(shape), dtype)
            for shape in ((2, 20, 20, 16), (3, 3, 16, 1), (1, 1, 16, 24), (2, 20, 20, 24))
        )

        def layer(x=x, d=d, p=p, r=r):
            return tf_dwsconv.depthwise_sep_conv2d(x, d, p, residual=r, activation="relu")

        with tf.device("CPU:0"):
            expected = as_float(layer())
        before = count("direct", "two_step", "stream")
        with tf.device("GPU:0"):
            actual, graph = layer(), tf.function(layer)()
        assert "GPU" in actual.device and count("direct", "two_step", "stream") == before + 2, actual.device
        np.testing.assert_allclose(as_float(actual), expected, atol=tolerance, rtol=tolerance)
        np.testing.assert_array_equal(as_float(actual), as_float(graph))


def mobilenet():
    """A model of MobileNetV3's block: expansion, depthwise, gate, projection, residual, behind a first convolution."""
    import keras
    from keras import layers

    def norm(x, word):
        return layers.Activation(word)(layers.BatchNormalization()(x))

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
    """A model of ConvNeXt's block: depthwise, norm, 1x1 twice, residual, behind a first convolution."""
    import keras
    from keras import layers

    x = given = keras.Input((32, 32, 3))
    x = skip = layers.Conv2D(24, 4, strides=4)(x)
    x = layers.LayerNormalization(epsilon=1e-6)(layers.DepthwiseConv2D(7, padding="same")(x))
    x = layers.Dense(24)(layers.Dense(96, activation="gelu")(x))
    return keras.Model(given, layers.Add()([x, skip]))


def blocks() -> None:
    import keras
    import tensorflow as tf

    import tf_dwsconv

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
                expected = as_float(model(x))
            before = count("auto")
            with tf.device("GPU:0"):
                model = keras.models.clone_model(model)
                model.set_weights(weights)
                actual = model(x)
                again = tf.function(lambda t, model=model: model(t, training=False))(x)
            assert "GPU" in actual.device and count("auto") == before + 2 * len(fused), (actual.device, before)
            every = keras.Model(model.inputs, [layer.output for layer in model.layers])
            with tf.device("GPU:0"):
                devices = {layer.name: y.device for layer, y in zip(model.layers[1:], every(x)[1:])}
            assert len(devices) >= len(fused) and all("GPU" in device for device in devices.values()), devices
            np.testing.assert_allclose(as_float(actual), expected, atol=tolerance, rtol=tolerance)
            np.testing.assert_allclose(as_float(again), expected, atol=tolerance, rtol=tolerance)
    keras.mixed_precision.set_global_policy("float32")
    same_words_on_both_devices()
    channels_first_is_channels_last()


def same_words_on_both_devices() -> None:
    import tensorflow as tf

    from tf_dwsconv._tf import library

    op = library.block_op()
    x, p = tf.zeros([1, 4, 4, 3]), tf.zeros([1, 1, 4, 2])
    words = []
    lists = ("expand_filter", "expand_bias", "depthwise_filter", "depthwise_bias", "bias", "scale", "residual")
    for device in ("CPU:0", "GPU:0"):
        with tf.device(device):
            try:
                op(input=x, pointwise_filter=(p,), **dict.fromkeys(lists, ()))
            except tf.errors.InvalidArgumentError as error:
                words.append(error.message.split(" [Op:")[0].split("}} ")[-1])
    assert len(words) == 2 and words[0] == words[1] and "pointwise_filter must be" in words[0], words


def channels_first_is_channels_last() -> None:
    import tensorflow as tf

    import tf_dwsconv

    with tf.device("GPU:0"):
        x = tf.constant(np.random.default_rng(0).standard_normal((2, 9, 8, 6)), "float32")
        block = tf_dwsconv.FusedConvBlock(5, 3, expand_filters=12, epsilon=1e-3)
        first = tf_dwsconv.FusedConvBlock(5, 3, expand_filters=12, epsilon=1e-3, data_format="channels_first")
        y = block(x)
        first.build((2, 6, 9, 8))
        first.set_weights(block.get_weights())
        np.testing.assert_array_equal(y, tf.transpose(first(tf.transpose(x, [0, 3, 1, 2])), [0, 2, 3, 1]))


def pictures() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((4, 20, 20, 16)).astype("float32")


def gradients() -> None:
    import tensorflow as tf

    import tf_dwsconv

    x, rng = pictures(), np.random.default_rng(1)
    weights = [
        rng.standard_normal(shape).astype("float32") * 0.3 for shape in ((3, 3, 16, 1), (16,), (1, 1, 16, 24), (24,))
    ]

    def computed(device, policy, activation):
        with tf.device(device):
            layer = tf_dwsconv.DepthwiseSepConv2D(
                24, 3, padding="same", activation=activation, depthwise_use_bias=True, depthwise_activation="relu6",
                dtype=policy,
            )  # fmt: skip
            layer.build(x.shape)
            layer.set_weights(weights)

            @tf.function
            def step():
                source = tf.constant(x)
                with tf.GradientTape() as tape:
                    tape.watch(source)
                    loss = tf.reduce_mean(tf.cast(layer(source), "float32") ** 2)
                return tape.gradient(loss, [source, *layer.trainable_weights])

            return [as_float(gradient) for gradient in step()]

    for policy, tolerance in (("float32", 1e-4), ("mixed_float16", 1e-2), ("mixed_bfloat16", 6e-2)):
        for activation in ("relu", "silu"):
            before = count("general", "steps", "fused")
            on_gpu = computed("GPU:0", policy, activation)
            assert count("general", "steps", "fused") == before + 1
            again, expected = computed("GPU:0", policy, activation), computed("CPU:0", policy, activation)
            for actual, same, wanted in zip(on_gpu, again, expected):
                np.testing.assert_array_equal(actual, same)
                assert np.abs(actual - wanted).max() <= tolerance * np.abs(wanted).max(), (policy, activation)


def network():
    """A small network of layers, compiled."""
    import keras

    import tf_dwsconv

    model = keras.Sequential(
        [
            keras.Input(pictures().shape[1:]),
            tf_dwsconv.DepthwiseSepConv2D(32, 3, strides=2, activation="relu"),
            tf_dwsconv.DepthwiseSepConv2D(32, 3, activation="silu"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(2, dtype="float32"),
        ]
    )
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def fit() -> None:
    import keras

    x = pictures()
    labels = (x[..., 0].mean((1, 2)) > 0).astype("int32")
    keras.utils.set_random_seed(1)
    for policy in ("float32", "mixed_float16", "mixed_bfloat16"):
        keras.config.set_dtype_policy(policy)
        before = count("general", "steps", "fused")
        history = network().fit(x, labels, batch_size=4, epochs=30, verbose=0).history["loss"]
        assert count("general", "steps", "fused") >= before + 60 and history[-1] < history[0], (policy, history)
    keras.config.set_dtype_policy("float32")


def saved() -> None:
    """What the CPU wrote, the GPU reads, and the other way; the results are the CPU's but for rounding."""
    import tensorflow as tf

    x = tf.constant(pictures())
    for writes, reads in (("CPU:0", "GPU:0"), ("GPU:0", "CPU:0")):
        with tempfile.TemporaryDirectory() as folder:
            with tf.device(writes):
                model = network()
                expected = as_float(model(x))
                model.export(folder, verbose=False)
            before = count("auto")
            with tf.device(reads):
                actual = as_float(tf.saved_model.load(folder).serve(x))
            assert (count("auto") > before) == (reads == "GPU:0"), reads
        np.testing.assert_allclose(actual, expected, atol=1e-3, rtol=1e-3)


def several():
    import tensorflow as tf

    gpus = tf.config.list_logical_devices("GPU")
    if len(gpus) < 2:
        return SKIPPED + ": there is one GPU"
    x = pictures()
    labels = (x[..., 0].mean((1, 2)) > 0).astype("int32")
    strategy = tf.distribute.MirroredStrategy([gpu.name for gpu in gpus])
    with strategy.scope():
        model = network()
    before = count("general", "steps", "fused")
    history = model.fit(x, labels, batch_size=4, epochs=10, verbose=0).history["loss"]
    assert count("general", "steps", "fused") >= before + 10 * len(gpus) and history[-1] < history[0], history
    return f"{len(gpus)} GPUs"


SECTIONS = {f.__name__: f for f in (placement, blocks, gradients, fit, saved, several)}


def main(argv: list) -> int:
    unknown = [name for name in argv if name not in SECTIONS]
    if unknown:
        print(f"error: SECTION must be one of {', '.join(SECTIONS)}, but is {unknown[0]}", file=sys.stderr)
        return 2
    why = cannot_run()
    if why:
        print(f"SKIPPED, nothing was tested: {why}", file=sys.stderr, flush=True)
        return NOTHING_TESTED
    import tensorflow as tf

    tf.config.set_soft_device_placement(False)
    tf.config.experimental.enable_tensor_float_32_execution(False)
    failed = 0
    for name in argv or SECTIONS:
        try:
            words = SECTIONS[name]() or "passed"
        except Exception:  # the other sections are wanted whatever it is
            traceback.print_exc()
            words, failed = "FAILED", failed + 1
        print(f"{name}: {words}", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
