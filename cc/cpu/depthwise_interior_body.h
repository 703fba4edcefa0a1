// The loops of the depthwise half over pixels whose windows lie inside a row: X (NHWC, elements T) to Z. Part of a
// kernel's translation unit: include after activation_body.h.
//
// Every path sums the taps of a pixel in the same order (rows, then columns) with the same operations, so a pixel's
// bits do not depend on which path or which block computed it.
#ifndef DWSCONV_CPU_DEPTHWISE_INTERIOR_BODY_H_
#define DWSCONV_CPU_DEPTHWISE_INTERIOR_BODY_H_

#include "cc/cpu/kernel_table.h"

namespace dwsconv {
namespace {

// One output row of one sub-filter (one m): what the loops below share. T is the element type of X.
template <typename T>
struct DepthwiseRow {
  const T* x;          // X[r0's input row, 0, 0]
  int64_t row_step;    // elements from one tap row to the next: dilation_h * W * C
  int64_t tap_step;    // from one tap column to the next: dilation_w * C
  int64_t pixel_step;  // from one output pixel's window to the next: stride_w * C
  int64_t C;
  int64_t rows;         // tap rows inside the input
  const float* filter;  // of the first such row: [vectors of channels][taps][kV]
  int64_t taps, S;      // of the whole filter, and of one row
  const float* bias;
  Clamp clamp;
  bool plain;  // the clamp clamps nothing
  int64_t z_stride;
  int64_t packed_pixels;       // as in DepthwiseArgs; where it is not 0:
  const float* packed_filter;  // of the first row, as filter
  const float* packed_bias;
};

template <typename T, bool kTail>
inline Vec LoadInput(const T* p, int64_t lanes) {
  return kTail ? LoadN(p, lanes) : Load(p);
}

// The same pointer, of which the compiler knows nothing: it cannot replace a few pointers and one stride by a product
// for each of many columns, which it then spills.
template <typename P>
inline P* Opaque(P* p) {
#if defined(__GNUC__)
  asm("" : "+r"(p));
#endif
  return p;
}

// The columns of one input row, three to a base pointer.
template <typename T, int kColumns>
struct Columns {
  const T* base[(kColumns + 2) / 3];
  int64_t C;

