// The kernels of one instruction set: the common bodies over its vectors. Compiled with that set's flags.
// The bodies build on the headers before them, so the order matters.
// clang-format off
#include "cc/cpu/vec_avx2.h"
#include "cc/cpu/activation_body.h"
#include "cc/cpu/repeat_body.h"
#include "cc/cpu/depthwise_interior_body.h"
#include "cc/cpu/depthwise_window_body.h"
#include "cc/cpu/depthwise_body.h"
#include "cc/cpu/step_float.h"
#include "cc/cpu/pointwise_body.h"
#include "cc/cpu/rows_body.h"
// clang-format on

namespace dwsconv {

const KernelTable& KernelsAvx2() {
  static constexpr KernelTable table = {
      kV,
      kTilePixels,
      kTileChannels,
      kZType,
      kPair,
      {Depthwise<float, float>, Depthwise<BFloat16, float>, Depthwise<Float16, float>},
      {Repeat<float>, Repeat<BFloat16>, Repeat<Float16>},
      {Patches<float>, Patches<BFloat16>, Patches<Float16>},
      Pointwise,
      CopyRows,
      NormalizeRows,
      ScaleRows,
  };
  return table;
}

}  // namespace dwsconv
