// The pointwise half of a tile: Z times packed panels of P to Y. Part of a kernel's translation unit: include after a
// step_<kind>.h, which says what Z's elements are and what one multiply-add takes in.
//
// The register tile is kTilePixels x (kTileVectors vectors): per step of the sum, the filter's vectors are loaded once
// and each pixel's value is broadcast once. The sum runs over all of C*M in one go, in order, so Y's bits depend on
// neither the block nor the tile a pixel fell into.
#ifndef DWSCONV_CPU_KERNELS_POINTWISE_BODY_H_
#define DWSCONV_CPU_KERNELS_POINTWISE_BODY_H_

#include "cc/cpu/kernels/kernel_table.h"
#include "cc/cpu/kernels/multiply_tile.h"

namespace dwsconv {
namespace {

// What a tile's end needs besides its sums.
struct TileEnd {
  const float* bias;
  int64_t k, lanes;  // first output channel, how many of them are wanted (1 .. kTileChannels)
  int64_t run;       // elements of a pixel's sum that lie side by side in Z: all, or those of one row of a window
  Clamp clamp;
};

template <typename A, typename B>
constexpr bool kSameType = false;
template <typename A>
constexpr bool kSameType<A, A> = true;

// Rows of kTileChannels sums in a buffer to Y, where all of them are wanted and the activation is a clamp.
template <typename T, bool kStream>
inline void ClampRows(const PointwiseArgs& a, const Clamp& clamp, const float* sums, int64_t rows, T* y) {
  for (int64_t r = 0; r < rows; ++r, y += a.y_step, sums += kTileChannels) {
#pragma GCC unroll 4
    for (int i = 0; i < kTileChannels; i += kV) {
      const Vec v = Apply(Load(sums + i), clamp);
      kStream ? Stream(y + i, v) : Store(y + i, v);
    }
  }
}

// Rows of kTileChannels sums in a buffer to Y: other types than Z's, and activations that are not clamps. Not part of
// Tile: with more ways to store its sums g++ 12 keeps fewer of them in registers, and float32 took 1.2 times as long.
template <typename T>
__attribute__((noinline)) void FinishRows(const PointwiseArgs& a, const TileEnd& end, float* sums, int64_t rows,
                                          int64_t pixel) {
  if (a.residual == nullptr && end.lanes == kTileChannels && IsClamp(a.activation.kind)) {
    T* const y = static_cast<T*>(a.y) + pixel * a.y_step + end.k;
    a.stream ? ClampRows<T, true>(a, end.clamp, sums, rows, y) : ClampRows<T, false>(a, end.clamp, sums, rows, y);
    return;
  }
  if (a.residual != nullptr) {
    const T* residual = static_cast<const T*>(a.residual) + pixel * a.residual_step + end.k;
    for (int64_t r = 0; r < rows; ++r, residual += a.residual_step) {
      for (int64_t i = 0; i < end.lanes; i += kV) {
        float* sum = sums + r * kTileChannels + i;
        const int64_t n = end.lanes - i;
        Store(sum, Load(sum) + (n >= kV ? Load(residual + i) : LoadN(residual + i, n)));
      }
    }
  }
  if (a.activation.kind == ActivationKind::kPRelu) {
    for (int64_t r = 0; r < rows; ++r) PReluRow(sums + r * kTileChannels, a.slopes + end.k, kTileChannels);
  } else {
    ActivateRow(sums, rows * kTileChannels, a.activation);
  }
  T* y = static_cast<T*>(a.y) + pixel * a.y_step + end.k;
  for (int64_t r = 0; r < rows; ++r, y += a.y_step) {
    for (int64_t i = 0; i < end.lanes; i += kV) {
      const Vec v = Load(sums + r * kTileChannels + i);
      if (end.lanes - i < kV) {
        StoreN(y + i, v, end.lanes - i);
        continue;
      }
      a.stream ? Stream(y + i, v) : Store(y + i, v);
    }
  }
}

// Sums to Y where all of the tile's channels are wanted, and nothing is added. What there is to decide is decided
// before: with few channels in the sum, the stores are most of the work.
template <bool kStream, bool kClamp, int kRows, int kVectors>
inline __attribute__((always_inline)) void StoreWholeTile(const PointwiseArgs& a, const TileEnd& end,
                                                          const Vec (&acc)[kRows][kVectors], int64_t pixel) {
  ZType* y = static_cast<ZType*>(a.y) + pixel * a.y_step + end.k;
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i, y += a.y_step) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      const Vec value = kClamp ? Apply(acc[i][v], end.clamp) : acc[i][v];
      if (kStream) {
        Stream(y + v * kV, value);
      } else {
        Store(y + v * kV, value);
      }
    }
  }
}

