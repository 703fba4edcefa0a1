// What tells one planning question from another, as numbers: the key of the tuned plans and of the plans made before.
#ifndef DWSCONV_PLAN_PLAN_KEY_H_
#define DWSCONV_PLAN_PLAN_KEY_H_

#include <array>
#include <cstddef>
#include <cstdint>

#include "cc/core/chain.h"
#include "cc/plan/plan.h"

namespace dwsconv {

// The kernels, the threads and the shapes: what a plan has to fit. In the order of PlanKeyOf; these are the words of
// the file of tuned plans, where a chain without an expansion has no E. Behind one K is 0 where nothing projects.
constexpr const char* kPlanKeyNames[] = {"isa",      "threads",     "vector_floats",
                                         "z_bytes",  "tile_pixels", "tile_channels",
                                         "N",        "H",           "W",
                                         "C",        "M",           "K",
                                         "R",        "S",           "stride_h",
                                         "stride_w", "dilation_h",  "dilation_w",
                                         "pad_top",  "pad_left",    "Ho",
                                         "Wo",       "dtype",       "E"};
constexpr size_t kPlanKeySize = sizeof(kPlanKeyNames) / sizeof(kPlanKeyNames[0]);
using PlanKey = std::array<int64_t, kPlanKeySize>;

inline PlanKey PlanKeyOf(const Chain& p, const Machine& m) {
  return {static_cast<int64_t>(m.isa),
          m.threads,
          m.vector_floats,
          m.z_bytes,
          m.tile_pixels,
          m.tile_channels,
          p.N,
          p.H,
          p.W,
          p.C,
          p.M,
          p.E > 0 && !p.has_project ? 0 : p.K,
          p.R,
          p.S,
          p.stride_h,
          p.stride_w,
          p.dilation_h,
          p.dilation_w,
          p.pad_top,
          p.pad_left,
          p.Ho,
          p.Wo,
          static_cast<int64_t>(p.dtype),
          p.E};
}

// Of an array of numbers.
struct NumbersHash {
  template <size_t kSize>
  size_t operator()(const std::array<int64_t, kSize>& numbers) const {
    uint64_t hash = 0x9e3779b97f4a7c15u;
    for (int64_t number : numbers) {
      hash = (hash ^ static_cast<uint64_t>(number)) * 0xff51afd7ed558ccdu;
      hash ^= hash >> 32;
    }
    return hash;
  }
};

}  // namespace dwsconv

#endif  // DWSCONV_PLAN_PLAN_KEY_H_
