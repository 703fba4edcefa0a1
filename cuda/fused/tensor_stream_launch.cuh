// The fused kernel on tensor cores, for the files that compile it by one element type each.
#ifndef DWSCONV_CUDA_FUSED_TENSOR_STREAM_LAUNCH_CUH_
#define DWSCONV_CUDA_FUSED_TENSOR_STREAM_LAUNCH_CUH_

#include "cuda/fused/tensor_stream_kernel.cuh"
#include "cuda/run/launch.cuh"

namespace dwsconv {
namespace cuda {

template <typename T>
const char* LaunchTensorStream(const Chain& p, const Launch& launch, const StreamArgs& args) {
  return WithWindow<5>(p, [&](auto win) {
    const auto kernel = args.out_channels > kTiles * kTileColumns ? TensorStreamKernel<T, decltype(win), 2>
                                                                  : TensorStreamKernel<T, decltype(win), 1>;
    return LaunchKernel(kernel, launch.grid, launch.threads, launch.shared_bytes, launch.stream, args);
  });
}

}  // namespace cuda
}  // namespace dwsconv

#endif  // DWSCONV_CUDA_FUSED_TENSOR_STREAM_LAUNCH_CUH_
