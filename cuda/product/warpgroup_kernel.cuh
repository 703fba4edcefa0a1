// The pointwise half alone, as pointwise_kernel.cuh has it, by what 9.0 has for it: see warpgroup_ring.cuh.
#ifndef DWSCONV_CUDA_PRODUCT_WARPGROUP_KERNEL_CUH_
#define DWSCONV_CUDA_PRODUCT_WARPGROUP_KERNEL_CUH_

#include <cstdint>

#include "cc/plan/cuda/tile.h"
#include "cuda/device/element.cuh"
#include "cuda/device/hopper.cuh"
#include "cuda/device/store_tile.cuh"
#include "cuda/product/warpgroup_ring.cuh"

namespace dwsconv {
namespace cuda {

struct WarpgroupArgs {
  TensorMap z, p;    // [pixels, channels], [channels, K]: tiles of kProductTile and of kGroupDepth rows
  const void* bias;  // [K] or null
  OutputArgs out;
  int64_t pixels, column_tiles, items;  // items: tiles of rows * column_tiles
  int channels;                         // C*M
};

// shared.floats: bias, [2][kConsumers][128], of turns about.
using ProductShared = WarpgroupShared<kGroupStages>;

// One thread: asks for all stages of the block's items, in the order in which they are multiplied.
DWS_DEVICE void FillAll(const WarpgroupArgs& args, const ProductShared& shared, int steps) {
  ProductShared::Place at;
  for (int64_t item = blockIdx.x; item < args.items; item += gridDim.x) {
    // Blocks that run together read the same rows of Z, which is the larger matrix: all of P stays in L2.
    const int64_t row_tile = item / args.column_tiles, column_tile = item - row_tile * args.column_tiles;
    FillRing<Major::kDepth, Major::kOuter>(args.z, args.p, shared, row_tile * kProductTile, column_tile * kProductTile,
                                           0, steps, &at);
  }
}

template <typename T>
DWS_DEVICE void MultiplyAndStore(const WarpgroupArgs& args, const ProductShared& shared, int group, int steps) {
  const int thread = threadIdx.x % kWarpgroup, lane = threadIdx.x % 32;
  ProductShared::Place at;
  int turn = 0;
  for (int64_t item = blockIdx.x; item < args.items; item += gridDim.x, turn ^= 1) {
    const int64_t row_tile = item / args.column_tiles, first_pixel = row_tile * kProductTile;
    const int first_column = static_cast<int>(item - row_tile * args.column_tiles) * kProductTile;
    const int columns = args.out.channels - first_column;
    // The other bias may be in use until the barrier of this turn; this one was not since that of the last turn.
    float* const bias = shared.floats + (turn * kConsumers + group) * kProductTile;
    const bool there = args.bias != nullptr && thread < columns;
    bias[thread] = there ? Widen(static_cast<const T*>(args.bias)[first_column + thread]) : 0.f;
    SyncGroup(group, kWarpgroup);
    Sums sums;
    ClearSums(sums);
    MultiplyRing<Major::kDepth, Major::kOuter, T>(sums, shared, group, lane, steps, &at);
    int rows[GroupSums<T>::kRows];
    DWS_UNROLL
    for (int i = 0; i < GroupSums<T>::kRows; ++i) {
      const int row = group * kGroupRows + thread / 32 * 16 + GroupSums<T>::Row(lane, i);
      rows[i] = first_pixel + row < args.pixels ? row * args.out.channels : -1;
    }
    OutputArgs out = args.out;
    const int64_t first = first_pixel * out.channels + first_column;
    out.y = static_cast<T*>(out.y) + first;
    if (out.residual != nullptr) out.residual = static_cast<const T*>(out.residual) + first;
    out.channels = columns;
    const int tiles =
        columns < kProductTile ? (columns + kTileColumns - 1) / kTileColumns : kProductTile / kTileColumns;
    StoreTile<GroupSums<T>, true>(sums, lane, tiles, 0, rows, bias, out);
  }
}

template <typename T>
__global__ void __launch_bounds__(DWS_HAS_HOPPER ? kWarpgroupThreads : 32, 2)
    WarpgroupKernel(const DWS_GRID_CONSTANT WarpgroupArgs args) {
#if DWS_HAS_HOPPER
  const ProductShared shared = ProductShared::Of(SharedMemory());
  shared.Init();
  const int steps = (args.channels + kGroupDepth - 1) / kGroupDepth;
  if (threadIdx.x >= kConsumerThreads) {
    if (threadIdx.x == kConsumerThreads) FillAll(args, shared, steps);
  } else {
    MultiplyAndStore<T>(args, shared, threadIdx.x / kWarpgroup, steps);
  }
#endif
}

}  // namespace cuda
}  // namespace dwsconv

#endif  // DWSCONV_CUDA_PRODUCT_WARPGROUP_KERNEL_CUH_
