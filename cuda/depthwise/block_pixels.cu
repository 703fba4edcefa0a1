#include <algorithm>

#include "cuda/depthwise/block_pixels_kernel.cuh"
#include "cuda/run/block_launch.h"

namespace dwsconv {
namespace cuda {
namespace {

// More blocks than any card runs at a time; they take turns at what is more.
constexpr int64_t kMostBlocks = 1 << 16;

int64_t Ceil(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace

const char* LaunchBlockPixels(DType dtype, void* stream, const BlockPixelsArgs& args) {
  void (*kernel)(BlockPixelsArgs) = dtype == DType::kFloat16    ? BlockPixelsKernel<Float16>
                                    : dtype == DType::kBFloat16 ? BlockPixelsKernel<BFloat16>
                                                                : BlockPixelsKernel<float>;
  const int64_t pixels = args.depthwise.N * args.depthwise.Ho * args.depthwise.Wo;
  const int64_t grid = std::min(Ceil(pixels, kBlockPixelsThreads / 32), kMostBlocks);
  return LaunchKernel(kernel, grid, kBlockPixelsThreads, 0, stream, args);
}

const char* LaunchBlockGeneral(DType dtype, void* stream, const BlockGeneralArgs& args) {
  void (*kernel)(BlockGeneralArgs) = dtype == DType::kFloat16    ? BlockGeneralKernel<Float16>
                                     : dtype == DType::kBFloat16 ? BlockGeneralKernel<BFloat16>
                                                                 : BlockGeneralKernel<float>;
  const int64_t grid = std::min(Ceil(args.N * args.Ho * args.Wo * args.K, kBlockGeneralThreads), kMostBlocks);
  return LaunchKernel(kernel, grid, kBlockGeneralThreads, 0, stream, args);
}

}  // namespace cuda
}  // namespace dwsconv
