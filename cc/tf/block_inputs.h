// What the kernels of the block op do before they compute.
#ifndef DWSCONV_TF_BLOCK_INPUTS_H_
#define DWSCONV_TF_BLOCK_INPUTS_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "cc/core/make_block.h"
#include "cc/tf/block_attributes.h"
#include "cc/tf/layer_inputs.h"
#include "tensorflow/core/framework/op_kernel.h"

namespace dwsconv {

// Checks a call's shapes, allocates the output, and collects the addresses of all. An output without elements needs no
// more.
inline absl::Status PrepareBlock(tensorflow::OpKernelContext* context, const BlockAttributes& attributes, Block* block,
                                 BlockBuffers* buffers, tensorflow::Tensor** output) {
  BlockRequest request;
  SetBlockShapes(attributes, [context](int at) { return Sizes(context->input(at)); }, &request);
  const std::string error = MakeBlock(request, block);
  if (!error.empty()) return absl::InvalidArgumentError(error);

  const auto data = [&](BlockInput input) { return DataOf(context, attributes.at[input]); };
  buffers->main.input = context->input(0).data();
  buffers->expand_filter = data(kBlockExpandFilter);
  buffers->expand_bias = data(kBlockExpandBias);
  buffers->main.depthwise_filter = data(kBlockDepthwiseFilter);
  buffers->main.depthwise_bias = data(kBlockDepthwiseBias);
  buffers->main.pointwise_filter = data(kBlockPointwiseFilter);
  buffers->main.bias = data(kBlockBias);
  buffers->scale = data(kBlockScale);
  buffers->main.residual = data(kBlockResidual);
  buffers->expand_slopes = data(kBlockExpandSlopes);
  buffers->main.depthwise_slopes = data(kBlockDepthwiseSlopes);
  buffers->main.slopes = data(kBlockSlopes);
  TF_RETURN_IF_ERROR(AllocateOutput(context, block->main, attributes.at[kBlockResidual], output));
  buffers->main.output = (*output)->data();
  return absl::OkStatus();
}

}  // namespace dwsconv

#endif  // DWSCONV_TF_BLOCK_INPUTS_H_
