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
DWS_DEVICE float Clamp(float value, float low, float high) { return MinOrNan(MaxOrNan(value, low), high); }

// Each activation by itself. kFast: by the card's approximations, whose error of about 2^-20 is lost where the result
// is rounded to 16 bits.
template <bool kFast>
DWS_DEVICE float Exp(float x) {
  return kFast ? ApproximateExp2(x * 1.44269504f) : expf(x);
}
template <bool kFast>
DWS_DEVICE float Quotient(float x, float y) {
  return kFast ? x * ApproximateReciprocal(y) : x / y;
}

struct ReluOf {
  DWS_DEVICE float operator()(float x) const { return MaxOrNan(x, 0.f); }
};
struct Relu6Of {
  DWS_DEVICE float operator()(float x) const { return Clamp(x, 0.f, 6.f); }
};
struct HardSwishOf {
  DWS_DEVICE float operator()(float x) const { return x * Clamp(x + 3.f, 0.f, 6.f) * (1.f / 6.f); }
};
struct LeakyReluOf {
  float alpha;
  DWS_DEVICE float operator()(float x) const { return x < 0.f ? alpha * x : x; }
};
template <bool kFast>
struct SigmoidOf {
  DWS_DEVICE float operator()(float x) const { return Quotient<kFast>(1.f, 1.f + Exp<kFast>(-x)); }
};
template <bool kFast>
struct SiluOf {
  DWS_DEVICE float operator()(float x) const { return Quotient<kFast>(x, 1.f + Exp<kFast>(-x)); }
};

// x times the normal distribution's integral. Its fast form is by a polynomial of 1 / (1 + |x| p) times e^(-x^2 / 2)
// (Abramowitz and Stegun, 7.1.26: 1.5e-7 at most from erf), which is small itself where x is far below zero, so that
// nothing cancels there.
template <bool kFast>
struct GeluOf {
  DWS_DEVICE float operator()(float x) const { return 0.5f * x * (1.f + erff(x * 0.70710678118654752f)); }
};
template <>
struct GeluOf<true> {
  DWS_DEVICE float operator()(float x) const {
    const float t = ApproximateReciprocal(fmaf(fabsf(x), 0.3275911f * 0.70710678f, 1.f));
    float series = fmaf(t, 0.5f * 1.061405429f, 0.5f * -1.453152027f);
    series = fmaf(t, series, 0.5f * 1.421413741f);
    series = fmaf(t, series, 0.5f * -0.284496736f);
    series = fmaf(t, series, 0.5f * 0.254829592f);
    const float tail = t * series * ApproximateExp2(x * x * (-0.5f * 1.44269504f));
    return x * (x < 0.f ? tail : 1.f - tail);
  }
};

template <bool kFast>
struct TanhOf {
  DWS_DEVICE float operator()(float x) const { return tanhf(x); }
};
// A quotient of polynomials fitted to [-5, 5], right to 2.3e-6 of the result; past that 16 bits have 1. There is
// nothing to choose at the end of it: a kernel has 64 values in registers, and no second one for each.
template <>
struct TanhOf<true> {
  DWS_DEVICE float operator()(float x) const {
    x = Clamp(x, -5.f, 5.f);
    const float square = x * x;
    const float over = fmaf(fmaf(square, 25.39668f, 1809.1042f), square, 15513.082f);
    const float under = fmaf(fmaf(square + 283.94925f, square, 6979.89f), square, 15513.113f);
    return x * over * ApproximateReciprocal(under);
  }
};

struct SameOf {
  DWS_DEVICE float operator()(float x) const { return x; }
};

