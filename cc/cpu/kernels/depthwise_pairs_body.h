// The loops of the depthwise half over bfloat16 two vectors of channels at a time: one load has 32 of them, the even
// ones widened by a shift and the odd ones by a mask, where one vector after the other takes four operations. Part of a
// kernel's translation unit: include after depthwise_body.h, whose StripChannels calls it. The order of sums is that of
// depthwise_interior_body.h, and so are the bits.
#ifndef DWSCONV_CPU_KERNELS_DEPTHWISE_PAIRS_BODY_H_
#define DWSCONV_CPU_KERNELS_DEPTHWISE_PAIRS_BODY_H_

#ifdef __AVX512BF16__

#include "cc/cpu/kernels/kernel_table.h"

namespace dwsconv {
namespace {

// Two vectors of neighbouring channels as their even and odd ones.
struct VecPair {
  Vec even, odd;
};

inline VecPair LoadPair(const BFloat16* p) {
  __m512i v = _mm512_loadu_si512(p);
  asm("" : "+v"(v));  // loaded once, not once for each use
  return {_mm512_castsi512_ps(_mm512_slli_epi32(v, 16)), _mm512_castsi512_ps(_mm512_maskz_mov_epi16(0xaaaaaaaau, v))};
}

inline VecPair Split(Vec first, Vec second) {
  const __m512i even = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
  const __m512i odd = _mm512_set_epi32(31, 29, 27, 25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1);
  return {_mm512_permutex2var_ps(first, even, second), _mm512_permutex2var_ps(first, odd, second)};
}

inline void StorePair(float* p, const VecPair& v) {
  const __m512i first = _mm512_set_epi32(23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  const __m512i second = _mm512_set_epi32(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8);
  Store(p, _mm512_permutex2var_ps(v.even, first, v.odd));
  Store(p + kV, _mm512_permutex2var_ps(v.even, second, v.odd));
}
inline void StorePair(BFloat16* p, const VecPair& v) {
  const __m512i odd = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(v.odd, v.even));  // the even ones come first
  const __m512i places = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                                          21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  _mm512_storeu_si512(p, _mm512_permutexvar_epi16(places, odd));
}

// kPixels pixels of one row: InteriorChannels for a pair. `filter` has the even and the odd channels of each tap.
template <typename Z, int kS, int kStride, int kPixels, int kLeft, int kRight>
inline __attribute__((always_inline)) void PairPixels(const DepthwiseRow<BFloat16>& row, const BFloat16* x,
                                                      const float* filter, const VecPair& bias, Z* z) {
  constexpr int kColumns = (kPixels - 1) * kStride + kS;
  VecPair acc[kPixels];
#pragma GCC unroll 8
  for (int i = 0; i < kPixels; ++i) acc[i] = bias;
#pragma GCC unroll 1
  for (int64_t r = row.rows; r > 0; --r) {
    const Columns<BFloat16, kColumns> columns(x, row.C);
    VecPair f[kS];
#pragma GCC unroll 8
    for (int s = 0; s < kS; ++s) f[s] = {Load(filter + 2 * s * kV), Load(filter + (2 * s + 1) * kV)};
#pragma GCC unroll 32
    for (int column = kLeft; column < kColumns - kRight; ++column) {
      const VecPair v = LoadPair(columns[column]);
#pragma GCC unroll 8
      for (int i = 0; i < kPixels; ++i) {
        const int s = column - i * kStride;
        if (s < 0 || s >= kS) continue;
        acc[i].even = Fma(v.even, f[s].even, acc[i].even);
        acc[i].odd = Fma(v.odd, f[s].odd, acc[i].odd);
      }
    }
    filter += 2 * kS * kV;
    x += row.row_step;
  }
  if (!row.plain) {
#pragma GCC unroll 8
    for (int i = 0; i < kPixels; ++i) acc[i] = {Apply(acc[i].even, row.clamp), Apply(acc[i].odd, row.clamp)};
  }
#pragma GCC unroll 8
  for (int i = 0; i < kPixels; ++i, z += row.z_stride) StorePair(z, acc[i]);
}

// StripChannels for channels [c, c_end), whole pairs. A pair of channels is a cache line of X: it goes through all rows
// before the next.
template <typename T, typename Z, int kS, int kStride, int kPixels, int kLeft, int kRight>
void PairStrip(DepthwiseRows<T>* rows, int64_t q, int64_t c, int64_t c_end, Z* z) {
  const Chain& p = *rows->p;
  const int64_t x_at = (q * kStride - p.pad_left) * p.C, z_row = p.Wo * rows->row.z_stride, taps = p.R * kS;
  alignas(64) float filter[kMostPairTaps * 2 * kV];
  for (; c < c_end; c += 2 * kV) {
    const float* const from = rows->filter + c * rows->row.taps;
    for (int64_t t = 0; t < taps; ++t) {
      const VecPair f = Split(Load(from + t * kV), Load(from + (rows->row.taps + t) * kV));
      Store(filter + 2 * t * kV, f.even);
      Store(filter + (2 * t + 1) * kV, f.odd);
    }
    const VecPair bias = Split(Load(rows->row.bias + c), Load(rows->row.bias + c + kV));
    Z* to = z + c;
    for (int64_t out_row = rows->first; out_row < rows->last; ++out_row, to += z_row) {
      rows->Select(out_row);
      const DepthwiseRow<T> row = rows->row;  // for all the compiler knows, storing Z might change the original
      PairPixels<Z, kS, kStride, kPixels, kLeft, kRight>(row, row.x + x_at + c,
                                                         filter + 2 * (row.filter - rows->filter), bias, to);
    }
  }
}

}  // namespace
}  // namespace dwsconv

#endif  // __AVX512BF16__

#endif  // DWSCONV_CPU_KERNELS_DEPTHWISE_PAIRS_BODY_H_
