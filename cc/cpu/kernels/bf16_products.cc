#include "cc/cpu/kernels/bf16_products.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include "cc/core/aligned_buffer.h"
#include "cc/core/half.h"
#include "cc/cpu/kernels/targets.h"

namespace dwsconv {
namespace {

// A product that stays in L1 and fills every kernel's register tile.
constexpr int64_t kPixels = 56, kSum = 128, kChannels = 64;
constexpr int kRuns = 16;  // of which the quickest counts: others may have been interrupted

// Numbers of either sign between 1 and 2, as the time of a tile product depends on its data.
template <typename T>
void FillNumbers(T* to, int64_t count) {
  uint32_t state = 1;
  for (int64_t i = 0; i < count; ++i) {
    state = state * 1664525u + 1013904223u;
    const BFloat16 number{static_cast<uint16_t>((state >> 16 & 0x807fu) | 0x3f80u)};
    to[i] = FromFloat<T>(ToFloat(number));
  }
}

// GFLOP/s of a table's pointwise half from and to what it multiplies.
double Rate(const KernelTable& kernels) {
  const int64_t floats = kPixels * kSum + kSum * kChannels + kPixels * kChannels + kChannels;
  const AlignedBuffer<float> memory = AllocateAligned<float>(floats);
  if (!memory) return 0;
  float *const z = memory.get(), *const panels = z + kPixels * kSum, *const y = panels + kSum * kChannels;
  float* const bias = y + kPixels * kChannels;
  if (kernels.product_type == DType::kBFloat16) {
    FillNumbers(reinterpret_cast<BFloat16*>(z), 2 * (kPixels * kSum + kSum * kChannels));
  } else {
    FillNumbers(z, kPixels * kSum + kSum * kChannels);
  }
  std::fill_n(bias, kChannels, 0.0f);
  PointwiseArgs args = {};
  args.z = z;
  args.z_stride = args.cm = kSum;
  args.pixels = kPixels;
  args.panels = panels;
  args.bias = bias;
  args.k_end = args.y_step = kChannels;
  args.y = y;
  args.dtype = DType::kBFloat16;
  using Clock = std::chrono::steady_clock;
  Clock::duration least = Clock::duration::max();
  for (int run = 0; run < kRuns; ++run) {
    const Clock::time_point begin = Clock::now();
    kernels.pointwise(args);
    least = std::min(least, Clock::now() - begin);
  }
  const double ns = static_cast<double>(std::chrono::duration_cast<std::chrono::nanoseconds>(least).count());
  return 2.0 * kPixels * kSum * kChannels / std::max(ns, 1.0);
}

Bf16Rates Measure() {
  Bf16Rates rates;
  const CpuFeatures& cpu = GetCpuFeatures();
  if (!cpu.avx512_bf16) return rates;
#if defined(__x86_64__)
  rates.float32 = Rate(KernelsAvx512());
  rates.dots = Rate(KernelsAvx512Bf16());
  if (cpu.tiles == TileUnit::kAmx) rates.tiles = Rate(TilesTable(true));
#endif
  return rates;
}

bool Forced() {
  const char* const isa = std::getenv("DWSCONV_ISA");
  return isa != nullptr && *isa != '\0';
}

std::string Figures(const Bf16Rates& r) {
  char text[120];
  std::snprintf(text, sizeof(text), "measured in GFLOP/s: float32 %.0f, vdpbf16ps %.0f, tiles %.0f", r.float32, r.dots,
                r.tiles);
  return text;
}

}  // namespace

const char* Bf16ProductsName(Bf16Products products) {
  switch (products) {
    case Bf16Products::kFloat32:
      return "float32";
    case Bf16Products::kDots:
      return "vdpbf16ps";
    case Bf16Products::kTiles:
      return "tiles";
  }
  return "?";
}

Bf16Products Fastest(const Bf16Rates& r) {
  if (r.tiles > std::max(r.float32, r.dots)) return Bf16Products::kTiles;
  return r.dots > r.float32 ? Bf16Products::kDots : Bf16Products::kFloat32;
}

const Bf16Rates& MeasuredBf16Rates() {
  static const Bf16Rates rates = Measure();
  return rates;
}

bool Bf16Dots() {
  const CpuFeatures& cpu = GetCpuFeatures();
  if (!cpu.avx512_bf16) return false;
  if (cpu.dots != CpuFeatures::Dots::kMeasured) return cpu.dots == CpuFeatures::Dots::kAlways;
#if defined(DWSCONV_AVX512_MODEL) || defined(__SANITIZE_ADDRESS__)  // whose speed tells nothing
  return true;
#else
  return MeasuredBf16Rates().dots > MeasuredBf16Rates().float32;
#endif
}

std::string ChooseKernelIsa(Isa* isa) {
  const std::string error = ChooseIsa(isa);
  if (!error.empty() || *isa != Isa::kAmx || Forced() || GetCpuFeatures().tiles == TileUnit::kModel) return error;
  if (Fastest(MeasuredBf16Rates()) != Bf16Products::kTiles) *isa = WithoutTiles(*isa);
  return "";
}

Bf16Choice Bf16ChoiceOf(Isa isa) {
  const CpuFeatures& cpu = GetCpuFeatures();
  if (isa == Isa::kAmx) {
    if (cpu.tiles == TileUnit::kModel) return {Bf16Products::kTiles, "the model of tiles, for tests"};
    return {Bf16Products::kTiles, Forced() ? "DWSCONV_ISA is amx" : Figures(MeasuredBf16Rates())};
  }
  if (isa != Isa::kAvx512) return {Bf16Products::kFloat32, std::string(IsaName(isa)) + " has no products of bfloat16"};
  const std::string no_tiles = cpu.no_tiles.empty() ? "" : "; " + cpu.no_tiles;
  if (!cpu.avx512_bf16) return {Bf16Products::kFloat32, "the CPU lacks AVX512_BF16" + no_tiles};
  const bool dots = Bf16Dots();
  const std::string why =
      cpu.dots == CpuFeatures::Dots::kMeasured ? Figures(MeasuredBf16Rates()) : "DWSCONV_TEST_MACHINE says so";
  return {dots ? Bf16Products::kDots : Bf16Products::kFloat32, why + no_tiles};
}

}  // namespace dwsconv
