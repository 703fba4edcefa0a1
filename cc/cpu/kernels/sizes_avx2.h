// Vectors and register tiles of AVX2: apart from the vectors themselves, for the kernels that only count.
#ifndef DWSCONV_CPU_KERNELS_SIZES_AVX2_H_
#define DWSCONV_CPU_KERNELS_SIZES_AVX2_H_

namespace dwsconv {
namespace {

constexpr int kV = 8;
constexpr int kTilePixels = 6;  // 6 x 16: 12 accumulators, 2 filter vectors, 2 broadcasts: all 16 registers
constexpr int kTileVectors = 2;
constexpr int kUnrolledSteps = 2;  // of a tile's sum: of four the compiler keeps one accumulator in memory
constexpr int kSmallPixels = 0, kLeastSmallPixels = 0, kUnrolledSmallSteps = 0;  // no small tiles: this one is small
constexpr int64_t kMostSmallTerms = 0;
constexpr int kDepthwisePixels = 6;
constexpr int kGroupRows = 1;  // no registers for a second row
constexpr int kGroupPixels = 4;
constexpr bool kHalves = false;  // half a vector would cost what a whole one does

}  // namespace
}  // namespace dwsconv

#endif  // DWSCONV_CPU_KERNELS_SIZES_AVX2_H_
