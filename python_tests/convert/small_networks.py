"""Small networks of the kinds that people convert, written from their papers, with random weights.

Each function of `NETWORKS` makes one: a built Keras model whose every weight is random and whose batch norms know the
statistics of their own activations, so that folding them has something to fold and numbers stay in range. The same
weights come out each time.
"""

from __future__ import annotations

import keras
import numpy as np

L = keras.layers


def calibrated(model, seed=0):
    """Gives every weight of a model a random value, and every batch norm the statistics of what it gets."""
    rng = np.random.default_rng(seed)
    for variable in model.variables:
        if "seed" in variable.path or not keras.backend.is_float_dtype(variable.dtype):
            continue
        shape, name = tuple(variable.shape), variable.path.rsplit("/", 1)[-1]
        if name == "gamma":
            value = rng.uniform(0.5, 1.5, shape)
        elif name == "alpha":
            value = rng.uniform(0.05, 0.4, shape)
        elif len(shape) < 2:
            value = rng.standard_normal(shape) * 0.2
        else:
            inputs = np.prod(shape[:2]) if "depthwise" in variable.path else np.prod(shape[:-1])
            value = rng.standard_normal(shape) * np.sqrt(1.5 / inputs)
        if "moving" not in name:
            variable.assign(value.astype("float32"))
    norms = [layer for layer in model._flatten_layers() if isinstance(layer, L.BatchNormalization)]
    momenta = [layer.momentum for layer in norms]
    for layer in norms:
        layer.momentum = 0.0
    inputs = [rng.standard_normal([4, *t.shape[1:]]).astype("float32") for t in model.inputs]
    model(inputs if len(inputs) > 1 else inputs[0], training=True)
    for layer, momentum in zip(norms, momenta):
        layer.momentum = momentum
    return model


def norm_relu(x, function="relu", name=None):
    x = L.BatchNormalization(name=name and f"{name}_bn")(x)
    return L.Activation(function, name=name and f"{name}_{function}")(x)


# Bazarevsky et al., "BlazeFace: Sub-millisecond Neural Face Detection on Mobile GPUs" (2019), figure 2.


def _widened(x, channels):
    """A skip connection of more channels: the new ones are zeros."""
    missing = channels - x.shape[-1]
    return keras.ops.pad(x, [[0, 0], [0, 0], [0, 0], [0, missing]]) if missing else x


def _blaze_block(x, channels, *, stride=1, middle=None, activation, name):
    """A 5x5 depthwise and a 1x1 convolution, once or (with `middle` channels between) twice, and a skip connection."""
    skip = x
    if stride == 2:
        skip = L.MaxPooling2D(2, name=f"{name}_pool")(x)
    for i, width in enumerate([middle, channels] if middle else [channels]):
        x = activation(f"{name}_{i}_act")(x) if i else x
        x = L.DepthwiseConv2D(5, stride if i == 0 else 1, padding="same", name=f"{name}_{i}_dw")(x)
        x = L.Conv2D(width, 1, name=f"{name}_{i}_pw")(x)
    return activation(f"{name}_act")(L.Add(name=f"{name}_add")([x, _widened(skip, channels)]))


def _relu(name):
    return L.ReLU(name=name)


def _prelu(name):
    """One slope a channel."""
    return L.PReLU(shared_axes=[1, 2], name=name)


def blazeface():
    """Single and double blocks, and two heads of anchors."""
    inputs = keras.Input((32, 32, 3), name="image")
    x = L.ReLU()(L.Conv2D(8, 5, 2, padding="same")(inputs))
    x = _blaze_block(x, 8, activation=_relu, name="single_1")
    x = _blaze_block(x, 12, stride=2, activation=_relu, name="single_2")
    x = _blaze_block(x, 24, stride=2, middle=6, activation=_relu, name="double_1")
    x = _blaze_block(x, 24, middle=6, activation=_relu, name="double_2")
    scores = L.Reshape((-1, 1), name="scores")(L.Conv2D(2, 1, name="scores_conv")(x))
    boxes = L.Reshape((-1, 16), name="boxes")(L.Conv2D(32, 1, name="boxes_conv")(x))
    return calibrated(keras.Model(inputs, [scores, boxes], name="blazeface"))


# Kartynnik et al., "Real-time Facial Surface Geometry from Monocular Video on Mobile GPUs" (2019): BlazeFace's blocks
# with a PReLU of one slope a channel. Chen et al., "MobileFaceNets" (2018) has it in the middle of the bottleneck too.


