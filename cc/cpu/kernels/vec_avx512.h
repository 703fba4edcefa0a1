// The vector primitives of kernel bodies, for AVX-512 (F, BW, VL, DQ). Included by kernels_avx512.cc alone.
#ifndef DWSCONV_CPU_KERNELS_VEC_AVX512_H_
#define DWSCONV_CPU_KERNELS_VEC_AVX512_H_

// GCC's own header leaves the pass-through operand of unmasked intrinsics uninitialised on purpose, and warns of it
// wherever they are inlined (GCC bug 105593).
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#include <immintrin.h>

#include <cstdint>

#include "cc/core/half.h"
#include "cc/cpu/kernels/activation_tables.h"
#include "cc/cpu/kernels/sizes_avx512.h"
#ifdef DWSCONV_AVX512_MODEL
#include "cc/cpu/kernels/avx512_model.h"
#endif

namespace dwsconv {
namespace {

using Vec = __m512;
using IntVec = __m512i;

// Half a vector, for tiles that need no more: on 256-bit units it costs half.
using HalfVec = __m256;
inline HalfVec Narrow(Vec v) { return _mm512_castps512_ps256(v); }
inline HalfVec HalfSet1(float v) { return _mm256_set1_ps(v); }
inline Vec Widen(HalfVec v) { return _mm512_zextps256_ps512(v); }

inline Vec Set1(float v) { return _mm512_set1_ps(v); }
inline Vec Fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
inline HalfVec Fma(HalfVec a, HalfVec b, HalfVec c) { return _mm256_fmadd_ps(a, b, c); }
// Where b is NaN the result is b: the value goes second, the bound first.
inline Vec MaxSecondOnNan(Vec a, Vec b) { return _mm512_max_ps(a, b); }
inline Vec MinSecondOnNan(Vec a, Vec b) { return _mm512_min_ps(a, b); }
// v, or the nearer of -limit and limit; of a NaN any number.
inline Vec WithinAnyNan(Vec v, float limit) {
#ifdef DWSCONV_AVX512_MODEL
  return _mm512_min_ps(Set1(limit), _mm512_max_ps(Set1(-limit), v));
#else
  return _mm512_range_ps(v, Set1(limit), 2);  // the smaller by absolute value, with the sign of v
#endif
}
// The smaller of |v| and `limit`, which is 0 or more; of a NaN any number up to it.
inline Vec SmallerSize(Vec v, Vec limit) {
#ifdef DWSCONV_AVX512_MODEL
  return _mm512_min_ps(_mm512_max_ps(v, -v), limit);
#else
  return _mm512_range_ps(v, limit, 10);  // the smaller by absolute value, without a sign
#endif
}
inline Vec RoundNearest(Vec a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
constexpr bool kTakesTables = true;
constexpr bool kScalesInOne = true;
constexpr bool kEstimatesReciprocal = true;
// 2^(n - 1) for whole n.
inline Vec HalfPow2(Vec n) { return _mm512_scalef_ps(Set1(0.5f), n); }
// v 2^n for whole n.
inline Vec ScaleByPow2(Vec v, Vec n) { return _mm512_scalef_ps(v, n); }
// 1 / v to 1 ulp for v >= 1; 0 where that is subnormal. One step of Newton's method doubles the 14 bits of the
// estimate.
inline Vec Reciprocal(Vec v) {
  const Vec y = _mm512_rcp14_ps(v);
  const Vec error = _mm512_fnmadd_ps(v, y, Set1(1.0f));  // NaN where v is infinite
  return _mm512_maskz_fmadd_ps(_mm512_cmp_ps_mask(v, Set1(0x1p126f), _CMP_NGT_UQ), y, error, y);
}
// a / b for such b.
inline Vec Quotient(Vec a, Vec b) { return a * Reciprocal(b); }
inline __mmask16 FirstLanes(int64_t n) { return static_cast<__mmask16>((1u << n) - 1u); }

// The same value, of which the compiler knows nothing: it cannot load it again instead of keeping it.
inline Vec Opaque(Vec v) {
#ifdef DWSCONV_AVX512_MODEL
  asm("" : "+m"(v));
#else
  asm("" : "+v"(v));
#endif
  return v;
}

inline Vec Load(const float* p) { return _mm512_loadu_ps(p); }
inline Vec Load(const BFloat16* p) {
  const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}
inline Vec Load(const Float16* p) { return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }

// Adding it rounds a smaller number to a whole one, which the lowest bits are then.
constexpr float kToWhole = 0x1p23f;

// |x|, or the end of the table, and the middle of its segment: in widths, plus kToWhole.
struct InTable {
  Vec t, shifted;
};
template <int kTerms>
inline InTable PlaceIn(const SegmentTable<kTerms>& table, Vec x) {
  const Vec t = SmallerSize(x, Set1(table.last));
  return {t, Fma(t, Set1(table.per_unit), Set1(kToWhole))};
}
// The polynomial of each lane's segment, at `at`.
template <int kTerms>
inline Vec OfSegment(const SegmentTable<kTerms>& table, Vec shifted, Vec at) {
  const IntVec segment = _mm512_castps_si512(shifted);
  Vec sum = Set1(0.0f);
#pragma GCC unroll 8
  for (int power = kTerms - 1; power >= 0; --power) {
    const float* const c = table.c[power];
    const Vec own = _mm512_permutex2var_ps(Load(c), segment, Load(c + kV));
    sum = power == kTerms - 1 ? own : Fma(sum, at, own);
  }
  return sum;
}
// max(x, 0) - bump(|x|) for the bump of `table`. A NaN stays one.
inline Vec LessBump(Vec x, const BumpTable& table) {
  const InTable place = PlaceIn(table, x);
  return MaxSecondOnNan(Set1(0.0f), x) - OfSegment(table, place.shifted, place.t);
}
// x Phi(x); without cancellation below zero.
inline Vec GeluByTable(Vec x) {
  const InTable place = PlaceIn(kNormalTail, x);
  const Vec middle = place.shifted - Set1(kToWhole);
  const Vec tail = OfSegment(kNormalTail, place.shifted, Fma(middle, Set1(-kNormalTail.width), place.t));
  return x * (x < Set1(0.0f) ? tail : Set1(1.0f) - tail);
}

// The first n (below kV) lanes; the others are zero and their memory is not touched.
inline Vec LoadN(const float* p, int64_t n) { return _mm512_maskz_loadu_ps(FirstLanes(n), p); }
inline Vec LoadN(const BFloat16* p, int64_t n) {
  const __m256i half = _mm256_maskz_loadu_epi16(FirstLanes(n), p);
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}
inline Vec LoadN(const Float16* p, int64_t n) { return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(FirstLanes(n), p)); }

// Round to nearest even; NaN stays NaN. With AVX512_BF16 one instruction (which flushes subnormals to zero).
#if defined(__AVX512BF16__) || defined(DWSCONV_AVX512BF16_MODEL)
inline __m256i ToBFloat16(Vec v) { return reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(v)); }
#else
inline __m256i ToBFloat16(Vec v) {
  const __m512i u = _mm512_castps_si512(v);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
  __m512i r = _mm512_srli_epi32(_mm512_add_epi32(_mm512_add_epi32(u, _mm512_set1_epi32(0x7fff)), odd), 16);
  const __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
  r = _mm512_mask_or_epi32(r, nan, _mm512_srli_epi32(u, 16), _mm512_set1_epi32(0x40));
  return _mm512_cvtepi32_epi16(r);
}
#endif
inline __m256i ToFloat16(Vec v) { return _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }

inline void Store(float* p, Vec v) { _mm512_storeu_ps(p, v); }
inline void Store(BFloat16* p, Vec v) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), ToBFloat16(v)); }
inline void Store(Float16* p, Vec v) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), ToFloat16(v)); }
inline void StoreN(float* p, Vec v, int64_t n) {
  if (n == kV / 2) return _mm256_storeu_ps(p, Narrow(v));
  _mm512_mask_storeu_ps(p, FirstLanes(n), v);
}
inline void StoreN(BFloat16* p, Vec v, int64_t n) { _mm256_mask_storeu_epi16(p, FirstLanes(n), ToBFloat16(v)); }
inline void StoreN(Float16* p, Vec v, int64_t n) { _mm256_mask_storeu_epi16(p, FirstLanes(n), ToFloat16(v)); }
// Lane i of the result is lane lanes[i] of v.
inline Vec Permute(Vec v, const int32_t* lanes) { return _mm512_permutexvar_ps(_mm512_loadu_si512(lanes), v); }
inline void Stream(float* p, Vec v) { _mm512_stream_ps(p, v); }
inline void Stream(BFloat16* p, Vec v) { _mm256_stream_si256(reinterpret_cast<__m256i*>(p), ToBFloat16(v)); }
inline void Stream(Float16* p, Vec v) { _mm256_stream_si256(reinterpret_cast<__m256i*>(p), ToFloat16(v)); }
inline void StreamFence() { _mm_sfence(); }

// n numbers, at most `room`, as they are, with zeros after them up to `room`, which is 32 at most.
inline void CopyPadded(const BFloat16* from, int64_t n, int64_t room, BFloat16* to) {
  const auto half = [&](int64_t i) {
    const __mmask16 wanted = n < i ? 0 : n - i < kV ? FirstLanes(n - i) : 0xffff;
    const __mmask16 all = room - i < kV ? FirstLanes(room - i) : 0xffff;
    _mm256_mask_storeu_epi16(to + i, all, _mm256_maskz_loadu_epi16(wanted, from + i));
  };
  half(0);
  if (room > kV) half(kV);
}

}  // namespace
}  // namespace dwsconv

#endif  // DWSCONV_CPU_KERNELS_VEC_AVX512_H_
