// Whether this process may use the tile registers of AMX. CPUs and hypervisors may show the flag and lack the feature,
// and Linux gives the registers only to those who ask: without an answer of yes nobody may touch them.
#ifndef DWSCONV_CORE_TILE_PERMISSION_H_
#define DWSCONV_CORE_TILE_PERMISSION_H_

#include <cstdint>
#include <string>

namespace dwsconv {

struct TileSystem {
  bool tiles = false, bf16 = false;     // what CPUID says: AMX-TILE, AMX-BF16
  uint64_t saved = 0;                   // XCR0: the registers that the system saves
  int (*request)(int state) = nullptr;  // asks for a state of the registers: 0, or errno
};

// What CPU and system say. Asks for nothing yet.
TileSystem ThisTileSystem();

// Asks for the tiles where CPU and system have them. "" where they may be used, else why not.
std::string AskForTiles(const TileSystem& system);

}  // namespace dwsconv

#endif  // DWSCONV_CORE_TILE_PERMISSION_H_
