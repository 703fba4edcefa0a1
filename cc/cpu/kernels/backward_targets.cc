// Apart from targets.cc, so that who has no backward pass (the module for NumPy arrays) does without its kernels.
#include "cc/cpu/kernels/targets.h"
#include "cc/cpu/kernels/tiles_table.h"

namespace dwsconv {
namespace {

constexpr Target<BackwardTable> kTargets[] = {
#define DWSCONV_LIST(name, isa, bf16) {Isa::isa, Bf16::bf16, Backward##name},
    DWSCONV_FOR_TARGETS(DWSCONV_LIST)
#undef DWSCONV_LIST
};

BackwardTable WithTiles(const BackwardTable& vectors) {
  const TileKernels& tiles = TilesOfThisCpu();
  BackwardTable table = vectors;
  table.tile_channels = kTilesChannels;
  table.product_type = DType::kBFloat16;
  table.pair = 2;
  table.depth = kTilesDepth;
  table.multiply = tiles.multiply;
  table.outer = tiles.outer;
  table.round = tiles.round_factors;
#if defined(__x86_64__)
  if (GetCpuFeatures().tiles != TileUnit::kModel) table.round = BackwardAvx512Bf16().round;
#endif
  return table;
}

}  // namespace

const BackwardTable& BackwardKernels(Isa isa, DType dtype) {
  if (isa == Isa::kAmx && dtype == DType::kBFloat16) {
    static const BackwardTable tiles = WithTiles(Choose(kTargets, isa, Bf16Of(dtype, false)));
    return tiles;
  }
  return Choose(kTargets, isa, Bf16Of(dtype, true));
}

}  // namespace dwsconv
