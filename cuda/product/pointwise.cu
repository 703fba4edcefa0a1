#include <algorithm>

#include "cuda/product/pointwise_kernel.cuh"
#include "cuda/run/launch.h"

namespace dwsconv {
namespace cuda {
namespace {

constexpr int kLastClamp = static_cast<int>(ActivationKind::kRelu6);

template <typename Policy>
const char* LaunchOf(void* stream, const PointwiseArgs& args) {
  const int64_t shared_bytes = PointwiseSizes<typename Policy::Element>::kSharedBytes;
  const int64_t grid = std::min<int64_t>(args.items, INT32_MAX);
  const bool plain = args.z_vector && args.p_vector && args.out.vector && args.out.activation.kind <= kLastClamp;
  void (*kernel)(PointwiseArgs) = plain ? PointwiseKernel<Policy, true> : PointwiseKernel<Policy, false>;
  return LaunchKernel(kernel, grid, kPointwiseThreads, shared_bytes, stream, args);
}

}  // namespace

const char* LaunchPointwise(DType dtype, CudaMath math, void* stream, const PointwiseArgs& args) {
  switch (dtype) {
    case DType::kFloat16:
      return LaunchOf<TensorCores16<Float16>>(stream, args);
    case DType::kBFloat16:
      return LaunchOf<TensorCores16<BFloat16>>(stream, args);
    case DType::kFloat32:
      break;
  }
  return math == CudaMath::kTf32 ? LaunchOf<TensorCoresTf32>(stream, args) : LaunchOf<ExactFloat>(stream, args);
}

}  // namespace cuda
}  // namespace dwsconv
