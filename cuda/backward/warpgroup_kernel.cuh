// Two products of the backward pass, as product_kernel.cuh has them, by what 9.0 has for them: see warpgroup_ring.cuh.
//   dZ = G P^T, times mid', with the sums of its columns; P is read as it lies, as [C*M, K];
//   dP = Z^T G, cut over pixels into parts.
#ifndef DWSCONV_CUDA_BACKWARD_WARPGROUP_KERNEL_CUH_
#define DWSCONV_CUDA_BACKWARD_WARPGROUP_KERNEL_CUH_

#include <cstdint>

#include "cc/plan/cuda/tile.h"
#include "cuda/backward/derivative.cuh"
#include "cuda/device/block_sums.cuh"
#include "cuda/device/element.cuh"
#include "cuda/device/hopper.cuh"
#include "cuda/device/store_tile.cuh"
#include "cuda/product/warpgroup_ring.cuh"

namespace dwsconv {
namespace cuda {

struct WarpgroupBetweenArgs {
  TensorMap gradient, p;  // [pixels, K] and [columns, K]: tiles of kGradientProduct rows
  TensorMap factors;      // [pixels, columns]: Z or mid'; tiles of kGradientProduct rows
  void* to;               // [pixels, columns]; may be what factors are read from
  float* sums;            // [parts, columns], or null
  int64_t pixels;
  int tiles, part_tiles;        // of 128 pixels, and of a part
  int column_tiles, items;      // items: parts * column_tiles
  int depth, columns;           // K, C*M
  bool scales, are_factors;     // there are factors; they are mid'
  DeviceActivation activation;  // mid
};

// shared.floats: sums of 128 columns of each warp.
using BetweenShared = WarpgroupShared<kGroupStages>;

// Calls f(tile of pixels, first column) for the block's tiles, in the order in which the ring has them. Blocks that run
// together read the same rows of G; all of P stays in L2.
template <typename F>
DWS_DEVICE void ForEachTileOfBlock(const WarpgroupBetweenArgs& args, F f) {
  for (int item = blockIdx.x; item < args.items; item += gridDim.x) {
    const int part = item / args.column_tiles, column = (item - part * args.column_tiles) * kGradientProduct;
    const int begin = part * args.part_tiles;
    const int end = begin + args.part_tiles < args.tiles ? begin + args.part_tiles : args.tiles;
    for (int tile = begin; tile < end; ++tile) f(tile, column);
  }
}

// A warpgroup's sums times factors, scale(sum, factor) each. The factors' stage has two tiles of 128 rows x 64 columns,
// whose 16-byte pieces lie as TensorMap says.
template <typename T, typename F>
DWS_DEVICE void ScaleSums(Sums& sums, const char* stage, int first_row, int lane, F scale) {
  const char* const from = stage + (first_row + (lane >> 2)) * 128 + 4 * (lane & 3);
  GroupSums<T>::ForEach(sums, lane, 2 * kTiles, [&](int i, int column, float* pair) {
    const int tile = column / kMapColumns, piece = (column % kMapColumns / 8) ^ (lane >> 2);
    float factors[2];
    LoadPair(reinterpret_cast<const T*>(from + tile * (kProductTile * 128) + i * (8 * 128) + piece * 16), factors);
    pair[0] = scale(pair[0], factors[0]);
    pair[1] = scale(pair[1], factors[1]);
  });
}

// Adds, or with `begins` stores, the sums over the warp's 16 rows of its 128 columns. Each exchange gives half of eight
// values away, so that of 8 columns' values a lane ends with one, and nobody else touches its sum.
DWS_DEVICE void AddColumns(const Sums& sums, int lane, const bool (&inside)[2], bool begins, float* columns) {
  columns += ((lane >> 3) & 3) * 8 + 2 * (lane & 3) + ((lane >> 2) & 1);
  DWS_UNROLL
  for (int i = 0; i < 4; ++i) {
    float values[8];
    DWS_UNROLL
    for (int v = 0; v < 8; ++v) {
      const int tile = 2 * i + v / 4;
      const float* const from = &sums[tile % kTiles][tile / kTiles * 4 + v / 2 % 2 * 8 + v % 2];
      values[v] = (inside[0] ? from[0] : 0.f) + (inside[1] ? from[2] : 0.f);
    }
    DWS_UNROLL
    for (int half = 4; half > 0; half /= 2) {
      const bool upper = (lane & (4 * half)) != 0;
      DWS_UNROLL
      for (int v = 0; v < 4; ++v) {
        if (v >= half) continue;
        const float given = upper ? values[v] : values[v + half], kept = upper ? values[v + half] : values[v];
        values[v] = kept + ShuffleFloatXor(given, 4 * half);
      }
    }
    columns[32 * i] = begins ? values[0] : columns[32 * i] + values[0];
  }
}

// Both warpgroups: the warps' sums of a part's columns are added up in order.
DWS_DEVICE void StoreColumns(const WarpgroupBetweenArgs& args, const float* floats, int part, int first_column) {
  const int thread = threadIdx.x;
  SyncGroup(kConsumers, kConsumerThreads);
  if (thread < kGradientProduct && first_column + thread < args.columns) {
    float sum = floats[thread];
    DWS_UNROLL
    for (int warp = 1; warp < kConsumerThreads / 32; ++warp) sum += floats[warp * kGradientProduct + thread];
    args.sums[static_cast<int64_t>(part) * args.columns + first_column + thread] = sum;
  }
  SyncGroup(kConsumers, kConsumerThreads);
}

template <typename T>
DWS_DEVICE void MultiplyBetween(const WarpgroupBetweenArgs& args, const BetweenShared& shared, int group, int steps) {
  BetweenShared::Place at;
  ForEachTileOfBlock(args, [&](int tile, int first_column) {
    Sums sums;
    ClearSums(sums);
    MultiplyRing<Major::kDepth, Major::kDepth, T>(sums, shared, group, threadIdx.x % 32, steps, &at);
    // Counted behind the products, during which registers are scarce.
    const int thread = static_cast<int>(Opaque(threadIdx.x)), lane = thread % 32, first_row = thread / 32 * 16;
    if (args.scales) {
      WaitForPhase(shared.full + at.stage, at.parity);
      const char* const stage = shared.Stage(at);
      // The activation is asked for once, not for each value.
      const auto kind = static_cast<ActivationKind>(args.activation.kind);
      if (args.are_factors) {
        ScaleSums<T>(sums, stage, first_row, lane, [](float sum, float factor) { return Scale(sum, factor); });
      } else if (kind == ActivationKind::kRelu) {
        ScaleSums<T>(sums, stage, first_row, lane, [](float sum, float z) {
          return ScaleFromOutput(sum, z, {static_cast<int>(ActivationKind::kRelu), 0.f});
        });
      } else if (kind == ActivationKind::kRelu6) {
        ScaleSums<T>(sums, stage, first_row, lane, [](float sum, float z) {
          return ScaleFromOutput(sum, z, {static_cast<int>(ActivationKind::kRelu6), 0.f});
        });
      } else {
        ScaleSums<T>(sums, stage, first_row, lane,
                     [&](float sum, float z) { return ScaleFromOutput(sum, z, args.activation); });
      }
      // All lanes have read the stage before a warp lets go of it.
      SyncGroup(group, kWarpgroup);
      if (lane == 0) Arrive(shared.empty + at.stage);
      at.Next();
    }
    int rows[GroupSums<T>::kRows];
    bool inside[GroupSums<T>::kRows];
    DWS_UNROLL
    for (int i = 0; i < GroupSums<T>::kRows; ++i) {
      const int row = first_row + GroupSums<T>::Row(lane, i);
      inside[i] = int64_t{tile} * kGradientProduct + row < args.pixels;
      rows[i] = inside[i] ? row * args.columns : -1;
    }
    if (args.sums != nullptr) {
      const int part = tile / args.part_tiles;
      AddColumns(sums, lane, inside, tile == part * args.part_tiles, shared.floats + thread / 32 * kGradientProduct);
      const bool ends = tile + 1 == args.tiles || tile + 1 == (part + 1) * args.part_tiles;
      if (ends) StoreColumns(args, shared.floats, part, first_column);
    }
    const int left = args.columns - first_column;
    const int tiles = left < kProductTile ? (left + kTileColumns - 1) / kTileColumns : kProductTile / kTileColumns;
    T* const to = static_cast<T*>(args.to) + int64_t{tile} * kGradientProduct * args.columns + first_column;
    StoreVectors16(sums, lane, tiles, 0, rows, to, left, [](uint32_t word) { return word; });
  });
}

template <typename T>
__global__ void __launch_bounds__(DWS_HAS_HOPPER ? kWarpgroupThreads : 32, 2)
    WarpgroupBetweenKernel(const DWS_GRID_CONSTANT WarpgroupBetweenArgs args) {
#if DWS_HAS_HOPPER
  const BetweenShared shared = BetweenShared::Of(SharedMemory());
  shared.Init();
  const int steps = (args.depth + kGroupDepth - 1) / kGroupDepth;
  if (threadIdx.x < kConsumerThreads) {
    MultiplyBetween<T>(args, shared, threadIdx.x / kWarpgroup, steps);
  } else if (threadIdx.x == kConsumerThreads) {
    BetweenShared::Place at;
    ForEachTileOfBlock(args, [&](int tile, int column) {
      const int64_t pixel = int64_t{tile} * kGradientProduct;
      FillRing<Major::kDepth, Major::kDepth, T>(args.gradient, args.p, shared, pixel, column, 0, steps, &at);
      if (!args.scales) return;
      // A tile of the factors is as large as a stage, and comes behind the last one while that is multiplied.
      char* const stage = shared.Stage(at);
      uint64_t* const full = shared.Expect(at);
      DWS_UNROLL
      for (int half = 0; half < 2; ++half) {
        BulkTile(stage + half * (kGroupStageBytes / 2), args.factors, pixel, column + half * kMapColumns, full);
      }
      at.Next();
    });
  }
#endif
}

struct WarpgroupFilterArgs {
  TensorMap z, gradient;  // [pixels, channels], [pixels, columns]: tiles of kGroupDepth rows
  float* sums;            // [parts, channels, columns]
  int64_t pixels, part_pixels;
  int64_t row_tiles, column_tiles, items;  // items: parts * tiles
  int channels, columns;
};

using FilterShared = WarpgroupShared<kGroupFilterStages>;

// Calls f(part, first channel, first column, first pixel, steps) for the block's items. Blocks that run together read
// the same pixels. A part is whole stages, as zeros are past the last pixel alone.
template <typename F>
DWS_DEVICE void ForEachItemOfBlock(const WarpgroupFilterArgs& args, F f) {
  for (int64_t item = blockIdx.x; item < args.items; item += gridDim.x) {
    const int64_t both = item / args.column_tiles, part = both / args.row_tiles;
    const int channel = static_cast<int>(both - part * args.row_tiles) * kGradientProduct;
    const int column = static_cast<int>(item - both * args.column_tiles) * kGradientProduct;
    const int64_t begin = part * args.part_pixels, left = args.pixels - begin;
    const int64_t pixels = left < args.part_pixels ? left : args.part_pixels;
    f(part, channel, column, begin, static_cast<int>((pixels + kGroupDepth - 1) / kGroupDepth));
  }
}

template <typename T>
__global__ void __launch_bounds__(DWS_HAS_HOPPER ? kWarpgroupThreads : 32, 1)
    WarpgroupFilterKernel(const DWS_GRID_CONSTANT WarpgroupFilterArgs args) {
#if DWS_HAS_HOPPER
  const FilterShared shared = FilterShared::Of(SharedMemory());
  shared.Init();
  FilterShared::Place at;
  if (threadIdx.x < kConsumerThreads) {
    const int group = threadIdx.x / kWarpgroup, thread = threadIdx.x % kWarpgroup, lane = threadIdx.x % 32;
    ForEachItemOfBlock(args, [&](int64_t part, int first_channel, int first_column, int64_t, int steps) {
      Sums sums;
      ClearSums(sums);
      MultiplyRing<Major::kOuter, Major::kOuter, T>(sums, shared, group, lane, steps, &at);
      const int first = first_channel + group * kGroupRows + thread / 32 * 16;
      float* const to = args.sums + part * args.channels * args.columns;
      GroupSums<T>::ForEach(sums, lane, 2 * kTiles, [&](int i, int column, const float* pair) {
        const int channel = first + GroupSums<T>::Row(lane, i);
        column += first_column;
        if (channel < args.channels && column < args.columns) {
          StorePair(to + static_cast<int64_t>(channel) * args.columns + column, pair);
        }
      });
    });
  } else if (threadIdx.x == kConsumerThreads) {
    ForEachItemOfBlock(args, [&](int64_t, int channel, int column, int64_t pixel, int steps) {
      FillRing<Major::kOuter, Major::kOuter, T>(args.z, args.gradient, shared, channel, column, pixel, steps, &at);
    });
  }
#endif
}

}  // namespace cuda
}  // namespace dwsconv

#endif  // DWSCONV_CUDA_BACKWARD_WARPGROUP_KERNEL_CUH_
