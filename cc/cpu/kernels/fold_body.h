// Sums over the multipliers of each channel: the gradient of X where its channels were repeated. Part of a kernel's
// translation unit: include after taps_body.h.
#ifndef DWSCONV_CPU_KERNELS_FOLD_BODY_H_
#define DWSCONV_CPU_KERNELS_FOLD_BODY_H_

#include "cc/cpu/kernels/backward_table.h"

namespace dwsconv {
namespace {

// The sum of n neighbours: whole vectors first, then their lanes by halves, then what is left.
inline float SumNeighbours(const float* from, int64_t n) {
  float total = 0;
  int64_t i = 0;
  if (n >= kV) {
    Vec sum = Load(from);
    for (i = kV; i + kV <= n; i += kV) sum = sum + Load(from + i);
    float lanes[kV];
    Store(lanes, sum);
#pragma GCC unroll 4
    for (int half = kV / 2; half > 0; half /= 2) {
#pragma GCC unroll 8
      for (int lane = 0; lane < half; ++lane) lanes[lane] += lanes[lane + half];
    }
    total = lanes[0];
  }
  for (; i < n; ++i) total += from[i];
  return total;
}

template <typename T>
void Fold(const FoldArgs& a) {
  for (int64_t i = 0; i < a.pixels; ++i) {
    const float* from = a.from + i * a.from_pixel;
    T* to = static_cast<T*>(a.to) + i * a.to_pixel;
    for (int64_t c = 0; c < a.channels; ++c, from += a.times) {
      const float sum = SumNeighbours(from, a.times);
      if constexpr (sizeof(T) == sizeof(float)) {
        to[c] = sum;
      } else {
        StoreN(to + c, Set1(sum), 1);
      }
    }
  }
}

}  // namespace
}  // namespace dwsconv

#endif  // DWSCONV_CPU_KERNELS_FOLD_BODY_H_
