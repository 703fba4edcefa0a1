"""What TensorFlow has to know of the ops besides their kernels: gradients, vectorisation, FLOPs.

The gradient of the layer's op is an op of the library's own. It keeps the input and, where the last activation asks for
it, the output, and recomputes the depthwise result. The gradient of that, and the gradient inside XLA, is composed
of differentiable TensorFlow ops, so derivatives of any order and forward mode follow. The block's op has a gradient op
where it is a depthwise convolution alone; otherwise its gradient is that of stock ops.
"""

from __future__ import annotations

import contextlib
import math
from typing import Any, Optional

import numpy as np
import tensorflow as tf
from tensorflow.python.framework import graph_util
from tensorflow.python.framework import ops as framework_ops
from tensorflow.python.ops.parallel_for import pfor as parallel_for

from tf_dwsconv._tf import convolutions, dispatch, library, stock
from tf_dwsconv._tf.library import BLOCK_GRADIENT_OP_NAME, BLOCK_OP_NAME, GRADIENT_OP_NAME, OP_NAME
from tf_dwsconv._tf.signatures import (
    LAYER_INPUTS,
    Call,
    block_inputs,
    block_options,
    layer_options,
    optional,
    read_block,
    read_layer,
)
from tf_dwsconv.activations import Fused

# What the gradient op has results for, in its order. Gradients below are dicts by these names.
_ARGUMENTS = ("input", *LAYER_INPUTS)


def _once(decorator: Any, function: Any) -> None:
    """Applies one of TensorFlow's decorators that register, unless the same is registered already: we were reloaded."""
    with contextlib.suppress(KeyError):
        decorator(function)


def _gradient(op: Any, grad: tf.Tensor) -> list:
    """Gradients of the layer's op's inputs, in their order; None for those that are not wanted."""
    skipped = getattr(op, "skip_input_indices", None) or ()
    call = read_layer(op, list(op.inputs))
    wanted = {name for name, place in call.places.items() if place not in skipped}
    library_op = None if stock.in_xla() else library.gradient_op()
    if library_op is not None:
        found = _native(library_op, call, op.outputs[0], grad, wanted)
    else:
        # New tensors: in a while loop of TensorFlow 1 the op's own are replaced, one use at a time, by what a stack
        # gives back, and a tape would not recognise them.
        found = _composed(call._replace(inputs=list(map(tf.identity, op.inputs))), op.outputs[0], grad, wanted)
    result: list = [None] * len(call.inputs)
    for name, gradient in found.items():
        gradient.set_shape(call.tensor(name).shape)
        result[call.places[name]] = gradient
    return result


def _native(library_op: Any, call: Call, y: tf.Tensor, grad: tf.Tensor, wanted: set) -> dict:
    """The gradients by the library's op."""
    last = call.attributes.activation
    result: dict = {}
    if last.word == "none" and "residual" in wanted:
        result["residual"], wanted = grad, wanted - {"residual"}
    if not wanted:
        return result
    from_input = last.from_input
    # Nothing that the kernel does not read is an input: an input is kept in memory until then.
    outputs = library_op(
        input=call.tensor("input"),
        depthwise_filter=call.tensor("depthwise_filter"),
        pointwise_filter=call.tensor("pointwise_filter"),
        depthwise_bias=optional(call.tensor("depthwise_bias")),
        bias=optional(call.tensor("bias") if from_input else None),
        residual=optional(call.tensor("residual") if from_input else None),
        output=() if from_input or last.word == "none" else (y,),
        grad=grad,
        **{f"want_{name}": int(name in wanted) for name in _ARGUMENTS},
        **layer_options(call.attributes),
    )
    result.update((name, found[0]) for name, found in zip(_ARGUMENTS, outputs) if found)
    return result


