// The fused kernel, for the files that compile it by one policy each.
#ifndef DWSCONV_CUDA_FUSED_STREAM_LAUNCH_CUH_
#define DWSCONV_CUDA_FUSED_STREAM_LAUNCH_CUH_

#include "cuda/fused/stream_kernel.cuh"
#include "cuda/run/launch.cuh"

namespace dwsconv {
namespace cuda {

template <typename Policy>
const char* LaunchStream(const Chain& p, const Launch& launch, const StreamArgs& args) {
  return WithWindow<7>(p, [&](auto win) {
    return LaunchKernel(StreamKernel<Policy, decltype(win)>, launch.grid, launch.threads, launch.shared_bytes,
                        launch.stream, args);
  });
}

}  // namespace cuda
}  // namespace dwsconv

#endif  // DWSCONV_CUDA_FUSED_STREAM_LAUNCH_CUH_
