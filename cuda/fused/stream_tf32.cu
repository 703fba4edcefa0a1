#include "cuda/fused/stream_launch.cuh"

namespace dwsconv {
namespace cuda {

const char* LaunchStreamTf32(int64_t window, int64_t stride, const Launch& launch, const StreamArgs& args) {
  return LaunchStream<TensorCoresTf32>(window, stride, launch, args);
}

}  // namespace cuda
}  // namespace dwsconv
