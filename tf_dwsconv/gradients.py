"""What TensorFlow has to know of the ops besides their kernels: gradients, vectorisation, FLOPs.

The gradient is an op of the library's own. It keeps the input and, where the last activation asks for it, the output,
and computes the depthwise result anew. The gradient of that, and the gradient inside XLA, is composed of differentiable
TensorFlow ops, so derivatives of any order and forward mode follow.
"""

from __future__ import annotations

import contextlib
import math
from typing import Any, NamedTuple, Optional

import numpy as np
import tensorflow as tf
from tensorflow.python.framework import graph_util
from tensorflow.python.framework import ops as framework_ops
from tensorflow.python.ops.parallel_for import pfor as parallel_for

from tf_dwsconv import _dispatch, _library, stock
from tf_dwsconv._arguments import Attributes
from tf_dwsconv._library import GRADIENT_OP_NAME, OP_NAME
from tf_dwsconv.activations import Fused, of_op, op_arguments


def register() -> None:
    """Registers all of it with TensorFlow, once."""
    once(framework_ops.RegisterGradient(OP_NAME), _gradient)
    once(framework_ops.RegisterStatistics(OP_NAME, "flops"), _flops)
    once(parallel_for.RegisterPFor(OP_NAME), _vectorise)
    once(framework_ops.RegisterGradient(GRADIENT_OP_NAME), _gradient_of_gradient)
    once(framework_ops.RegisterStatistics(GRADIENT_OP_NAME, "flops"), _gradient_flops)
    once(parallel_for.RegisterPFor(GRADIENT_OP_NAME), _vectorise_gradient)


def once(decorator: Any, function: Any) -> None:
    """Applies one of TensorFlow's decorators that register, unless the same is registered already: we were reloaded."""
    with contextlib.suppress(KeyError):
        decorator(function)


class _Call(NamedTuple):
    """One op: its tensors by name, and where the optional ones stand among its inputs (None: absent)."""

    inputs: list
    attributes: Attributes
    depthwise_bias: Optional[int]
    bias: Optional[int]
    residual: Optional[int]

    def optional(self, index: Optional[int]) -> Optional[tf.Tensor]:
        return None if index is None else self.inputs[index]

    def places(self) -> tuple:
        """Where among the inputs each of the arguments of `_ARGUMENTS` stands, None for one that is absent."""
        return (0, 1, 2, self.depthwise_bias, self.bias, self.residual)

    def arguments(self) -> list:
        return [self.optional(place) for place in self.places()]


# What a forward op is given, and what there are gradients of; lists of tensors below are in this order.
_ARGUMENTS = ("input", "depthwise_filter", "pointwise_filter", "depthwise_bias", "bias", "residual")


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _read(op: Any, inputs: list) -> _Call:
    counts = [op.get_attr(name) for name in ("num_depthwise_bias", "num_bias", "num_residual")]
    places, place = [], 3
    for count in counts:
        places.append(place if count else None)
        place += count
    attributes = Attributes(
        strides=tuple(op.get_attr("strides")),
        dilations=tuple(op.get_attr("dilations")),
        padding=_text(op.get_attr("padding")),
        explicit_paddings=tuple(op.get_attr("explicit_paddings")),
        data_format=_text(op.get_attr("data_format")),
        depthwise_activation=of_op(op, "depthwise_"),
        activation=of_op(op, ""),
    )
    return _Call(inputs, attributes, *places)


def _gradient(op: Any, grad: tf.Tensor) -> list:
    """Gradients of the forward op's inputs, in their order; None for those that nobody asked for."""
    skipped = getattr(op, "skip_input_indices", None) or ()
    call = _read(op, list(op.inputs))
    wanted = [place is not None and place not in skipped for place in call.places()]
    library_op = None if stock.in_xla() else _library.gradient_op()
    if library_op is not None:
        found = _native(library_op, call, op.outputs[0], grad, wanted)
    else:
        # New tensors: in a while loop of TensorFlow 1 the op's own are replaced, one use at a time, by what a stack
        # gives back, and a tape would not recognise them.
        arguments = [None if t is None else tf.identity(t) for t in call.arguments()]
        found = _composed(arguments, call.attributes, op.outputs[0], grad, wanted)
    result: list = [None] * len(call.inputs)
    for place, gradient in zip(call.places(), found):
        if gradient is not None:
            gradient.set_shape(call.inputs[place].shape)
            result[place] = gradient
    return result


