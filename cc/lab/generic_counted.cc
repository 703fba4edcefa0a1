// What the kernels of kernels_generic.cc touch: the same bodies over vectors that only count.
// The bodies build on the headers before them, so the order matters.
// clang-format off
#include "cc/cpu/sizes_generic.h"
#include "cc/lab/vec_counted.h"
#include "cc/cpu/activation_body.h"
#include "cc/cpu/repeat_body.h"
#include "cc/cpu/depthwise_interior_body.h"
#include "cc/cpu/depthwise_window_body.h"
#include "cc/cpu/depthwise_body.h"
// clang-format on

namespace dwsconv {
namespace {
using ZType = float;
constexpr DType kZType = DType::kFloat32;
constexpr int kPair = 1;
}  // namespace
}  // namespace dwsconv

// clang-format off
#include "cc/lab/step_counted.h"
#include "cc/cpu/pointwise_body.h"
#include "cc/cpu/rows_body.h"
// clang-format on

#include "cc/lab/traffic.h"

namespace dwsconv {

const KernelTable& CountedGeneric() {
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
