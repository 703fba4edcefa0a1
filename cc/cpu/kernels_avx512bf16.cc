// bfloat16 problems on CPUs with AVX512_BF16: Z and the pointwise filter in bfloat16, sums in float.
// The bodies build on the headers before them, so the order matters.
// clang-format off
#include "cc/cpu/vec_avx512.h"
#include "cc/cpu/activation_body.h"
#include "cc/cpu/repeat_body.h"
#include "cc/cpu/depthwise_interior_body.h"
#include "cc/cpu/depthwise_window_body.h"
#include "cc/cpu/depthwise_body.h"
#include "cc/cpu/step_bf16.h"
#include "cc/cpu/pointwise_body.h"
#include "cc/cpu/rows_body.h"
// clang-format on

namespace dwsconv {

const KernelTable& KernelsAvx512Bf16() {
  static constexpr KernelTable table = {
      kV,
      kTilePixels,
      kTileChannels,
      kZType,
      kPair,
      {Depthwise<float, BFloat16>, Depthwise<BFloat16, BFloat16>, nullptr},
      {nullptr, Repeat<BFloat16>, nullptr},
      {nullptr, Patches<BFloat16>, nullptr},
      Pointwise,
      CopyRows,
      nullptr,
      nullptr,
  };
  return table;
}

}  // namespace dwsconv