def _bottleneck(x, filters, expanded, *, stride=1, name):
    y = L.Conv2D(expanded, 1, use_bias=False, name=f"{name}_expand")(x)
    y = _prelu(f"{name}_expand_prelu")(L.BatchNormalization(name=f"{name}_expand_bn")(y))
    y = L.DepthwiseConv2D(3, stride, padding="same", use_bias=False, name=f"{name}_dw")(y)
    y = _prelu(f"{name}_dw_prelu")(L.BatchNormalization(name=f"{name}_dw_bn")(y))
    y = L.BatchNormalization(name=f"{name}_bn")(L.Conv2D(filters, 1, use_bias=False, name=f"{name}_pw")(y))
    return L.Add(name=f"{name}_add")([x, y]) if stride == 1 and x.shape[-1] == filters else y


def facemesh():
    """Blocks with a PReLU, two heads: the points and a score."""
    inputs = keras.Input((32, 32, 3), name="face")
    x = _prelu("stem_prelu")(L.Conv2D(8, 3, 2, padding="same", name="stem")(inputs))
    x = _blaze_block(x, 8, activation=_prelu, name="block_1")
    x = _blaze_block(x, 16, stride=2, activation=_prelu, name="block_2")
    x = _bottleneck(x, 16, 32, name="block_3")
    x = _bottleneck(x, 16, 32, stride=2, name="block_4")
    points = L.Flatten(name="points")(L.Conv2D(9, 4, name="points_conv")(x))
    score = L.Flatten(name="score")(L.Conv2D(1, 4, activation="sigmoid", name="score_conv")(x))
    return calibrated(keras.Model(inputs, {"points": points, "score": score}, name="facemesh"))


# Lawhern et al., "EEGNet: A Compact Convolutional Network for EEG-based Brain-Computer Interfaces" (2018), table 2.


def eegnet(electrodes=8, samples=64, filters=4, multiplier=2):
    inputs = keras.Input((electrodes, samples, 1), name="eeg")
    x = L.Conv2D(filters, (1, 16), padding="same", use_bias=False, name="temporal")(inputs)
    x = L.BatchNormalization(name="temporal_bn")(x)
    x = L.DepthwiseConv2D(
        (electrodes, 1), depth_multiplier=multiplier, use_bias=False, name="spatial",
        depthwise_constraint=keras.constraints.MaxNorm(1.0),
    )(x)  # fmt: skip
    x = L.Activation("elu", name="spatial_elu")(L.BatchNormalization(name="spatial_bn")(x))
    x = L.Dropout(0.25, name="drop_1")(L.AveragePooling2D((1, 4), name="pool_1")(x))
    x = L.SeparableConv2D(filters * multiplier, (1, 8), padding="same", use_bias=False, name="separable")(x)
    x = L.Activation("elu", name="separable_elu")(L.BatchNormalization(name="separable_bn")(x))
    x = L.Dropout(0.25, name="drop_2")(L.AveragePooling2D((1, 8), name="pool_2")(x))
    x = L.Flatten(name="flatten")(x)
    x = L.Dense(4, kernel_constraint=keras.constraints.MaxNorm(0.25), name="dense")(x)
    return calibrated(keras.Model(inputs, L.Softmax(name="softmax")(x), name="eegnet"))


# Chen et al., "Encoder-Decoder with Atrous Separable Convolution for Semantic Image Segmentation" (2018).


def _atrous(x, filters, *, rate=1, stride=1, name):
    """A depthwise convolution with holes and a 1x1 one, each with a batch norm and a ReLU."""
    if stride > 1:
        x = L.ZeroPadding2D(rate, name=f"{name}_pad")(x)
    x = L.DepthwiseConv2D(
        3, stride, "same" if stride == 1 else "valid", dilation_rate=rate, use_bias=False, name=f"{name}_dw"
    )(x)
    x = norm_relu(x, name=f"{name}_dw")
    return norm_relu(L.Conv2D(filters, 1, use_bias=False, name=f"{name}_pw")(x), name=f"{name}_pw")


def _xception_unit(x, filters, *, stride=1, rate=1, name):
    y = x
    for i in range(3):
        y = L.ReLU(name=f"{name}_{i}_relu")(y)
        y = L.SeparableConv2D(
            filters, 3, strides=stride if i == 2 else 1, padding="same", dilation_rate=rate if stride == 1 else 1,
            use_bias=False, name=f"{name}_{i}",
        )(y)  # fmt: skip
        y = L.BatchNormalization(name=f"{name}_{i}_bn")(y)
    if stride > 1 or x.shape[-1] != filters:
        x = L.Conv2D(filters, 1, stride, padding="same", use_bias=False, name=f"{name}_skip")(x)
        x = L.BatchNormalization(name=f"{name}_skip_bn")(x)
    return L.Add(name=f"{name}_add")([x, y])


