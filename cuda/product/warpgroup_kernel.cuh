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

// How P lies. The instruction takes floats with the sum's index side by side alone, so of floats there is P's
// transpose. It is rounded to TF32; of Z the instruction drops what is below.
template <typename T>
constexpr Major kFilterMajor = sizeof(T) == 4 ? Major::kDepth : Major::kOuter;

struct WarpgroupArgs {
  // Z [pixels, channels], tiles of kProductTile rows. P [channels, K], of kGroupDepth rows; or, as kFilterMajor says,
  // [K, channels], of kProductTile rows.
  TensorMap z, p;
  const void* bias;  // [K] or null
  OutputArgs out;
  int64_t pixels, column_tiles, items;  // items: tiles of rows * column_tiles
  int channels;                         // C*M
};

// shared.floats: bias, [2][kConsumers][128], of turns about.
using ProductShared = WarpgroupShared<kGroupStages>;

// One thread: asks for all stages of the block's items, in the order in which they are multiplied.
template <typename T>
DWS_DEVICE void FillAll(const WarpgroupArgs& args, const ProductShared& shared, int steps) {
  ProductShared::Place at;
  for (int64_t item = blockIdx.x; item < args.items; item += gridDim.x) {
    // Blocks that run together read the same rows of Z, which is the larger matrix: all of P stays in L2.
    const int64_t row_tile = item / args.column_tiles, column_tile = item - row_tile * args.column_tiles;
    FillRing<Major::kDepth, kFilterMajor<T>, T>(args.z, args.p, shared, row_tile * kProductTile,
                                                column_tile * kProductTile, 0, steps, &at);
  }
}

// A block's item of this turn: 32 bits of them are more than a card has memory for.
DWS_DEVICE int64_t ItemOf(uint32_t turn) { return blockIdx.x + static_cast<int64_t>(turn) * gridDim.x; }

// Where the sums of a thread go.
template <typename T>
struct GroupPlace {
  int rows[GroupSums<T>::kRows], tiles;  // as StoreTile takes them
  OutputArgs out;

  DWS_DEVICE GroupPlace(const WarpgroupArgs& args, int64_t item, int thread) : out(args.out) {
    const int64_t row_tile = item / args.column_tiles, first_pixel = row_tile * kProductTile;
    const int first_column = static_cast<int>(item - row_tile * args.column_tiles) * kProductTile;
    DWS_UNROLL
    for (int i = 0; i < GroupSums<T>::kRows; ++i) {
      const int row = thread / 32 * 16 + GroupSums<T>::Row(thread % 32, i);
      rows[i] = first_pixel + row < args.pixels ? row * args.out.channels : -1;
    }
    const int64_t first = first_pixel * out.channels + first_column;
    out.y = static_cast<T*>(out.y) + first;
    if (out.residual != nullptr) out.residual = static_cast<const T*>(out.residual) + first;
    out.channels -= first_column;
    tiles =
        out.channels < kProductTile ? (out.channels + kTileColumns - 1) / kTileColumns : kProductTile / kTileColumns;
  }
};

// StoreTile of floats. Beside the sums, an activation by InGroups leaves no registers for places: they are computed
// before it and again behind it.
DWS_DEVICE void StoreFloats(Sums& sums, const WarpgroupArgs& args, uint32_t turn, const float* bias) {
  const int lane = threadIdx.x % 32;
  {
    const GroupPlace<float> place(args, ItemOf(Opaque(turn)), static_cast<int>(Opaque(threadIdx.x)));
    const float* const residual = static_cast<const float*>(place.out.residual);
    GroupSums<float>::ForEach(sums, lane, place.tiles, [&](int i, int column, float* pair) {
      float other[2];
      LoadPairOf<true>(residual + place.rows[i] + column,
                       residual != nullptr && place.rows[i] >= 0 ? place.out.channels - column : 0, true, other);
      pair[0] += bias[column] + other[0];
      pair[1] += bias[column + 1] + other[1];
    });
  }
  ActivateAll<float>(sums, args.out.activation);
  const GroupPlace<float> place(args, ItemOf(Opaque(turn)), static_cast<int>(Opaque(threadIdx.x)));
  GroupSums<float>::ForEach(sums, lane, place.tiles, [&](int i, int column, const float* pair) {
    if (place.rows[i] < 0 || column >= place.out.channels) return;
    StorePair(static_cast<float*>(place.out.y) + place.rows[i] + column, pair);
  });
}

template <typename T>
DWS_DEVICE void MultiplyAndStore(const WarpgroupArgs& args, const ProductShared& shared, int steps) {
  // What a turn needs follows from its number and the thread's: beside the sums there are few registers.
  uint32_t turn = 0;
  for (int64_t item = blockIdx.x; item < args.items; item = ItemOf(++turn)) {
    auto at = ProductShared::Place::After(static_cast<uint64_t>(turn) * steps);
    const int thread = Opaque(threadIdx.x) % kWarpgroup, lane = thread % 32, group = Opaque(threadIdx.x) / kWarpgroup;
    const int first_column = static_cast<int>(item % args.column_tiles) * kProductTile;
    const int columns = args.out.channels - first_column;
    // The other bias may be in use until the barrier of this turn; this one was not since that of the last turn.
    float* const bias = shared.floats + (turn % 2 * kConsumers + group) * kProductTile;
    const bool there = args.bias != nullptr && thread < columns;
    bias[thread] = there ? Widen(static_cast<const T*>(args.bias)[first_column + thread]) : 0.f;
    SyncGroup(group, kWarpgroup);
    Sums sums;
    ClearSums(sums);
    MultiplyRing<Major::kDepth, kFilterMajor<T>, T>(sums, shared, group, lane, steps, &at);
    if constexpr (sizeof(T) == 4) {
      StoreFloats(sums, args, turn, bias);
    } else {
      const GroupPlace<T> place(args, item, threadIdx.x);
      StoreTile<GroupSums<T>, true>(sums, lane, place.tiles, 0, place.rows, bias, place.out);
    }
  }
}

template <typename T>
__global__ void __launch_bounds__(DWS_HAS_HOPPER ? kWarpgroupThreads : 32, 2)
    WarpgroupKernel(const DWS_GRID_CONSTANT WarpgroupArgs args) {
#if DWS_HAS_HOPPER
  const ProductShared shared = ProductShared::Of(SharedMemory());
  shared.Init();
  const int steps = (args.channels + kRingDepth<T> - 1) / kRingDepth<T>;
  if (threadIdx.x >= kConsumerThreads) {
    if (threadIdx.x == kConsumerThreads) FillAll<T>(args, shared, steps);
  } else {
    MultiplyAndStore<T>(args, shared, steps);
  }
#endif
}

}  // namespace cuda
}  // namespace dwsconv

#endif  // DWSCONV_CUDA_PRODUCT_WARPGROUP_KERNEL_CUH_
