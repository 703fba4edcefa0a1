// Vectors and register tiles of the portable vectors of 16 bytes: apart from the vectors themselves, for the kernels
// that only count.
#ifndef DWSCONV_CPU_KERNELS_SIZES_GENERIC_H_
#define DWSCONV_CPU_KERNELS_SIZES_GENERIC_H_

namespace dwsconv {
namespace {

constexpr int kV = 4;
constexpr int kTilePixels = 6;
constexpr int kTileVectors = 2;
constexpr int kUnrolledSteps = 2;                                                // as for AVX2
constexpr int kSmallPixels = 0, kLeastSmallPixels = 0, kUnrolledSmallSteps = 0;  // no small tiles: this one is small
constexpr int64_t kMostSmallTerms = 0;
constexpr int kDepthwisePixels = 4;
constexpr int kGroupRows = 1;  // no registers for a second row
constexpr int kGroupPixels = 4;
constexpr bool kHalves = false;  // half a vector would cost what a whole one does

}  // namespace
}  // namespace dwsconv

#endif  // DWSCONV_CPU_KERNELS_SIZES_GENERIC_H_
