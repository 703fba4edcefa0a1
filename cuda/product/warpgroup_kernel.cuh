// The pointwise half alone, as pointwise_kernel.cuh has it, by what 9.0 has for it: a warp asks the copy engine for
// stages of Z and P, two warpgroups multiply what has come by wgmma, 64 pixels x 128 columns each. 16-bit elements,
// or floats as TF32; rows of whole vectors.
#ifndef DWSCONV_CUDA_PRODUCT_WARPGROUP_KERNEL_CUH_
#define DWSCONV_CUDA_PRODUCT_WARPGROUP_KERNEL_CUH_

#include <cstdint>

#include "cc/plan/cuda/tile.h"
#include "cuda/device/element.cuh"
#include "cuda/device/hopper.cuh"
#include "cuda/device/store_tile.cuh"

namespace dwsconv {
namespace cuda {

constexpr int kConsumers = 2;  // warpgroups
constexpr int kConsumerThreads = kConsumers * kWarpgroup;
constexpr int kWarpgroupThreads = kConsumerThreads + 32;
static_assert(kConsumers * kGroupRows == kProductTile && kGroupColumns == kProductTile, "a tile of a block");

struct WarpgroupArgs {
  // Z [pixels, channels], tiles of kProductTile rows. P [channels, K], of kGroupDepth rows; or, as
  // GroupStage::kTransposed says, [K, channels], of kProductTile rows.
  TensorMap z, p;
  const void* bias;  // [K] or null
  OutputArgs out;
  int64_t pixels, column_tiles, items;  // items: tiles of rows * column_tiles
  int channels;                         // C*M
};

// A stage of a ring, and the parity of the ring's turn.
struct RingPlace {
  int stage, parity;
  DWS_DEVICE static RingPlace After(uint64_t steps) {
    return {static_cast<int>(steps % kGroupStages), static_cast<int>(steps / kGroupStages % 2)};
  }
  DWS_DEVICE void Next() {
    if (++stage < kGroupStages) return;
    stage = 0;
    parity ^= 1;
  }
};

// A stage: 128 rows of Z, 64 channels each; two times 64 rows of P, 64 columns each.
constexpr int kStageZBytes = kProductTile * kGroupDepth * 2, kStagePBytes = kGroupDepth * kMapColumns * 2;

// A stage's bytes as elements. The instruction takes floats with the sum's index side by side alone, so of floats there
// is P's transpose: 128 columns, 32 channels each. It is rounded to TF32; of Z the instruction drops what is below.
template <typename T>
struct GroupStage {
  static constexpr bool kTransposed = sizeof(T) == 4;
  static constexpr Major kMajor = kTransposed ? Major::kDepth : Major::kOuter;
  static constexpr int kDepth = kMapRowBytes / static_cast<int>(sizeof(T));
  // 32 bytes of the sum's index, which a product takes: so far in a row of Z and of P's transpose, or 16 rows of P.
  static constexpr int kProducts = kMapRowBytes / 32, kZStep = 32, kPStep = kTransposed ? 32 : 2048;
};
static_assert(kGroupDepth * 2 == kMapRowBytes, "a row of a stage");

struct WarpgroupShared {
  char* ring;
  float* bias;      // [2][kConsumers][128], of turns about
  uint64_t* full;   // of each stage: what it expects has come
  uint64_t* empty;  // of each stage: all warps have multiplied it

