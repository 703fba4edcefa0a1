// Registers the gradient op: its inputs, attributes, documentation and shape function.
#include "cc/tf/grad_op.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace dwsconv {
namespace {

using tensorflow::shape_inference::InferenceContext;
using tensorflow::shape_inference::ShapeHandle;

// Each gradient has the shape of what it is the gradient of.
template <ChainOpKind kKind>
absl::Status GradShape(InferenceContext* c) {
  Chain chain;
  ChainAttributes attributes;
  TF_RETURN_IF_ERROR(InferInGraph(c, kKind, &chain, &attributes));
  GradAttributes grad;
  TF_RETURN_IF_ERROR(ReadGradAttributes(c, &grad));
  TF_RETURN_IF_ERROR(CheckGradients(chain, grad));
  const auto vector = [c](int64_t size) { return c->Vector(size == kUnknown ? c->UnknownDim() : c->MakeDim(size)); };
  const bool known = chain.C != kUnknown && chain.M != kUnknown;
  const ShapeHandle shapes[kGradients] = {
      c->input(0),
      c->input(attributes.at[kDepthwiseFilter]),
      chain.has_project ? c->input(attributes.at[kPointwiseFilter]) : c->UnknownShape(),
      vector(known ? chain.CM() : kUnknown),
      vector(chain.K),
      c->input(c->num_inputs() - 1),
  };
  int output = 0;
  for (int i = 0; i < kGradients; ++i) {
    if (grad.wanted[i]) c->set_output(output++, shapes[i]);
  }
  return absl::OkStatus();
}

}  // namespace

REGISTER_OP("TfDwsconv>DepthwiseSepConv2DGrad")
    .Input("input: T")
    .Input("depthwise_filter: T")
    .Input("pointwise_filter: T")
    .Input("depthwise_bias: num_depthwise_bias * T")
    .Input("bias: num_bias * T")
    .Input("residual: num_residual * T")
    .Input("output: num_output * T")
    .Input("grad: T")
    .Output("d_input: want_input * T")
    .Output("d_depthwise_filter: want_depthwise_filter * T")
    .Output("d_pointwise_filter: want_pointwise_filter * T")
    .Output("d_depthwise_bias: want_depthwise_bias * T")
    .Output("d_bias: want_bias * T")
    .Output("d_residual: want_residual * T")
    .Attr("T: {float, bfloat16, half}")
    .Attr("num_depthwise_bias: int >= 0 = 0")
    .Attr("num_bias: int >= 0 = 0")
    .Attr("num_residual: int >= 0 = 0")
    .Attr("num_output: int >= 0 = 0")
    .Attr("want_input: int >= 0")
    .Attr("want_depthwise_filter: int >= 0")
    .Attr("want_pointwise_filter: int >= 0")
    .Attr("want_depthwise_bias: int >= 0")
    .Attr("want_bias: int >= 0")
    .Attr("want_residual: int >= 0")
    .Attr("strides: list(int) = [1, 1]")
    .Attr("dilations: list(int) = [1, 1]")
    .Attr("padding: string = 'SAME'")
    .Attr("explicit_paddings: list(int) = []")
    .Attr("data_format: string = 'NHWC'")
    .Attr("depthwise_activation: string = 'none'")
    .Attr("activation: string = 'none'")
    .Attr("depthwise_alpha: float = 0.2")
    .Attr("alpha: float = 0.2")
    .Attr("depthwise_max_value: float = inf")
    .Attr("depthwise_threshold: float = 0")
    .Attr("max_value: float = inf")
    .Attr("threshold: float = 0")
    .SetShapeFn(GradShape<ChainOpKind::kLayer>)
    .Doc(R"doc(
Gradients of DepthwiseSepConv2D: those that are asked for, as one kernel.

What lies between the two convolutions is computed again and does not go to memory. Sums are kept in float whatever T
is, and added in one order: results are the same bits for any number of threads.

input: of the forward op, as are depthwise_filter, pointwise_filter and the attributes.
depthwise_bias: at most one tensor, of the forward op if it had one.
bias: at most one tensor; needed, like residual, where the derivative of activation is taken at what went into it:
  hard_swish, silu, gelu, gelu_tanh, mish, leaky_relu and elu with a negative alpha, and relu and leaky_relu with a
  threshold, or with both a slope and a max_value.
output: at most one tensor, the forward op's; needed for the other activations but none.
grad: of the loss by the forward op's output, of its shape.
d_input: of the loss by input, where want_input is 1; the other gradients likewise.
want_input: 0 or 1.
)doc");

