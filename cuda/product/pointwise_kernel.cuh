// The pointwise half alone: Y = out(Z P + bias + residual) for a matrix Z in global memory, as the second of two steps.
#ifndef DWSCONV_CUDA_PRODUCT_POINTWISE_KERNEL_CUH_
#define DWSCONV_CUDA_PRODUCT_POINTWISE_KERNEL_CUH_

#include <cstdint>
#include <type_traits>

#include "cuda/device/async_copy.cuh"
#include "cuda/device/fragments.cuh"
#include "cuda/device/platform.cuh"
#include "cuda/device/store_tile.cuh"
#include "cuda/product/stages.cuh"

namespace dwsconv {
namespace cuda {

struct PointwiseArgs {
  const void *z, *p, *bias;  // [pixels, channels], [channels, K], [K] or null
  OutputArgs out;
  int64_t pixels, column_tiles, items;  // items: tiles of rows * column_tiles
  int channels;                         // C*M
  bool z_vector, p_vector;              // whole 16-byte vectors in a row, and pointers aligned to them
};

// By elements: `depth` channels of Z from `first` on, zeros past the matrix' ends.
template <typename T>
DWS_DEVICE void LoadElements(const PointwiseArgs& args, T* stage, int64_t first_pixel, int first) {
  using Sizes = ProductSizes<T>;
  const T* const z = static_cast<const T*>(args.z);
  for (int i = threadIdx.x; i < Sizes::kTile * Sizes::kDepth; i += kProductThreads) {
    const int row = i / Sizes::kDepth, column = i % Sizes::kDepth;
    const bool valid = first_pixel + row < args.pixels && first + column < args.channels;
    stage[row * Sizes::kZPitch + column] =
        valid ? z[(first_pixel + row) * args.channels + first + column] : Narrow<T>(0.f);
  }
}

// From which compute capability on a product goes without branches around its tiles.
template <typename Policy>
constexpr int kBranchlessCapability = std::is_same<Policy, ExactFloat>::value ? 90 : 80;

// kPlain: rows of Z, P and Y are whole vectors. Then registers suffice for two blocks of a multiprocessor.
template <typename Policy, bool kPlain>
__global__ void __launch_bounds__(kProductThreads, kPlain ? 2 : 1) PointwiseKernel(const PointwiseArgs args) {
  using T = typename Policy::Element;
  using Sizes = ProductSizes<T>;
  const int stages = RingStages(), ring = stages * Sizes::kStageElements;
  T* const shared = reinterpret_cast<T*>(SharedMemory());
  float* const bias = reinterpret_cast<float*>(shared + ring);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int row_of_warp = warp / 2 * kWarpRows, column_of_warp = warp % 2 * kTiles * kTileColumns;
  // ExactFloat needs to see it as a variable: see there.
  const int depth = !std::is_same<Policy, ExactFloat>::value || args.channels > 0 ? Sizes::kDepth : 0;
  const int steps = (args.channels + Sizes::kDepth - 1) / Sizes::kDepth;
  for (int64_t item = blockIdx.x; item < args.items; item += gridDim.x) {
    // Blocks that run together read the same rows of Z, which is the larger matrix: all of P stays in L2.
    const int64_t row_tile = item / args.column_tiles, first_pixel = row_tile * kProductTile;
    const int first_column = static_cast<int>(item - row_tile * args.column_tiles) * kProductTile;
    LoadTileBias<T>(bias, args.bias, args.out.channels, first_column);
    RowCopies<T> z_copies;
    ColumnCopies<T> p_copies;
    z_copies.Begin(args.z, args.pixels, args.channels, first_pixel);
    p_copies.Begin(args.p, args.channels, args.out.channels, first_column);
    const auto load = [&](T* stage, int step) {
      if (kPlain || args.z_vector) {
        z_copies.Next(stage, args.channels);
      } else {
        LoadElements<T>(args, stage, first_pixel, step * Sizes::kDepth);
      }
      if (kPlain || args.p_vector) {
        p_copies.Next(stage, args.out.channels);
      } else {
        ColumnCopies<T>::Load(stage, args.p, args.channels, args.out.channels, first_column, step * Sizes::kDepth);
      }
    };
    for (int step = 0; step < stages - 1; ++step) {
      if (step < steps) load(shared + step * Sizes::kStageElements, step);
      CommitCopies();
    }
    const int columns = args.out.channels - first_column;
    const int left = (columns - column_of_warp + kTileColumns - 1) / kTileColumns;
    const int tiles = left < 0 ? 0 : left < kTiles ? left : kTiles;
    Sums sums;
    ClearSums(sums);
    int stage = 0, next = (stages - 1) * Sizes::kStageElements;
    for (int step = 0; step < steps; ++step) {
      WaitForStage(stages);
      // This stage has come for all, and all have finished with the one that is loaded next.
      SyncBlock();
      if (step + stages - 1 < steps) load(shared + next, step + stages - 1);
      CommitCopies();
      const T* const z = shared + stage;
#if defined(__CUDA_ARCH__)
      // Branches keep the compiler from loading ahead more than there are registers for.
      const int count = kCapability < kBranchlessCapability<Policy> ? tiles : kTiles;
#else
      const int count = kTiles;
#endif
      if (column_of_warp < columns) {
        Policy::Multiply(sums, z + row_of_warp * Sizes::kZPitch, Sizes::kZPitch, z + Sizes::kZElements + column_of_warp,
                         Sizes::kPPitch, depth, count, lane);
      }
      stage = stage + Sizes::kStageElements == ring ? 0 : stage + Sizes::kStageElements;
      next = next + Sizes::kStageElements == ring ? 0 : next + Sizes::kStageElements;
    }
    int rows[Policy::kRows];
    DWS_UNROLL
    for (int i = 0; i < Policy::kRows; ++i) {
      const int row = row_of_warp + Policy::Row(lane, i);
      rows[i] = first_pixel + row < args.pixels ? row * args.out.channels : -1;
    }
    OutputArgs out = args.out;
    const int64_t first = first_pixel * out.channels + first_column;
    out.y = static_cast<T*>(out.y) + first;
    if (out.residual != nullptr) out.residual = static_cast<const T*>(out.residual) + first;
    out.channels -= first_column;
    StoreTile<Policy, kPlain>(sums, lane, tiles, column_of_warp, rows, bias, out);
    // The next item writes into stages and the bias.
    SyncBlock();
  }
}

}  // namespace cuda
}  // namespace dwsconv

#endif  // DWSCONV_CUDA_PRODUCT_POINTWISE_KERNEL_CUH_
