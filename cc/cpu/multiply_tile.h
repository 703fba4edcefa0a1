// The register tile of the products with packed panels. Part of a kernel's translation unit: include after a
// step_<kind>.h.
#ifndef DWSCONV_CPU_MULTIPLY_TILE_H_
#define DWSCONV_CPU_MULTIPLY_TILE_H_

#include <cstdint>

namespace dwsconv {
namespace {

constexpr int kTileChannels = kTileVectors * kV;

// acc[i][v] += sum over c of Z[i][c] * panel[c][v]. Rows are addressed as three a base pointer (base, + stride,
// + 2 * stride): with one pointer a row the compiler runs out of integer registers and spills inside the loop.
template <int kRows, int kVectors>
inline __attribute__((always_inline)) void MultiplyTile(const ZType* z, int64_t z_stride, int64_t cm,
                                                        const ZType* panel, Vec (&acc)[kRows][kVectors]) {
  constexpr int kBases = (kRows + 2) / 3;
  const ZType* base[kBases];
#pragma GCC unroll 8
  for (int b = 0; b < kBases; ++b) base[b] = z + 3 * b * z_stride;
  const auto step = [&](int64_t c, auto broadcast) __attribute__((always_inline)) {
    StepVec f[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) f[v] = LoadStep(panel + c * kTileChannels + v * kV * kPair);
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) {
      const StepVec x = broadcast(base[i / 3] + (i % 3) * z_stride + c);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) acc[i][v] = MultiplyStep(x, f[v], acc[i][v]);
    }
  };
  int64_t c = 0;
#pragma GCC unroll 4
  for (; c + kPair <= cm; c += kPair) step(c, [](const ZType* z) { return BroadcastStep(z); });
  // The other half of a last pair is the next pixel's, or nobody's: it must not be read, for zero times NaN is NaN.
  if (kPair > 1 && c < cm) step(c, [](const ZType* z) { return BroadcastLast(z); });
}

}  // namespace
}  // namespace dwsconv

#endif  // DWSCONV_CPU_MULTIPLY_TILE_H_
