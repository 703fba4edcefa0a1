// Elements in memory and floats in registers.
#ifndef DWSCONV_CUDA_DEVICE_ELEMENT_CUH_
#define DWSCONV_CUDA_DEVICE_ELEMENT_CUH_

#include <cstdint>

#include "cc/core/half.h"
#include "cuda/device/platform.cuh"

#if !defined(DWSCONV_SHIM)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

namespace dwsconv {
namespace cuda {

#if defined(DWSCONV_SHIM)

template <typename T>
DWS_DEVICE float Widen(T value) {
  return ToFloat(value);
}
template <typename T>
DWS_DEVICE T Narrow(float value) {
  return FromFloat<T>(value);
}

#else

DWS_DEVICE float Widen(float value) { return value; }
DWS_DEVICE float Widen(BFloat16 value) { return __uint_as_float(static_cast<uint32_t>(value.bits) << 16); }
DWS_DEVICE float Widen(Float16 value) { return __half2float(__ushort_as_half(value.bits)); }

template <typename T>
DWS_DEVICE T Narrow(float value);
template <>
DWS_DEVICE float Narrow<float>(float value) {
  return value;
}
template <>
DWS_DEVICE BFloat16 Narrow<BFloat16>(float value) {
  return BFloat16{__bfloat16_as_ushort(__float2bfloat16_rn(value))};
}
template <>
DWS_DEVICE Float16 Narrow<Float16>(float value) {
  return Float16{__half_as_ushort(__float2half_rn(value))};
}

#endif  // DWSCONV_SHIM

// Of two numbers, or NaN where the first one is NaN.
#if !defined(DWSCONV_SHIM) && __CUDA_ARCH__ >= 800
DWS_DEVICE float MaxOrNan(float value, float low) {
  asm("max.NaN.f32 %0, %0, %1;\n" : "+f"(value) : "f"(low));
  return value;
}
DWS_DEVICE float MinOrNan(float value, float high) {
  asm("min.NaN.f32 %0, %0, %1;\n" : "+f"(value) : "f"(high));
  return value;
}
#else
DWS_DEVICE float MaxOrNan(float value, float low) { return value < low ? low : value; }
DWS_DEVICE float MinOrNan(float value, float high) { return value > high ? high : value; }
#endif

// 2^x and 1 / x as the special function units have them: right to 22 bits or so.
#if defined(DWSCONV_SHIM)
DWS_DEVICE float ApproximateExp2(float x) { return exp2f(x); }
DWS_DEVICE float ApproximateReciprocal(float x) { return 1.f / x; }
#else
DWS_DEVICE float ApproximateExp2(float x) {
  asm("ex2.approx.ftz.f32 %0, %0;\n" : "+f"(x));
  return x;
}
DWS_DEVICE float ApproximateReciprocal(float x) {
  asm("rcp.approx.ftz.f32 %0, %0;\n" : "+f"(x));
  return x;
}
#endif

// Neither infinite nor NaN.
DWS_DEVICE bool IsFinite(float value) { return value - value == 0.f; }

// 4 bytes: what a thread of a depthwise kernel loads at a time. One float, or two 16-bit elements, the first one in the
// lower half.
template <typename T>
struct Word {
  static constexpr int kElements = 4 / sizeof(T);
};

DWS_DEVICE void WidenWord(uint32_t word, float (&values)[1], float) {
#if defined(DWSCONV_SHIM)
  memcpy(values, &word, 4);
#else
  values[0] = __uint_as_float(word);
#endif
}
template <typename T>
DWS_DEVICE void WidenWord(uint32_t word, float (&values)[2], T) {
  values[0] = Widen(T{static_cast<uint16_t>(word & 0xffffu)});
  values[1] = Widen(T{static_cast<uint16_t>(word >> 16)});
}

DWS_DEVICE uint32_t NarrowWord(const float (&values)[1], float) {
#if defined(DWSCONV_SHIM)
  uint32_t word;
  memcpy(&word, values, 4);
  return word;
#else
  return __float_as_uint(values[0]);
#endif
}
template <typename T>
DWS_DEVICE uint32_t NarrowWord(const float (&values)[2], T) {
  return static_cast<uint32_t>(Narrow<T>(values[0]).bits) | static_cast<uint32_t>(Narrow<T>(values[1]).bits) << 16;
}

// The lower (half 0) or the upper elements of two words of 16-bit elements, side by side.
DWS_DEVICE uint32_t PairHalves(uint32_t first, uint32_t second, int half) {
#if defined(DWSCONV_SHIM)
  return half == 0 ? (first & 0xffffu) | second << 16 : first >> 16 | (second & 0xffff0000u);
#else
  return __byte_perm(first, second, half == 0 ? 0x5410 : 0x7632);
#endif
}

// Both elements of a word, clamped to [low, high], which are words of the same elements; NaN goes through.
#if defined(DWSCONV_SHIM)

template <typename T>
DWS_DEVICE uint32_t ClampWord(uint32_t word, uint32_t low, uint32_t high, T) {
  float values[2], lows[2], highs[2];
  WidenWord(word, values, T());
  WidenWord(low, lows, T());
  WidenWord(high, highs, T());
  for (int e = 0; e < 2; ++e) values[e] = MinOrNan(MaxOrNan(values[e], lows[e]), highs[e]);
  return NarrowWord(values, T());
}

template <typename T>
DWS_DEVICE uint32_t ProbeWord(uint32_t probe, uint32_t word, T) {
  float values[2], probes[2];
  WidenWord(word, values, T());
  WidenWord(probe, probes, T());
  for (int e = 0; e < 2; ++e) probes[e] = fmaf(values[e], 0.f, probes[e]);
  return NarrowWord(probes, T());
}

#else

DWS_DEVICE uint32_t ClampWord(uint32_t word, uint32_t low, uint32_t high, Float16) {
#if __CUDA_ARCH__ >= 800
  asm("max.NaN.f16x2 %0, %0, %1;\n" : "+r"(word) : "r"(low));
  asm("min.NaN.f16x2 %0, %0, %1;\n" : "+r"(word) : "r"(high));
  return word;
#else
  float values[2], lows[2], highs[2];
  WidenWord(word, values, Float16());
  WidenWord(low, lows, Float16());
  WidenWord(high, highs, Float16());
  DWS_UNROLL
  for (int e = 0; e < 2; ++e) values[e] = MinOrNan(MaxOrNan(values[e], lows[e]), highs[e]);
  return NarrowWord(values, Float16());
#endif
}

DWS_DEVICE uint32_t ClampWord(uint32_t word, uint32_t low, uint32_t high, BFloat16) {
#if __CUDA_ARCH__ >= 800
  asm("max.NaN.bf16x2 %0, %0, %1;\n" : "+r"(word) : "r"(low));
  asm("min.NaN.bf16x2 %0, %0, %1;\n" : "+r"(word) : "r"(high));
#endif
  return word;  // before 8.0 the planner gives bfloat16 the direct kernel
}

// The probe, and zero times both elements of a word: it stays zero where they are finite, and gets NaN where not.
DWS_DEVICE uint32_t ProbeWord(uint32_t probe, uint32_t word, Float16) {
  asm("fma.rn.f16x2 %0, %1, %2, %0;\n" : "+r"(probe) : "r"(word), "r"(0));
  return probe;
}
DWS_DEVICE uint32_t ProbeWord(uint32_t probe, uint32_t word, BFloat16) {
#if __CUDA_ARCH__ >= 800
  asm("fma.rn.bf16x2 %0, %1, %2, %0;\n" : "+r"(probe) : "r"(word), "r"(0));
#endif
  return probe;
}

#endif  // DWSCONV_SHIM

}  // namespace cuda
}  // namespace dwsconv

#endif  // DWSCONV_CUDA_DEVICE_ELEMENT_CUH_
