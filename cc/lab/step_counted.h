// The step of the pointwise sum that computes nothing, over vec_counted.h. ZType, kZType and kPair are those of the
// kernels that it stands for: define them before.
#ifndef DWSCONV_LAB_STEP_COUNTED_H_
#define DWSCONV_LAB_STEP_COUNTED_H_

#include "cc/cpu/kernel_table.h"

namespace dwsconv {
namespace {

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
