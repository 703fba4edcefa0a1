// Packed panels of a 1x1 filter with a factor for each of its rows. Part of a translation unit of kernels: include
// after a vec_<isa>.h.
#ifndef DWSCONV_CPU_KERNELS_PANELS_BODY_H_
#define DWSCONV_CPU_KERNELS_PANELS_BODY_H_

#include "cc/cpu/kernels/kernel_table.h"

namespace dwsconv {
namespace {

constexpr int32_t kPairLanes[16] = {0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1};

// Panels of kColumns output channels, kRows consecutive rows of which lie together as pairs: 1 or 2.
template <typename P, int kColumns, int kRows>
void ScalePanelsOf(const ScalePanelsArgs& a) {
  const P* from = static_cast<const P*>(a.from);
  P* to = static_cast<P*>(a.to);
  for (int64_t panel = 0; panel < a.panels; ++panel) {
    for (int64_t c = 0; c < a.rows; c += kRows, from += kRows * kColumns, to += kRows * kColumns) {
      Vec factor = Set1(c < a.factor_count ? a.factors[c] : 0.0f);
      if constexpr (kRows == 2) {
        const int64_t n = a.factor_count - c;
        factor = Permute(n > 0 ? LoadN(a.factors + c, n < kRows ? n : kRows) : Set1(0.0f), kPairLanes);
      }
#pragma GCC unroll 4
      for (int i = 0; i < kRows * kColumns; i += kV) Store(to + i, Load(from + i) * factor);
    }
  }
}

}  // namespace
}  // namespace dwsconv

#endif  // DWSCONV_CPU_KERNELS_PANELS_BODY_H_
