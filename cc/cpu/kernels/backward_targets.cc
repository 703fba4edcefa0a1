// Apart from targets.cc, so that who has no backward pass (the module for NumPy arrays) does without its kernels.
#include "cc/cpu/kernels/targets.h"

namespace dwsconv {

const BackwardTable& BackwardKernels(Isa isa, DType dtype) {
  static constexpr Target<BackwardTable> kTargets[] = {
#define DWSCONV_LIST(name, isa, bf16) {Isa::isa, bf16, Backward##name},
      DWSCONV_FOR_TARGETS(DWSCONV_LIST)
#undef DWSCONV_LIST
  };
  return Choose(kTargets, isa, MultipliesBf16(dtype));
}

}  // namespace dwsconv
