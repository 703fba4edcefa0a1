#include "cuda/capi/c_api.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "cc/core/make_block.h"
#include "cuda/run/execute.h"

namespace dwsconv {
namespace {

static_assert(static_cast<int>(CudaTensor::kX) == DWSCONV_CUDA_X + 1 &&
                  static_cast<int>(CudaTensor::kDResidual) == DWSCONV_CUDA_TENSORS,
              "the tensors of both enumerations are the same, behind kNone");

// The message as C sees it: it lives until the thread's next call.
const char* Keep(const std::string& error) {
  static thread_local std::string kept;
  kept = error;
  return kept.c_str();
}

std::string MakeBlockOf(const DwsconvCudaCall& call, Block* block) {
  BlockRequest request;
  Request& main = request.main;
  // Whether a tensor is there, and its shape.
  const auto shape = [&call](int tensor, size_t rank, std::vector<int64_t>* given) {
    given->assign(call.shapes[tensor], call.shapes[tensor] + rank);
    return given->front() >= 0;
  };
  shape(DWSCONV_CUDA_X, 4, &main.input);
  request.has_expand = shape(DWSCONV_CUDA_EXPAND_FILTER, 4, &request.expand_filter);
  request.has_expand_bias = shape(DWSCONV_CUDA_EXPAND_BIAS, 1, &request.expand_bias);
  request.has_depthwise = shape(DWSCONV_CUDA_DEPTHWISE_FILTER, 4, &main.depthwise_filter);
  main.has_depthwise_bias = shape(DWSCONV_CUDA_DEPTHWISE_BIAS, 1, &main.depthwise_bias);
  request.has_pointwise = shape(DWSCONV_CUDA_POINTWISE_FILTER, 4, &main.pointwise_filter);
  main.has_bias = shape(DWSCONV_CUDA_BIAS, 1, &main.bias);
  request.has_scale = shape(DWSCONV_CUDA_SCALE, 2, &request.scale);
  main.has_residual = shape(DWSCONV_CUDA_RESIDUAL, 4, &main.residual);
  main.strides.assign(call.strides, call.strides + 2);
  main.dilations.assign(call.dilations, call.dilations + 2);
  main.padding = call.padding;
  if (main.padding == "EXPLICIT") main.explicit_paddings.assign(call.explicit_paddings, call.explicit_paddings + 8);
  main.data_format = call.data_format;
  const auto activation = [](const char* word, float alpha, ActivationRequest* given) {
    given->word = word;
    given->alpha = alpha;
  };
  activation(call.expand_activation, call.expand_alpha, &request.expand_activation);
  activation(call.depthwise_activation, call.depthwise_alpha, &main.depthwise_activation);
  activation(call.activation, call.alpha, &main.activation);
  request.normalize = call.normalize != 0;
  request.epsilon = call.epsilon;
  main.dtype = static_cast<DType>(call.dtype);
  return MakeBlock(request, block);
}

// What both entries begin with.
std::string Prepare(const DwsconvCudaCall& call, Block* block, CudaPlan* plan) {
  const struct {
    const char* name;
    int32_t given, least, most;
  } ranges[] = {{"dtype", call.dtype, 0, 2},   {"path", call.path, 0, kCudaPaths - 1},
                {"math", call.math, 0, 1},     {"gradients", call.gradients, -1, 63},
                {"fusion", call.fusion, 0, 2}, {"normalize", call.normalize, 0, 1}};
  for (const auto& range : ranges) {
    if (range.given < range.least || range.given > range.most) {
      return std::string(range.name) + " must be " + std::to_string(range.least) + " to " + std::to_string(range.most) +
             ", but is " + std::to_string(range.given);
    }
  }
  std::string error = MakeBlockOf(call, block);
  CudaMachine machine;
  if (error.empty()) error = cuda::CurrentMachine(&machine);
  if (!error.empty()) return error;
  CudaOptions options;
  options.path = static_cast<CudaPath>(call.path);
  options.math = static_cast<CudaMath>(call.math);
  options.fusion = static_cast<CudaFusion>(call.fusion);
  options.tile_rows = call.tile_rows, options.tile_columns = call.tile_columns;
  options.segments = call.segments, options.groups = call.groups;
  options.aligned = call.unaligned == 0;
  if (call.gradients >= 0) {
    const auto wanted = [&call](int i) { return (call.gradients >> i & 1) != 0; };
    options.gradients = WantedGradients{wanted(0), wanted(1), wanted(2), wanted(3), wanted(4), wanted(5)};
  }
  return MakeCudaPlan(*block, machine, options, plan);
}

}  // namespace
}  // namespace dwsconv

extern "C" {

const char* dwsconv_cuda_plan(const DwsconvCudaCall* call, DwsconvCudaPlan* result) {
  dwsconv::Block block;
  dwsconv::CudaPlan plan;
  const std::string error = dwsconv::Prepare(*call, &block, &plan);
  if (!error.empty()) return dwsconv::Keep(error);
  const std::vector<int64_t> shape = dwsconv::OutputShape(block.main);
  std::copy(shape.begin(), shape.end(), result->output);
  result->workspace_bytes = plan.workspace_bytes;
  result->modelled_us = plan.modelled_us;
  const std::string text = dwsconv::DescribeCudaPlan(plan);
  const size_t length = std::min(text.size(), sizeof(result->text) - 1);
  std::memcpy(result->text, text.data(), length);
  result->text[length] = '\0';
  return dwsconv::Keep("");
}

const char* dwsconv_cuda_run(const DwsconvCudaCall* call) {
  dwsconv::Block block;
  dwsconv::CudaPlan plan;
  const std::string error = dwsconv::Prepare(*call, &block, &plan);
  if (!error.empty()) return dwsconv::Keep(error);
  if (call->workspace_bytes < plan.workspace_bytes) {
    return dwsconv::Keep("workspace_bytes must be at least " + std::to_string(plan.workspace_bytes) + ", but is " +
                         std::to_string(call->workspace_bytes));
  }
  if (plan.reads_output && call->tensors[DWSCONV_CUDA_Y] == nullptr) {
    return dwsconv::Keep("y must be given for this activation, but is null");
  }
  dwsconv::cuda::CudaTensors tensors;
  for (int i = 0; i < DWSCONV_CUDA_TENSORS; ++i) {
    tensors.Set(static_cast<dwsconv::CudaTensor>(i + 1), call->tensors[i]);
  }
  return dwsconv::Keep(dwsconv::cuda::Execute(block, plan, tensors, call->workspace, call->stream));
}

int64_t dwsconv_cuda_calls(int32_t path) {
  if (path < 0 || path >= dwsconv::kCudaPaths) return -1;
  return dwsconv::cuda::Calls(static_cast<dwsconv::CudaPath>(path));
}

}  // extern "C"
