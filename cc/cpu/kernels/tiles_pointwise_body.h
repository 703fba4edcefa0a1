// The pointwise half by tile registers: Z times packed panels of P to Y. Part of tiles_kernels.cc: include after
// tiles_product_body.h.
#ifndef DWSCONV_CPU_KERNELS_TILES_POINTWISE_BODY_H_
#define DWSCONV_CPU_KERNELS_TILES_POINTWISE_BODY_H_

#include "cc/cpu/kernels/tiles_table.h"

namespace dwsconv {
namespace {

// `rows` rows of sums to Y: activate(sum, its channel in the tile). kWhole: all of the tile's channels are wanted.
template <typename T, bool kWhole, typename Activate>
inline __attribute__((always_inline)) void EndRows(const PointwiseArgs& a, const TileEnd& end, const float* sums,
                                                   int64_t rows, int64_t pixel, const Activate& activate) {
  const float* const bias = a.bias + end.k;
  const T* residual =
      a.residual == nullptr ? nullptr : static_cast<const T*>(a.residual) + pixel * a.residual_step + end.k;
  T* y = static_cast<T*>(a.y) + pixel * a.y_step + end.k;
  const int64_t y_step = a.y_step, residual_step = a.residual_step, lanes = kWhole ? kTilesChannels : end.lanes;
  const bool stream = a.stream;
  for (int64_t r = 0; r < rows; ++r, sums += kTilesChannels, y += y_step) {
#pragma GCC unroll 2
    for (int64_t i = 0; i < lanes; i += kV) {
      const int64_t n = kWhole ? kV : lanes - i;
      Vec v = Load(sums + i) + Load(bias + i);
      if (residual != nullptr) v = v + (n < kV ? LoadN(residual + i, n) : Load(residual + i));
      v = activate(v, i);
      n < kV ? StoreN(y + i, v, n) : stream ? Stream(y + i, v) : Store(y + i, v);
    }
    if (residual != nullptr) residual += residual_step;
  }
}

template <typename T>
void FinishRows(const PointwiseArgs& a, const TileEnd& end, const float* sums, int64_t rows, int64_t pixel) {
  const auto run = [&](const auto& activate) {
    end.lanes == kTilesChannels ? EndRows<T, true>(a, end, sums, rows, pixel, activate)
                                : EndRows<T, false>(a, end, sums, rows, pixel, activate);
  };
  if (IsClamp(a.activation.kind)) {
    const Clamp clamp = MakeClamp(a.activation);
    run([clamp](Vec v, int64_t) { return Apply(v, clamp); });
  } else if (a.activation.kind == ActivationKind::kPRelu) {
    const float* const slopes = a.slopes + end.k;
    run([slopes](Vec v, int64_t i) { return PRelu(v, Load(slopes + i)); });
  } else {
    WithActivation(a.activation, [&](const auto& activate) { run([&](Vec v, int64_t) { return activate(v); }); });
  }
}

template <typename T>
void PointwiseTo(const PointwiseArgs& a) {
  const auto end = [&](const TileEnd& tile, const float* sums, int64_t rows, int64_t pixel) {
    FinishRows<T>(a, tile, sums, rows, pixel);
  };
  TileProduct(a, end, IsCostly(a.activation.kind)).Run();
  if (a.stream) StreamFence();
}

void Pointwise(const PointwiseArgs& a) {
  a.dtype == DType::kFloat32 ? PointwiseTo<float>(a) : PointwiseTo<BFloat16>(a);
}

// Rows of float to bfloat16 in place, zeros after the last channel up to a whole step where the row has the room.
template <typename Activate>
inline void RoundRowsWith(const RowsArgs& a, const Activate& activate) {
  const int64_t end = Min(CeilDiv(a.channels, kTilesDepth) * kTilesDepth, 2 * a.z_stride);
  const Vec zero = Set1(0.0f);
  for (int64_t row = 0; row < a.rows; ++row) {
    const float* const from = a.z + row * a.z_stride;
    BFloat16* const to = reinterpret_cast<BFloat16*>(a.z + row * a.z_stride);
    int64_t c = 0;
    for (; c + kV <= a.channels; c += kV) Store(to + c, activate(Load(from + c)));
    if (c < a.channels) StoreN(to + c, activate(LoadN(from + c, a.channels - c)), a.channels - c);
    for (c = a.channels; c < end; c += kV) end - c < kV ? StoreN(to + c, zero, end - c) : Store(to + c, zero);
  }
}

void RoundRows(const RowsArgs& a) {
  WithActivation(a.activation, [&](const auto& activate) { RoundRowsWith(a, activate); });
}

}  // namespace
}  // namespace dwsconv

#endif  // DWSCONV_CPU_KERNELS_TILES_POINTWISE_BODY_H_
