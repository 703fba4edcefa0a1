// Apart from targets.cc, so that who runs no programs does without their kernels.
#include "cc/cpu/kernels/targets.h"

namespace dwsconv {

const StepTable& StepKernels(Isa isa) {
  static constexpr Target<StepTable> kTargets[] = {
#define DWSCONV_LIST(name, isa, bf16) {Isa::isa, Bf16::bf16, Steps##name},
      DWSCONV_FOR_TARGETS(DWSCONV_LIST)
#undef DWSCONV_LIST
  };
  return Choose(kTargets, isa, Bf16::kNothing);
}

}  // namespace dwsconv
