// The vector primitives of kernel bodies, for AVX2 with FMA and F16C. Included by kernels_avx2.cc alone.
#ifndef DWSCONV_CPU_KERNELS_VEC_AVX2_H_
#define DWSCONV_CPU_KERNELS_VEC_AVX2_H_

#include <immintrin.h>

#include <cstdint>

#include "cc/core/half.h"
#include "cc/cpu/kernels/sizes_avx2.h"

namespace dwsconv {
namespace {

using Vec = __m256;
using IntVec = __m256i;

// Half a vector would cost what a whole one does.
using HalfVec = Vec;
inline Vec Set1(float v) { return _mm256_set1_ps(v); }
inline HalfVec Narrow(Vec v) { return v; }
inline HalfVec HalfSet1(float v) { return Set1(v); }
inline Vec Widen(HalfVec v) { return v; }
inline Vec Fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
// Where b is NaN the result is b: the value goes second, the bound first.
inline Vec MaxSecondOnNan(Vec a, Vec b) { return _mm256_max_ps(a, b); }
inline Vec MinSecondOnNan(Vec a, Vec b) { return _mm256_min_ps(a, b); }
// v, or the nearer of -limit and limit; of a NaN any number.
inline Vec WithinAnyNan(Vec v, float limit) { return MinSecondOnNan(Set1(limit), MaxSecondOnNan(Set1(-limit), v)); }
inline Vec RoundNearest(Vec a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
// 2^n for whole n in [-126, 127].
inline Vec Pow2(Vec n) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23));
}
constexpr bool kTakesTables = false;
constexpr bool kScalesInOne = false;
constexpr bool kEstimatesReciprocal = false;
// 2^(n - 1) for whole n in [-125, 128].
inline Vec HalfPow2(Vec n) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(126)), 23));
}
// v 2^n for whole n in [-252, 254]: in two halves, so that results down to the subnormals and up to infinity come out
// right.
inline Vec ScaleByPow2(Vec v, Vec n) {
  const Vec half = RoundNearest(n * Set1(0.5f));
  return v * Pow2(half) * Pow2(n - half);
}
inline Vec Reciprocal(Vec v) { return Set1(1.0f) / v; }
inline Vec Quotient(Vec a, Vec b) { return a / b; }
inline __m256i FirstLanes(int64_t n) {
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)), lane);
}
// The first n 16-bit elements, zeros after them, without reading past them.
inline __m128i LoadHalves(const void* p, int64_t n) {
  uint16_t lanes[8] = {0, 0, 0, 0, 0, 0, 0, 0};
  for (int64_t i = 0; i < n; ++i) lanes[i] = static_cast<const uint16_t*>(p)[i];
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(lanes));
}
inline void StoreHalves(void* p, __m128i v, int64_t n) {
  uint16_t lanes[8];
  _mm_storeu_si128(reinterpret_cast<__m128i*>(lanes), v);
  for (int64_t i = 0; i < n; ++i) static_cast<uint16_t*>(p)[i] = lanes[i];
}
inline Vec WidenBFloat16(__m128i half) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
}

// The same value, of which the compiler knows nothing: it cannot load it again instead of keeping it.
inline Vec Opaque(Vec v) {
  asm("" : "+x"(v));
  return v;
}

inline Vec Load(const float* p) { return _mm256_loadu_ps(p); }
inline Vec Load(const BFloat16* p) { return WidenBFloat16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
inline Vec Load(const Float16* p) { return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }

// The first n (below kV) lanes; the others are zero and their memory is not touched.
inline Vec LoadN(const float* p, int64_t n) { return _mm256_maskload_ps(p, FirstLanes(n)); }
inline Vec LoadN(const BFloat16* p, int64_t n) { return WidenBFloat16(LoadHalves(p, n)); }
inline Vec LoadN(const Float16* p, int64_t n) { return _mm256_cvtph_ps(LoadHalves(p, n)); }

// Round to nearest even; NaN stays NaN.
inline __m128i ToBFloat16(Vec v) {
  const __m256i u = _mm256_castps_si256(v);
  const __m256i high = _mm256_srli_epi32(u, 16);
  const __m256i odd = _mm256_and_si256(high, _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(_mm256_add_epi32(u, _mm256_set1_epi32(0x7fff)), odd), 16);
  const __m256i quiet = _mm256_or_si256(high, _mm256_set1_epi32(0x40));
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
  const __m256i r = _mm256_blendv_epi8(rounded, quiet, nan);
  return _mm_packus_epi32(_mm256_castsi256_si128(r), _mm256_extracti128_si256(r, 1));
}
inline __m128i ToFloat16(Vec v) { return _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }

inline void Store(float* p, Vec v) { _mm256_storeu_ps(p, v); }
inline void Store(BFloat16* p, Vec v) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), ToBFloat16(v)); }
inline void Store(Float16* p, Vec v) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), ToFloat16(v)); }
inline void StoreN(float* p, Vec v, int64_t n) { _mm256_maskstore_ps(p, FirstLanes(n), v); }
inline void StoreN(BFloat16* p, Vec v, int64_t n) { StoreHalves(p, ToBFloat16(v), n); }
inline void StoreN(Float16* p, Vec v, int64_t n) { StoreHalves(p, ToFloat16(v), n); }
// Lane i of the result is lane lanes[i] of v.
inline Vec Permute(Vec v, const int32_t* lanes) {
  return _mm256_permutevar8x32_ps(v, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(lanes)));
}
inline void Stream(float* p, Vec v) { _mm256_stream_ps(p, v); }
inline void Stream(BFloat16* p, Vec v) { _mm_stream_si128(reinterpret_cast<__m128i*>(p), ToBFloat16(v)); }
inline void Stream(Float16* p, Vec v) { _mm_stream_si128(reinterpret_cast<__m128i*>(p), ToFloat16(v)); }
inline void StreamFence() { _mm_sfence(); }

}  // namespace
}  // namespace dwsconv

#endif  // DWSCONV_CPU_KERNELS_VEC_AVX2_H_
