// The fused kernel for deep layers, for the files that compile it by one policy each.
#ifndef DWSCONV_CUDA_FUSED_DEEP_LAUNCH_CUH_
#define DWSCONV_CUDA_FUSED_DEEP_LAUNCH_CUH_

#include "cuda/fused/deep_kernel.cuh"
#include "cuda/run/launch.cuh"

namespace dwsconv {
namespace cuda {

// plain: rows are whole vectors, and pointers are aligned to them.
template <typename Policy>
const char* LaunchDeep(const Chain& p, const Launch& launch, bool plain, const DeepArgs& args) {
  const auto run = [&](auto win) {
    return LaunchKernel(DeepKernel<Policy, decltype(win)>, launch.grid, launch.threads, launch.shared_bytes,
                        launch.stream, args);
  };
  return plain ? WithWindow<7>(p, run) : run(AnyWindow());
}

}  // namespace cuda
}  // namespace dwsconv

#endif  // DWSCONV_CUDA_FUSED_DEEP_LAUNCH_CUH_