// Any sums to a Y of Z's type, the activation a clamp. The residual is added to all of them before the first is stored:
// where it is Y itself, a store of part of a vector keeps the load of its neighbours waiting.
template <int kRows, int kVectors>
inline __attribute__((always_inline)) void StoreTile(const PointwiseArgs& a, const TileEnd& end,
                                                     Vec (&acc)[kRows][kVectors], int64_t pixel) {
  if (a.residual != nullptr) {
    const ZType* residual = static_cast<const ZType*>(a.residual) + pixel * a.residual_step + end.k;
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i, residual += a.residual_step) {
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
        const int64_t n = end.lanes - v * kV;
        if (n >= kV) {
          acc[i][v] = acc[i][v] + Load(residual + v * kV);
        } else if (n > 0) {
          acc[i][v] = acc[i][v] + LoadN(residual + v * kV, n);
        }
      }
    }
  }
  ZType* y = static_cast<ZType*>(a.y) + pixel * a.y_step + end.k;
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i, y += a.y_step) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      const int64_t n = end.lanes - v * kV;
      const Vec value = Apply(acc[i][v], end.clamp);
      if (n >= kV) {
        a.stream ? Stream(y + v * kV, value) : Store(y + v * kV, value);
      } else if (n > 0) {
        StoreN(y + v * kV, value, n);
      }
    }
  }
}

// The sums of a tile to Y.
template <int kRows, int kVectors>
inline __attribute__((always_inline)) void FinishTile(const PointwiseArgs& a, const TileEnd& end,
                                                      Vec (&acc)[kRows][kVectors], int64_t pixel) {
  if (a.dtype == kZType && IsClamp(a.activation.kind)) {  // the hot case: Y of Z's own type
    const bool plain = a.activation.kind == ActivationKind::kNone;
    if (a.residual != nullptr || end.lanes < kVectors * kV) {
      StoreTile<kRows, kVectors>(a, end, acc, pixel);
    } else if (a.stream) {
      plain ? StoreWholeTile<true, false>(a, end, acc, pixel) : StoreWholeTile<true, true>(a, end, acc, pixel);
    } else {
      plain ? StoreWholeTile<false, false>(a, end, acc, pixel) : StoreWholeTile<false, true>(a, end, acc, pixel);
    }
    return;
  }
  float sums[kRows * kTileChannels];
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 4
    for (int v = 0; v < kTileVectors; ++v) Store(sums + i * kTileChannels + v * kV, acc[i][v < kVectors ? v : 0]);
  switch (a.dtype) {
    case DType::kFloat32:
      return FinishRows<float>(a, end, sums, kRows, pixel);
    case DType::kBFloat16:
      return FinishRows<BFloat16>(a, end, sums, kRows, pixel);
    case DType::kFloat16:
      return FinishRows<Float16>(a, end, sums, kRows, pixel);
  }
}

template <bool kHalf, int kRows, int kVectors>
void Tile(const PointwiseArgs& a, const TileEnd& end, const ZType* z, const ZType* panel, int64_t pixel, Fetch* fetch) {
  Vec acc[kRows][kVectors];
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) acc[i][v] = Load(end.bias + v * kV);
#pragma GCC unroll 1
  for (int64_t c = 0; c < a.cm; c += end.run, z += a.z_row_step, panel += end.run * kTileChannels) {
    MultiplyTile<kRows, kVectors, kHalf>(z, a.z_stride, end.run, panel, acc, fetch);
  }
  FinishTile(a, end, acc, pixel);
}

// One pixel by kRowPanels whole panels: by a single one each multiply-add would wait for the one before. Each sum is in
// the order of Tile.
constexpr int kRowPanels = 4;

