#include "cuda/capi/c_api.h"

#include <cstring>
#include <string>

#include "cc/core/make_problem.h"
#include "cc/plan/cuda/forward_plan.h"
#include "cuda/capi/c_api_call.h"
#include "cuda/run/forward.h"

namespace dwsconv {

std::string ProblemOf(const DwsconvCudaCall& call, Problem* problem) {
  if (call.dtype < 0 || call.dtype > 2) return "dtype must be 0, 1 or 2, but is " + std::to_string(call.dtype);
  if (call.math < 0 || call.math > 1) return "math must be 0 or 1, but is " + std::to_string(call.math);
  Request request;
  request.input.assign(call.input, call.input + 4);
  request.depthwise_filter.assign(call.depthwise_filter, call.depthwise_filter + 4);
  request.pointwise_filter.assign(call.pointwise_filter, call.pointwise_filter + 4);
  request.has_depthwise_bias = call.depthwise_bias_size >= 0;
  request.depthwise_bias = {call.depthwise_bias_size};
  request.has_bias = call.bias_size >= 0;
  request.bias = {call.bias_size};
  request.has_residual = call.residual[0] >= 0;
  request.residual.assign(call.residual, call.residual + 4);
  request.strides.assign(call.strides, call.strides + 2);
  request.dilations.assign(call.dilations, call.dilations + 2);
  request.padding = call.padding;
  if (request.padding == "EXPLICIT")
    request.explicit_paddings.assign(call.explicit_paddings, call.explicit_paddings + 8);
  request.data_format = call.data_format;
  request.depthwise_activation.word = call.depthwise_activation;
  request.depthwise_activation.alpha = call.depthwise_alpha;
  request.activation.word = call.activation;
  request.activation.alpha = call.alpha;
  request.dtype = static_cast<DType>(call.dtype);
  request.input_name = "x";
  return MakeProblem(request, problem);
}

const char* Keep(const std::string& error) {
  static thread_local std::string kept;
  kept = error;
  return kept.c_str();
}

namespace {

// What both entries begin with.
std::string Prepare(const DwsconvCudaCall& call, Problem* problem, CudaPlan* plan) {
  if (call.path < 0 || call.path > 3) return "path must be 0 to 3, but is " + std::to_string(call.path);
  std::string error = ProblemOf(call, problem);
  CudaMachine machine;
  if (error.empty()) error = cuda::CurrentMachine(&machine);
  if (!error.empty()) return error;
  CudaOptions options;
  options.path = static_cast<CudaPath>(call.path);
  options.math = static_cast<CudaMath>(call.math);
  options.tile_rows = call.tile_rows;
  options.tile_columns = call.tile_columns;
  options.segments = call.segments;
  options.groups = call.groups;
  return MakeCudaPlan(*problem, machine, options, plan);
}

}  // namespace
}  // namespace dwsconv

extern "C" {

const char* dwsconv_cuda_plan(const DwsconvCudaCall* call, DwsconvCudaPlan* result) {
  dwsconv::Problem problem;
  dwsconv::CudaPlan plan;
  const std::string error = dwsconv::Prepare(*call, &problem, &plan);
  if (!error.empty()) return dwsconv::Keep(error);
  dwsconv::Answer(problem, plan, dwsconv::DescribeCudaPlan(plan), result);
  return dwsconv::Keep("");
}

const char* dwsconv_cuda_forward(const DwsconvCudaCall* call) {
  dwsconv::Problem problem;
  dwsconv::CudaPlan plan;
  const std::string error = dwsconv::Prepare(*call, &problem, &plan);
  if (!error.empty()) return dwsconv::Keep(error);
  if (call->workspace_bytes < plan.workspace_bytes) {
    return dwsconv::Keep("workspace_bytes must be at least " + std::to_string(plan.workspace_bytes) + ", but is " +
                         std::to_string(call->workspace_bytes));
  }
  dwsconv::ForwardBuffers buffers;
  buffers.input = call->x;
  buffers.depthwise_filter = call->d;
  buffers.pointwise_filter = call->p;
  buffers.depthwise_bias = problem.has_depthwise_bias ? call->db : nullptr;
  buffers.bias = problem.has_bias ? call->b : nullptr;
  buffers.residual = problem.has_residual ? call->r : nullptr;
  buffers.output = call->y;
  return dwsconv::Keep(dwsconv::cuda::Forward(problem, plan, buffers, call->workspace, call->stream));
}

int64_t dwsconv_cuda_calls(int32_t path) {
  return path < 0 || path > 3 ? -1 : dwsconv::cuda::ForwardCalls(static_cast<dwsconv::CudaPath>(path));
}

}  // extern "C"
