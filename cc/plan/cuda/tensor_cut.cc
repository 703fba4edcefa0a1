#include "cc/plan/cuda/tensor_cut.h"

#include <algorithm>
#include <limits>

#include "cc/plan/cuda/planner.h"

namespace dwsconv {

bool HasTensorDepthwise(const Chain& p, int capability) {
  return capability >= 80 && p.dtype != DType::kFloat32 && HasFastWindow(p) && p.R < 7 && p.C % 8 == 0 &&
         (p.stride_h == 1 || p.R == 5);
}

namespace {

// All but segments; tiles are 0 where there are too many.
TensorCut CutColumns(const Chain& p, int64_t columns) {
  TensorCut cut;
  const int64_t column_tiles = CeilDiv(columns, 8), tiles = p.N * column_tiles, groups = CeilDiv(p.C, 16);
  cut.warps_log2 = groups == 1 ? 0 : groups == 2 ? 1 : 2;
  const int64_t pairs = CeilDiv(tiles, 2), channel_blocks = CeilDiv(groups, 1 << cut.warps_log2);
  const int64_t blocks = CeilDiv(pairs, cut.block_pairs()) * channel_blocks;
  if (tiles > kMostItems || blocks > kMostItems) return cut;
  cut.channel_blocks = static_cast<int>(channel_blocks);
  cut.column_tiles = static_cast<int>(column_tiles);
  cut.tiles = static_cast<int>(tiles);
  cut.pairs = static_cast<int>(pairs);
  cut.blocks = static_cast<int>(blocks);
  return cut;
}

}  // namespace

TensorCut CutTensor(const Chain& p, int64_t rows, int64_t columns, int multiprocessors) {
  TensorCut cut = CutColumns(p, columns);
  if (cut.tiles == 0) return cut;
  // A multiprocessor has room for three to five blocks. A segment takes a few rows' time before its first one.
  const double slots = 4. * std::max(1, multiprocessors);
  double least = std::numeric_limits<double>::infinity();
  for (int64_t count = 1; count <= std::min<int64_t>(rows, 32); ++count) {
    const int64_t some = CeilDiv(rows, count), used = CeilDiv(rows, some);
    const double turns = std::max(1., Real(cut.blocks * used) / slots + 0.3);
    const double steps = turns * Real(some * p.stride_h + p.R - p.stride_h + 4);
    if (steps >= least || cut.blocks * used > kMostItems) continue;
    least = steps;
    cut.segment_rows = static_cast<int>(some);
    cut.segments = static_cast<int>(used);
  }
  cut.items = cut.blocks * cut.segments;
  return cut;
}

TensorCut CutTensorFilter(const Chain& p) {
  TensorCut cut = CutColumns(p, p.Wo);
  cut.segment_rows = static_cast<int>(p.Ho);
  cut.segments = 1;
  return cut;
}

}  // namespace dwsconv
