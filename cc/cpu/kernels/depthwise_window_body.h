// The loops of the depthwise half for windows of any size, stride and dilation, inside a row or across its edges. Part
// of a kernel's translation unit: include after depthwise_interior_body.h, under whose rule for the order of sums they
// are.
#ifndef DWSCONV_CPU_KERNELS_DEPTHWISE_WINDOW_BODY_H_
#define DWSCONV_CPU_KERNELS_DEPTHWISE_WINDOW_BODY_H_

#include "cc/core/whole.h"
#include "cc/cpu/kernels/kernel_table.h"

namespace dwsconv {
namespace {

inline int64_t Min(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t Max(int64_t a, int64_t b) { return a > b ? a : b; }

// The taps t in [*first, *last) for which start + t * dilation lies in [0, size).
inline void TapRange(int64_t start, int64_t taps, int64_t dilation, int64_t size, int64_t* first, int64_t* last) {
  if (dilation == 1) {  // without divisions
    *first = Min(taps, Max(0, -start));
    *last = Max(*first, Min(taps, size - start));
    return;
  }
  *first = start >= 0 ? 0 : Min(taps, CeilDiv(-start, dilation));
  *last = start >= size ? *first : Max(*first, Min(taps, CeilDiv(size - start, dilation)));
}

// Where the pixels [q, q_end) of a row lie: [q, inside) and [outside, q_end) have windows that cross an edge.
inline void SplitRow(const Chain& p, int64_t q, int64_t q_end, int64_t* inside, int64_t* outside) {
  *inside = Min(q_end, Max(q, CeilDiv(p.pad_left, p.stride_w)));
  const int64_t room = p.W - 1 + p.pad_left - (p.S - 1) * p.dilation_w;
  *outside = room < 0 ? *inside : Min(q_end, Max(*inside, room / p.stride_w + 1));
}

// Pixels that are summed together: an addition takes four cycles and two begin in each, so fewer would wait.
constexpr int kWindowPixels = 8;
// Taps whose filter vectors are in registers together, where neighbouring pixels share inputs.
constexpr int kSlidingTaps = 4;

// acc[v][i] += taps [s0, s1) of one tap row, for kPixels pixels and kVectors vectors of channels. `in` is where tap 0
// of the first pixel is, or would be; `filter` is tap 0 of the row.
template <typename T, int kPixels, int kVectors, bool kTail>
inline __attribute__((always_inline)) void SumTaps(const DepthwiseRow<T>& row, const T* in, int64_t lanes, int64_t s0,
                                                   int64_t s1, const float* filter, Vec (&acc)[kVectors][kPixels]) {
  int64_t s = s0;
  const T* tap = in + s0 * row.tap_step;
  const float* at = filter + s0 * kV;
  if constexpr (kPixels > 1 && kVectors == 1) {
    if (row.pixel_step == row.tap_step) {  // a pixel's next tap is its neighbour's: each input is loaded once
      constexpr int kColumns = kPixels + kSlidingTaps - 1;
#pragma GCC unroll 1
      for (; s + kSlidingTaps <= s1; s += kSlidingTaps, at += kSlidingTaps * kV, tap += kSlidingTaps * row.tap_step) {
        const Columns<T, kColumns> columns(tap, row.tap_step);
        Vec f[kSlidingTaps];
#pragma GCC unroll 4
        for (int t = 0; t < kSlidingTaps; ++t) f[t] = Load(at + t * kV);
#pragma GCC unroll 16
        for (int column = 0; column < kColumns; ++column) {
          const Vec v = Opaque(LoadInput<T, kTail>(columns[column], lanes));
#pragma GCC unroll 8
          for (int i = 0; i < kPixels; ++i) {
            const int t = column - i;
            if (t >= 0 && t < kSlidingTaps) acc[0][i] = Fma(v, f[t], acc[0][i]);
          }
        }
      }
    }
  }
#pragma GCC unroll 1
  for (; s < s1; ++s, at += kV, tap += row.tap_step) {
    const Columns<T, kPixels> pixels(tap, row.pixel_step);
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      const Vec f = Load(at + v * kV * row.taps);
#pragma GCC unroll 8
      for (int i = 0; i < kPixels; ++i) {
        acc[v][i] = Fma(LoadInput<T, kTail>(pixels[i] + v * kV, lanes), f, acc[v][i]);
      }
    }
  }
}

// Tap columns [s0, s1) of kPixels pixels, kVectors channel vectors at once so that the additions of one pixel do not
// wait for each other. x, filter, bias and z are at the first channel.
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
    SumTaps<T, kPixels, kVectors, kTail>(row, x + r * row.row_step, lanes, s0, s1, filter + r * row.S * kV, acc);
  }
  StoreSums(row, acc, z, kV);
}

