// The fused kernel's windows, for the files that compile them for one element type each.
#ifndef DWSCONV_CUDA_FUSED_STRIP_LAUNCH_CUH_
#define DWSCONV_CUDA_FUSED_STRIP_LAUNCH_CUH_

#include "cuda/fused/strip_kernel.cuh"
#include "cuda/run/block_launch.h"

namespace dwsconv {
namespace cuda {

template <typename Policy>
const char* LaunchBlockStrip(int64_t window, int64_t stride, int64_t grid, int64_t shared_bytes, void* stream,
                             const BlockStripArgs& args) {
  void (*kernel)(BlockStripArgs) = nullptr;
  if (window == 3 && stride == 1) kernel = BlockStripKernel<Policy, Window<3, 1>>;
  if (window == 3 && stride == 2) kernel = BlockStripKernel<Policy, Window<3, 2>>;
  if (window == 5 && stride == 1) kernel = BlockStripKernel<Policy, Window<5, 1>>;
  if (window == 5 && stride == 2) kernel = BlockStripKernel<Policy, Window<5, 2>>;
  if (kernel == nullptr) return "there is no fused kernel of the block for this window";
  return LaunchKernel(kernel, grid, kBlockStripThreads, shared_bytes, stream, args);
}

}  // namespace cuda
}  // namespace dwsconv

#endif  // DWSCONV_CUDA_FUSED_STRIP_LAUNCH_CUH_
