// The pointwise half alone: Y = out(Z P + bias + residual) for a matrix Z in global memory, as the second of two steps.
#ifndef DWSCONV_CUDA_PRODUCT_POINTWISE_KERNEL_CUH_
#define DWSCONV_CUDA_PRODUCT_POINTWISE_KERNEL_CUH_

#include <cstdint>
#include <type_traits>

#include "cuda/device/async_copy.cuh"
#include "cuda/device/fragments.cuh"
#include "cuda/device/platform.cuh"
#include "cuda/device/store_tile.cuh"

namespace dwsconv {
namespace cuda {

// A block's tile: 8 warps, 4 by 2, of 32 x 64.
constexpr int kPointwiseThreads = 256;
constexpr int kPointwiseRows = 128;
constexpr int kPointwiseColumns = 128;
constexpr int kPointwiseStages = 4;

template <typename T>
struct PointwiseSizes {
  static constexpr int kVector = 16 / sizeof(T);
  static constexpr int kDepth = 64 / sizeof(T);  // channels of a stage: 64 bytes
  static constexpr int kZPitch = kDepth + kVector;
  static constexpr int kPPitch = kPointwiseColumns + 8;
  static constexpr int kZElements = kPointwiseRows * kZPitch;
  static constexpr int kStageElements = kZElements + kDepth * kPPitch;
  static constexpr int64_t kSharedBytes =
      int64_t{kPointwiseStages} * kStageElements * sizeof(T) + kPointwiseColumns * sizeof(float);
};

struct PointwiseArgs {
  const void *z, *p, *bias;  // [pixels, channels], [channels, K], [K] or null
  OutputArgs out;
  int64_t pixels, row_tiles, items;  // items: row_tiles * tiles of columns
  int channels;                      // C*M
  bool z_vector, p_vector;           // whole 16-byte vectors in a row, and pointers aligned to them
};

// Starts the copies of `depth` channels from `first` on, zeros past the matrices' ends.
template <typename T, bool kPlain>
DWS_DEVICE void LoadStage(const PointwiseArgs& args, T* stage, int64_t first_pixel, int first_column, int first) {
  using Sizes = PointwiseSizes<T>;
  constexpr int kZPieces = Sizes::kDepth / Sizes::kVector, kPPieces = kPointwiseColumns / Sizes::kVector;
  const T* const z = static_cast<const T*>(args.z);
  const T* const p = static_cast<const T*>(args.p);
  T* const p_stage = stage + Sizes::kZElements;
  const int left = args.channels - first;
  if (kPlain || args.z_vector) {
    DWS_UNROLL
    for (int i = 0; i < kPointwiseRows * kZPieces / kPointwiseThreads; ++i) {
      const int piece = i * kPointwiseThreads + threadIdx.x;
      const int row = piece / kZPieces, column = piece % kZPieces * Sizes::kVector;
      const bool valid = first_pixel + row < args.pixels && column < left;
      CopyAsync16(stage + row * Sizes::kZPitch + column,
                  valid ? z + (first_pixel + row) * args.channels + first + column : z, valid);
    }
  } else {
    for (int i = threadIdx.x; i < kPointwiseRows * Sizes::kDepth; i += kPointwiseThreads) {
      const int row = i / Sizes::kDepth, column = i % Sizes::kDepth;
      const bool valid = first_pixel + row < args.pixels && column < left;
      stage[row * Sizes::kZPitch + column] =
          valid ? z[(first_pixel + row) * args.channels + first + column] : Narrow<T>(0.f);
    }
  }
  const int64_t p_first = static_cast<int64_t>(first) * args.out.channels + first_column;
  const int columns = args.out.channels - first_column;
  if (kPlain || args.p_vector) {
    DWS_UNROLL
    for (int i = 0; i < Sizes::kDepth * kPPieces / kPointwiseThreads; ++i) {
      const int piece = i * kPointwiseThreads + threadIdx.x;
      const int row = piece / kPPieces, column = piece % kPPieces * Sizes::kVector;
      const bool valid = row < left && column < columns;
      CopyAsync16(p_stage + row * Sizes::kPPitch + column,
                  valid ? p + p_first + static_cast<int64_t>(row) * args.out.channels + column : p, valid);
    }
  } else {
    for (int i = threadIdx.x; i < Sizes::kDepth * kPointwiseColumns; i += kPointwiseThreads) {
      const int row = i / kPointwiseColumns, column = i % kPointwiseColumns;
      const bool valid = row < left && column < columns;
      p_stage[row * Sizes::kPPitch + column] =
          valid ? p[p_first + static_cast<int64_t>(row) * args.out.channels + column] : Narrow<T>(0.f);
    }
  }
}

// kPlain: rows of Z, P and Y are whole vectors, and the activation is a clamp. Then registers suffice for two blocks of
// a multiprocessor.
template <typename Policy, bool kPlain>
__global__ void __launch_bounds__(kPointwiseThreads, kPlain ? 2 : 1) PointwiseKernel(const PointwiseArgs args) {
  using T = typename Policy::Element;
  using Sizes = PointwiseSizes<T>;
  T* const shared = reinterpret_cast<T*>(SharedMemory());
  float* const bias = reinterpret_cast<float*>(shared + kPointwiseStages * Sizes::kStageElements);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int row_of_warp = warp / 2 * kWarpRows, column_of_warp = warp % 2 * kTiles * kTileColumns;
  // ExactFloat needs to see it as a variable: see there.
  const int depth = !std::is_same<Policy, ExactFloat>::value || args.channels > 0 ? Sizes::kDepth : 0;
  const int steps = (args.channels + Sizes::kDepth - 1) / Sizes::kDepth;
  for (int64_t item = blockIdx.x; item < args.items; item += gridDim.x) {
    // Blocks that run together read the same columns of P.
    const int64_t first_pixel = item % args.row_tiles * kPointwiseRows;
    const int first_column = static_cast<int>(item / args.row_tiles) * kPointwiseColumns;
    for (int i = threadIdx.x; i < kPointwiseColumns; i += kPointwiseThreads) {
      const bool there = args.bias != nullptr && first_column + i < args.out.channels;
      bias[i] = there ? Widen(static_cast<const T*>(args.bias)[first_column + i]) : 0.f;
    }
    for (int step = 0; step < kPointwiseStages - 1; ++step) {
      if (step < steps) {
        LoadStage<T, kPlain>(args, shared + step * Sizes::kStageElements, first_pixel, first_column,
                             step * Sizes::kDepth);
      }
      CommitCopies();
    }
    const int columns = args.out.channels - first_column;
    const int left = (columns - column_of_warp + kTileColumns - 1) / kTileColumns;
    const int tiles = left < 0 ? 0 : left < kTiles ? left : kTiles;
    Sums sums;
    ClearSums(sums);
    int stage = 0, next = kPointwiseStages - 1;
    for (int step = 0; step < steps; ++step) {
      WaitForCopies<kPointwiseStages - 2>();
      // This stage has come for all, and all have finished with the one that is loaded next.
      SyncBlock();
      if (step + kPointwiseStages - 1 < steps) {
        LoadStage<T, kPlain>(args, shared + next * Sizes::kStageElements, first_pixel, first_column,
                             (step + kPointwiseStages - 1) * Sizes::kDepth);
      }
      CommitCopies();
      const T* const z = shared + stage * Sizes::kStageElements;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
      const int count = tiles;  // branches keep the compiler from loading ahead more than there are registers for
#else
      const int count = kTiles;
#endif
      if (column_of_warp < columns) {
        Policy::Multiply(sums, z + row_of_warp * Sizes::kZPitch, Sizes::kZPitch, z + Sizes::kZElements + column_of_warp,
                         Sizes::kPPitch, depth, count, lane);
      }
      stage = stage + 1 == kPointwiseStages ? 0 : stage + 1;
      next = next + 1 == kPointwiseStages ? 0 : next + 1;
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
