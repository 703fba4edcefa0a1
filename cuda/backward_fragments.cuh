// What a warp of the backward pass multiplies with: sums over pixels, sums of columns, and the way into and out of
// shared memory.
#ifndef DWSCONV_CUDA_BACKWARD_FRAGMENTS_CUH_
#define DWSCONV_CUDA_BACKWARD_FRAGMENTS_CUH_

#include <cstdint>

#include "cuda/async_copy.cuh"
#include "cuda/fragments.cuh"
#include "cuda/platform.cuh"
#include "cuda/store_tile.cuh"

namespace dwsconv {
namespace cuda {

// Starts the copy of kRows x kColumns elements to shared memory, zeros past rows_left and columns_left. `vector`: rows
// are whole 16-byte vectors, and the pointer is aligned to them.
template <typename T, int kRows, int kColumns, int kThreads>
DWS_DEVICE void LoadBlock(T* shared, int shared_pitch, const T* global, int64_t global_pitch, int64_t rows_left,
                          int columns_left, bool vector) {
  constexpr int kVector = 16 / sizeof(T), kPieces = kColumns / kVector;
  static_assert(kRows * kPieces % kThreads == 0, "every thread copies as much");
  if (vector) {
    DWS_UNROLL
    for (int i = 0; i < kRows * kPieces / kThreads; ++i) {
      const int piece = i * kThreads + threadIdx.x;
      const int row = piece / kPieces, column = piece % kPieces * kVector;
      const bool valid = row < rows_left && column < columns_left;
      CopyAsync16(shared + row * shared_pitch + column, valid ? global + row * global_pitch + column : global, valid);
    }
  } else {
    for (int i = threadIdx.x; i < kRows * kColumns; i += kThreads) {
      const int row = i / kColumns, column = i % kColumns;
      const bool valid = row < rows_left && column < columns_left;
      shared[row * shared_pitch + column] = valid ? global[row * global_pitch + column] : Narrow<T>(0.f);
    }
  }
}

DWS_DEVICE float ShuffleXorFloat(float value, int mask) {
  const float mine[1] = {value};
  float other[1];
  WidenWord(ShuffleXor(NarrowWord(mine, 0.f), mask), other, 0.f);
  return other[0];
}

// sums += Z^T G for 32 channels and up to 64 columns: `depth` rows (pixels, a multiple of 16) of Z, from the warp's
// first channel on, and of G, from the warp's first column on. The sums lie as after Policy::Multiply.
template <typename Policy>
struct OuterProduct;

template <typename T>
struct OuterProduct<TensorCores16<T>> {
  DWS_DEVICE static void MultiplyAddAll(Sums& sums, const T* z, int z_pitch, const T* g, int g_pitch, int depth,
                                        int tiles, int lane) {
    // Matrices of Z: pixels 0-7 and channels 0-7, channels 8-15, then pixels 8-15 of both. Transposed they are the four
    // quarters of a.
    const T* z_row = z + ((lane & 7) + (lane >> 4) * 8) * z_pitch + ((lane >> 3) & 1) * 8;
    const T* g_row = g + (lane & 15) * g_pitch + (lane >> 4) * 8;
    for (int pixel = 0; pixel < depth; pixel += 16, z_row += 16 * z_pitch, g_row += 16 * g_pitch) {
      uint32_t a[2][4];
      LoadMatricesTransposed(a[0], z_row);
      LoadMatricesTransposed(a[1], z_row + 16);
      DWS_UNROLL
      for (int j = 0; j < kTiles; ++j) {
        if (j >= tiles) continue;
        uint32_t b[4];
        LoadMatricesTransposed(b, g_row + j * kTileColumns);
        DWS_UNROLL
        for (int m = 0; m < 2; ++m) {
          MultiplyAdd(&sums[j][m * 4], a[m], b[0], b[1], T());
          MultiplyAdd(&sums[j][(2 + m) * 4], a[m], b[2], b[3], T());
        }
      }
    }
  }
};

template <>
struct OuterProduct<TensorCoresTf32> {
  DWS_DEVICE static void MultiplyAddAll(Sums& sums, const float* z, int z_pitch, const float* g, int g_pitch, int depth,
                                        int tiles, int lane) {
    const int row = lane >> 2, t = lane & 3;
    const float* z_row = z + t * z_pitch + row;
    const float* g_row = g + t * g_pitch + row;
    for (int pixel = 0; pixel < depth; pixel += 8, z_row += 8 * z_pitch, g_row += 8 * g_pitch) {
      uint32_t a[2][4];
      DWS_UNROLL
      for (int m = 0; m < 2; ++m) {
        const float* const from = z_row + m * 16;
        a[m][0] = ToTf32(from[0]);
        a[m][1] = ToTf32(from[8]);
        a[m][2] = ToTf32(from[4 * z_pitch]);
        a[m][3] = ToTf32(from[4 * z_pitch + 8]);
      }
      DWS_UNROLL
      for (int j = 0; j < kTiles; ++j) {
        if (j >= tiles) continue;
        DWS_UNROLL
        for (int half = 0; half < 2; ++half) {
          const float* const from = g_row + j * kTileColumns + half * 8;
          const uint32_t b0 = ToTf32(from[0]), b1 = ToTf32(from[4 * g_pitch]);
          DWS_UNROLL
          for (int m = 0; m < 2; ++m) MultiplyAddTf32(&sums[j][(half * 2 + m) * 4], a[m], b0, b1);
        }
      }
    }
  }
};

template <>
struct OuterProduct<ExactFloat> {
  DWS_DEVICE static void MultiplyAddAll(Sums& sums, const float* z, int z_pitch, const float* g, int g_pitch, int depth,
                                        int tiles, int lane) {
    const float* z_row = z + (lane >> 3);
    const float* g_row = g + (lane & 7) * 2;
    for (int pixel = 0; pixel < depth; ++pixel, z_row += z_pitch, g_row += g_pitch) {
      float a[ExactFloat::kRows];
      DWS_UNROLL
      for (int i = 0; i < ExactFloat::kRows; ++i) a[i] = z_row[4 * i];
      DWS_UNROLL
      for (int j = 0; j < kTiles; ++j) {
        if (j >= tiles) continue;
        const float2 b = *reinterpret_cast<const float2*>(g_row + j * kTileColumns);
        DWS_UNROLL
        for (int i = 0; i < ExactFloat::kRows; ++i) {
          sums[j][2 * i] = fmaf(a[i], b.x, sums[j][2 * i]);
          sums[j][2 * i + 1] = fmaf(a[i], b.y, sums[j][2 * i + 1]);
        }
      }
    }
  }
};

// f(column, sum, sum of the next column) once for every two of the warp's columns, with the sums over its 32 rows, in
// one of its lanes. The whole warp comes here.
template <typename F>
DWS_DEVICE void SumColumns(Sums& sums, int lane, int tiles, TensorCoreSums, F f) {
  DWS_UNROLL
  for (int j = 0; j < kTiles; ++j) {
    if (j >= tiles) continue;
    DWS_UNROLL
    for (int half = 0; half < 2; ++half) {
      const float* const tile = &sums[j][half * 8];
      float first = (tile[0] + tile[2]) + (tile[4] + tile[6]), second = (tile[1] + tile[3]) + (tile[5] + tile[7]);
      DWS_UNROLL
      for (int mask = 4; mask < 32; mask *= 2) {
        first += ShuffleXorFloat(first, mask);
        second += ShuffleXorFloat(second, mask);
      }
      if (lane < 4) f(j * kTileColumns + half * 8 + 2 * lane, first, second);
    }
  }
}
template <typename F>
DWS_DEVICE void SumColumns(Sums& sums, int lane, int tiles, ExactFloat, F f) {
  DWS_UNROLL
  for (int j = 0; j < kTiles; ++j) {
    if (j >= tiles) continue;
    float first = 0.f, second = 0.f;
    DWS_UNROLL
    for (int i = 0; i < ExactFloat::kRows; ++i) {
      first += sums[j][2 * i];
      second += sums[j][2 * i + 1];
    }
    DWS_UNROLL
    for (int mask = 8; mask < 32; mask *= 2) {
      first += ShuffleXorFloat(first, mask);
      second += ShuffleXorFloat(second, mask);
    }
    if (lane < 8) f(j * kTileColumns + 2 * lane, first, second);
  }
}

// The two elements at from[at], of which only `left` are inside; zeros for the others. `vector`, or kPlain, which needs
// fewer registers: both are there or none, and they are aligned.
template <bool kPlain, typename T>
DWS_DEVICE void LoadPairOf(const T* from, int left, bool vector, float (&pair)[2]) {
  pair[0] = pair[1] = 0.f;
  if (kPlain || vector) {
    if (left > 0) LoadPair(from, pair);
  } else {
    if (left > 0) pair[0] = Widen(from[0]);
    if (left > 1) pair[1] = Widen(from[1]);
  }
}

// A warp's sums to a matrix of T with `columns` columns. rows[i]: where the lane's i-th row begins, or -1.
template <typename Policy, bool kPlain>
DWS_DEVICE void StoreSums(Sums& sums, int lane, int tiles, int first_column, const int (&rows)[Policy::kRows],
                          typename Policy::Element* to, int columns, bool vector) {
  using T = typename Policy::Element;
  if (!kPlain && !vector) {
    Policy::ForEach(sums, lane, tiles, [&](int i, int column, const float* pair) {
      column += first_column;
      if (rows[i] >= 0) StorePair(to, rows[i] + column, columns - column, pair);
    });
  } else if constexpr (sizeof(T) == 2) {
    OutputArgs out{};
    out.y = to;
    out.channels = columns;
    StoreVectors16<T>(sums, lane, tiles, first_column, rows, out);
  } else {
    Policy::ForEach(sums, lane, tiles, [&](int i, int column, const float* pair) {
      column += first_column;
      if (rows[i] < 0 || column >= columns) return;
      *reinterpret_cast<float2*>(to + rows[i] + column) = make_float2(pair[0], pair[1]);
    });
  }
}

}  // namespace cuda
}  // namespace dwsconv

#endif  // DWSCONV_CUDA_BACKWARD_FRAGMENTS_CUH_
