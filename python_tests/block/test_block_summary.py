"""What a block says of itself, in `model.summary()` and to `plot_model`; everywhere else it is its class."""

from __future__ import annotations

import keras
import pytest
from keras.src.utils import model_visualization

import tf_dwsconv

Block = tf_dwsconv.FusedConvBlock


@pytest.mark.parametrize(
    "block, words",
    [
        ({"filters": 24, "kernel_size": 3, "strides": 2, "expand_filters": 96}, "expand 96 -> dw 3x3/2 -> 24"),
        ({"filters": 8, "kernel_size": 5, "residual": True}, "dw 5x5 -> 8 + residual"),
        ({"filters": 8}, "1x1 -> 8"),
        ({"filters": 8, "gated": True}, "gate -> 8"),
        ({"kernel_size": 3}, "dw 3x3"),
        ({"expand_filters": 9}, "expand 9"),
        ({"filters": 4, "dense_kernel_size": 3, "strides": 2}, "conv 3x3/2 -> 4"),
        (
            {"filters": 8, "kernel_size": (3, 5), "strides": (1, 2), "dilation_rate": 2, "depth_multiplier": 2,
             "epsilon": 1e-3},
            "dw 3x5/1x2 dilated 2 x2 -> norm -> 8",
        ),
    ],
    ids=str,
)  # fmt: skip
def test_it_describes_itself(block, words):
    assert Block(**block).describe() == words


def test_keras_shows_it():
    model = keras.Sequential([keras.Input((8, 8, 4)), Block(6, 3, expand_filters=16, name="block")])
    lines: list[str] = []
    model.summary(print_fn=lines.append, line_length=120)
    assert "block (FusedConvBlock: expand 16 -> dw 3x3 -> 6)" in "\n".join(lines)
    options = dict.fromkeys(
        ("show_layer_activations", "show_dtype", "show_shapes", "show_trainable"), False
    )  # of plot_model
    label = model_visualization.make_layer_label(model.layers[0], show_layer_names=True, **options)
    assert "(FusedConvBlock: expand 16 -> dw 3x3 -> 6)" in label


def test_it_stays_its_class(tmp_path):
    layer = Block(6, 3, name="block")
    assert layer.__class__ is Block and isinstance(layer, Block) and not isinstance(layer, keras.layers.Dense)
    model = keras.Sequential([keras.Input((8, 8, 4)), layer])
    model.save(tmp_path / "m.keras")
    assert type(keras.models.load_model(tmp_path / "m.keras").layers[0]) is Block
    assert keras.saving.serialize_keras_object(layer)["class_name"] == "FusedConvBlock"
