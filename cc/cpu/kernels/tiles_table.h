// The kernels over tile registers: products of bfloat16. One translation unit (tiles_kernels.cc) for each kind of
// register, AMX's and the model's, under the rules of kernel_table.h. targets.cc puts them into whole tables.
#ifndef DWSCONV_CPU_KERNELS_TILES_TABLE_H_
#define DWSCONV_CPU_KERNELS_TILES_TABLE_H_

#include "cc/core/cpu_features.h"
#include "cc/cpu/kernels/backward_table.h"
#include "cc/cpu/kernels/kernel_table.h"

namespace dwsconv {

// Output channels of a panel, and the channels of the sum that a tile's row holds.
constexpr int kTilesChannels = 32, kTilesDepth = 32;
// Pixels of two tiles, one below the other.
constexpr int kTilesPixels = 32;

struct TileKernels {
  void (*pointwise)(const PointwiseArgs& args);       // as KernelTable's, panels of kTilesDepth
  void (*round)(const RowsArgs& rows);                // as KernelTable's
  void (*scale_panels)(const ScalePanelsArgs& args);  // likewise
  // As BackwardTable's, panels of kTilesDepth.
  void (*multiply)(const MultiplyArgs& args);
  void (*outer)(const OuterArgs& args);
  void (*round_factors)(const RoundArgs& args);
};

const TileKernels& TilesAmx();
const TileKernels& TilesModel();

// Those of the registers that this CPU has, or of the model where CpuFeatures says so.
inline const TileKernels& TilesOfThisCpu() {
#if defined(__x86_64__)
  if (GetCpuFeatures().tiles != TileUnit::kModel) return TilesAmx();
#endif
  return TilesModel();
}

}  // namespace dwsconv

#endif  // DWSCONV_CPU_KERNELS_TILES_TABLE_H_
