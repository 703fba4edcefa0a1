// Which instruction sets this CPU has, and which one the kernels use.
#ifndef DWSCONV_CORE_CPU_FEATURES_H_
#define DWSCONV_CORE_CPU_FEATURES_H_

#include <cstdint>
#include <string>
#include <vector>

namespace dwsconv {

// kAmx: products of bfloat16 by tile registers, all else by the best of the others.
enum class Isa : int { kGeneric = 0, kAvx2 = 1, kAvx512 = 2, kAmx = 3 };
constexpr Isa kIsas[] = {Isa::kGeneric, Isa::kAvx2, Isa::kAvx512, Isa::kAmx};
constexpr int kIsaCount = sizeof(kIsas) / sizeof(kIsas[0]);

// kModel: the tile registers in plain C++, for tests (cc/cpu/kernels/tiles_model.h).
enum class TileUnit : int { kNone = 0, kModel, kAmx };

struct CpuFeatures {
  bool avx2 = false;         // AVX2, FMA and F16C together
  bool avx512 = false;       // F, BW, VL and DQ together, and the operating system saves zmm
  bool avx512_bf16 = false;  // vdpbf16ps
  // Whether products go by vdpbf16ps where the CPU has it; measured, unless a test says.
  enum class Dots { kMeasured = 0, kAlways, kNever } dots = Dots::kMeasured;
  TileUnit tiles = TileUnit::kNone;                   // that this process may use; AMX only beside avx512_bf16
  std::string no_tiles;                               // why there are none
  int64_t l1d_bytes = 0, l2_bytes = 0, l3_bytes = 0;  // of one core; l3 as one core sees it; 0 where unknown
  int cores = 1;                                      // this process may run on
  // Of L3: stores around the caches pay where all that passes through them in a call is more than this share of it
  // (docs/tuning.md), forward and backward. They save reading what is overwritten. Infinite where they never pay.
  double stream_share = 0.5, backward_stream_share = 1;
  // A division of 16 floats takes no longer than the product with an estimated and corrected reciprocal: AMD from
  // Zen 5 on (docs/tuning.md).
  bool fast_division = false;
};

// Probed once. DWSCONV_TEST_MACHINE, for tests, replaces what was found: caches, cores, and the best instruction set,
// such as "l1d=48K,l2=2M,l3=480M,cores=16,isa=avx2,bf16=0". bf16=dots and bf16=floats choose where the CPU has
// vdpbf16ps. tiles=none and tiles=refused take tiles away, tiles=model puts the model's in their place; stores=cached,
// stores=streamed, division=fast and division=slow say what pays.
const CpuFeatures& GetCpuFeatures();
std::string CpuFeaturesError();    // "" or what is wrong with DWSCONV_TEST_MACHINE, of which nothing is used then
bool IsaSupported(Isa isa);        // by this CPU
std::vector<Isa> SupportedIsas();  // least first
Isa WithoutTiles(Isa isa);         // itself; for kAmx what it does with all that are no tile products
const char* IsaName(Isa isa);      // "generic", "avx2", "avx512", "amx"
bool ParseIsa(const std::string& word, Isa* isa);

// The path to use: DWSCONV_ISA if set (read on every call, so that tests can switch), else the best. Returns "" or what
// is wrong with DWSCONV_ISA (an unknown word, or a path this CPU lacks) or with DWSCONV_TEST_MACHINE.
std::string ChooseIsa(Isa* isa);

}  // namespace dwsconv

#endif  // DWSCONV_CORE_CPU_FEATURES_H_
