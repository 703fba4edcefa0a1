// A ring of stages in shared memory through which the products of 9.0 go: a thread asks the copy engine for stages of
// both sides, two warpgroups multiply what has come by wgmma, 64 rows x 128 columns each. 16-bit elements, or floats as
// TF32; rows of whole vectors.
#ifndef DWSCONV_CUDA_PRODUCT_WARPGROUP_RING_CUH_
#define DWSCONV_CUDA_PRODUCT_WARPGROUP_RING_CUH_

#include <cstdint>

#include "cc/plan/cuda/tile.h"
#include "cuda/device/hopper.cuh"

namespace dwsconv {
namespace cuda {

constexpr int kConsumers = 2;  // warpgroups
constexpr int kConsumerThreads = kConsumers * kWarpgroup;
constexpr int kWarpgroupThreads = kConsumerThreads + 32;
static_assert(kConsumers * kGroupRows == kProductTile && kGroupColumns == kProductTile, "a tile of a block");

// Elements of the sum's index in a stage, and how often a product takes 32 bytes of them.
template <typename T>
constexpr int kRingDepth = kMapRowBytes / static_cast<int>(sizeof(T));
constexpr int kRingProducts = kMapRowBytes / 32;
static_assert(kGroupDepth * 2 == kMapRowBytes, "a row of a stage");

// A stage of a ring, and the parity of the ring's turn.
template <int kStages>
struct RingPlace {
  int stage = 0, parity = 0;
  DWS_DEVICE static RingPlace After(uint64_t steps) {
    RingPlace at;
    at.stage = static_cast<int>(steps % kStages);
    at.parity = static_cast<int>(steps / kStages % 2);
    return at;
  }
  DWS_DEVICE void Next() {
    if (++stage < kStages) return;
    stage = 0;
    parity ^= 1;
  }
};

template <int kStages>
struct WarpgroupShared {
  using Place = RingPlace<kStages>;

  char* ring;
  uint64_t* full;   // of each stage: what it expects has come
  uint64_t* empty;  // of each stage: all warps have multiplied it
  float* floats;    // the kernel's own

  DWS_DEVICE static WarpgroupShared Of(char* shared) {
    // Where a pattern of 1024 bytes begins.
    char* const ring = shared + (0u - SharedAddress(shared)) % 1024u;
    uint64_t* const full = reinterpret_cast<uint64_t*>(ring + kStages * kGroupStageBytes);
    return {ring, full, full + kStages, reinterpret_cast<float*>(full + 2 * kStages)};
  }

  DWS_DEVICE char* Stage(const Place& at) const { return ring + at.stage * kGroupStageBytes; }

  // The whole block comes here first.
  DWS_DEVICE void Init() const {
    if (threadIdx.x == 0) {
      for (int stage = 0; stage < kStages; ++stage) {
        InitPhases(full + stage, 1);
        InitPhases(empty + stage, kConsumerThreads / 32);
      }
      FencePhases();
    }
    SyncBlock();
  }

  // The thread that asks for a stage waits until it is free. Returns the barrier for the copies.
  DWS_DEVICE uint64_t* Expect(const Place& at) const {
    WaitForPhase(empty + at.stage, at.parity ^ 1);
    ArriveExpecting(full + at.stage, kGroupStageBytes);
    return full + at.stage;
  }
};

// One side of a product in a stage: 128 of its outer index (rows of the left side, columns of the right one) by
// kRingDepth of the sum's. kDepth: of a matrix [outer, depth], a tile of 128 rows. kOuter, of 16-bit elements alone: of
// a matrix [depth, outer], two tiles of kGroupDepth rows, 64 columns each.
template <Major kMajor>
struct RingSide {
  static constexpr int kBytes = kGroupStageBytes / 2, kHalfBytes = kBytes / 2;
  static constexpr int kTileRows = kMajor == Major::kDepth ? kProductTile : kGroupDepth;  // of the TensorMap
  static constexpr int kStepBytes = kMajor == Major::kDepth ? 32 : 16 * 128;              // from product to product

  DWS_DEVICE static void Load(char* to, const TensorMap& map, int64_t outer, int64_t depth, uint64_t* full) {
    if constexpr (kMajor == Major::kDepth) {
      BulkTile(to, map, outer, static_cast<int>(depth), full);
    } else {
      DWS_UNROLL
      for (int half = 0; half < 2; ++half) {
        BulkTile(to + half * kHalfBytes, map, depth, static_cast<int>(outer) + half * kMapColumns, full);
      }
    }
  }

  // The matrix from the `half`-th 64 of the outer index on.
  DWS_DEVICE static uint64_t At(const char* side, int half) {
    return MatrixAt(side + half * kHalfBytes, kMajor == Major::kDepth ? 16 : kHalfBytes, 1024, Swizzle::k128);
  }
};

// One thread: asks for the stages of one tile of a product, from these row, column and depth on.
template <Major kA, Major kB, typename T, int kStages>
DWS_DEVICE void FillRing(const TensorMap& a, const TensorMap& b, const WarpgroupShared<kStages>& shared, int64_t row,
                         int64_t column, int64_t depth, int steps, RingPlace<kStages>* at) {
  for (int step = 0; step < steps; ++step, depth += kRingDepth<T>) {
    char* const stage = shared.Stage(*at);
    uint64_t* const full = shared.Expect(*at);
    RingSide<kA>::Load(stage, a, row, depth, full);
    RingSide<kB>::Load(stage + RingSide<kA>::kBytes, b, column, depth, full);
    at->Next();
  }
}

// A warpgroup: sums of its 64 rows x 128 columns of that tile, stage by stage. Each of its warps lets go of a stage
// itself, when its own part of the products that read it is done.
template <Major kA, Major kB, typename T, int kStages>
DWS_DEVICE void MultiplyRing(Sums& sums, const WarpgroupShared<kStages>& shared, int group, int lane, int steps,
                             RingPlace<kStages>* at) {
  const uint64_t first_a = RingSide<kA>::At(shared.ring, group);
  const uint64_t first_b = RingSide<kB>::At(shared.ring + RingSide<kA>::kBytes, 0);
  int before = -1;  // the stage whose products may be under way still
  DWS_ROLLED
  for (int step = 0; step < steps; ++step) {
    WaitForPhase(shared.full + at->stage, at->parity);
    const uint64_t a = MatrixPast(first_a, at->stage * kGroupStageBytes);
    const uint64_t b = MatrixPast(first_b, at->stage * kGroupStageBytes);
    FenceProducts();
    DWS_UNROLL
    for (int k = 0; k < kRingProducts; ++k) {
      MultiplyGroup<kA, kB>(sums, MatrixPast(a, k * RingSide<kA>::kStepBytes),
                            MatrixPast(b, k * RingSide<kB>::kStepBytes), true, T());
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

}  // namespace cuda
}  // namespace dwsconv

#endif  // DWSCONV_CUDA_PRODUCT_WARPGROUP_RING_CUH_