def _gradient_of_gradient(op: Any, *grads: Any) -> list:
    """Of the gradient op: through the same gradients composed of TensorFlow's ops, so of any order."""
    inputs = list(map(tf.identity, op.inputs))
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(inputs)
        y = inputs[-2] if op.get_attr("num_output") else None
        found = _composed(read_layer(op, inputs), y, inputs[-1], _wanted(op))
    # Where a result does not depend on an input its gradient is None, which TensorFlow takes for zero.
    in_order = [found[name] for name in _ARGUMENTS if name in found]
    pairs = [(f, g) for f, g in zip(in_order, grads) if g is not None]
    return tape.gradient([f for f, _ in pairs], inputs, output_gradients=[g for _, g in pairs])


def _wanted(op: Any) -> set:
    """What a gradient op was asked for."""
    return {name for name in _ARGUMENTS if op.get_attr(f"want_{name}")}


def _composed(call: Call, y: Optional[tf.Tensor], grad: tf.Tensor, wanted: set) -> dict:
    """The gradients by differentiable TensorFlow ops.

    Args:
        call: the forward op's; its bias and residual are read only where the last activation is `from_input`.
        y: its result; read where the last activation is not none and not `from_input`.
        grad: of the loss by `y`.
        wanted: which gradients.
    """
    dtype, attributes, t = call.tensor("input").dtype, call.attributes, call.tensors.map(stock.widen)
    x = stock.to_nhwc(stock.widen(call.tensor("input")), attributes)
    grad = stock.to_nhwc(stock.widen(grad), attributes)

    # What of the forward pass is needed again, and no more: in eager mode nothing would drop the rest.
    last, middle = attributes.activation, attributes.depthwise_activation
    beyond_z = bool(wanted & {"input", "depthwise_filter", "depthwise_bias"})
    before = z = None
    tape = tf.GradientTape(watch_accessed_variables=False)
    if "pointwise_filter" in wanted or last.from_input or (beyond_z and middle.word != "none"):
        before = convolutions.depthwise(x, t.depthwise_filter, attributes)
        if t.depthwise_bias is not None:
            before += t.depthwise_bias
        with tape:
            tape.watch(before)
            z = stock.activate(before, middle)

    if last.from_input:
        grad = _through_activation(t, attributes, z, grad)
    elif last.word != "none":
        last = last._replace(max_value=_rounded(last.max_value, dtype))
        grad = _from_output(last, stock.to_nhwc(stock.widen(tf.identity(y)), attributes), grad)

    result = {}
    if "residual" in wanted:
        result["residual"] = stock.from_nhwc(grad, attributes)
    if "bias" in wanted:
        result["bias"] = tf.reduce_sum(grad, [0, 1, 2])
    if "pointwise_filter" in wanted:
        matrix = tf.tensordot(z, grad, axes=[[0, 1, 2], [0, 1, 2]])
        result["pointwise_filter"] = tf.reshape(matrix, tf.shape(t.pointwise_filter))
    if beyond_z:
        grad = convolutions.pointwise(grad, tf.transpose(t.pointwise_filter, [0, 1, 3, 2]))
        if middle.word != "none":
            grad = tape.gradient(z, before, output_gradients=grad)
        if "depthwise_bias" in wanted:
            result["depthwise_bias"] = tf.reduce_sum(grad, [0, 1, 2])
        of_x, result["depthwise_filter"] = convolutions.depthwise_gradients(
            x, t.depthwise_filter, grad, attributes, "input" in wanted, "depthwise_filter" in wanted
        )
        result["input"] = None if of_x is None else stock.from_nhwc(of_x, attributes)
    return {name: tf.cast(result[name], dtype) for name in _ARGUMENTS if name in wanted}


def _from_output(activation: Fused, y: tf.Tensor, grad: tf.Tensor) -> tf.Tensor:
    """The gradient before an activation that is known by its result."""
    word = activation.word
    if word in ("relu", "leaky_relu") and activation.max_value != math.inf:  # of slope 0, or from_input
        return tf.where((y > 0) & (y < activation.max_value), grad, tf.zeros_like(grad))
    if word == "elu":
        return tf.where(y > 0, grad, grad * (y + activation.alpha))
    if word == "leaky_relu":
        return tf.raw_ops.LeakyReluGrad(gradients=grad, features=y, alpha=activation.alpha)
    if word in ("relu", "relu6"):
        op = tf.raw_ops.ReluGrad if word == "relu" else tf.raw_ops.Relu6Grad
        return op(gradients=grad, features=y)
    op = tf.raw_ops.SigmoidGrad if word == "sigmoid" else tf.raw_ops.TanhGrad
    return op(y=y, dy=grad)


