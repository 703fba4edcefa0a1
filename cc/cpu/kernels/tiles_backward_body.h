// The products of the backward pass by tile registers: the gradients of Z and of the pointwise filter. Part of
// tiles_kernels.cc: include after tiles_product_body.h.
#ifndef DWSCONV_CPU_KERNELS_TILES_BACKWARD_BODY_H_
#define DWSCONV_CPU_KERNELS_TILES_BACKWARD_BODY_H_

#include <cstdint>
#include <cstring>

#include "cc/cpu/kernels/tiles_table.h"

namespace dwsconv {
namespace {

// Rows of G hold zeros from K to their end, which is a whole number of tiles: so no tail of the sum is copied.
void Multiply(const MultiplyArgs& a) {
  PointwiseArgs product = {};
  product.z = a.g;
  product.z_stride = a.g_pixel;
  product.z_padded = true;
  product.pixels = a.pixels;
  product.cm = a.K;
  product.panels = a.panels;
  product.k_end = a.columns;
  product.ahead = a.ahead.from;
  product.ahead_bytes = a.ahead.bytes;
  const auto end = [&](const TileEnd& tile, const float* sums, int64_t rows, int64_t pixel) {
    for (; rows > 0; --rows, ++pixel, sums += kTilesChannels) {
      float* const to = a.to + pixel / a.row_pixels * a.to_row + pixel % a.row_pixels * a.to_pixel + tile.k;
      for (int64_t i = 0; i < tile.lanes; i += kV) Store(to + i, Load(sums + i));  // columns are whole vectors
    }
  };
  TileProduct(product, end).Run();
}

constexpr int64_t kPairs = 16;  // of pixels: what a tile's row holds
constexpr int64_t kColumns = 16;

// Rows of 16 numbers of 32 bits: the compiler's own vectors, of whichever width the instruction set has.
typedef uint32_t Row __attribute__((vector_size(64)));

// Lanes for one step of the turning: of two rows `kApart` apart, those of the first result, or of the second.
template <uint32_t kApart>
constexpr uint32_t FirstLane(uint32_t lane) {
  return (lane & kApart) != 0 ? 16 + lane - kApart : lane;
}
template <uint32_t kApart>
constexpr uint32_t SecondLane(uint32_t lane) {
  return (lane & kApart) != 0 ? 16 + lane : lane + kApart;
}

template <uint32_t kApart>
inline __attribute__((always_inline)) void TurnStep(Row (&rows)[16]) {
#define DWSCONV_LANES(f) \
  Row { f(0), f(1), f(2), f(3), f(4), f(5), f(6), f(7), f(8), f(9), f(10), f(11), f(12), f(13), f(14), f(15) }
  const Row first = DWSCONV_LANES(FirstLane<kApart>), second = DWSCONV_LANES(SecondLane<kApart>);
#undef DWSCONV_LANES
#pragma GCC unroll 16
  for (uint32_t i = 0; i < 16; ++i) {
    if ((i & kApart) != 0) continue;
    const Row a = rows[i], b = rows[i + kApart];
    rows[i] = __builtin_shuffle(a, b, first);
    rows[i + kApart] = __builtin_shuffle(a, b, second);
  }
}

// 16 columns of Z, whose pairs of pixels lie `z_step` apart, as rows of 16 pairs; zeros after the last of `pairs`.
void TurnPairs(const BFloat16* z, int64_t z_step, int64_t pairs, uint32_t* to) {
  Row rows[16];
  for (int64_t i = 0; i < kPairs; ++i) {
    rows[i] = Row{};
    if (i < pairs) memcpy(&rows[i], z + i * z_step, sizeof(Row));
  }
  TurnStep<1>(rows);
  TurnStep<2>(rows);
  TurnStep<4>(rows);
  TurnStep<8>(rows);
  memcpy(to, rows, sizeof(rows));
}

// dP of 32 pixels at a time: 16 columns of Z, turned, times all of G. A run of columns is turned once for all of K.
class OuterTiles {
 public:
  explicit OuterTiles(const OuterArgs& a) : a_(a), tiles_(Tiles::kRows) {}

