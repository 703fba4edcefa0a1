// 16-bit floats, bit by bit: what the generic path, the reference and the packing of filters use.
#ifndef DWSCONV_CORE_HALF_H_
#define DWSCONV_CORE_HALF_H_

#include <cstdint>
#include <cstring>

#include "cc/core/chain.h"

namespace dwsconv {

struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

static inline float ToFloat(float v) { return v; }

static inline float ToFloat(BFloat16 v) {
  const uint32_t u = static_cast<uint32_t>(v.bits) << 16;
  float f;
  memcpy(&f, &u, 4);
  return f;
}

static inline float ToFloat(Float16 v) {
  const uint32_t sign = static_cast<uint32_t>(v.bits & 0x8000u) << 16;
  const uint32_t exponent = (v.bits >> 10) & 0x1fu;
  const uint32_t mantissa = v.bits & 0x3ffu;
  float f;
  if (exponent == 0) {  // zero or subnormal: mantissa * 2^-24, exact in float
    f = static_cast<float>(mantissa) * 5.9604644775390625e-8f;
    uint32_t u;
    memcpy(&u, &f, 4);
    u |= sign;
    memcpy(&f, &u, 4);
    return f;
  }
  const uint32_t u = sign | (exponent == 31 ? 0x7f800000u : (exponent + 112) << 23) | (mantissa << 13);
  memcpy(&f, &u, 4);
  return f;
}

template <typename T>
static inline T FromFloat(float v);

template <>
inline float FromFloat<float>(float v) {
  return v;
}

// Round to nearest, ties to even; a NaN stays a (quiet) NaN.
template <>
inline BFloat16 FromFloat<BFloat16>(float v) {
  uint32_t u;
  memcpy(&u, &v, 4);
  if ((u & 0x7fffffffu) > 0x7f800000u) return BFloat16{static_cast<uint16_t>((u >> 16) | 0x40u)};
  return BFloat16{static_cast<uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16)};
}

template <>
inline Float16 FromFloat<Float16>(float v) {
  uint32_t u;
  memcpy(&u, &v, 4);
  const uint16_t sign = static_cast<uint16_t>((u >> 16) & 0x8000u);
  u &= 0x7fffffffu;
  if (u > 0x7f800000u) return Float16{static_cast<uint16_t>(sign | 0x7e00u | ((u >> 13) & 0x3ffu))};
  if (u >= 0x477ff000u) return Float16{static_cast<uint16_t>(sign | 0x7c00u)};  // 65520 and more round to infinity
  if (u < 0x38800000u) {                                                        // below 2^-14: subnormal or zero
    // Adding 0.5 puts the unit of the sum at 2^-24, float16's subnormal unit: the adder does the rounding.
    float f;
    memcpy(&f, &u, 4);
    f += 0.5f;
    memcpy(&u, &f, 4);
    return Float16{static_cast<uint16_t>(sign | (u - 0x3f000000u))};
  }
  u += 0xfffu + ((u >> 13) & 1u);
  return Float16{static_cast<uint16_t>(sign | ((u - 0x38000000u) >> 13))};
}

// Calls run with a value of a dtype's element type, and returns what that does.
template <typename Run>
auto WithType(DType dtype, const Run& run) {
  if (dtype == DType::kBFloat16) return run(BFloat16{});
  if (dtype == DType::kFloat16) return run(Float16{});
  return run(float{});
}

}  // namespace dwsconv

#endif  // DWSCONV_CORE_HALF_H_
