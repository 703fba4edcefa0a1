#include "cuda/fused/stream_launch.cuh"

namespace dwsconv {
namespace cuda {

const char* LaunchStreamFloat16(int64_t window, int64_t stride, const Launch& launch, const StreamArgs& args) {
  return LaunchStream<TensorCores16<Float16>>(window, stride, launch, args);
}

}  // namespace cuda
}  // namespace dwsconv
