#include "cuda/backward/stream_launch.cuh"

namespace dwsconv {
namespace cuda {

const char* LaunchBackwardStreamTf32(int64_t window, int64_t stride, const Launch& launch,
                                     const BackwardStreamArgs& args) {
  return LaunchBackwardStreamOf<TensorCoresTf32>(window, stride, launch, args);
}

}  // namespace cuda
}  // namespace dwsconv
