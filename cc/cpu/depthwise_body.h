// The depthwise half of a tile: X (NHWC, elements T) to Z. Part of a kernel's translation unit: include after
// activation_body.h.
//
// Every path sums the taps of a pixel in the same order (rows, then columns) with the same operations, so a pixel's
// bits do not depend on which path or which block computed it.
#ifndef DWSCONV_CPU_DEPTHWISE_BODY_H_
#define DWSCONV_CPU_DEPTHWISE_BODY_H_

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
  const float* filter;  // of the first such row
  int64_t filter_row;   // S * channel_stride
  int64_t channel_stride;
  const float* bias;
  Clamp clamp;
  int64_t z_stride;
  int64_t packed_pixels;       // as in DepthwiseArgs; where it is not 0:
  const float* packed_filter;  // of the first row
  const float* packed_bias;
};

template <typename T, bool kTail>
inline Vec LoadInput(const T* p, int64_t lanes) {
  return kTail ? LoadN(p, lanes) : Load(p);
}

// kPixels pixels whose windows lie inside the row: each input vector is loaded once for all the taps it serves. The
// filter's row is reloaded from L1 for each group: 0.54 loads a multiply-add for 3x3 and 8 pixels.
template <typename T, typename Z, int kS, int kStride, int kPixels, bool kTail>
inline void InteriorChannels(const DepthwiseRow<T>& row, const T* x, int64_t c, int64_t lanes, Z* z) {
  Vec acc[kPixels];
#pragma GCC unroll 16
  for (int i = 0; i < kPixels; ++i) acc[i] = Load(row.bias + c);
  const float* filter = row.filter + c;
  const T* tap = x + c;
  for (int64_t r = 0; r < row.rows; ++r) {
    Vec f[kS];
#pragma GCC unroll 8
    for (int s = 0; s < kS; ++s) f[s] = Load(filter + s * row.channel_stride);
#pragma GCC unroll 32
    for (int column = 0; column < (kPixels - 1) * kStride + kS; ++column) {
      const Vec v = LoadInput<T, kTail>(tap + column * row.C, lanes);
#pragma GCC unroll 16
      for (int i = 0; i < kPixels; ++i) {
        const int s = column - i * kStride;
        if (s >= 0 && s < kS) acc[i] = Fma(v, f[s], acc[i]);
      }
    }
    filter += row.filter_row;
    tap += row.row_step;
  }
#pragma GCC unroll 16
  for (int i = 0; i < kPixels; ++i) Store(z + i * row.z_stride + c, Apply(acc[i], row.clamp));
}

template <typename T, typename Z, int kS, int kStride, int kPixels>
inline void InteriorPixels(const DepthwiseRow<T>& row, const T* x, Z* z) {
  int64_t c = 0;
  for (; c + kV <= row.C; c += kV) InteriorChannels<T, Z, kS, kStride, kPixels, false>(row, x, c, kV, z);
  if (c < row.C) InteriorChannels<T, Z, kS, kStride, kPixels, true>(row, x, c, row.C - c, z);
}

// A run of pixels whose windows lie inside the row.
template <typename T, typename Z, int kS, int kStride>
void InteriorRun(const DepthwiseRow<T>& row, const T* x, int64_t pixels, Z* z) {
  for (; pixels >= kDepthwisePixels; pixels -= kDepthwisePixels) {
    InteriorPixels<T, Z, kS, kStride, kDepthwisePixels>(row, x, z);
    x += kDepthwisePixels * row.pixel_step;
    z += kDepthwisePixels * row.z_stride;
  }
  for (; pixels >= 4; pixels -= 4) {
    InteriorPixels<T, Z, kS, kStride, 4>(row, x, z);
    x += 4 * row.pixel_step;
    z += 4 * row.z_stride;
  }
  for (; pixels >= 2; pixels -= 2) {
    InteriorPixels<T, Z, kS, kStride, 2>(row, x, z);
    x += 2 * row.pixel_step;
    z += 2 * row.z_stride;
  }
  if (pixels > 0) InteriorPixels<T, Z, kS, kStride, 1>(row, x, z);
}

