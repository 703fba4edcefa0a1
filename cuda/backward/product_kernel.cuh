// The three products of the backward pass, by tiles of 128 x 128:
//   what went into the last activation, Z P + bias + residual, and at once G = dY * out' of it;
//   dZ = G P^T, times mid', with the sums of its columns;
//   dP = Z^T G, cut over pixels into parts.
#ifndef DWSCONV_CUDA_BACKWARD_PRODUCT_KERNEL_CUH_
#define DWSCONV_CUDA_BACKWARD_PRODUCT_KERNEL_CUH_

#include <cstdint>
#include <type_traits>

#include "cc/plan/cuda/tile.h"
#include "cuda/backward/derivative.cuh"
#include "cuda/backward/fragments.cuh"
#include "cuda/device/platform.cuh"

namespace dwsconv {
namespace cuda {

constexpr int kBackwardThreads = 256;  // 8 warps, 4 by 2, of 32 x 64
constexpr int kBackwardStages = kGradientStages;

template <typename T>
struct BackwardSizes {
  static constexpr int kTile = kGradientProduct;
  static constexpr int kVector = 16 / sizeof(T);
  static constexpr int kDepth = 64 / sizeof(T);  // of a stage
  static constexpr int kNarrowPitch = kDepth + kVector, kWidePitch = kTile + 8;
  static constexpr int kNarrowElements = kTile * kNarrowPitch, kWideElements = kDepth * kWidePitch;
  static constexpr int64_t kProductSharedBytes =
      int64_t{kBackwardStages} * (kNarrowElements + kWideElements) * sizeof(T) + 4 * kTile * sizeof(float);
  static_assert(kProductSharedBytes == kGradientProductSharedBytes, "the planner asks for these");
  static constexpr int64_t kFilterSharedBytes = int64_t{kBackwardStages} * 2 * kWideElements * sizeof(T);
};

// A product's column and row of a warp, and how many 16-column tiles of it are inside.
struct WarpPlace {
  int lane, row, column, tiles;

