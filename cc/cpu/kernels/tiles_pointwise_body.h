// The pointwise half by tile registers: Z times packed panels of P to Y. Part of tiles_kernels.cc: include after
// tiles_product_body.h.
#ifndef DWSCONV_CPU_KERNELS_TILES_POINTWISE_BODY_H_
#define DWSCONV_CPU_KERNELS_TILES_POINTWISE_BODY_H_

#include "cc/cpu/kernels/tiles_table.h"

namespace dwsconv {
namespace {

// `rows` rows of sums to Y.
template <typename T>
void FinishRows(const PointwiseArgs& a, const TileEnd& end, float* sums, int64_t rows, int64_t pixel) {
  const float* const bias = a.bias + end.k;
  const T* residual = a.residual == nullptr ? nullptr : static_cast<const T*>(a.residual) + pixel * a.K + end.k;
  const bool clamps = IsClamp(a.activation.kind);
  const Clamp clamp = MakeClamp(a.activation);
  T* y = static_cast<T*>(a.y) + pixel * a.K + end.k;
  const auto store = [&](T* to, Vec v, int64_t n) {
    n < kV ? StoreN(to, v, n) : a.stream ? Stream(to, v) : Store(to, v);
  };
  for (int64_t r = 0; r < rows; ++r) {
    float* const row = sums + r * kTilesChannels;
    for (int64_t i = 0; i < end.lanes; i += kV) {
      const int64_t n = end.lanes - i;
      Vec v = Load(row + i) + Load(bias + i);
      if (residual != nullptr) v = v + (n < kV ? LoadN(residual + i, n) : Load(residual + i));
      clamps ? store(y + i, Apply(v, clamp), n) : Store(row + i, v);
    }
    y += a.K;
    if (residual != nullptr) residual += a.K;
  }
  if (clamps) return;
  if (a.activation.kind == ActivationKind::kPRelu) {
    for (int64_t r = 0; r < rows; ++r) PReluRow(sums + r * kTilesChannels, a.slopes + end.k, kTilesChannels);
  } else {
    ActivateRow(sums, rows * kTilesChannels, a.activation);
  }
  y -= rows * a.K;
  for (int64_t r = 0; r < rows; ++r, y += a.K) {
    for (int64_t i = 0; i < end.lanes; i += kV) store(y + i, Load(sums + r * kTilesChannels + i), end.lanes - i);
  }
}

template <typename T>
void PointwiseTo(const PointwiseArgs& a) {
  const auto end = [&](const TileEnd& tile, float* sums, int64_t rows, int64_t pixel) {
    FinishRows<T>(a, tile, sums, rows, pixel);
  };
  TileProduct(a, end).Run();
  if (a.stream) StreamFence();
}

void Pointwise(const PointwiseArgs& a) {
  a.dtype == DType::kFloat32 ? PointwiseTo<float>(a) : PointwiseTo<BFloat16>(a);
}

// Rows of float to bfloat16 in place, zeros after the last channel up to a whole step where the row has the room.
void RoundRows(const RowsArgs& a) {
  const int64_t end = Min(CeilDiv(a.channels, kTilesDepth) * kTilesDepth, 2 * a.z_stride);
  const Vec zero = Set1(0.0f);
  for (int64_t row = 0; row < a.rows; ++row) {
    const float* const from = a.z + row * a.z_stride;
    BFloat16* const to = reinterpret_cast<BFloat16*>(a.z + row * a.z_stride);
    int64_t c = 0;
    for (; c + kV <= a.channels; c += kV) Store(to + c, Load(from + c));
    if (c < a.channels) StoreN(to + c, LoadN(from + c, a.channels - c), a.channels - c);
    for (c = a.channels; c < end; c += kV) end - c < kV ? StoreN(to + c, zero, end - c) : Store(to + c, zero);
  }
}

}  // namespace
}  // namespace dwsconv

#endif  // DWSCONV_CPU_KERNELS_TILES_POINTWISE_BODY_H_
