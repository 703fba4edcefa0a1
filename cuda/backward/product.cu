#include <algorithm>

#include "cuda/backward/product_kernel.cuh"
#include "cuda/run/backward_launch.h"

namespace dwsconv {
namespace cuda {
namespace {

// Calls launch(Policy()) with the policy of an element type and its math.
template <typename F>
const char* WithPolicy(DType dtype, CudaMath math, F launch) {
  switch (dtype) {
    case DType::kFloat16:
      return launch(TensorCores16<Float16>());
    case DType::kBFloat16:
      return launch(TensorCores16<BFloat16>());
    case DType::kFloat32:
      break;
  }
  return math == CudaMath::kTf32 ? launch(TensorCoresTf32()) : launch(ExactFloat());
}

int64_t Grid(int64_t items) { return std::min<int64_t>(items, INT32_MAX); }

}  // namespace

const char* LaunchBetweenGradient(DType dtype, CudaMath math, void* stream, const BackwardProductArgs& args) {
  return WithPolicy(dtype, math, [&](auto policy) {
    using Policy = decltype(policy);
    const bool plain = args.a_vector && args.b_vector && args.to_vector;
    return LaunchKernel(plain ? BetweenGradientKernel<Policy, true> : BetweenGradientKernel<Policy, false>,
                        Grid(args.items), kBackwardThreads,
                        BackwardSizes<typename Policy::Element>::kProductSharedBytes, stream, args);
  });
}

const char* LaunchOutputGradient(DType dtype, CudaMath math, void* stream, const BackwardProductArgs& args) {
  return WithPolicy(dtype, math, [&](auto policy) {
    using Policy = decltype(policy);
    return LaunchKernel(OutputGradientKernel<Policy>, Grid(args.items), kBackwardThreads,
                        BackwardSizes<typename Policy::Element>::kProductSharedBytes, stream, args);
  });
}

const char* LaunchFilterProduct(DType dtype, CudaMath math, void* stream, const FilterProductArgs& args) {
  return WithPolicy(dtype, math, [&](auto policy) {
    using Policy = decltype(policy);
    return LaunchKernel(FilterProductKernel<Policy>, Grid(args.items), kBackwardThreads,
                        BackwardSizes<typename Policy::Element>::kFilterSharedBytes, stream, args);
  });
}

}  // namespace cuda
}  // namespace dwsconv
