"""The way back: Keras layers for each step of a `FusedNetwork`, a `FusedConvBlock` for a chain."""

from __future__ import annotations

from typing import Any, Callable, Optional

import keras
import numpy as np

from tf_dwsconv._keras_graph import Graph
from tf_dwsconv._program import Program
from tf_dwsconv._program_steps import Step
from tf_dwsconv.activations import NONE, PRELU, Fused, spelled
from tf_dwsconv.convert import _block, _builtin, _read
from tf_dwsconv.convert._block import Assembly
from tf_dwsconv.convert._copy import assign
from tf_dwsconv.convert._rebuild import Plan
from tf_dwsconv.layers import FusedConvBlock, FusedNetwork

L = keras.layers

# What computes a step, from the tensors that it reads.
_Apply = Callable[[dict[str, Any]], Any]


class Unfuser:
    """Plans for `Rebuilder` the layers of each network.

    Args:
        names: of all layers of the model, which new layers must not take.
    """

    def __init__(self, names: set[str]):
        self._names = set(names)
        self._networks: dict[int, _Network] = {}

    def plan(self, graph: Graph, is_sequential: bool) -> Plan:
        """For one graph; in a Sequential model a network becomes a model, as its steps may branch."""
        plan: Plan = {}
        for node in graph.nodes:
            layer = node.operation
            if type(layer) is not FusedNetwork:  # a subclass may compute anything else
                continue
            network = self._networks.setdefault(id(layer), _Network(layer, self._names))
            inputs = node.arguments.keras_tensors
            steps = [_block.Step(network.model(inputs[0]))] if is_sequential else []
            plan[id(node)] = Assembly(inputs, node.outputs, network.call, steps)
        return plan


class _Network:
    """The layers of one network, made once."""

    def __init__(self, layer: Any, names: set[str]):
        self._layer, self._names = layer, names
        self._program = Program.from_text(layer.program)
        self._values = self._program.pieces(_read.array(layer.values))
        self._made: dict[int, _Apply] = {}
        self._fills: list[Callable[[], None]] = []

    def model(self, x: Any) -> Any:
        """All of it, of one input and one output."""
        start = keras.Input(batch_shape=x.shape, dtype=x.dtype)
        return keras.Model(start, self.call([start]), name=self._layer.name)

    def call(self, inputs: list) -> list:
        """The outputs, for new tensors."""
        tensors = {given.tensor: x for given, x in zip(self._program.inputs, inputs)}
        for step in self._program.steps:
            if step.output not in self._made:
                self._made[step.output] = self._make(step)
            reads = {
                name: [tensors[t] for t in read] if isinstance(read, tuple) else tensors[read]
                for name, read in step.reads.items()
            }
            tensors[step.output] = self._made[step.output](reads)
        while self._fills:
            self._fills.pop()()
        outputs = [tensors[output.tensor] for output in self._program.outputs]
        return [self._end(y, inputs) for y in outputs] if len(outputs) == 1 else outputs

    def _end(self, y: Any, inputs: list) -> Any:
        """The only result, from a layer of the network's name."""
        operation = y._keras_history.operation
        if isinstance(operation, keras.Layer) and not any(y is x for x in inputs):
            operation.name = self._layer.name
        return y if operation.name == self._layer.name else L.Identity(name=self._layer.name, dtype=y.dtype)(y)

    def _make(self, step: Step) -> _Apply:
        apply = _MAKERS[step.op](self, step)
        after = step.options.get("activation", NONE)
        if after == NONE or step.op in ("chain", "activation"):
            return apply
        layer = self.activation(step, after)
        return lambda t: layer(apply(t))

    def options(self, step: Step) -> dict:
        """A layer's name, dtype and `trainable`."""
        name, number = step.name, 1
        while name in self._names:
            number += 1
            name = f"{step.name}_{number}"
        self._names.add(name)
        return {"name": name, "dtype": self._layer.dtype_policy, "trainable": self._layer.trainable}

    def weight(self, step: Step, key: str) -> Optional[np.ndarray]:
        return self._values[step.weights[key]] if key in step.weights else None

    def later(self, layer: Any, *pairs: tuple[str, Optional[np.ndarray]]) -> None:
        """Has weights of a layer set when it is built."""

        def fill() -> None:
            for name, value in pairs:
                if value is not None:
                    assign(getattr(layer, name), value)

        self._fills.append(fill)

    def activation(self, step: Step, fused: Fused) -> Any:
        options = self.options(step)
        if fused == PRELU:
            layer = L.PReLU(shared_axes=[1, 2], **options)
            self.later(layer, ("alpha", self.weight(step, "slopes")))
            return layer
        return _builtin.activation_layer(fused, options)


