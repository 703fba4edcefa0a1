// Registers the ops of chains, the layer's and the block's: inputs, attributes, documentation and shape function.
#include "cc/tf/chain_op.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace dwsconv {
namespace {

using tensorflow::shape_inference::InferenceContext;
using tensorflow::shape_inference::ShapeHandle;

template <ChainOpKind kKind>
absl::Status ChainShape(InferenceContext* c) {
  Chain chain;
  ChainAttributes attributes;
  TF_RETURN_IF_ERROR(InferInGraph(c, kKind, &chain, &attributes));
  ShapeHandle output = MakeShape(c, OutputShape(chain));
  // Others may know that it is the same batch.
  if (chain.N == kUnknown && c->RankKnown(c->input(0))) {
    TF_RETURN_IF_ERROR(c->ReplaceDim(output, 0, c->Dim(c->input(0), 0), &output));
  }
  c->set_output(0, output);
  return absl::OkStatus();
}

}  // namespace

REGISTER_OP("TfDwsconv>DepthwiseSepConv2D")
    .Input("input: T")
    .Input("depthwise_filter: T")
    .Input("pointwise_filter: T")
    .Input("depthwise_bias: num_depthwise_bias * T")
    .Input("bias: num_bias * T")
    .Input("residual: num_residual * T")
    .Output("output: T")
    .Attr("T: {float, bfloat16, half}")
    .Attr("num_depthwise_bias: int >= 0 = 0")
    .Attr("num_bias: int >= 0 = 0")
    .Attr("num_residual: int >= 0 = 0")
    .Attr("strides: list(int) = [1, 1]")
    .Attr("dilations: list(int) = [1, 1]")
    .Attr("padding: string = 'SAME'")
    .Attr("explicit_paddings: list(int) = []")
    .Attr("data_format: string = 'NHWC'")
    .Attr("depthwise_activation: string = 'none'")
    .Attr("activation: string = 'none'")
    .Attr("depthwise_alpha: float = 0.2")
    .Attr("alpha: float = 0.2")
    .Attr("stable_filters: bool = false")
    .Attr("depthwise_max_value: float = inf")
    .Attr("depthwise_threshold: float = 0")
    .Attr("max_value: float = inf")
    .Attr("threshold: float = 0")
    .SetShapeFn(ChainShape<ChainOpKind::kLayer>)
    .Doc(R"doc(
A depthwise-separable 2-D convolution with its biases, activations and residual, as one kernel.

output = activation(pointwise(depthwise_activation(depthwise(input) + depthwise_bias)) + bias + residual)

Sums are kept in float whatever T is, and what lies between the two convolutions does not go to memory.

input: [N,H,W,C] or, with data_format NCHW, [N,C,H,W]. N may be 0.
depthwise_filter: [R,S,C,M]; output channel c*M+m of the depthwise convolution is input channel c by filter [:,:,c,m].
pointwise_filter: [1,1,C*M,K].
depthwise_bias: at most one tensor, [C*M].
bias: at most one tensor, [K].
residual: at most one tensor, of the output's shape; added before activation.
output: [N,Ho,Wo,K] or [N,K,Ho,Wo].
strides: (height, width), each at least 1.
dilations: (height, width), each at least 1; may be combined with strides.
padding: "SAME", "VALID" or "EXPLICIT". A window larger than the padded input is an error.
explicit_paddings: with EXPLICIT 8 numbers, (before, after) of each axis in data_format's order, 0 for batch and
  channels; empty otherwise.
data_format: "NHWC" or "NCHW".
depthwise_activation: none, relu, relu6, hard_swish, silu, gelu (exact), gelu_tanh (the approximation), leaky_relu, elu,
  mish, sigmoid or tanh.
activation: one of the same words.
depthwise_alpha: of depthwise_activation: slope below zero of leaky_relu, factor below zero of elu.
alpha: of activation, likewise.
depthwise_max_value, max_value: what relu and leaky_relu give at most.
depthwise_threshold, threshold: relu and leaky_relu return x above it and slope * (x - threshold) below.
stable_filters: a promise that the buffers of the filters and biases are not written in place while an op holds them,
  as those of resource variables, constants and eager tensors; those of v1 reference variables are. True lets the CPU
  kernel tell by their addresses that filters it packed are still the same; with false it reads them to know.
)doc");