def _rounded(number: float, dtype: tf.DType) -> float:
    """What a tensor of `dtype` holds for a number."""
    return number if number == math.inf else float(np.asarray(number).astype(dtype.as_numpy_dtype))


def _through_activation(t: Any, attributes: Any, z: tf.Tensor, grad: tf.Tensor) -> tf.Tensor:
    """The gradient before an activation whose result does not tell what went in: recomputes that."""
    before = convolutions.pointwise(z, t.pointwise_filter)
    if t.bias is not None:
        before += t.bias
    if t.residual is not None:
        before += stock.to_nhwc(t.residual, attributes)
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(before)
        y = stock.activate(before, attributes.activation)
    return tape.gradient(y, before, output_gradients=grad)


def _block_gradient(op: Any, grad: tf.Tensor) -> list:
    """Gradients of the block's op's inputs, in their order; None for those that are not wanted."""
    skipped = getattr(op, "skip_input_indices", None) or ()
    call = read_block(op, list(op.inputs))
    wanted = {name: place for name, place in call.places.items() if place not in skipped}
    library_op = library.block_gradient_op() if _is_depthwise(call) and not stock.in_xla() else None
    if library_op is None:
        # New tensors: in a while loop of TensorFlow 1 the op's own are replaced by what a stack gives back.
        found = _stock_block_gradients(call._replace(inputs=list(map(tf.identity, op.inputs))), grad, list(wanted))
    else:
        wants = {f"want_{name}": int(name in wanted) for name in _ARGUMENTS}
        inputs, options = block_inputs(call.tensors, call.attributes), block_options(call.attributes)
        outputs = library_op(input=call.tensor("input"), **inputs, output=(), grad=grad, **wants, **options)
        found = {name: gradient[0] for name, gradient in zip(_ARGUMENTS, outputs) if gradient}
    result: list = [None] * len(call.inputs)
    for name, gradient in found.items():
        gradient.set_shape(call.tensor(name).shape)
        result[call.places[name]] = gradient
    return result


def _is_depthwise(call: Call) -> bool:
    """Whether a block is a depthwise convolution with a bias and an activation without weights, or with neither."""
    known = call.places.keys() <= {"input", "depthwise_filter", "depthwise_bias"} and "depthwise_filter" in call.places
    return known and call.attributes.epsilon is None


def _stock_block_gradients(call: Call, grad: tf.Tensor, wanted: list) -> dict:
    """The gradients by what is wanted: recomputes a block by stock ops, which TensorFlow differentiates."""
    sources = [call.tensor(name) for name in wanted]
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(sources)
        y = dispatch.run_stock(call.tensor("input"), call.tensors, call.attributes)
    return dict(zip(wanted, tape.gradient(y, sources, output_gradients=grad)))


def _gradient_of_block_gradient(op: Any, *grads: Any) -> list:
    """Of the gradient op of blocks: through the same gradients by TensorFlow's ops, so of any order."""
    inputs = list(map(tf.identity, op.inputs))
    wanted = [name for name in _ARGUMENTS if op.get_attr(f"want_{name}")]
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(inputs)
        found = _stock_block_gradients(read_block(op, inputs), inputs[-1], wanted)
    pairs = [(found[name], g) for name, g in zip(wanted, grads) if g is not None]
    return tape.gradient([f for f, _ in pairs], inputs, output_gradients=[g for _, g in pairs])


def _flops(graph: tf.Graph, node: Any) -> framework_ops.OpStats:
    """Two for each multiply-add of both halves, as TensorFlow counts its own convolutions."""
    return _count_flops(graph, node, node.name, 1, 1)


def _gradient_flops(graph: tf.Graph, node: Any) -> framework_ops.OpStats:
    """Two for each multiply-add of what a full gradient computes: Z again, two depthwise and two pointwise sums."""
    return _count_flops(graph, node, node.input[-1], 3, 2)


