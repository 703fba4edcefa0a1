// The activations on floats in registers.
#ifndef DWSCONV_CUDA_DEVICE_ACTIVATION_CUH_
#define DWSCONV_CUDA_DEVICE_ACTIVATION_CUH_

#include <cmath>

#include "cc/core/chain.h"
#include "cuda/device/element.cuh"
#include "cuda/device/platform.cuh"

namespace dwsconv {
namespace cuda {

// An activation as kernels take it.
struct DeviceActivation {
  int kind;  // an ActivationKind
  float alpha;
};

DWS_DEVICE bool IsClampKind(int kind) { return kind <= static_cast<int>(ActivationKind::kRelu6); }

// min(max(value, low), high) that lets NaN through.
DWS_DEVICE float Clamp(float value, float low, float high) {
  value = value < low ? low : value;
  return value > high ? high : value;
}

// Any activation; what is no clamp takes tens of instructions, so callers keep it out of unrolled loops.
DWS_DEVICE float Activate(float x, DeviceActivation activation) {
  switch (static_cast<ActivationKind>(activation.kind)) {
    case ActivationKind::kRelu:
      return x < 0.f ? 0.f : x;
    case ActivationKind::kRelu6:
      return Clamp(x, 0.f, 6.f);
    case ActivationKind::kHardSwish:
      return x * Clamp(x + 3.f, 0.f, 6.f) * (1.f / 6.f);
    case ActivationKind::kSilu:
      return x / (1.f + expf(-x));
    case ActivationKind::kGelu:
      return 0.5f * x * (1.f + erff(x * 0.70710678118654752f));
    case ActivationKind::kLeakyRelu:
      return x < 0.f ? activation.alpha * x : x;
    case ActivationKind::kSigmoid:
      return 1.f / (1.f + expf(-x));
    case ActivationKind::kTanh:
      return tanhf(x);
    case ActivationKind::kNone:
    case ActivationKind::kElu:  // the planners refuse these
    case ActivationKind::kMish:
    case ActivationKind::kGeluTanh:
    case ActivationKind::kBoundedRelu:
    case ActivationKind::kPRelu:
      break;
  }
  return x;
}

// An activation that is a clamp, on values in registers.
template <int kGroups, int kLength>
DWS_DEVICE void ClampAll(float (&values)[kGroups][kLength], DeviceActivation activation) {
  if (activation.kind == static_cast<int>(ActivationKind::kNone)) return;
  const float high = activation.kind == static_cast<int>(ActivationKind::kRelu6) ? 6.f : INFINITY;
  DWS_UNROLL
  for (int g = 0; g < kGroups; ++g) {
    DWS_UNROLL
    for (int i = 0; i < kLength; ++i) values[g][i] = Clamp(values[g][i], 0.f, high);
  }
}

// Whether an activation may as well be applied to 16-bit elements after the rounding: a clamp between numbers that they
// have gives the same, two elements at a time.
template <typename T>
DWS_DEVICE bool ClampsWords(DeviceActivation activation) {
  return sizeof(T) == 2 && IsClampKind(activation.kind);
}

// Such an activation on words of two elements.
template <typename T, int kLength>
DWS_DEVICE void ClampWords(uint32_t (&words)[kLength], DeviceActivation activation) {
  if constexpr (sizeof(T) == 2) {
    if (activation.kind == static_cast<int>(ActivationKind::kNone)) return;
    const float high = activation.kind == static_cast<int>(ActivationKind::kRelu6) ? 6.f : INFINITY;
    const float both[2] = {high, high};
    const uint32_t limit = NarrowWord(both, T());
    DWS_UNROLL
    for (int i = 0; i < kLength; ++i) words[i] = ClampWord(words[i], limit, T());
  }
}

// f(value) in the place of each of kGroups x kLength values in registers. There is one copy of f's code for kLength
// values, and a loop over the groups, which are moved in and out of it: the code of an error function 64 times over
// would be the larger part of a kernel.
template <int kGroups, int kLength, typename F>
DWS_DEVICE void InGroups(float (&values)[kGroups][kLength], F f) {
  DWS_ROLLED
  for (int g = 0; g < kGroups; ++g) {
    float group[kLength];
    DWS_UNROLL
    for (int i = 0; i < kLength; ++i) group[i] = 0.f;
    DWS_UNROLL
    for (int candidate = 0; candidate < kGroups; ++candidate) {
      if (candidate != g) continue;
      DWS_UNROLL
      for (int i = 0; i < kLength; ++i) group[i] = values[candidate][i];
    }
    DWS_UNROLL
    for (int i = 0; i < kLength; ++i) group[i] = f(group[i]);
    DWS_UNROLL
    for (int candidate = 0; candidate < kGroups; ++candidate) {
      if (candidate != g) continue;
      DWS_UNROLL
      for (int i = 0; i < kLength; ++i) values[candidate][i] = group[i];
    }
  }
}

// Applies an activation to values in registers; a clamp is unrolled.
template <int kGroups, int kLength>
DWS_DEVICE void ActivateAll(float (&values)[kGroups][kLength], DeviceActivation activation) {
  if (IsClampKind(activation.kind)) {
    ClampAll(values, activation);
  } else {
    InGroups(values, [&](float value) { return Activate(value, activation); });
  }
}

}  // namespace cuda
}  // namespace dwsconv

#endif  // DWSCONV_CUDA_DEVICE_ACTIVATION_CUH_
