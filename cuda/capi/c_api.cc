#include "cuda/capi/c_api.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "cc/core/infer.h"
#include "cc/plan/cuda/plan_cache.h"
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

std::string InferCall(const DwsconvCudaCall& call, Chain* chain) {
  const auto shape = [&call](int tensor, size_t rank) {
    const int64_t* const sizes = call.shapes[tensor];
    return sizes[0] < 0 ? std::nullopt : std::optional<Shape>(std::vector<int64_t>(sizes, sizes + rank));
  };
  const auto activation = [](const char* word, float alpha) {
    ActivationRequest given;
    given.word = word;
    given.alpha = alpha;
    return given;
  };
  Request request;
  request.input = std::vector<int64_t>(call.shapes[DWSCONV_CUDA_X], call.shapes[DWSCONV_CUDA_X] + 4);
  request.expand_filter = shape(DWSCONV_CUDA_EXPAND_FILTER, 4);
  request.expand_bias = shape(DWSCONV_CUDA_EXPAND_BIAS, 1);
  request.depthwise_filter = shape(DWSCONV_CUDA_DEPTHWISE_FILTER, 4);
  request.depthwise_bias = shape(DWSCONV_CUDA_DEPTHWISE_BIAS, 1);
  request.pointwise_filter = shape(DWSCONV_CUDA_POINTWISE_FILTER, 4);
  request.bias = shape(DWSCONV_CUDA_BIAS, 1);
  request.gate = shape(DWSCONV_CUDA_SCALE, 2);
  request.residual = shape(DWSCONV_CUDA_RESIDUAL, 4);
  request.strides.assign(call.strides, call.strides + 2);
  request.dilations.assign(call.dilations, call.dilations + 2);
  request.padding = call.padding;
  if (request.padding == "EXPLICIT")
    request.explicit_paddings.assign(call.explicit_paddings, call.explicit_paddings + 8);
  request.data_format = call.data_format;
  request.expand_activation = activation(call.expand_activation, call.expand_alpha);
  request.depthwise_activation = activation(call.depthwise_activation, call.depthwise_alpha);
  request.activation = activation(call.activation, call.alpha);
  request.normalize = call.normalize != 0;
  request.epsilon = call.epsilon;
  request.dtype = static_cast<DType>(call.dtype);
  return Infer(request, chain);
}

// The rates that dwsconv_cuda_set_rates has put in the place of the planner's own.
std::mutex rates_mutex;
std::optional<CudaRates> other_rates;

std::optional<CudaRates> OtherRates() {
  const std::lock_guard<std::mutex> lock(rates_mutex);
  return other_rates;
}

// What both entries begin with.
std::string Prepare(const DwsconvCudaCall& call, Chain* chain, std::shared_ptr<const CudaPlan>* plan) {
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
  std::string error = InferCall(call, chain);
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
  if (const std::optional<CudaRates> rates = OtherRates()) machine.rates = *rates;
  return CachedCudaPlan(*chain, machine, options, plan);
}

}  // namespace
}  // namespace dwsconv

extern "C" {

const char* dwsconv_cuda_plan(const DwsconvCudaCall* call, DwsconvCudaPlan* result) {
  dwsconv::Chain chain;
  std::shared_ptr<const dwsconv::CudaPlan> kept;
  const std::string error = dwsconv::Prepare(*call, &chain, &kept);
  if (!error.empty()) return dwsconv::Keep(error);
  const dwsconv::CudaPlan& plan = *kept;
  const std::vector<int64_t> shape = dwsconv::OutputShape(chain);
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
  dwsconv::Chain chain;
  std::shared_ptr<const dwsconv::CudaPlan> kept;
  const std::string error = dwsconv::Prepare(*call, &chain, &kept);
  if (!error.empty()) return dwsconv::Keep(error);
  const dwsconv::CudaPlan& plan = *kept;
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
  return dwsconv::Keep(dwsconv::cuda::Execute(chain, plan, tensors, call->workspace, call->stream));
}

const char* dwsconv_cuda_set_rates(const double* rates) {
  const std::lock_guard<std::mutex> lock(dwsconv::rates_mutex);
  dwsconv::other_rates.reset();
  if (rates == nullptr) return dwsconv::Keep("");
  for (int i = 0; i < DWSCONV_CUDA_RATES; ++i) {
    if (!(rates[i] > 0) || std::isinf(rates[i])) {
      return dwsconv::Keep("rates must be positive numbers, but number " + std::to_string(i) + " is " +
                           std::to_string(rates[i]));
    }
  }
  dwsconv::other_rates =
      dwsconv::CudaRates{rates[0], rates[1], rates[2], rates[3], rates[4], rates[5], rates[6], rates[7]};
  return dwsconv::Keep("");
}

int64_t dwsconv_cuda_calls(int32_t path) {
  if (path < 0 || path >= dwsconv::kCudaPaths) return -1;
  return dwsconv::cuda::Calls(static_cast<dwsconv::CudaPath>(path));
}

int64_t dwsconv_cuda_plans_made(void) { return dwsconv::CudaPlansMade(); }

}  // extern "C"