def _grouped(network: _Network, step: Step) -> _Apply:
    """A convolution of groups, which no block has."""
    kernel, padding, layers = network.weight(step, "pointwise_filter"), step.options["padding"], []
    if not isinstance(padding, str):
        layers.append(L.ZeroPadding2D(padding, **network.options(step)))
        padding = "valid"
    convolution = L.Conv2D(
        kernel.shape[3],
        kernel.shape[:2],
        strides=step.options["strides"],
        padding=padding,
        dilation_rate=step.options["dilations"],
        groups=step.options["groups"],
        use_bias="bias" in step.weights,
        data_format="channels_last",
        **network.options(step),
    )
    network.later(convolution, ("kernel", kernel), ("bias", network.weight(step, "bias")))
    layers.append(convolution)
    add = L.Add(**network.options(step)) if "residual" in step.reads else None
    last = step.options["activation"]
    activation = None if last == NONE else network.activation(step, last)

    def apply(t: dict) -> Any:
        y = t["x"]
        for layer in layers:
            y = layer(y)
        y = y if add is None else add([y, t["residual"]])
        return y if activation is None else activation(y)

    return apply


def _chain(network: _Network, step: Step) -> _Apply:
    if step.options["groups"] > 1:
        return _grouped(network, step)
    shapes = {key: network._program.weights[place].shape for key, place in step.weights.items()}
    expand, depthwise, pointwise = (shapes.get(f"{stage}_filter") for stage in ("expand", "depthwise", "pointwise"))
    is_dense = (
        depthwise is None and pointwise is not None and (pointwise[:2] != (1, 1) or step.options["strides"] != (1, 1))
    )
    has_window = depthwise is not None or is_dense
    layer = FusedConvBlock(
        filters=pointwise and pointwise[3],
        kernel_size=depthwise and depthwise[:2],
        depth_multiplier=depthwise[3] if depthwise else 1,
        dense_kernel_size=pointwise[:2] if is_dense else None,
        strides=step.options["strides"] if has_window else 1,
        dilation_rate=step.options["dilations"] if has_window else 1,
        padding=step.options["padding"] if has_window else "same",
        data_format="channels_last",
        activation=spelled(step.options["activation"]),
        use_bias="bias" in shapes,
        expand_filters=expand and expand[3],
        expand_use_bias="expand_bias" in shapes,
        expand_activation=spelled(step.options["expand_activation"]),
        depthwise_use_bias="depthwise_bias" in shapes,
        depthwise_activation=spelled(step.options["depthwise_activation"]),
        epsilon=step.options["epsilon"] if step.options["normalize"] else None,
        gated="gate" in step.reads,
        residual="residual" in step.reads,
        **network.options(step),
    )
    network.later(layer, *((key.replace("filter", "kernel"), network.weight(step, key)) for key in step.weights))
    names = [name for name in ("x", "gate", "residual") if name in step.reads]
    return lambda t: layer([t[name] for name in names] if len(names) > 1 else t["x"])


def _dense(network: _Network, step: Step) -> _Apply:
    kernel, bias = network.weight(step, "filter"), network.weight(step, "bias")
    layer = L.Dense(kernel.shape[1], use_bias=bias is not None, **network.options(step))
    network.later(layer, ("kernel", kernel), ("bias", bias))
    if "residual" not in step.reads:
        return lambda t: layer(t["x"])
    add = L.Add(**network.options(step))
    return lambda t: add([layer(t["x"]), t["residual"]])


def _plain(make: Callable[[Step, dict], Any]) -> Callable[[_Network, Step], _Apply]:
    """A layer of one input without weights."""

    def maker(network: _Network, step: Step) -> _Apply:
        layer = make(step, network.options(step))
        return lambda t: layer(t["x"])

    return maker


def _pool(kind: Any) -> Callable[[_Network, Step], _Apply]:
    def make(step: Step, options: dict) -> Any:
        if not isinstance(step.options["padding"], str):
            raise ValueError(f"`model` holds the step {step.name!r}, a pooling with explicit padding; Keras has none.")
        return kind(
            step.options["window"], step.options["strides"], step.options["padding"], "channels_last", **options
        )

    return _plain(make)


def _over_pixels(kind: Any) -> Callable[[_Network, Step], _Apply]:
    return _plain(lambda step, options: kind("channels_last", step.options["keepdims"], **options))


def _of_two(kind: Any, function: Any) -> Callable[[_Network, Step], _Apply]:
    def maker(network: _Network, step: Step) -> _Apply:
        if "y" in step.reads:
            layer = kind(**network.options(step))
            return lambda t: layer([t["x"], t["y"]])
        value = network.weight(step, "y").astype("float32")
        constant = float(value.reshape(())) if value.size == 1 else value
        return lambda t: function(t["x"], constant)

    return maker


def _activation(network: _Network, step: Step) -> _Apply:
    layer = network.activation(step, step.options["activation"])
    return lambda t: layer(t["x"])