REGISTER_OP("TfDwsconv>ConvBlock")
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
    .Output("output: T")
    .Attr("T: {float, bfloat16, half}")
    .Attr("num_expand_filter: int >= 0 = 0")
    .Attr("num_expand_bias: int >= 0 = 0")
    .Attr("num_depthwise_filter: int >= 0 = 0")
    .Attr("num_depthwise_bias: int >= 0 = 0")
    .Attr("num_pointwise_filter: int >= 0 = 0")
    .Attr("num_bias: int >= 0 = 0")
    .Attr("num_scale: int >= 0 = 0")
    .Attr("num_residual: int >= 0 = 0")
    .Attr("strides: list(int) = [1, 1]")
    .Attr("dilations: list(int) = [1, 1]")
    .Attr("padding: string = 'SAME'")
    .Attr("explicit_paddings: list(int) = []")
    .Attr("data_format: string = 'NHWC'")
    .Attr("expand_activation: string = 'none'")
    .Attr("depthwise_activation: string = 'none'")
    .Attr("activation: string = 'none'")
    .Attr("expand_alpha: float = 0.2")
    .Attr("depthwise_alpha: float = 0.2")
    .Attr("alpha: float = 0.2")
    .Attr("normalize: bool = false")
    .Attr("epsilon: float = 0.001")
    .Attr("stable_filters: bool = false")
    .Attr("num_expand_slopes: int >= 0 = 0")
    .Attr("num_depthwise_slopes: int >= 0 = 0")
    .Attr("num_slopes: int >= 0 = 0")
    .Attr("expand_max_value: float = inf")
    .Attr("expand_threshold: float = 0")
    .Attr("depthwise_max_value: float = inf")
    .Attr("depthwise_threshold: float = 0")
    .Attr("max_value: float = inf")
    .Attr("threshold: float = 0")
    .SetShapeFn(ChainShape<ChainOpKind::kBlock>)
    .Doc(R"doc(
A block of a network around one depthwise-separable convolution, as one kernel.

a = expand_activation(expand(input) + expand_bias)
z = scale * normalized(depthwise_activation(depthwise(a) + depthwise_bias))
output = activation(pointwise(z) + bias + residual)

Each stage may be left out, but one convolution must be there. Sums are kept in float whatever T is. Neither a nor z goes
to memory.

input: [N,H,W,E] or, with data_format NCHW, [N,E,H,W]; E is C without an expansion. N may be 0.
expand_filter: at most one tensor, [1,1,E,C].
expand_bias: at most one tensor, [C].
depthwise_filter: at most one tensor, [R,S,C,M].
depthwise_bias: at most one tensor, [C*M].
pointwise_filter: at most one tensor, [1,1,C*M,K]. Without one the output is z + residual. Without a depthwise filter it
  may be that of any dense convolution, [R,S,C,K], to which strides, dilations and padding apply.
bias: at most one tensor, [K].
scale: at most one tensor of factors, [N,C*M], [N,1,1,C*M] or, with NCHW, [N,C*M,1,1].
residual: at most one tensor, of the output's shape; added before activation.
expand_slopes: at most one tensor, [C]: there if expand_activation is prelu; likewise depthwise_slopes, [C*M], and
  slopes, [K].
output: [N,Ho,Wo,K] or [N,K,Ho,Wo]; K is C*M without a pointwise convolution.
normalize: whether each pixel of z is brought to mean 0 and variance 1 over its channels.
epsilon: added to that variance.
strides, dilations, padding, explicit_paddings, data_format, stable_filters: as in TfDwsconv>DepthwiseSepConv2D.
expand_activation, depthwise_activation, activation: one of the words of TfDwsconv>DepthwiseSepConv2D, or prelu:
  leaky_relu with one slope for each channel.
expand_alpha, depthwise_alpha, alpha, max_value, threshold and so on: as in TfDwsconv>DepthwiseSepConv2D.
)doc");

}  // namespace dwsconv
