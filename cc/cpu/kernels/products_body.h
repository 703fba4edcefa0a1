// The pointwise work of the backward pass: the gradient of Z (gradients times the transposed filter) and of the filter
// (Z transposed times gradients). Part of a kernel's translation unit: include after multiply_tile.h,
// and so after a step_<kind>.h, which says of what type the factors are.
#ifndef DWSCONV_CPU_KERNELS_PRODUCTS_BODY_H_
#define DWSCONV_CPU_KERNELS_PRODUCTS_BODY_H_

#include "cc/cpu/kernels/backward_table.h"

namespace dwsconv {
namespace {

constexpr int64_t kPanelNear = 16 << 10;  // bytes: half of the smallest L1 in use
constexpr int64_t kOuterSteps = 128;      // one register tile's columns of as many (pairs of) pixels fit half of L1

template <int kRows, int kVectors>
void MultiplyRows(const MultiplyArgs& a, int64_t pixel, const ZType* panel, int64_t column, Fetch* fetch) {
  Vec acc[kRows][kVectors];
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) acc[i][v] = Set1(0.0f);
  MultiplyTile<kRows, kVectors>(static_cast<const ZType*>(a.g) + pixel * a.g_pixel, a.g_pixel, a.K, panel, acc, fetch);
  int64_t x = pixel % a.row_pixels;
  float* to = a.to + pixel / a.row_pixels * a.to_row + x * a.to_pixel + column;
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) Store(to + v * kV, acc[i][v]);
    to += a.to_pixel;
    if (++x == a.row_pixels) {
      x = 0;
      to += a.to_row - a.row_pixels * a.to_pixel;
    }
  }
}

template <int kRows, int kVectors>
void MultiplyUpTo(int64_t rows, const MultiplyArgs& a, int64_t pixel, const ZType* panel, int64_t column,
                  Fetch* fetch) {
  if (rows == kRows) {
    MultiplyRows<kRows, kVectors>(a, pixel, panel, column, fetch);
  } else if constexpr (kRows > 1) {
    MultiplyUpTo<kRows - 1, kVectors>(rows, a, pixel, panel, column, fetch);
  }
}

void Multiply(const MultiplyArgs& a) {
  const int64_t groups = (a.pixels + kTilePixels - 1) / kTilePixels;
  const int64_t tiles = groups * ((a.columns + kTileChannels - 1) / kTileChannels);
  const int64_t padded_K = (a.K + kPair - 1) / kPair * kPair;
  Fetch fetch(a.ahead.from, a.ahead.bytes, tiles, a.K);
  const auto tile = [&](int64_t g, int64_t column) {
    const int64_t pixel = g * a.pixels / groups, rows = (g + 1) * a.pixels / groups - pixel;
    const ZType* panel = static_cast<const ZType*>(a.panels) + column * padded_K;
    if (a.columns - column > kV) {
      MultiplyUpTo<kTilePixels, kTileVectors>(rows, a, pixel, panel, column, &fetch);
    } else {
      MultiplyUpTo<kTilePixels, 1>(rows, a, pixel, panel, column, &fetch);
    }
  };
  if (a.columns * padded_K * static_cast<int64_t>(sizeof(ZType)) <= kPanelNear) {
    for (int64_t g = 0; g < groups; ++g) {
      for (int64_t c = 0; c < a.columns; c += kTileChannels) tile(g, c);
    }
  } else {
    for (int64_t c = 0; c < a.columns; c += kTileChannels) {
      for (int64_t g = 0; g < groups; ++g) tile(g, c);
    }
  }
}

template <int kRows>
void OuterRows(const ZType* z, int64_t z_step, const ZType* g, int64_t g_step, int64_t steps, float* sums, bool first,
               Fetch* fetch) {
  Vec acc[kRows][kTileVectors];
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 4
    for (int v = 0; v < kTileVectors; ++v) {
      acc[i][v] = first ? Set1(0.0f) : Load(sums + i * kTileChannels + v * kV);
    }
  const auto step = [&]() __attribute__((always_inline)) {
    StepVec f[kTileVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kTileVectors; ++v) f[v] = LoadStep(g + v * kV * kPair);
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) {
      const StepVec x = BroadcastStep(z + i * kPair);
#pragma GCC unroll 4
      for (int v = 0; v < kTileVectors; ++v) acc[i][v] = MultiplyStep(x, f[v], acc[i][v]);
    }
    z += z_step;
    g += g_step;
  };
  // As MultiplyTile: a few lines to fetch now and then.
  const bool fetching = fetch->from < fetch->end;
  int64_t p = 0;
  while (p < steps) {
    int64_t stop = steps;
    if (fetching) {
      FetchBurst(fetch);
      stop = p + fetch->span < steps ? p + fetch->span : steps;
    }
    for (; p + 4 <= stop; p += 4) {
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) step();
    }
    for (; p < stop; ++p) step();
  }
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 4
    for (int v = 0; v < kTileVectors; ++v) Store(sums + i * kTileChannels + v * kV, acc[i][v]);
}

template <int kRows>
void OuterUpTo(int64_t rows, const ZType* z, int64_t z_step, const ZType* g, int64_t g_step, int64_t steps, float* sums,
               bool first, Fetch* fetch) {
  if (rows == kRows) {
    OuterRows<kRows>(z, z_step, g, g_step, steps, sums, first, fetch);
  } else if constexpr (kRows > 1) {
    OuterUpTo<kRows - 1>(rows, z, z_step, g, g_step, steps, sums, first, fetch);
  }
}

void Outer(const OuterArgs& a) {
  const int64_t groups = (a.columns + kTilePixels - 1) / kTilePixels;
  const int64_t all = (a.pixels + kPair - 1) / kPair, runs = (all + kOuterSteps - 1) / kOuterSteps;
  Fetch fetch(a.ahead.from, a.ahead.bytes, runs * groups * (a.padded_K / kTileChannels), all / runs);
  for (int64_t r = 0; r < runs; ++r) {
    const int64_t first = r * all / runs, steps = (r + 1) * all / runs - first;
    for (int64_t k = 0; k < a.padded_K; k += kTileChannels) {
      const ZType* g = static_cast<const ZType*>(a.g) + first * a.g_step + k * kPair;
      for (int64_t group = 0; group < groups; ++group) {
        const int64_t c = group * a.columns / groups, rows = (group + 1) * a.columns / groups - c;
        const ZType* z = static_cast<const ZType*>(a.z) + first * a.z_step + c * kPair;
        OuterUpTo<kTilePixels>(rows, z, a.z_step, g, a.g_step, steps, a.sums + k * a.columns + c * kTileChannels,
                               a.first && r == 0, &fetch);
      }
    }
  }
}

}  // namespace
}  // namespace dwsconv

#endif  // DWSCONV_CPU_KERNELS_PRODUCTS_BODY_H_