// kGroup output rows by kPixels pixels of a square kernel, all windows inside the image: an input vector serves the
// taps of several output rows while it is in a register. One row at a time, each input line comes from L2 once for
// every filter row; that traffic, not arithmetic, bounds the 3x3 layers.
template <typename T, typename Z, int kS, int kStride, int kGroup, int kPixels, bool kTail>
inline void GroupChannels(const DepthwiseRow<T>& row, const T* x, int64_t c, int64_t lanes, Z* z, int64_t z_row) {
  Vec acc[kGroup][kPixels];
#pragma GCC unroll 8
  for (int g = 0; g < kGroup; ++g)
#pragma GCC unroll 16
    for (int i = 0; i < kPixels; ++i) acc[g][i] = Load(row.bias + c);
  // The compiler keeps the filter's nine vectors in registers over all rows.
  const float* filter = row.filter + c;
#pragma GCC unroll 16
  for (int h = 0; h < (kGroup - 1) * kStride + kS; ++h) {
    const T* tap = x + h * row.row_step + c;
#pragma GCC unroll 32
    for (int column = 0; column < (kPixels - 1) * kStride + kS; ++column) {
      const Vec v = LoadInput<T, kTail>(tap + column * row.C, lanes);
#pragma GCC unroll 8
      for (int g = 0; g < kGroup; ++g) {
        const int r = h - g * kStride;
        if (r < 0 || r >= kS) continue;
#pragma GCC unroll 16
        for (int i = 0; i < kPixels; ++i) {
          const int s = column - i * kStride;
          if (s < 0 || s >= kS) continue;
          acc[g][i] = Fma(v, Load(filter + (r * kS + s) * row.channel_stride), acc[g][i]);
        }
      }
    }
  }
#pragma GCC unroll 8
  for (int g = 0; g < kGroup; ++g)
#pragma GCC unroll 16
    for (int i = 0; i < kPixels; ++i) Store(z + g * z_row + i * row.z_stride + c, Apply(acc[g][i], row.clamp));
}

template <typename T, typename Z, int kS, int kStride, int kGroup, int kPixels>
inline void GroupPixels(const DepthwiseRow<T>& row, const T* x, Z* z, int64_t z_row) {
  int64_t c = 0;
  for (; c + kV <= row.C; c += kV) GroupChannels<T, Z, kS, kStride, kGroup, kPixels, false>(row, x, c, kV, z, z_row);
  if (c < row.C) GroupChannels<T, Z, kS, kStride, kGroup, kPixels, true>(row, x, c, row.C - c, z, z_row);
}

template <typename T, typename Z, int kS, int kStride, int kGroup>
void GroupRun(const DepthwiseRow<T>& row, const T* x, int64_t pixels, Z* z, int64_t z_row) {
  for (; pixels >= kGroupPixels; pixels -= kGroupPixels) {
    GroupPixels<T, Z, kS, kStride, kGroup, kGroupPixels>(row, x, z, z_row);
    x += kGroupPixels * row.pixel_step;
    z += kGroupPixels * row.z_stride;
  }
  for (; pixels >= 2; pixels -= 2) {
    GroupPixels<T, Z, kS, kStride, kGroup, 2>(row, x, z, z_row);
    x += 2 * row.pixel_step;
    z += 2 * row.z_stride;
  }
  if (pixels > 0) GroupPixels<T, Z, kS, kStride, kGroup, 1>(row, x, z, z_row);
}

