// The pointwise sum in float: one channel a multiply-add. Included by a kernel's translation unit before
// pointwise_body.h.
#ifndef DWSCONV_CPU_KERNELS_STEP_FLOAT_H_
#define DWSCONV_CPU_KERNELS_STEP_FLOAT_H_

#include "cc/core/chain.h"

namespace dwsconv {
namespace {

using ZType = float;
using StepVec = Vec;
constexpr DType kZType = DType::kFloat32;
constexpr int kPair = 1;

inline StepVec BroadcastStep(const float* z) { return Set1(*z); }
inline StepVec BroadcastLast(const float* z) { return BroadcastStep(z); }
inline StepVec LoadStep(const float* panel) { return Load(panel); }
using HalfStepVec = HalfVec;
inline HalfStepVec BroadcastHalfStep(const float* z) { return HalfSet1(*z); }
inline HalfStepVec BroadcastHalfLast(const float* z) { return BroadcastHalfStep(z); }
inline HalfVec NarrowStep(StepVec v) { return Narrow(v); }
template <typename V>
inline V MultiplyStep(V x, V f, V sum) {
  return Fma(x, f, sum);
}

}  // namespace
}  // namespace dwsconv

#endif  // DWSCONV_CPU_KERNELS_STEP_FLOAT_H_