def deeplab():
    """An encoder with atrous separable convolutions, spatial pyramid pooling, and the decoder."""
    inputs = keras.Input((32, 32, 3), name="image")
    x = norm_relu(L.Conv2D(8, 3, 2, padding="same", use_bias=False, name="stem")(inputs), name="stem")
    low = x = _xception_unit(x, 8, name="entry_1")
    x = _atrous(x, 12, stride=2, name="down")
    x = _xception_unit(x, 12, rate=2, name="middle")
    pooled = L.GlobalAveragePooling2D(keepdims=True, name="pooled")(x)
    pooled = norm_relu(L.Conv2D(6, 1, use_bias=False, name="pooled_conv")(pooled), name="pooled_conv")
    pooled = L.UpSampling2D(8, interpolation="bilinear", name="pooled_up")(pooled)
    branches = [norm_relu(L.Conv2D(6, 1, use_bias=False, name="aspp_0")(x), name="aspp_0"), pooled]
    branches += [_atrous(x, 6, rate=rate, name=f"aspp_{rate}") for rate in (2, 3, 4)]
    x = L.Concatenate(name="aspp")(branches)
    x = norm_relu(L.Conv2D(12, 1, use_bias=False, name="aspp_project")(x), name="aspp_project")
    x = L.UpSampling2D(2, interpolation="bilinear", name="up")(L.Dropout(0.1, name="drop")(x))
    low = norm_relu(L.Conv2D(4, 1, use_bias=False, name="low")(low), name="low")
    x = L.Concatenate(name="decoder")([x, low])
    x = _atrous(_atrous(x, 12, name="decoder_1"), 12, name="decoder_2")
    x = L.UpSampling2D(2, interpolation="bilinear", name="logits")(L.Conv2D(5, 1, name="classes")(x))
    return calibrated(keras.Model(inputs, L.Activation("softmax", name="mask")(x), name="deeplab"))


# Tan et al., "EfficientDet: Scalable and Efficient Object Detection" (2020).


def _bifpn_node(tensors, filters, name):
    x = L.Activation("silu", name=f"{name}_silu")(L.Add(name=f"{name}_add")(tensors))
    x = L.SeparableConv2D(filters, 3, padding="same", name=f"{name}_conv")(x)
    return L.BatchNormalization(name=f"{name}_bn")(x)


def _head(levels, filters, outputs, name):
    """Separable convolutions that all levels share, and a batch norm for each of the levels."""
    convolutions = [L.SeparableConv2D(filters, 3, padding="same", name=f"{name}_{i}") for i in range(2)]
    last = L.SeparableConv2D(outputs, 3, padding="same", name=f"{name}_predict")
    results = []
    for number, x in enumerate(levels):
        for i, convolution in enumerate(convolutions):
            x = L.BatchNormalization(name=f"{name}_{i}_bn_{number}")(convolution(x))
            x = L.Activation("silu", name=f"{name}_{i}_silu_{number}")(x)
        results.append(L.Reshape((-1, outputs), name=f"{name}_flat_{number}")(last(x)))
    return L.Concatenate(axis=1, name=name)(results)


def efficientdet():
    """Three levels, one bidirectional pyramid, and the heads of classes and boxes."""
    inputs = keras.Input((32, 32, 3), name="image")
    x = norm_relu(L.Conv2D(8, 3, 2, padding="same", use_bias=False, name="stem")(inputs), "silu", name="stem")
    levels = []
    for i in range(3):
        x = L.DepthwiseConv2D(3, 2 if i else 1, padding="same", use_bias=False, name=f"level_{i}_dw")(x)
        x = norm_relu(x, "silu", name=f"level_{i}_dw")
        x = L.BatchNormalization(name=f"level_{i}_bn")(L.Conv2D(8, 1, use_bias=False, name=f"level_{i}_pw")(x))
        levels.append(x)
    top = levels[2]
    middle = _bifpn_node([levels[1], L.UpSampling2D(2, name="up_2")(top)], 8, "fpn_middle")
    bottom = _bifpn_node([levels[0], L.UpSampling2D(2, name="up_1")(middle)], 8, "fpn_0")
    middle = _bifpn_node([levels[1], middle, L.MaxPooling2D(2, name="down_0")(bottom)], 8, "fpn_1")
    top = _bifpn_node([top, L.MaxPooling2D(2, name="down_1")(middle)], 8, "fpn_2")
    pyramid = [bottom, middle, top]
    outputs = [_head(pyramid, 8, 6, "classes"), _head(pyramid, 8, 4, "boxes")]
    return calibrated(keras.Model(inputs, outputs, name="efficientdet"))


