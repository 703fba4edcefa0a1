// The vector primitives of kernel bodies that compute nothing: they report which memory they would read and write to
// simulated caches (cache_sim.h). With them the bodies, loops and all, tell what they touch. DWSCONV_SIZES is the
// sizes_<isa>.h of the vectors they stand for.
#ifndef DWSCONV_LAB_VEC_COUNTED_H_
#define DWSCONV_LAB_VEC_COUNTED_H_

#include <cstdint>

#include DWSCONV_SIZES
#include "cc/core/half.h"
#include "cc/cpu/kernels/kernel_table.h"
#include "cc/lab/cache_sim.h"

// The bodies fetch ahead by the compiler's builtin.
#define __builtin_prefetch(address, ...) counting_caches->Fetch(address)

namespace dwsconv {
namespace {

// Nothing: what is left of arithmetic is thrown away by the compiler.
struct Vec {
  Vec operator-() const { return {}; }
};
inline Vec operator+(Vec, Vec) { return {}; }
inline Vec operator-(Vec, Vec) { return {}; }
inline Vec operator*(Vec, Vec) { return {}; }
inline Vec operator/(Vec, Vec) { return {}; }
inline bool operator<(Vec, Vec) { return false; }

struct HalfVec {};
inline HalfVec Narrow(Vec) { return {}; }
inline Vec Widen(HalfVec) { return {}; }
inline Vec Opaque(Vec v) { return v; }

inline Vec Set1(float) { return {}; }
inline Vec Fma(Vec, Vec, Vec) { return {}; }
inline Vec MaxSecondOnNan(Vec, Vec) { return {}; }
inline Vec MinSecondOnNan(Vec, Vec) { return {}; }
inline Vec WithinAnyNan(Vec, float) { return {}; }
inline Vec RoundNearest(Vec) { return {}; }
inline Vec ScaleByPow2(Vec, Vec) { return {}; }
constexpr bool kTakesTables = false;
constexpr bool kScalesInOne = false;
constexpr bool kEstimatesReciprocal = false;
inline Vec HalfPow2(Vec) { return {}; }
inline Vec Reciprocal(Vec) { return {}; }
inline Vec Quotient(Vec, Vec) { return {}; }
inline Vec Permute(Vec, const int32_t*) { return {}; }

template <typename T>
inline Vec LoadN(const T* p, int64_t n) {
  counting_caches->Read(p, n * static_cast<int64_t>(sizeof(T)));
  return {};
}
template <typename T>
inline Vec Load(const T* p) {
  return LoadN(p, kV);
}
template <typename T>
inline void StoreN(T* p, Vec, int64_t n) {
  counting_caches->Write(p, n * static_cast<int64_t>(sizeof(T)));
}
template <typename T>
inline void Store(T* p, Vec v) {
  StoreN(p, v, kV);
}
template <typename T>
inline void Stream(T* p, Vec) {
  counting_caches->Stream(p, kV * static_cast<int64_t>(sizeof(T)));
}
inline void CopyPadded(const BFloat16* from, int64_t n, int64_t room, BFloat16* to) {
  constexpr int64_t kBytes = sizeof(BFloat16);
  counting_caches->Read(from, n * kBytes);
  counting_caches->Write(to, room * kBytes);
}
inline void StreamFence() {}

}  // namespace
}  // namespace dwsconv

#endif  // DWSCONV_LAB_VEC_COUNTED_H_