REGISTER_OP("TfDwsconv>ConvBlockGrad")
    .Input("input: T")
    .Input("expand_filter: num_expand_filter * T")
    .Input("expand_bias: num_expand_bias * T")
    .Input("depthwise_filter: num_depthwise_filter * T")
    .Input("depthwise_bias: num_depthwise_bias * T")
    .Input("pointwise_filter: num_pointwise_filter * T")
    .Input("bias: num_bias * T")
    .Input("scale: num_scale * T")
    .Input("residual: num_residual * T")
    .Input("expand_slopes: num_expand_slopes * T")
    .Input("depthwise_slopes: num_depthwise_slopes * T")
    .Input("slopes: num_slopes * T")
    .Input("output: num_output * T")
    .Input("grad: T")
    .Output("d_input: want_input * T")
    .Output("d_depthwise_filter: want_depthwise_filter * T")
    .Output("d_pointwise_filter: want_pointwise_filter * T")
    .Output("d_depthwise_bias: want_depthwise_bias * T")
    .Output("d_bias: want_bias * T")
    .Output("d_residual: want_residual * T")
    .Attr("T: {float, bfloat16, half}")
    .Attr("num_expand_filter: int >= 0 = 0")
    .Attr("num_expand_bias: int >= 0 = 0")
    .Attr("num_depthwise_filter: int >= 0 = 0")
    .Attr("num_depthwise_bias: int >= 0 = 0")
    .Attr("num_pointwise_filter: int >= 0 = 0")
    .Attr("num_bias: int >= 0 = 0")
    .Attr("num_scale: int >= 0 = 0")
    .Attr("num_residual: int >= 0 = 0")
    .Attr("num_expand_slopes: int >= 0 = 0")
    .Attr("num_depthwise_slopes: int >= 0 = 0")
    .Attr("num_slopes: int >= 0 = 0")
    .Attr("num_output: int >= 0 = 0")
    .Attr("want_input: int >= 0")
    .Attr("want_depthwise_filter: int >= 0")
    .Attr("want_pointwise_filter: int >= 0")
    .Attr("want_depthwise_bias: int >= 0")
    .Attr("want_bias: int >= 0")
    .Attr("want_residual: int >= 0")
    .Attr("strides: list(int) = [1, 1]")
    .Attr("dilations: list(int) = [1, 1]")
    .Attr("padding: string = 'SAME'")
    .Attr("explicit_paddings: list(int) = []")
    .Attr("data_format: string = 'NHWC'")
    .Attr("expand_activation: string = 'none'")
    .Attr("expand_alpha: float = 0.2")
    .Attr("expand_max_value: float = inf")
    .Attr("expand_threshold: float = 0")
    .Attr("depthwise_activation: string = 'none'")
    .Attr("depthwise_alpha: float = 0.2")
    .Attr("depthwise_max_value: float = inf")
    .Attr("depthwise_threshold: float = 0")
    .Attr("activation: string = 'none'")
    .Attr("alpha: float = 0.2")
    .Attr("max_value: float = inf")
    .Attr("threshold: float = 0")
    .Attr("normalize: bool = false")
    .Attr("epsilon: float = 0.001")
    .SetShapeFn(GradShape<ChainOpKind::kBlock>)
    .Doc(R"doc(
Gradients of ConvBlock, as DepthwiseSepConv2DGrad: of a block with a depthwise convolution, at most a projection behind
it, and a residual only behind that; others are an error.

input: of the forward op, as are the other tensors and the attributes.
output: as in DepthwiseSepConv2DGrad.
grad: of the loss by the forward op's output, of its shape.
d_input: of the loss by input, where want_input is 1; the other gradients likewise.
)doc");

}  // namespace dwsconv
