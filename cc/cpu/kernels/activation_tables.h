// What all kernels read about activations: whether to divide, and tables. Those are for AVX-512, where 32 floats are
// two registers from which one instruction chooses for each lane.
#ifndef DWSCONV_CPU_KERNELS_ACTIVATION_TABLES_H_
#define DWSCONV_CPU_KERNELS_ACTIVATION_TABLES_H_

namespace dwsconv {

// CpuFeatures::fast_division.
bool DividesFast();

// A function of t >= 0 as one polynomial of kTerms coefficients, c[0] + c[1] at + c[2] at^2 + ..., in each of 32
// segments of one width, with their middles at whole multiples of it. In the last one, which has no end, it is 0.
template <int kTerms>
struct SegmentTable {
  static constexpr int kSegments = 32;
  alignas(64) float c[kTerms][kSegments];
  float width, per_unit;  // per_unit is 1 / width
  float last;             // a place in the last segment
};

// SiLU and both GELUs, f, have f(x) - f(-x) = x, so f(x) = max(x, 0) - bump(|x|) with bump(t) = -f(-t): a function that
// rises from 0 to less than 0.3 and falls to 0 again. Parabolas of t itself, for results that are rounded to bfloat16
// in the end.
using BumpTable = SegmentTable<3>;
// SiLU: a relative error of 2^-11.1 at most; below -12.2 it is 0, where it should be -6e-5 or less in size.
extern const BumpTable kSiluBump;
// The GELUs, exact and by tanh: 2^-13.3 for positive x and 2^-11 down to -3, 3e-6 of absolute error below; 0 below
// -4.9.
extern const BumpTable kGeluBump, kGeluTanhBump;

// Phi(-t), Phi the normal distribution's cumulative function, for GELU in float32: an absolute error of 1e-7 at most, a
// relative one of 7e-6 up to t = 5; 0 above 5.25. Polynomials of what t is more than the middle of its segment.
extern const SegmentTable<5> kNormalTail;

}  // namespace dwsconv

#endif  // DWSCONV_CPU_KERNELS_ACTIVATION_TABLES_H_