  inline __attribute__((always_inline)) Columns(const T* x, int64_t C) : C(C) {
    base[0] = Opaque(x);
#pragma GCC unroll 8
    for (int b = 1; b < (kColumns + 2) / 3; ++b) base[b] = Opaque(base[b - 1] + 3 * C);
  }
  inline __attribute__((always_inline)) const T* operator[](int column) const {
    return base[column / 3] + column % 3 * C;
  }
};

// kRows x kPixels sums to Z.
template <typename T, typename Z, int kRows, int kPixels>
inline __attribute__((always_inline)) void StoreSums(const DepthwiseRow<T>& row, Vec (&acc)[kRows][kPixels], Z* z,
                                                     int64_t z_row) {
  if (!row.plain) {
#pragma GCC unroll 8
    for (int g = 0; g < kRows; ++g)
#pragma GCC unroll 16
      for (int i = 0; i < kPixels; ++i) acc[g][i] = Apply(acc[g][i], row.clamp);
  }
#pragma GCC unroll 8
  for (int g = 0; g < kRows; ++g, z += z_row) {
    Z* to = z;
#pragma GCC unroll 16
    for (int i = 0; i < kPixels; ++i, to += row.z_stride) Store(to, acc[g][i]);
  }
}

// kPixels pixels whose windows lie inside the row, one vector of channels: each input vector is loaded once for all the
// taps it serves. x, filter, bias and z are at its first channel.
template <typename T, typename Z, int kS, int kStride, int kPixels, bool kTail>
inline __attribute__((always_inline)) void InteriorChannels(const DepthwiseRow<T>& row, const T* x, int64_t lanes,
                                                            const float* filter, const float* bias, Z* z) {
  constexpr int kColumns = (kPixels - 1) * kStride + kS;
  Vec acc[1][kPixels];
  const Vec zeroth = Load(bias);
#pragma GCC unroll 16
  for (int i = 0; i < kPixels; ++i) acc[0][i] = zeroth;
#pragma GCC unroll 1
  for (int64_t r = row.rows; r > 0; --r) {
    const Columns<T, kColumns> columns(x, row.C);
    Vec f[kS];
#pragma GCC unroll 8
    for (int s = 0; s < kS; ++s) f[s] = Load(filter + s * kV);
#pragma GCC unroll 32
    for (int column = 0; column < kColumns; ++column) {
      // Opaque: loaded once, not once for each use.
      const Vec v = Opaque(LoadInput<T, kTail>(columns[column], lanes));
#pragma GCC unroll 16
      for (int i = 0; i < kPixels; ++i) {
        const int s = column - i * kStride;
        if (s >= 0 && s < kS) acc[0][i] = Fma(v, f[s], acc[0][i]);
      }
    }
    filter += kS * kV;
    x += row.row_step;
  }
  StoreSums(row, acc, z, 0);
}

// Channels [c, c_end) of them; c is a multiple of kV, and so is c_end unless it is C.
template <typename T, typename Z, int kS, int kStride, int kPixels>
void InteriorPixels(const DepthwiseRow<T>& shared, const T* x, int64_t c, int64_t c_end, Z* z) {
  const DepthwiseRow<T> row = shared;  // for all the compiler knows, storing Z might change the original
  const float* filter = row.filter + c * row.taps;
  for (; c + kV <= c_end; c += kV, filter += kV * row.taps) {
    InteriorChannels<T, Z, kS, kStride, kPixels, false>(row, x + c, kV, filter, row.bias + c, z + c);
  }
  if (c < c_end) {
    InteriorChannels<T, Z, kS, kStride, kPixels, true>(row, x + c, c_end - c, filter, row.bias + c, z + c);
  }
}

// The same for kGroup output rows by kPixels pixels of a square kernel, all windows inside the image: an input vector
// serves the taps of several output rows while it is in a register.
template <typename T, typename Z, int kS, int kStride, int kGroup, int kPixels, bool kTail>
inline __attribute__((always_inline)) void GroupChannels(const DepthwiseRow<T>& row, const T* x, int64_t lanes,
                                                         const float* filter, const float* bias, Z* z, int64_t z_row) {
  constexpr int kColumns = (kPixels - 1) * kStride + kS;
  Vec acc[kGroup][kPixels];
  const Vec zeroth = Load(bias);
#pragma GCC unroll 8
  for (int g = 0; g < kGroup; ++g)
#pragma GCC unroll 16
    for (int i = 0; i < kPixels; ++i) acc[g][i] = zeroth;
  Vec f[kS * kS];
#pragma GCC unroll 16
  for (int t = 0; t < kS * kS; ++t) f[t] = Load(filter + t * kV);
#pragma GCC unroll 16
  for (int h = 0; h < (kGroup - 1) * kStride + kS; ++h, x += row.row_step) {
    const Columns<T, kColumns> columns(x, row.C);
#pragma GCC unroll 32
    for (int column = 0; column < kColumns; ++column) {
      const Vec v = Opaque(LoadInput<T, kTail>(columns[column], lanes));
#pragma GCC unroll 8
      for (int g = 0; g < kGroup; ++g) {
        const int r = h - g * kStride;
        if (r < 0 || r >= kS) continue;
#pragma GCC unroll 16
        for (int i = 0; i < kPixels; ++i) {
          const int s = column - i * kStride;
          if (s >= 0 && s < kS) acc[g][i] = Fma(v, f[r * kS + s], acc[g][i]);
        }
      }
    }
  }
  StoreSums(row, acc, z, z_row);
}

template <typename T, typename Z, int kS, int kStride, int kGroup, int kPixels>
void GroupPixels(const DepthwiseRow<T>& shared, const T* x, int64_t c, int64_t c_end, Z* z, int64_t z_row) {
  const DepthwiseRow<T> row = shared;  // as above
  const float* filter = row.filter + c * row.taps;
  for (; c + kV <= c_end; c += kV, filter += kV * row.taps) {
    GroupChannels<T, Z, kS, kStride, kGroup, kPixels, false>(row, x + c, kV, filter, row.bias + c, z + c, z_row);
  }
  if (c < c_end) {
    GroupChannels<T, Z, kS, kStride, kGroup, kPixels, true>(row, x + c, c_end - c, filter, row.bias + c, z + c, z_row);
  }
}

// Any filter width, stride and dilation: tap columns [s0, s1) of kPixels pixels, kVectors channel vectors at once so
// that the additions of one pixel do not wait for each other. x, filter, bias and z are at the first channel.
template <typename T, typename Z, int kPixels, int kVectors, bool kTail>
inline __attribute__((always_inline)) void GeneralChannels(const DepthwiseRow<T>& row, const T* x, int64_t lanes,
                                                           int64_t s0, int64_t s1, const float* filter,
                                                           const float* bias, Z* z) {
  Vec acc[kVectors][kPixels];
#pragma GCC unroll 8
  for (int v = 0; v < kVectors; ++v) {
    const Vec first = Load(bias + v * kV);
#pragma GCC unroll 8
    for (int i = 0; i < kPixels; ++i) acc[v][i] = first;
  }
#pragma GCC unroll 1
  for (int64_t r = 0; r < row.rows; ++r) {
    const float* taps = filter + (r * row.S + s0) * kV;
    const T* tap = x + r * row.row_step + s0 * row.tap_step;
#pragma GCC unroll 1
    for (int64_t s = s0; s < s1; ++s, taps += kV, tap += row.tap_step) {
      const Columns<T, kPixels> pixels(tap, row.pixel_step);
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) {
        const Vec f = Load(taps + v * kV * row.taps);
#pragma GCC unroll 8
        for (int i = 0; i < kPixels; ++i) {
          acc[v][i] = Fma(LoadInput<T, kTail>(pixels[i] + v * kV, lanes), f, acc[v][i]);
        }
      }
    }
  }
  StoreSums(row, acc, z, kV);
}

template <typename T, typename Z, int kPixels>
void GeneralPixels(const DepthwiseRow<T>& shared, const T* x, int64_t s0, int64_t s1, Z* z) {
  constexpr int kVectors = kPixels == 1 ? 4 : 1;
  const DepthwiseRow<T> row = shared;  // as above
  const float* filter = row.filter;
  int64_t c = 0;
  for (; c + kVectors * kV <= row.C; c += kVectors * kV, filter += kVectors * kV * row.taps) {
    GeneralChannels<T, Z, kPixels, kVectors, false>(row, x + c, kV, s0, s1, filter, row.bias + c, z + c);
  }
  for (; c + kV <= row.C; c += kV, filter += kV * row.taps) {
    GeneralChannels<T, Z, kPixels, 1, false>(row, x + c, kV, s0, s1, filter, row.bias + c, z + c);
  }
  if (c < row.C) {
    GeneralChannels<T, Z, kPixels, 1, true>(row, x + c, row.C - c, s0, s1, filter, row.bias + c, z + c);
  }
}

template <typename T, typename Z>
void GeneralRun(const DepthwiseRow<T>& row, const T* x, int64_t pixels, int64_t s0, int64_t s1, Z* z) {
  for (; pixels >= 4; pixels -= 4) {
    GeneralPixels<T, Z, 4>(row, x, s0, s1, z);
    x += 4 * row.pixel_step;
    z += 4 * row.z_stride;
  }
  for (; pixels > 0; --pixels) {
    GeneralPixels<T, Z, 1>(row, x, s0, s1, z);
    x += row.pixel_step;
    z += row.z_stride;
  }
}

// Packed pixels: a run of row.packed_pixels of them is one "pixel" of packed_pixels * C channels, whose taps are still
// C apart.
template <typename T>
inline DepthwiseRow<T> WidePixels(const DepthwiseRow<T>& row) {
  DepthwiseRow<T> wide = row;
  wide.C = wide.pixel_step = wide.z_stride = row.packed_pixels * row.C;
  wide.filter = row.packed_filter;
  wide.bias = row.packed_bias;
  return wide;
}

// What is left over of a run after the wide pixels, one by one: each spills zeros past its channels, which the next
// overwrites.
template <typename T, typename Z>
void PackedRest(const DepthwiseRow<T>& row, const T* x, int64_t pixels, Z* z) {
  for (int64_t i = pixels / row.packed_pixels * row.packed_pixels; i < pixels; ++i) {
    GeneralPixels<T, Z, 1>(row, x + i * row.pixel_step, 0, row.S, z + i * row.z_stride);
  }
}

template <typename T, typename Z>
void PackedRun(const DepthwiseRow<T>& row, const T* x, int64_t pixels, Z* z) {
  GeneralRun<T, Z>(WidePixels(row), x, pixels / row.packed_pixels, 0, row.S, z);
  PackedRest<T, Z>(row, x, pixels, z);
}

constexpr int kPackedRows = 4;

// The wide pixels of kPackedRows output rows of a 3x3 filter. Nearly all loads cross a cache line, as taps are C apart:
// each serves three rows.
template <typename T, typename Z>
void PackedRows(const DepthwiseRow<T>& row, const T* x, int64_t pixels, Z* z, int64_t z_row) {
  constexpr int64_t kNearPixels = 8;  // x stays in L1 while the filter's vectors take turns
  const DepthwiseRow<T> wide = WidePixels(row);
  const int64_t whole = pixels / row.packed_pixels;
  for (int64_t begin = 0; begin < whole; begin += kNearPixels) {
    const int64_t end = begin + kNearPixels < whole ? begin + kNearPixels : whole;
    for (int64_t c = 0; c < wide.C; c += kV) {
      Vec f[9];
#pragma GCC unroll 9
      for (int t = 0; t < 9; ++t) f[t] = Load(wide.filter + c * wide.taps + t * kV);
      const Vec bias = Load(wide.bias + c);
      for (int64_t i = begin; i < end; ++i) {
        const T* at = x + i * wide.C + c;
        Vec acc[kPackedRows][1];
#pragma GCC unroll 4
        for (int g = 0; g < kPackedRows; ++g) acc[g][0] = bias;
#pragma GCC unroll 6
        for (int h = 0; h < kPackedRows + 2; ++h, at += wide.row_step) {
#pragma GCC unroll 3
          for (int s = 0; s < 3; ++s) {
            const Vec v = Opaque(Load(at + s * wide.tap_step));
#pragma GCC unroll 4
            for (int g = 0; g < kPackedRows; ++g) {
              if (h - g >= 0 && h - g < 3) acc[g][0] = Fma(v, f[(h - g) * 3 + s], acc[g][0]);
            }
          }
        }
        StoreSums(wide, acc, z + i * wide.z_stride + c, z_row);
      }
    }
  }
}

}  // namespace
}  // namespace dwsconv

#endif  // DWSCONV_CPU_DEPTHWISE_INTERIOR_BODY_H_