def _power(network: _Network, step: Step) -> _Apply:
    exponent = step.options["exponent"]
    return lambda t: keras.ops.power(t["x"], exponent)


def _normalize(network: _Network, step: Step) -> _Apply:
    gamma, beta = network.weight(step, "gamma"), network.weight(step, "beta")
    has = {"scale": gamma is not None, "center": beta is not None}
    layer = L.LayerNormalization(-1, step.options["epsilon"], **has, **network.options(step))
    network.later(layer, ("gamma", gamma), ("beta", beta))
    return lambda t: layer(t["x"])


def _matmul(network: _Network, step: Step) -> _Apply:
    def turned(x: Any, key: str) -> Any:
        return keras.ops.swapaxes(x, -1, -2) if step.options[f"transpose_{key}"] else x

    return lambda t: keras.ops.matmul(turned(t["x"], "x"), turned(t["y"], "y"))


def _concatenate(network: _Network, step: Step) -> _Apply:
    layer = L.Concatenate(step.options["axis"], **network.options(step))
    return lambda t: layer(t["xs"]) if len(t["xs"]) > 1 else t["xs"][0]


def _pad(network: _Network, step: Step) -> _Apply:
    pairs, value = step.options["paddings"], step.options["value"]
    if len(pairs) == 4 and not any(pairs[3]) and value == 0:
        layer = L.ZeroPadding2D(pairs[1:3], "channels_last", **network.options(step))
        return lambda t: layer(t["x"])
    return lambda t: keras.ops.pad(t["x"], pairs, constant_values=value)


def _resize(step: Step, options: dict) -> Any:
    size, scale, method = (step.options[key] for key in ("size", "scale", "method"))
    if scale is not None:
        return L.UpSampling2D(scale, "channels_last", method, **options)
    return L.Resizing(*size, method, data_format="channels_last", **options)


def _reshape(network: _Network, step: Step) -> _Apply:
    shape = step.options["shape"]
    if step.options["pictures"] != (1, 1):
        return lambda t: keras.ops.reshape(t["x"], (-1, *shape))
    layer = L.Reshape(shape, **network.options(step))
    return lambda t: layer(t["x"])


def _crop(network: _Network, step: Step) -> _Apply:
    pairs = step.options["croppings"]
    if len(pairs) == 4 and not any(pairs[3]):
        layer = L.Cropping2D(pairs[1:3], "channels_last", **network.options(step))
        return lambda t: layer(t["x"])
    key = (slice(None), *(slice(before, -after if after else None) for before, after in pairs[1:]))
    return lambda t: t["x"][key]


def _depth_to_space(network: _Network, step: Step) -> _Apply:
    """Where only a call knows the sizes, a transposed convolution with ones; else reshapes around a transposition."""
    (rows, columns), cuts = step.options["block"], step.options["croppings"]
    crop = L.Cropping2D(cuts, "channels_last", **network.options(step)) if any(map(any, cuts)) else None

    def put(x: Any) -> Any:
        _, height, width, channels = x.shape
        each = channels // (rows * columns)
        options = [network.options(step) for _ in range(3)]
        if height is None or width is None:
            options[0]["trainable"] = False
            places = {"kernel_size": (rows, columns), "strides": (rows, columns), "data_format": "channels_last"}
            layer = L.Conv2DTranspose(each, use_bias=False, **places, **options[0])
            ones = np.eye(channels).reshape(rows, columns, each, channels)
            network.later(layer, ("kernel", ones))
            return layer(x)
        y = L.Reshape((height, width, rows, columns, each), **options[0])(x)
        y = L.Permute((1, 3, 2, 4, 5), **options[1])(y)
        return L.Reshape((height * rows, width * columns, each), **options[2])(y)

    return lambda t: put(t["x"]) if crop is None else crop(put(t["x"]))


_MAKERS: dict[str, Callable[[_Network, Step], _Apply]] = {
    "chain": _chain,
    "dense": _dense,
    "max_pool": _pool(L.MaxPooling2D),
    "average_pool": _pool(L.AveragePooling2D),
    "mean": _over_pixels(L.GlobalAveragePooling2D),
    "max": _over_pixels(L.GlobalMaxPooling2D),
    **{
        word.lower(): _of_two(getattr(L, word), getattr(keras.ops, word.lower()))
        for word in ("Add", "Subtract", "Multiply", "Maximum", "Minimum")
    },
    "activation": _activation,
    "power": _power,
    "normalize": _normalize,
    "softmax": _plain(lambda step, options: L.Softmax(**options)),
    "matmul": _matmul,
    "concatenate": _concatenate,
    "pad": _pad,
    "resize": _plain(_resize),
    "reshape": _reshape,
    "crop": _crop,
    "transpose": _plain(lambda step, options: L.Permute(step.options["axes"][1:], **options)),
    "depth_to_space": _depth_to_space,
}
