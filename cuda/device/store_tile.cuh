// From a warp's sums to Y: bias, residual and activation in float, then one rounding.
#ifndef DWSCONV_CUDA_DEVICE_STORE_TILE_CUH_
#define DWSCONV_CUDA_DEVICE_STORE_TILE_CUH_

#include <cstdint>

#include "cuda/device/activation.cuh"
#include "cuda/device/element.cuh"
#include "cuda/device/fragments.cuh"
#include "cuda/device/platform.cuh"

namespace dwsconv {
namespace cuda {

// What the epilogue needs of a call.
struct OutputArgs {
  const void* residual;  // [pixels, K] as Y, or null
  void* y;               // [pixels, K]
  int channels;          // K
  bool vector;           // K is whole 16-byte vectors, and the pointers are aligned to them
  DeviceActivation activation;
};

// Word i of what lanes t, t ^ 1, t ^ 2, t ^ 3 of a quad hold, for the lane's own tile: a transposition of 4 x 4 words.
DWS_DEVICE void TransposeQuad(uint32_t (&words)[4], int lane) {
  const bool odd = (lane & 1) != 0, high = (lane & 2) != 0;
  const uint32_t first = ShuffleXor(odd ? words[0] : words[1], 1);
  const uint32_t second = ShuffleXor(odd ? words[2] : words[3], 1);
  const uint32_t a0 = odd ? first : words[0], a1 = odd ? words[1] : first;
  const uint32_t a2 = odd ? second : words[2], a3 = odd ? words[3] : second;
  const uint32_t third = ShuffleXor(high ? a0 : a2, 2);
  const uint32_t fourth = ShuffleXor(high ? a1 : a3, 2);
  words[0] = high ? third : a0;
  words[1] = high ? fourth : a1;
  words[2] = high ? a2 : third;
  words[3] = high ? a3 : fourth;
}

// Two elements side by side, aligned to both.
DWS_DEVICE void LoadPair(const float* from, float (&values)[2]) {
  const float2 pair = *reinterpret_cast<const float2*>(from);
  values[0] = pair.x;
  values[1] = pair.y;
}
template <typename T>
DWS_DEVICE void LoadPair(const T* from, float (&values)[2]) {
  WidenWord(*reinterpret_cast<const uint32_t*>(from), values, T());
}

DWS_DEVICE void StorePair(float* to, const float* pair) {
  *reinterpret_cast<float2*>(to) = make_float2(pair[0], pair[1]);
}
template <typename T>
DWS_DEVICE void StorePair(T* to, const float* pair) {
  const float values[2] = {pair[0], pair[1]};
  *reinterpret_cast<uint32_t*>(to) = NarrowWord(values, T());
}

// Writes the two elements at y[at], y[at + 1], of which only `left` are inside.
template <typename T>
DWS_DEVICE void StorePair(T* y, int at, int left, const float* sums) {
  if (left > 0) y[at] = Narrow<T>(sums[0]);
  if (left > 1) y[at + 1] = Narrow<T>(sums[1]);
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

// 16 bytes a lane: of four tiles of 8 columns that a quad holds two columns a lane of, each lane gets one tile's row.
// clamp(word) is what becomes of each word.
template <typename T, int kCount, typename Clamp>
DWS_DEVICE void StoreVectors16(float (&sums)[kCount][kTileSums], int lane, int tiles, int first_column,
                               const int (&rows)[4], T* to, int columns, Clamp clamp) {
  static_assert(kCount % 2 == 0, "a quad's four tiles of 8 columns are two of 16");
  DWS_UNROLL
  for (int two = 0; two < kCount / 2; ++two) {
    if (2 * two >= tiles) continue;
    const int column = first_column + two * 2 * kTileColumns + 8 * (lane & 3);
    const bool inside = column < columns && 2 * two + ((lane & 3) >> 1) < tiles;
    DWS_UNROLL
    for (int i = 0; i < 4; ++i) {
      uint32_t words[4];
      DWS_UNROLL
      for (int eight = 0; eight < 4; ++eight) {
        const float* const from = &sums[2 * two + eight / 2][(eight & 1) * 8 + i * 2];
        const float values[2] = {from[0], from[1]};
        words[eight] = clamp(NarrowWord(values, T()));
      }
      TransposeQuad(words, lane);
      if (inside && rows[i] >= 0) {
        *reinterpret_cast<uint4*>(to + rows[i] + column) = make_uint4(words[0], words[1], words[2], words[3]);
      }
    }
  }
}

// The same of 16 rows x 128 columns (GroupSums of hopper.cuh): of each four tiles of 8 columns a lane gets one's row.
template <typename T, typename Clamp>
DWS_DEVICE void StoreVectors16(Sums& sums, int lane, int tiles, int first_column, const int (&rows)[2], T* to,
                               int columns, Clamp clamp) {
  DWS_UNROLL
  for (int two = 0; two < kTiles; ++two) {
    if (2 * two >= tiles) continue;
    const int column = first_column + two * 2 * kTileColumns + 8 * (lane & 3);
    DWS_UNROLL
    for (int i = 0; i < 2; ++i) {
      uint32_t words[4];
      DWS_UNROLL
      for (int eight = 0; eight < 4; ++eight) {
        const int tile = 2 * two + eight / 2;
        const float* const from = &sums[tile % kTiles][(eight & 1) * 8 + tile / kTiles * 4 + i * 2];
        const float values[2] = {from[0], from[1]};
        words[eight] = clamp(NarrowWord(values, T()));
      }
      TransposeQuad(words, lane);
      if (column < columns && rows[i] >= 0) {
        *reinterpret_cast<uint4*>(to + rows[i] + column) = make_uint4(words[0], words[1], words[2], words[3]);
      }
    }
  }
}

// rows[i]: where the lane's i-th row begins, in elements past out.y and out.residual, or -1 for a row outside. bias:
// floats in shared memory, from output channel 0 on, zeros where there is none. kPlain: out.vector is true, which
// takes fewer registers.
template <typename Policy, bool kPlain = false>
DWS_DEVICE void StoreTile(Sums& sums, int lane, int tiles, int first_column, const int (&rows)[Policy::kRows],
                          const float* bias, const OutputArgs& out) {
  using T = typename Policy::Element;
  const T* const residual = static_cast<const T*>(out.residual);
  Policy::ForEach(sums, lane, tiles, [&](int i, int column, float* pair) {
    column += first_column;
    pair[0] += bias[column];
    pair[1] += bias[column + 1];
    if (residual != nullptr && rows[i] >= 0) {
      const T* const from = residual + rows[i] + column;
      const int left = out.channels - column;
      float other[2] = {0.f, 0.f};
      if ((kPlain || out.vector) && left > 0) {
        LoadPair(from, other);
      } else {
        if (left > 0) other[0] = Widen(from[0]);
        if (left > 1) other[1] = Widen(from[1]);
      }
      pair[0] += other[0];
      pair[1] += other[1];
    }
  });
  ActivateAll<T>(sums, out.activation, kPlain || out.vector);
  if (!kPlain && !out.vector) {
    Policy::ForEach(sums, lane, tiles, [&](int i, int column, const float* pair) {
      column += first_column;
      if (rows[i] >= 0) StorePair(static_cast<T*>(out.y), rows[i] + column, out.channels - column, pair);
    });
  } else if constexpr (sizeof(T) == 2) {
    const WordClamp clamp = WordClamp::Of(out.activation, T());
    StoreVectors16(sums, lane, tiles, first_column, rows, static_cast<T*>(out.y), out.channels,
                   [clamp](uint32_t word) { return clamp(word, T()); });
  } else {  // 8 bytes a lane, which a few lanes make whole sectors of
    Policy::ForEach(sums, lane, tiles, [&](int i, int column, const float* pair) {
      column += first_column;
      if (rows[i] < 0 || column >= out.channels) return;
      *reinterpret_cast<float2*>(static_cast<float*>(out.y) + rows[i] + column) = make_float2(pair[0], pair[1]);
    });
  }
}

// Where P's columns were permuted (TensorCores16::Column) a lane has, of each 32 channels, 8 side by side: sum e of
// them in its row i.
DWS_DEVICE float& PermutedSum(Sums& sums, int pair, int i, int e) {
  return sums[2 * pair + e / 4][((e / 2 & 1) * 2 + (i >> 1)) * 4 + (i & 1) * 2 + (e & 1)];
}

// The 16 bytes at `from`, of which `count` elements are inside; zeros for the others.
template <typename T>
DWS_DEVICE uint4 LoadSome(const T* from, int count) {
  uint32_t words[4] = {0, 0, 0, 0};
  DWS_UNROLL
  for (int e = 0; e < 8; ++e) {
    if (e < count) words[e / 2] |= static_cast<uint32_t>(from[e].bits) << 16 * (e & 1);
  }
  return make_uint4(words[0], words[1], words[2], words[3]);
}

template <typename T>
DWS_DEVICE void StoreSome(T* to, const uint32_t* words, int count) {
  DWS_UNROLL
  for (int e = 0; e < 8; ++e) {
    if (e < count) to[e].bits = static_cast<uint16_t>(words[e / 2] >> 16 * (e & 1));
  }
}

// StoreTile of 16-bit elements where P's columns were permuted: 16 bytes of Y a lane. first_column: the warp's first
// channel.
template <typename T>
DWS_DEVICE void StorePermuted(Sums& sums, int lane, int tiles, int first_column, const int (&rows)[4],
                              const float* bias, const OutputArgs& out) {
  first_column += 8 * (lane & 3);
  DWS_UNROLL
  for (int pair = 0; pair < kTiles / 2; ++pair) {
    if (2 * pair >= tiles) continue;
    DWS_UNROLL
    for (int half = 0; half < 2; ++half) {
      const float4 four = *reinterpret_cast<const float4*>(bias + first_column + pair * 2 * kTileColumns + 4 * half);
      DWS_UNROLL
      for (int i = 0; i < 4; ++i) {
        PermutedSum(sums, pair, i, 4 * half) += four.x;
        PermutedSum(sums, pair, i, 4 * half + 1) += four.y;
        PermutedSum(sums, pair, i, 4 * half + 2) += four.z;
        PermutedSum(sums, pair, i, 4 * half + 3) += four.w;
      }
    }
  }
  if (out.residual != nullptr) {
    const T* const residual = static_cast<const T*>(out.residual) + first_column;
    DWS_UNROLL
    for (int pair = 0; pair < kTiles / 2; ++pair) {
      const int left = out.channels - first_column - pair * 2 * kTileColumns;
      DWS_UNROLL
      for (int i = 0; i < 4; ++i) {
        if (2 * pair >= tiles || rows[i] < 0 || left <= 0) continue;
        const T* const from = residual + rows[i] + pair * 2 * kTileColumns;
        const uint4 four = out.vector ? *reinterpret_cast<const uint4*>(from) : LoadSome(from, left);
        const uint32_t words[4] = {four.x, four.y, four.z, four.w};
        DWS_UNROLL
        for (int w = 0; w < 4; ++w) {
          float values[2];
          WidenWord(words[w], values, T());
          PermutedSum(sums, pair, i, 2 * w) += values[0];
          PermutedSum(sums, pair, i, 2 * w + 1) += values[1];
        }
      }
    }
  }
  ActivateAll<T>(sums, out.activation, true);
  const WordClamp clamp = WordClamp::Of(out.activation, T());
  T* const y = static_cast<T*>(out.y) + first_column;
  DWS_UNROLL
  for (int pair = 0; pair < kTiles / 2; ++pair) {
    const int left = 2 * pair < tiles ? out.channels - first_column - pair * 2 * kTileColumns : 0;
    uint32_t words[16];
    DWS_UNROLL
    for (int w = 0; w < 16; ++w) {
      const float values[2] = {PermutedSum(sums, pair, w / 4, w % 4 * 2),
                               PermutedSum(sums, pair, w / 4, w % 4 * 2 + 1)};
      words[w] = NarrowWord(values, T());
    }
    clamp.All(words, T());
    if (out.vector) {
      DWS_UNROLL
      for (int i = 0; i < 4; ++i) {
        if (rows[i] < 0 || left <= 0) continue;
        *reinterpret_cast<uint4*>(y + rows[i] + pair * 2 * kTileColumns) =
            make_uint4(words[4 * i], words[4 * i + 1], words[4 * i + 2], words[4 * i + 3]);
      }
    } else {
      DWS_UNROLL
      for (int i = 0; i < 4; ++i) {
        if (rows[i] >= 0) StoreSome(y + rows[i] + pair * 2 * kTileColumns, words + 4 * i, left);
      }
    }
  }
}

}  // namespace cuda
}  // namespace dwsconv

#endif  // DWSCONV_CUDA_DEVICE_STORE_TILE_CUH_
