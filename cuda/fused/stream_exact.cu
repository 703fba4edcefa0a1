#include "cuda/fused/stream_launch.cuh"

namespace dwsconv {
namespace cuda {

const char* LaunchStreamExact(int64_t window, int64_t stride, const Launch& launch, const StreamArgs& args) {
  return LaunchStream<ExactFloat>(window, stride, launch, args);
}

}  // namespace cuda
}  // namespace dwsconv
