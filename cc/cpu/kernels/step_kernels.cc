// The kernels of a program's steps for one target, as forward_kernels.cc has those of chains; DWSCONV_STEPS gives the
// table. The bodies build on the headers before them, so the order matters.
// clang-format off
#include DWSCONV_VECTORS
#include "cc/cpu/kernels/activation_body.h"
#include "cc/cpu/kernels/steps_body.h"
// clang-format on

namespace dwsconv {

const StepTable& DWSCONV_STEPS();

const StepTable& DWSCONV_STEPS() {
  static constexpr StepTable table = {
      {Combine<float>, Combine<BFloat16>, Combine<Float16>},
      {StepActivate<float>, StepActivate<BFloat16>, StepActivate<Float16>},
      {Pool<float, float>, Pool<BFloat16, BFloat16>, Pool<Float16, Float16>},
      {Pool<float, float>, Pool<BFloat16, float>, Pool<Float16, float>},
      {Pool<float, float>, Pool<float, BFloat16>, Pool<float, Float16>},
      {Softmax<float>, Softmax<BFloat16>, Softmax<Float16>},
      {StepNormalize<float>, StepNormalize<BFloat16>, StepNormalize<Float16>},
      {Blend<float>, Blend<BFloat16>, Blend<Float16>},
  };
  return table;
}

}  // namespace dwsconv
