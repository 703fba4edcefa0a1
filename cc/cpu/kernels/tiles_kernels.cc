// The kernels over tile registers, compiled for each kind of them: DWSCONV_VECTORS and DWSCONV_TILES are headers,
// DWSCONV_TILE_KERNELS the function that gives the table. The bodies build on the headers before them, so the order
// matters.
// clang-format off
#include DWSCONV_VECTORS
#include DWSCONV_TILES
#include "cc/cpu/kernels/activation_body.h"
#include "cc/core/whole.h"
#include "cc/cpu/kernels/tiles_product_body.h"
#include "cc/cpu/kernels/tiles_pointwise_body.h"
#include "cc/cpu/kernels/tiles_backward_body.h"
#include "cc/cpu/kernels/panels_body.h"
#include "cc/cpu/kernels/round_body.h"
// clang-format on

namespace dwsconv {

const TileKernels& DWSCONV_TILE_KERNELS();

const TileKernels& DWSCONV_TILE_KERNELS() {
  static constexpr TileKernels kernels = {Pointwise, RoundRows, ScalePanelsOf<BFloat16, kTilesChannels, 2>,
                                          Multiply,  Outer,     Round};
  return kernels;
}

}  // namespace dwsconv
