// The loops of the depthwise half over pixels whose windows lie inside a row: X (NHWC, elements T) to Z. Part of a
// kernel's translation unit: include after activation_body.h.
//
// Every path sums the taps of a pixel in the same order (rows, then columns) with the same operations, so a pixel's
// bits do not depend on which path or which block computed it.
#ifndef DWSCONV_CPU_KERNELS_DEPTHWISE_INTERIOR_BODY_H_
#define DWSCONV_CPU_KERNELS_DEPTHWISE_INTERIOR_BODY_H_

#include "cc/cpu/kernels/kernel_table.h"

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

// kPixels pixels, one vector of channels: each input vector is loaded once for all the taps it serves. Of the columns
// below their windows the first kLeft and the last kRight lie outside the row and are not read. x, filter, bias and z
// are at the first channel.
template <typename T, typename Z, int kS, int kStride, int kPixels, int kLeft, int kRight, bool kTail>
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
    for (int column = kLeft; column < kColumns - kRight; ++column) {
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
template <typename T, typename Z, int kS, int kStride, int kPixels, int kLeft = 0, int kRight = 0>
void InteriorPixels(const DepthwiseRow<T>& shared, const T* x, int64_t c, int64_t c_end, Z* z) {
  const DepthwiseRow<T> row = shared;  // for all the compiler knows, storing Z might change the original
  const float* filter = row.filter + c * row.taps;
  for (; c + kV <= c_end; c += kV, filter += kV * row.taps) {
    InteriorChannels<T, Z, kS, kStride, kPixels, kLeft, kRight, false>(row, x + c, kV, filter, row.bias + c, z + c);
  }
  if (c < c_end) {
    InteriorChannels<T, Z, kS, kStride, kPixels, kLeft, kRight, true>(row, x + c, c_end - c, filter, row.bias + c,
                                                                      z + c);
  }
}

// The same for kGroup output rows by kPixels pixels of a square kernel, all rows of their windows inside the image: an
// input vector serves the taps of several output rows while it is in a register.
template <typename T, typename Z, int kS, int kStride, int kGroup, int kPixels, int kLeft, int kRight, bool kTail>
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
    for (int w = kLeft; w < kColumns - kRight; ++w) {
      const Vec v = Opaque(LoadInput<T, kTail>(columns[w], lanes));
#pragma GCC unroll 8
      for (int g = 0; g < kGroup; ++g) {
        const int r = h - g * kStride;
        if (r < 0 || r >= kS) continue;
#pragma GCC unroll 16
        for (int i = 0; i < kPixels; ++i) {
          const int s = w - i * kStride;
          if (s >= 0 && s < kS) acc[g][i] = Fma(v, f[r * kS + s], acc[g][i]);
        }
      }
    }
  }
  StoreSums(row, acc, z, z_row);
}

template <typename T, typename Z, int kS, int kStride, int kGroup, int kPixels, int kLeft, int kRight>
void GroupPixels(const DepthwiseRow<T>& shared, const T* x, int64_t c, int64_t c_end, Z* z, int64_t z_row) {
  const DepthwiseRow<T> row = shared;  // as above
  const float* filter = row.filter + c * row.taps;
  for (; c + kV <= c_end; c += kV, filter += kV * row.taps) {
    GroupChannels<T, Z, kS, kStride, kGroup, kPixels, kLeft, kRight, false>(row, x + c, kV, filter, row.bias + c, z + c,
                                                                            z_row);
  }
  if (c < c_end) {
    GroupChannels<T, Z, kS, kStride, kGroup, kPixels, kLeft, kRight, true>(row, x + c, c_end - c, filter, row.bias + c,
                                                                           z + c, z_row);
  }
}

}  // namespace
}  // namespace dwsconv

#endif  // DWSCONV_CPU_KERNELS_DEPTHWISE_INTERIOR_BODY_H_
