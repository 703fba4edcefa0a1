// What kernels are compiled for: the one list from which they are built (BUILD), chosen, and enumerated by tests.
#ifndef DWSCONV_CPU_KERNELS_TARGETS_H_
#define DWSCONV_CPU_KERNELS_TARGETS_H_

#include <cstddef>

#include "cc/core/chain.h"
#include "cc/core/cpu_features.h"
#include "cc/cpu/kernels/backward_table.h"
#include "cc/cpu/kernels/kernel_table.h"
#include "cc/cpu/kernels/step_table.h"

// X(name, instruction set, whether its products are of bfloat16), the best first. A target with such products serves
// bfloat16 chains on CPUs with AVX512_BF16, where nothing needs Z in float.
#if defined(__x86_64__)
#define DWSCONV_FOR_TARGETS(X) \
  X(Avx512Bf16, kAvx512, true) X(Avx512, kAvx512, false) X(Avx2, kAvx2, false) X(Generic, kGeneric, false)
#else
#define DWSCONV_FOR_TARGETS(X) X(Generic, kGeneric, false)
#endif

namespace dwsconv {

// The tables of each target: KernelsAvx2(), BackwardAvx2(), StepsAvx2().
#define DWSCONV_DECLARE(name, isa, bf16) \
  const KernelTable& Kernels##name();    \
  const BackwardTable& Backward##name(); \
  const StepTable& Steps##name();
DWSCONV_FOR_TARGETS(DWSCONV_DECLARE)
#undef DWSCONV_DECLARE

template <typename Table>
struct Target {
  Isa isa;
  bool bf16;
  const Table& (*table)();
};

// The table of the first target of an instruction set, the generic one where there is none.
template <typename Table, size_t kCount>
const Table& Choose(const Target<Table> (&targets)[kCount], Isa isa, bool bf16) {
  for (const Target<Table>& target : targets) {
    if (target.isa == isa && (bf16 || !target.bf16)) return target.table();
  }
  return targets[kCount - 1].table();
}

inline bool MultipliesBf16(DType dtype) { return dtype == DType::kBFloat16 && GetCpuFeatures().avx512_bf16; }

// The kernels of an instruction set for a chain, those of its backward pass, and those of a program's other steps.
const KernelTable& Kernels(Isa isa, const Chain& chain);
const BackwardTable& BackwardKernels(Isa isa, DType dtype);
const StepTable& StepKernels(Isa isa);

}  // namespace dwsconv

#endif  // DWSCONV_CPU_KERNELS_TARGETS_H_