void RowTile(const PointwiseArgs& a, TileEnd end) {
  const int64_t step = CeilDiv(a.cm, kPair) * kPair * kTileChannels;
  const ZType* const z = static_cast<const ZType*>(a.z);
  const ZType* const panel = static_cast<const ZType*>(a.panels) + end.k / kTileChannels * step;
  Vec acc[kRowPanels][kTileVectors];
#pragma GCC unroll 4
  for (int p = 0; p < kRowPanels; ++p)
#pragma GCC unroll 4
    for (int v = 0; v < kTileVectors; ++v) acc[p][v] = Load(end.bias + p * kTileChannels + v * kV);
  const auto multiply = [&](StepVec x, int64_t c) __attribute__((always_inline)) {
#pragma GCC unroll 4
    for (int p = 0; p < kRowPanels; ++p)
#pragma GCC unroll 4
      for (int v = 0; v < kTileVectors; ++v) {
        const ZType* const f = panel + p * step + c * kTileChannels + v * kV * kPair;
        acc[p][v] = MultiplyStep(x, LoadStep(f), acc[p][v]);
      }
  };
  int64_t c = 0;
  for (; c + kPair <= a.cm; c += kPair) multiply(BroadcastStep(z + c), c);
  if (kPair > 1 && c < a.cm) multiply(BroadcastLast(z + c), c);
#pragma GCC unroll 4
  for (int p = 0; p < kRowPanels; ++p, end.k += kTileChannels, end.bias += kTileChannels) {
    Vec one[1][kTileVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kTileVectors; ++v) one[0][v] = acc[p][v];
    FinishTile(a, end, one, 0);
  }
}

// Rows given at run time to the tile compiled for that many.
template <bool kHalf, int kRows, int kVectors>
inline void TileOfRows(int64_t rows, const PointwiseArgs& a, const TileEnd& end, const ZType* z, const ZType* panel,
                       int64_t pixel, Fetch* fetch) {
  if (rows == kRows) {
    Tile<kHalf, kRows, kVectors>(a, end, z, panel, pixel, fetch);
  } else if constexpr (kRows > 1) {
    TileOfRows<kHalf, kRows - 1, kVectors>(rows, a, end, z, panel, pixel, fetch);
  }
}

// Whether the sums go to Y as they are and the activation follows in Y, some rows at a time: for a tile's few numbers
// alone, what is around an activation that is no clamp takes as long as it does.
inline bool ActivatesInY(const PointwiseArgs& a) {
  if constexpr (!kSameType<ZType, float>) return false;
  return a.dtype == kZType && !IsClamp(a.activation.kind) && a.activation.kind != ActivationKind::kPRelu &&
         a.residual == nullptr && !a.stream && a.pixels > 1 && (a.k_end - a.k_begin) % kV == 0;
}

// Pixels [pixel, pixel + pixels), output channels [k_begin, k_end).
void ActivateY(const PointwiseArgs& a, int64_t pixel, int64_t pixels, const Activation& activation) {
  if constexpr (kSameType<ZType, float>) {
    float* y = static_cast<float*>(a.y) + pixel * a.y_step + a.k_begin;
    const int64_t channels = a.k_end - a.k_begin;
    if (channels == a.y_step) return ActivateRow(y, pixels * channels, activation);
    for (int64_t i = 0; i < pixels; ++i, y += a.y_step) ActivateRow(y, channels, activation);
  }
}

