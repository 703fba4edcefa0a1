"""The way back: stock Keras layers in the place of ours, for what cannot load an op library."""

from __future__ import annotations

import math
from typing import Any, Optional

import keras

from tf_dwsconv import activations
from tf_dwsconv._keras_graph import Graph, calls, is_graph, models_in, wrapped
from tf_dwsconv.activations import Fused
from tf_dwsconv.convert import _inside
from tf_dwsconv.convert._block import Emission, Step
from tf_dwsconv.convert._copy import assign_values, copy_state, copy_variables, function_again
from tf_dwsconv.convert._rebuild import Plan
from tf_dwsconv.layers import DepthwiseSepConv2D, FusedBatchNormalization, FusedConvBlock, FusedDepthwiseConv2D

L = keras.layers

# Layers of ours that are one stock layer with an activation.
PARTS = (FusedBatchNormalization, FusedDepthwiseConv2D)
_STOCK = {FusedBatchNormalization: L.BatchNormalization, FusedDepthwiseConv2D: L.DepthwiseConv2D}


def check_nothing_remains(model: Any, kept: dict[str, str]) -> None:
    """Raises ValueError where a model still needs this package: in a wrapper, a Lambda, a custom layer."""
    for node in (node for part in models_in(model) for node in calls(part)):
        operation = node.operation
        found = None if is_graph(wrapped(operation)) else _inside.ours(node)
        if found is not None:
            why = f" ({kept[operation.name]})" if operation.name in kept else ""
            raise ValueError(
                f"`model` holds {operation.name!r} of class {type(operation).__name__}, and in it {found}, which "
                f"cannot be replaced by stock layers{why}. Put stock layers there, or take them out of it."
            )


def _outputs(convolution: Any, layer: Any) -> int:
    """The channels that a stock convolution in the place of a layer of ours gives."""
    if isinstance(convolution, L.DepthwiseConv2D):
        return math.prod(layer.depthwise_kernel.shape[2:])
    return convolution.filters


def _word_of(fused: Fused) -> Optional[str]:
    """Keras' word for an activation; None where it has parameters, or no name in Keras. "none" is no activation."""
    if activations.spelled(fused) != fused.word or fused.word in ("leaky_relu", "gelu_tanh", "prelu"):
        return None
    return "hard_silu" if fused.word == "hard_swish" else fused.word


def activation_layer(fused: Fused, options: dict) -> Any:
    """A stock layer of an activation without weights; `options`: its name, dtype and `trainable`."""
    word = _word_of(fused)
    return _layer_of(fused, options) if word is None else L.Activation("linear" if word == "none" else word, **options)


def _layer_of(fused: Fused, options: dict) -> Any:
    """A stock layer of an activation that has parameters, or no name in Keras."""
    if fused.word == "gelu_tanh":
        # Keras saves the function `keras.ops.gelu` by its name, and loads the exact one for it.
        x = keras.Input((None, None, None), dtype=options["dtype"].compute_dtype)
        return keras.Model(x, keras.ops.gelu(x, approximate=True), name=options["name"])
    if fused.word == "elu":
        return L.ELU(alpha=fused.alpha, **options)
    if fused == Fused("leaky_relu", fused.alpha):
        return L.LeakyReLU(negative_slope=fused.alpha, **options)
    slope = fused.alpha if fused.word == "leaky_relu" else 0.0
    max_value = None if math.isinf(fused.max_value) else fused.max_value
    return L.ReLU(negative_slope=slope, max_value=max_value, threshold=fused.threshold, **options)


class Unfuser:
    """Plans for `Rebuilder` the stock layers of each of our layers.

    Args:
        names: of all layers of the model, which new layers must not take.
        kinds: the classes of ours that become stock layers.
    """

    def __init__(self, names: set[str], kinds: tuple = (FusedConvBlock, DepthwiseSepConv2D, *PARTS)):
        self._names = set(names)
        self._kinds = kinds
        self._steps: dict[int, list[Step]] = {}

    def plan(self, graph: Graph) -> Plan:
        """For one graph."""
        plan: Plan = {}
        for node in graph.nodes:
            layer = node.operation
            if type(layer) in self._kinds:  # a subclass may compute anything else
                if id(layer) not in self._steps:  # a layer that is called twice becomes layers that are
                    steps = _Stages(self, layer, node.arguments.keras_tensors).steps
                    steps[-1].layer.name = layer.name  # a result of the model keeps its name
                    self._steps[id(layer)] = steps
                plan[id(node)] = Emission(node.arguments.keras_tensors, self._steps[id(layer)], node.outputs[0])
        return plan

    def name(self, layer: Any, suffix: str) -> str:
        """A new one, after that of a layer."""
        name, number = f"{layer.name}_{suffix}", 1
        while name in self._names:
            number += 1
            name = f"{layer.name}_{suffix}_{number}"
        self._names.add(name)
        return name


