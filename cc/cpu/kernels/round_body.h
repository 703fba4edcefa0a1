// Float scratch to the bfloat16 factors of vdpbf16ps. Part of a kernel's translation unit: include after step_bf16.h.
#ifndef DWSCONV_CPU_KERNELS_ROUND_BODY_H_
#define DWSCONV_CPU_KERNELS_ROUND_BODY_H_

#include "cc/cpu/kernels/backward_table.h"

namespace dwsconv {
namespace {

void Round(const RoundArgs& a) {
  for (int64_t i = 0; i < a.pixels; i += 2) {
    const bool both = i + 1 < a.pixels;
    const float* even = a.from + i * a.from_pixel;
    const float* odd = even + a.from_pixel;
    for (int64_t c = 0; c < a.padded; c += kV) {
      const Vec x = Load(even + c), y = both ? Load(odd + c) : Set1(0.0f);
      if (a.rows != nullptr) {
        Store(a.rows + i * a.rows_pixel + c, x);
        if (both) Store(a.rows + (i + 1) * a.rows_pixel + c, y);
      }
      if (a.pairs != nullptr) StorePairs(a.pairs + i / 2 * a.pairs_step + 2 * c, x, y);
    }
  }
}

}  // namespace
}  // namespace dwsconv

#endif  // DWSCONV_CPU_KERNELS_ROUND_BODY_H_
