// What a block does to rows of Z besides the two convolutions. Part of a kernel's translation unit: include after
// pointwise_body.h.
#ifndef DWSCONV_CPU_KERNELS_ROWS_BODY_H_
#define DWSCONV_CPU_KERNELS_ROWS_BODY_H_

#include "cc/cpu/kernels/kernel_table.h"

namespace dwsconv {
namespace {

// Whether Z has X's bits: neither is a float on the way.
template <typename T>
constexpr bool kCopiesAsIs = kSameType<T, BFloat16> && kSameType<ZType, BFloat16>;

template <typename T>
inline void CopyElements(const T* from, int64_t n, ZType* to) {
  int64_t i = 0;
  if constexpr (kCopiesAsIs<T>) {
    for (; i + kV <= n; i += kV) CopyPadded(from + i, kV, kV, to + i);
    if (i < n) CopyPadded(from + i, n - i, n - i, to + i);
    return;
  }
  for (; i + kV <= n; i += kV) Store(to + i, Load(from + i));
  if (i == n) return;
  // The last whole vector, some of it again: a store of part of a vector takes AMD's CPUs some twenty cycles.
  i > 0 ? Store(to + n - kV, Load(from + n - kV)) : StoreN(to, LoadN(from, n), n);
}

// What lies outside the image.
inline void FillOutside(const float* outside, int64_t n, ZType* to) {
  if (outside != nullptr) return CopyElements(outside, n, to);
  const Vec zero = Set1(0.0f);
  int64_t i = 0;
  for (; i + kV <= n; i += kV) Store(to + i, zero);
  if (i < n) StoreN(to + i, zero, n - i);
}

// The same for R rows of `run` elements each, all inside the image: what nearly all patches are.
template <typename T>
inline void CopyRun(const T* from, int64_t row_step, int64_t R, int64_t run, ZType* to) {
  if constexpr (kCopiesAsIs<T>) {
    if (run <= kV) {
      for (int64_t r = 0; r < R; ++r, from += row_step, to += run) CopyPadded(from, run, run, to);
      return;
    }
  } else if (run < kV) {
    for (int64_t r = 0; r < R; ++r, from += row_step, to += run) StoreN(to, LoadN(from, run), run);
    return;
  }
  for (int64_t r = 0; r < R; ++r, from += row_step, to += run) CopyElements(from, run, to);
}

template <typename T>
void Patches(const DepthwiseArgs& a) {
  const Chain& p = *a.chain;
  const T* const image = static_cast<const T*>(a.image);
  ZType* z = static_cast<ZType*>(a.z);
  const int64_t run = p.S * p.C, row_step = p.dilation_h * p.W * p.C, last_line = (p.R - 1) * p.dilation_h;
  int64_t row = a.first_pixel / p.Wo, column = a.first_pixel % p.Wo;
  for (int64_t i = 0; i < a.pixels; ++i, z += a.z_stride) {
    const int64_t h = row * p.stride_h - p.pad_top, w = column * p.stride_w - p.pad_left;
    const bool inside = p.dilation_w == 1 && w >= 0 && w + p.S <= p.W;
    ZType* to = z;
    const bool whole = inside && h >= 0 && h + last_line < p.H;
    if (whole) CopyRun(image + (h * p.W + w) * p.C, row_step, p.R, run, to);
    for (int64_t r = 0; r < p.R && !whole; ++r, to += run) {
      const int64_t line = h + r * p.dilation_h;
      if (line < 0 || line >= p.H) {
        FillOutside(a.outside, run, to);
        continue;
      }
      const T* const from = image + line * p.W * p.C;
      if (inside) {
        CopyElements(from + w * p.C, run, to);
        continue;
      }
      for (int64_t s = 0; s < p.S; ++s) {
        const int64_t at = w + s * p.dilation_w;
        if (at < 0 || at >= p.W) {
          FillOutside(a.outside, p.C, to + s * p.C);
        } else {
          CopyElements(from + at * p.C, p.C, to + s * p.C);
        }
      }
    }
    if (++column == p.Wo) {
      column = 0;
      ++row;
    }
  }
}

template <typename T>
void GateRows(const DepthwiseArgs& a, const float* factors) {
  const int64_t C = a.chain->C, whole = C / kV * kV;
  const T* x = static_cast<const T*>(a.image) + a.first_pixel * C;
  ZType* z = static_cast<ZType*>(a.z);
  for (int64_t i = 0; i < a.pixels; ++i, x += C, z += a.z_stride) {
#pragma GCC unroll 4
    for (int64_t c = 0; c < whole; c += kV) Store(z + c, Load(x + c) * Load(factors + c));
    if (whole < C) Store(z + whole, LoadN(x + whole, C - whole) * Load(factors + whole));
  }
}

// Y = activate(Z) + residual.
template <typename T, typename Activate>
inline void CopyRowsWith(const PointwiseArgs& a, const Activate& activate) {
  const ZType* z = static_cast<const ZType*>(a.z);
  const T* residual = static_cast<const T*>(a.residual);
  T* y = static_cast<T*>(a.y);
  const int64_t cm = a.cm, z_stride = a.z_stride;
  const bool stream = a.stream;
  for (int64_t pixel = a.pixels; pixel > 0; --pixel, z += z_stride, y += a.y_step) {
    for (int64_t c = 0; c < cm; c += kV) {
      const int64_t n = cm - c;
      Vec v = activate(n >= kV ? Load(z + c) : LoadN(z + c, n));
      if (residual != nullptr) v = v + (n >= kV ? Load(residual + c) : LoadN(residual + c, n));
      if (n < kV) {
        StoreN(y + c, v, n);
        continue;
      }
      stream ? Stream(y + c, v) : Store(y + c, v);
    }
    if (residual != nullptr) residual += a.residual_step;
  }
  if (stream) StreamFence();
}

template <typename T>
void CopyRowsAs(const PointwiseArgs& a) {
  // Z of 16 bits had its activation before it was rounded.
  if constexpr (kSameType<ZType, float>) {
    WithActivation(a.activation, [&](const auto& activate) { CopyRowsWith<T>(a, activate); });
  } else {
    CopyRowsWith<T>(a, ActivationAs<ActivationKind::kNone, Formula::kPlain>{});
  }
}

void CopyRows(const PointwiseArgs& a) {
  if constexpr (kSameType<ZType, float>) {
    switch (a.dtype) {
      case DType::kFloat32:
        return CopyRowsAs<float>(a);
      case DType::kBFloat16:
        return CopyRowsAs<BFloat16>(a);
      case DType::kFloat16:
        return CopyRowsAs<Float16>(a);
    }
  } else {
    CopyRowsAs<ZType>(a);
  }
}

// The sum of the first n lanes.
inline float SumLanes(Vec v, int64_t n) {
  float lanes[kV];
  Store(lanes, v);
  float sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += lanes[i];
  return sum;
}

// The sum over n channels of term(vector of them); what lies past them does not count, whatever term makes of it.
template <typename Term>
inline float SumRow(const float* z, int64_t n, const Term& term) {
  // Four sums, so that no addition waits for the one before.
  Vec sums[4] = {Set1(0.0f), Set1(0.0f), Set1(0.0f), Set1(0.0f)};
  int64_t c = 0;
  for (; c + 4 * kV <= n; c += 4 * kV) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) sums[i] = sums[i] + term(Load(z + c + i * kV));
  }
  for (; c + kV <= n; c += kV) sums[0] = sums[0] + term(Load(z + c));
  const float total = SumLanes((sums[0] + sums[1]) + (sums[2] + sums[3]), kV);
  return c < n ? total + SumLanes(term(LoadN(z + c, n - c)), n - c) : total;
}

