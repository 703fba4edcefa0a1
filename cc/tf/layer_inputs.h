// What the kernels of the layer's ops do with their inputs: shapes into a request, addresses into buffers.
#ifndef DWSCONV_TF_LAYER_INPUTS_H_
#define DWSCONV_TF_LAYER_INPUTS_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "cc/core/make_problem.h"
#include "cc/tf/op_attributes.h"
#include "tensorflow/core/framework/op_kernel.h"

namespace dwsconv {

inline std::vector<int64_t> Sizes(const tensorflow::Tensor& tensor) {
  const auto sizes = tensor.shape().dim_sizes();
  return std::vector<int64_t>(sizes.begin(), sizes.end());
}

// Null for an input that is not there, at -1.
inline const void* DataOf(tensorflow::OpKernelContext* context, int at) {
  return at < 0 ? nullptr : context->input(at).data();
}

// Where the inputs of the layer's op and of its gradient are; -1 for those that are not there.
struct LayerInputs {
  int depthwise_bias, bias, residual;
  int next;  // the first one behind them

  explicit LayerInputs(const Request& attributes) {
    next = kFirstOptional;
    depthwise_bias = attributes.has_depthwise_bias ? next++ : -1;
    bias = attributes.has_bias ? next++ : -1;
    residual = attributes.has_residual ? next++ : -1;
  }

  // The attributes with the shapes of the inputs.
  Request Read(tensorflow::OpKernelContext* context, const Request& attributes) const {
    Request request = attributes;
    request.input = Sizes(context->input(kInput));
    request.depthwise_filter = Sizes(context->input(kDepthwiseFilter));
    request.pointwise_filter = Sizes(context->input(kPointwiseFilter));
    if (depthwise_bias > 0) request.depthwise_bias = Sizes(context->input(depthwise_bias));
    if (bias > 0) request.bias = Sizes(context->input(bias));
    if (residual > 0) request.residual = Sizes(context->input(residual));
    return request;
  }

  // Buffers: ForwardBuffers or BackwardBuffers.
  template <typename Buffers>
  void SetBuffers(tensorflow::OpKernelContext* context, Buffers* buffers) const {
    buffers->input = DataOf(context, kInput);
    buffers->depthwise_filter = DataOf(context, kDepthwiseFilter);
    buffers->pointwise_filter = DataOf(context, kPointwiseFilter);
    buffers->depthwise_bias = DataOf(context, depthwise_bias);
    buffers->bias = DataOf(context, bias);
    buffers->residual = DataOf(context, residual);
  }
};

// The op's output, in the residual's memory where nobody else reads that.
inline absl::Status AllocateOutput(tensorflow::OpKernelContext* context, const Problem& problem, int residual,
                                   tensorflow::Tensor** output) {
  tensorflow::TensorShape shape;
  TF_RETURN_IF_ERROR(tensorflow::TensorShape::BuildTensorShape(OutputShape(problem), &shape));
  if (residual < 0) return context->allocate_output(0, shape, output);
  return context->forward_input_or_allocate_output({residual}, 0, shape, output);
}

}  // namespace dwsconv

#endif  // DWSCONV_TF_LAYER_INPUTS_H_
