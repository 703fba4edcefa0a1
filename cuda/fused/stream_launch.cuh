// The fused kernel's windows, for the files that compile them for one element type each.
#ifndef DWSCONV_CUDA_FUSED_STREAM_LAUNCH_CUH_
#define DWSCONV_CUDA_FUSED_STREAM_LAUNCH_CUH_

#include "cuda/fused/stream_kernel.cuh"
#include "cuda/run/launch.h"

namespace dwsconv {
namespace cuda {

template <typename Policy>
const char* LaunchStream(int64_t window, int64_t stride, const Launch& launch, const StreamArgs& args) {
  void (*kernel)(StreamArgs) = nullptr;
  if (window == 3 && stride == 1) kernel = StreamKernel<Policy, Window<3, 1>>;
  if (window == 3 && stride == 2) kernel = StreamKernel<Policy, Window<3, 2>>;
  if (window == 5 && stride == 1) kernel = StreamKernel<Policy, Window<5, 1>>;
  if (window == 5 && stride == 2) kernel = StreamKernel<Policy, Window<5, 2>>;
  if (window == 7 && stride == 1) kernel = StreamKernel<Policy, Window<7, 1>>;
  if (kernel == nullptr) return "there is no fused kernel for this window";
  return LaunchKernel(kernel, launch.grid, launch.threads, launch.shared_bytes, launch.stream, args);
}

}  // namespace cuda
}  // namespace dwsconv

#endif  // DWSCONV_CUDA_FUSED_STREAM_LAUNCH_CUH_
