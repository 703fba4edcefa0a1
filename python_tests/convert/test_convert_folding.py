"""`tf_dwsconv.convert`: what is folded where more than one thing stands in a row, and where more than one reads it.

Batch norms have random statistics here, offsets included: with those of a fresh layer much that is wrong is right.
"""

from __future__ import annotations

import keras
import pytest
from convert_support import chain, check, difference, functional, pictures

import tf_dwsconv

pytestmark = pytest.mark.usefixtures("op_library")

L = keras.layers


def gated(*behind, activation="relu", between=(), product=L.Multiply):
    """depthwise -> `behind` -> gate -> `between` -> 1x1; each entry makes a layer."""

    def make(x, gate):
        y = L.DepthwiseConv2D(3, padding="same", activation=activation, name="dw")(x)
        for layer in behind:
            y = layer()(y)
        y = product(name="gate")([y, gate])
        for layer in between:
            y = layer()(y)
        return L.BatchNormalization()(L.Conv2D(7, 1, name="pw")(y))

    return functional(make, (16, 16, 6), (1, 1, 6))


def scale_alone():
    return L.BatchNormalization(center=False, name="scale")


def times_two():
    return L.Rescaling(2.0)


@pytest.mark.parametrize(
    "behind, patterns",
    [
        # The norm's offset is multiplied by the gate: with the norm folded into the 1x1 behind it, it would not be.
        ([L.BatchNormalization], ["depthwise", "gate + 1x1", "scale"]),
        ([lambda: L.BatchNormalization(scale=False)], ["depthwise", "gate + 1x1", "scale"]),
        ([lambda: L.Rescaling(1.5, offset=0.5)], ["depthwise", "gate + 1x1", "scale"]),
        ([L.BatchNormalization, L.BatchNormalization], None),
        # A factor alone may go to either side.
        ([times_two], ["depthwise + gate + 1x1"]),
        ([], ["depthwise + gate + 1x1"]),
    ],
    ids=["norm", "norm without scale", "rescaling", "two norms", "factor", "nothing"],
)
def test_a_gate_behind_an_offset(behind, patterns):
    fused = check(gated(*behind))
    if patterns is not None:
        rows = tf_dwsconv.convert.report(fused)
        assert sorted(row.pattern for row in rows if row.fused is not None) == sorted(patterns)


@pytest.mark.parametrize("center", [True, False])
def test_a_gate_behind_a_norm_without_activation_between(center):
    """Where the depthwise convolution is linear its own filter takes the norm."""
    model = gated(lambda: L.BatchNormalization(center=center), activation=None)
    assert len(check(model, ["depthwise + gate + 1x1"]).layers) == 3


def test_an_offset_behind_a_gate():
    """What follows the gate is not multiplied by it."""
    check(gated(between=[L.BatchNormalization]))
    check(gated(times_two, between=[L.BatchNormalization]))
    check(gated(L.BatchNormalization, between=[lambda: L.Rescaling(0.5, offset=-1.0)]))


def test_a_gate_behind_a_layer_norm_with_and_without_offset():
    for center in (True, False):
        check(gated(lambda center=center: L.LayerNormalization(center=center), activation=None))


def test_scales_and_offsets_in_a_row_in_front_of_a_1x1():
    def make(x):
        y = L.DepthwiseConv2D(3, padding="same", activation="relu")(x)
        y = L.BatchNormalization()(L.Rescaling(0.5, offset=2.0)(L.BatchNormalization()(y)))
        return L.Conv2D(7, 1)(y)

    assert len(check(functional(make), ["depthwise + 1x1"]).layers) == 2


def front_norm(readers, *, head=None, norm=None):
    """A batch norm at the front of a network, that several layers read."""

    def make(x):
        shared = (norm or L.BatchNormalization)(name="front")(x)
        outputs = [reader()(shared) for reader in readers]
        return outputs if head is None else head(outputs)

    return functional(make)


READERS = {
    "1x1 and 1x1": [lambda: L.Conv2D(8, 1, name="a"), lambda: L.Conv2D(5, 1, activation="relu", name="b")],
    "1x1 and 3x3": [lambda: L.Conv2D(8, 1, name="a"), lambda: L.Conv2D(5, 3, padding="same", name="b")],
    "1x1 and depthwise": [lambda: L.Conv2D(8, 1, name="a"), lambda: L.DepthwiseConv2D(3, padding="same", name="b")],
    "dense and separable": [lambda: L.Conv2D(8, 3, name="a"), lambda: L.SeparableConv2D(5, 3, name="b")],
    "1x1 and what is no convolution": [lambda: L.Conv2D(8, 1, name="a"), lambda: L.MaxPooling2D(name="b")],
    "the same twice": [lambda: L.Conv2D(8, 1, name="a"), lambda: L.Conv2D(8, 1, name="b"), lambda: L.ReLU(name="c")],
}


@pytest.mark.parametrize("readers", READERS.values(), ids=READERS)
def test_a_front_norm_that_two_layers_read(readers):
    """Folded into one of its readers it would be gone for the other."""
    fused = check(front_norm(readers))
    builtin = tf_dwsconv.to_builtin(fused)
    assert difference(builtin, fused, pictures(fused)) < 1e-5


def test_a_front_norm_that_is_an_output_too():
    def make(x):
        y = L.BatchNormalization(name="front")(x)
        return [L.Conv2D(8, 1)(y), y]

    check(functional(make))


def test_a_front_norm_that_one_layer_reads_is_gone():
    fused = check(front_norm([lambda: L.Conv2D(8, 1, name="a")], head=lambda outputs: outputs[0]), ["1x1"])
    assert [layer.name for layer in fused.layers] == ["in0", "a"]


def behind_a_residual(x):
    y = L.Add()([x, chain(x, 6, name="a")])
    y = L.ReLU()(y)
    z = L.Add()([L.Conv2D(72, 3, padding="same", name="dense")(y), L.Concatenate()([y] * 12)])
    return L.Activation("hard_silu")(z)


def dilated(x):
    y = L.Conv2D(64, 3, padding="same", dilation_rate=2, name="dense")(x)
    y = L.Conv2D(8, 1)(L.BatchNormalization()(y))
    return L.Conv2D(64, (2, 3), dilation_rate=(3, 1), activation="silu", name="last")(y)


@pytest.mark.parametrize("make, blocks", [(behind_a_residual, 2), (dilated, 3)])
def test_there_and_back(make, blocks):
    """`to_builtin` puts each stage where it was: an activation behind the residual, a window as wide."""
    model = functional(make)
    fused = check(model)
    assert sum(isinstance(layer, tf_dwsconv.FusedConvBlock) for layer in fused.layers) == blocks
    builtin = tf_dwsconv.to_builtin(fused)
    assert not any(isinstance(layer, tf_dwsconv.FusedConvBlock) for layer in builtin.layers)
    assert difference(builtin, model, pictures(model)) < 1e-5


@pytest.mark.parametrize("training", [False, True])
def test_a_variable_that_is_not_trained_stays_so(training):
    """One of a layer that is trained otherwise: the flag of the variable, not of the layer."""
    model = functional(lambda x: L.Conv2DTranspose(4, 3, name="stays")(L.SeparableConv2D(8, 3)(x)))
    model.get_layer("stays").bias.trainable = False
    for rewritten in (tf_dwsconv.convert(model, training=training, fuse="blocks"), tf_dwsconv.to_builtin(model)):
        stays = rewritten.get_layer("stays")
        assert stays.trainable and not stays.bias.trainable
        assert [v.name for v in stays.trainable_variables] == ["kernel"]