// f(what computes the activation of one float), for results of element type T. Callers have it outside their loops: a
// choice for each value would be a jump for each.
template <typename T, typename F>
DWS_DEVICE void WithActivation(DeviceActivation activation, F f) {
  constexpr bool kFast = sizeof(T) == 2;
  switch (static_cast<ActivationKind>(activation.kind)) {
    case ActivationKind::kRelu:
      return f(ReluOf());
    case ActivationKind::kRelu6:
      return f(Relu6Of());
    case ActivationKind::kHardSwish:
      return f(HardSwishOf());
    case ActivationKind::kSilu:
      return f(SiluOf<kFast>());
    case ActivationKind::kGelu:
      return f(GeluOf<kFast>());
    case ActivationKind::kLeakyRelu:
      return f(LeakyReluOf{activation.alpha});
    case ActivationKind::kSigmoid:
      return f(SigmoidOf<kFast>());
    case ActivationKind::kTanh:
      return f(TanhOf<kFast>());
    case ActivationKind::kNone:
    case ActivationKind::kElu:  // the planners refuse these
    case ActivationKind::kMish:
    case ActivationKind::kGeluTanh:
    case ActivationKind::kBoundedRelu:
    case ActivationKind::kPRelu:
      break;
  }
  f(SameOf());
}

// Of one float: for kernels with an output a thread.
template <typename T>
DWS_DEVICE float Activate(float x, DeviceActivation activation) {
  WithActivation<T>(activation, [&x](auto compute) { x = compute(x); });
  return x;
}

// The clamps of elements that are words of two already: between numbers that they have, a clamp after the rounding
// gives the same, two elements at a time. Whoever has another activation is clamped to [-inf, inf].
struct WordClamp {
  uint32_t low, high;
  bool acts;

  template <typename T>
  DWS_DEVICE static WordClamp Of(DeviceActivation activation, T) {
    const bool clamps = IsClampKind(activation.kind) && activation.kind != static_cast<int>(ActivationKind::kNone);
    const float low = clamps ? 0.f : -INFINITY;
    const float high = activation.kind == static_cast<int>(ActivationKind::kRelu6) ? 6.f : INFINITY;
    const float lows[2] = {low, low}, highs[2] = {high, high};
    return {NarrowWord(lows, T()), NarrowWord(highs, T()), clamps};
  }
  DWS_DEVICE static WordClamp Of(DeviceActivation, float) { return {}; }

  template <typename T>
  DWS_DEVICE uint32_t operator()(uint32_t word, T) const {
    return ClampWord(word, low, high, T());
  }
  DWS_DEVICE uint32_t operator()(uint32_t word, float) const { return word; }

  // Of all words, behind one branch.
  template <int kCount, typename T>
  DWS_DEVICE void All(uint32_t (&words)[kCount], T) const {
    if (!acts) return;
    DWS_UNROLL
    for (int i = 0; i < kCount; ++i) words[i] = (*this)(words[i], T());
  }
};

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

// Applies an activation to values in registers whose results become elements of T. Clamps of 16-bit elements are left
// to WordClamp where the caller `clamps_words`.
template <typename T, int kGroups, int kLength>
DWS_DEVICE void ActivateAll(float (&values)[kGroups][kLength], DeviceActivation activation, bool clamps_words = false) {
  if (activation.kind == static_cast<int>(ActivationKind::kNone)) return;
  if (IsClampKind(activation.kind)) {
    if (sizeof(T) == 2 && clamps_words) return;
    DWS_UNROLL
    for (int g = 0; g < kGroups; ++g) {
      DWS_UNROLL
      for (int i = 0; i < kLength; ++i) values[g][i] = MaxOrNan(values[g][i], 0.f);
    }
    if (activation.kind != static_cast<int>(ActivationKind::kRelu6)) return;
    DWS_UNROLL
    for (int g = 0; g < kGroups; ++g) {
      DWS_UNROLL
      for (int i = 0; i < kLength; ++i) values[g][i] = MinOrNan(values[g][i], 6.f);
    }
    return;
  }
  WithActivation<T>(activation, [&values](auto compute) {
    if constexpr (sizeof(T) == 4) {
      InGroups(values, compute);
    } else {
      // Few instructions each: to move groups in and out of one copy of them would cost as much.
      DWS_UNROLL
      for (int g = 0; g < kGroups; ++g) {
        DWS_UNROLL
        for (int i = 0; i < kLength; ++i) values[g][i] = compute(values[g][i]);
      }
    }
  });
}

}  // namespace cuda
}  // namespace dwsconv

#endif  // DWSCONV_CUDA_DEVICE_ACTIVATION_CUH_