def _native(library_op: Any, call: _Call, y: tf.Tensor, grad: tf.Tensor, wanted: list) -> list:
    """The gradients by the library's op: those that are wanted, in the order of `_ARGUMENTS`."""
    x, depthwise_filter, pointwise_filter, depthwise_bias, bias, residual = call.arguments()
    attributes = call.attributes
    middle, last = attributes.depthwise_activation, attributes.activation
    wanted = list(wanted)
    result: list = [None] * len(_ARGUMENTS)
    if last.word == "none" and wanted[5]:
        result[5], wanted[5] = grad, False
    if not any(wanted):
        return result
    from_input = last.from_input
    # Nothing that the kernel does not read is an input: an input is kept in memory until then.
    outputs = library_op(
        input=x,
        depthwise_filter=depthwise_filter,
        pointwise_filter=pointwise_filter,
        depthwise_bias=() if depthwise_bias is None else (depthwise_bias,),
        bias=(bias,) if from_input and bias is not None else (),
        residual=(residual,) if from_input and residual is not None else (),
        output=() if from_input or last.word == "none" else (y,),
        grad=grad,
        **{f"want_{name}": int(is_wanted) for name, is_wanted in zip(_ARGUMENTS, wanted)},
        strides=attributes.strides,
        dilations=attributes.dilations,
        padding=attributes.padding,
        explicit_paddings=attributes.explicit_paddings,
        data_format=attributes.data_format,
        **op_arguments("depthwise_", middle),
        **op_arguments("", last),
    )
    for i, found in enumerate(outputs):
        if found:
            result[i] = found[0]
    return result


def _gradient_of_gradient(op: Any, *grads: Any) -> list:
    """Of the gradient op: through the same gradients composed of TensorFlow's ops, so of any order."""
    inputs = [tf.identity(t) for t in op.inputs]
    wanted = [bool(op.get_attr(f"want_{name}")) for name in _ARGUMENTS]
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(inputs)
        call = _read(op, inputs)
        y = inputs[-2] if op.get_attr("num_output") else None
        found = [g for g in _composed(call.arguments(), call.attributes, y, inputs[-1], wanted) if g is not None]
    # Where a result does not depend on an input its gradient is None, which TensorFlow takes for zero.
    pairs = [(f, g) for f, g in zip(found, grads) if g is not None]
    return tape.gradient([f for f, _ in pairs], inputs, output_gradients=[g for _, g in pairs])


