"""The tiny face detector as a Keras model, and the decoding of its output.

The network, its weights and its anchors come from the npm package @vladmandic/face-api (MIT); see
third_party/tiny_face_detector/NOTICE.
"""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

DATA = Path(__file__).resolve().parents[3] / "third_party" / "tiny_face_detector"
MEAN_RGB = (117.001, 114.697, 97.404)
ANCHORS = ((1.603231, 2.094468), (6.041143, 7.080126), (2.882459, 3.518061), (4.266906, 5.178857), (9.041765, 10.66308))
SEPARABLE_FILTERS = (32, 64, 128, 256, 512)  # conv1 to conv5
STRIDE = 32  # input pixels a cell of the output grid spans along one axis
IOU_THRESHOLD = 0.4
MAX_FACES = 100


def leaky_relu() -> keras.layers.Layer:
    return keras.layers.LeakyReLU(negative_slope=0.1)


def build(separable_layer: type[keras.layers.Layer], size: int) -> keras.Model:
    """Builds the detector with its trained weights.

    Args:
        separable_layer: `keras.layers.SeparableConv2D` or `tf_dwsconv.DepthwiseSepConv2D`; nothing else differs.
        size: side of the square input in pixels, a multiple of 32.

    Returns:
        A model from pixels (float32 `[N, size, size, 3]`, RGB, 0..255) to the raw grid (float32
        `[N, size/32, size/32, 25]`).

    Raises:
        ValueError: `size` is not a positive multiple of 32.
    """
    if size <= 0 or size % STRIDE:
        raise ValueError(f"size must be a positive multiple of {STRIDE}; given {size}")
    layers = [
        keras.Input((size, size, 3), name="pixels"),
        keras.layers.Rescaling(1 / 255, offset=[-mean / 255 for mean in MEAN_RGB], name="normalise"),
        keras.layers.Conv2D(16, 3, padding="same", activation=leaky_relu(), name="conv0"),
        keras.layers.MaxPooling2D(2, padding="same"),
    ]
    for i, filters in enumerate(SEPARABLE_FILTERS, start=1):
        layers.append(separable_layer(filters, 3, padding="same", activation=leaky_relu(), name=f"conv{i}"))
        layers.append(keras.layers.MaxPooling2D(2, strides=1 if i == 5 else 2, padding="same"))
    layers.append(keras.layers.Conv2D(5 * len(ANCHORS), 1, name="conv8"))
    model = keras.Sequential(layers, name="tiny_face_detector")
    _load_weights(model)
    return model


def split(model: keras.Model) -> tuple[list[keras.layers.Layer], list[keras.layers.Layer]]:
    """The layers up to conv0's pooling, which no choice of separable layer changes, and those from conv1 on."""
    names = [layer.name for layer in model.layers]
    first = names.index("conv1")
    return model.layers[:first], model.layers[first:]


def _load_weights(model: keras.Model) -> None:
    names = {0: ("filters", "bias"), 8: ("filters", "bias")}
    with np.load(DATA / "weights.npz") as arrays:
        for i in (0, 1, 2, 3, 4, 5, 8):
            parts = names.get(i, ("depthwise_filter", "pointwise_filter", "bias"))
            model.get_layer(f"conv{i}").set_weights([arrays[f"conv{i}/{part}"] for part in parts])


def decode(grid: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Reads the raw grid of one picture.

    Args:
        grid: float32 `[rows, columns, 25]`: for each anchor tx, ty, tw, th and objectness.

    Returns:
        `(boxes, scores)` of every cell and anchor: `[cells, 4]` with x, y of the upper left corner, width and height in
        fractions of the square; `[cells]` in 0..1.
    """
    rows, columns = grid.shape[0], grid.shape[1]
    cells = tf.reshape(grid, [rows, columns, len(ANCHORS), 5])
    sides = tf.constant([columns, rows], tf.float32)
    corner = tf.stack(tf.meshgrid(tf.range(columns, dtype=tf.float32), tf.range(rows, dtype=tf.float32)), axis=-1)
    centre = (corner[:, :, None, :] + tf.sigmoid(cells[..., 0:2])) / sides
    extent = tf.exp(cells[..., 2:4]) * tf.constant(ANCHORS, tf.float32) / sides
    boxes = tf.concat([centre - extent / 2, extent], axis=-1)
    return tf.reshape(boxes, [-1, 4]), tf.reshape(tf.sigmoid(cells[..., 4]), [-1])


def select(boxes: tf.Tensor, scores: tf.Tensor, threshold: tf.Tensor | float) -> tuple[tf.Tensor, tf.Tensor]:
    """Keeps boxes that score above `threshold` and overlap no better one by more than `IOU_THRESHOLD`, best first."""
    x, y, width, height = tf.unstack(boxes, axis=-1)
    corners = tf.stack([y, x, y + height, x + width], axis=-1)
    kept = tf.image.non_max_suppression(corners, scores, MAX_FACES, IOU_THRESHOLD, threshold)
    return tf.gather(boxes, kept), tf.gather(scores, kept)


def detector(model: keras.Model) -> tf.types.experimental.PolymorphicFunction:
    """The whole way from pixels to faces as one `tf.function`, ready to call or to export.

    Returns:
        A function of `pixels` (float32 `[1, size, size, 3]`) and `threshold` (float32 scalar) that returns a dict of
        `boxes` (`[faces, 4]`, fractions of the square), `scores` (`[faces]`) and the raw `grid`.
    """
    signature = [
        tf.TensorSpec([1, *model.input_shape[1:]], tf.float32, name="pixels"),
        tf.TensorSpec([], tf.float32, name="threshold"),
    ]

    @tf.function(input_signature=signature)
    def detect(pixels, threshold):
        grid = model(pixels, training=False)
        boxes, scores = select(*decode(grid[0]), threshold)
        return {"boxes": boxes, "scores": scores, "grid": grid}

    return detect


def count_fused_ops(detect: tf.types.experimental.PolymorphicFunction) -> int:
    """How many ops of tf_dwsconv the function's graph holds: none where stock ops had to stand in."""
    graph = detect.get_concrete_function().graph.as_graph_def()
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    return sum(node.op.endswith("DepthwiseSepConv2D") for node in nodes)


def export(model: keras.Model, detect: tf.types.experimental.PolymorphicFunction, folder: Path) -> None:
    """Writes a SavedModel whose endpoint `detect` is the given function over the given model."""
    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint("detect", detect)
    archive.write_out(str(folder), verbose=False)