class _Stages:
    """`steps`: the stock layers of one layer of ours, which is called with `inputs`."""

    def __init__(self, unfuser: Unfuser, layer: Any, inputs: list):
        self._unfuser, self._layer, self._inputs = unfuser, layer, inputs
        self._are_rows = len(inputs[0].shape) == 2
        self.steps: list[Step] = []
        if type(layer) in PARTS:
            self._part()
            return
        if type(layer) is FusedConvBlock:
            self._block()
        else:
            self._separable()
        if layer.data_format == "channels_first":
            self._correct_biases()

    def _options(self, suffix: str) -> dict:
        layer = self._layer
        return {
            "name": self._unfuser.name(layer, suffix), "dtype": layer.dtype_policy, "trainable": layer.trainable
        }  # fmt: skip

    def _add(self, kind: Any, suffix: str, *arguments: Any, **options: Any) -> Any:
        """Adds a layer without weights of its own."""
        made = kind(*arguments, **options, **self._options(suffix))
        self.steps.append(Step(made))
        return made

    def _activation(self, activation: Any, suffix: str) -> tuple[Any, list[Step]]:
        """An activation for the layer in front, or a layer of its own behind it: `(function, steps)`."""
        if activation == "prelu" or activation == activations.PRELU:
            return None, [self._prelu(suffix)]
        fused = activation if isinstance(activation, Fused) else activations.parse(activation)
        if isinstance(activation, keras.Layer) and fused is None:
            return None, [Step(*function_again(activation))]
        if fused is None:
            return activation, []
        word = _word_of(fused)
        if word is not None:
            return None if word == "none" else word, []
        return None, [Step(_layer_of(fused, self._options(suffix)))]

    def _prelu(self, suffix: str) -> Step:
        stage = suffix.removesuffix("activation").removeprefix("pointwise_")
        slopes = getattr(self._layer, f"{stage}slopes")
        pixels = [1, 2] if self._layer.data_format == "channels_last" else [2, 3]
        made = L.PReLU(shared_axes=None if self._are_rows else pixels, **self._options(suffix))
        return Step(made, lambda: made.alpha.assign(keras.ops.reshape(slopes.value, made.alpha.shape)))

    def _convolution(
        self, kind: Any, suffix: str, weights: tuple, activation: Any, activation_suffix: str, **arguments: Any
    ) -> None:
        """Adds a convolution with its activation; `weights`: kernel and bias, or None."""
        function, behind = self._activation(activation, activation_suffix)
        kernel, bias = weights
        if self._are_rows:
            kind, arguments = L.Dense, {"units": arguments["filters"]}
        else:
            arguments["data_format"] = self._layer.data_format
        options = self._options(suffix)
        made = kind(use_bias=bias is not None, activation=function, **arguments, **options)
        fill = lambda: assign_values(made.kernel, kernel, made.bias, bias)  # noqa: E731
        self.steps += [Step(made, fill), *behind]

    def _padding(self) -> str:
        """What a stock convolution takes for padding; explicit padding becomes a layer in front of it."""
        layer = self._layer
        if isinstance(layer.padding, str):
            return layer.padding
        self._add(L.ZeroPadding2D, "pad", layer.padding, data_format=layer.data_format)
        return "valid"

    def _depthwise(self, activation: Any, padding: str, **options: Any) -> None:
        layer = self._layer
        window = {key: getattr(layer, key) for key in ("kernel_size", "strides", "dilation_rate", "depth_multiplier")}
        weights = layer.depthwise_kernel, layer.depthwise_bias
        self._convolution(
            L.DepthwiseConv2D, "depthwise", weights, activation, "depthwise_activation", padding=padding, **window,
            **options,
        )  # fmt: skip

    def _block(self) -> None:
        layer = self._layer
        if layer.expand_filters is not None:
            weights, size = (layer.expand_kernel, layer.expand_bias), {"filters": layer.expand_filters}
            self._convolution(
                L.Conv2D, "expand", weights, layer.expand_activation, "expand_activation", kernel_size=1, **size
            )
        if layer.kernel_size is not None:
            self._depthwise(layer.depthwise_activation, self._padding())
        if layer.epsilon is not None:
            axis = -1 if layer.data_format == "channels_last" else 1
            self._add(L.LayerNormalization, "norm", axis, layer.epsilon, center=False, scale=False)
        if layer.gated:
            self._gate()
        if layer.filters is not None:
            window: dict = {"kernel_size": 1}
            if layer.dense_kernel_size is not None:
                window = {"kernel_size": layer.dense_kernel_size, "strides": layer.strides, "padding": self._padding()}
                window["dilation_rate"] = layer.dilation_rate
            weights, last = (layer.pointwise_kernel, layer.bias), Fused("none") if layer.residual else layer.activation
            self._convolution(
                L.Conv2D, "project", weights, last, "pointwise_activation", filters=layer.filters, **window
            )
        if layer.residual:
            self._add(L.Add, "add")
            self.steps[-1].others = (2 if layer.gated else 1,)
        if layer.residual or layer.filters is None:
            function, behind = self._activation(layer.activation, "activation")
            self.steps += behind
            if function is not None:
                self._add(L.Activation, "activation", function)

    def _gate(self) -> None:
        layout, gate = self._layer.data_format, self._inputs[1]
        self._add(L.Multiply, "gate")
        self.steps[-1].others = (1,)
        if len(gate.shape) != (2 if self._are_rows else 4):
            channels = gate.shape[1 if layout == "channels_first" else -1]
            ones = () if self._are_rows else (1, 1)
            shape = (channels, *ones) if layout == "channels_first" else (*ones, channels)
            self.steps[-1].prepare = L.Reshape(shape, **self._options("gate_shape"))

    def _part(self) -> None:
        layer = self._layer
        config = {**layer.get_config(), "name": self._unfuser.name(layer, "linear")}
        del config["activation"]
        stock = _STOCK[type(layer)].from_config(config)
        # What is behind its own variables is of an activation with weights.
        fill = lambda: copy_variables(layer, layer.variables[: len(stock.variables)], stock.variables)  # noqa: E731
        function, behind = self._activation(layer.activation, "activation")
        self.steps += [Step(stock, fill), *behind]
        if function is not None:
            self._add(L.Activation, "activation", function)

    def _separable(self) -> None:
        layer = self._layer
        padding, middle = self._padding(), activations.parse(layer.depthwise_activation)
        if layer.depthwise_bias is None and middle is not None and middle.word == "none":
            function, behind = self._activation(layer.activation, "activation")
            config = {**layer.get_config(), "activation": None, "name": self._unfuser.name(layer, "separable")}
            for key in list(config):
                if key.startswith(("depthwise_bias", "depthwise_use_bias", "depthwise_activation")):
                    del config[key]  # what ours has beyond the stock layer
            stock = L.SeparableConv2D.from_config({**config, "padding": padding})
            stock.activation = keras.activations.get(function)
            self.steps += [Step(stock, lambda: copy_state(layer, stock)), *behind]
            return

        def settings(new: str, old: str) -> dict:
            kinds = ("initializer", "regularizer", "constraint")
            return {f"{new}_{kind}": getattr(layer, f"{old}_{kind}") for kind in kinds}

        first = settings("depthwise", "depthwise"), settings("bias", "depthwise_bias")
        self._depthwise(layer.depthwise_activation, padding, **first[0], **first[1])
        last = settings("kernel", "pointwise"), settings("bias", "bias")
        self._convolution(
            L.Conv2D, "project", (layer.pointwise_kernel, layer.bias), layer.activation, "activation",
            filters=layer.filters, kernel_size=1, activity_regularizer=layer.activity_regularizer, **last[0], **last[1],
        )  # fmt: skip

    def _correct_biases(self) -> None:
        """Makes layers add their bias to the channels.

        Keras 3.15 adds it along the width where that has as many pixels as there are channels. There the convolution is
        one of "channels_last", between two transpositions.
        """
        layer, steps = self._layer, self.steps
        tensors = [t for node in layer._inbound_nodes for t in (*node.arguments.keras_tensors, *node.outputs)]
        widths = {t.shape[-1] for t in tensors if len(t.shape) == 4}
        self.steps = []
        for step in steps:
            convolution = step.layer
            is_convolution = isinstance(convolution, (L.Conv2D, L.DepthwiseConv2D, L.SeparableConv2D))
            if not is_convolution or not convolution.use_bias or not widths & {None, _outputs(convolution, layer)}:
                self.steps.append(step)
                continue
            function, convolution.activation = convolution.activation, keras.activations.linear
            convolution.data_format = "channels_last"
            self._add(L.Permute, "to_last", (2, 3, 1))
            self.steps.append(step)
            self._add(L.Permute, "to_first", (3, 1, 2))
            if function is not keras.activations.linear:
                self._add(L.Activation, "activation", function)
