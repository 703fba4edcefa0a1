// What a warp of the backward pass multiplies with: sums over pixels, sums of columns, and the way into and out of
// shared memory.
#ifndef DWSCONV_CUDA_BACKWARD_FRAGMENTS_CUH_
#define DWSCONV_CUDA_BACKWARD_FRAGMENTS_CUH_

#include <cstdint>

#include "cuda/device/async_copy.cuh"
#include "cuda/device/block_sums.cuh"
#include "cuda/device/fragments.cuh"
#include "cuda/device/load.cuh"
#include "cuda/device/platform.cuh"
#include "cuda/device/store_tile.cuh"

namespace dwsconv {
namespace cuda {

// What is left of a tile of that many rows (pixels).
DWS_DEVICE int RowsLeft(int64_t left, int most) { return left < most ? static_cast<int>(left) : most; }

// f(i, column, pointer to two sums side by side) for all of the lane's sums, in its row i, of the first `tiles` tiles.
template <int kCount, typename F>
DWS_DEVICE void ForEachPair(float (&sums)[kCount][kTileSums], int lane, int tiles, TensorCoreSums, F f) {
  DWS_UNROLL
  for (int j = 0; j < kCount; ++j) {
    if (j >= tiles) continue;
    DWS_UNROLL
    for (int i = 0; i < 8; ++i) {  // half of the tile, row
      const int half = i >> 2, row = i & 3;
      f(row, j * kTileColumns + half * 8 + 2 * (lane & 3), &sums[j][half * 8 + row * 2]);
    }
  }
}
template <int kCount, typename F>
DWS_DEVICE void ForEachPair(float (&sums)[kCount][kTileSums], int lane, int tiles, ExactFloat, F f) {
  DWS_UNROLL
  for (int j = 0; j < kCount; ++j) {
    if (j >= tiles) continue;
    DWS_UNROLL
    for (int i = 0; i < ExactFloat::kRows; ++i) f(i, j * kTileColumns + (lane & 7) * 2, &sums[j][2 * i]);
  }
}

// Row: sums += A B for 32 rows of A and up to 16 * kCount columns of B, over `depth` columns of A, a multiple of 16.
// Outer: sums += A^T B for 32 columns of A, over `depth` rows of both. A from the warp's first row (column) on, B from
// its first column on.
template <typename Policy>
struct BackwardProduct;

template <typename T>
struct BackwardProduct<TensorCores16<T>> {
  template <int kCount>
  DWS_DEVICE static void MultiplyTiles(TileSums<kCount>& sums, const uint32_t (&a)[2][4], const T* b_row, int tiles) {
    DWS_UNROLL
    for (int j = 0; j < kCount; ++j) {
      if (j >= tiles) continue;
      uint32_t b[4];
      LoadMatricesTransposed(b, b_row + j * kTileColumns);
      DWS_UNROLL
      for (int m = 0; m < 2; ++m) {
        MultiplyAdd(&sums[j][m * 4], a[m], b[0], b[1], T());
        MultiplyAdd(&sums[j][(2 + m) * 4], a[m], b[2], b[3], T());
      }
    }
  }

  template <int kCount>
  DWS_DEVICE static void Row(TileSums<kCount>& sums, const T* a, int a_pitch, const T* b, int b_pitch, int depth,
                             int tiles, int lane) {
    const T* a_row = a + (lane & 15) * a_pitch + (lane >> 4) * 8;
    const T* b_row = b + (lane & 15) * b_pitch + (lane >> 4) * 8;
    DWS_ROLLED  // two at a time would take registers from the rest of the kernel
        for (int d = 0; d < depth; d += 16, a_row += 16, b_row += 16 * b_pitch) {
      uint32_t both[2][4];
      LoadMatrices(both[0], a_row);
      LoadMatrices(both[1], a_row + 16 * a_pitch);
      MultiplyTiles<kCount>(sums, both, b_row, tiles);
    }
  }

