// The depthwise work of the backward pass, on padded scratch: sums over taps (Z, and the gradient of X) and over pixels
// (the gradient of the depthwise filter). Part of a kernel's translation unit: include after a vec_<isa>.h.
//
// A kernel gets a list of taps, each a pointer to the tap's first element: strides, dilations and multipliers are in
// the lists. The order of a sum is that of the list, then of rows and pixels, whichever loop computes it.
#ifndef DWSCONV_CPU_KERNELS_TAPS_BODY_H_
#define DWSCONV_CPU_KERNELS_TAPS_BODY_H_

#include <utility>

#include "cc/cpu/kernels/backward_table.h"

namespace dwsconv {
namespace {

template <typename T>
void Gather(const GatherArgs& a) {
  const T* from = static_cast<const T*>(a.from);
  if (a.times > 1) {
    const RepeatLanes permutation(a.times);
    for (int64_t i = 0; i < a.pixels; ++i) {
      float* out = a.to + i * a.to_pixel;
      RepeatElements(from + i * a.from_pixel, a.channels, a.times, permutation, out);
      for (int64_t c = a.channels * a.times; c < a.padded; ++c) out[c] = 0.0f;
    }
    return;
  }
  const int64_t whole = a.channels / kV * kV, left = a.channels - whole;
  for (int64_t i = 0; i < a.pixels; ++i) {
    const T* in = from + i * a.from_pixel;
    float* out = a.to + i * a.to_pixel;
    int64_t c = 0;
    for (; c < whole; c += kV) Store(out + c, Load(in + c));
    if (left > 0) {
      Store(out + c, LoadN(in + c, left));
      c += kV;
    }
    for (; c < a.padded; c += kV) Store(out + c, Set1(0.0f));
  }
}

template <typename T>
inline void StoreSum(const TapSumArgs& a, int64_t lanes, T* to, Vec sum) {
  if (lanes < kV) {
    StoreN(to, sum, lanes);
    return;
  }
  if constexpr (sizeof(T) * kV == 64) {
    if (a.stream) {
      Stream(to, sum);
      return;
    }
  }
  Store(to, sum);
}

// kPixels neighbours of one row, one vector of channels.
template <typename T, int kPixels>
inline void TapSumPixels(const TapSumArgs& a, int64_t from, int64_t c, int64_t lanes, T* to) {
  Vec acc[kPixels];
  const Vec start = a.bias ? Load(a.bias + c) : Set1(0.0f);
#pragma GCC unroll 16
  for (int i = 0; i < kPixels; ++i) acc[i] = start;
  for (int64_t t = 0; t < a.taps; ++t) {
    const float* x = a.sources[t] + from;
    const Vec f = Load(a.filters[t] + c);
#pragma GCC unroll 16
    for (int i = 0; i < kPixels; ++i) acc[i] = Fma(Load(x + i * a.source_pixel), f, acc[i]);
  }
#pragma GCC unroll 16
  for (int i = 0; i < kPixels; ++i) StoreSum(a, lanes, to + i * a.to_pixel, acc[i]);
}

// The same where the taps are rows of S neighbours and so are the pixels: each element is loaded once for several taps.
template <typename T, int kPixels>
inline void TapWindowPixels(const TapSumArgs& a, int64_t S, int64_t from, int64_t c, int64_t lanes, T* to) {
  constexpr int kTaps = 4;  // whose filter vectors are in registers together
  Vec acc[kPixels];
  const Vec start = a.bias ? Load(a.bias + c) : Set1(0.0f);
#pragma GCC unroll 16
  for (int i = 0; i < kPixels; ++i) acc[i] = start;
  for (int64_t t = 0; t < a.taps; t += S) {
    const float* x = a.sources[t] + from;
    const float* const* filters = a.filters + t;
    int64_t s = 0;
    for (; s + kTaps <= S; s += kTaps) {
      Vec f[kTaps];
#pragma GCC unroll 4
      for (int j = 0; j < kTaps; ++j) f[j] = Load(filters[s + j] + c);
#pragma GCC unroll 16
      for (int column = 0; column < kPixels + kTaps - 1; ++column, x += a.grid_pixel) {
        const Vec v = Load(x);
#pragma GCC unroll 16
        for (int i = 0; i < kPixels; ++i) {
          const int j = column - i;
          if (j >= 0 && j < kTaps) acc[i] = Fma(v, f[j], acc[i]);
        }
      }
      x -= (kPixels - 1) * a.grid_pixel;
    }
    for (; s < S; ++s, x += a.grid_pixel) {
      const Vec f = Load(filters[s] + c);
#pragma GCC unroll 16
      for (int i = 0; i < kPixels; ++i) acc[i] = Fma(Load(x + i * a.source_pixel), f, acc[i]);
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < kPixels; ++i) StoreSum(a, lanes, to + i * a.to_pixel, acc[i]);
}

// Vector by vector through all rows: what neighbouring rows share stays in L1. Where S is not 0 the taps are rows of S
// neighbours, as far apart as pixels are.
template <typename T>
void TapSumsOfList(const TapSumArgs& a, int64_t S) {
  constexpr int kRun = kV == 16 ? 12 : 8;
  for (int64_t c = 0; c < a.channels; c += kV) {
    for (int64_t y = 0; y < a.rows; ++y) {
      int64_t from = y * a.source_row + c, pixels = a.pixels;
      T* to = static_cast<T*>(a.to) + y * a.to_row + c;
      const auto step = [&](auto run, int n) {
        for (; pixels >= n; pixels -= n) {
          run(from, to);
          from += n * a.source_pixel;
          to += n * a.to_pixel;
        }
      };
      const int64_t lanes = a.channels - c;
      if (S > 0) step([&](int64_t f, T* t) { TapWindowPixels<T, 8>(a, S, f, c, lanes, t); }, 8);
      step([&](int64_t f, T* t) { TapSumPixels<T, kRun>(a, f, c, lanes, t); }, kRun);
      step([&](int64_t f, T* t) { TapSumPixels<T, 4>(a, f, c, lanes, t); }, 4);
      step([&](int64_t f, T* t) { TapSumPixels<T, 1>(a, f, c, lanes, t); }, 1);
    }
  }
}

// kRows x kPixels outputs of a grid of taps kS wide at stride kStride: an element of the source is loaded once for all
// the taps of a row (kRows = 1) or, with a kS x kS grid and kRows > 1, for all taps. `filters` are in the list's order.
template <typename T, int kS, int kStride, int kRows, int kPixels>
inline void TapGridPixels(const TapSumArgs& a, const float* from, int64_t c, int64_t lanes, T* to) {
  Vec acc[kRows][kPixels];
  const Vec start = a.bias ? Load(a.bias + c) : Set1(0.0f);
#pragma GCC unroll 8
  for (int y = 0; y < kRows; ++y)
#pragma GCC unroll 16
    for (int i = 0; i < kPixels; ++i) acc[y][i] = start;
  if constexpr (kRows == 1) {
    const float* const* filter = a.filters;
    for (int64_t r = 0; r < a.grid_rows; ++r) {
      Vec f[kS];
#pragma GCC unroll 8
      for (int s = 0; s < kS; ++s) f[s] = Load(filter[s] + c);
#pragma GCC unroll 32
      for (int x = 0; x < (kPixels - 1) * kStride + kS; ++x) {
        const Vec v = Load(from + x * a.grid_pixel);
#pragma GCC unroll 16
        for (int i = 0; i < kPixels; ++i) {
          const int s = x - i * kStride;
          if (s >= 0 && s < kS) acc[0][i] = Fma(v, f[s], acc[0][i]);
        }
      }
      filter += kS;
      from += a.grid_row;
    }
  } else {
    Vec f[kS * kS];
#pragma GCC unroll 16
    for (int t = 0; t < kS * kS; ++t) f[t] = Load(a.filters[t] + c);
#pragma GCC unroll 16
    for (int h = 0; h < kRows - 1 + kS; ++h) {
#pragma GCC unroll 32
      for (int x = 0; x < kPixels - 1 + kS; ++x) {
        const Vec v = Load(from + x * a.grid_pixel);
#pragma GCC unroll 8
        for (int y = 0; y < kRows; ++y) {
          const int r = h - y;
          if (r < 0 || r >= kS) continue;
#pragma GCC unroll 16
          for (int i = 0; i < kPixels; ++i) {
            const int s = x - i;
            if (s >= 0 && s < kS) acc[y][i] = Fma(v, f[r * kS + s], acc[y][i]);
          }
        }
      }
      from += a.grid_row;
    }
  }
#pragma GCC unroll 8
  for (int y = 0; y < kRows; ++y)
#pragma GCC unroll 16
    for (int i = 0; i < kPixels; ++i) StoreSum(a, lanes, to + y * a.to_row + i * a.to_pixel, acc[y][i]);
}

// kRows output rows.
template <typename T, int kS, int kStride, int kRows, int kMost>
void TapGridRows(const TapSumArgs& a, const float* from, int64_t c, T* to) {
  const int64_t lanes = a.channels - c;
  int64_t pixels = a.pixels;
  const auto step = [&](auto run, int n) {
    for (; pixels >= n; pixels -= n) {
      run(from, to);
      from += n * a.source_pixel;
      to += n * a.to_pixel;
    }
  };
  step([&](const float* f, T* t) { TapGridPixels<T, kS, kStride, kRows, kMost>(a, f, c, lanes, t); }, kMost);
  step([&](const float* f, T* t) { TapGridPixels<T, kS, kStride, kRows, 2>(a, f, c, lanes, t); }, 2);
  step([&](const float* f, T* t) { TapGridPixels<T, kS, kStride, kRows, 1>(a, f, c, lanes, t); }, 1);
}

template <typename T, int kS, int kStride>
void TapSumsOfGrid(const TapSumArgs& a) {
  // Several rows a pass for 3x3 at stride 1 where there are registers for its nine filter vectors.
  constexpr int kTogether = kS == 3 && kStride == 1 ? kGroupRows : 1;
  for (int64_t c = 0; c < a.channels; c += kV) {
    int64_t y = 0;
    const auto from = [&] { return a.sources[0] + y * a.source_row + c; };
    const auto to = [&] { return static_cast<T*>(a.to) + y * a.to_row + c; };
    if constexpr (kTogether > 1) {
      for (; y + kTogether <= a.rows; y += kTogether) {
        TapGridRows<T, kS, kStride, kTogether, kGroupPixels>(a, from(), c, to());
      }
    }
    for (; y < a.rows; ++y) TapGridRows<T, kS, kStride, 1, kDepthwisePixels>(a, from(), c, to());
  }
}

template <typename T>
void TapSums(const TapSumArgs& a) {
  const int64_t S = a.grid_rows > 0 ? a.taps / a.grid_rows : 0;
  const bool dense = S > 0 && a.source_pixel == a.grid_pixel, halved = S > 0 && a.source_pixel == 2 * a.grid_pixel;
  if (dense && S == 3 && a.grid_rows == 3 && a.source_row == a.grid_row) {
    TapSumsOfGrid<T, 3, 1>(a);
  } else if (dense && S == 5) {
    TapSumsOfGrid<T, 5, 1>(a);
  } else if (dense && S == 7) {
    TapSumsOfGrid<T, 7, 1>(a);
  } else if (halved && S == 3) {
    TapSumsOfGrid<T, 3, 2>(a);
  } else if (halved && S == 5) {
    TapSumsOfGrid<T, 5, 2>(a);
  } else if (S == 1 && a.grid_rows >= 4 && a.source_row == a.grid_row && a.rows >= 8) {
    // A window of one column: rows are its neighbours.
    TapSumArgs columns = a;
    std::swap(columns.source_row, columns.source_pixel);
    std::swap(columns.to_row, columns.to_pixel);
    std::swap(columns.rows, columns.pixels);
    columns.grid_rows = 1;
    columns.grid_pixel = a.grid_row;
    TapSumsOfList<T>(columns, a.taps);
  } else {
    TapSumsOfList<T>(a, dense && S >= 4 ? S : 0);
  }
  if (a.stream) StreamFence();
}

constexpr int kTapGroup = 9;  // accumulators of one pass over the pixels, a register for each base pointer

template <int kTaps>
void TapProductsOf(const TapProductArgs& a, int64_t first, int64_t c) {
  Vec acc[kTaps];
  float* sums = a.sums + first * a.sums_tap + c;
#pragma GCC unroll 16
  for (int t = 0; t < kTaps; ++t) acc[t] = Load(sums + t * a.sums_tap);
  for (int64_t y = 0; y < a.rows; ++y) {
    const float* x[kTaps];
#pragma GCC unroll 16
    for (int t = 0; t < kTaps; ++t) x[t] = a.sources[first + t] + y * a.source_row + c;
    const float* grad = a.grad + y * a.grad_row + c;
    int64_t at = 0;
    for (int64_t i = 0; i < a.pixels; ++i) {
      const Vec g = Load(grad);
#pragma GCC unroll 16
      for (int t = 0; t < kTaps; ++t) acc[t] = Fma(Load(x[t] + at), g, acc[t]);
      grad += a.grad_pixel;
      at += a.source_pixel;
    }
  }
#pragma GCC unroll 16
  for (int t = 0; t < kTaps; ++t) Store(sums + t * a.sums_tap, acc[t]);
}

template <int kTaps>
void TapProductsUpTo(int64_t taps, const TapProductArgs& a, int64_t first, int64_t c) {
  if (taps == kTaps) {
    TapProductsOf<kTaps>(a, first, c);
  } else if constexpr (kTaps > 1) {
    TapProductsUpTo<kTaps - 1>(taps, a, first, c);
  }
}

void TapProducts(const TapProductArgs& a) {
  const int64_t groups = (a.taps + kTapGroup - 1) / kTapGroup;
  for (int64_t c = 0; c < a.padded; c += kV) {
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t first = g * a.taps / groups;
      TapProductsUpTo<kTapGroup>((g + 1) * a.taps / groups - first, a, first, c);
    }
  }
}

void ColumnSums(const ColumnSumArgs& a) {
  for (int64_t c = 0; c < a.padded; c += kV) {
    // Several sums, so that an addition need not wait for the one before.
    Vec acc[4] = {Load(a.sums + c), Set1(0.0f), Set1(0.0f), Set1(0.0f)};
    for (int64_t y = 0; y < a.rows; ++y) {
      const float* from = a.from + y * a.from_row + c;
      int64_t i = 0;
      for (; i + 4 <= a.pixels; i += 4) {
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) acc[j] = acc[j] + Load(from + (i + j) * a.from_pixel);
      }
      for (; i < a.pixels; ++i) acc[0] = acc[0] + Load(from + i * a.from_pixel);
    }
    Store(a.sums + c, (acc[0] + acc[1]) + (acc[2] + acc[3]));
  }
}

}  // namespace
}  // namespace dwsconv

#endif  // DWSCONV_CPU_KERNELS_TAPS_BODY_H_
