// Launches the fused kernel of the backward pass for a window.
#ifndef DWSCONV_CUDA_BACKWARD_STREAM_LAUNCH_CUH_
#define DWSCONV_CUDA_BACKWARD_STREAM_LAUNCH_CUH_

#include "cuda/backward/stream_kernel.cuh"
#include "cuda/run/backward_launch.h"
#include "cuda/run/launch.h"

namespace dwsconv {
namespace cuda {

template <typename Policy>
const char* LaunchBackwardStreamOf(int64_t window, int64_t stride, const Launch& launch,
                                   const BackwardStreamArgs& args) {
  void (*kernel)(BackwardStreamArgs) = nullptr;
  if (window == 3 && stride == 1) kernel = BackwardStreamKernel<Policy, Window<3, 1>>;
  if (window == 3 && stride == 2) kernel = BackwardStreamKernel<Policy, Window<3, 2>>;
  if (window == 5 && stride == 1) kernel = BackwardStreamKernel<Policy, Window<5, 1>>;
  if (window == 5 && stride == 2) kernel = BackwardStreamKernel<Policy, Window<5, 2>>;
  if (kernel == nullptr) return "there is no fused kernel of gradients for this window";
  return LaunchKernel(kernel, launch.grid, launch.threads, launch.shared_bytes, launch.stream, args);
}

}  // namespace cuda
}  // namespace dwsconv

#endif  // DWSCONV_CUDA_BACKWARD_STREAM_LAUNCH_CUH_
