// What the products by tiles of 128 pixels x 128 columns share: the stages of their ring in shared memory, and the
// copies that fill it.
#ifndef DWSCONV_CUDA_PRODUCT_STAGES_CUH_
#define DWSCONV_CUDA_PRODUCT_STAGES_CUH_

#include <cstdint>

#include "cc/plan/cuda/tile.h"
#include "cuda/device/async_copy.cuh"
#include "cuda/device/element.cuh"
#include "cuda/device/platform.cuh"

namespace dwsconv {
namespace cuda {

constexpr int kProductThreads = 256;  // 8 warps, 4 by 2, of 32 x 64

template <typename T>
struct ProductSizes {
  static constexpr int kTile = kProductTile;
  static constexpr int kVector = 16 / sizeof(T);
  static constexpr int kDepth = 64 / sizeof(T);  // of the sum, of a stage: 64 bytes
  static constexpr int kZPieces = kDepth / kVector, kPPieces = kTile / kVector;
  static constexpr int kZPitch = kDepth + kVector, kPPitch = kTile + 8;
  static constexpr int kZElements = kTile * kZPitch;
  static constexpr int kStageElements = kZElements + kDepth * kPPitch;
  // What a thread copies of a stage, and the rows from one of its copies to the next.
  static constexpr int kZCopies = kTile * kZPieces / kProductThreads, kZRows = kProductThreads / kZPieces;
  static constexpr int kPCopies = kDepth * kPPieces / kProductThreads, kPRows = kProductThreads / kPPieces;
  static_assert(ProductSharedBytes(1, false) == kStageElements * sizeof(T) + kTile * 4, "the planner asks for these");
};

// Of the ring, on the card that runs this.
#if defined(DWSCONV_SHIM)
DWS_DEVICE int RingStages() { return ProductStages(Capability()); }
#else
constexpr int kRingStages = ProductStages(kCapability);
DWS_DEVICE int RingStages() { return kRingStages; }
#endif

// Waits for the oldest of a ring's stages.
DWS_DEVICE void WaitForStage(int stages) {
  if (stages == 4) {
    WaitForCopies<2>();
  } else {
    WaitForCopies<1>();
  }
}

// The copies of a matrix [pixels, channels] to the stages of a tile, where rows are whole vectors. Pointers go ahead,
// so that a stage costs no multiplications.
template <typename T>
struct RowCopies {
  using Sizes = ProductSizes<T>;
  const T* from;  // the next stage's first copy of this thread
  int left;       // channels from there on
  bool inside[Sizes::kZCopies];

  DWS_DEVICE void Begin(const void* matrix, int64_t pixels, int channels, int64_t first_pixel) {
    const int row = threadIdx.x / Sizes::kZPieces, column = threadIdx.x % Sizes::kZPieces * Sizes::kVector;
    from = static_cast<const T*>(matrix) + (first_pixel + row) * channels + column;
    left = channels - column;
    DWS_UNROLL
    for (int i = 0; i < Sizes::kZCopies; ++i) inside[i] = first_pixel + row + i * Sizes::kZRows < pixels;
  }

  DWS_DEVICE void Next(T* stage, int channels) {
    T* const to =
        stage + threadIdx.x / Sizes::kZPieces * Sizes::kZPitch + threadIdx.x % Sizes::kZPieces * Sizes::kVector;
    DWS_UNROLL
    for (int i = 0; i < Sizes::kZCopies; ++i) {
      CopyAsync16(to + i * Sizes::kZRows * Sizes::kZPitch, from + static_cast<int64_t>(i * Sizes::kZRows) * channels,
                  inside[i] && left > 0);
    }
    from += Sizes::kDepth;
    left -= Sizes::kDepth;
  }
};

// The same of a matrix [depth, columns], behind the rows of the stages.
template <typename T>
struct ColumnCopies {
  using Sizes = ProductSizes<T>;
  const T* from;
  int left;  // rows of the matrix from there on; 0 where the thread's column is past the last one

  DWS_DEVICE void Begin(const void* matrix, int depth, int columns, int first_column) {
    const int row = threadIdx.x / Sizes::kPPieces;
    const int column = first_column + static_cast<int>(threadIdx.x) % Sizes::kPPieces * Sizes::kVector;
    from = static_cast<const T*>(matrix) + static_cast<int64_t>(row) * columns + column;
    left = column < columns ? depth - row : 0;
  }

  DWS_DEVICE void Next(T* stage, int columns) {
    T* const to = stage + Sizes::kZElements + threadIdx.x / Sizes::kPPieces * Sizes::kPPitch +
                  threadIdx.x % Sizes::kPPieces * Sizes::kVector;
    DWS_UNROLL
    for (int i = 0; i < Sizes::kPCopies; ++i) {
      CopyAsync16(to + i * Sizes::kPRows * Sizes::kPPitch, from + static_cast<int64_t>(i * Sizes::kPRows) * columns,
                  left > i * Sizes::kPRows);
    }
    from += static_cast<int64_t>(Sizes::kDepth) * columns;
    left -= Sizes::kDepth;
  }

  // By elements, of any matrix: the stage's rows from `first` on.
  DWS_DEVICE static void Load(T* stage, const void* matrix, int depth, int columns, int first_column, int first) {
    const T* const from = static_cast<const T*>(matrix) + static_cast<int64_t>(first) * columns + first_column;
    for (int i = threadIdx.x; i < Sizes::kDepth * Sizes::kTile; i += kProductThreads) {
      const int row = i / Sizes::kTile, column = i % Sizes::kTile;
      const bool valid = first + row < depth && first_column + column < columns;
      stage[Sizes::kZElements + row * Sizes::kPPitch + column] =
          valid ? from[static_cast<int64_t>(row) * columns + column] : Narrow<T>(0.f);
    }
  }
};

// Floats of the tile's part of a bias, zeros where there is none.
template <typename T>
DWS_DEVICE void LoadTileBias(float* shared, const void* bias, int columns, int first_column) {
  for (int i = threadIdx.x; i < kProductTile; i += kProductThreads) {
    const bool there = bias != nullptr && first_column + i < columns;
    shared[i] = there ? Widen(static_cast<const T*>(bias)[first_column + i]) : 0.f;
  }
}

}  // namespace cuda
}  // namespace dwsconv

#endif  // DWSCONV_CUDA_PRODUCT_STAGES_CUH_
