// Vectors and register tiles of AVX-512: apart from the vectors themselves, for the kernels that only count.
#ifndef DWSCONV_CPU_KERNELS_SIZES_AVX512_H_
#define DWSCONV_CPU_KERNELS_SIZES_AVX512_H_

namespace dwsconv {
namespace {

constexpr int kV = 16;           // floats in a Vec
constexpr int kTilePixels = 14;  // 14 x 32: 28 accumulators, 2 filter vectors, 2 broadcasts
constexpr int kTileVectors = 2;
constexpr int kUnrolledSteps = 4;                       // of a tile's sum
constexpr int kSmallPixels = 8, kLeastSmallPixels = 6;  // of small tiles: 16 accumulators
constexpr int kUnrolledSmallSteps = 3;
constexpr int64_t kMostSmallTerms = 96;
constexpr int kDepthwisePixels = 8;
constexpr int kGroupRows = 3;  // 3 x 7 accumulators and a 3x3 filter: 30 registers
constexpr int kGroupPixels = 7;
constexpr bool kHalves = true;  // half a vector costs half, on 256-bit units

}  // namespace
}  // namespace dwsconv

#endif  // DWSCONV_CPU_KERNELS_SIZES_AVX512_H_
