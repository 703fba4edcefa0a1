// [batch, rows, columns] to [batch, columns, rows]: between NCHW and NHWC, and of filters.
#ifndef DWSCONV_CUDA_DEVICE_TRANSPOSE_KERNEL_CUH_
#define DWSCONV_CUDA_DEVICE_TRANSPOSE_KERNEL_CUH_

#include <cstdint>

#include "cuda/device/fragments.cuh"
#include "cuda/device/platform.cuh"

namespace dwsconv {
namespace cuda {

constexpr int kTransposeTile = 32;
constexpr int kTransposeThreads = 256;
constexpr int kTransposeSharedBytes = kTransposeTile * (kTransposeTile + 1) * 4;

struct TransposeArgs {
  const void* from;
  void* to;
  int64_t batch, rows, columns, items;
};

// Bits: uint16_t or uint32_t, as wide as an element. kRounds: floats become TF32, for products that would cut them off.
template <typename Bits, bool kRounds = false>
__global__ void __launch_bounds__(kTransposeThreads) TransposeKernel(const TransposeArgs args) {
  uint32_t* const tile = reinterpret_cast<uint32_t*>(SharedMemory());
  const int64_t row_tiles = (args.rows + kTransposeTile - 1) / kTransposeTile;
  const int64_t column_tiles = (args.columns + kTransposeTile - 1) / kTransposeTile;
  const int lane = threadIdx.x % kTransposeTile, line = threadIdx.x / kTransposeTile;
  constexpr int kLines = kTransposeThreads / kTransposeTile;
  for (int64_t item = blockIdx.x; item < args.items; item += gridDim.x) {
    const int64_t row = item / column_tiles % row_tiles * kTransposeTile, column = item % column_tiles * kTransposeTile;
    const int64_t matrix = item / column_tiles / row_tiles * args.rows * args.columns;
    const Bits* const from = static_cast<const Bits*>(args.from) + matrix;
    Bits* const to = static_cast<Bits*>(args.to) + matrix;
    for (int i = line; i < kTransposeTile; i += kLines) {
      if (row + i < args.rows && column + lane < args.columns) {
        tile[i * (kTransposeTile + 1) + lane] = from[(row + i) * args.columns + column + lane];
      }
    }
    SyncBlock();
    for (int i = line; i < kTransposeTile; i += kLines) {
      if (column + i < args.columns && row + lane < args.rows) {
        const int at = lane * (kTransposeTile + 1) + i;
        const uint32_t bits = kRounds ? ToTf32(reinterpret_cast<const float*>(tile)[at]) : tile[at];
        to[(column + i) * args.rows + row + lane] = static_cast<Bits>(bits);
      }
    }
    SyncBlock();
  }
}

}  // namespace cuda
}  // namespace dwsconv

#endif  // DWSCONV_CUDA_DEVICE_TRANSPOSE_KERNEL_CUH_
