#include "cc/cpu/kernels/targets.h"

#include "cc/cpu/kernels/tiles_table.h"

namespace dwsconv {
namespace {

constexpr Target<KernelTable> kTargets[] = {
#define DWSCONV_LIST(name, isa, bf16) {Isa::isa, Bf16::bf16, Kernels##name},
    DWSCONV_FOR_TARGETS(DWSCONV_LIST)
#undef DWSCONV_LIST
};

// Nothing needs Z in float: what is between the halves is a clamp, which a store does.
bool Direct(const Chain& chain) { return IsClamp(chain.mid.kind) && !chain.float_between(); }

KernelTable WithTiles(const KernelTable& vectors) {
  const TileKernels& tiles = TilesOfThisCpu();
  KernelTable table = vectors;
  table.tile_pixels = kTilesPixels;
  table.tile_channels = kTilesChannels;
  table.product_type = DType::kBFloat16;
  table.pair = 2;
  table.depth = kTilesDepth;
  table.product_rate = 13;  // 3.0 of 0.23 TFLOP/s (docs/bfloat16.md)
  table.pointwise = tiles.pointwise;
  table.scale_panels = tiles.scale_panels;
  table.round = table.z_type == DType::kBFloat16 ? nullptr : tiles.round;
  return table;
}

constexpr int64_t kFewestTileChannels = 16;

}  // namespace

const KernelTable& TilesTable(bool direct) {
  // The model may stand on vectors that have nothing for bfloat16.
  const bool has_bf16 = GetCpuFeatures().avx512_bf16 || GetCpuFeatures().tiles != TileUnit::kModel;
  static const KernelTable rounded = WithTiles(Choose(kTargets, Isa::kAmx, has_bf16 ? Bf16::kRounds : Bf16::kNothing));
  static const KernelTable whole = WithTiles(Choose(kTargets, Isa::kAmx, has_bf16 ? Bf16::kProducts : Bf16::kNothing));
  return direct ? whole : rounded;
}

const KernelTable& Kernels(Isa isa, const Chain& chain) {
  // A tile has 32 channels. Of a pair with few of them vectors take less: 512x512x3 -> 64 14.9 ms, by tiles 23 to 48.
  const bool few = chain.has_depthwise && chain.E == 0 && chain.CM() < kFewestTileChannels;
  const bool multiplies = (chain.has_project || chain.E > 0) && !few;
  if (isa == Isa::kAmx && chain.dtype == DType::kBFloat16 && multiplies) return TilesTable(Direct(chain));
  return Choose(kTargets, isa, Bf16Of(chain.dtype, Direct(chain)));
}

}  // namespace dwsconv