  void Run() {
    const int64_t pairs = CeilDiv(a_.pixels, 2);
    const int64_t steps = CeilDiv(pairs, kPairs) * CeilDiv(a_.columns, kColumns) * (a_.padded_K / kTilesChannels);
    burst_ = CeilDiv(CeilDiv(a_.ahead.bytes, kLineBytes), Max(steps, 1));
    fetch_ = a_.ahead.from;
    for (int64_t p = 0; p < pairs; p += kPairs * kBlocks) {
      for (int64_t c = 0; c < a_.columns; c += kColumns) Columns(p, Min(pairs - p, kPairs * kBlocks), c);
    }
  }

 private:
  static constexpr int64_t kLineBytes = 64, kBlocks = 8;  // blocks of 32 pixels whose sums stay in registers

  const BFloat16* G(int64_t pair, int64_t k) const {
    return static_cast<const BFloat16*>(a_.g) + pair * a_.g_step + 2 * k;
  }

  void Columns(int64_t first, int64_t pairs, int64_t c) {
    const int64_t blocks = CeilDiv(pairs, kPairs);
    for (int64_t b = 0; b < blocks; ++b) {
      const BFloat16* const z = static_cast<const BFloat16*>(a_.z) + (first + b * kPairs) * a_.z_step + 2 * c;
      TurnPairs(z, a_.z_step, pairs - b * kPairs, turned_[b]);
    }
    const bool begins = a_.first && first == 0;
    for (int64_t k = 0; k < a_.padded_K; k += kTilesChannels) {
      float* const sums = a_.sums + k * a_.columns + c * kTilesChannels;
      if (begins) {
        tiles_.Zero<0>();
        tiles_.Zero<1>();
      } else {
        tiles_.Load<0>(sums, kSumsRow);
        tiles_.Load<1>(sums + Tiles::kRows, kSumsRow);
      }
      for (int64_t b = 0; b < blocks; ++b) {
        const int64_t pair = first + b * kPairs;
        pairs - b* kPairs < kPairs ? Last(turned_[b], pair, pairs - b * kPairs, k)
                                   : Step(turned_[b], G(pair, k), a_.g_step * kBytes);
        for (int64_t i = 0; i < burst_ && fetch_ < a_.ahead.from + a_.ahead.bytes; ++i, fetch_ += kLineBytes) {
          __builtin_prefetch(fetch_, 0, 2);
        }
      }
      tiles_.Store<0>(sums, kSumsRow);
      tiles_.Store<1>(sums + Tiles::kRows, kSumsRow);
    }
  }

  void Step(const uint32_t* turned, const BFloat16* g, int64_t g_bytes) {
    tiles_.Load<4>(turned, Tiles::kRowBytes);
    tiles_.Load<6>(g, g_bytes);
    tiles_.MultiplyAdd<0, 4, 6>();
    tiles_.Load<7>(g + 2 * Tiles::kRows, g_bytes);
    tiles_.MultiplyAdd<1, 4, 7>();
  }

  // The last pairs, of which there are too few for a tile: those after them are nobody's, and zero times NaN is NaN.
  void Last(const uint32_t* turned, int64_t pair, int64_t pairs, int64_t k) {
    memset(last_, 0, sizeof(last_));
    for (int64_t i = 0; i < pairs; ++i) memcpy(last_[i], G(pair + i, k), sizeof(last_[i]));
    Step(turned, last_[0], sizeof(last_[0]));
  }

  static constexpr int64_t kBytes = sizeof(BFloat16), kSumsRow = kTilesChannels * static_cast<int64_t>(sizeof(float));

  const OuterArgs& a_;
  Tiles tiles_;
  const char* fetch_ = nullptr;
  int64_t burst_ = 0;
  alignas(64) uint32_t turned_[kBlocks][kColumns * kPairs];
  alignas(64) BFloat16 last_[kPairs][2 * kTilesChannels];
};

void Outer(const OuterArgs& a) { OuterTiles(a).Run(); }

// to[2 * i] and to[2 * i + 1] = x[i] and y[i], rounded: what round_body.h wants of the vectors.
inline void StorePairs(BFloat16* to, Vec x, Vec y) {
  BFloat16 even[kV], odd[kV];
  Store(even, x);
  Store(odd, y);
  for (int i = 0; i < kV; ++i) {
    to[2 * i] = even[i];
    to[2 * i + 1] = odd[i];
  }
}

}  // namespace
}  // namespace dwsconv

#endif  // DWSCONV_CPU_KERNELS_TILES_BACKWARD_BODY_H_
