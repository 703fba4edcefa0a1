"""Writes the saved models of this folder: run at version 0.1.0, and never again for these files.

`python_tests/package/test_saved_models.py` loads them with today's package: whoever saved a model keeps it.
"""

import sys
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

import tf_dwsconv

FOLDER = Path(__file__).parent


def network() -> keras.Model:
    """Every op and layer of the package, with activations, paddings, strides, a gate, a norm and residuals."""
    keras.utils.set_random_seed(7)
    layer, block = tf_dwsconv.DepthwiseSepConv2D, tf_dwsconv.FusedConvBlock
    x = keras.Input((17, 14, 3), name="picture")
    y = block(8, dense_kernel_size=3, strides=2, padding=((0, 1), (0, 1)), activation="hard_swish", name="first")(x)
    y = layer(
        12,
        3,
        padding="same",
        activation=("leaky_relu", 0.1),
        depthwise_use_bias=True,
        depthwise_activation="relu6",
        bias_initializer="random_normal",
        depthwise_bias_initializer="random_normal",
        name="layer",
    )(y)
    z = block(
        12,
        (3, 5),
        expand_filters=24,
        expand_activation="relu6",
        depthwise_activation="silu",
        residual=True,
        name="inverted",
    )([y, y])
    gate = keras.layers.Dense(24, "sigmoid", name="gate")(keras.layers.GlobalAveragePooling2D(name="pool")(z))
    wide = block(None, 3, depth_multiplier=2, depthwise_activation="relu", name="depthwise")(z)
    z = block(10, activation="tanh", gated=True, name="gated")([wide, gate])
    z = block(9, 7, padding="same", epsilon=1e-3, activation="gelu", name="normed")(z)
    z = layer(6, 3, strides=2, depth_multiplier=2, activation="sigmoid", name="last")(z)
    model = keras.Model(x, [z, keras.layers.GlobalAveragePooling2D(name="mean")(z)], name="saved")
    random = np.random.default_rng(3)
    for variable in model.trainable_variables:
        if variable.ndim == 1:
            variable.assign(0.1 * random.standard_normal(variable.shape))
    return model


class Training(tf.Module):
    """A graph that holds the op's gradient, as a saved training step does."""

    def __init__(self):
        random = np.random.default_rng(4)
        self.depthwise_filter = tf.Variable(random.standard_normal((3, 3, 3, 2)), dtype=tf.float32)
        self.pointwise_filter = tf.Variable(random.standard_normal((1, 1, 6, 5)), dtype=tf.float32)

    @tf.function(input_signature=[tf.TensorSpec([None, 17, 14, 3])])
    def gradients(self, x):
        with tf.GradientTape() as tape:
            y = tf_dwsconv.depthwise_sep_conv2d(
                x,
                self.depthwise_filter,
                self.pointwise_filter,
                strides=2,
                depthwise_activation="relu",
                activation="silu",
            )
            loss = tf.reduce_mean(y * y)
        return tape.gradient(loss, [self.depthwise_filter, self.pointwise_filter])


if __name__ == "__main__":
    keras.mixed_precision.set_global_policy("float32")
    version = tf_dwsconv.__version__
    if (FOLDER / f"network-{version}.keras").exists():
        sys.exit(f"error: {FOLDER} holds the files of {version} already; they must stay as they were written.")
    model = network()
    x = np.random.default_rng(5).standard_normal((2, 17, 14, 3)).astype(np.float32)
    answers = [np.asarray(y) for y in model(x)]
    model.save(FOLDER / f"network-{version}.keras")
    model.export(FOLDER / f"network-{version}", verbose=False)
    training = Training()
    gradients = [np.asarray(g) for g in training.gradients(tf.constant(x))]
    tf.saved_model.save(training, str(FOLDER / f"gradients-{version}"))
    np.savez(
        FOLDER / f"answers-{version}.npz",
        x=x,
        **{f"y{i}": y for i, y in enumerate(answers)},
        **{f"g{i}": g for i, g in enumerate(gradients)},
    )
    print(f"tensorflow {tf.version.VERSION}, keras {keras.__version__}, tf_dwsconv {version}")