def _count_flops(graph: tf.Graph, node: Any, output: str, depthwise: int, pointwise: int) -> framework_ops.OpStats:
    """`output`: the name of a tensor of the output's shape; `depthwise`, `pointwise`: how often each is computed."""
    names = node.input[1], node.input[2], output
    shapes = [graph_util.tensor_shape_from_node_def_name(graph, name) for name in names]
    for shape in shapes:
        shape.assert_is_fully_defined()
    rows, columns = shapes[0].as_list()[:2]
    middle, filters = shapes[1].as_list()[2:]
    pixels = shapes[2].num_elements() // filters
    return framework_ops.OpStats("flops", 2 * pixels * middle * (depthwise * rows * columns + pointwise * filters))


def _vectorise(pfor_input: Any) -> Any:
    """tf.vectorized_map: loop and batch become one axis where all iterations share the filters."""
    count = len(pfor_input.op.inputs)
    call = read_layer(pfor_input.op, [None] * count)
    per_image = [call.places[name] for name in ("input", "residual") if name in call.places]
    if any(pfor_input.input(i).is_stacked for i in range(count) if i not in per_image):
        # Filters that differ between iterations leave nothing to share.
        [output] = _one_by_one(pfor_input, lambda inputs: [_again(call, inputs)])
        return output
    pfor_input.stack_inputs(per_image)
    tensors = [pfor_input.input(i).t for i in range(count)]
    loops_and_batch = tf.shape(tensors[0])[:2]
    for i in per_image:
        shape = tf.shape(tensors[i])
        tensors[i] = tf.reshape(tensors[i], tf.concat([shape[:1] * shape[1:2], shape[2:]], axis=0))
    output = _again(call, tensors)
    return parallel_for.wrap(tf.reshape(output, tf.concat([loops_and_batch, tf.shape(output)[1:]], axis=0)), True)


def _vectorise_gradient(pfor_input: Any) -> Any:
    """Each iteration has filter gradients of its own, so they run one after the other."""
    op = pfor_input.op
    call = read_layer(op, [None] * len(op.inputs))

    def compute(inputs: list) -> list:
        y = inputs[-2] if op.get_attr("num_output") else None
        found = _native(library.gradient_op(), call._replace(inputs=inputs), y, inputs[-1], _wanted(op))
        return [found[name] for name in _ARGUMENTS if name in found]

    return _one_by_one(pfor_input, compute)


def _one_by_one(pfor_input: Any, compute: Any) -> list:
    """Runs one iteration after the other; `compute` gives the op's results for the inputs of one."""
    inputs = [pfor_input.input(i) for i in range(len(pfor_input.op.inputs))]

    def body(i):
        return compute([t[i] if is_stacked else t for t, is_stacked, _ in inputs])

    loops = tf.range(tf.reshape(pfor_input.pfor.loop_len_vector, []))
    specs = [tf.TensorSpec(output.shape, output.dtype) for output in pfor_input.op.outputs]
    return [parallel_for.wrap(output, True) for output in tf.map_fn(body, loops, fn_output_signature=specs)]


def _again(call: Call, inputs: list) -> tf.Tensor:
    """The same op on other tensors."""
    call = call._replace(inputs=inputs)
    return dispatch.run(call.tensor("input"), call.tensors, call.attributes)


_once(framework_ops.RegisterGradient(OP_NAME), _gradient)
_once(framework_ops.RegisterStatistics(OP_NAME, "flops"), _flops)
_once(parallel_for.RegisterPFor(OP_NAME), _vectorise)
_once(framework_ops.RegisterGradient(GRADIENT_OP_NAME), _gradient_of_gradient)
_once(framework_ops.RegisterStatistics(GRADIENT_OP_NAME, "flops"), _gradient_flops)
_once(parallel_for.RegisterPFor(GRADIENT_OP_NAME), _vectorise_gradient)
_once(framework_ops.RegisterGradient(BLOCK_OP_NAME), _block_gradient)
_once(framework_ops.RegisterGradient(BLOCK_GRADIENT_OP_NAME), _gradient_of_block_gradient)
