// The pointwise sum by vdpbf16ps: two channels of bfloat16 a multiply-add, summed in float. Included by
// kernels_avx512bf16.cc before pointwise_body.h.
#ifndef DWSCONV_CPU_KERNELS_STEP_BF16_H_
#define DWSCONV_CPU_KERNELS_STEP_BF16_H_

#include <immintrin.h>

#include <cstring>

#include "cc/core/chain.h"

namespace dwsconv {
namespace {

using ZType = BFloat16;
using StepVec = __m512bh;
constexpr DType kZType = DType::kBFloat16;
constexpr int kPair = 2;

inline StepVec BroadcastStep(const BFloat16* z) {
  int32_t pair;
  memcpy(&pair, z, sizeof(pair));
  return reinterpret_cast<StepVec>(_mm512_set1_epi32(pair));
}
inline StepVec BroadcastLast(const BFloat16* z) { return reinterpret_cast<StepVec>(_mm512_set1_epi32(z->bits)); }
inline StepVec LoadStep(const BFloat16* panel) { return reinterpret_cast<StepVec>(_mm512_loadu_si512(panel)); }
using HalfStepVec = __m256bh;
inline HalfStepVec BroadcastHalfStep(const BFloat16* z) {
  int32_t pair;
  memcpy(&pair, z, sizeof(pair));
  return reinterpret_cast<HalfStepVec>(_mm256_set1_epi32(pair));
}
inline HalfStepVec BroadcastHalfLast(const BFloat16* z) {
  return reinterpret_cast<HalfStepVec>(_mm256_set1_epi32(z->bits));
}
inline HalfStepVec NarrowStep(StepVec v) {
  return reinterpret_cast<__m256bh>(_mm512_castsi512_si256(reinterpret_cast<__m512i>(v)));
}
inline Vec MultiplyStep(StepVec x, StepVec f, Vec sum) { return _mm512_dpbf16_ps(sum, x, f); }
inline HalfVec MultiplyStep(__m256bh x, __m256bh f, HalfVec sum) { return _mm256_dpbf16_ps(sum, x, f); }

// to[2 * i] and to[2 * i + 1] = x[i] and y[i], rounded.
inline void StorePairs(BFloat16* to, Vec x, Vec y) {
  const __m512i even = _mm512_cvtepu16_epi32(ToBFloat16(x)), odd = _mm512_cvtepu16_epi32(ToBFloat16(y));
  _mm512_storeu_si512(to, _mm512_or_si512(even, _mm512_slli_epi32(odd, 16)));
}

}  // namespace
}  // namespace dwsconv

#endif  // DWSCONV_CPU_KERNELS_STEP_BF16_H_
