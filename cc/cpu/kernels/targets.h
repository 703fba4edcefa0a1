// What kernels are compiled for: the one list from which they are built (BUILD), chosen, and enumerated by tests.
#ifndef DWSCONV_CPU_KERNELS_TARGETS_H_
#define DWSCONV_CPU_KERNELS_TARGETS_H_

#include <cstddef>

#include "cc/core/chain.h"
#include "cc/core/cpu_features.h"
#include "cc/cpu/kernels/backward_table.h"
#include "cc/cpu/kernels/bf16_products.h"
#include "cc/cpu/kernels/kernel_table.h"
#include "cc/cpu/kernels/step_table.h"

// X(name, instruction set, what it has for bfloat16), the best first. A target with products of bfloat16 serves
// chains of it on CPUs where vdpbf16ps is the faster way, where nothing needs Z in float; one that rounds to it by an
// instruction serves the others. Products by tiles are no target of their own: they take the place of the pointwise
// half in the tables of one (TilesTable).
#if defined(__x86_64__)
// clang-format off
#define DWSCONV_FOR_TARGETS(X)       \
  X(Avx512Bf16, kAvx512, kProducts)  \
  X(Avx512Rounds, kAvx512, kRounds)  \
  X(Avx512, kAvx512, kNothing)       \
  X(Avx2, kAvx2, kNothing)           \
  X(Generic, kGeneric, kNothing)
// clang-format on
#else
#define DWSCONV_FOR_TARGETS(X) X(Generic, kGeneric, kNothing)
#endif

namespace dwsconv {

// The tables of each target: KernelsAvx2(), BackwardAvx2(), StepsAvx2().
#define DWSCONV_DECLARE(name, isa, bf16) \
  const KernelTable& Kernels##name();    \
  const BackwardTable& Backward##name(); \
  const StepTable& Steps##name();
DWSCONV_FOR_TARGETS(DWSCONV_DECLARE)
#undef DWSCONV_DECLARE

// What a target has for bfloat16: each has what is before it, too.
enum class Bf16 : int { kNothing, kRounds, kProducts };

template <typename Table>
struct Target {
  Isa isa;
  Bf16 bf16;
  const Table& (*table)();
};

// The table of the first target of an instruction set that has no more than `bf16`, the generic one where there is
// none.
template <typename Table, size_t kCount>
const Table& Choose(const Target<Table> (&targets)[kCount], Isa isa, Bf16 bf16) {
  for (const Target<Table>& target : targets) {
    if (target.isa == WithoutTiles(isa) && target.bf16 <= bf16) return target.table();
  }
  return targets[kCount - 1].table();
}

// What serves a dtype where vectors of AVX-512 compute; `direct`: nothing needs Z in float.
inline Bf16 Bf16Of(DType dtype, bool direct) {
  if (dtype != DType::kBFloat16 || !GetCpuFeatures().avx512_bf16) return Bf16::kNothing;
  return direct && Bf16Dots() ? Bf16::kProducts : Bf16::kRounds;
}

// The kernels of an instruction set for a chain, those of its backward pass, and those of a program's other steps.
const KernelTable& Kernels(Isa isa, const Chain& chain);

// Tables with products by tiles, of the model where CpuFeatures says so. Z is float and rounded when it is whole, or
// with `direct` bfloat16 from the start, where vectors for that are there.
const KernelTable& TilesTable(bool direct);

const BackwardTable& BackwardKernels(Isa isa, DType dtype);
const StepTable& StepKernels(Isa isa);

}  // namespace dwsconv

#endif  // DWSCONV_CPU_KERNELS_TARGETS_H_