  template <int kCount>
  DWS_DEVICE static void Outer(TileSums<kCount>& sums, const T* a, int a_pitch, const T* b, int b_pitch, int depth,
                               int tiles, int lane) {
    // Matrices of A: rows 0-7 and columns 0-7, columns 8-15, then rows 8-15 of both. Transposed they are the four
    // quarters of the instruction's a.
    const T* a_row = a + ((lane & 7) + (lane >> 4) * 8) * a_pitch + ((lane >> 3) & 1) * 8;
    const T* b_row = b + (lane & 15) * b_pitch + (lane >> 4) * 8;
    for (int d = 0; d < depth; d += 16, a_row += 16 * a_pitch, b_row += 16 * b_pitch) {
      uint32_t both[2][4];
      LoadMatricesTransposed(both[0], a_row);
      LoadMatricesTransposed(both[1], a_row + 16);
      MultiplyTiles<kCount>(sums, both, b_row, tiles);
    }
  }
};

template <>
struct BackwardProduct<TensorCoresTf32> {
  // a: steps between its elements along rows (pixels of Row, channels of Outer) and along the depth.
  template <int kCount>
  DWS_DEVICE static void MultiplyAll(TileSums<kCount>& sums, const float* a, int row_step, int depth_step,
                                     const float* b, int b_pitch, int depth, int tiles, int lane) {
    const int g = lane >> 2, t = lane & 3;
    const float* a_row = a + g * row_step + t * depth_step;
    const float* b_row = b + t * b_pitch + g;
    DWS_ROLLED
    for (int d = 0; d < depth; d += 8, a_row += 8 * depth_step, b_row += 8 * b_pitch) {
      uint32_t both[2][4];
      DWS_UNROLL
      for (int m = 0; m < 2; ++m) {
        const float* const from = a_row + m * 16 * row_step;
        both[m][0] = ToTf32(from[0]);
        both[m][1] = ToTf32(from[8 * row_step]);
        both[m][2] = ToTf32(from[4 * depth_step]);
        both[m][3] = ToTf32(from[8 * row_step + 4 * depth_step]);
      }
      DWS_UNROLL
      for (int j = 0; j < kCount; ++j) {
        if (j >= tiles) continue;
        DWS_UNROLL
        for (int half = 0; half < 2; ++half) {
          const float* const from = b_row + j * kTileColumns + half * 8;
          const uint32_t b0 = ToTf32(from[0]), b1 = ToTf32(from[4 * b_pitch]);
          DWS_UNROLL
          for (int m = 0; m < 2; ++m) MultiplyAddTf32(&sums[j][(half * 2 + m) * 4], both[m], b0, b1);
        }
      }
    }
  }

  template <int kCount>
  DWS_DEVICE static void Row(TileSums<kCount>& sums, const float* a, int a_pitch, const float* b, int b_pitch,
                             int depth, int tiles, int lane) {
    MultiplyAll<kCount>(sums, a, a_pitch, 1, b, b_pitch, depth, tiles, lane);
  }
  template <int kCount>
  DWS_DEVICE static void Outer(TileSums<kCount>& sums, const float* a, int a_pitch, const float* b, int b_pitch,
                               int depth, int tiles, int lane) {
    MultiplyAll<kCount>(sums, a, 1, a_pitch, b, b_pitch, depth, tiles, lane);
  }
};

template <>
struct BackwardProduct<ExactFloat> {
  template <int kCount>
  DWS_DEVICE static void MultiplyTiles(TileSums<kCount>& sums, const float (&a)[ExactFloat::kRows], const float* b_row,
                                       int tiles) {
    DWS_UNROLL
    for (int j = 0; j < kCount; ++j) {
      if (j >= tiles) continue;
      const float2 b = *reinterpret_cast<const float2*>(b_row + j * kTileColumns);
      DWS_UNROLL
      for (int i = 0; i < ExactFloat::kRows; ++i) {
        sums[j][2 * i] = fmaf(a[i], b.x, sums[j][2 * i]);
        sums[j][2 * i + 1] = fmaf(a[i], b.y, sums[j][2 * i + 1]);
      }
    }
  }

  template <int kCount>
  DWS_DEVICE static void Row(TileSums<kCount>& sums, const float* a, int a_pitch, const float* b, int b_pitch,
                             int depth, int tiles, int lane) {
    const float* a_row = a + (lane >> 3) * a_pitch;
    const float* b_row = b + (lane & 7) * 2;
    for (int d = 0; d < depth; d += 4, a_row += 4) {
      float four[4][ExactFloat::kRows];
      DWS_UNROLL
      for (int i = 0; i < ExactFloat::kRows; ++i) {
        const float4 values = *reinterpret_cast<const float4*>(a_row + 4 * i * a_pitch);
        four[0][i] = values.x;
        four[1][i] = values.y;
        four[2][i] = values.z;
        four[3][i] = values.w;
      }
      DWS_UNROLL
      for (int e = 0; e < 4; ++e, b_row += b_pitch) MultiplyTiles<kCount>(sums, four[e], b_row, tiles);
    }
  }

