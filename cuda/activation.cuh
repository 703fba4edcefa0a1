// The activations on floats in registers.
#ifndef DWSCONV_CUDA_ACTIVATION_CUH_
#define DWSCONV_CUDA_ACTIVATION_CUH_

#include <cmath>

#include "cc/core/problem.h"
#include "cuda/element.cuh"
#include "cuda/platform.cuh"

namespace dwsconv {
namespace cuda {

// An activation as kernels take it.
struct DeviceActivation {
  int kind;  // an ActivationKind
  float alpha;
  float max_value;  // of all clamps, and of kBoundedRelu
  float threshold;
};

inline DeviceActivation OnDevice(const Activation& activation) {
  const float max_value = activation.kind == ActivationKind::kRelu6 ? 6.f : activation.max_value;
  return {static_cast<int>(activation.kind), activation.alpha, max_value, activation.threshold};
}

DWS_DEVICE bool IsClampKind(int kind) { return kind <= static_cast<int>(ActivationKind::kRelu6); }

// min(max(value, low), high) that lets NaN through.
DWS_DEVICE float Clamp(float value, float low, float high) {
  value = value < low ? low : value;
  return value > high ? high : value;
}

// The approximation of GELU by tanh is x sigmoid(2u); this is 2u.
DWS_DEVICE float GeluTanhTwice(float x) { return x * fmaf(0.0713548162726f, x * x, 1.59576912160573f); }

// e^x, of which mish is made; it makes no difference beyond 20.
DWS_DEVICE float MishExp(float x) { return expf(x > 20.f ? 20.f : x); }

// Any activation but PReLU, which the planners refuse; what is no clamp takes tens of instructions, so callers keep it
// out of unrolled loops.
DWS_DEVICE float Activate(float x, DeviceActivation activation) {
  switch (static_cast<ActivationKind>(activation.kind)) {
    case ActivationKind::kRelu:
    case ActivationKind::kRelu6:
      return Clamp(x, 0.f, activation.max_value);
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
    case ActivationKind::kElu:
      return x > 0.f ? x : activation.alpha * expm1f(x);
    case ActivationKind::kMish: {
      const float exp = MishExp(x), w = exp * (exp + 2.f);
      return x * (w / (w + 2.f));
    }
    case ActivationKind::kGeluTanh:
      return x / (1.f + expf(-GeluTanhTwice(x)));
    case ActivationKind::kBoundedRelu: {
      if (x > activation.threshold) return x > activation.max_value ? activation.max_value : x;
      if (activation.alpha == 0.f) return x <= activation.threshold ? 0.f : x;  // a NaN stays one
      return activation.alpha * (x - activation.threshold);
    }
    case ActivationKind::kNone:
    case ActivationKind::kPRelu:
      break;
  }
  return x;
}

// An activation that is a clamp, on values in registers.
template <int kGroups, int kLength>
DWS_DEVICE void ClampAll(float (&values)[kGroups][kLength], DeviceActivation activation) {
  if (activation.kind == static_cast<int>(ActivationKind::kNone)) return;
  DWS_UNROLL
  for (int g = 0; g < kGroups; ++g) {
    DWS_UNROLL
    for (int i = 0; i < kLength; ++i) values[g][i] = Clamp(values[g][i], 0.f, activation.max_value);
  }
}

// Whether an activation may as well be applied to 16-bit elements after the rounding: a clamp between rounded numbers
// gives the same, two elements at a time.
template <typename T>
DWS_DEVICE bool ClampsWords(DeviceActivation activation) {
  return sizeof(T) == 2 && IsClampKind(activation.kind);
}

// Such an activation on words of two elements.
template <typename T, int kLength>
DWS_DEVICE void ClampWords(uint32_t (&words)[kLength], DeviceActivation activation) {
  if constexpr (sizeof(T) == 2) {
    if (activation.kind == static_cast<int>(ActivationKind::kNone)) return;
    const float both[2] = {activation.max_value, activation.max_value};
    const uint32_t limit = NarrowWord(both, T());
    DWS_UNROLL
    for (int i = 0; i < kLength; ++i) words[i] = ClampWord(words[i], limit, T());
  }
}

// Applies an activation to kGroups x kLength values in registers. A clamp is unrolled. Of anything else there is one
// copy for kLength values, and a loop over the groups, which are moved in and out of it: the code of an error function
// 64 times over would be the larger part of a kernel.
template <int kGroups, int kLength>
DWS_DEVICE void ActivateAll(float (&values)[kGroups][kLength], DeviceActivation activation) {
  if (IsClampKind(activation.kind)) {
    ClampAll(values, activation);
    return;
  }
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
    for (int i = 0; i < kLength; ++i) group[i] = Activate(group[i], activation);
    DWS_UNROLL
    for (int candidate = 0; candidate < kGroups; ++candidate) {
      if (candidate != g) continue;
      DWS_UNROLL
      for (int i = 0; i < kLength; ++i) values[candidate][i] = group[i];
    }
  }
}

}  // namespace cuda
}  // namespace dwsconv

#endif  // DWSCONV_CUDA_ACTIVATION_CUH_
