// Elements in memory and floats in registers.
#ifndef DWSCONV_CUDA_ELEMENT_CUH_
#define DWSCONV_CUDA_ELEMENT_CUH_

#include <cstdint>

#include "cc/core/half.h"
#include "cuda/platform.cuh"

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

}  // namespace cuda
}  // namespace dwsconv

#endif  // DWSCONV_CUDA_ELEMENT_CUH_
