#include "cuda/fused/stream_launch.cuh"

namespace dwsconv {
namespace cuda {

const char* LaunchStreamBFloat16(int64_t window, int64_t stride, const Launch& launch, const StreamArgs& args) {
  return LaunchStream<TensorCores16<BFloat16>>(window, stride, launch, args);
}

}  // namespace cuda
}  // namespace dwsconv
