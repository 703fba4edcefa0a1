"""`tf_dwsconv.convert`: every pattern, and what is in the way of one."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from convert_support import chain, check, difference, found, functional, pictures, reasons

import tf_dwsconv
from tf_dwsconv.convert import _copy

pytestmark = pytest.mark.usefixtures("op_library")

L = keras.layers


@pytest.mark.parametrize("stride, pad, norm, activation", [
    (1, False, True, None), (2, True, True, "hard_swish"), (2, False, False, "gelu"), (1, True, True, "softmax"),
])  # fmt: skip
def test_chain(stride, pad, norm, activation):
    model = functional(lambda x: chain(x, 8, stride=stride, pad=pad, norm=norm, activation=activation))
    fused = check(model, ["depthwise + 1x1"])
    block = "b_pw_bn" if norm else "b_pw"
    names = {None: [block], "softmax": [block, "b_act"]}.get(activation, ["b_act"])
    assert [layer.name for layer in fused.layers] == ["in0", *names]


def test_separable_with_norm_and_activation():
    def make(x):
        x = L.SeparableConv2D(8, 3, padding="same", use_bias=False, depth_multiplier=2, name="sep")(x)
        x = L.BatchNormalization(scale=False)(x)
        return L.LeakyReLU(negative_slope=0.1)(x)

    assert len(check(functional(make), ["separable"]).layers) == 2


def test_grouped_convolution_as_depthwise_and_dense_as_pointwise():
    def make(x):
        x = L.Conv2D(12, 5, 2, padding="same", groups=6, activation="silu")(x)
        return L.Dense(7, activation="relu")(x)

    check(functional(make), ["depthwise + 1x1"])

    def in_groups_of_two(x):
        return L.Conv2D(7, 1)(L.Conv2D(12, 3, groups=3)(x))

    check(functional(in_groups_of_two), ["1x1"])


def test_residual_and_activation_behind_it():
    def make(x):
        y = L.Add(name="add")([x, chain(x, 6)])
        return L.ReLU()(y)

    fused = check(functional(make), ["depthwise + 1x1 + residual"])
    assert len(fused.layers) == 2 and fused.layers[1].residual


def test_no_residual_behind_an_activation_of_another_shape_or_twice():
    def behind_activation(x):
        return chain(x, 6, activation="relu") + x

    def broadcast(x, y):
        return L.Add()([chain(x, 6), y])

    def twice(x):
        y = chain(x, 6)
        return L.Add()([y, y])

    def three(x):
        return L.Add()([chain(x, 6), x, x])

    for make, shapes in ((behind_activation, []), (broadcast, [(16, 16, 6), (1, 1, 6)]), (twice, []), (three, [])):
        check(functional(make, *shapes), ["depthwise + 1x1"])


def test_inverted_residual_with_dropout():
    def make(x):
        y = L.Conv2D(24, 1, use_bias=False)(x)
        y = L.BatchNormalization()(y)
        y = keras.ops.relu6(y)
        y = chain(y, 6, pad=True)
        y = L.Dropout(0.5, noise_shape=(None, 1, 1, 1))(y)
        return keras.ops.add(x, y)

    fused = check(functional(make), ["expand + depthwise + 1x1 + residual"])
    assert len(fused.layers) == 2


def test_a_1x1_and_padding_that_lead_to_no_depthwise_convolution():
    def make(x):
        y = L.ZeroPadding2D(1, name="pad")(L.Conv2D(8, 1)(x))
        return L.Conv2D(4, 3, groups=2)(y)

    assert [layer.name for layer in check(functional(make), ["1x1"]).layers][2] == "pad"


def test_expand_with_its_own_activation_and_no_pointwise():
    def make(x):
        x = L.Conv2D(24, 1, activation="hard_silu")(x)
        x = L.DepthwiseConv2D(5, 2, padding="same", depth_multiplier=2)(x)
        x = L.BatchNormalization()(x)
        return L.MaxPooling2D()(L.Activation("silu")(x))

    check(functional(make), ["expand + depthwise"])


def test_what_stands_between_two_depthwise_convolutions_ends_the_first_block():
    check(functional(lambda x: chain(chain(x, 8, activation="relu"), 6, name="c")), ["depthwise + 1x1"] * 2)


@pytest.mark.parametrize("kind", ["sigmoid", "hard"])
def test_squeeze_and_excite(kind):
    def make(x):
        z = L.DepthwiseConv2D(3, padding="same", use_bias=False)(x)
        z = L.Activation("silu", name="z")(L.BatchNormalization()(z))
        gate = L.GlobalAveragePooling2D(keepdims=True)(z)
        gate = L.Conv2D(3, 1, activation="relu")(gate)
        if kind == "sigmoid":
            gate = L.Conv2D(6, 1, activation="sigmoid")(gate)
        else:
            gate = L.ReLU(6.0)(L.Conv2D(6, 1)(gate) + 3.0) * (1.0 / 6.0)
        y = L.Multiply(name="scaled")([gate, z])
        y = L.BatchNormalization()(L.Conv2D(6, 1, use_bias=False)(y))
        return L.Add()([x, y])

    fused = check(functional(make), ["depthwise", "1x1", "1x1", "gate + 1x1 + residual"])
    assert "'z' is read by" in reasons(fused)[0]
    assert any(getattr(layer, "gated", False) for layer in fused.layers)


def test_a_gate_inside_a_block_and_one_for_each_pixel():
    def inside(x, gate):
        return L.Conv2D(4, 1)(L.Multiply()([L.DepthwiseConv2D(3)(x), gate]))

    check(functional(inside, (16, 16, 6), (1, 1, 6)), ["depthwise + gate + 1x1"])
    check(functional(inside, (16, 16, 6), (14, 14, 6)), ["depthwise", "1x1"])
    check(functional(inside, (16, 16, 6), (14, 14, 1)), ["depthwise", "1x1"])


@pytest.mark.parametrize("center, scale", [(True, True), (False, True), (True, False)])
def test_convnext(center, scale):
    def make(x):
        y = L.Conv2D(6, 7, padding="same", groups=6)(x)
        y = L.LayerNormalization(epsilon=1e-6, center=center, scale=scale)(y)
        y = L.Activation("gelu")(L.Dense(24)(y))
        y = L.Dense(6)(y)
        return L.Add()([x, y])

    assert len(check(functional(make), ["depthwise + norm + 1x1", "1x1 + residual"]).layers) == 3


def test_layer_norm_of_other_axes_is_left_alone():
    def make(x):
        return L.Conv2D(4, 1)(L.LayerNormalization(axis=[1, 2, 3])(L.DepthwiseConv2D(3)(x)))

    check(functional(make), ["depthwise", "1x1"])


def test_batch_norm_around_a_1x1():
    def make(x):
        x = L.BatchNormalization(name="before")(x)
        x = L.Conv2D(8, 1, name="conv")(x)
        x = L.BatchNormalization(name="behind")(x)
        return L.LeakyReLU(negative_slope=0.3, name="leaky")(L.BatchNormalization(name="again")(x))

    assert [layer.name for layer in check(functional(make), ["1x1"]).layers] == ["in0", "leaky"]


def test_batch_norm_behind_an_activation_goes_into_the_1x1():
    def make(x):
        x = L.DepthwiseConv2D(3, padding="same", activation="relu", name="dw")(x)
        return L.Conv2D(8, 1)(L.BatchNormalization()(x))

    assert len(check(functional(make), ["depthwise + 1x1"]).layers) == 2


def test_dense_behind_the_pictures():
    def make(x):
        x = L.GlobalAveragePooling2D()(chain(x, 12))
        x = L.Dropout(0.2)(L.BatchNormalization()(L.Dense(20, activation="relu", name="hidden")(x)))
        y = L.Dense(20, use_bias=False)(x)
        y = L.Add()([L.BatchNormalization()(y), x])
        return L.Dense(4, activation="softmax", name="predictions")(L.Activation("gelu")(y))

    fused = check(functional(make), ["depthwise + 1x1", "dense", "dense", "dense"])
    assert fused.layers[-1].name == "predictions" and fused.output_shape == (None, 4)
    big = check(functional(lambda x: L.Dense(2049)(L.Flatten()(chain(x, 8)))), ["depthwise + 1x1"])  # 2048 x 2049
    assert isinstance(big.layers[-1], L.Dense)
    assert found(tf_dwsconv.convert(functional(lambda x: L.Dense(3)(x), (6,)))) == []


def test_intermediate_results_that_others_read_are_left_alone():
    def make(x):
        z = L.DepthwiseConv2D(3, padding="same", name="dw")(x)
        y = L.Conv2D(4, 1, name="pw")(L.ReLU(name="relu")(z))
        return [y, L.GlobalAveragePooling2D()(z)]

    fused = check(functional(make), ["depthwise", "1x1"])
    assert "'dw' is read by" in reasons(fused)[0]


def test_intermediate_results_that_are_results_of_the_model():
    def make(x):
        z = L.DepthwiseConv2D(3, name="dw")(x)
        y = L.Conv2D(4, 1, name="pw")(z)
        return {"y": L.ReLU()(y), "z": z, "before": y}

    model = functional(make)
    fused = check(model, ["depthwise", "1x1"])
    assert "one of the model's" in reasons(fused)[0]
    assert set(fused(pictures(model)[0])) == {"y", "z", "before"}


def test_a_stage_in_the_middle_of_an_expansion_that_is_read():
    def make(x):
        e = L.ReLU(name="e")(L.Conv2D(12, 1)(x))
        return L.Concatenate()([chain(e, 4), e])

    check(functional(make), ["1x1", "depthwise + 1x1"])


def test_channels_first():
    """The sizes differ from the channels: Keras 3.15 adds a bias along the width where those are as many."""

    def make(x):
        y = L.Conv2D(12, 1, data_format="channels_first", use_bias=False)(x)
        y = L.ReLU()(L.BatchNormalization(axis=1)(y))
        y = L.ZeroPadding2D(1, data_format="channels_first")(y)
        y = L.DepthwiseConv2D(3, data_format="channels_first")(y)
        y = L.BatchNormalization(axis=1)(y)
        y = L.Conv2D(6, 1, data_format="channels_first")(y)
        return L.Add()([x, y])

    check(functional(make, (6, 16, 11)), ["expand + depthwise + 1x1 + residual"])

    def dense_is_about_the_last_axis(x):
        return L.Dense(5)(L.DepthwiseConv2D(3, data_format="channels_first")(x))

    check(functional(dense_is_about_the_last_axis, (6, 16, 11)), ["depthwise", "1x1"])


@pytest.mark.parametrize(
    "policy, tolerance", [("mixed_bfloat16", 0.05), ("mixed_float16", 0.01), ("bfloat16", 0.06), ("float64", 1e-9)]
)
def test_dtype_policies(policy, tolerance):
    keras.config.set_dtype_policy(policy)
    try:
        model = functional(lambda x: L.Add()([x, chain(L.Conv2D(12, 1, activation="relu6")(x), 6)]))
        fused = check(model, ["expand + depthwise + 1x1 + residual"], tolerance)
    finally:
        keras.config.set_dtype_policy("float32")
    assert {layer.dtype_policy.name for layer in fused.layers[1:]} == {policy}
    assert {v.dtype for v in fused.variables} == {v.dtype for v in model.variables}


def test_layers_of_other_types_end_a_block():
    def make(x):
        z = L.DepthwiseConv2D(3, dtype="mixed_bfloat16")(x)
        return L.Conv2D(4, 1)(z)

    check(functional(make), ["depthwise", "1x1"], tolerance=0.03)


def test_unknown_sizes():
    model = functional(lambda x: L.Add()([x, chain(x, 6)]), (None, None, 6))
    fused = check(model, ["depthwise + 1x1 + residual"])
    x = np.random.default_rng(0).standard_normal((1, 9, 23, 6)).astype("float32")
    assert difference(fused, model, [x]) < 1e-5


def test_report_and_table(capsys):
    model = functional(lambda x: chain(L.DepthwiseConv2D(3, activation="selu", name="odd")(x), 8, pad=True))
    fused = tf_dwsconv.convert(model, verbose=True)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["pattern", "layers", "fused", "as", "note"]
    assert lines[1].split()[:3] == ["DepthwiseConv2D", "odd", "-"] and "do not know" in lines[1]
    assert "b_pad ... b_pw_bn (6)" in lines[2] and found(fused) == ["depthwise + 1x1"]
    with pytest.raises(ValueError, match=r"`model` must be a model that tf_dwsconv.convert returned"):
        tf_dwsconv.convert.report(model)


def test_convert_is_the_function_however_it_is_reached():
    import tf_dwsconv.convert
    from tf_dwsconv import convert

    model = functional(lambda x: chain(x, 8))
    assert (
        found(convert(model))
        == found(tf_dwsconv.convert(model, fuse="blocks"))
        == found(tf_dwsconv.convert.convert(model))
    )


def test_weights_are_copies_in_memory_of_tensorflow():
    """TensorFlow reads aligned arrays where they are: then whoever has the array could change the model."""
    memory = np.zeros(1024 + 64, np.uint8)
    start = -memory.ctypes.data % 64
    array = memory[start : start + 1024].view(np.float32)
    variable = keras.Variable(np.ones(256, "float32"))
    _copy.assign(variable, array)
    copied = _copy.owned(array)
    array[:] = 7
    assert not np.any(np.asarray(variable)) and not np.any(np.asarray(copied))
