"""Results keep their names through `convert`, `training=True` and `to_builtin`: losses, metrics and users find them."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from convert_support import chain, functional, output_names, pictures

import tf_dwsconv

pytestmark = pytest.mark.usefixtures("op_library")

L = keras.layers


def back(model):
    return tf_dwsconv.to_builtin(tf_dwsconv.convert(model))


REWRITES = {
    "convert": tf_dwsconv.convert,
    "training": lambda model: tf_dwsconv.convert(model, training=True),
    "to_builtin": back,
    "training_to_builtin": lambda model: tf_dwsconv.to_builtin(tf_dwsconv.convert(model, training=True)),
}

# What may stand behind a convolution, and end a block with it.
ENDS = {
    "activation": lambda y: L.Activation("relu", name="end")(y),
    "norm": lambda y: L.BatchNormalization(name="end")(y),
    "norm_activation": lambda y: L.ReLU(6.0, name="end")(L.BatchNormalization()(y)),
    "slope": lambda y: L.LeakyReLU(negative_slope=0.2, name="end")(y),
    "identity": lambda y: L.Dropout(0.5, name="end")(y),
    "residual": lambda y: L.Add(name="end")([y, y * 0.5]),
    "residual_activation": lambda y: L.ReLU(name="end")(L.Add()([y, y * 0.5])),
    "softmax": lambda y: L.Activation("softmax", name="end")(y),
    "an_op": lambda y: keras.ops.sigmoid(y),
    "a_number": lambda y: L.ReLU()(y) * 2.0,
}
CONVOLUTIONS = {
    "depthwise": lambda x: L.DepthwiseConv2D(3, name="conv", use_bias=False)(x),
    "separable": lambda x: L.SeparableConv2D(5, 3, name="conv")(x),
    "chain": lambda x: L.Conv2D(5, 1, name="conv")(L.DepthwiseConv2D(3, name="dw")(x)),
    "pointwise": lambda x: L.Conv2D(5, 1, name="conv")(x),
    "dense": lambda x: L.Conv2D(5, 3, name="conv")(x),
    "grouped": lambda x: L.Conv2D(6, 3, groups=2, name="conv")(x),
}


@pytest.mark.parametrize("convolution", CONVOLUTIONS)
def test_every_end_of_every_convolution(convolution):
    for end, behind in ENDS.items():
        model = functional(lambda x, behind=behind: behind(CONVOLUTIONS[convolution](x)), (8, 8, 6))
        for rewrite, function in REWRITES.items():
            assert output_names(function(model)) == output_names(model), (end, rewrite)


@pytest.mark.parametrize("rewrite", REWRITES)
def test_losses_and_metrics_find_results_by_name(rewrite):
    def make(x):
        y = chain(x, 6, name="trunk", activation="relu")
        mask = L.Activation("sigmoid", name="mask")(L.Conv2D(1, 1, name="mask_conv")(L.DepthwiseConv2D(3)(y)))
        edge = L.BatchNormalization(name="edge")(L.SeparableConv2D(2, 3, name="edge_conv")(y))
        score = L.Softmax(name="score")(L.Dense(3, name="score_dense")(L.GlobalAveragePooling2D()(y)))
        return [mask, edge, score]

    model = functional(make, (8, 8, 6))
    new = REWRITES[rewrite](model)
    assert new.output_names == ["mask", "edge", "score"]
    for name in new.output_names:
        assert new.get_layer(name).output is new.outputs[new.output_names.index(name)]
    losses = {"mask": "binary_crossentropy", "edge": "mse", "score": "categorical_crossentropy"}
    new.compile("sgd", losses, metrics={"mask": ["accuracy"]}, run_eagerly=True)
    x = pictures(model, batch=4)[0]
    targets = dict(zip(model.output_names, [np.clip(t.numpy(), 0, 1) for t in model(x)]))
    history = new.fit(x, targets, batch_size=2, epochs=1, verbose=0).history
    assert {"mask_loss", "edge_loss", "score_loss", "mask_accuracy"} <= history.keys()
    assert all(np.isfinite(values).all() for values in history.values())


def test_names_survive_a_way_there_and_back_and_there_again():
    model = functional(lambda x: L.ReLU(name="end")(chain(x, 6)), (8, 8, 6))
    fused = tf_dwsconv.convert(model)
    assert [layer.name for layer in fused.layers] == ["in0", "end"]
    stock = tf_dwsconv.to_builtin(fused)
    assert [layer.name for layer in stock.layers] == ["in0", "end_depthwise", "end"]
    assert [layer.name for layer in tf_dwsconv.convert(stock).layers] == ["in0", "end"]
    assert tf_dwsconv.convert.report(fused)[0].fused == "end"