void Pointwise(const PointwiseArgs& given) {
  PointwiseArgs a = given;
  const bool in_y = ActivatesInY(given);
  if (in_y) a.activation.kind = ActivationKind::kNone;
  // Groups of nearly equal size: 49 pixels are 13 + 12 + 12 + 12, not 3 x 14 and a slow tail of 7.
  const int64_t line_pixels = a.line_pixels > 0 ? a.line_pixels : a.pixels, lines = a.pixels / line_pixels;
  const int64_t in_line = CeilDiv(line_pixels, kTilePixels), groups = lines * in_line;
  // The tiles read nothing from far away, so memory is idle meanwhile: spread the fetching of what comes next over
  // them.
  const int64_t panels = CeilDiv(a.k_end - a.k_begin, kTileChannels);
  const bool near = a.cm * (a.k_end - a.k_begin) * static_cast<int64_t>(sizeof(ZType)) <= kNearBytes;
  // Tiles in which the next panel comes, and those in which what the caller reads next does.
  const int64_t panel_tiles = near || panels == 1 ? 0 : CeilDiv(groups, 2);
  const int64_t ahead_tiles = groups > panel_tiles ? (groups - panel_tiles) * panels : 1;
  const int64_t panel_step = CeilDiv(a.cm, kPair) * kPair;  // elements of a panel, for each of its channels
  Fetch ahead(a.ahead, a.ahead_bytes, ahead_tiles, a.cm), next;
  TileEnd end;
  end.clamp = MakeClamp(a.activation);
  end.run = a.cm / a.z_rows;
  const int64_t rows_of_last = line_pixels / in_line, larger = line_pixels % in_line;  // the first ones have one more
  const auto first_pixel = [&](int64_t g) { return g * rows_of_last + Min(g, larger); };
  const auto tile = [&](int64_t line, int64_t g, int64_t k) {
    const int64_t in = first_pixel(g), rows = rows_of_last + (g < larger ? 1 : 0), pixel = line * line_pixels + in;
    const ZType* z = static_cast<const ZType*>(a.z) + line * a.z_line_step + in * a.z_stride;
    const ZType* panel = static_cast<const ZType*>(a.panels) + k * panel_step;
    Fetch* const fetch = next.from < next.end ? &next : &ahead;
    end.k = k;
    end.lanes = Min(kTileChannels, a.k_end - k);
    end.bias = a.bias + k;
    const bool half = kHalves && (end.lanes - 1) % kV < kV / 2;
    if (end.lanes > kV) {
      half ? TileOfRows<kHalves, kTilePixels, kTileVectors>(rows, a, end, z, panel, pixel, fetch)
           : TileOfRows<false, kTilePixels, kTileVectors>(rows, a, end, z, panel, pixel, fetch);
    } else {
      half ? TileOfRows<kHalves, kTilePixels, 1>(rows, a, end, z, panel, pixel, fetch)
           : TileOfRows<false, kTilePixels, 1>(rows, a, end, z, panel, pixel, fetch);
    }
  };
  if (a.pixels == 1 && a.z_rows == 1) {
    constexpr int64_t kWide = kRowPanels * kTileChannels;
    int64_t k = a.k_begin;
    end.lanes = kTileChannels;
    for (; k + kWide <= a.k_end; k += kWide) {
      end.k = k;
      end.bias = a.bias + k;
      RowTile(a, end);
    }
    for (; k < a.k_end; k += kTileChannels) tile(0, 0, k);
    if (a.stream) StreamFence();
    return;
  }
  // A small filter stays in L1 whole: take each group of pixels through all of it, so that Z is read once and Y's rows
  // are written from end to end. Otherwise a panel stays near while all the block's pixels pass by.
  if (near) {
    for (int64_t line = 0; line < lines; ++line) {
      for (int64_t g = 0; g < in_line; ++g) {
        for (int64_t k = a.k_begin; k < a.k_end; k += kTileChannels) tile(line, g, k);
        const int64_t in = first_pixel(g);
        if (in_y) ActivateY(a, line * line_pixels + in, first_pixel(g + 1) - in, given.activation);
      }
    }
  } else {
    for (int64_t k = a.k_begin; k < a.k_end; k += kTileChannels) {
      if (k + kTileChannels < a.k_end) {
        const int64_t bytes = panel_step * kTileChannels * static_cast<int64_t>(sizeof(ZType));
        const char* const from =
            reinterpret_cast<const char*>(static_cast<const ZType*>(a.panels) + (k + kTileChannels) * panel_step);
        next = Fetch(from, bytes, panel_tiles, a.cm);
      }
      for (int64_t line = 0; line < lines; ++line) {
        for (int64_t g = 0; g < in_line; ++g) tile(line, g, k);
      }
    }
    if (in_y) ActivateY(a, 0, a.pixels, given.activation);
  }
  if (a.stream) StreamFence();
}

}  // namespace
}  // namespace dwsconv

#endif  // DWSCONV_CPU_KERNELS_POINTWISE_BODY_H_
