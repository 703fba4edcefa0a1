#include "cuda/capi/c_api_backward.h"

#include <cstring>
#include <string>

#include "cc/core/make_problem.h"
#include "cc/plan/cuda/backward_plan.h"
#include "cuda/capi/c_api_call.h"
#include "cuda/run/backward.h"
#include "cuda/run/forward.h"

namespace dwsconv {
namespace {

// What both entries begin with.
std::string Prepare(const DwsconvCudaBackwardCall& call, Problem* problem, CudaBackwardPlan* plan) {
  if (call.path < 0 || call.path >= kCudaBackwardPaths) {
    return "path must be 0 to " + std::to_string(kCudaBackwardPaths - 1) + ", but is " + std::to_string(call.path);
  }
  if (call.wanted < 0 || call.wanted > 63) {
    return "wanted must be 0 to 63, but is " + std::to_string(call.wanted);
  }
  std::string error = ProblemOf(call.layer, problem);
  CudaMachine machine;
  if (error.empty()) error = cuda::CurrentMachine(&machine);
  if (!error.empty()) return error;
  WantedGradients wanted;
  wanted.input = call.wanted & 1;
  wanted.depthwise_filter = call.wanted >> 1 & 1;
  wanted.pointwise_filter = call.wanted >> 2 & 1;
  wanted.depthwise_bias = call.wanted >> 3 & 1;
  wanted.bias = call.wanted >> 4 & 1;
  wanted.residual = call.wanted >> 5 & 1;
  CudaBackwardOptions options;
  options.path = static_cast<CudaBackwardPath>(call.path);
  options.math = static_cast<CudaMath>(call.layer.math);
  options.aligned = call.unaligned == 0;
  options.tile_rows = call.layer.tile_rows;
  options.tile_columns = call.layer.tile_columns;
  return MakeCudaBackwardPlan(*problem, machine, wanted, options, plan);
}

}  // namespace
}  // namespace dwsconv

extern "C" {

const char* dwsconv_cuda_backward_plan(const DwsconvCudaBackwardCall* call, DwsconvCudaPlan* result) {
  dwsconv::Problem problem;
  dwsconv::CudaBackwardPlan plan;
  const std::string error = dwsconv::Prepare(*call, &problem, &plan);
  if (!error.empty()) return dwsconv::Keep(error);
  dwsconv::Answer(problem, plan, dwsconv::DescribeCudaBackwardPlan(plan), result);
  return dwsconv::Keep("");
}

const char* dwsconv_cuda_backward(const DwsconvCudaBackwardCall* call) {
  dwsconv::Problem problem;
  dwsconv::CudaBackwardPlan plan;
  const std::string error = dwsconv::Prepare(*call, &problem, &plan);
  if (!error.empty()) return dwsconv::Keep(error);
  const DwsconvCudaCall& layer = call->layer;
  if (layer.workspace_bytes < plan.workspace_bytes) {
    return dwsconv::Keep("workspace_bytes must be at least " + std::to_string(plan.workspace_bytes) + ", but is " +
                         std::to_string(layer.workspace_bytes));
  }
  if (plan.gradient && !plan.before && layer.y == nullptr) {
    return dwsconv::Keep("y must be given for this activation, but is null");
  }
  dwsconv::BackwardBuffers buffers;
  buffers.input = layer.x;
  buffers.depthwise_filter = layer.d;
  buffers.pointwise_filter = layer.p;
  buffers.depthwise_bias = problem.has_depthwise_bias ? layer.db : nullptr;
  buffers.bias = problem.has_bias ? layer.b : nullptr;
  buffers.residual = problem.has_residual ? layer.r : nullptr;
  buffers.output = layer.y;
  buffers.grad = call->grad;
  buffers.d_input = call->dx;
  buffers.d_depthwise_filter = call->dd;
  buffers.d_pointwise_filter = call->dp;
  buffers.d_depthwise_bias = call->ddb;
  buffers.d_bias = call->dbias;
  buffers.d_residual = call->dr;
  return dwsconv::Keep(dwsconv::cuda::Backward(problem, plan, buffers, layer.workspace, layer.stream));
}

int64_t dwsconv_cuda_backward_calls(int32_t path) {
  if (path < 0 || path >= dwsconv::kCudaBackwardPaths) return -1;
  return dwsconv::cuda::BackwardCalls(static_cast<dwsconv::CudaBackwardPath>(path));
}

}  // extern "C"
