// The pointwise half of a block: Z times packed panels of P to Y. Part of a kernel's translation unit: include after a
// step_<kind>.h.
#ifndef DWSCONV_CPU_KERNELS_POINTWISE_BODY_H_
#define DWSCONV_CPU_KERNELS_POINTWISE_BODY_H_

#include "cc/cpu/kernels/kernel_table.h"
#include "cc/cpu/kernels/multiply_tile.h"
#include "cc/cpu/kernels/pointwise_tile_body.h"

namespace dwsconv {
namespace {

// Whether the sums go to Y as they are and the activation follows in Y, some rows at a time: for a tile's few numbers
// alone, what is around an activation that is no clamp takes as long as it does.
inline bool ActivatesInY(const PointwiseArgs& a) {
  if constexpr (!kSameType<ZType, float>) return false;
  return a.dtype == kZType && !IsClamp(a.activation.kind) && a.activation.kind != ActivationKind::kPRelu &&
         a.residual == nullptr && !a.stream && a.pixels > 1 &&
         (a.k_end - a.k_begin == a.y_step || (a.k_end - a.k_begin) % kV == 0);
}

// Pixels [pixel, pixel + pixels), output channels [k_begin, k_end).
void ActivateY(const PointwiseArgs& a, int64_t pixel, int64_t pixels, const Activation& activation) {
  if constexpr (kSameType<ZType, float>) {
    float* y = static_cast<float*>(a.y) + pixel * a.y_step + a.k_begin;
    const int64_t channels = a.k_end - a.k_begin;
    if (channels == a.y_step) {
      const int64_t n = pixels * channels, left = n % kV;
      ActivateRow(y, n - left, activation);
      if (left == 0) return;
      float last[kV];
      Store(last, LoadN(y + n - left, left));
      ActivateRow(last, kV, activation);
      return StoreN(y + n - left, Load(last), left);
    }
    for (int64_t i = 0; i < pixels; ++i, y += a.y_step) ActivateRow(y, channels, activation);
  }
}

// Small tiles, for sums of few terms: a core computes the sums of one while it stores those of the one before, which of
// large tiles it does not. `groups` of kRows pixels by the panels of channels [end.k, k_end), of each of which kVectors
// vectors are wanted, with kHalf half of the last one.
template <bool kClamp, bool kHalf, int kRows, int kVectors>
__attribute__((noinline)) void SmallTiles(const PointwiseArgs& a, const TileEnd& end, const ZType* z, int64_t pixel,
                                          int64_t groups, int64_t k_end, Fetch* fetch) {
  const int64_t step = PanelStep(a.cm), run = end.run;
  const Clamp clamp = end.clamp;
  for (; groups > 0; --groups, z += kRows * a.z_stride, pixel += kRows) {
    if (fetch->from < fetch->end) FetchBurst(fetch);
#pragma GCC unroll 1
    for (int64_t k = end.k; k < k_end; k += kTileChannels) {
      Vec acc[kRows][kVectors];
      SumTile<kHalf, kUnrolledSmallSteps>(a, a.bias + k, run, z, static_cast<const ZType*>(a.panels) + k * step, acc,
                                          nullptr);
      StoreWholeTile<false, kClamp, kHalf>(a, clamp, acc, pixel, k);
    }
  }
}

// Pixels of a group given at run time to the tiles compiled for that many.
template <int kRows, int kVectors, bool kHalf>
inline void SmallTilesOfRows(int64_t rows, const PointwiseArgs& a, const TileEnd& end, const ZType* z, int64_t pixel,
                             int64_t groups, int64_t k_end, Fetch* fetch) {
  if constexpr (kRows > kLeastSmallPixels) {
    if (rows < kRows) return SmallTilesOfRows<kRows - 1, kVectors, kHalf>(rows, a, end, z, pixel, groups, k_end, fetch);
  }
  a.activation.kind == ActivationKind::kNone
      ? SmallTiles<false, kHalf, kRows, kVectors>(a, end, z, pixel, groups, k_end, fetch)
      : SmallTiles<true, kHalf, kRows, kVectors>(a, end, z, pixel, groups, k_end, fetch);
}

// Lines of pixels in groups of nearly equal size: 49 pixels are 13 + 12 + 12 + 12, not 3 x 14 and a slow tail of 7.
struct Groups {
  int64_t line_pixels, lines, in_line, rows, larger;  // `larger` groups, the first ones, have rows + 1 pixels