template <typename T, typename Z, int kPixels>
void GeneralPixels(const DepthwiseRow<T>& shared, const T* x, int64_t s0, int64_t s1, Z* z) {
  constexpr int kVectors = kPixels == 1 ? 4 : kPixels == 4 ? 2 : 1;
  const DepthwiseRow<T> row = shared;  // for all the compiler knows, storing Z might change the original
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

template <int kValue>
struct Count {
  static constexpr int value = kValue;
};

// Calls run(first pixel, how many as a constant) for groups of kMost, 4 or single pixels that cover `pixels` of them. A
// last group that is not whole overlaps the one before: the same pixels come out again.
template <int kMost, typename Run>
inline __attribute__((always_inline)) void ForGroups(int64_t pixels, const Run& run) {
  if (pixels >= kMost) {
    for (int64_t i = 0; i < pixels; i += kMost) run(Min(i, pixels - kMost), Count<kMost>{});
  } else if (kMost > 4 && pixels >= 4) {
    run(0, Count<4>{});
    if (pixels > 4) run(pixels - 4, Count<4>{});
  } else {
    for (int64_t i = 0; i < pixels; ++i) run(i, Count<1>{});
  }
}

// Pixels that have the same tap columns [s0, s1). Where they share no inputs, few of them and two vectors of channels
// at a time: more pixels would need more cache lines.
template <typename T, typename Z>
void GeneralRun(const DepthwiseRow<T>& row, const T* x, int64_t pixels, int64_t s0, int64_t s1, Z* z) {
  const auto run = [&](int64_t i, auto count) {
    GeneralPixels<T, Z, count.value>(row, x + i * row.pixel_step, s0, s1, z + i * row.z_stride);
  };
  const bool slides = row.pixel_step == row.tap_step && s1 - s0 >= kSlidingTaps;
  slides || row.packed_pixels > 0 ? ForGroups<kWindowPixels>(pixels, run) : ForGroups<4>(pixels, run);
}

// The tap columns of neighbouring pixels: [first, last) of each, and [from, to) that all of them have.
template <int kPixels>
struct TapColumns {
  int64_t first[kPixels], last[kPixels], from, to;
};

// kPixels neighbours whose windows may cross the row's edges, one vector of channels.
template <typename T, typename Z, int kPixels, bool kTail>
inline __attribute__((always_inline)) void EdgeChannels(const DepthwiseRow<T>& row, const T* x, int64_t lanes,
                                                        const TapColumns<kPixels>& taps, const float* filter,
                                                        const float* bias, Z* z) {
  Vec acc[1][kPixels];
  const Vec zeroth = Load(bias);
#pragma GCC unroll 8
  for (int i = 0; i < kPixels; ++i) acc[0][i] = zeroth;
  const auto alone = [&](int i, const T* in, const float* f, int64_t s, int64_t end) __attribute__((always_inline)) {
    for (; s < end; ++s) {
      const T* at = in + i * row.pixel_step + s * row.tap_step;
      acc[0][i] = Fma(LoadInput<T, kTail>(at, lanes), Load(f + s * kV), acc[0][i]);
    }
  };
#pragma GCC unroll 1
  for (int64_t r = 0; r < row.rows; ++r, x += row.row_step, filter += row.S * kV) {
#pragma GCC unroll 8
    for (int i = 0; i < kPixels; ++i) alone(i, x, filter, taps.first[i], Min(taps.from, taps.last[i]));
    SumTaps<T, kPixels, 1, kTail>(row, x, lanes, taps.from, taps.to, filter, acc);
#pragma GCC unroll 8
    for (int i = 0; i < kPixels; ++i) alone(i, x, filter, taps.to, taps.last[i]);
  }
  StoreSums(row, acc, z, 0);
}

template <typename T, typename Z, int kPixels>
void EdgeGroup(const Chain& p, const DepthwiseRow<T>& shared, int64_t pixel, Z* z) {
  const DepthwiseRow<T> row = shared;  // as above
  const int64_t w = pixel * p.stride_w - p.pad_left;
  // w may be negative: what lies before the row is not read.
  const T* x = row.x + w * p.C;
  if constexpr (kPixels == 1) {
    int64_t s0, s1;
    TapRange(w, p.S, p.dilation_w, p.W, &s0, &s1);
    GeneralPixels<T, Z, 1>(row, x, s0, s1, z);
  } else {
    TapColumns<kPixels> taps;
    taps.from = 0;
    taps.to = p.S;
    for (int i = 0; i < kPixels; ++i) {
      TapRange(w + i * p.stride_w, p.S, p.dilation_w, p.W, &taps.first[i], &taps.last[i]);
      taps.from = Max(taps.from, taps.first[i]);
      taps.to = Min(taps.to, taps.last[i]);
    }
    taps.to = Max(taps.from, taps.to);
    const float* filter = row.filter;
    int64_t c = 0;
    for (; c + kV <= row.C; c += kV, filter += kV * row.taps) {
      EdgeChannels<T, Z, kPixels, false>(row, x + c, kV, taps, filter, row.bias + c, z + c);
    }
    if (c < row.C) EdgeChannels<T, Z, kPixels, true>(row, x + c, row.C - c, taps, filter, row.bias + c, z + c);
  }
}

// Pixels [from, to) of a row, each with the taps that lie inside the row. z is pixel `from`.
template <typename T, typename Z>
void EdgePixels(const Chain& p, const DepthwiseRow<T>& row, int64_t from, int64_t to, Z* z) {
  ForGroups<kWindowPixels>(
      to - from, [&](int64_t i, auto count) { EdgeGroup<T, Z, count.value>(p, row, from + i, z + i * row.z_stride); });
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

#endif  // DWSCONV_CPU_KERNELS_DEPTHWISE_WINDOW_BODY_H_
