// The eight tile registers of AMX. In assembly, as g++ 12's intrinsics take no register number out of a template, and
// do not tell the compiler that a tile store writes memory. Whoever makes one has asked for the tiles
// (cc/core/tile_permission.h).
#ifndef DWSCONV_CPU_KERNELS_TILES_AMX_H_
#define DWSCONV_CPU_KERNELS_TILES_AMX_H_

#include <cstdint>

namespace dwsconv {
namespace {

// Registers 0 to 5 have `rows` rows, 6 and 7 all 16; a row has 64 bytes. The thread has the registers while this lives,
// which costs a few cycles, and keeps nothing of them: a thread with tiles in use takes the system longer to switch.
class Tiles {
 public:
  static constexpr int kRows = 16, kRowBytes = 64;

  explicit Tiles(int rows) {
    struct alignas(64) {
      uint8_t palette, start_row, reserved[14];
      uint16_t row_bytes[16];
      uint8_t rows[16];
    } config = {};
    config.palette = 1;
    for (int i = 0; i < 8; ++i) {
      config.row_bytes[i] = kRowBytes;
      config.rows[i] = static_cast<uint8_t>(i < 6 ? rows : kRows);
    }
    asm volatile("ldtilecfg %0" : : "m"(config));
  }
  ~Tiles() { asm volatile("tilerelease" : : : "memory"); }
  Tiles(const Tiles&) = delete;
  Tiles& operator=(const Tiles&) = delete;

  template <int kTile>
  void Zero() {
    asm volatile("tilezero %%tmm%c0" : : "i"(kTile));
  }
  template <int kTile>
  void Load(const void* from, int64_t stride) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(from), "r"(stride), "i"(kTile) : "memory");
  }
  template <int kTile>
  void LoadOnce(const void* from, int64_t stride) {
    asm volatile("tileloaddt1 (%0,%1,1), %%tmm%c2" : : "r"(from), "r"(stride), "i"(kTile) : "memory");
  }
  template <int kTile>
  void Store(void* to, int64_t stride) const {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(to), "r"(stride), "i"(kTile) : "memory");
  }
  template <int kSum, int kA, int kB>
  void MultiplyAdd() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kSum), "i"(kA), "i"(kB));
  }
};

}  // namespace
}  // namespace dwsconv

#endif  // DWSCONV_CPU_KERNELS_TILES_AMX_H_
