"""The Keras layer of a batch norm that is trained in one op."""

from __future__ import annotations

from typing import Any

import keras

from tf_dwsconv import _tf_keras
from tf_dwsconv.layers._shared import check_backend, keras_activation, last_activation

if keras.config.backend() == "tensorflow":
    import tensorflow as tf

    from tf_dwsconv._tf import batch_norm

# The least that TensorFlow's op, which computes there, takes on a GPU.
_LEAST_EPSILON = 1e-5


@keras.saving.register_keras_serializable(package="tf_dwsconv")
class FusedBatchNormalization(_tf_keras.NotInside, keras.layers.BatchNormalization):
    """Batch normalization and an activation, whose statistics, result and gradients are one op each way.

    It replaces `keras.layers.BatchNormalization`: arguments, weights, config, results and updates are the same. Keras 3
    makes a batch norm in training of means, differences and products, each of which reads or writes the whole tensor.
    Here the forward pass reads it twice, and the gradient, that of the activation with it, twice again; each once where
    the layer is frozen or does not train.

    The channels must be the last axis. Keras' way, with the activation behind it, computes what the op cannot: another
    `axis`, masks, `renorm`, `synchronized`, variables that are not float32, float64, an epsilon below 1e-5. Inside XLA,
    on a GPU and if the op library cannot load, TensorFlow's own ops compute the same.

    Args:
        *args: of `keras.layers.BatchNormalization`, by position.
        activation: applied to the result: None, a name, a function, a layer, or a pair such as `("leaky_relu", slope)`
            (see `tf_dwsconv.activations.parse`). One that the kernel does not know runs as an op of its own.
        **kwargs: of `keras.layers.BatchNormalization`.

    Input shape:
        Of any rank from 2 on; `axis` is that of the channels.

    Output shape:
        That of the input.

    Returns:
        A tensor of the layer's compute dtype.

    Raises:
        ValueError: an argument out of range, or a Keras backend other than TensorFlow.
        TypeError: an activation of a kind that cannot be one.

    Source: Ioffe and Szegedy, "Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate
    Shift" (2015), algorithm 1.

    Example:

    >>> import numpy as np
    >>> import tf_dwsconv
    >>> layer = tf_dwsconv.FusedBatchNormalization(momentum=0.9, activation="relu6")
    >>> layer(np.ones((4, 8, 8, 3), "float32"), training=True).shape
    TensorShape([4, 8, 8, 3])
    >>> [tuple(weight.shape) for weight in layer.weights]
    [(3,), (3,), (3,), (3,)]
    """

    def __init__(self, *args: Any, activation: Any = None, **kwargs: Any) -> None:
        check_backend("FusedBatchNormalization", "keras.layers.BatchNormalization")
        super().__init__(*args, **kwargs)
        self.activation = keras_activation(activation, "activation")
        self.supports_jit = False  # XLA cannot call the kernel: with this, jit_compile="auto" leaves it alone

    def build(self, input_shape: Any) -> None:
        self._refuse_caller()
        super().build(input_shape)

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        _tf_keras.refuse_inputs(inputs)
        of_batch = bool(training) and self.trainable
        if mask is not None or not self._fits(inputs, of_batch):
            y = super().call(inputs, training=training, mask=mask)
            return y if self.activation is None else self.activation(y)
        fused, after = last_activation(self.activation)
        x, channels = tf.convert_to_tensor(inputs), self.moving_mean.shape[0]
        gamma = self.gamma.value if self.scale else tf.ones([channels])
        beta = self.beta.value if self.center else tf.zeros([channels])
        if of_batch:
            y, mean, variance = batch_norm.train(x, gamma, beta, self.epsilon, fused)
            for average, value in ((self.moving_mean, mean), (self.moving_variance, variance)):
                average.assign(average * self.momentum + value * (1.0 - self.momentum))
        else:
            statistics = self.moving_mean.value, self.moving_variance.value
            y = batch_norm.infer(x, gamma, beta, *statistics, self.epsilon, fused)
        return y if after is None else after(y)

    def _fits(self, inputs: Any, of_batch: bool) -> bool:
        """Whether the op computes what Keras would."""
        rank = len(inputs.shape)
        return (
            self.axis in (-1, rank - 1)
            and not (of_batch and (self.renorm or self.synchronized))
            and self.epsilon >= _LEAST_EPSILON
            and tf.as_dtype(inputs.dtype) in batch_norm.DTYPES
            and self.variable_dtype == "float32"
        )

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "activation": keras.activations.serialize(self.activation)}