  template <int kCount>
  DWS_DEVICE static void Outer(TileSums<kCount>& sums, const float* a, int a_pitch, const float* b, int b_pitch,
                               int depth, int tiles, int lane) {
    const float* a_row = a + (lane >> 3);
    const float* b_row = b + (lane & 7) * 2;
    for (int d = 0; d < depth; ++d, a_row += a_pitch, b_row += b_pitch) {
      float values[ExactFloat::kRows];
      DWS_UNROLL
      for (int i = 0; i < ExactFloat::kRows; ++i) values[i] = a_row[4 * i];
      MultiplyTiles<kCount>(sums, values, b_row, tiles);
    }
  }
};

// f(column, sum, sum of the next column) once for every two of the warp's columns, with the sums over its 32 rows, in
// one of its lanes. The whole warp comes here.
template <int kCount, typename F>
DWS_DEVICE void SumColumns(float (&sums)[kCount][kTileSums], int lane, int tiles, TensorCoreSums, F f) {
  DWS_UNROLL
  for (int j = 0; j < kCount; ++j) {
    if (j >= tiles) continue;
    DWS_UNROLL
    for (int half = 0; half < 2; ++half) {
      const float* const tile = &sums[j][half * 8];
      float first = (tile[0] + tile[2]) + (tile[4] + tile[6]), second = (tile[1] + tile[3]) + (tile[5] + tile[7]);
      DWS_UNROLL
      for (int mask = 4; mask < 32; mask *= 2) {
        first += ShuffleFloatXor(first, mask);
        second += ShuffleFloatXor(second, mask);
      }
      if (lane < 4) f(j * kTileColumns + half * 8 + 2 * lane, first, second);
    }
  }
}
template <int kCount, typename F>
DWS_DEVICE void SumColumns(float (&sums)[kCount][kTileSums], int lane, int tiles, ExactFloat, F f) {
  DWS_UNROLL
  for (int j = 0; j < kCount; ++j) {
    if (j >= tiles) continue;
    float first = 0.f, second = 0.f;
    DWS_UNROLL
    for (int i = 0; i < ExactFloat::kRows; ++i) {
      first += sums[j][2 * i];
      second += sums[j][2 * i + 1];
    }
    DWS_UNROLL
    for (int mask = 8; mask < 32; mask *= 2) {
      first += ShuffleFloatXor(first, mask);
      second += ShuffleFloatXor(second, mask);
    }
    if (lane < 8) f(j * kTileColumns + 2 * lane, first, second);
  }
}

// A warp's sums to a matrix of T with `columns` columns. rows[i]: where the lane's i-th row begins, or -1. `vector`, or
// kPlain: rows are whole vectors of 16 bytes.
template <typename Policy, bool kPlain, int kCount>
DWS_DEVICE void StoreSums(float (&sums)[kCount][kTileSums], int lane, int tiles, int first_column,
                          const int (&rows)[Policy::kRows], typename Policy::Element* to, int columns, bool vector) {
  if (!kPlain && !vector) {
    ForEachPair(sums, lane, tiles, Policy(), [&](int i, int column, const float* pair) {
      column += first_column;
      if (rows[i] >= 0) StorePair(to, rows[i] + column, columns - column, pair);
    });
  } else if constexpr (sizeof(typename Policy::Element) == 2) {
    StoreVectors16(sums, lane, tiles, first_column, rows, to, columns, [](uint32_t word) { return word; });
  } else {
    ForEachPair(sums, lane, tiles, Policy(), [&](int i, int column, const float* pair) {
      column += first_column;
      if (rows[i] >= 0 && column < columns) StorePair(to + rows[i] + column, pair);
    });
  }
}

}  // namespace cuda
}  // namespace dwsconv

#endif  // DWSCONV_CUDA_BACKWARD_FRAGMENTS_CUH_