def _composed(arguments: list, attributes: Attributes, y: Optional[tf.Tensor], grad: tf.Tensor, wanted: list) -> list:
    """The gradients by differentiable TensorFlow ops: those that are wanted, in the order of `_ARGUMENTS`.

    Args:
        arguments: the forward op's, None for absent ones; bias and residual are read only where the last activation is
            `from_input`.
        attributes: the forward op's.
        y: its result; read where the last activation is not none and not `from_input`.
        grad: of the loss by `y`.
        wanted: which gradients.
    """
    dtype = arguments[0].dtype
    wide = [None if t is None else stock.widen(t) for t in arguments]
    x = stock.to_nhwc(wide[0], attributes)
    pointwise_filter = wide[2]
    grad = stock.to_nhwc(stock.widen(grad), attributes)

    # What of the forward pass is needed again, and no more: in eager mode nothing would drop the rest.
    last, middle = attributes.activation, attributes.depthwise_activation
    from_input = last.from_input
    beyond_z = wanted[0] or wanted[1] or wanted[3]
    before = z = None
    tape = tf.GradientTape(watch_accessed_variables=False)
    if wanted[2] or from_input or (beyond_z and middle.word != "none"):
        before = stock.depthwise(x, wide[1], attributes)
        if wide[3] is not None:
            before += wide[3]
        with tape:
            tape.watch(before)
            z = stock.activate(before, middle)

    if from_input:
        grad = _through_activation(wide, attributes, z, grad)
    elif last.word != "none":
        last = last._replace(max_value=_rounded(last.max_value, dtype))
        grad = _from_output(last, stock.to_nhwc(stock.widen(tf.identity(y)), attributes), grad)

    result: list = [None] * len(arguments)
    if wanted[5]:
        result[5] = stock.from_nhwc(grad, attributes)
    if wanted[4]:
        result[4] = tf.reduce_sum(grad, [0, 1, 2])
    if wanted[2]:
        matrix = tf.tensordot(z, grad, axes=[[0, 1, 2], [0, 1, 2]])
        result[2] = tf.reshape(matrix, tf.shape(pointwise_filter))
    if beyond_z:
        grad = stock.pointwise(grad, tf.transpose(pointwise_filter, [0, 1, 3, 2]))
        if middle.word != "none":
            grad = tape.gradient(z, before, output_gradients=grad)
        if wanted[3]:
            result[3] = tf.reduce_sum(grad, [0, 1, 2])
        of_x, result[1] = stock.depthwise_gradients(x, wide[1], grad, attributes, wanted[0], wanted[1])
        result[0] = None if of_x is None else stock.from_nhwc(of_x, attributes)
    return [None if gradient is None else tf.cast(gradient, dtype) for gradient in result]


def _from_output(activation: Fused, y: tf.Tensor, grad: tf.Tensor) -> tf.Tensor:
    """The gradient before an activation that is known by its result."""
    word = activation.word
    if word in ("relu", "leaky_relu") and activation.max_value != math.inf:  # of slope 0, or from_input
        return tf.where((y > 0) & (y < activation.max_value), grad, tf.zeros_like(grad))
    if word == "elu":
        return tf.where(y > 0, grad, grad * (y + activation.alpha))
    if word == "relu":
        return tf.raw_ops.ReluGrad(gradients=grad, features=y)
    if word == "relu6":
        return tf.raw_ops.Relu6Grad(gradients=grad, features=y)
    if word == "leaky_relu":
        return tf.raw_ops.LeakyReluGrad(gradients=grad, features=y, alpha=activation.alpha)
    if word == "sigmoid":
        return tf.raw_ops.SigmoidGrad(y=y, dy=grad)
    if word == "tanh":
        return tf.raw_ops.TanhGrad(y=y, dy=grad)
    return grad


def _rounded(number: float, dtype: tf.DType) -> float:
    """What a tensor of `dtype` holds for a number."""
    return number if number == math.inf else float(np.asarray(number).astype(dtype.as_numpy_dtype))


def _through_activation(wide: list, attributes: Attributes, z: tf.Tensor, grad: tf.Tensor) -> tf.Tensor:
    """The gradient before an activation whose result does not tell what went in: computes that anew."""
    _, _, pointwise_filter, _, bias, residual = wide
    before = stock.pointwise(z, pointwise_filter)
    if bias is not None:
        before += bias
    if residual is not None:
        before += stock.to_nhwc(residual, attributes)
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(before)
        y = stock.activate(before, attributes.activation)
    return tape.gradient(y, before, output_gradients=grad)


def _flops(graph: tf.Graph, node: Any) -> framework_ops.OpStats:
    """Two for each multiply-add of both halves, as TensorFlow counts its own convolutions."""
    depthwise, pointwise, output = (
        graph_util.tensor_shape_from_node_def_name(graph, name) for name in (node.input[1], node.input[2], node.name)
    )
    for shape in (depthwise, pointwise, output):
        shape.assert_is_fully_defined()
    kernel_rows, kernel_columns = depthwise.as_list()[:2]
    middle, filters = pointwise.as_list()[2:]
    pixels = output.num_elements() // filters
    return framework_ops.OpStats("flops", 2 * pixels * middle * (kernel_rows * kernel_columns + filters))


