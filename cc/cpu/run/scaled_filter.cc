#include "cc/cpu/run/scaled_filter.h"

#include <cmath>
#include <cstddef>
#include <new>

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

}  // namespace

bool ScaleFilter(const Chain& c, const Buffers& buffers, const float* scale, const float* shift, ScaledFilter* scaled) {
  const float* const filter = static_cast<const float*>(buffers.pointwise_filter);
  const float* const bias = static_cast<const float*>(buffers.bias);
  const size_t C = static_cast<size_t>(c.C), K = static_cast<size_t>(c.K), S = static_cast<size_t>(c.S);
  const size_t rows = static_cast<size_t>(c.R) * S * C;
  try {
    scaled->outside.resize(S * C);
    for (size_t i = 0; i < S * C; ++i) {
      const float t = shift == nullptr ? 0.0f : shift[i % C];
      if (!(std::abs(t) <= kLargestShift) || !(std::abs(scale[i % C]) >= kSmallestScale)) return false;
      scaled->outside[i] = -t / scale[i % C];
    }
    scaled->filter.resize(rows * K);
    std::vector<double> sums(K, 0.0);
    for (size_t row = 0; row < rows; ++row) {
      const double s = scale[row % C], t = shift == nullptr ? 0.0 : shift[row % C];
      for (size_t k = 0; k < K; ++k) {
        const double f = filter[row * K + k];
        scaled->filter[row * K + k] = static_cast<float>(s * f);
        sums[k] += t * f;
      }
    }
    scaled->bias.resize(K);
    for (size_t k = 0; k < K; ++k) {
      scaled->bias[k] = static_cast<float>(sums[k] + (bias == nullptr ? 0.0 : static_cast<double>(bias[k])));
    }
  } catch (const std::bad_alloc&) {
    return false;
  }
  return AllFinite(scaled->outside) && AllFinite(scaled->filter) && AllFinite(scaled->bias);
}

}  // namespace dwsconv
