#include <algorithm>

#include "cuda/depthwise/toeplitz_kernel.cuh"
#include "cuda/run/launch.h"

namespace dwsconv {
namespace cuda {

const char* LaunchDepthwiseToeplitz(DType dtype, int multiprocessors, void* stream, const ToeplitzArgs& args) {
  void (*kernel)(ToeplitzArgs) = nullptr;
  if (dtype == DType::kFloat16) kernel = DepthwiseToeplitzKernel<Float16>;
  if (dtype == DType::kBFloat16) kernel = DepthwiseToeplitzKernel<BFloat16>;
  if (kernel == nullptr) return "tensor cores take no depthwise sums of this type";
  const int64_t slots = int64_t{multiprocessors} * kToeplitzBlocks;
  const int64_t together = std::min<int64_t>(args.items, std::max<int64_t>(1, slots / args.groups));
  const int64_t grid = args.groups * together;
  return LaunchKernel(kernel, grid, kToeplitzThreads, kToeplitzSharedBytes, stream, args);
}

}  // namespace cuda
}  // namespace dwsconv