// Any filter width, stride and dilation: tap columns [s0, s1) of kPixels pixels, kVectors channel vectors at once so
// that the additions of one pixel do not wait for each other.
template <typename T, typename Z, int kPixels, int kVectors, bool kTail>
inline void GeneralChannels(const DepthwiseRow<T>& row, const T* x, int64_t c, int64_t lanes, int64_t s0, int64_t s1,
                            Z* z) {
  Vec acc[kPixels][kVectors];
#pragma GCC unroll 8
  for (int i = 0; i < kPixels; ++i)
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) acc[i][v] = Load(row.bias + c + v * kV);
  for (int64_t r = 0; r < row.rows; ++r) {
    for (int64_t s = s0; s < s1; ++s) {
      const float* filter = row.filter + r * row.filter_row + s * row.channel_stride + c;
      const T* tap = x + r * row.row_step + s * row.tap_step + c;
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) {
        const Vec f = Load(filter + v * kV);
#pragma GCC unroll 8
        for (int i = 0; i < kPixels; ++i) {
          acc[i][v] = Fma(LoadInput<T, kTail>(tap + i * row.pixel_step + v * kV, lanes), f, acc[i][v]);
        }
      }
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < kPixels; ++i)
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) Store(z + i * row.z_stride + c + v * kV, Apply(acc[i][v], row.clamp));
}

template <typename T, typename Z, int kPixels>
void GeneralPixels(const DepthwiseRow<T>& row, const T* x, int64_t s0, int64_t s1, Z* z) {
  constexpr int kVectors = kPixels == 1 ? 4 : 1;
  int64_t c = 0;
  for (; c + kVectors * kV <= row.C; c += kVectors * kV) {
    GeneralChannels<T, Z, kPixels, kVectors, false>(row, x, c, kV, s0, s1, z);
  }
  for (; c + kV <= row.C; c += kV) GeneralChannels<T, Z, kPixels, 1, false>(row, x, c, kV, s0, s1, z);
  if (c < row.C) GeneralChannels<T, Z, kPixels, 1, true>(row, x, c, row.C - c, s0, s1, z);
}

template <typename T, typename Z>
void GeneralRun(const DepthwiseRow<T>& row, const T* x, int64_t pixels, int64_t S, Z* z) {
  for (; pixels >= 4; pixels -= 4) {
    GeneralPixels<T, Z, 4>(row, x, 0, S, z);
    x += 4 * row.pixel_step;
    z += 4 * row.z_stride;
  }
  for (; pixels > 0; --pixels) {
    GeneralPixels<T, Z, 1>(row, x, 0, S, z);
    x += row.pixel_step;
    z += row.z_stride;
  }
}

// Packed pixels: a run of row.packed_pixels of them is one "pixel" of packed_pixels * C channels, whose taps are still
// C apart. What is left over of the run goes one by one: each spills zeros past its channels, which the next
// overwrites.
template <typename T, typename Z>
void PackedRun(const DepthwiseRow<T>& row, const T* x, int64_t pixels, int64_t S, Z* z) {
  DepthwiseRow<T> wide = row;
  wide.C = wide.channel_stride = wide.pixel_step = wide.z_stride = row.packed_pixels * row.C;
  wide.filter = row.packed_filter;
  wide.filter_row = S * wide.channel_stride;
  wide.bias = row.packed_bias;
  const int64_t whole = pixels / row.packed_pixels;
  GeneralRun<T, Z>(wide, x, whole, S, z);
  for (int64_t i = whole * row.packed_pixels; i < pixels; ++i) {
    GeneralPixels<T, Z, 1>(row, x + i * row.pixel_step, 0, S, z + i * row.z_stride);
  }
}

