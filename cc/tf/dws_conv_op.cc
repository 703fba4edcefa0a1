// Registers the op: its inputs, attributes, documentation and shape function.
#include <cstdint>
#include <string>
#include <vector>

#include "cc/core/make_problem.h"
#include "cc/tf/op_attributes.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace dwsconv {
namespace {

using tensorflow::shape_inference::DimensionHandle;
using tensorflow::shape_inference::InferenceContext;
using tensorflow::shape_inference::ShapeHandle;

template <typename... Parts>
absl::Status InvalidArgument(const Parts&... parts) {
  return absl::InvalidArgumentError(absl::StrCat(parts...));
}

// Input `index` with its rank made known. `axes` words the message.
absl::Status WithRank(InferenceContext* c, int index, const char* name, const char* axes, int rank,
                      ShapeHandle* shape) {
  const ShapeHandle given = c->input(index);
  if (!c->WithRank(given, rank, shape).ok()) {
    return InvalidArgument(name, " must have rank ", rank, " (", axes, "), but its shape is ", c->DebugString(given));
  }
  return absl::OkStatus();
}

// *merged = a and b, which must not be known to differ. `what` is the axis that a is of.
absl::Status Merge(InferenceContext* c, DimensionHandle a, DimensionHandle b, const char* what, const char* source,
                   DimensionHandle* merged) {
  if (!c->Merge(a, b, merged).ok()) {
    return InvalidArgument(what, " is ", c->DebugString(a), ", but must be ", c->DebugString(b), " by ", source);
  }
  return absl::OkStatus();
}

absl::Status RequirePositive(InferenceContext* c, ShapeHandle shape, const char* name) {
  for (int axis = 0; axis < c->Rank(shape); ++axis) {
    const DimensionHandle size = c->Dim(shape, axis);
    if (c->ValueKnown(size) && c->Value(size) < 1) {
      return InvalidArgument(name, " must have no axis of size 0, but its shape is ", c->DebugString(shape));
    }
  }
  return absl::OkStatus();
}

// One spatial axis of the output. What SAME gives depends on the input's size alone, so an unknown filter may be taken
// as 1.
absl::Status Window(InferenceContext* c, const Request& request, int axis, DimensionHandle in, DimensionHandle kernel,
                    DimensionHandle* out) {
  const bool same = request.padding == "SAME";
  *out = c->UnknownDim();
  if (!c->ValueKnown(in) || (!same && !c->ValueKnown(kernel))) return absl::OkStatus();
  int64_t before = 0, after = 0;
  if (request.padding == "EXPLICIT") {
    const int first = (request.data_format == "NHWC" ? 2 : 4) + 2 * axis;
    before = request.explicit_paddings[first];
    after = request.explicit_paddings[first + 1];
  }
  int64_t size, pad_before;
  const std::string error =
      OutputSize(axis == 0 ? "height" : "width", c->Value(in), c->ValueKnown(kernel) ? c->Value(kernel) : 1,
                 request.strides[axis], request.dilations[axis], request.padding, before, after, &size, &pad_before);
  if (!error.empty()) return InvalidArgument(error);
  *out = c->MakeDim(size);
  return absl::OkStatus();
}

std::vector<int64_t> Sizes(InferenceContext* c, ShapeHandle shape) {
  std::vector<int64_t> sizes;
  for (int axis = 0; axis < c->Rank(shape); ++axis) sizes.push_back(c->Value(c->Dim(shape, axis)));
  return sizes;
}

// Where the filters and the input are known throughout, the check that the kernel makes, with its messages.
absl::Status CheckKnown(InferenceContext* c, Request request) {
  for (int i = 0; i < c->num_inputs(); ++i) {
    if (!c->FullyDefined(c->input(i))) return absl::OkStatus();
  }
  request.input = Sizes(c, c->input(kInput));
  request.depthwise_filter = Sizes(c, c->input(kDepthwiseFilter));
  request.pointwise_filter = Sizes(c, c->input(kPointwiseFilter));
  int next = kFirstOptional;
  if (request.has_depthwise_bias) request.depthwise_bias = Sizes(c, c->input(next++));
  if (request.has_bias) request.bias = Sizes(c, c->input(next++));
  if (request.has_residual) request.residual = Sizes(c, c->input(next++));
  Problem problem;
  const std::string error = MakeProblem(request, &problem);
  return error.empty() ? absl::OkStatus() : InvalidArgument(error);
}

absl::Status DepthwiseSepConv2DShape(InferenceContext* c) {
  Request request;
  TF_RETURN_IF_ERROR(ReadAttributes(c, &request));
  TF_RETURN_IF_ERROR(CheckKnown(c, request));

  const bool nhwc = request.data_format == "NHWC";
  const char* const image_axes = nhwc ? "[N,H,W,C]" : "[N,C,H,W]";
  const int h_axis = nhwc ? 1 : 2, w_axis = h_axis + 1, c_axis = nhwc ? 3 : 1;
  ShapeHandle input, depthwise, pointwise;
  TF_RETURN_IF_ERROR(WithRank(c, kInput, "input", image_axes, 4, &input));
  TF_RETURN_IF_ERROR(WithRank(c, kDepthwiseFilter, "depthwise_filter", "[R,S,C,M]", 4, &depthwise));
  TF_RETURN_IF_ERROR(WithRank(c, kPointwiseFilter, "pointwise_filter", "[1,1,C*M,K]", 4, &pointwise));
  TF_RETURN_IF_ERROR(RequirePositive(c, depthwise, "depthwise_filter"));
  TF_RETURN_IF_ERROR(RequirePositive(c, pointwise, "pointwise_filter"));

  DimensionHandle channels, between, one;
  TF_RETURN_IF_ERROR(Merge(c, c->Dim(depthwise, 2), c->Dim(input, c_axis), "depthwise_filter's C (axis 2)",
                           "the channels of input", &channels));
  if (!c->Multiply(channels, c->Dim(depthwise, 3), &between).ok()) {
    return InvalidArgument("depthwise_filter has too many output channels: C*M of shape ", c->DebugString(depthwise),
                           " is past 64 bits");
  }
  for (int axis : {0, 1}) {
    TF_RETURN_IF_ERROR(Merge(c, c->Dim(pointwise, axis), c->MakeDim(1), "pointwise_filter's height or width",
                             "its shape [1,1,C*M,K]", &one));
  }
  TF_RETURN_IF_ERROR(
      Merge(c, c->Dim(pointwise, 2), between, "pointwise_filter's axis 2", "C*M of depthwise_filter", &between));

  DimensionHandle batch = c->Dim(input, 0), filters = c->Dim(pointwise, 3), rows, columns;
  TF_RETURN_IF_ERROR(Window(c, request, 0, c->Dim(input, h_axis), c->Dim(depthwise, 0), &rows));
  TF_RETURN_IF_ERROR(Window(c, request, 1, c->Dim(input, w_axis), c->Dim(depthwise, 1), &columns));

  int next = kFirstOptional;
  ShapeHandle optional;
  if (request.has_depthwise_bias) {
    TF_RETURN_IF_ERROR(WithRank(c, next++, "depthwise_bias", "[C*M]", 1, &optional));
    TF_RETURN_IF_ERROR(
        Merge(c, c->Dim(optional, 0), between, "depthwise_bias's size", "C*M of depthwise_filter", &between));
  }
  if (request.has_bias) {
    TF_RETURN_IF_ERROR(WithRank(c, next++, "bias", "[K]", 1, &optional));
    TF_RETURN_IF_ERROR(Merge(c, c->Dim(optional, 0), filters, "bias's size", "K of pointwise_filter", &filters));
  }
  if (request.has_residual) {
    TF_RETURN_IF_ERROR(WithRank(c, next++, "residual", "as the output", 4, &optional));
    const char* const source = "the output's shape";
    TF_RETURN_IF_ERROR(Merge(c, c->Dim(optional, 0), batch, "residual's N", source, &batch));
    TF_RETURN_IF_ERROR(Merge(c, c->Dim(optional, h_axis), rows, "residual's height", source, &rows));
    TF_RETURN_IF_ERROR(Merge(c, c->Dim(optional, w_axis), columns, "residual's width", source, &columns));
    TF_RETURN_IF_ERROR(Merge(c, c->Dim(optional, c_axis), filters, "residual's channels", source, &filters));
  }
  c->set_output(0,
                nhwc ? c->MakeShape({batch, rows, columns, filters}) : c->MakeShape({batch, filters, rows, columns}));
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
    .SetShapeFn(DepthwiseSepConv2DShape)
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

}  // namespace dwsconv
