// The pointwise sum by vdpbf16ps: two channels of bfloat16 a multiply-add, summed in float. Included by
// kernels_avx512bf16.cc before pointwise_body.h.
#ifndef DWSCONV_CPU_STEP_BF16_H_
#define DWSCONV_CPU_STEP_BF16_H_

#include <immintrin.h>

#include <cstring>

#include "cc/core/problem.h"

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
inline Vec MultiplyStep(StepVec x, StepVec f, Vec sum) { return _mm512_dpbf16_ps(sum, x, f); }

}  // namespace
}  // namespace dwsconv

#endif  // DWSCONV_CPU_STEP_BF16_H_
