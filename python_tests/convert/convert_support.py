"""What the tests of `tf_dwsconv.convert` share: models whose batch norms have something to fold, and comparisons."""

from __future__ import annotations

import keras
import numpy as np

import tf_dwsconv

L = keras.layers


def randomise(model, seed=0):
    """Gives every weight of a model a random value; variances and scales stay positive. Returns the model."""
    rng = np.random.default_rng(seed)
    for variable in model.variables:
        if "seed" in variable.path:
            continue
        noise = rng.standard_normal(variable.shape)
        if len(variable.shape) >= 2:
            noise /= np.sqrt(
                max(
                    1.0,
                    np.prod(variable.shape[:-2])
                    * (variable.shape[-2] if "point" in variable.path or variable.shape[0] == 1 else 1),
                )
            )
        else:
            noise = noise * 0.3 + (1.0 if variable.name in ("gamma", "moving_variance", "variance") else 0.0)
            if "variance" in variable.name:
                noise = np.abs(noise) + 0.3
        variable.assign(noise.astype("float32"))
    return model


def functional(make, *shapes):
    """A model with random weights; `make` gets an Input for each shape."""
    inputs = [keras.Input(shape, name=f"in{i}") for i, shape in enumerate(shapes or [(16, 16, 6)])]
    outputs = make(*inputs)
    return randomise(keras.Model(inputs if len(inputs) > 1 else inputs[0], outputs, name="net"))


def pictures(model, batch=2, seed=1):
    """Random inputs of a model, of sizes that are free where it leaves them open."""
    rng = np.random.default_rng(seed)
    return [rng.standard_normal([batch, *(size or 16 for size in t.shape[1:])]).astype("float32") for t in model.inputs]


def reasons(model):
    """Why convert left places alone, line by line of its report."""
    return [row.reason for row in tf_dwsconv.convert.report(model)]


def difference(ours, stock, inputs):
    """The largest difference of any outputs of two models, over the largest output of the second."""
    results = [keras.tree.flatten(m(inputs if len(inputs) > 1 else inputs[0], training=False)) for m in (ours, stock)]
    assert len(results[0]) == len(results[1])
    worst = 0.0
    for a, b in zip(*([np.asarray(keras.ops.cast(t, "float64")) for t in outputs] for outputs in results)):
        assert a.shape == b.shape and np.isfinite(b).all() and np.abs(b).max() > 0
        worst = max(worst, np.abs(a - b).max() / np.abs(b).max())
    return worst


def check(model, patterns=None, tolerance=1e-5, training=False):
    """Converts a model, compares, and holds it to the patterns it should have; returns the new one, of blocks."""
    before = [v.numpy() for v in model.variables]
    inbound = {id(layer): len(layer._inbound_nodes) for layer in model._flatten_layers()}
    fused = tf_dwsconv.convert(model, training=training, fuse="blocks")
    inputs = pictures(model)
    assert difference(fused, model, inputs) < tolerance
    if not training:
        check_network(model, inputs, tolerance)
    if patterns is not None:
        assert found(fused) == patterns
    for old, value in zip(model.variables, before):
        np.testing.assert_array_equal(old, value)
    for layer in model._flatten_layers():
        assert len(layer._inbound_nodes) == inbound[id(layer)]
    own = {id(layer) for layer in model._flatten_layers()}
    assert not own & {id(layer) for layer in fused._flatten_layers()}
    assert not {id(v) for v in model.variables} & {id(v) for v in fused.variables}
    assert [t.name for t in fused.inputs] == [t.name for t in model.inputs]
    assert [(t.shape, t.dtype) for t in fused.outputs] == [(t.shape, t.dtype) for t in model.outputs]
    assert fused.name == model.name
    assert output_names(fused) == output_names(model)
    return fused


def check_network(model, inputs, tolerance=1e-5):
    """The same with networks, and unfused again; returns the one with networks."""
    networks = tf_dwsconv.convert(model)
    assert difference(networks, model, inputs) < tolerance
    assert [(t.shape, t.dtype) for t in networks.outputs] == [(t.shape, t.dtype) for t in model.outputs]
    assert output_names(networks) == output_names(model)
    if any(isinstance(layer, tf_dwsconv.FusedNetwork) for layer in networks._flatten_layers()):
        stock = tf_dwsconv.to_builtin(networks)
        assert difference(stock, model, inputs) < tolerance
        assert output_names(stock) == output_names(model)
    return networks


def output_names(model):
    """By which losses and metrics find a model's results."""
    return getattr(model, "output_names", None) or model._functional.output_names


def found(model):
    """The patterns that were fused, in their order."""
    return [row.pattern for row in tf_dwsconv.convert.report(model) if row.fused is not None]


def chain(x, filters, *, stride=1, pad=False, norm=True, activation=None, name="b", axis=-1):
    """[ZeroPadding2D] -> DepthwiseConv2D -> BN -> ReLU6 -> Conv2D 1x1 -> BN [-> activation]."""
    if pad:
        x = L.ZeroPadding2D(((0, 1), (1, 0)) if stride == 2 else ((2, 0), (1, 1)), name=f"{name}_pad")(x)
    x = L.DepthwiseConv2D(3, stride, "valid" if pad else "same", use_bias=not norm, name=f"{name}_dw")(x)
    x = L.BatchNormalization(axis=axis, name=f"{name}_dw_bn")(x) if norm else x
    x = L.ReLU(6.0, name=f"{name}_dw_relu")(x)
    x = L.Conv2D(filters, 1, use_bias=not norm, name=f"{name}_pw")(x)
    x = L.BatchNormalization(axis=axis, name=f"{name}_pw_bn")(x) if norm else x
    return x if activation is None else L.Activation(activation, name=f"{name}_act")(x)
