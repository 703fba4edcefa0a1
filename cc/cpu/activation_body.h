// Activations on one Vec. Part of a kernel's translation unit: include after a vec_<isa>.h.
#ifndef DWSCONV_CPU_ACTIVATION_BODY_H_
#define DWSCONV_CPU_ACTIVATION_BODY_H_

#include "cc/core/problem.h"

namespace dwsconv {
namespace {

// relu, relu6 and none are min(max(x, low), high): cheap enough to be always on in the kernels' stores. A NaN passes
// through, as in TensorFlow's own relu and relu6.
struct Clamp {
  Vec low, high;
};

inline Clamp MakeClamp(ActivationKind kind) {
  const float inf = __builtin_inff();
  const bool bounded = kind == ActivationKind::kRelu || kind == ActivationKind::kRelu6;
  return Clamp{Set1(bounded ? 0.0f : -inf), Set1(kind == ActivationKind::kRelu6 ? 6.0f : inf)};
}
inline Vec Apply(Vec v, const Clamp& clamp) { return MinSecondOnNan(clamp.high, MaxSecondOnNan(clamp.low, v)); }

// e^x to about 1 ulp: x = n ln2 + r, |r| <= ln2/2, and a polynomial for e^r of which the relative error is 2.6e-9 at
// most (minimax, by Remez' algorithm).
inline Vec Exp(Vec x) {
  x = MinSecondOnNan(Set1(89.0f), MaxSecondOnNan(Set1(-104.0f), x));
  const Vec n = RoundNearest(x * Set1(1.44269504088896341f));
  Vec r = Fma(n, Set1(-0.693145751953125f), x);  // ln2 in two parts: the first has few bits, so n times it is exact
  r = Fma(n, Set1(-1.428606820309417e-6f), r);
  Vec p = Set1(1.40612404e-3f);
  p = Fma(p, r, Set1(8.37901116e-3f));
  p = Fma(p, r, Set1(4.16647773e-2f));
  p = Fma(p, r, Set1(1.66663654e-1f));
  p = Fma(p, r, Set1(0.5f));
  p = Fma(p, r, Set1(1.0f));
  p = Fma(p, r, Set1(1.0f));
  return ScaleByPow2(p, n);
}

inline Vec Sigmoid(Vec x) { return Reciprocal(Set1(1.0f) + Exp(-x)); }

inline Vec Tanh(Vec x) {
  // Near zero the exponential form cancels; an odd polynomial (Cephes' tanhf, |x| < 0.625) keeps the relative error.
  const Vec s = x * x;
  Vec p = Set1(-5.70498872745e-3f);
  p = Fma(p, s, Set1(2.06390887954e-2f));
  p = Fma(p, s, Set1(-5.37397155531e-2f));
  p = Fma(p, s, Set1(1.33314422036e-1f));
  p = Fma(p, s, Set1(-3.33332819422e-1f));
  const Vec small = Fma(p * s, x, x);
  const Vec large = Fma(Set1(-2.0f), Reciprocal(Set1(1.0f) + Exp(x + x)), Set1(1.0f));
  return s < Set1(0.625f * 0.625f) ? small : large;
}

// x * Phi(x), Phi by Abramowitz & Stegun 7.1.26 for erfc (absolute error 1.5e-7). The tail is taken from erfc directly,
// so negative x suffer no cancellation.
inline Vec Gelu(Vec x) {
  const Vec zero = Set1(0.0f);
  const Vec a = (x < zero ? -x : x) * Set1(0.70710678118654752f);
  const Vec t = Reciprocal(Fma(Set1(0.3275911f), a, Set1(1.0f)));
  Vec p = Set1(1.061405429f);
  p = Fma(p, t, Set1(-1.453152027f));
  p = Fma(p, t, Set1(1.421413741f));
  p = Fma(p, t, Set1(-0.284496736f));
  p = Fma(p, t, Set1(0.254829592f));
  const Vec half_erfc = Set1(0.5f) * p * t * Exp(-a * a);
  return x * (x < zero ? half_erfc : Set1(1.0f) - half_erfc);
}

// Any activation; the kind is a constant where it matters.
inline __attribute__((always_inline)) Vec Activate(Vec x, ActivationKind kind, float alpha) {
  switch (kind) {
    case ActivationKind::kNone:
      return x;
    case ActivationKind::kRelu:
    case ActivationKind::kRelu6:
      return Apply(x, MakeClamp(kind));
    case ActivationKind::kHardSwish: {
      const Vec gate = Apply(x + Set1(3.0f), MakeClamp(ActivationKind::kRelu6));
      return x * gate * Set1(1.0f / 6.0f);
    }
    case ActivationKind::kSilu:
      return x * Sigmoid(x);
    case ActivationKind::kGelu:
      return Gelu(x);
    case ActivationKind::kLeakyRelu:
      return x < Set1(0.0f) ? x * Set1(alpha) : x;
    case ActivationKind::kSigmoid:
      return Sigmoid(x);
    case ActivationKind::kTanh:
      return Tanh(x);
  }
  return x;
}

template <ActivationKind kKind>
inline void ActivateRowAs(float* row, int64_t n, float alpha) {
  for (int64_t i = 0; i < n; i += kV) Store(row + i, Activate(Load(row + i), kKind, alpha));
}

// row[0:n] in place; n is a whole number of vectors. A loop for each kind, so that no vector waits for another's.
[[maybe_unused]] __attribute__((noinline)) void ActivateRow(float* row, int64_t n, Activation activation) {
  switch (activation.kind) {
    case ActivationKind::kNone:
      return;
    case ActivationKind::kRelu:
      return ActivateRowAs<ActivationKind::kRelu>(row, n, activation.alpha);
    case ActivationKind::kRelu6:
      return ActivateRowAs<ActivationKind::kRelu6>(row, n, activation.alpha);
    case ActivationKind::kHardSwish:
      return ActivateRowAs<ActivationKind::kHardSwish>(row, n, activation.alpha);
    case ActivationKind::kSilu:
      return ActivateRowAs<ActivationKind::kSilu>(row, n, activation.alpha);
    case ActivationKind::kGelu:
      return ActivateRowAs<ActivationKind::kGelu>(row, n, activation.alpha);
    case ActivationKind::kLeakyRelu:
      return ActivateRowAs<ActivationKind::kLeakyRelu>(row, n, activation.alpha);
    case ActivationKind::kSigmoid:
      return ActivateRowAs<ActivationKind::kSigmoid>(row, n, activation.alpha);
    case ActivationKind::kTanh:
      return ActivateRowAs<ActivationKind::kTanh>(row, n, activation.alpha);
  }
}

}  // namespace
}  // namespace dwsconv

#endif  // DWSCONV_CPU_ACTIVATION_BODY_H_
