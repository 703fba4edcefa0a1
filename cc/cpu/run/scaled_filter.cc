#include "cc/cpu/run/scaled_filter.h"

#include <cmath>
#include <cstddef>
#include <cstring>
#include <new>

#include "cc/core/half.h"

namespace dwsconv {
namespace {

// Sums of what is not shifted yet have terms larger by up to this and one: two or three bits. Pictures are scaled to
// about [-2.1, 2.7] at most.
constexpr float kLargestShift = 4;
constexpr float kSmallestScale = 0x1p-40f;  // products with smaller ones may lose bits

bool AllFinite(const std::vector<float>& values) {
  for (float value : values) {
    if (!std::isfinite(value)) return false;
  }
  return true;
}

template <typename T>
bool ScaleAs(const Chain& c, const Buffers& buffers, const T* scale, const T* shift, ScaledFilter* scaled) {
  const T* const filter = static_cast<const T*>(buffers.pointwise_filter);
  const T* const bias = static_cast<const T*>(buffers.bias);
  const size_t C = static_cast<size_t>(c.C), K = static_cast<size_t>(c.K), S = static_cast<size_t>(c.S);
  const size_t rows = static_cast<size_t>(c.R) * S * C;
  scaled->outside.resize(S * C);
  for (size_t i = 0; i < S * C; ++i) {
    const float s = ToFloat(scale[i % C]), t = shift == nullptr ? 0.0f : ToFloat(shift[i % C]);
    if (!(std::abs(t) <= kLargestShift) || !(std::abs(s) >= kSmallestScale)) return false;
    scaled->outside[i] = -t / s;
  }
  scaled->filter.resize(rows * K * sizeof(T));
  std::vector<double> sums(K, 0.0);
  bool finite = true;
  for (size_t row = 0; row < rows; ++row) {
    const double s = ToFloat(scale[row % C]), t = shift == nullptr ? 0.0 : ToFloat(shift[row % C]);
    for (size_t k = 0; k < K; ++k) {
      const T f = FromFloat<T>(static_cast<float>(s * ToFloat(filter[row * K + k])));
      std::memcpy(scaled->filter.data() + (row * K + k) * sizeof(T), &f, sizeof(T));
      finite = finite && std::isfinite(ToFloat(f));
      // Of the rounded filter: then its rounding multiplies scale * x + shift, not the larger scale * x.
      sums[k] += ToFloat(f) * (t / s);
    }
  }
  scaled->bias.resize(K);
  for (size_t k = 0; k < K; ++k) {
    const double b = bias == nullptr ? 0.0 : static_cast<double>(ToFloat(bias[k]));
    scaled->bias[k] = static_cast<float>(sums[k] + b);
  }
  return finite && AllFinite(scaled->outside) && AllFinite(scaled->bias);
}

}  // namespace

bool ScaleFilter(const Chain& c, const Buffers& buffers, const void* scale, const void* shift, ScaledFilter* scaled) {
  try {
    if (c.dtype == DType::kFloat32) {
      return ScaleAs(c, buffers, static_cast<const float*>(scale), static_cast<const float*>(shift), scaled);
    }
    return ScaleAs(c, buffers, static_cast<const BFloat16*>(scale), static_cast<const BFloat16*>(shift), scaled);
  } catch (const std::bad_alloc&) {
    return false;
  }
}

}  // namespace dwsconv
