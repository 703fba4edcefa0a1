// The block's fused kernel, for the files that compile it by one policy each.
#ifndef DWSCONV_CUDA_FUSED_STRIP_LAUNCH_CUH_
#define DWSCONV_CUDA_FUSED_STRIP_LAUNCH_CUH_

#include "cuda/fused/strip_kernel.cuh"
#include "cuda/run/launch.cuh"

namespace dwsconv {
namespace cuda {

template <typename Policy>
const char* LaunchStrip(const Chain& p, const Launch& launch, const BlockStripArgs& args) {
  return WithWindow<5>(p, [&](auto win) {
    return LaunchKernel(BlockStripKernel<Policy, decltype(win)>, launch.grid, launch.threads, launch.shared_bytes,
                        launch.stream, args);
  });
}

}  // namespace cuda
}  // namespace dwsconv

#endif  // DWSCONV_CUDA_FUSED_STRIP_LAUNCH_CUH_
