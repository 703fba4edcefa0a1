// The step of the pointwise sum that computes nothing, over vec_counted.h. DWSCONV_BF16 says whether the
// kernels that it stands for multiply bfloat16.
#ifndef DWSCONV_LAB_STEP_COUNTED_H_
#define DWSCONV_LAB_STEP_COUNTED_H_

#include "cc/cpu/kernels/kernel_table.h"

namespace dwsconv {
namespace {

#if DWSCONV_BF16
using ZType = BFloat16;
constexpr DType kZType = DType::kBFloat16;
constexpr int kPair = 2;
#else
using ZType = float;
constexpr DType kZType = DType::kFloat32;
constexpr int kPair = 1;
#endif
using StepVec = Vec;
using HalfStepVec = HalfVec;

inline StepVec BroadcastStep(const ZType* z) { return LoadN(z, kPair); }
inline StepVec BroadcastLast(const ZType* z) { return LoadN(z, 1); }
inline StepVec LoadStep(const ZType* panel) { return LoadN(panel, kV * kPair); }
inline Vec MultiplyStep(StepVec, StepVec, Vec) { return {}; }
inline HalfVec BroadcastHalfStep(const ZType* z) { return Narrow(BroadcastStep(z)); }
inline HalfVec BroadcastHalfLast(const ZType* z) { return Narrow(BroadcastLast(z)); }
inline HalfVec NarrowStep(StepVec v) { return Narrow(v); }
inline HalfVec MultiplyStep(HalfVec, HalfVec, HalfVec) { return {}; }

}  // namespace
}  // namespace dwsconv

#endif  // DWSCONV_LAB_STEP_COUNTED_H_
