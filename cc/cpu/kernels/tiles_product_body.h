// Products by tile registers: rows of bfloat16 times packed panels to sums of float, and whatever ends them. Part of
// tiles_kernels.cc.
//
// A register tile is 32 pixels by 32 output channels: two tiles of Z by two of P, in registers 4 and 5, 6 and 7, to
// sums in 0 to 3. A tile instruction slows 512-bit multiply-adds down for half a microsecond, so the depthwise half of
// a block is over when this begins. A tile store holds up the tile instructions behind it, and what ends a tile's sums
// (bias, residual, activation, rounding) needs no tiles: so that is done a few rows at a time while the next tile is
// summed. Where it takes many operations, all of which the tile instructions would slow down, some tiles are summed
// before any of them is ended.
#ifndef DWSCONV_CPU_KERNELS_TILES_PRODUCT_BODY_H_
#define DWSCONV_CPU_KERNELS_TILES_PRODUCT_BODY_H_

#include <cstdint>

#include "cc/cpu/kernels/tiles_table.h"

namespace dwsconv {
namespace {

inline int64_t Min(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t Max(int64_t a, int64_t b) { return a > b ? a : b; }

constexpr int64_t kPanelRow = 2 * kTilesChannels * static_cast<int64_t>(sizeof(BFloat16));  // bytes of a pair of rows
// What comes by once for each tile of the other, and shall not push that out of L1. From so many channels on a panel
// stays, below it Z does; panels that fit into L1 beside it all stay.
enum class Once { kNothing, kPanels, kZ };
constexpr int64_t kKeepPanel = 512;
// Tiles that are summed before they are ended apart: 32 KB of sums.
constexpr int kTilesApart = 8;
constexpr int64_t kTailPixels = 512;  // pixels whose last channels are copied at once: 32 KB

// Sums that wait for their end: rows [row, 32) of a register tile.
struct TileEnd {
  float* sums = nullptr;  // [32][kTilesChannels]
  int64_t row = kTilesPixels, rows = kTilesPixels;
  int64_t pixel[2] = {};  // of rows 0 and 16
  int64_t skip[2] = {};   // rows of either half that another tile has
  int64_t k = 0, lanes = 0;
};

// The product that a PointwiseArgs describes. end(tile, sums, rows, pixel) takes `rows` rows of the sums of a tile, of
// pixels from `pixel` on; with `apart` while no tile is summed.
template <typename End>
class TileProduct {
 public:
  TileProduct(const PointwiseArgs& a, const End& end, bool apart = false)
      : a_(a),
        end_(end),
        apart_(apart),
        tiles_(static_cast<int>(Min(a.pixels, Tiles::kRows))),
        steps_(a.z_padded ? CeilDiv(a.cm, kTilesDepth) : a.cm / kTilesDepth),
        rest_(a.z_padded ? 0 : a.cm % kTilesDepth),
        panel_elements_(CeilDiv(a.cm, kTilesDepth) * kTilesDepth * kTilesChannels) {
    // What the caller reads next, in equal parts over the steps of all tiles: they read nothing from far away.
    const int64_t tiles = CeilDiv(a.pixels, kTilesPixels) * CeilDiv(a.k_end - a.k_begin, kTilesChannels);
    fetch_ = a.ahead;
    fetch_end_ = a.ahead + a.ahead_bytes;
    burst_ = CeilDiv(CeilDiv(a.ahead_bytes, kLineBytes), tiles * CeilDiv(a.cm, kTilesDepth));
  }

  void Run() {
    // Runs of nearly equal length, so that none is shorter than a tile.
    const int64_t runs = rest_ > 0 ? CeilDiv(a_.pixels, kTailPixels) : 1;
    for (int64_t r = 0; r < runs; ++r) {
      first_ = r * a_.pixels / runs;
      pixels_ = (r + 1) * a_.pixels / runs - first_;
      if (rest_ > 0) CopyTails();
      if (a_.cm >= kKeepPanel) {
        Tiled<Once::kZ>();
      } else if (a_.cm * (a_.k_end - a_.k_begin) * static_cast<int64_t>(sizeof(BFloat16)) > kNearBytes) {
        Tiled<Once::kPanels>();
      } else {
        Tiled<Once::kNothing>();
      }
    }
    FinishAll();
  }

 private:
  static constexpr int64_t kLineBytes = 64;

  const BFloat16* Z(int64_t pixel) const { return static_cast<const BFloat16*>(a_.z) + (first_ + pixel) * a_.z_stride; }

  // The last channels of each pixel, with zeros after them: what follows them in Z is another pixel's or nobody's, and
  // zero times NaN is NaN.
  void CopyTails() {
    // For all the compiler knows, storing tails might change the members.
    const BFloat16* from = Z(0) + steps_ * kTilesDepth;
    const int64_t rest = rest_, stride = a_.z_stride;
    BFloat16* to = tails_;
    for (int64_t i = pixels_; i > 0; --i, from += stride, to += kTilesDepth) CopyPadded(from, rest, kTilesDepth, to);
  }

  template <Once kOnce>
  void Tiled() {
    const int64_t groups = CeilDiv(pixels_, kTilesPixels);
    if constexpr (kOnce == Once::kZ) {
      for (int64_t k = a_.k_begin; k < a_.k_end; k += kTilesChannels) {
        for (int64_t g = 0; g < groups; ++g) Group<kOnce>(g * kTilesPixels, k);
      }
    } else {
      for (int64_t g = 0; g < groups; ++g) {
        for (int64_t k = a_.k_begin; k < a_.k_end; k += kTilesChannels) Group<kOnce>(g * kTilesPixels, k);
      }
    }
  }

  // Pixels [pixel, pixel + 32) and channels [k, k + 32), as far as they go. A tile that would end past the last pixel
  // begins earlier instead: nothing past Z is read, and what it computes again is not stored again.
  template <Once kOnce>
  void Group(int64_t pixel, int64_t k) {
    TileEnd end;
    end.sums = sums_[turn_];
    end.k = k;
    end.lanes = Min(kTilesChannels, a_.k_end - k);
    const bool below = pixels_ - pixel > Tiles::kRows;
    end.rows = below ? kTilesPixels : Min(pixels_, Tiles::kRows);
    for (int half = 0; half < 2; ++half) {
      const int64_t wanted = pixel + half * Tiles::kRows;
      end.pixel[half] = Max(0, Min(wanted, pixels_ - Tiles::kRows));
      end.skip[half] = wanted - end.pixel[half];
    }
    const TileEnd& before = waiting_[0];
    rows_each_step_ = apart_ ? 0 : CeilDiv(before.rows - before.row, CeilDiv(a_.cm, kTilesDepth));
    const BFloat16* const panel = static_cast<const BFloat16*>(a_.panels) + k / kTilesChannels * panel_elements_;
    if (end.lanes > Tiles::kRows) {
      below ? Sum<true, true, kOnce>(end, panel) : Sum<false, true, kOnce>(end, panel);
    } else {
      below ? Sum<true, false, kOnce>(end, panel) : Sum<false, false, kOnce>(end, panel);
    }
    if (!apart_) FinishAll();
    end.pixel[0] += first_;
    end.pixel[1] += first_;
    end.row = end.skip[0];
    waiting_[count_++] = end;
    turn_ = turn_ == (apart_ ? kTilesApart : 2) - 1 ? 0 : turn_ + 1;
    if (apart_ && count_ == kTilesApart) FinishAll();
  }

  template <bool kRows, bool kColumns, Once kOnce>
  void Sum(const TileEnd& end, const BFloat16* panel) {
    tiles_.Zero<0>();
    if (kColumns) tiles_.Zero<1>();
    if (kRows) tiles_.Zero<2>();
    if (kRows && kColumns) tiles_.Zero<3>();
    const BFloat16 *z0 = Z(end.pixel[0]), *z1 = Z(end.pixel[1]);
    const int64_t z_bytes = a_.z_stride * static_cast<int64_t>(sizeof(BFloat16));
    for (int64_t i = 0; i < steps_; ++i) {
      Step<kRows, kColumns, kOnce>(z0, z1, z_bytes, panel);
      z0 += kTilesDepth;
      z1 += kTilesDepth;
      panel += kTilesDepth * kTilesChannels;
    }
    if (rest_ > 0) {
      const BFloat16 *t0 = tails_ + end.pixel[0] * kTilesDepth, *t1 = tails_ + end.pixel[1] * kTilesDepth;
      Step<kRows, kColumns, kOnce>(t0, t1, Tiles::kRowBytes, panel);
    }
    constexpr int64_t kSumsRow = kTilesChannels * static_cast<int64_t>(sizeof(float));
    float* const below = end.sums + Tiles::kRows * kTilesChannels;
    tiles_.Store<0>(end.sums, kSumsRow);
    if (kColumns) tiles_.Store<1>(end.sums + Tiles::kRows, kSumsRow);
    if (kRows) tiles_.Store<2>(below, kSumsRow);
    if (kRows && kColumns) tiles_.Store<3>(below + Tiles::kRows, kSumsRow);
  }

  // 32 channels of the sum; meanwhile a part of the tile before is ended, and some lines are fetched.
  template <bool kRows, bool kColumns, Once kOnce>
  void Step(const BFloat16* z0, const BFloat16* z1, int64_t z_bytes, const BFloat16* panel) {
    LoadZ<4, kOnce>(z0, z_bytes);
    LoadPanel<6, kOnce>(panel);
    tiles_.MultiplyAdd<0, 4, 6>();
    if (kColumns) {
      LoadPanel<7, kOnce>(panel + 2 * Tiles::kRows);
      tiles_.MultiplyAdd<1, 4, 7>();
    }
    if (kRows) {
      LoadZ<5, kOnce>(z1, z_bytes);
      tiles_.MultiplyAdd<2, 5, 6>();
      if (kColumns) tiles_.MultiplyAdd<3, 5, 7>();
    }
    if (count_ > 0) Finish(&waiting_[0], rows_each_step_);
    for (int64_t i = 0; i < burst_ && fetch_ < fetch_end_; ++i, fetch_ += kLineBytes) __builtin_prefetch(fetch_, 0, 2);
  }

  template <int kTile, Once kOnce>
  void LoadZ(const BFloat16* z, int64_t z_bytes) {
    kOnce == Once::kZ ? tiles_.LoadOnce<kTile>(z, z_bytes) : tiles_.Load<kTile>(z, z_bytes);
  }
  template <int kTile, Once kOnce>
  void LoadPanel(const BFloat16* panel) {
    kOnce == Once::kPanels ? tiles_.LoadOnce<kTile>(panel, kPanelRow) : tiles_.Load<kTile>(panel, kPanelRow);
  }

  void FinishAll() {
    for (int i = 0; i < count_; ++i) Finish(&waiting_[i], kTilesPixels);
    count_ = 0;
  }

  // At most `count` of the rows that wait, of one half of a tile at a time.
  void Finish(TileEnd* waiting, int64_t count) {
    TileEnd& w = *waiting;
    while (count > 0 && w.row < w.rows) {
      const int half = w.row < Tiles::kRows ? 0 : 1;
      const int64_t last = half == 0 ? Min(w.rows, Tiles::kRows) : w.rows;
      const int64_t rows = Min(count, last - w.row), pixel = w.pixel[half] + w.row - half * Tiles::kRows;
      const float* const sums = w.sums + w.row * kTilesChannels;
      end_(w, sums, rows, pixel);
      w.row += rows;
      count -= rows;
      if (half == 0 && w.row == Tiles::kRows) w.row += w.skip[1];
    }
  }

  const PointwiseArgs& a_;
  const End& end_;
  const bool apart_;
  Tiles tiles_;
  const int64_t steps_, rest_;  // whole steps of the sum in Z; channels of a last one that is not
  const int64_t panel_elements_;
  const char *fetch_, *fetch_end_;
  int64_t burst_;
  int64_t first_ = 0, pixels_ = 0, rows_each_step_ = 0;
  int turn_ = 0, count_ = 0;  // of the next tile; of those that wait
  TileEnd waiting_[kTilesApart];
  alignas(64) float sums_[kTilesApart][kTilesPixels * kTilesChannels];
  alignas(64) BFloat16 tails_[kTailPixels * kTilesDepth];
};

}  // namespace
}  // namespace dwsconv

#endif  // DWSCONV_CPU_KERNELS_TILES_PRODUCT_BODY_H_
