// A model in plain C++ of the AVX-512 instructions that our kernels use, for CPUs that lack them: what vec_avx512.h and
// step_bf16.h say in intrinsics is compiled for AVX2, and tested there (tools/avx512_model.sh). Each function computes
// what its instruction does, lane by lane; where an instruction is an estimate (rcp14) the model is as coarse. Include
// after <immintrin.h>, whose names it takes over.
#ifndef DWSCONV_CPU_KERNELS_AVX512_MODEL_H_
#define DWSCONV_CPU_KERNELS_AVX512_MODEL_H_

#include <cstdint>
#include <cstring>

// Vectors that no register of this CPU holds are passed in memory; all of it is inlined.
#pragma GCC diagnostic ignored "-Wpsabi"

namespace dwsconv {
namespace {
namespace avx512_model {

constexpr int kLanes = 16;
using Mask = uint16_t;

inline bool On(Mask mask, int lane) { return (mask >> lane & 1) != 0; }

template <typename To, typename From>
inline To Bits(const From& from) {
  static_assert(sizeof(To) == sizeof(From), "the same bits under another type");
  To to;
  memcpy(&to, &from, sizeof(to));
  return to;
}

template <typename Function>
inline __m512 Floats(Function function) {
  float lanes[kLanes];
  for (int i = 0; i < kLanes; ++i) lanes[i] = function(i);
  return Bits<__m512>(lanes);
}
struct Lanes {
  explicit Lanes(__m512 v) { memcpy(f, &v, sizeof(f)); }
  float operator[](int i) const { return f[i]; }
  float f[kLanes];
};
struct Words {
  explicit Words(__m512i v) { memcpy(u, &v, sizeof(u)); }
  uint32_t u[kLanes];
};
template <typename Function>
inline __m512i Integers(Function function) {
  uint32_t lanes[kLanes];
  for (int i = 0; i < kLanes; ++i) lanes[i] = function(i);
  return Bits<__m512i>(lanes);
}

// Moves.
inline __m512 SetPs(float v) {
  return Floats([=](int) { return v; });
}
inline __m512i SetEpi32(int v) {
  return Integers([=](int) { return static_cast<uint32_t>(v); });
}
inline __m512 LoadPs(const void* p) {
  __m512 v;
  memcpy(&v, p, sizeof(v));
  return v;
}
inline __m512i LoadSi(const void* p) { return Bits<__m512i>(LoadPs(p)); }
inline void StorePs(void* p, __m512 v) { memcpy(p, &v, sizeof(v)); }
inline void StoreSi(void* p, __m512i v) { memcpy(p, &v, sizeof(v)); }
inline __m512 MaskzLoadPs(Mask mask, const float* p) {
  return Floats([=](int i) { return On(mask, i) ? p[i] : 0.0f; });
}
inline void MaskStorePs(float* p, Mask mask, __m512 v) {
  const Lanes from(v);
  for (int i = 0; i < kLanes; ++i) {
    if (On(mask, i)) p[i] = from[i];
  }
}
inline __m256i MaskzLoadEpi16(Mask mask, const void* p) {
  uint16_t lanes[kLanes];
  for (int i = 0; i < kLanes; ++i) {
    lanes[i] = 0;
    if (On(mask, i)) memcpy(&lanes[i], static_cast<const char*>(p) + 2 * i, 2);
  }
  return Bits<__m256i>(lanes);
}
inline void MaskStoreEpi16(void* p, Mask mask, __m256i v) {
  for (int i = 0; i < kLanes; ++i) {
    if (On(mask, i)) memcpy(static_cast<char*>(p) + 2 * i, reinterpret_cast<const char*>(&v) + 2 * i, 2);
  }
}
inline __m512 Join(__m256 low, __m256 high) {
  const __m256 halves[2] = {low, high};
  return Bits<__m512>(halves);
}
inline __m256 Half(__m512 v, int which) {
  __m256 halves[2];
  memcpy(halves, &v, sizeof(halves));
  return halves[which];
}
inline __m256 CastPs256(__m512 v) { return Half(v, 0); }
inline __m512 ZextPs512(__m256 v) { return Join(v, _mm256_setzero_ps()); }
inline __m256i CastSi256(__m512i v) { return Bits<__m256i>(Half(Bits<__m512>(v), 0)); }

inline __m512 Permute(__m512i places, __m512 v) {
  const Words at(places);
  const Lanes from(v);
  return Floats([&](int i) { return from[static_cast<int>(at.u[i] & 15u)]; });
}

inline __m512 PermuteTwo(__m512 first, __m512i places, __m512 second) {
  const Words at(places);
  const Lanes from[2] = {Lanes(first), Lanes(second)};
  return Floats([&](int i) { return from[at.u[i] >> 4 & 1u][static_cast<int>(at.u[i] & 15u)]; });
}

// Arithmetic; max and min give the second operand where one is NaN.
inline __m512 Fmadd(__m512 a, __m512 b, __m512 c) {
  return Join(_mm256_fmadd_ps(Half(a, 0), Half(b, 0), Half(c, 0)), _mm256_fmadd_ps(Half(a, 1), Half(b, 1), Half(c, 1)));
}
inline __m512 Fnmadd(__m512 a, __m512 b, __m512 c) { return Fmadd(-a, b, c); }
inline __m512 MaskzFmadd(Mask mask, __m512 a, __m512 b, __m512 c) {
  const Lanes sum(Fmadd(a, b, c));
  return Floats([&](int i) { return On(mask, i) ? sum[i] : 0.0f; });
}
inline __m512 MaxPs(__m512 a, __m512 b) {
  return Join(_mm256_max_ps(Half(a, 0), Half(b, 0)), _mm256_max_ps(Half(a, 1), Half(b, 1)));
}
inline __m512 MinPs(__m512 a, __m512 b) {
  return Join(_mm256_min_ps(Half(a, 0), Half(b, 0)), _mm256_min_ps(Half(a, 1), Half(b, 1)));
}
inline __m512 RoundToWhole(__m512 v) {
  constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  return Join(_mm256_round_ps(Half(v, 0), kNearest), _mm256_round_ps(Half(v, 1), kNearest));
}
inline __m512 Scalef(__m512 a, __m512 b) {  // a * 2^floor(b), rounded once
  const Lanes x(a), n(b);
  return Floats([&](int i) {
    if (n[i] != n[i] || x[i] != x[i]) return x[i] + n[i];
    const float power = __builtin_floorf(n[i] < -400.0f ? -400.0f : n[i] > 400.0f ? 400.0f : n[i]);
    return static_cast<float>(__builtin_ldexp(static_cast<double>(x[i]), static_cast<int>(power)));
  });
}
inline __m512 Rcp14(__m512 v) {
  const Lanes x(v);
  return Floats([&](int i) {
    const float exact = 1.0f / x[i];
    uint32_t bits = Bits<uint32_t>(exact);
    if ((bits & 0x7f800000u) != 0x7f800000u) bits &= 0xfffffc00u;  // 13 bits of the fraction
    return Bits<float>(bits);
  });
}

// Comparisons: the predicates that are in use.
template <int kPredicate>
inline Mask Compare(__m512 a, __m512 b) {
  static_assert(kPredicate == _CMP_NGT_UQ || kPredicate == _CMP_UNORD_Q, "add it to the model");
  const Lanes x(a), y(b);
  Mask mask = 0;
  for (int i = 0; i < kLanes; ++i) {
    const bool unordered = x[i] != x[i] || y[i] != y[i];
    const bool is = kPredicate == _CMP_UNORD_Q ? unordered : unordered || !(x[i] > y[i]);
    mask = static_cast<Mask>(mask | (is ? 1u << i : 0u));
  }
  return mask;
}

// Integers.
inline __m512i SlliEpi32(__m512i v, int n) {
  const Words x(v);
  return Integers([&](int i) { return x.u[i] << n; });
}
inline __m512i SrliEpi32(__m512i v, int n) {
  const Words x(v);
  return Integers([&](int i) { return x.u[i] >> n; });
}
inline __m512i AddEpi32(__m512i a, __m512i b) {
  const Words x(a), y(b);
  return Integers([&](int i) { return x.u[i] + y.u[i]; });
}
inline __m512i And(__m512i a, __m512i b) { return a & b; }
inline __m512i Or(__m512i a, __m512i b) { return a | b; }
inline __m512i MaskOrEpi32(__m512i other, Mask mask, __m512i a, __m512i b) {
  const Words x(a), y(b), z(other);
  return Integers([&](int i) { return On(mask, i) ? x.u[i] | y.u[i] : z.u[i]; });
}

// Conversions.
inline __m512i WidenEpu16(__m256i v) {
  uint16_t from[kLanes];
  memcpy(from, &v, sizeof(from));
  return Integers([&](int i) { return static_cast<uint32_t>(from[i]); });
}
inline __m256i NarrowEpi32(__m512i v) {
  const Words x(v);
  uint16_t to[kLanes];
  for (int i = 0; i < kLanes; ++i) to[i] = static_cast<uint16_t>(x.u[i]);
  return Bits<__m256i>(to);
}
inline __m512 FromHalf(__m256i v) {
  return Join(_mm256_cvtph_ps(_mm256_castsi256_si128(v)), _mm256_cvtph_ps(_mm256_extracti128_si256(v, 1)));
}
inline __m256i ToHalf(__m512 v) {
  constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  const __m128i halves[2] = {_mm256_cvtps_ph(Half(v, 0), kNearest), _mm256_cvtps_ph(Half(v, 1), kNearest)};
  return Bits<__m256i>(halves);
}

// AVX512_BF16: subnormals count as zero, and results that are subnormal become zero.
inline float Flushed(float x) {
  const uint32_t bits = Bits<uint32_t>(x);
  return (bits & 0x7f800000u) == 0 ? Bits<float>(bits & 0x80000000u) : x;
}
inline __m256bh RoundToBFloat16(__m512 v) {
  const Lanes x(v);
  uint16_t to[kLanes];
  for (int i = 0; i < kLanes; ++i) {
    const uint32_t bits = Bits<uint32_t>(Flushed(x[i]));
    const bool nan = x[i] != x[i];
    to[i] = static_cast<uint16_t>(nan ? bits >> 16 | 0x40u : (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
  }
  return Bits<__m256bh>(to);
}
// The odd element of each pair first, then the even one: as Intel's manual has it.
template <typename Sums, typename Pairs>
inline Sums DotPairs(Sums sums, Pairs a, Pairs b) {
  constexpr int kCount = sizeof(Sums) / sizeof(float);
  float sum[kCount];
  uint16_t x[2 * kCount], y[2 * kCount];
  memcpy(sum, &sums, sizeof(sum));
  memcpy(x, &a, sizeof(x));
  memcpy(y, &b, sizeof(y));
  const auto wide = [](uint16_t bits) { return Flushed(Bits<float>(static_cast<uint32_t>(bits) << 16)); };
  for (int i = 0; i < kCount; ++i) {
    const float first = Flushed(__builtin_fmaf(wide(x[2 * i + 1]), wide(y[2 * i + 1]), Flushed(sum[i])));
    sum[i] = Flushed(__builtin_fmaf(wide(x[2 * i]), wide(y[2 * i]), first));
  }
  return Bits<Sums>(sum);
}

}  // namespace avx512_model
}  // namespace
}  // namespace dwsconv

// NOLINTBEGIN: the names of the intrinsics.
#define _mm512_set1_ps avx512_model::SetPs
#define _mm512_set1_epi32 avx512_model::SetEpi32
#define _mm512_loadu_ps avx512_model::LoadPs
#define _mm512_loadu_si512 avx512_model::LoadSi
#define _mm512_storeu_ps avx512_model::StorePs
#define _mm512_storeu_si512 avx512_model::StoreSi
#define _mm512_stream_ps avx512_model::StorePs
#define _mm512_maskz_loadu_ps avx512_model::MaskzLoadPs
#define _mm512_mask_storeu_ps avx512_model::MaskStorePs
#define _mm256_maskz_loadu_epi16 avx512_model::MaskzLoadEpi16
#define _mm256_mask_storeu_epi16 avx512_model::MaskStoreEpi16
#define _mm512_castps512_ps256 avx512_model::CastPs256
#define _mm512_zextps256_ps512 avx512_model::ZextPs512
#define _mm512_castsi512_si256 avx512_model::CastSi256
#define _mm512_castps_si512(v) avx512_model::Bits<__m512i>(v)
#define _mm512_castsi512_ps(v) avx512_model::Bits<__m512>(v)
#define _mm512_permutexvar_ps avx512_model::Permute
#define _mm512_fmadd_ps avx512_model::Fmadd
#define _mm512_fnmadd_ps avx512_model::Fnmadd
#define _mm512_maskz_fmadd_ps avx512_model::MaskzFmadd
#define _mm512_max_ps avx512_model::MaxPs
#define _mm512_min_ps avx512_model::MinPs
#define _mm512_roundscale_ps(v, how) avx512_model::RoundToWhole(v)
#define _mm512_scalef_ps avx512_model::Scalef
#define _mm512_permutex2var_ps avx512_model::PermuteTwo
#define _mm512_rcp14_ps avx512_model::Rcp14
#define _mm512_cmp_ps_mask(a, b, how) avx512_model::Compare<how>(a, b)
#define _mm512_slli_epi32 avx512_model::SlliEpi32
#define _mm512_srli_epi32 avx512_model::SrliEpi32
#define _mm512_add_epi32 avx512_model::AddEpi32
#define _mm512_and_si512 avx512_model::And
#define _mm512_or_si512 avx512_model::Or
#define _mm512_mask_or_epi32 avx512_model::MaskOrEpi32
#define _mm512_cvtepu16_epi32 avx512_model::WidenEpu16
#define _mm512_cvtepi32_epi16 avx512_model::NarrowEpi32
#define _mm512_cvtph_ps avx512_model::FromHalf
#define _mm512_cvtps_ph(v, how) avx512_model::ToHalf(v)
#define _mm512_cvtneps_pbh avx512_model::RoundToBFloat16
#define _mm512_dpbf16_ps avx512_model::DotPairs
#define _mm256_dpbf16_ps avx512_model::DotPairs
// NOLINTEND

#endif  // DWSCONV_CPU_KERNELS_AVX512_MODEL_H_
