// The eight tile registers of AMX in plain C++, for CPUs that lack them: what tiles_amx.h says in instructions. The
// kernels over it are tested everywhere, and have to give the hardware's bits.
#ifndef DWSCONV_CPU_KERNELS_TILES_MODEL_H_
#define DWSCONV_CPU_KERNELS_TILES_MODEL_H_

#include <cstdint>
#include <cstring>

#include "cc/core/half.h"

namespace dwsconv {
namespace {

// Registers 0 to 5 have `rows` rows, 6 and 7 all 16; a row has 64 bytes.
class Tiles {
 public:
  static constexpr int kRows = 16, kRowBytes = 64;

  explicit Tiles(int rows) : rows_(rows) {}

  template <int kTile>
  void Zero() {
    memset(tile_[kTile], 0, sizeof(tile_[kTile]));
  }

  // Rows from memory, `stride` bytes apart; what lies past a tile's rows is not touched.
  template <int kTile>
  void Load(const void* from, int64_t stride) {
    for (int i = 0; i < RowsOf(kTile); ++i) {
      memcpy(tile_[kTile][i], static_cast<const char*>(from) + i * stride, kRowBytes);
    }
  }
  // The same for what is read only once.
  template <int kTile>
  void LoadOnce(const void* from, int64_t stride) {
    Load<kTile>(from, stride);
  }

  template <int kTile>
  void Store(void* to, int64_t stride) const {
    for (int i = 0; i < RowsOf(kTile); ++i) {
      memcpy(static_cast<char*>(to) + i * stride, tile_[kTile][i], kRowBytes);
    }
  }

  // tdpbf16ps: sum[i][j] += sum over k of a[i][2k] b[k][2j] + a[i][2k+1] b[k][2j+1]. As Intel's manual has it: even and
  // odd terms are summed apart from zero on, by fused multiply-adds, and only their total is added to what was there.
  // Whatever is subnormal counts as zero.
  template <int kSum, int kA, int kB>
  void MultiplyAdd() {
    constexpr int kPairs = kRowBytes / 4;
    for (int i = 0; i < RowsOf(kSum); ++i) {
      float even[kPairs] = {}, odd[kPairs] = {};
      for (int k = 0; k < kPairs; ++k) {
        const float a0 = Low(tile_[kA][i][k]), a1 = High(tile_[kA][i][k]);
        for (int j = 0; j < kPairs; ++j) {
          even[j] = Flushed(__builtin_fmaf(a0, Low(tile_[kB][k][j]), even[j]));
          odd[j] = Flushed(__builtin_fmaf(a1, High(tile_[kB][k][j]), odd[j]));
        }
      }
      for (int j = 0; j < kPairs; ++j) {
        float sum;
        memcpy(&sum, &tile_[kSum][i][j], sizeof(sum));
        sum = Flushed(Flushed(sum) + Flushed(even[j] + odd[j]));
        memcpy(&tile_[kSum][i][j], &sum, sizeof(sum));
      }
    }
  }

 private:
  int RowsOf(int tile) const { return tile < 6 ? rows_ : kRows; }

  static float Flushed(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof(bits));
    if ((bits & 0x7f800000u) == 0) bits &= 0x80000000u;
    memcpy(&x, &bits, sizeof(x));
    return x;
  }
  static float Low(uint32_t pair) { return Flushed(ToFloat(BFloat16{static_cast<uint16_t>(pair)})); }
  static float High(uint32_t pair) { return Flushed(ToFloat(BFloat16{static_cast<uint16_t>(pair >> 16)})); }

  int rows_;
  uint32_t tile_[8][kRows][kRowBytes / 4] = {};
};

}  // namespace
}  // namespace dwsconv

#endif  // DWSCONV_CPU_KERNELS_TILES_MODEL_H_
