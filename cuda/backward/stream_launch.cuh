// The fused kernel of gradients, for the files that compile it by one policy each.
#ifndef DWSCONV_CUDA_BACKWARD_STREAM_LAUNCH_CUH_
#define DWSCONV_CUDA_BACKWARD_STREAM_LAUNCH_CUH_

#include "cuda/backward/stream_kernel.cuh"
#include "cuda/run/launch.cuh"

namespace dwsconv {
namespace cuda {

template <typename Policy>
const char* LaunchBackwardStream(const Chain& p, const Launch& launch, const BackwardStreamArgs& args) {
  return WithWindow<5>(p, [&](auto win) {
    return LaunchKernel(BackwardStreamKernel<Policy, decltype(win)>, launch.grid, launch.threads, launch.shared_bytes,
                        launch.stream, args);
  });
}

}  // namespace cuda
}  // namespace dwsconv

#endif  // DWSCONV_CUDA_BACKWARD_STREAM_LAUNCH_CUH_
