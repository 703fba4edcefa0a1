// Derivatives of the activations on one Vec. Part of a kernel's translation unit: include after activation_body.h.
#ifndef DWSCONV_CPU_KERNELS_DERIVATIVE_BODY_H_
#define DWSCONV_CPU_KERNELS_DERIVATIVE_BODY_H_

#include "cc/core/chain.h"

namespace dwsconv {
namespace {

// Phi(x) + x phi(x), with erfc as in Gelu.
inline Vec GeluDerivative(Vec x) {
  const Vec zero = Set1(0.0f);
  const Vec a = (x < zero ? -x : x) * Set1(0.70710678118654752f);
  const Vec bell = Exp(-a * a);
  const Vec t = Set1(1.0f) / Fma(Set1(0.3275911f), a, Set1(1.0f));
  Vec p = Set1(1.061405429f);
  p = Fma(p, t, Set1(-1.453152027f));
  p = Fma(p, t, Set1(1.421413741f));
  p = Fma(p, t, Set1(-0.284496736f));
  p = Fma(p, t, Set1(0.254829592f));
  const Vec half_erfc = Set1(0.5f) * p * t * bell;
  const Vec phi = x < zero ? half_erfc : Set1(1.0f) - half_erfc;
  return Fma(x * Set1(0.39894228040143268f), bell, phi);
}

inline Vec MishDerivative(Vec x) {
  const Vec two = Set1(2.0f), exp = MishExp(x);
  const Vec w = MishTerm(exp), inverse = Reciprocal(w + two);
  // (1 - tanh^2) sigmoid(x) = 4 e^x (1 + e^x) / (w + 2)^2, which vanishes before a large x does harm.
  const Vec bounded = MinSecondOnNan(Set1(20.0f), x);
  return Fma(bounded * Set1(4.0f) * exp * (exp + Set1(1.0f)) * inverse, inverse, w * inverse);
}

inline Vec GeluTanhDerivative(Vec x) {
  const Vec one = Set1(1.0f), limit = Set1(30.0f);
  x = MinSecondOnNan(limit, MaxSecondOnNan(-limit, x));  // 0 or 1 from there on
  const Vec exp = Exp(MinSecondOnNan(Set1(80.0f), -GeluTanhTwice(x)));
  const Vec s = Reciprocal(one + exp);  // and exp * s is 1 - s without cancellation
  const Vec slope = Fma(Set1(3 * 0.0713548162726f), x * x, Set1(1.59576912160573f));
  return Fma(x * slope * s, exp * s, s);
}

// grad * activation'(at). Where the derivative is 0 so is the result, whatever the gradient; at a kink the derivative
// is that of TensorFlow's own ops. The kind is that of `activation`, and a constant where it matters.
inline __attribute__((always_inline)) Vec ApplyDerivative(Vec grad, Vec at, ActivationKind kind,
                                                          const Activation& activation) {
  const Vec zero = Set1(0.0f), one = Set1(1.0f);
  switch (kind) {
    case ActivationKind::kNone:
      return grad;
    case ActivationKind::kRelu:
      if (activation.max_value < __builtin_inff()) {
        const Vec below = at < Set1(activation.max_value) ? grad : zero;
        return at > zero ? below : zero;
      }
      return at > zero ? grad : zero;
    case ActivationKind::kRelu6: {
      const Vec below = at < Set1(6.0f) ? grad : zero;
      return at > zero ? below : zero;
    }
    case ActivationKind::kHardSwish: {
      const Vec middle = grad * Fma(at, Set1(1.0f / 3.0f), Set1(0.5f));
      const Vec left = at > Set1(-3.0f) ? middle : zero;
      return at < Set1(3.0f) ? left : grad;
    }
    case ActivationKind::kSilu: {
      const Vec s = Sigmoid(at);
      return grad * s * Fma(at, one - s, one);
    }
    case ActivationKind::kGelu:
      return grad * GeluDerivative(at);
    case ActivationKind::kLeakyRelu:
      return at > zero ? grad : grad * Set1(activation.alpha);
    case ActivationKind::kSigmoid:
      return grad * at * (one - at);
    case ActivationKind::kTanh:
      return grad * (one - at * at);
    case ActivationKind::kElu: {
      const Vec factor = Set1(activation.alpha);
      if (activation.alpha < 0) return at > zero ? grad : grad * factor * Exp(MinSecondOnNan(zero, at));
      return at > zero ? grad : grad * (at + factor);
    }
    case ActivationKind::kMish:
      return grad * MishDerivative(at);
    case ActivationKind::kGeluTanh:
      return grad * GeluTanhDerivative(at);
    case ActivationKind::kBoundedRelu: {
      const Vec above = at < Set1(activation.max_value) ? grad : zero;
      const Vec below = activation.alpha == 0 ? zero : grad * Set1(activation.alpha);
      return at > Set1(activation.threshold) ? above : below;
    }
    case ActivationKind::kPRelu:
      break;  // its gradient is stock TensorFlow's
  }
  return grad;
}

// The same of an activation whose kind is a constant, from what went into it; at_input: that is where it is taken.
template <ActivationKind kKind, Formula kFormula>
inline __attribute__((always_inline)) Vec Through(const ActivationAs<kKind, kFormula>& activate, Vec grad, Vec before,
                                                  bool at_input) {
  return ApplyDerivative(grad, at_input ? before : activate(before), kKind, activate.a);
}

void Derivative(const DerivativeArgs& a) {
  for (int64_t i = 0; i < a.pixels; ++i) {
    const float* at = a.at + i * a.at_pixel;
    float* grad = a.grad + i * a.grad_pixel;
    for (int64_t c = 0; c < a.padded; c += kV) {
      Store(grad + c, ApplyDerivative(Load(grad + c), Load(at + c), a.activation.kind, a.activation));
    }
  }
}

void ActivateAll(const ActivateArgs& a) {
  for (int64_t i = 0; i < a.pixels; ++i) {
    for (int64_t c = 0; c < a.padded; c += kV) {
      const int64_t at = i * a.pixel + c;
      Store(a.to + at, Activate(Load(a.from + at), a.activation.kind, a.activation));
    }
  }
}

}  // namespace
}  // namespace dwsconv

#endif  // DWSCONV_CPU_KERNELS_DERIVATIVE_BODY_H_
