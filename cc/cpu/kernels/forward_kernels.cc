// The forward kernels of one target: the common bodies over its vectors. Compiled once for each target, with its flags
// and these macros, which BUILD sets: DWSCONV_VECTORS and DWSCONV_STEP, headers; DWSCONV_KERNELS, the function that
// gives the table; DWSCONV_BF16, whether products are of bfloat16. cc/lab compiles it over vectors that only count.
// The bodies build on the headers before them, so the order matters.
// clang-format off
#include DWSCONV_VECTORS
#include "cc/cpu/kernels/activation_body.h"
#include "cc/cpu/kernels/repeat_body.h"
#include "cc/cpu/kernels/depthwise_interior_body.h"
#include "cc/cpu/kernels/depthwise_window_body.h"
#include "cc/cpu/kernels/depthwise_body.h"
#include "cc/cpu/kernels/depthwise_pairs_body.h"
#include DWSCONV_STEP
#include "cc/cpu/kernels/pointwise_body.h"
#include "cc/cpu/kernels/rows_body.h"
#include "cc/cpu/kernels/panels_body.h"
// clang-format on

namespace dwsconv {

const KernelTable& DWSCONV_KERNELS();

const KernelTable& DWSCONV_KERNELS() {
  static constexpr KernelTable table = {
      kV,
      kTilePixels,
      kTileChannels,
      kZType,
      kZType,
      kPair,
      kPair,
      kPair,
      kVectorCosts,
      kTileChannels % 32 == 0,
#if DWSCONV_BF16
      {Depthwise<float, ZType>, Depthwise<BFloat16, ZType>, nullptr},
      {nullptr, Repeat<BFloat16>, nullptr},
      {nullptr, Patches<BFloat16>, nullptr},
      Pointwise,
      CopyRows,
      {nullptr, GateRows<BFloat16>, nullptr},
      ScalePanelsOf<ZType, kTileChannels, kPair>,
      nullptr,
      nullptr,
      nullptr,
#else
      {Depthwise<float, ZType>, Depthwise<BFloat16, ZType>, Depthwise<Float16, ZType>},
      {Repeat<float>, Repeat<BFloat16>, Repeat<Float16>},
      {Patches<float>, Patches<BFloat16>, Patches<Float16>},
      Pointwise,
      CopyRows,
      {GateRows<float>, GateRows<BFloat16>, GateRows<Float16>},
      ScalePanelsOf<ZType, kTileChannels, kPair>,
      NormalizeRows,
      ScaleRows,
      nullptr,
#endif
  };
  return table;
}

}  // namespace dwsconv
