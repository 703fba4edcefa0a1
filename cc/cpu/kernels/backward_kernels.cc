// The backward kernels of one target, as forward_kernels.cc has the forward ones; DWSCONV_BACKWARD gives the table.
// The bodies build on the headers before them, so the order matters.
// clang-format off
#include DWSCONV_VECTORS
#include "cc/cpu/kernels/activation_body.h"
#include "cc/cpu/kernels/backward_table.h"
#include "cc/cpu/kernels/derivative_body.h"
#include "cc/cpu/kernels/norm_body.h"
#include DWSCONV_STEP
#include "cc/cpu/kernels/multiply_tile.h"
#include "cc/cpu/kernels/repeat_body.h"
#include "cc/cpu/kernels/taps_body.h"
#include "cc/cpu/kernels/fold_body.h"
#include "cc/cpu/kernels/products_body.h"
#if DWSCONV_BF16
#include "cc/cpu/kernels/round_body.h"
#endif
// clang-format on

namespace dwsconv {

const BackwardTable& DWSCONV_BACKWARD();

const BackwardTable& DWSCONV_BACKWARD() {
  static constexpr BackwardTable table = {
      kTileChannels,
      kZType,
      kPair,
      kPair,
      {Gather<float>, Gather<BFloat16>, Gather<Float16>},
      {TapSums<float>, TapSums<BFloat16>, TapSums<Float16>},
      {Fold<float>, Fold<BFloat16>, Fold<Float16>},
      Derivative,
      ActivateAll,
      TapProducts,
      Multiply,
      Outer,
      ColumnSums,
#if DWSCONV_BF16
      Round,
#else
      nullptr,
#endif
      {Moments<float>, Moments<BFloat16>, Moments<Float16>},
      {Normalize<float>, Normalize<BFloat16>, Normalize<Float16>},
      {NormSums<float>, NormSums<BFloat16>, NormSums<Float16>},
      {NormGrad<float>, NormGrad<BFloat16>, NormGrad<Float16>},
  };
  return table;
}

}  // namespace dwsconv