# Mehta and Rastegari, "MobileViT: Light-weight, General-purpose, and Mobile-friendly Vision Transformer" (2022).


def _inverted(x, filters, *, stride=1, name):
    y = norm_relu(L.Conv2D(2 * x.shape[-1], 1, use_bias=False, name=f"{name}_expand")(x), "silu", name=f"{name}_expand")
    y = L.DepthwiseConv2D(3, stride, padding="same", use_bias=False, name=f"{name}_dw")(y)
    y = norm_relu(y, "silu", name=f"{name}_dw")
    y = L.BatchNormalization(name=f"{name}_bn")(L.Conv2D(filters, 1, use_bias=False, name=f"{name}_pw")(y))
    return L.Add(name=f"{name}_add")([x, y]) if stride == 1 and x.shape[-1] == filters else y


def mobilevit():
    """Inverted residuals, and one block that attends over patches of 2x2 pixels."""
    inputs = keras.Input((16, 16, 3), name="image")
    x = norm_relu(L.Conv2D(8, 3, 2, padding="same", use_bias=False, name="stem")(inputs), "silu", name="stem")
    x = _inverted(_inverted(x, 8, name="mv2_1"), 12, stride=2, name="mv2_2")
    rows, columns, width = x.shape[1] // 2, x.shape[2] // 2, 16
    y = L.Conv2D(12, 3, padding="same", activation="silu", name="local")(x)
    y = L.Conv2D(width, 1, use_bias=False, name="to_tokens")(y)
    y = L.Reshape((rows, 2, columns, 2, width), name="unfold_1")(y)
    y = L.Permute((2, 4, 1, 3, 5), name="unfold_2")(y)
    y = L.Reshape((4, rows * columns, width), name="unfold_3")(y)
    z = L.LayerNormalization(epsilon=1e-5, name="norm_1")(y)
    y = L.Add(name="add_1")([y, L.MultiHeadAttention(2, 8, name="attention")(z, z)])
    z = L.Dense(32, activation="silu", name="mlp_1")(L.LayerNormalization(epsilon=1e-5, name="norm_2")(y))
    y = L.Add(name="add_2")([y, L.Dense(width, name="mlp_2")(z)])
    y = L.Reshape((2, 2, rows, columns, width), name="fold_1")(y)
    y = L.Permute((3, 1, 4, 2, 5), name="fold_2")(y)
    y = L.Reshape((2 * rows, 2 * columns, width), name="fold_3")(y)
    y = L.Conv2D(12, 1, activation="silu", name="from_tokens")(y)
    y = L.Conv2D(12, 3, padding="same", activation="silu", name="fusion")(L.Concatenate(name="both")([x, y]))
    x = L.GlobalAveragePooling2D(name="pool")(_inverted(y, 12, name="mv2_3"))
    return calibrated(keras.Model(inputs, L.Dense(5, name="logits")(x), name="mobilevit"))


# Vasu et al., "MobileOne: An Improved One Millisecond Mobile Backbone" (2023), figure 3: the form that is trained.


def _mobileone_block(x, filters, *, stride=1, branches=2, name):
    def summed(x, convolution, outputs, name):
        parts = [convolution(i) for i in range(branches)]
        parts = [L.BatchNormalization(name=f"{name}_bn_{i}")(y) for i, y in enumerate(parts)]
        if x.shape[-1] == outputs and parts[0].shape == x.shape:
            parts.append(L.BatchNormalization(name=f"{name}_skip_bn")(x))
        return parts

    def depthwise(i):
        return L.DepthwiseConv2D(3, stride, padding="same", use_bias=False, name=f"{name}_dw_{i}")(x)

    parts = summed(x, depthwise, x.shape[-1], f"{name}_dw")
    scale = L.DepthwiseConv2D(1, stride, padding="same", use_bias=False, name=f"{name}_dw_scale")(x)
    parts.append(L.BatchNormalization(name=f"{name}_dw_scale_bn")(scale))
    y = L.ReLU(name=f"{name}_dw_relu")(L.Add(name=f"{name}_dw_add")(parts))

    def pointwise(i):
        return L.Conv2D(filters, 1, use_bias=False, name=f"{name}_pw_{i}")(y)

    return L.ReLU(name=f"{name}_relu")(L.Add(name=f"{name}_add")(summed(y, pointwise, filters, f"{name}_pw")))