inline int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }  // a >= 0, b > 0
inline int64_t Min(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t Max(int64_t a, int64_t b) { return a > b ? a : b; }

// The taps t in [*first, *last) for which start + t * dilation lies in [0, size).
inline void TapRange(int64_t start, int64_t taps, int64_t dilation, int64_t size, int64_t* first, int64_t* last) {
  *first = start >= 0 ? 0 : Min(taps, CeilDiv(-start, dilation));
  *last = start >= size ? *first : Max(*first, Min(taps, CeilDiv(size - start, dilation)));
}

// Where the pixels [q, q_end) of a row lie: [q, inside) and [outside, q_end) have windows that cross an edge.
inline void SplitRow(const Problem& p, int64_t q, int64_t q_end, int64_t* inside, int64_t* outside) {
  *inside = Min(q_end, Max(q, CeilDiv(p.pad_left, p.stride_w)));
  const int64_t room = p.W - 1 + p.pad_left - (p.S - 1) * p.dilation_w;
  *outside = room < 0 ? *inside : Min(q_end, Max(*inside, room / p.stride_w + 1));
}

// Pixels [from, to) of a row one by one, each with the taps that lie inside the row. z is pixel `from`.
template <typename T, typename Z>
void EdgePixels(const Problem& p, const DepthwiseRow<T>& row, int64_t from, int64_t to, Z* z) {
  for (int64_t i = from; i < to; ++i, z += row.z_stride) {
    const int64_t w = i * p.stride_w - p.pad_left;
    int64_t s0, s1;
    TapRange(w, p.S, p.dilation_w, p.W, &s0, &s1);
    // w may be negative: taps below s0, which would lie before the row, are not read.
    GeneralPixels<T, Z, 1>(row, row.x + w * p.C, s0, s1, z);
  }
}

// Output pixels [q, q_end) of one row.
template <typename T, typename Z>
void RowSegment(const Problem& p, const DepthwiseRow<T>& row, int64_t q, int64_t q_end, Z* z) {
  int64_t inside, outside;
  SplitRow(p, q, q_end, &inside, &outside);
  EdgePixels<T, Z>(p, row, q, inside, z);
  if (outside > inside) {
    const T* x = row.x + (inside * p.stride_w - p.pad_left) * p.C;
    Z* to = z + (inside - q) * row.z_stride;
    const int64_t run = outside - inside;
    if (row.packed_pixels > 0) {
      PackedRun<T, Z>(row, x, run, p.S, to);
      EdgePixels<T, Z>(p, row, outside, q_end, z + (outside - q) * row.z_stride);
      return;
    }
    const int64_t kind = p.dilation_w == 1 && p.stride_w <= 2 ? p.S * 4 + p.stride_w : 0;
    switch (kind) {
      case 3 * 4 + 1:
        InteriorRun<T, Z, 3, 1>(row, x, run, to);
        break;
      case 3 * 4 + 2:
        InteriorRun<T, Z, 3, 2>(row, x, run, to);
        break;
      case 5 * 4 + 1:
        InteriorRun<T, Z, 5, 1>(row, x, run, to);
        break;
      case 5 * 4 + 2:
        InteriorRun<T, Z, 5, 2>(row, x, run, to);
        break;
      case 7 * 4 + 1:
        InteriorRun<T, Z, 7, 1>(row, x, run, to);
        break;
      case 7 * 4 + 2:
        InteriorRun<T, Z, 7, 2>(row, x, run, to);
        break;
      default:
        GeneralRun<T, Z>(row, x, run, p.S, to);
    }
  }
  EdgePixels<T, Z>(p, row, outside, q_end, z + (outside - q) * row.z_stride);
}

// How many whole output rows one pass can take. Only 3x3 at stride 1 gains from more than one (measured: 1.3 to 1.6
// times there; 5x5, 7x7 and stride 2, where rows share less for the registers they cost, lost).
inline int64_t GroupRows(const Problem& p) {
  const bool shape = p.R == 3 && p.S == 3 && p.stride_h == 1 && p.stride_w == 1;
  return shape && p.dilation_h == 1 && p.dilation_w == 1 ? kGroupRows : 1;
}

// kGroupRows whole output rows whose windows lie inside the image vertically; row.x is the first input row of the
// first.
template <typename T, typename Z>
void RowGroup(const Problem& p, DepthwiseRow<T> row, Z* z) {
  int64_t inside, outside;
  SplitRow(p, 0, p.Wo, &inside, &outside);
  const int64_t z_row = p.Wo * row.z_stride, run = outside - inside;
  if (run > 0) {
    const T* x = row.x + (inside * p.stride_w - p.pad_left) * p.C;
    Z* to = z + inside * row.z_stride;
    GroupRun<T, Z, 3, 1, kGroupRows>(row, x, run, to, z_row);
  }
  for (int g = 0; g < kGroupRows; ++g) {
    EdgePixels<T, Z>(p, row, 0, inside, z);
    EdgePixels<T, Z>(p, row, outside, p.Wo, z + outside * row.z_stride);
    row.x += p.stride_h * p.W * p.C;
    z += z_row;
  }
}

template <typename T, typename Z>
void Depthwise(const DepthwiseArgs& a) {
  const Problem& p = *a.problem;
  DepthwiseRow<T> row;
  row.row_step = p.dilation_h * p.W * p.C;
  row.tap_step = p.dilation_w * p.C;
  row.pixel_step = p.stride_w * p.C;
  row.C = p.C;
  row.filter_row = p.S * a.channel_stride;
  row.channel_stride = a.channel_stride;
  row.clamp = MakeClamp(p.mid.kind);
  row.z_stride = a.z_stride;
  row.packed_pixels = a.packed_pixels;
  row.packed_bias = a.packed_bias;
  [[maybe_unused]] const bool post = !IsClamp(p.mid.kind);
  const int64_t group = a.packed_pixels > 0 ? 1 : GroupRows(p);
  int64_t q = a.first_pixel % p.Wo, out_row = a.first_pixel / p.Wo, left = a.pixels;
  for (Z* z = static_cast<Z*>(a.z); left > 0; q = 0) {
    const int64_t h = out_row * p.stride_h - p.pad_top;
    const bool grouped =
        group > 1 && q == 0 && left >= group * p.Wo && h >= 0 && h + (group - 1) * p.stride_h + p.R <= p.H;
    const int64_t run = grouped ? group * p.Wo : Min(left, p.Wo - q);
    int64_t r0, r1;
    TapRange(h, p.R, p.dilation_h, p.H, &r0, &r1);
    row.rows = r1 - r0;
    // Without any tap row inside, x is not read; keep the pointer inside the image all the same.
    row.x = static_cast<const T*>(a.image) + (row.rows > 0 ? (h + r0 * p.dilation_h) * p.W * p.C : 0);
    // Sub-filters in rising order: the last vector of one may spill into the first channels of the next.
    for (int64_t m = 0; m < p.M; ++m) {
      row.filter = a.filter + (m * p.R + r0) * row.filter_row;
      row.bias = a.bias + m * a.channel_stride;
      row.packed_filter = a.packed_filter + r0 * p.S * a.packed_pixels * p.C;
      if (grouped) {
        RowGroup<T, Z>(p, row, z + m * p.C);
      } else {
        RowSegment<T, Z>(p, row, q, q + run, z + m * p.C);
      }
    }
    // A Z of 16 bits is rounded as it is stored, so its activation must be a clamp: dispatch sees to it.
    if constexpr (sizeof(Z) == sizeof(float)) {
      if (post) {
        if (a.z_stride == p.C) {  // dense: one long row, whose spill is activated too and then overwritten
          ActivateRow(z, CeilDiv(run * p.C, kV) * kV, p.mid);
        } else {
          for (int64_t i = 0; i < run; ++i) ActivateRow(z + i * a.z_stride, CeilDiv(p.C * p.M, kV) * kV, p.mid);
        }
      }
    }
    z += run * a.z_stride;
    left -= run;
    out_row += grouped ? group : 1;
  }
}

}  // namespace
}  // namespace dwsconv

#endif  // DWSCONV_CPU_DEPTHWISE_BODY_H_
