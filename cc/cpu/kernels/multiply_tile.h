// The register tile of the products with packed panels. Part of a kernel's translation unit: include after a
// step_<kind>.h.
#ifndef DWSCONV_CPU_KERNELS_MULTIPLY_TILE_H_
#define DWSCONV_CPU_KERNELS_MULTIPLY_TILE_H_

#include <cstdint>

namespace dwsconv {
namespace {

constexpr int kTileChannels = kTileVectors * kV;

constexpr int64_t kCacheLine = 64;
constexpr int64_t kStepsAtOnce = 4 * kPair;  // channels of the sum between two looks at what there is to fetch

// Memory to fetch into L2 while a tile is summed, `burst` cache lines after every `span` channels of the sum: more at
// once than the core can have under way would hold up the loads of the sum itself.
struct Fetch {
  const char* from = nullptr;
  const char* end = nullptr;
  int64_t burst = 0, span = 0;

  Fetch() = default;
  // `bytes` from `from`, evenly over `tiles` tiles of sums over `cm` channels.
  Fetch(const char* from, int64_t bytes, int64_t tiles, int64_t cm) : from(from), end(from + bytes) {
    const int64_t lines = bytes / (kCacheLine * tiles) + 1, looks = cm / kStepsAtOnce > 0 ? cm / kStepsAtOnce : 1;
    if (bytes <= 0) return;
    burst = (lines + looks - 1) / looks;
    span = looks * burst / lines * kStepsAtOnce;
  }
};

inline void FetchBurst(Fetch* fetch) {
  for (int64_t i = 0; i < fetch->burst; ++i) {
    __builtin_prefetch(fetch->from, 0, 2);
    fetch->from += kCacheLine;
  }
}

// acc[i][v] += sum over c of Z[i][c] * panel[c][v]. Rows are addressed as three a base pointer (base, + stride,
// + 2 * stride): with one pointer a row the compiler runs out of integer registers and spills inside the loop. With
// kHalf the later half of the last vector is not summed. What is fetched wants a kUnroll that divides kStepsAtOnce.
template <int kRows, int kVectors, bool kHalf = false, int kUnroll = kUnrolledSteps>
inline __attribute__((always_inline)) void MultiplyTile(const ZType* z, int64_t z_stride, int64_t cm,
                                                        const ZType* panel, Vec (&acc)[kRows][kVectors],
                                                        Fetch* fetch = nullptr) {
  constexpr int kBases = (kRows + 2) / 3;
  const ZType* base[kBases];
#pragma GCC unroll 8
  for (int b = 0; b < kBases; ++b) base[b] = z + 3 * b * z_stride;
  [[maybe_unused]] HalfVec half[kRows];
  if constexpr (kHalf) {
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) half[i] = Narrow(acc[i][kVectors - 1]);
  }
  const auto step = [&](int64_t c, bool last) __attribute__((always_inline)) {
    StepVec f[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) f[v] = LoadStep(panel + c * kTileChannels + v * kV * kPair);
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) {
      const ZType* at = base[i / 3] + (i % 3) * z_stride + c;
      if constexpr (kHalf && kVectors == 1) {
        const HalfStepVec x = last ? BroadcastHalfLast(at) : BroadcastHalfStep(at);
        half[i] = MultiplyStep(x, NarrowStep(f[0]), half[i]);
        continue;
      }
      const StepVec x = last ? BroadcastLast(at) : BroadcastStep(at);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors - kHalf; ++v) acc[i][v] = MultiplyStep(x, f[v], acc[i][v]);
      if constexpr (kHalf) half[i] = MultiplyStep(NarrowStep(x), NarrowStep(f[kVectors - 1]), half[i]);
    }
  };
  int64_t c = 0;
  constexpr int64_t kAtOnce = kStepsAtOnce % (kUnroll * kPair) == 0 ? kStepsAtOnce : kUnroll * kPair;
  const int64_t even = cm / kAtOnce * kAtOnce;
  const bool fetching = fetch != nullptr && fetch->from < fetch->end;
  if (fetching && even == 0) FetchBurst(fetch);
  while (c < even) {
    int64_t stop = even;
    if (fetching) {
      FetchBurst(fetch);
      stop = c + fetch->span < even ? c + fetch->span : even;
    }
#pragma GCC unroll 1
    for (; c < stop; c += kUnroll * kPair) {
#pragma GCC unroll 4
      for (int i = 0; i < kUnroll; ++i) step(c + i * kPair, false);
    }
  }
#pragma GCC unroll 1
  for (; c + kPair <= cm; c += kPair) step(c, false);
  // The other half of a last pair is the next pixel's, or nobody's: it must not be read, for zero times NaN is NaN.
  if (kPair > 1 && c < cm) step(c, true);
  if constexpr (kHalf) {
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) acc[i][kVectors - 1] = Widen(half[i]);
  }
}

}  // namespace
}  // namespace dwsconv

#endif  // DWSCONV_CPU_KERNELS_MULTIPLY_TILE_H_
