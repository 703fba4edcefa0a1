// The backward pass' kernels of one instruction set: the common bodies over its vectors. Compiled with that set's
// flags. The bodies build on the headers before them, so the order matters.
// clang-format off
#include "cc/cpu/vec_avx512.h"
#include "cc/cpu/activation_body.h"
#include "cc/cpu/backward_table.h"
#include "cc/cpu/derivative_body.h"
#include "cc/cpu/step_bf16.h"
#include "cc/cpu/multiply_tile.h"
#include "cc/cpu/repeat_body.h"
#include "cc/cpu/taps_body.h"
#include "cc/cpu/fold_body.h"
#include "cc/cpu/products_body.h"
#include "cc/cpu/round_body.h"
// clang-format on

namespace dwsconv {

const BackwardTable& BackwardAvx512Bf16() {
  static constexpr BackwardTable table = {
      kTileChannels,
      kZType,
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
      Round,
  };
  return table;
}

}  // namespace dwsconv
