// Activations of few bits by table: where the result is rounded to bfloat16 in the end.
#ifndef DWSCONV_CPU_KERNELS_BUMP_TABLE_H_
#define DWSCONV_CPU_KERNELS_BUMP_TABLE_H_

namespace dwsconv {

// SiLU and both GELUs, f, have f(x) - f(-x) = x, so f(x) = max(x, 0) - bump(|x|) with bump(t) = -f(-t): a function that
// rises from 0 to less than 0.3 and falls to 0 again. The table has it as a parabola c[0] + c[1] t + c[2] t^2 in each
// of 32 segments of one width, with their middles at whole multiples of it; in the last one, which has no end, it is 0.
// 32 floats are two AVX-512 registers, from which one instruction chooses for 16 lanes.
struct BumpTable {
  static constexpr int kSegments = 32;
  alignas(64) float c[3][kSegments];
  float per_unit;  // 1 / width
  float last;      // a place in the last segment
};

// SiLU: a relative error of 2^-11.1 at most; below -12.2 it is 0, where it should be -6e-5 or less in size.
extern const BumpTable kSiluBump;
// The GELUs, exact and by tanh: 2^-13.3 for positive x and 2^-11 down to -3, 3e-6 of absolute error below; 0 below
// -4.9.
extern const BumpTable kGeluBump, kGeluTanhBump;

}  // namespace dwsconv

#endif  // DWSCONV_CPU_KERNELS_BUMP_TABLE_H_
