// Repeats elements, so that the multipliers of a channel lie in a vector side by side. Part of a kernel's translation
// unit: include after a vec_<isa>.h.
#ifndef DWSCONV_CPU_KERNELS_REPEAT_BODY_H_
#define DWSCONV_CPU_KERNELS_REPEAT_BODY_H_

#include "cc/cpu/kernels/kernel_table.h"

namespace dwsconv {
namespace {

// Which lane of a vector goes where, for fewer repetitions than lanes: output vector j of it takes lanes[j * kV ...].
struct RepeatLanes {
  int32_t lanes[kV * kV];

  explicit RepeatLanes(int64_t times) {
    for (int64_t i = 0; i < times * kV && times < kV; ++i) lanes[i] = static_cast<int32_t>(i / times);
  }
};

// n elements, `times` each, to n * times floats; nothing past them is written.
template <typename T>
inline void RepeatElements(const T* from, int64_t n, int64_t times, const RepeatLanes& permutation, float* to) {
  for (int64_t i = 0; i < n; i += kV) {
    const int64_t count = n - i < kV ? n - i : kV;
    const Vec v = count == kV ? Load(from + i) : LoadN(from + i, count);
    if (times < kV) {
      int64_t left = count * times;
      const int32_t* lanes = permutation.lanes;
      for (; left >= kV; left -= kV, to += kV, lanes += kV) Store(to, Permute(v, lanes));
      if (left > 0) StoreN(to, Permute(v, lanes), left);
      to += left;
      continue;
    }
    float each[kV];
    Store(each, v);
    for (int64_t e = 0; e < count; ++e) {
      const Vec same = Set1(each[e]);
      int64_t left = times;
      for (; left >= kV; left -= kV, to += kV) Store(to, same);
      if (left > 0) StoreN(to, same, left);
      to += left;
    }
  }
}

template <typename T>
[[maybe_unused]] void Repeat(const RepeatArgs& a) {
  const RepeatLanes permutation(a.times);
  const T* from = static_cast<const T*>(a.from);
  float* to = a.to;
  for (int64_t i = 0; i < a.pixels; ++i, from += a.from_step, to += a.elements * a.times) {
    RepeatElements(from, a.elements, a.times, permutation, to);
  }
}

}  // namespace
}  // namespace dwsconv

#endif  // DWSCONV_CPU_KERNELS_REPEAT_BODY_H_