def _gradient_flops(graph: tf.Graph, node: Any) -> framework_ops.OpStats:
    """Two for each multiply-add of what a full gradient computes: Z again, two depthwise and two pointwise sums."""
    depthwise, pointwise, grad = (
        graph_util.tensor_shape_from_node_def_name(graph, name)
        for name in (node.input[1], node.input[2], node.input[-1])
    )
    for shape in (depthwise, pointwise, grad):
        shape.assert_is_fully_defined()
    kernel_rows, kernel_columns = depthwise.as_list()[:2]
    middle, filters = pointwise.as_list()[2:]
    pixels = grad.num_elements() // filters
    return framework_ops.OpStats("flops", 2 * pixels * middle * (3 * kernel_rows * kernel_columns + 2 * filters))


def _vectorise(pfor_input: Any) -> Any:
    """tf.vectorized_map: loop and batch become one axis where all iterations share the filters."""
    count = len(pfor_input.op.inputs)
    call = _read(pfor_input.op, [None] * count)
    per_image = [0] if call.residual is None else [0, call.residual]
    if any(pfor_input.input(i).is_stacked for i in range(count) if i not in per_image):
        return _one_by_one(pfor_input, call)
    pfor_input.stack_inputs(per_image)
    tensors = [pfor_input.input(i).t for i in range(count)]
    loops_and_batch = tf.shape(tensors[0])[:2]
    for i in per_image:
        shape = tf.shape(tensors[i])
        tensors[i] = tf.reshape(tensors[i], tf.concat([shape[:1] * shape[1:2], shape[2:]], axis=0))
    output = _again(call, tensors)
    return parallel_for.wrap(tf.reshape(output, tf.concat([loops_and_batch, tf.shape(output)[1:]], axis=0)), True)


def _one_by_one(pfor_input: Any, call: _Call) -> Any:
    """Filters that differ between iterations leave nothing to share: runs one iteration after the other."""
    inputs = [pfor_input.input(i) for i in range(len(call.inputs))]
    output = pfor_input.op.outputs[0]

    def body(i):
        return _again(call, [t[i] if is_stacked else t for t, is_stacked, _ in inputs])

    loops = tf.range(tf.reshape(pfor_input.pfor.loop_len_vector, []))
    outputs = tf.map_fn(body, loops, fn_output_signature=tf.TensorSpec(output.shape, output.dtype))
    return parallel_for.wrap(outputs, True)


def _again(call: _Call, tensors: list) -> tf.Tensor:
    """The same op on other tensors."""
    call = call._replace(inputs=tensors)
    optional = (call.optional(place) for place in (call.depthwise_bias, call.bias, call.residual))
    return _dispatch.run(*tensors[:3], *optional, call.attributes)


def _vectorise_gradient(pfor_input: Any) -> Any:
    """Each iteration has filter gradients of its own, so they run one after the other."""
    op = pfor_input.op
    inputs = [pfor_input.input(i) for i in range(len(op.inputs))]
    call = _read(op, [None] * len(inputs))
    wanted = [bool(op.get_attr(f"want_{name}")) for name in _ARGUMENTS]

    def body(i):
        tensors = [t[i] if is_stacked else t for t, is_stacked, _ in inputs]
        y = tensors[-2] if op.get_attr("num_output") else None
        found = _native(_library.gradient_op(), call._replace(inputs=tensors), y, tensors[-1], wanted)
        return [gradient for gradient in found if gradient is not None]

    loops = tf.range(tf.reshape(pfor_input.pfor.loop_len_vector, []))
    specs = [tf.TensorSpec(output.shape, output.dtype) for output in op.outputs]
    return [parallel_for.wrap(output, True) for output in tf.map_fn(body, loops, fn_output_signature=specs)]
