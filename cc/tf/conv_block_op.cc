// Registers the op of converted models: its inputs, attributes, documentation and shape function.
#include <cstdint>
#include <string>
#include <vector>

#include "cc/core/make_block.h"
#include "cc/tf/block_attributes.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace dwsconv {
namespace {

using tensorflow::shape_inference::DimensionHandle;
using tensorflow::shape_inference::InferenceContext;
using tensorflow::shape_inference::ShapeHandle;

// Where all is known, the kernel's own check; else what can be told of the output.
absl::Status ConvBlockShape(InferenceContext* c) {
  BlockAttributes attributes;
  TF_RETURN_IF_ERROR(ReadBlockAttributes(c, &attributes));
  const BlockRequest& asked = attributes.request;
  const bool nhwc = asked.main.data_format == "NHWC";
  bool known = true;
  for (int i = 0; i < c->num_inputs(); ++i) known = known && c->FullyDefined(c->input(i));
  const auto sizes = [&](int i) {
    std::vector<int64_t> all;
    for (int axis = 0; axis < c->Rank(c->input(i)); ++axis) all.push_back(c->Value(c->Dim(c->input(i), axis)));
    return all;
  };
  if (known) {
    BlockRequest request;
    SetBlockShapes(attributes, sizes, &request);
    Block block;
    const std::string error = MakeBlock(request, &block);
    if (!error.empty()) return absl::InvalidArgumentError(error);
    std::vector<DimensionHandle> output;
    for (int64_t size : OutputShape(block.main)) output.push_back(c->MakeDim(size));
    c->set_output(0, c->MakeShape(output));
    return absl::OkStatus();
  }

  ShapeHandle input, filter;
  if (!c->WithRank(c->input(0), 4, &input).ok()) {
    return absl::InvalidArgumentError(absl::StrCat("input must have rank 4 (", nhwc ? "[N,H,W,C]" : "[N,C,H,W]",
                                                   "), but its shape is ", c->DebugString(c->input(0))));
  }
  DimensionHandle channels = c->Dim(input, nhwc ? 3 : 1), spatial[2];
  const auto rank4 = [&](BlockInput which) {
    if (c->WithRank(c->input(attributes.at[which]), 4, &filter).ok()) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat(kBlockInputNames[which], " must have rank 4, but its shape is ",
                                                   c->DebugString(c->input(attributes.at[which]))));
  };
  if (asked.has_expand) {
    TF_RETURN_IF_ERROR(rank4(kBlockExpandFilter));
    channels = c->Dim(filter, 3);
  }
  DimensionHandle kernel[2] = {c->MakeDim(1), c->MakeDim(1)};
  if (asked.has_depthwise) {
    TF_RETURN_IF_ERROR(rank4(kBlockDepthwiseFilter));
    kernel[0] = c->Dim(filter, 0);
    kernel[1] = c->Dim(filter, 1);
    if (!c->Multiply(channels, c->Dim(filter, 3), &channels).ok()) {
      return absl::InvalidArgumentError("depthwise_filter has too many output channels: C*M is past 64 bits");
    }
  }
  if (asked.has_pointwise) {
    TF_RETURN_IF_ERROR(rank4(kBlockPointwiseFilter));
    channels = c->Dim(filter, 3);
    for (int axis : {0, 1}) {
      if (!asked.has_depthwise) kernel[axis] = c->Dim(filter, axis);
    }
  }
  for (int axis : {0, 1}) {
    const DimensionHandle in = c->Dim(input, axis + (nhwc ? 1 : 2));
    spatial[axis] = c->UnknownDim();
    if (!c->ValueKnown(in) || !c->ValueKnown(kernel[axis])) continue;
    int64_t before = 0, after = 0, size, pad_before;
    if (asked.main.padding == "EXPLICIT") {
      const int first = (nhwc ? 2 : 4) + 2 * axis;
      before = asked.main.explicit_paddings[first];
      after = asked.main.explicit_paddings[first + 1];
    }
    const std::string error =
        OutputSize(axis == 0 ? "height" : "width", c->Value(in), c->Value(kernel[axis]), asked.main.strides[axis],
                   asked.main.dilations[axis], asked.main.padding, before, after, &size, &pad_before);
    if (!error.empty()) return absl::InvalidArgumentError(error);
    spatial[axis] = c->MakeDim(size);
  }
  const DimensionHandle batch = c->Dim(input, 0);
  c->set_output(0, nhwc ? c->MakeShape({batch, spatial[0], spatial[1], channels})
                        : c->MakeShape({batch, channels, spatial[0], spatial[1]}));
  return absl::OkStatus();
}

}  // namespace

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
    .SetShapeFn(ConvBlockShape)
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
