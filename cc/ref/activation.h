// Activations of one number, in float or double: what the plain loops share.
#ifndef DWSCONV_REF_ACTIVATION_H_
#define DWSCONV_REF_ACTIVATION_H_

#include <cmath>

#include "cc/core/chain.h"

namespace dwsconv {

template <typename Real>
inline Real Activate(Real x, const Activation& activation) {
  switch (activation.kind) {
    case ActivationKind::kNone:
      return x;
    case ActivationKind::kRelu:
      if (x > static_cast<Real>(activation.max_value)) return static_cast<Real>(activation.max_value);
      return x < 0 ? Real{0} : x;  // this way round a NaN stays one
    case ActivationKind::kRelu6:
      return x < 0 ? Real{0} : (x > 6 ? Real{6} : x);
    case ActivationKind::kHardSwish: {
      const Real gate = x + 3 < 0 ? Real{0} : (x + 3 > 6 ? Real{6} : x + 3);
      return x * gate / 6;
    }
    case ActivationKind::kSilu:
      return x / (1 + std::exp(-x));
    case ActivationKind::kGelu:
      return Real{0.5} * x * std::erfc(-x * static_cast<Real>(0.70710678118654752440));
    case ActivationKind::kLeakyRelu:
      return x < 0 ? x * static_cast<Real>(activation.alpha) : x;
    case ActivationKind::kSigmoid:
      return 1 / (1 + std::exp(-x));
    case ActivationKind::kTanh:
      return std::tanh(x);
    case ActivationKind::kElu:
      return x > 0 ? x : static_cast<Real>(activation.alpha) * std::expm1(x);
    case ActivationKind::kMish:
      return x > 20 ? x : x * std::tanh(std::log1p(std::exp(x)));
    case ActivationKind::kGeluTanh: {
      const Real u = static_cast<Real>(0.79788456080286535588) * (x + static_cast<Real>(0.044715) * x * x * x);
      return x / (1 + std::exp(-2 * u));
    }
    case ActivationKind::kBoundedRelu: {
      const Real threshold = static_cast<Real>(activation.threshold);
      if (x > static_cast<Real>(activation.max_value)) return static_cast<Real>(activation.max_value);
      if (x > threshold) return x;
      if (activation.alpha == 0) return x <= threshold ? Real{0} : x;  // a NaN stays one
      return (x - threshold) * static_cast<Real>(activation.alpha);
    }
    case ActivationKind::kPRelu:
      break;  // its slopes are weights
  }
  return x;
}

}  // namespace dwsconv

#endif  // DWSCONV_REF_ACTIVATION_H_
