// Register tiles of the pointwise half: some pixels of Z times a packed panel of P, to Y. Part of a kernel's
// translation unit: include after a step_<kind>.h, which says what Z's elements are and what one multiply-add takes in.
//
// The register tile is kTilePixels x (kTileVectors vectors): per step of the sum, the filter's vectors are loaded once
// and each pixel's value is broadcast once. The sum runs over all of C*M in one go, in order, so Y's bits depend on
// neither the block nor the tile a pixel fell into.
#ifndef DWSCONV_CPU_KERNELS_POINTWISE_TILE_BODY_H_
#define DWSCONV_CPU_KERNELS_POINTWISE_TILE_BODY_H_

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
template <bool kStream, bool kClamp, bool kHalf = false, int kRows, int kVectors>
inline __attribute__((always_inline)) void StoreWholeTile(const PointwiseArgs& a, const Clamp& clamp,
                                                          const Vec (&acc)[kRows][kVectors], int64_t pixel, int64_t k) {
  ZType* y = static_cast<ZType*>(a.y) + pixel * a.y_step + k;
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i, y += a.y_step) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      const Vec value = kClamp ? Apply(acc[i][v], clamp) : acc[i][v];
      if (kHalf && v == kVectors - 1) {
        StoreN(y + v * kV, value, kV / 2);
      } else if (kStream) {
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
      plain ? StoreWholeTile<true, false>(a, end.clamp, acc, pixel, end.k)
            : StoreWholeTile<true, true>(a, end.clamp, acc, pixel, end.k);
    } else {
      plain ? StoreWholeTile<false, false>(a, end.clamp, acc, pixel, end.k)
            : StoreWholeTile<false, true>(a, end.clamp, acc, pixel, end.k);
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

// Elements of a panel, for each of its channels.
inline int64_t PanelStep(int64_t cm) { return CeilDiv(cm, kPair) * kPair; }

// The bias and the products of a tile.
template <bool kHalf, int kUnroll, int kRows, int kVectors>
inline __attribute__((always_inline)) void SumTile(const PointwiseArgs& a, const float* bias, int64_t run,
                                                   const ZType* z, const ZType* panel, Vec (&acc)[kRows][kVectors],
                                                   Fetch* fetch) {
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) acc[i][v] = Load(bias + v * kV);
#pragma GCC unroll 1
  for (int64_t c = 0; c < a.cm; c += run, z += a.z_row_step, panel += run * kTileChannels) {
    MultiplyTile<kRows, kVectors, kHalf, kUnroll>(z, a.z_stride, run, panel, acc, fetch);
  }
}

template <bool kHalf, int kRows, int kVectors>
void Tile(const PointwiseArgs& a, const TileEnd& end, const ZType* z, const ZType* panel, int64_t pixel, Fetch* fetch) {
  Vec acc[kRows][kVectors];
  SumTile<kHalf, kUnrolledSteps>(a, end.bias, end.run, z, panel, acc, fetch);
  FinishTile(a, end, acc, pixel);
}

// One pixel by kRowPanels whole panels: by a single one each multiply-add would wait for the one before. Each sum is in
// the order of Tile.
constexpr int kRowPanels = 4;

void RowTile(const PointwiseArgs& a, TileEnd end) {
  const int64_t step = PanelStep(a.cm) * kTileChannels;
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

}  // namespace
}  // namespace dwsconv

#endif  // DWSCONV_CPU_KERNELS_POINTWISE_TILE_BODY_H_
