// The kernels of one instruction set: the common bodies over its vectors. Compiled with that set's flags.
#include "cc/cpu/vec_avx2.h"
// The bodies build on the vectors above, so their order matters.
#include "cc/cpu/activation_body.h"
#include "cc/cpu/depthwise_body.h"
#include "cc/cpu/kernel_table.h"
#include "cc/cpu/pointwise_body.h"

namespace dwsconv {

const KernelTable& KernelsAvx2() {
  static constexpr KernelTable table = {
      kV, kTilePixels, kTileChannels, {Depthwise<float>, Depthwise<BFloat16>, Depthwise<Float16>}, Pointwise};
  return table;
}

}  // namespace dwsconv
