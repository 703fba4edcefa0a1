#include "cuda/capi/c_api_block.h"

#include <string>
#include <vector>

#include "cc/core/make_block.h"
#include "cuda/capi/c_api_call.h"
#include "cuda/run/block.h"
#include "cuda/run/forward.h"

namespace dwsconv {
namespace {

// What both entries begin with.
std::string Prepare(const DwsconvCudaBlockCall& call, Block* block, CudaBlockPlan* plan) {
  const struct {
    const char* name;
    int32_t given, most;
  } ranges[] = {{"dtype", call.dtype, 2},     {"path", call.path, 3},     {"math", call.math, 1},
                {"general", call.general, 1}, {"fusion", call.fusion, 2}, {"normalize", call.normalize, 1}};
  for (const auto& range : ranges) {
    if (range.given < 0 || range.given > range.most) {
      return std::string(range.name) + " must be 0 to " + std::to_string(range.most) + ", but is " +
             std::to_string(range.given);
    }
  }
  BlockRequest request;
  Request& main = request.main;
  const auto shape = [](const int64_t* sizes, bool* is_there, std::vector<int64_t>* given) {
    *is_there = sizes[0] >= 0;
    given->assign(sizes, sizes + 4);
  };
  const auto size = [](int64_t given_size, bool* is_there, std::vector<int64_t>* given) {
    *is_there = given_size >= 0;
    *given = {given_size};
  };
  main.input.assign(call.input, call.input + 4);
  shape(call.expand_filter, &request.has_expand, &request.expand_filter);
  shape(call.depthwise_filter, &request.has_depthwise, &main.depthwise_filter);
  shape(call.pointwise_filter, &request.has_pointwise, &main.pointwise_filter);
  shape(call.residual, &main.has_residual, &main.residual);
  size(call.expand_bias_size, &request.has_expand_bias, &request.expand_bias);
  size(call.depthwise_bias_size, &main.has_depthwise_bias, &main.depthwise_bias);
  size(call.bias_size, &main.has_bias, &main.bias);
  request.has_scale = call.scale[0] >= 0;
  request.scale.assign(call.scale, call.scale + 2);
  main.strides.assign(call.strides, call.strides + 2);
  main.dilations.assign(call.dilations, call.dilations + 2);
  main.padding = call.padding;
  if (main.padding == "EXPLICIT") main.explicit_paddings.assign(call.explicit_paddings, call.explicit_paddings + 8);
  main.data_format = call.data_format;
  request.expand_activation.word = call.expand_activation;
  main.depthwise_activation.word = call.depthwise_activation;
  main.activation.word = call.activation;
  request.expand_activation.alpha = call.expand_alpha;
  main.depthwise_activation.alpha = call.depthwise_alpha;
  main.activation.alpha = call.alpha;
  request.normalize = call.normalize != 0;
  request.epsilon = call.epsilon;
  main.dtype = static_cast<DType>(call.dtype);
  std::string error = MakeBlock(request, block);
  CudaMachine machine;
  if (error.empty()) error = cuda::CurrentMachine(&machine);
  if (!error.empty()) return error;
  CudaBlockOptions options;
  options.path = static_cast<CudaPath>(call.path);
  options.math = static_cast<CudaMath>(call.math);
  options.general = call.general != 0;
  options.fusion = static_cast<CudaBlockFusion>(call.fusion);
  return MakeCudaBlockPlan(*block, machine, options, plan);
}

}  // namespace
}  // namespace dwsconv

extern "C" {

const char* dwsconv_cuda_block_plan(const DwsconvCudaBlockCall* call, DwsconvCudaBlockPlan* result) {
  dwsconv::Block block;
  dwsconv::CudaBlockPlan plan;
  const std::string error = dwsconv::Prepare(*call, &block, &plan);
  if (!error.empty()) return dwsconv::Keep(error);
  dwsconv::Answer(block.main, plan, dwsconv::DescribeCudaBlockPlan(plan), result);
  return dwsconv::Keep("");
}

const char* dwsconv_cuda_block_forward(const DwsconvCudaBlockCall* call) {
  dwsconv::Block block;
  dwsconv::CudaBlockPlan plan;
  const std::string error = dwsconv::Prepare(*call, &block, &plan);
  if (!error.empty()) return dwsconv::Keep(error);
  if (call->workspace_bytes < plan.workspace_bytes) {
    return dwsconv::Keep("workspace_bytes must be at least " + std::to_string(plan.workspace_bytes) + ", but is " +
                         std::to_string(call->workspace_bytes));
  }
  dwsconv::BlockBuffers buffers;
  dwsconv::ForwardBuffers& main = buffers.main;
  main.input = call->x;
  buffers.expand_filter = call->expand;
  buffers.expand_bias = block.has_expand_bias ? call->expand_b : nullptr;
  main.depthwise_filter = call->d;
  main.depthwise_bias = block.main.has_depthwise_bias ? call->db : nullptr;
  main.pointwise_filter = call->p;
  main.bias = block.main.has_bias ? call->b : nullptr;
  buffers.scale = block.has_scale ? call->s : nullptr;
  main.residual = block.main.has_residual ? call->r : nullptr;
  main.output = call->y;
  return dwsconv::Keep(dwsconv::cuda::ForwardBlock(block, plan, buffers, call->workspace, call->stream));
}

int64_t dwsconv_cuda_block_calls(void) { return dwsconv::cuda::BlockCalls(); }

}  // extern "C"
