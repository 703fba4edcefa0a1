#include "cuda/backward/stream_launch.cuh"

namespace dwsconv {
namespace cuda {

const char* LaunchBackwardStreamBFloat16(int64_t window, int64_t stride, const Launch& launch,
                                         const BackwardStreamArgs& args) {
  return LaunchBackwardStreamOf<TensorCores16<BFloat16>>(window, stride, launch, args);
}

}  // namespace cuda
}  // namespace dwsconv
