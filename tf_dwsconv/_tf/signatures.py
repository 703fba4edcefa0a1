"""What the library's ops are called with: from a call to an op's arguments, and from an op back to the call."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import tensorflow as tf

from tf_dwsconv._arguments import Attributes, Tensors
from tf_dwsconv.activations import Fused

# The inputs of the layer's op behind `input`, in its order. All but the filters are lists of at most one tensor.
LAYER_INPUTS = ("depthwise_filter", "pointwise_filter", "depthwise_bias", "bias", "residual")
# Likewise of the block's op, where all are such lists. It says `scale` for the gate.
BLOCK_INPUTS = (
    "expand_filter", "expand_bias", "depthwise_filter", "depthwise_bias", "pointwise_filter", "bias", "gate",
    "residual", "expand_slopes", "depthwise_slopes", "slopes",
)  # fmt: skip
_NAMES_IN_OP = {"gate": "scale"}


class Call(NamedTuple):
    """One op: its inputs, its attributes, and where among the inputs each tensor stands, by name."""

    inputs: list
    attributes: Attributes
    places: dict[str, int]

    def tensor(self, name: str) -> Any:
        """A tensor by its name, "input" for x; None for one that is not there."""
        return self.inputs[self.places[name]] if name in self.places else None

    @property
    def tensors(self) -> Tensors:
        return Tensors(**{name: self.inputs[place] for name, place in self.places.items() if name != "input"})


def layer_inputs(tensors: Tensors) -> dict[str, Any]:
    """A call's tensors as inputs of the layer's op."""
    return {
        "depthwise_filter": tensors.depthwise_filter,
        "pointwise_filter": tensors.pointwise_filter,
        "depthwise_bias": optional(tensors.depthwise_bias),
        "bias": optional(tensors.bias),
        "residual": optional(tensors.residual),
    }


def block_inputs(tensors: Tensors, attributes: Attributes) -> dict[str, Any]:
    """A call's tensors as inputs of the block's op, whose gate is [N, C*M] or [N, 1, 1, C*M]."""
    gate = tensors.gate
    if gate is not None and attributes.data_format == "NCHW" and gate.shape.rank != 2:
        tensors = tensors._replace(gate=tf.reshape(gate, tf.shape(gate)[:2]))
    return {_NAMES_IN_OP.get(name, name): optional(tensor) for name, tensor in tensors._asdict().items()}


def optional(tensor: Any) -> tuple:
    """A list of at most one tensor."""
    return () if tensor is None else (tensor,)


@functools.lru_cache(maxsize=4096)
def layer_options(attributes: Attributes) -> dict[str, Any]:
    """A call's attributes as those of the layer's op and of its gradient's."""
    return {
        "strides": attributes.strides,
        "dilations": attributes.dilations,
        "padding": attributes.padding,
        "explicit_paddings": attributes.explicit_paddings,
        "data_format": attributes.data_format,
        **activation_options(attributes.depthwise_activation, "depthwise_"),
        **activation_options(attributes.activation),
    }


@functools.lru_cache(maxsize=4096)
def block_options(attributes: Attributes) -> dict[str, Any]:
    """A call's attributes as those of the block's op."""
    return {
        **layer_options(attributes),
        **activation_options(attributes.expand_activation, "expand_"),
        "normalize": attributes.epsilon is not None,
        "epsilon": attributes.epsilon or 0.0,
    }


def activation_options(fused: Fused, stage: str = "") -> dict[str, Any]:
    """An activation as attributes of an op, whose names begin with `stage`."""
    return {
        f"{stage}activation": fused.word,
        f"{stage}alpha": fused.alpha,
        f"{stage}max_value": fused.max_value,
        f"{stage}threshold": fused.threshold,
    }


def read_layer(op: Any, inputs: list) -> Call:
    """The call of a layer's op or of its gradient's, with `inputs` for its inputs."""
    places = _places(op, LAYER_INPUTS, is_list=lambda name: not name.endswith("_filter"))
    return Call(inputs, _attributes(op), places)


def read_block(op: Any, inputs: list) -> Call:
    """The call of a block's op, with `inputs` for its inputs."""
    attributes = _attributes(op)._replace(
        expand_activation=read_activation(op, "expand_"),
        epsilon=op.get_attr("epsilon") if op.get_attr("normalize") else None,
    )
    return Call(inputs, attributes, _places(op, BLOCK_INPUTS, is_list=lambda name: True))


def _places(op: Any, names: tuple, is_list: Any) -> dict[str, int]:
    places = {"input": 0}
    for name in names:
        if not is_list(name) or op.get_attr(f"num_{_NAMES_IN_OP.get(name, name)}"):
            places[name] = len(places)
    return places


def _attributes(op: Any) -> Attributes:
    strides, dilations, explicit = (tuple(op.get_attr(n)) for n in ("strides", "dilations", "explicit_paddings"))
    padding, data_format = (_text(op.get_attr(name)) for name in ("padding", "data_format"))
    both = read_activation(op, "depthwise_"), read_activation(op)
    return Attributes(strides, dilations, padding, explicit, data_format, *both)


def read_activation(op: Any, stage: str = "") -> Fused:
    """The activation of an op's attributes."""
    parameters = (op.get_attr(f"{stage}{name}") for name in ("alpha", "max_value", "threshold"))
    return Fused(_text(op.get_attr(f"{stage}activation")), *parameters)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else value