def mobileone():
    """Blocks whose branches add, as they are trained."""
    inputs = keras.Input((16, 16, 3), name="image")
    x = norm_relu(L.Conv2D(8, 3, 2, padding="same", use_bias=False, name="stem")(inputs), name="stem")
    x = _mobileone_block(x, 8, name="stage_1")
    x = _mobileone_block(x, 12, stride=2, name="stage_2")
    x = L.GlobalAveragePooling2D(name="pool")(x)
    return calibrated(keras.Model(inputs, L.Dense(5, name="logits")(x), name="mobileone"))


# Trockman and Kolter, "Patches Are All You Need?" (2022), figure 3.


def convmixer(width=8, depth=2):
    inputs = keras.Input((16, 16, 3), name="image")
    x = L.Conv2D(width, 2, 2, name="patches")(inputs)
    x = L.BatchNormalization(name="patches_bn")(L.Activation("gelu", name="patches_gelu")(x))
    for i in range(depth):
        y = L.DepthwiseConv2D(5, padding="same", name=f"mix_{i}_dw")(x)
        y = L.BatchNormalization(name=f"mix_{i}_dw_bn")(L.Activation("gelu", name=f"mix_{i}_dw_gelu")(y))
        x = L.Add(name=f"mix_{i}_add")([x, y])
        x = L.Activation("gelu", name=f"mix_{i}_gelu")(L.Conv2D(width, 1, name=f"mix_{i}_pw")(x))
        x = L.BatchNormalization(name=f"mix_{i}_bn")(x)
    x = L.GlobalAveragePooling2D(name="pool")(x)
    return calibrated(keras.Model(inputs, L.Dense(5, name="logits")(x), name="convmixer"))


# The classes that keras_hub's models are made of: each builds its graph in `__init__` and hands it to `keras.Model`.


class Backbone(keras.Model):
    """As keras_hub.models.Backbone."""

    def __init__(self, *args, dtype=None, **kwargs):
        super().__init__(*args, **kwargs)
        if dtype is not None:
            self.dtype_policy = keras.dtype_policies.get(dtype)

    def get_config(self):
        return {"name": self.name, "trainable": self.trainable}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


class FeaturePyramidBackbone(Backbone):
    """As keras_hub's: it also knows its results by level."""

    @property
    def pyramid_outputs(self):
        return self._pyramid_outputs


class SmallBackbone(FeaturePyramidBackbone):
    """Two inverted residuals; the only level of three that has its own `__init__`."""

    def __init__(self, widths=(8, 12), image_shape=(32, 32, 3), dtype=None, **kwargs):
        inputs = keras.Input(image_shape, name="image")
        x = L.Rescaling(1 / 255.0, name="rescale")(inputs)
        x = norm_relu(L.Conv2D(8, 3, 2, padding="same", use_bias=False, name="stem")(x), name="stem")
        pyramid = {}
        for i, width in enumerate(widths):
            x = _inverted(x, width, stride=1 if i == 0 else 2, name=f"stage_{i}")
            pyramid[f"P{i + 1}"] = x
        super().__init__(inputs=inputs, outputs=x, dtype=dtype, **kwargs)
        self.widths, self.image_shape, self._pyramid_outputs = tuple(widths), tuple(image_shape), pyramid

    def get_config(self):
        return {**super().get_config(), "widths": self.widths, "image_shape": self.image_shape}


class ImageClassifier(keras.Model):
    """As keras_hub.models.ImageClassifier: a backbone called as a layer, and a head."""

    def __init__(self, backbone, classes, **kwargs):
        self.backbone = backbone
        self.pooler = L.GlobalAveragePooling2D(name="pooler")
        self.head = L.Dense(classes, name="predictions")
        inputs = backbone.input
        super().__init__(inputs=inputs, outputs=self.head(self.pooler(backbone(inputs))), **kwargs)
        self.classes = classes

    def get_config(self):
        backbone = keras.saving.serialize_keras_object(self.backbone)
        return {"backbone": backbone, "classes": self.classes, "name": self.name}


def keras_hub_like():
    return calibrated(ImageClassifier(SmallBackbone(name="backbone"), 5, name="classifier"))


NETWORKS = {
    make.__name__: make
    for make in (
        blazeface, facemesh, eegnet, deeplab, efficientdet, mobilevit, mobileone, convmixer, keras_hub_like
    )
}  # fmt: skip
