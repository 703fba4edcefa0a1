"""In training: a depthwise and a 1x1 convolution with at most an activation between become one layer of ours.

It is the same function of the same variables, so gradients and updates are the same. Batch norms that are trained need
the mean and variance of what they normalise before one pixel goes on, so nothing is fused across them.
"""

from __future__ import annotations

from typing import Any

import keras

from tf_dwsconv import activations
from tf_dwsconv._keras_graph import only_input
from tf_dwsconv.convert import _activations, _read
from tf_dwsconv.convert._block import Emission, Step, Swap
from tf_dwsconv.convert._copy import assign_values, function_again
from tf_dwsconv.convert._search import Search, called_more_than_once, one_input
from tf_dwsconv.convert.rules.exact_separable import activation_after, fits, function_of
from tf_dwsconv.layers import DepthwiseSepConv2D

L = keras.layers


def pattern(search: Search, node: Any) -> bool:
    return type(node.operation) is L.DepthwiseConv2D


def check(search: Search, node: Any) -> str:
    depthwise = node.operation
    if search.graph.shared(node):
        return called_more_than_once(node)
    if only_input(node) is None:
        return one_input(search, node)
    if activations.parse(depthwise.activation) is None:
        return f"the kernels do not know the activation of {depthwise.name!r}"
    result = [node, *activation_after(search, node)][-1].outputs[0]
    after = search.graph.reader(result)
    if after is None:
        return search.why_no_reader(result, last="no 1x1 convolution follows")
    pointwise = after.operation
    if type(pointwise) is L.BatchNormalization:
        return f"{pointwise.name!r} follows, and nothing is fused across a batch norm that is trained"
    if type(pointwise) is not L.Conv2D or _read.pointwise(after) is None or only_input(after) is None:
        return f"{pointwise.name!r} follows"
    if pointwise.data_format != depthwise.data_format or not _same_training(search, after, depthwise):
        return f"{pointwise.name!r} differs from {depthwise.name!r} in `dtype`, `trainable` or `data_format`"
    return ""


def _same_training(search: Search, node: Any, layer: Any) -> bool:
    other = node.operation
    return (
        fits(search, node, layer)
        and layer.activity_regularizer is None
        and other.dtype_policy == layer.dtype_policy
        and other.trainable == layer.trainable
    )


def rewrite(search: Search, node: Any) -> Swap:
    depthwise, nodes = node.operation, [node, *activation_after(search, node)]
    middle = activations.parse(depthwise.activation) if len(nodes) == 1 else _activations.of_one_call(nodes[1])
    after = search.graph.reader(nodes[-1].outputs[0])
    pointwise = after.operation
    nodes.append(after)
    if pointwise.activity_regularizer is None:
        nodes += activation_after(search, after)
    name = search.graph.name(nodes)
    function, copy_function = function_again(pointwise.activation)
    layer = _joined(depthwise, middle, pointwise, function, name)
    if nodes[-1] is not after:
        layer.activation = function_of(nodes[-1])

    def fill() -> None:
        copy_function()
        assign_values(layer.depthwise_kernel, depthwise.kernel, layer.depthwise_bias, depthwise.bias)
        assign_values(layer.pointwise_kernel, pointwise.kernel, layer.bias, pointwise.bias)

    emission = Emission([only_input(node)], [Step(layer, fill)], nodes[-1].outputs[0])
    return Swap("depthwise + 1x1", nodes, name, emission)


def _joined(depthwise: Any, middle: activations.Fused, pointwise: Any, function: Any, name: str) -> DepthwiseSepConv2D:
    options = {key: getattr(depthwise, key) for key in ("strides", "padding", "data_format", "dilation_rate")}
    for kind in ("initializer", "regularizer", "constraint"):
        options[f"depthwise_{kind}"] = getattr(depthwise, f"depthwise_{kind}")
        options[f"depthwise_bias_{kind}"] = getattr(depthwise, f"bias_{kind}")
        options[f"pointwise_{kind}"] = getattr(pointwise, f"kernel_{kind}")
        options[f"bias_{kind}"] = getattr(pointwise, f"bias_{kind}")
    return DepthwiseSepConv2D(
        pointwise.filters,
        depthwise.kernel_size,
        depth_multiplier=depthwise.depth_multiplier,
        activation=function,
        use_bias=pointwise.use_bias,
        depthwise_use_bias=depthwise.use_bias,
        depthwise_activation=activations.as_callable(middle),
        name=name,
        dtype=depthwise.dtype_policy,
        trainable=depthwise.trainable,
        **options,
    )
