#include "cc/plan/cuda/slide.h"

#include <algorithm>
#include <limits>

#include "cc/plan/cuda/planner.h"

namespace dwsconv {

SlideCut CutSlide(const Chain& p, int words, int64_t rows, int64_t columns, int64_t slots, int64_t extra_rows) {
  SlideCut cut;
  cut.pieces = static_cast<int>(p.C * SizeOf(p.dtype) / 4 / words);
  // Side by side 128 bytes at least, where a pixel has as many.
  const int most_pieces = std::max(32 / words, 8);
  while (cut.group_pieces < most_pieces && cut.group_pieces < cut.pieces) cut.group_pieces *= 2;
  cut.groups = static_cast<int>(CeilDiv(cut.pieces, cut.group_pieces));
  // Columns of one block find what they share in L1.
  cut.column_tiles = static_cast<int>(CeilDiv(columns, kSlideThreads / cut.group_pieces));
  cut.tile_columns = static_cast<int>(CeilDiv(columns, cut.column_tiles));
  // As many segments as end soonest.
  const int64_t strips = p.N * cut.column_tiles * cut.groups, together = std::max<int64_t>(1, slots / cut.threads());
  int64_t least = std::numeric_limits<int64_t>::max();
  for (int64_t count = 1; count <= std::min<int64_t>(rows, 32); ++count) {
    const int64_t some = CeilDiv(rows, count), used = CeilDiv(rows, some);
    const int64_t steps = CeilDiv(strips * used, together) * (some + extra_rows);
    if (steps >= least) continue;
    least = steps;
    cut.segment_rows = static_cast<int>(some);
    cut.segments = static_cast<int>(used);
  }
  return cut;
}

TensorCut CutTensor(const Chain& p, int64_t rows, int64_t columns, int multiprocessors) {
  TensorCut cut;
  const int64_t column_tiles = CeilDiv(columns, 8), tiles = p.N * column_tiles, groups = CeilDiv(p.C, 16);
  const int64_t strips = CeilDiv(tiles, 2) * groups;
  if (strips * rows > kMostSlideItems) return cut;
  cut.groups = static_cast<int>(groups);
  cut.column_tiles = static_cast<int>(column_tiles);
  cut.tiles = static_cast<int>(tiles);
  // A multiprocessor has room for some 20 warps. A segment takes a few rows' time before its first one.
  const double slots = 20. * std::max(1, multiprocessors);
  double least = std::numeric_limits<double>::infinity();
  for (int64_t count = 1; count <= std::min<int64_t>(rows, 32); ++count) {
    const int64_t some = CeilDiv(rows, count), used = CeilDiv(rows, some);
    const double steps =
        std::max(1., Real(strips * used) / slots + 0.3) * Real(some * p.stride_h + p.R - p.stride_h + 4);
    if (steps >= least) continue;
    least = steps;
    cut.segment_rows = static_cast<int>(some);
    cut.segments = static_cast<int>(used);
  }
  cut.items = static_cast<int>(strips * cut.segments);
  return cut;
}

bool SlidesGradients(const Chain& p) {
  return HasFastWindow(p) && p.R < 7 && p.stride_h == 1 && p.C * SizeOf(p.dtype) % 4 == 0 &&
         p.W * p.C * SizeOf(p.dtype) <= kMostRowBytes && p.Wo * p.C * SizeOf(p.dtype) <= kMostRowBytes;
}

int GradientSlideWords(const Chain& p) { return p.R == 3 && p.dtype == DType::kFloat32 && p.C % 2 == 0 ? 2 : 1; }

SlideCut CutGradientSlide(const Chain& p) {
  // By the chain alone: what parts there are of a sum must not depend on the card.
  constexpr int64_t kSlots = 132 * 512;
  return CutSlide(p, GradientSlideWords(p), p.H, p.W, kSlots, p.R + 1);
}

}  // namespace dwsconv