  DWS_DEVICE explicit WarpPlace(int columns_left) {
    lane = threadIdx.x % 32;
    const int warp = threadIdx.x / 32;
    row = warp / 2 * kWarpRows;
    column = warp % 2 * kTiles * kTileColumns;
    const int left = (columns_left - column + kTileColumns - 1) / kTileColumns;
    tiles = left < 0 ? 0 : left < kTiles ? left : kTiles;
  }
};

struct BackwardProductArgs {
  const void *a, *b;                  // [pixels, depth], [depth, columns]
  void* to;                           // [pixels, columns]; may be `factors`
  int64_t pixels, tiles, part_tiles;  // tiles of 128 pixels, and of a part
  int64_t items;                      // parts * tiles of columns
  int depth, columns;
  bool a_vector, b_vector, to_vector;
  // dZ.
  const void* factors;          // [pixels, columns]: Z or mid', or null
  bool are_factors;             // they are mid'
  DeviceActivation activation;  // mid, or the last one
  float* sums;                  // [parts, columns], or null
  // G.
  const void *bias, *residual, *gradient;  // [columns] or null, [pixels, columns] or null, [pixels, columns]
};

// One tile's sums: A times B from `pixel` and `column` on. kPlain: rows of A and B are whole vectors.
template <typename Policy, bool kPlain>
DWS_DEVICE void ProductOfTile(const BackwardProductArgs& args, typename Policy::Element* shared, int64_t pixel,
                              int column, const WarpPlace& place, TileSums<kTiles>& sums) {
  using T = typename Policy::Element;
  using Sizes = BackwardSizes<T>;
  constexpr int kStage = Sizes::kNarrowElements + Sizes::kWideElements;
  const T* const a = static_cast<const T*>(args.a) + pixel * args.depth;
  const T* const b = static_cast<const T*>(args.b) + column;
  const int steps = (args.depth + Sizes::kDepth - 1) / Sizes::kDepth;
  const int pixels_left = RowsLeft(args.pixels - pixel, Sizes::kTile);
  const auto load = [&](int step) {
    if (step < steps) {
      T* const stage = shared + step % kBackwardStages * kStage;
      const int first = step * Sizes::kDepth, left = args.depth - first;
      LoadBlock<T, Sizes::kTile, Sizes::kDepth, kBackwardThreads>(stage, Sizes::kNarrowPitch, a + first, args.depth,
                                                                  pixels_left, left, kPlain || args.a_vector);
      LoadBlock<T, Sizes::kDepth, Sizes::kTile, kBackwardThreads>(
          stage + Sizes::kNarrowElements, Sizes::kWidePitch, b + static_cast<int64_t>(first) * args.columns,
          args.columns, left, args.columns - column, kPlain || args.b_vector);
    }
    CommitCopies();
  };
  ClearSums(sums);
  for (int step = 0; step < kBackwardStages - 1; ++step) load(step);
  for (int step = 0; step < steps; ++step) {
    WaitForCopies<kBackwardStages - 2>();
    // This stage has come for all, and all have finished with the one that is loaded next.
    SyncBlock();
    load(step + kBackwardStages - 1);
    const T* const stage = shared + step % kBackwardStages * kStage;
    if (place.tiles == 0) continue;
    // All of its tiles, as zeros are past the last column: a branch for each would keep the loads from running ahead.
    BackwardProduct<Policy>::template Row<kTiles>(sums, stage + place.row * Sizes::kNarrowPitch, Sizes::kNarrowPitch,
                                                  stage + Sizes::kNarrowElements + place.column, Sizes::kWidePitch,
                                                  Sizes::kDepth, kTiles, place.lane);
  }
  // The next tile's copies go where this one's last stages are read.
  SyncBlock();
}

// Where the lane's rows of a tile begin, in elements past its first one, or -1 past the last pixel.
template <typename Policy>
DWS_DEVICE void RowsOfTile(const WarpPlace& place, int pixels_left, int columns, int (&rows)[Policy::kRows]) {
  DWS_UNROLL
  for (int i = 0; i < Policy::kRows; ++i) {
    const int row = place.row + Policy::Row(place.lane, i);
    rows[i] = row < pixels_left ? row * columns : -1;
  }
}

// Blocks of a multiprocessor that there are to be registers for.
template <typename Policy, bool kPlain>
constexpr int ProductBlocks() {
  return ResidentBlocks(kPlain && !std::is_same<Policy, ExactFloat>::value ? 2 : 1);
}

// dZ. kPlain: rows of all matrices are whole vectors.
template <typename Policy, bool kPlain>
__global__ void __launch_bounds__(kBackwardThreads, ProductBlocks<Policy, kPlain>())
    BetweenGradientKernel(const BackwardProductArgs args) {
  using T = typename Policy::Element;
  using Sizes = BackwardSizes<T>;
  T* const shared = reinterpret_cast<T*>(SharedMemory());
  // Of each row of warps: nobody but one lane touches an element before the last barrier.
  float* const column_sums =
      reinterpret_cast<float*>(shared + kBackwardStages * (Sizes::kNarrowElements + Sizes::kWideElements));
  const int column_tiles = (args.columns + Sizes::kTile - 1) / Sizes::kTile, items = static_cast<int>(args.items);
  for (int item = blockIdx.x; item < items; item += gridDim.x) {
    const int part = item / column_tiles;
    const int first_column = item % column_tiles * Sizes::kTile;
    const WarpPlace place(args.columns - first_column);
    const int part_tiles = static_cast<int>(args.part_tiles), begin = part * part_tiles;
    for (int tile = begin; tile < begin + part_tiles && tile < args.tiles; ++tile) {
      const int64_t pixel = int64_t{tile} * Sizes::kTile;
      TileSums<kTiles> sums;
      ProductOfTile<Policy, kPlain>(args, shared, pixel, first_column, place, sums);
      int rows[Policy::kRows];
      RowsOfTile<Policy>(place, RowsLeft(args.pixels - pixel, kGradientProduct), args.columns, rows);
      const int64_t first = pixel * args.columns + first_column;
      const int columns = args.columns - first_column;
      if (args.factors != nullptr) {
        const T* const factors = static_cast<const T*>(args.factors) + first;
        ForEachPair(sums, place.lane, place.tiles, Policy(), [&](int i, int column, float* pair) {
          column += place.column;
          if (rows[i] < 0) return;
          float factor[2];
          LoadPairOf<kPlain>(factors + rows[i] + column, columns - column, args.to_vector, factor);
          DWS_UNROLL
          for (int e = 0; e < 2; ++e) {
            pair[e] =
                args.are_factors ? Scale(pair[e], factor[e]) : ScaleFromOutput(pair[e], factor[e], args.activation);
          }
        });
      }
      if (args.sums != nullptr) {
        const bool begins = tile == begin;
        float* const mine = column_sums + place.row / kWarpRows * Sizes::kTile + place.column;
        SumColumns(sums, place.lane, place.tiles, Policy(), [&](int column, float sum, float next) {
          mine[column] = begins ? sum : mine[column] + sum;
          mine[column + 1] = begins ? next : mine[column + 1] + next;
        });
      }
      StoreSums<Policy, kPlain>(sums, place.lane, place.tiles, place.column, rows, static_cast<T*>(args.to) + first,
                                columns, args.to_vector);
    }
    if (args.sums != nullptr) {
      SyncBlock();
      for (int i = threadIdx.x; i < Sizes::kTile && first_column + i < args.columns; i += kBackwardThreads) {
        float sum = column_sums[i];
        for (int row = 1; row < 4; ++row) sum += column_sums[row * Sizes::kTile + i];
        args.sums[int64_t{part} * args.columns + first_column + i] = sum;
      }
      SyncBlock();
    }
  }
}

// G, where the last activation's derivative asks for what went into it.
template <typename Policy>
__global__ void __launch_bounds__(kBackwardThreads, 1) OutputGradientKernel(const BackwardProductArgs args) {
  using T = typename Policy::Element;
  T* const shared = reinterpret_cast<T*>(SharedMemory());
  const int64_t column_tiles = (args.columns + kGradientProduct - 1) / kGradientProduct;
  for (int64_t item = blockIdx.x; item < args.items; item += gridDim.x) {
    const int64_t pixel = item / column_tiles * kGradientProduct;
    const int first_column = static_cast<int>(item % column_tiles) * kGradientProduct;
    const WarpPlace place(args.columns - first_column);
    TileSums<kTiles> sums;
    ProductOfTile<Policy, false>(args, shared, pixel, first_column, place, sums);
    int rows[Policy::kRows];
    RowsOfTile<Policy>(place, RowsLeft(args.pixels - pixel, kGradientProduct), args.columns, rows);
    const int64_t first = pixel * args.columns + first_column;
    const int columns = args.columns - first_column;
    const T* const bias = static_cast<const T*>(args.bias);
    const T* const residual = static_cast<const T*>(args.residual);
    ForEachPair(sums, place.lane, place.tiles, Policy(), [&](int i, int column, float* pair) {
      column += place.column;
      const int left = columns - column;
      if (bias != nullptr) {
        float other[2];
        LoadPairOf<false>(bias + first_column + column, left, false, other);
        pair[0] += other[0];
        pair[1] += other[1];
      }
      if (residual != nullptr && rows[i] >= 0) {
        float other[2];
        LoadPairOf<false>(residual + first + rows[i] + column, left, args.to_vector, other);
        pair[0] += other[0];
        pair[1] += other[1];
      }
    });
    DerivativeOfAll(sums, args.activation);
    ForEachPair(sums, place.lane, place.tiles, Policy(), [&](int i, int column, float* pair) {
      column += place.column;
      if (rows[i] < 0) return;
      float gradient[2];
      LoadPairOf<false>(static_cast<const T*>(args.gradient) + first + rows[i] + column, columns - column,
                        args.to_vector, gradient);
      pair[0] = Scale(gradient[0], pair[0]);
      pair[1] = Scale(gradient[1], pair[1]);
    });
    StoreSums<Policy, false>(sums, place.lane, place.tiles, place.column, rows, static_cast<T*>(args.to) + first,
                             columns, args.to_vector);
  }
}

struct FilterProductArgs {
  const void *z, *gradient;  // [pixels, channels], [pixels, columns]
  float* sums;               // [parts, channels, columns]
  int64_t pixels, part_pixels;
  int64_t items;  // parts * tiles
  int channels, columns;
  bool z_vector, gradient_vector;
};

// dP.
template <typename Policy>
__global__ void __launch_bounds__(kBackwardThreads, ProductBlocks<Policy, true>())
    FilterProductKernel(const FilterProductArgs args) {
  using T = typename Policy::Element;
  using Sizes = BackwardSizes<T>;
  constexpr int kStage = 2 * Sizes::kWideElements;
  T* const shared = reinterpret_cast<T*>(SharedMemory());
  const int64_t column_tiles = (args.columns + Sizes::kTile - 1) / Sizes::kTile;
  const int64_t row_tiles = (args.channels + Sizes::kTile - 1) / Sizes::kTile;
  for (int64_t item = blockIdx.x; item < args.items; item += gridDim.x) {
    // Blocks that run together read the same pixels.
    const int64_t part = item / (column_tiles * row_tiles), tile = item % (column_tiles * row_tiles);
    const int first_channel = static_cast<int>(tile / column_tiles) * Sizes::kTile;
    const int first_column = static_cast<int>(tile % column_tiles) * Sizes::kTile;
    const WarpPlace place(args.columns - first_column);
    const int64_t begin = part * args.part_pixels;
    const int64_t end = begin + args.part_pixels < args.pixels ? begin + args.part_pixels : args.pixels;
    const T* const z = static_cast<const T*>(args.z) + begin * args.channels + first_channel;
    const T* const gradient = static_cast<const T*>(args.gradient) + begin * args.columns + first_column;
    const int64_t steps = (end - begin + Sizes::kDepth - 1) / Sizes::kDepth;
    const auto load = [&](int64_t step) {
      if (step < steps) {
        T* const stage = shared + step % kBackwardStages * kStage;
        const int64_t first = step * Sizes::kDepth;
        const int left = RowsLeft(end - begin - first, Sizes::kDepth);
        LoadBlock<T, Sizes::kDepth, Sizes::kTile, kBackwardThreads>(stage, Sizes::kWidePitch, z + first * args.channels,
                                                                    args.channels, left, args.channels - first_channel,
                                                                    args.z_vector);
        LoadBlock<T, Sizes::kDepth, Sizes::kTile, kBackwardThreads>(stage + Sizes::kWideElements, Sizes::kWidePitch,
                                                                    gradient + first * args.columns, args.columns, left,
                                                                    args.columns - first_column, args.gradient_vector);
      }
      CommitCopies();
    };
    TileSums<kTiles> sums;
    ClearSums(sums);
    for (int step = 0; step < kBackwardStages - 1; ++step) load(step);
    for (int64_t step = 0; step < steps; ++step) {
      WaitForCopies<kBackwardStages - 2>();
      SyncBlock();
      load(step + kBackwardStages - 1);
      const T* const stage = shared + step % kBackwardStages * kStage;
      if (first_channel + place.row < args.channels && place.tiles > 0) {
        BackwardProduct<Policy>::template Outer<kTiles>(sums, stage + place.row, Sizes::kWidePitch,
                                                        stage + Sizes::kWideElements + place.column, Sizes::kWidePitch,
                                                        Sizes::kDepth, kTiles, place.lane);
      }
    }
    SyncBlock();
    float* const to = args.sums + part * args.channels * args.columns;
    const bool pairs = args.columns % 2 == 0;
    ForEachPair(sums, place.lane, place.tiles, Policy(), [&](int i, int column, const float* pair) {
      const int channel = first_channel + place.row + Policy::Row(place.lane, i);
      column += first_column + place.column;
      if (channel >= args.channels || column >= args.columns) return;
      float* const at = to + static_cast<int64_t>(channel) * args.columns + column;
      if (pairs) {
        *reinterpret_cast<float2*>(at) = make_float2(pair[0], pair[1]);
      } else {
        at[0] = pair[0];
        if (column + 1 < args.columns) at[1] = pair[1];
      }
    });
  }
}

}  // namespace cuda
}  // namespace dwsconv

#endif  // DWSCONV_CUDA_BACKWARD_PRODUCT_KERNEL_CUH_
