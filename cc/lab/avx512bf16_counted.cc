// What the kernels of kernels_avx512bf16.cc touch: the same bodies over vectors that only count.
// The bodies build on the headers before them, so the order matters.
// clang-format off
#include "cc/cpu/sizes_avx512.h"
#include "cc/lab/vec_counted.h"
#include "cc/cpu/activation_body.h"
#include "cc/cpu/repeat_body.h"
#include "cc/cpu/depthwise_interior_body.h"
#include "cc/cpu/depthwise_window_body.h"
#include "cc/cpu/depthwise_body.h"
// clang-format on

namespace dwsconv {
namespace {
using ZType = BFloat16;
constexpr DType kZType = DType::kBFloat16;
constexpr int kPair = 2;
}  // namespace
}  // namespace dwsconv

// clang-format off
#include "cc/lab/step_counted.h"
#include "cc/cpu/pointwise_body.h"
#include "cc/cpu/rows_body.h"
// clang-format on

#include "cc/lab/traffic.h"

namespace dwsconv {

const KernelTable& CountedAvx512Bf16() {
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