  DWS_DEVICE static WarpgroupShared Of(char* shared) {
    // Where a pattern of 1024 bytes begins.
    char* const ring = shared + (0u - SharedAddress(shared)) % 1024u;
    float* const bias = reinterpret_cast<float*>(ring + kGroupStages * kGroupStageBytes);
    uint64_t* const full = reinterpret_cast<uint64_t*>(bias + 2 * kConsumers * kProductTile);
    return {ring, bias, full, full + kGroupStages};
  }
};

// One thread: asks for all stages of the block's items, in the order in which they are multiplied.
template <typename T>
DWS_DEVICE void FillRing(const WarpgroupArgs& args, const WarpgroupShared& shared, int steps) {
  RingPlace at = RingPlace::After(0);
  for (int64_t item = blockIdx.x; item < args.items; item += gridDim.x) {
    // Blocks that run together read the same rows of Z, which is the larger matrix: all of P stays in L2.
    const int64_t row_tile = item / args.column_tiles, first_pixel = row_tile * kProductTile;
    const int first_column = static_cast<int>(item - row_tile * args.column_tiles) * kProductTile;
    for (int step = 0; step < steps; ++step) {
      char* const stage = shared.ring + at.stage * kGroupStageBytes;
      WaitForPhase(shared.empty + at.stage, at.parity ^ 1);
      uint64_t* const full = shared.full + at.stage;
      ArriveExpecting(full, kGroupStageBytes);
      const int depth = step * GroupStage<T>::kDepth;
      BulkTile(stage, args.z, first_pixel, depth, full);
      if constexpr (GroupStage<T>::kTransposed) {
        BulkTile(stage + kStageZBytes, args.p, first_column, depth, full);
      } else {
        DWS_UNROLL
        for (int half = 0; half < 2; ++half) {
          BulkTile(stage + kStageZBytes + half * kStagePBytes, args.p, depth, first_column + half * kMapColumns, full);
        }
      }
      at.Next();
    }
  }
}

// A warpgroup: sums of 64 pixels x 128 columns, stage by stage. Each of its warps lets go of a stage itself, when its
// own part of the products that read it is done.
template <typename T>
DWS_DEVICE void MultiplyRing(Sums& sums, const WarpgroupShared& shared, int group, int lane, int steps, RingPlace* at) {
  const uint64_t first_z = MatrixAt(shared.ring + group * kGroupRows * 128, 16, 1024, Swizzle::k128);
  const uint64_t first_p = MatrixAt(shared.ring + kStageZBytes, kStagePBytes, 1024, Swizzle::k128);
  int before = -1;  // the stage whose products may be under way still
  DWS_ROLLED
  for (int step = 0; step < steps; ++step) {
    WaitForPhase(shared.full + at->stage, at->parity);
    const uint64_t z = MatrixPast(first_z, at->stage * kGroupStageBytes);
    const uint64_t p = MatrixPast(first_p, at->stage * kGroupStageBytes);
    FenceProducts();
    DWS_UNROLL
    for (int k = 0; k < GroupStage<T>::kProducts; ++k) {
      MultiplyGroup<Major::kDepth, GroupStage<T>::kMajor>(sums, MatrixPast(z, GroupStage<T>::kZStep * k),
                                                          MatrixPast(p, GroupStage<T>::kPStep * k), true, T());
    }
    CommitProducts();
    WaitForAllButOne();
    if (before >= 0 && lane == 0) Arrive(shared.empty + before);
    before = at->stage;
    at->Next();
  }
  WaitForProducts(sums);
  if (lane == 0) Arrive(shared.empty + before);
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
DWS_DEVICE void MultiplyAndStore(const WarpgroupArgs& args, const WarpgroupShared& shared, int steps) {
  // What a turn needs follows from its number and the thread's: beside the sums there are few registers.
  uint32_t turn = 0;
  for (int64_t item = blockIdx.x; item < args.items; item = ItemOf(++turn)) {
    RingPlace at = RingPlace::After(static_cast<uint64_t>(turn) * steps);
    const int thread = Opaque(threadIdx.x) % kWarpgroup, lane = thread % 32, group = Opaque(threadIdx.x) / kWarpgroup;
    const int first_column = static_cast<int>(item % args.column_tiles) * kProductTile;
    const int columns = args.out.channels - first_column;
    // The other bias may be in use until the barrier of this turn; this one was not since that of the last turn.
    float* const bias = shared.bias + (turn % 2 * kConsumers + group) * kProductTile;
    const bool there = args.bias != nullptr && thread < columns;
    bias[thread] = there ? Widen(static_cast<const T*>(args.bias)[first_column + thread]) : 0.f;
    SyncGroup(group, kWarpgroup);
    Sums sums;
    ClearSums(sums);
    MultiplyRing<T>(sums, shared, group, lane, steps, &at);
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
  const WarpgroupShared shared = WarpgroupShared::Of(SharedMemory());
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < kGroupStages; ++stage) {
      InitPhases(shared.full + stage, 1);
      InitPhases(shared.empty + stage, kConsumerThreads / 32);
    }
    FencePhases();
  }
  SyncBlock();
  const int steps = (args.channels + GroupStage<T>::kDepth - 1) / GroupStage<T>::kDepth;
  if (threadIdx.x >= kConsumerThreads) {
    if (threadIdx.x == kConsumerThreads) FillRing<T>(args, shared, steps);
  } else {
    MultiplyAndStore<T>(args, shared, steps);
  }
#endif
}

}  // namespace cuda
}  // namespace dwsconv

#endif  // DWSCONV_CUDA_PRODUCT_WARPGROUP_KERNEL_CUH_
