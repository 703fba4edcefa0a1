#include "cuda/fused/strip_launch.cuh"

namespace dwsconv {
namespace cuda {

const char* LaunchBlockStripFloat16(int64_t window, int64_t stride, int64_t grid, int64_t shared_bytes, void* stream,
                                    const BlockStripArgs& args) {
  return LaunchBlockStrip<TensorCores16<Float16>>(window, stride, grid, shared_bytes, stream, args);
}

}  // namespace cuda
}  // namespace dwsconv
