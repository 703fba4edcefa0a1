#include <atomic>
#include <cstdint>
#include <string>

#include "cuda/run/call.h"
#include "cuda/run/execute.h"

namespace dwsconv {
namespace cuda {
namespace {

std::atomic<int64_t> calls[kCudaPaths];

// By CudaKernel.
// clang-format off
Run* const kRuns[] = {
    RunTranspose, RunTranspose, RunTranspose,
    RunDepthwise, RunDepthwise, RunDepthwise, RunToeplitz, RunWindow, RunPixels,
    RunProduct, RunWarpgroupProduct, RunGatedProduct, RunDenseProduct, RunConvolution,
    RunDirect, RunStream, RunTensorStream, RunDeep, RunStrip,
    RunGradientStream, RunColumns, RunBetweenFactors, RunOutputGradient, RunBetweenGradient, RunFilterProduct,
    RunWarpgroupBetween, RunWarpgroupFilterProduct,
    RunDepthwiseGradient, RunReduce, RunReduce,
};
// clang-format on
static_assert(sizeof(kRuns) / sizeof(kRuns[0]) == static_cast<int>(CudaKernel::kCount), "one for each kernel");

}  // namespace

bool AlignedForFused(const CudaTensors& tensors) {
  // Depthwise filters are read by elements there, but by words in the kernel that follows.
  for (CudaTensor tensor :
       {CudaTensor::kX, CudaTensor::kGrad, CudaTensor::kY, CudaTensor::kDX, CudaTensor::kDResidual}) {
    if (reinterpret_cast<uintptr_t>(tensors[tensor]) % 16 != 0) return false;
  }
  return true;
}

int64_t Calls(CudaPath path) {
  if (path != CudaPath::kAuto) return calls[static_cast<int>(path)].load();
  int64_t all = 0;
  for (const auto& some : calls) all += some.load();
  return all;
}

std::string Execute(const Chain& chain, const CudaPlan& plan, const CudaTensors& tensors, void* workspace,
                    void* stream) {
  if (plan.path == CudaPath::kFused && !plan.transposed && !AlignedForFused(tensors)) {
    return "path fused takes pointers that are multiples of 16 bytes";
  }
  if (plan.path != CudaPath::kAuto) calls[static_cast<int>(plan.path)].fetch_add(1);
  // Kernels leave out what is null.
  CudaTensors given = tensors;
  if (!chain.has_expand_bias) given.Set(CudaTensor::kExpandBias, nullptr);
  if (!chain.has_depthwise_bias) given.Set(CudaTensor::kDepthwiseBias, nullptr);
  if (!chain.has_bias) given.Set(CudaTensor::kBias, nullptr);
  if (!chain.has_gate) given.Set(CudaTensor::kGate, nullptr);
  if (!chain.has_residual) given.Set(CudaTensor::kResidual, nullptr);
  const Call call{chain, plan, given, static_cast<char*>(workspace), stream};
  for (const CudaStep& step : plan.steps) {
    const char* const error = kRuns[static_cast<int>(step.kernel)](call, step);
    if (*error != '\0') return error;
  }
  return "";
}

}  // namespace cuda
}  // namespace dwsconv
