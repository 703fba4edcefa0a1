#include "cc/cpu/kernels/targets.h"

namespace dwsconv {

const KernelTable& Kernels(Isa isa, const Chain& chain) {
  static constexpr Target<KernelTable> kTargets[] = {
#define DWSCONV_LIST(name, isa, bf16) {Isa::isa, bf16, Kernels##name},
      DWSCONV_FOR_TARGETS(DWSCONV_LIST)
#undef DWSCONV_LIST
  };
  return Choose(kTargets, isa, MultipliesBf16(chain.dtype) && IsClamp(chain.mid.kind) && !chain.float_between());
}

}  // namespace dwsconv
