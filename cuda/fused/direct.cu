#include <algorithm>

#include "cuda/device/transpose_kernel.cuh"
#include "cuda/fused/direct_kernel.cuh"
#include "cuda/run/launch.h"

namespace dwsconv {
namespace cuda {
namespace {

// More blocks than any card runs at a time; they take turns at what is more.
constexpr int64_t kMostBlocks = 1 << 16;

}  // namespace

const char* LaunchDirect(DType dtype, void* stream, const DirectArgs& args) {
  void (*kernel)(DirectArgs) = dtype == DType::kFloat16    ? DirectKernel<Float16>
                               : dtype == DType::kBFloat16 ? DirectKernel<BFloat16>
                                                           : DirectKernel<float>;
  return LaunchKernel(kernel, std::min(args.items, kMostBlocks), kDirectThreads, kDirectSharedBytes, stream, args);
}

const char* LaunchTranspose(int64_t element_bytes, void* stream, const TransposeArgs& args) {
  void (*kernel)(TransposeArgs) = element_bytes == 2 ? TransposeKernel<uint16_t> : TransposeKernel<uint32_t>;
  return LaunchKernel(kernel, std::min(args.items, kMostBlocks), kTransposeThreads, kTransposeSharedBytes, stream,
                      args);
}

}  // namespace cuda
}  // namespace dwsconv
