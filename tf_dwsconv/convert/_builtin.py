"""The way back: stock Keras layers in the place of ours, for what cannot load an op library."""

from __future__ import annotations

from typing import Any

import keras

from tf_dwsconv import activations
from tf_dwsconv.activations import Fused
from tf_dwsconv.block_layer import FusedConvBlock
from tf_dwsconv.convert._graph import Graph
from tf_dwsconv.convert._rebuild import Emission, Plan, Step, copy_state, function_again
from tf_dwsconv.layers import DepthwiseSepConv2D

L = keras.layers


class Unfuser:
    """Plans for `Rebuilder` the stock layers of each of our layers.

    Args:
        names: of all layers of the model, which new layers must not take.
    """

    def __init__(self, names: set[str]):
        self._names = set(names)
        self._steps: dict[int, list[Step]] = {}

    def plan(self, graph: Graph) -> Plan:
        """For one graph."""
        plan: Plan = {}
        for node in graph.nodes:
            layer = node.operation
            if isinstance(layer, (FusedConvBlock, DepthwiseSepConv2D)):
                if id(layer) not in self._steps:  # a layer that is called twice becomes layers that are
                    is_block = isinstance(layer, FusedConvBlock)
                    self._steps[id(layer)] = self._block(layer, node) if is_block else self._separable(layer)
                plan[id(node)] = Emission(node.arguments.keras_tensors, self._steps[id(layer)], node.outputs[0])
        return plan

    def _name(self, layer: Any, suffix: str) -> str:
        name, number = f"{layer.name}_{suffix}", 1
        while name in self._names:
            number += 1
            name = f"{layer.name}_{suffix}_{number}"
        self._names.add(name)
        return name

    def _options(self, layer: Any, suffix: str = "") -> dict:
        name = self._name(layer, suffix) if suffix else layer.name
        return {"name": name, "dtype": layer.dtype_policy, "trainable": layer.trainable}

    def _activation(self, layer: Any, activation: Any, suffix: str) -> tuple[Any, list[Step]]:
        """An activation for the layer in front, or a layer of its own behind it: `(function, steps)`."""
        fused = activation if isinstance(activation, Fused) else activations.parse(activation)
        if isinstance(activation, keras.Layer) and fused is None:
            new, copy_weights = function_again(activation)
            return None, [Step(new, copy_weights)]
        if fused is None:
            return activation, []
        if fused.word == "leaky_relu":
            return None, [Step(L.LeakyReLU(negative_slope=fused.alpha, **self._options(layer, suffix)))]
        return {"none": None, "hard_swish": "hard_silu"}.get(fused.word, fused.word), []

    def _block(self, layer: FusedConvBlock, node: Any) -> list[Step]:
        steps: list[Step] = []
        layout = layer.data_format
        axis = -1 if layout == "channels_last" else 1
        are_rows = len(node.arguments.keras_tensors[0].shape) == 2

        def convolution(kind: Any, stage: str, options: dict, bias: Any, activation: Any, **arguments: Any) -> None:
            function, behind = self._activation(layer, activation, f"{stage}_activation")
            options.update(use_bias=bias is not None, activation=function)
            if are_rows:
                made = L.Dense(arguments["filters"], **options)
            else:
                made = kind(data_format=layout, **arguments, **options)
            kernel = getattr(layer, f"{stage}_kernel")

            def fill() -> None:
                made.kernel.assign(kernel.value[0, 0] if are_rows else kernel.value)
                if bias is not None:
                    made.bias.assign(bias.value)

            steps.extend([Step(made, fill), *behind])

        if layer.expand_filters is not None:
            is_main = layer.kernel_size is None and layer.filters is None
            convolution(
                L.Conv2D, "expand", self._options(layer, "" if is_main else "expand"), layer.expand_bias,
                layer.expand_activation, filters=layer.expand_filters, kernel_size=1,
            )  # fmt: skip
        if layer.kernel_size is not None:
            padding = self._padding(layer, steps)
            convolution(
                L.DepthwiseConv2D, "depthwise", self._options(layer), layer.depthwise_bias, layer.depthwise_activation,
                kernel_size=layer.kernel_size, strides=layer.strides, padding=padding,
                dilation_rate=layer.dilation_rate, depth_multiplier=layer.depth_multiplier,
            )  # fmt: skip
        if layer.epsilon is not None:
            options = self._options(layer, "norm")
            steps.append(Step(L.LayerNormalization(axis, layer.epsilon, center=False, scale=False, **options)))
        others = 1
        if layer.gated:
            steps.append(Step(L.Multiply(**self._options(layer, "gate")), others=(others,)))
            gate = node.arguments.keras_tensors[others]
            if len(gate.shape) != (2 if are_rows else 4):
                channels = gate.shape[1 if layout == "channels_first" else -1]
                ones = () if are_rows else (1, 1)
                shape = (channels, *ones) if layout == "channels_first" else (*ones, channels)
                steps[-1].prepare = L.Reshape(shape, **self._options(layer, "gate_shape"))
            others += 1
        last = layer.activation
        if layer.filters is not None:
            window: dict = {"kernel_size": 1}
            if layer.dense_kernel_size is not None:
                padding = self._padding(layer, steps)
                window = {"kernel_size": layer.dense_kernel_size, "strides": layer.strides, "padding": padding}
                window["dilation_rate"] = layer.dilation_rate
            suffix = "project" if layer.kernel_size is not None else ""
            convolution(
                L.Conv2D, "pointwise", self._options(layer, suffix), layer.bias,
                Fused("none") if layer.residual else last, filters=layer.filters, **window,
            )  # fmt: skip
        if layer.residual:
            steps.append(Step(L.Add(**self._options(layer, "add")), others=(others,)))
        if layer.residual or layer.filters is None:
            steps += self._activation_layer(layer, last)
        return steps

    def _padding(self, layer: Any, steps: list[Step]) -> str:
        """What a stock convolution takes for padding; explicit padding becomes a layer in front of it."""
        if isinstance(layer.padding, str):
            return layer.padding
        options = self._options(layer, "pad")
        steps.append(Step(L.ZeroPadding2D(layer.padding, data_format=layer.data_format, **options)))
        return "valid"

    def _activation_layer(self, layer: Any, activation: Any) -> list[Step]:
        function, behind = self._activation(layer, activation, "activation")
        if function is not None:
            behind = [Step(L.Activation(function, **self._options(layer, "activation")))]
        return behind

    def _separable(self, layer: DepthwiseSepConv2D) -> list[Step]:
        function, behind = self._activation(layer, layer.activation, "activation")
        middle = activations.parse(layer.depthwise_activation)
        pads: list[Step] = []
        padding = self._padding(layer, pads)
        if layer.depthwise_bias is not None or middle is None or middle.word != "none":
            return [*pads, *self._halves(layer, function, padding), *behind]
        config = {**layer.get_config(), "activation": None}
        for key in list(config):
            if key.startswith(("depthwise_bias", "depthwise_use_bias", "depthwise_activation")):
                del config[key]  # what ours has beyond the stock layer
        config["padding"] = padding
        stock = L.SeparableConv2D.from_config(config)
        stock.activation = keras.activations.get(function)
        return [*pads, Step(stock, lambda: copy_state(layer, stock)), *behind]

    def _halves(self, layer: DepthwiseSepConv2D, function: Any, padding: str) -> list[Step]:
        """A depthwise and a 1x1 convolution, with the initializers, regularizers and constraints of the layer."""
        between, behind = self._activation(layer, layer.depthwise_activation, "depthwise_activation")
        kinds = ("initializer", "regularizer", "constraint")
        depthwise = L.DepthwiseConv2D(
            layer.kernel_size,
            strides=layer.strides,
            padding=padding,
            depth_multiplier=layer.depth_multiplier,
            data_format=layer.data_format,
            dilation_rate=layer.dilation_rate,
            activation=between,
            use_bias=layer.depthwise_bias is not None,
            **{f"depthwise_{kind}": getattr(layer, f"depthwise_{kind}") for kind in kinds},
            **{f"bias_{kind}": getattr(layer, f"depthwise_bias_{kind}") for kind in kinds},
            **self._options(layer),
        )
        pointwise = L.Conv2D(
            layer.filters,
            1,
            data_format=layer.data_format,
            activation=function,
            use_bias=layer.bias is not None,
            **{f"kernel_{kind}": getattr(layer, f"pointwise_{kind}") for kind in kinds},
            **{f"bias_{kind}": getattr(layer, f"bias_{kind}") for kind in kinds},
            activity_regularizer=layer.activity_regularizer,
            **self._options(layer, "project"),
        )

        def fill(stock: Any, kernel: Any, bias: Any) -> None:
            stock.kernel.assign(kernel.value)
            if bias is not None:
                stock.bias.assign(bias.value)

        return [
            Step(depthwise, lambda: fill(depthwise, layer.depthwise_kernel, layer.depthwise_bias)),
            *behind,
            Step(pointwise, lambda: fill(pointwise, layer.pointwise_kernel, layer.bias)),
        ]
