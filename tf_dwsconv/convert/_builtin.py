"""The way back: stock Keras layers in the place of ours, for what cannot load an op library."""

from __future__ import annotations

import math
from typing import Any

import keras

from tf_dwsconv import activations
from tf_dwsconv.activations import Fused
from tf_dwsconv.layers import FusedConvBlock
from tf_dwsconv.convert import _inside
from tf_dwsconv.convert._graph import Graph, calls, is_graph, wrapped
from tf_dwsconv.convert._rebuild import Emission, Plan, Step, copy_state, function_again
from tf_dwsconv.layers import DepthwiseSepConv2D

L = keras.layers


def check_nothing_remains(model: Any, kept: dict[str, str]) -> None:
    """Raises ValueError where a model still needs this package: in a wrapper, a Lambda, a custom layer."""
    seen: set[int] = set()

    def visit(part: Any) -> None:
        seen.add(id(part))
        for node in calls(part):
            operation, inner = node.operation, wrapped(node.operation)
            if is_graph(inner):
                if id(inner) not in seen:
                    visit(inner)
                continue
            found = _inside.ours(node)
            if found is not None:
                why = f" ({kept[operation.name]})" if operation.name in kept else ""
                raise ValueError(
                    f"`model` holds {operation.name!r} of class {type(operation).__name__}, and in it {found}, which "
                    f"cannot be replaced by stock layers{why}. Put stock layers there, or take them out of it."
                )

    visit(model)


def _outputs(convolution: Any, layer: Any) -> int:
    """The channels that a stock convolution in the place of a layer of ours gives."""
    if isinstance(convolution, L.DepthwiseConv2D):
        return math.prod(layer.depthwise_kernel.shape[2:])
    return convolution.filters


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


def _prelu(layer: FusedConvBlock, suffix: str, options: dict, rows: bool) -> Step:
    stage = suffix.removesuffix("activation")
    slopes = getattr(layer, f"{stage.removeprefix('pointwise_')}slopes")
    pixels = [1, 2] if layer.data_format == "channels_last" else [2, 3]
    made = L.PReLU(shared_axes=None if rows else pixels, **options)
    return Step(made, lambda: made.alpha.assign(keras.ops.reshape(slopes.value, made.alpha.shape)))


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
            if type(layer) in (FusedConvBlock, DepthwiseSepConv2D):  # a subclass may compute anything else
                if id(layer) not in self._steps:  # a layer that is called twice becomes layers that are
                    is_block = type(layer) is FusedConvBlock
                    steps = self._block(layer, node) if is_block else self._separable(layer)
                    steps = self._with_right_biases(layer, steps)
                    steps[-1].layer.name = layer.name  # a result of the model keeps its name
                    self._steps[id(layer)] = steps
                plan[id(node)] = Emission(node.arguments.keras_tensors, self._steps[id(layer)], node.outputs[0])
        return plan

    def _name(self, layer: Any, suffix: str) -> str:
        name, number = f"{layer.name}_{suffix}", 1
        while name in self._names:
            number += 1
            name = f"{layer.name}_{suffix}_{number}"
        self._names.add(name)
        return name

    def _options(self, layer: Any, suffix: str) -> dict:
        return {"name": self._name(layer, suffix), "dtype": layer.dtype_policy, "trainable": layer.trainable}

    def _activation(self, layer: Any, activation: Any, suffix: str, rows: bool = False) -> tuple[Any, list[Step]]:
        """An activation for the layer in front, or a layer of its own behind it: `(function, steps)`."""
        if activation == "prelu" or activation == activations.PRELU:
            return None, [_prelu(layer, suffix, self._options(layer, suffix), rows)]
        fused = activation if isinstance(activation, Fused) else activations.parse(activation)
        if isinstance(activation, keras.Layer) and fused is None:
            new, copy_weights = function_again(activation)
            return None, [Step(new, copy_weights)]
        if fused is None:
            return activation, []
        if activations.spelled(fused) == fused.word and fused.word not in ("leaky_relu", "gelu_tanh"):
            return {"none": None, "hard_swish": "hard_silu"}.get(fused.word, fused.word), []
        return None, [Step(_layer_of(fused, self._options(layer, suffix)))]

    def _block(self, layer: FusedConvBlock, node: Any) -> list[Step]:
        steps: list[Step] = []
        layout = layer.data_format
        axis = -1 if layout == "channels_last" else 1
        are_rows = len(node.arguments.keras_tensors[0].shape) == 2

        def convolution(kind: Any, stage: str, options: dict, bias: Any, activation: Any, **arguments: Any) -> None:
            function, behind = self._activation(layer, activation, f"{stage}_activation", are_rows)
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
            convolution(
                L.Conv2D, "expand", self._options(layer, "expand"), layer.expand_bias, layer.expand_activation,
                filters=layer.expand_filters, kernel_size=1,
            )  # fmt: skip
        if layer.kernel_size is not None:
            padding = self._padding(layer, steps)
            convolution(
                L.DepthwiseConv2D, "depthwise", self._options(layer, "depthwise"), layer.depthwise_bias,
                layer.depthwise_activation, kernel_size=layer.kernel_size, strides=layer.strides, padding=padding,
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
            convolution(
                L.Conv2D, "pointwise", self._options(layer, "project"), layer.bias,
                Fused("none") if layer.residual else last, filters=layer.filters, **window,
            )  # fmt: skip
        if layer.residual:
            steps.append(Step(L.Add(**self._options(layer, "add")), others=(others,)))
        if layer.residual or layer.filters is None:
            steps += self._activation_layer(layer, last, are_rows)
        return steps

    def _with_right_biases(self, layer: Any, steps: list[Step]) -> list[Step]:
        """In "channels_first", layers that add their bias to the channels.

        Keras 3.15 adds it along the width where that has as many pixels as there are channels. There the convolution is
        one of "channels_last", between two transpositions.
        """
        if layer.data_format == "channels_last":
            return steps
        tensors = [t for node in layer._inbound_nodes for t in (*node.arguments.keras_tensors, *node.outputs)]
        widths = {t.shape[-1] for t in tensors if len(t.shape) == 4}
        right: list[Step] = []
        for step in steps:
            convolution = step.layer
            is_convolution = isinstance(convolution, (L.Conv2D, L.DepthwiseConv2D, L.SeparableConv2D))
            if not is_convolution or not convolution.use_bias or not widths & {None, _outputs(convolution, layer)}:
                right.append(step)
                continue
            function, convolution.activation = convolution.activation, keras.activations.linear
            convolution.data_format = "channels_last"
            right += [Step(L.Permute((2, 3, 1), **self._options(layer, "to_last"))), step]
            right.append(Step(L.Permute((3, 1, 2), **self._options(layer, "to_first"))))
            if function is not keras.activations.linear:
                right.append(Step(L.Activation(function, **self._options(layer, "activation"))))
        return right

    def _padding(self, layer: Any, steps: list[Step]) -> str:
        """What a stock convolution takes for padding; explicit padding becomes a layer in front of it."""
        if isinstance(layer.padding, str):
            return layer.padding
        options = self._options(layer, "pad")
        steps.append(Step(L.ZeroPadding2D(layer.padding, data_format=layer.data_format, **options)))
        return "valid"

    def _activation_layer(self, layer: Any, activation: Any, rows: bool) -> list[Step]:
        function, behind = self._activation(layer, activation, "activation", rows)
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
        config = {**layer.get_config(), "activation": None, "name": self._name(layer, "separable")}
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
            **self._options(layer, "depthwise"),
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