  Groups(const PointwiseArgs& a, int64_t most)
      : line_pixels(a.line_pixels > 0 ? a.line_pixels : a.pixels),
        lines(a.pixels / line_pixels),
        in_line(CeilDiv(line_pixels, most)),
        rows(line_pixels / in_line),
        larger(line_pixels % in_line) {}
  int64_t First(int64_t g) const { return g * rows + Min(g, larger); }  // pixel of a line
};

// Whether small tiles of up to `most` pixels are faster, and can be: not for lines that would make them smaller still.
inline bool InSmallTiles(const PointwiseArgs& a, int64_t most) {
  return a.cm <= kMostSmallTerms && a.dtype == kZType && !a.stream && a.residual == nullptr &&
         IsClamp(a.activation.kind) && Groups(a, most).rows >= kLeastSmallPixels;
}

inline const ZType* LineOfZ(const PointwiseArgs& a, int64_t line) {
  return static_cast<const ZType*>(a.z) + line * a.z_line_step;
}

template <int kPixels, int kVectors, bool kHalf>
void SmallTilesOfLine(const PointwiseArgs& a, const Groups& groups, const TileEnd& end, int64_t line, int64_t k_end,
                      Fetch* fetch) {
  const ZType* const z = LineOfZ(a, line);
  const int64_t first = line * groups.line_pixels;
  const int64_t others = groups.in_line - groups.larger, in = groups.First(groups.larger);
  if (groups.larger > 0) {
    SmallTilesOfRows<kPixels, kVectors, kHalf>(groups.rows + 1, a, end, z, first, groups.larger, k_end, fetch);
  }
  SmallTilesOfRows<kPixels, kVectors, kHalf>(groups.rows, a, end, z + in * a.z_stride, first + in, others, k_end,
                                             fetch);
}

// Channels that are whole halves of vectors.
template <int kPixels>
void PointwiseInSmallTiles(const PointwiseArgs& a) {
  const Groups groups(a, kPixels);
  const int64_t channels = a.k_end - a.k_begin, whole_end = a.k_begin + channels / kTileChannels * kTileChannels;
  const int64_t step = PanelStep(a.cm), panel_bytes = step * kTileChannels * static_cast<int64_t>(sizeof(ZType));
  // As many panels as stay in L1 while all pixels pass by.
  const int64_t part = Max(1, kNearBytes / panel_bytes) * kTileChannels, tiles = groups.lines * groups.in_line;
  Fetch ahead(a.ahead, a.ahead_bytes, tiles * CeilDiv(channels, part), 1), next;
  TileEnd end;
  end.clamp = MakeClamp(a.activation);
  end.run = a.cm / a.z_rows;
  for (int64_t k = a.k_begin; k < a.k_end; k += part) {
    const int64_t k_end = Min(k + part, a.k_end), k_whole = Min(k_end, whole_end);
    if (k_end < a.k_end) {
      const ZType* const from = static_cast<const ZType*>(a.panels) + k_end * step;
      next = Fetch(reinterpret_cast<const char*>(from), panel_bytes * (part / kTileChannels), tiles, 1);
    }
    for (int64_t line = 0; line < groups.lines; ++line) {
      Fetch* const fetch = next.from < next.end ? &next : &ahead;
      end.k = k;
      SmallTilesOfLine<kPixels, kTileVectors, false>(a, groups, end, line, k_whole, fetch);
      end.k = k_whole;
      const auto rest = [&](auto tiles) { tiles(a, groups, end, line, k_end, fetch); };
      switch ((k_end - k_whole) / (kV / 2)) {
        case 1:
          rest(SmallTilesOfLine<kPixels, 1, true>);
          break;
        case 2:
          rest(SmallTilesOfLine<kPixels, 1, false>);
          break;
        case 3:
          rest(SmallTilesOfLine<kPixels, kTileVectors, true>);
          break;
      }
    }
  }
}

// A single vector of channels. `late` is an activation that follows in Y, or null.
template <int kPixels>
void PointwiseInVectors(const PointwiseArgs& a, const Activation* late) {
  const Groups groups(a, kPixels);
  Fetch ahead(a.ahead, a.ahead_bytes, groups.lines * groups.in_line, 1);
  TileEnd end;
  end.clamp = MakeClamp(a.activation);
  end.run = a.cm / a.z_rows;
  end.k = a.k_begin;
  for (int64_t line = 0; line < groups.lines; ++line) {
    SmallTilesOfLine<kPixels, 1, false>(a, groups, end, line, a.k_end, &ahead);
    if (late) ActivateY(a, line * groups.line_pixels, groups.line_pixels, *late);
  }
}

// Any channels.
void PointwiseInLargeTiles(const PointwiseArgs& a, const Activation* late) {
  const Groups groups(a, kTilePixels);
  const int64_t tiles = groups.lines * groups.in_line;
  // The tiles read nothing from far away, so memory is idle meanwhile: spread the fetching of what comes next over
  // them.
  const int64_t panels = CeilDiv(a.k_end - a.k_begin, kTileChannels);
  const bool near = a.cm * (a.k_end - a.k_begin) * static_cast<int64_t>(sizeof(ZType)) <= kNearBytes;
  // Tiles in which the next panel comes, and those in which what the caller reads next does.
  const int64_t panel_tiles = near || panels == 1 ? 0 : CeilDiv(tiles, 2);
  const int64_t ahead_tiles = tiles > panel_tiles ? (tiles - panel_tiles) * panels : 1;
  const int64_t panel_step = PanelStep(a.cm);
  Fetch ahead(a.ahead, a.ahead_bytes, ahead_tiles, a.cm), next;
  TileEnd end;
  end.clamp = MakeClamp(a.activation);
  end.run = a.cm / a.z_rows;
  const auto tile = [&](int64_t line, int64_t g, int64_t k) {
    const int64_t in = groups.First(g), rows = groups.rows + (g < groups.larger ? 1 : 0);
    const int64_t pixel = line * groups.line_pixels + in;
    const ZType* z = LineOfZ(a, line) + in * a.z_stride;
    const ZType* panel = static_cast<const ZType*>(a.panels) + k * panel_step;
    Fetch* const fetch = next.from < next.end ? &next : &ahead;
    end.k = k;
    end.lanes = Min(kTileChannels, a.k_end - k);
    end.bias = a.bias + k;
    const bool half = kHalves && (end.lanes - 1) % kV < kV / 2;
    if (end.lanes > kV) {
      half ? TileOfRows<kHalves, kTilePixels, kTileVectors>(rows, a, end, z, panel, pixel, fetch)
           : TileOfRows<false, kTilePixels, kTileVectors>(rows, a, end, z, panel, pixel, fetch);
    } else {
      half ? TileOfRows<kHalves, kTilePixels, 1>(rows, a, end, z, panel, pixel, fetch)
           : TileOfRows<false, kTilePixels, 1>(rows, a, end, z, panel, pixel, fetch);
    }
  };
  if (a.pixels == 1 && a.z_rows == 1) {
    constexpr int64_t kWide = kRowPanels * kTileChannels;
    int64_t k = a.k_begin;
    end.lanes = kTileChannels;
    for (; k + kWide <= a.k_end; k += kWide) {
      end.k = k;
      end.bias = a.bias + k;
      RowTile(a, end);
    }
    for (; k < a.k_end; k += kTileChannels) tile(0, 0, k);
    if (a.stream) StreamFence();
    return;
  }
  // A small filter stays in L1 whole: take each group of pixels through all of it, so that Z is read once and Y's rows
  // are written from end to end. Otherwise a panel stays near while all the block's pixels pass by.
  if (near) {
    for (int64_t line = 0; line < groups.lines; ++line) {
      for (int64_t g = 0; g < groups.in_line; ++g) {
        for (int64_t k = a.k_begin; k < a.k_end; k += kTileChannels) tile(line, g, k);
        const int64_t in = groups.First(g);
        if (late) ActivateY(a, line * groups.line_pixels + in, groups.First(g + 1) - in, *late);
      }
    }
  } else {
    for (int64_t k = a.k_begin; k < a.k_end; k += kTileChannels) {
      if (k + kTileChannels < a.k_end) {
        const int64_t bytes = panel_step * kTileChannels * static_cast<int64_t>(sizeof(ZType));
        const char* const from =
            reinterpret_cast<const char*>(static_cast<const ZType*>(a.panels) + (k + kTileChannels) * panel_step);
        next = Fetch(from, bytes, panel_tiles, a.cm);
      }
      for (int64_t line = 0; line < groups.lines; ++line) {
        for (int64_t g = 0; g < groups.in_line; ++g) tile(line, g, k);
      }
    }
    if (late) ActivateY(a, 0, a.pixels, *late);
  }
  if (a.stream) StreamFence();
}

void Pointwise(const PointwiseArgs& given) {
  PointwiseArgs a = given;
  const Activation* late = nullptr;
  if (ActivatesInY(given)) {
    a.activation.kind = ActivationKind::kNone;
    late = &given.activation;
  }
  if constexpr (kSmallPixels > 0) {
    const int64_t channels = a.k_end - a.k_begin, left = channels % kTileChannels;
    if (channels == kV && InSmallTiles(a, kTilePixels)) return PointwiseInVectors<kTilePixels>(a, late);
    const bool halves = left % (kV / 2) == 0;
    if ((channels > left || (left > kV && halves)) && late == nullptr && InSmallTiles(a, kSmallPixels)) {
      PointwiseArgs part = a;
      if (!halves) part.k_end -= left;
      PointwiseInSmallTiles<kSmallPixels>(part);
      if (part.k_end == a.k_end) return;
      a.k_begin = part.k_end;
      a.ahead_bytes = 0;
    }
  }
  PointwiseInLargeTiles(a, late);
}

}  // namespace
}  // namespace dwsconv

#endif  // DWSCONV_CPU_KERNELS_POINTWISE_BODY_H_
