"""What TensorFlow has to know of the op besides its kernel: gradient, vectorisation, FLOPs.

The gradient is composed of differentiable TensorFlow ops, so derivatives of any order and forward mode follow. It keeps
the op's inputs and output and computes the depthwise result anew.
"""

from __future__ import annotations

import threading
from typing import Any, NamedTuple, Optional

import tensorflow as tf
from tensorflow.python.framework import graph_util
from tensorflow.python.framework import ops as framework_ops
from tensorflow.python.ops.parallel_for import pfor as parallel_for

from tf_dwsconv import stock
from tf_dwsconv._arguments import Attributes
from tf_dwsconv._library import OP_NAME
from tf_dwsconv.activations import Fused

_lock = threading.Lock()
_registered = False


def register() -> None:
    """Registers all three with TensorFlow, once."""
    global _registered
    with _lock:
        if not _registered:
            framework_ops.RegisterGradient(OP_NAME)(_gradient)
            framework_ops.RegisterStatistics(OP_NAME, "flops")(_flops)
            parallel_for.RegisterPFor(OP_NAME)(_vectorise)
            _registered = True


class _Call(NamedTuple):
    """One op: its tensors by name, and where the optional ones stand among its inputs (None: absent)."""

    inputs: list
    attributes: Attributes
    depthwise_bias: Optional[int]
    bias: Optional[int]
    residual: Optional[int]

    def optional(self, index: Optional[int]) -> Optional[tf.Tensor]:
        return None if index is None else self.inputs[index]


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
        depthwise_activation=Fused(_text(op.get_attr("depthwise_activation")), op.get_attr("depthwise_alpha")),
        activation=Fused(_text(op.get_attr("activation")), op.get_attr("alpha")),
    )
    return _Call(inputs, attributes, *places)


def _gradient(op: Any, grad: tf.Tensor) -> list:
    """Gradients of the inputs, in their order; None for those that nobody asked for."""
    skipped = getattr(op, "skip_input_indices", None) or ()
    # New tensors: in a while loop of TensorFlow 1 the op's own are replaced, one use at a time, by what a stack gives
    # back, and the tape below would not recognise them.
    call = _read(op, [tf.identity(t) for t in op.inputs])
    attributes = call.attributes
    wanted = [i not in skipped for i in range(len(call.inputs))]
    wide = [stock.widen(t) for t in call.inputs]
    x = stock.to_nhwc(wide[0], attributes)
    pointwise_filter = wide[2]
    grad = stock.to_nhwc(stock.widen(grad), attributes)

    # What of the forward pass is needed again, and no more: in eager mode nothing would drop the rest.
    last, middle = attributes.activation, attributes.depthwise_activation
    from_input = last.word in ("hard_swish", "silu", "gelu") or (last.word == "leaky_relu" and last.alpha < 0)
    sources = [i for i in (0, 1, call.depthwise_bias) if i is not None and wanted[i]]
    before = z = None
    tape = tf.GradientTape(watch_accessed_variables=False)
    if wanted[2] or from_input or (sources and middle.word != "none"):
        before = stock.depthwise(x, wide[1], attributes)
        if call.depthwise_bias is not None:
            before += wide[call.depthwise_bias]
        with tape:
            tape.watch(before)
            z = stock.activate(before, middle)

    if from_input:
        grad = _through_activation(call, wide, z, pointwise_filter, grad)
    else:
        y = stock.to_nhwc(stock.widen(tf.identity(op.outputs[0])), attributes)
        grad = _from_output(last, y, grad)

    result: list = [None] * len(call.inputs)
    if call.residual is not None and wanted[call.residual]:
        result[call.residual] = stock.from_nhwc(grad, attributes)
    if call.bias is not None and wanted[call.bias]:
        result[call.bias] = tf.reduce_sum(grad, [0, 1, 2])
    if wanted[2]:
        matrix = tf.tensordot(z, grad, axes=[[0, 1, 2], [0, 1, 2]])
        result[2] = tf.reshape(matrix, tf.shape(pointwise_filter))
    if sources:
        grad = stock.pointwise(grad, tf.transpose(pointwise_filter, [0, 1, 3, 2]))
        if middle.word != "none":
            grad = tape.gradient(z, before, output_gradients=grad)
        if call.depthwise_bias in sources:
            result[call.depthwise_bias] = tf.reduce_sum(grad, [0, 1, 2])
        of_x, result[1] = stock.depthwise_gradients(x, wide[1], grad, attributes, wanted[0], wanted[1])
        result[0] = None if of_x is None else stock.from_nhwc(of_x, attributes)
    for i, gradient in enumerate(result):
        if gradient is not None:
            gradient = tf.cast(gradient, call.inputs[i].dtype)
            gradient.set_shape(call.inputs[i].shape)
            result[i] = gradient
    return result


def _from_output(activation: Fused, y: tf.Tensor, grad: tf.Tensor) -> tf.Tensor:
    """The gradient before an activation that is known by its result."""
    word = activation.word
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


def _through_activation(
    call: _Call, wide: list, z: tf.Tensor, pointwise_filter: tf.Tensor, grad: tf.Tensor
) -> tf.Tensor:
    """The gradient before an activation whose result does not tell what went in: computes that anew."""
    before = stock.pointwise(z, pointwise_filter)
    if call.bias is not None:
        before += wide[call.bias]
    if call.residual is not None:
        before += stock.to_nhwc(wide[call.residual], call.attributes)
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(before)
        y = stock.activate(before, call.attributes.activation)
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
    from tf_dwsconv import ops

    call = call._replace(inputs=tensors)
    optional = (call.optional(place) for place in (call.depthwise_bias, call.bias, call.residual))
    return ops.run(*tensors[:3], *optional, call.attributes)
