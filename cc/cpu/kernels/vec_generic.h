// The vector primitives of kernel bodies in the compiler's portable vectors: SSE2 on x86-64, NEON on Arm.
// Included by kernels_generic.cc alone.
#ifndef DWSCONV_CPU_KERNELS_VEC_GENERIC_H_
#define DWSCONV_CPU_KERNELS_VEC_GENERIC_H_

#include <cstdint>
#include <cstring>

#include "cc/core/half.h"
#include "cc/cpu/kernels/sizes_generic.h"

namespace dwsconv {
namespace {

typedef float Vec __attribute__((vector_size(16)));
typedef int32_t IntVec __attribute__((vector_size(16)));

// Half a vector would cost what a whole one does.
using HalfVec = Vec;
inline Vec Set1(float v) { return Vec{v, v, v, v}; }
inline HalfVec Narrow(Vec v) { return v; }
inline HalfVec HalfSet1(float v) { return Set1(v); }
inline Vec Widen(HalfVec v) { return v; }
inline Vec Fma(Vec a, Vec b, Vec c) { return a * b + c; }
// Where b is NaN the result is b: the value goes second, the bound first.
inline Vec MaxSecondOnNan(Vec a, Vec b) { return a > b ? a : b; }
inline Vec MinSecondOnNan(Vec a, Vec b) { return a < b ? a : b; }
// v, or the nearer of -limit and limit; of a NaN any number.
inline Vec WithinAnyNan(Vec v, float limit) { return MinSecondOnNan(Set1(limit), MaxSecondOnNan(Set1(-limit), v)); }
// For |a| below 2^22: adding 1.5 * 2^23 leaves no bits for a fraction.
inline Vec RoundNearest(Vec a) {
  const Vec magic = Set1(12582912.0f);
  volatile Vec sum = a + magic;  // volatile: the compiler must not cancel the two
  return sum - magic;
}
// 2^n for whole n in [-126, 127].
inline Vec Pow2(Vec n) {
  const IntVec bits = (__builtin_convertvector(n, IntVec) + 127) << 23;
  return reinterpret_cast<Vec>(bits);
}
constexpr bool kTakesTables = false;
constexpr bool kScalesInOne = false;
constexpr bool kEstimatesReciprocal = false;
// 2^(n - 1) for whole n in [-125, 128].
inline Vec HalfPow2(Vec n) {
  const IntVec bits = (__builtin_convertvector(n, IntVec) + 126) << 23;
  return reinterpret_cast<Vec>(bits);
}
inline Vec ScaleByPow2(Vec v, Vec n) {  // see vec_avx2.h
  const Vec half = RoundNearest(n * Set1(0.5f));
  return v * Pow2(half) * Pow2(n - half);
}
inline Vec Reciprocal(Vec v) { return Set1(1.0f) / v; }
inline Vec Quotient(Vec a, Vec b) { return a / b; }

inline Vec Opaque(Vec v) { return v; }  // see vec_avx2.h

template <typename T>
inline Vec LoadN(const T* p, int64_t n) {
  Vec v = Set1(0.0f);
  for (int64_t i = 0; i < n; ++i) v[i] = ToFloat(p[i]);
  return v;
}
template <typename T>
inline Vec Load(const T* p) {
  return Vec{ToFloat(p[0]), ToFloat(p[1]), ToFloat(p[2]), ToFloat(p[3])};
}
template <>
inline Vec Load<float>(const float* p) {
  Vec v;
  memcpy(&v, p, sizeof(v));
  return v;
}
template <typename T>
inline void StoreN(T* p, Vec v, int64_t n) {
  for (int64_t i = 0; i < n; ++i) p[i] = FromFloat<T>(v[i]);
}
template <typename T>
inline void Store(T* p, Vec v) {
  StoreN(p, v, kV);
}
template <>
inline void Store<float>(float* p, Vec v) {
  memcpy(p, &v, sizeof(v));
}
// Lane i of the result is lane lanes[i] of v.
inline Vec Permute(Vec v, const int32_t* lanes) { return Vec{v[lanes[0]], v[lanes[1]], v[lanes[2]], v[lanes[3]]}; }
template <typename T>
inline void Stream(T* p, Vec v) {
  Store(p, v);
}
inline void StreamFence() {}

// n numbers, at most `room`, as they are, with zeros after them up to `room`.
inline void CopyPadded(const BFloat16* from, int64_t n, int64_t room, BFloat16* to) {
  for (int64_t i = 0; i < room; ++i) to[i].bits = i < n ? from[i].bits : 0;
}

}  // namespace
}  // namespace dwsconv

#endif  // DWSCONV_CPU_KERNELS_VEC_GENERIC_H_
