// Activations of one number, in float or double: what the plain loops share.
#ifndef DWSCONV_REF_ACTIVATION_H_
#define DWSCONV_REF_ACTIVATION_H_

#include <cmath>

#include "cc/core/problem.h"

namespace dwsconv {

template <typename Real>
inline Real Activate(Real x, Activation activation) {
  switch (activation.kind) {
    case ActivationKind::kNone:
      return x;
    case ActivationKind::kRelu:
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
  }
  return x;
}

}  // namespace dwsconv

#endif  // DWSCONV_REF_ACTIVATION_H_