// The mean first and then the squares of what is left: one pass over squares would cancel.
[[maybe_unused]] void NormalizeRows(const RowsArgs& a, float epsilon) {
  const float inverse = 1.0f / static_cast<float>(a.channels);
  float* z = a.z;
  for (int64_t row = 0; row < a.rows; ++row, z += a.z_stride) {
    const Vec mean = Set1(inverse * SumRow(z, a.channels, [](Vec v) { return v; }));
    const float variance = inverse * SumRow(z, a.channels, [mean](Vec v) { return (v - mean) * (v - mean); });
    const Vec factor = Set1(1.0f / __builtin_sqrtf(variance + epsilon));
    int64_t c = 0;
    for (; c + kV <= a.channels; c += kV) Store(z + c, (Load(z + c) - mean) * factor);
    if (c < a.channels) StoreN(z + c, (LoadN(z + c, a.channels - c) - mean) * factor, a.channels - c);
  }
}

[[maybe_unused]] void ScaleRows(const RowsArgs& a, const float* factors) {
  const int64_t whole = a.channels / kV * kV, rest = a.channels - whole;
  float* z = a.z;
  for (int64_t row = 0; row < a.rows; ++row, z += a.z_stride) {
    for (int64_t c = 0; c < whole; c += kV) Store(z + c, Load(z + c) * Load(factors + c));
    if (rest > 0) StoreN(z + whole, LoadN(z + whole, rest) * LoadN(factors + whole, rest), rest);
  }
}

}  // namespace
}  // namespace dwsconv

#endif  // DWSCONV_CPU_KERNELS_ROWS_BODY_H_
