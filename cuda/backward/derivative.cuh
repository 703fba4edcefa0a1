// The activations' derivatives on floats in registers.
#ifndef DWSCONV_CUDA_BACKWARD_DERIVATIVE_CUH_
#define DWSCONV_CUDA_BACKWARD_DERIVATIVE_CUH_

#include "cuda/device/activation.cuh"
#include "cuda/device/platform.cuh"

namespace dwsconv {
namespace cuda {

// gradient * activation', from what came out of the activation: for those where that tells it. Where the derivative is
// 0 so is the result, whatever the gradient; at a kink as TensorFlow's own ops.
DWS_DEVICE float ScaleFromOutput(float gradient, float y, DeviceActivation activation) {
  switch (static_cast<ActivationKind>(activation.kind)) {
    case ActivationKind::kRelu:
      return y > 0.f ? gradient : 0.f;
    case ActivationKind::kRelu6:
      return y > 0.f && y < 6.f ? gradient : 0.f;
    case ActivationKind::kLeakyRelu:
      return y > 0.f ? gradient : gradient * activation.alpha;
    case ActivationKind::kSigmoid:
      return gradient * y * (1.f - y);
    case ActivationKind::kTanh:
      return gradient * (1.f - y * y);
    default:
      return gradient;
  }
}

// The same of several at a time: for clamps one choice, and none for each of them.
template <int kCount>
DWS_DEVICE void ScaleAllFromOutput(float (&gradients)[kCount], const float (&y)[kCount], DeviceActivation activation) {
  if (activation.kind == static_cast<int>(ActivationKind::kRelu) ||
      activation.kind == static_cast<int>(ActivationKind::kRelu6)) {
    // No number is above NaN.
    const float high = activation.kind == static_cast<int>(ActivationKind::kRelu6) ? 6.f : NAN;
    DWS_UNROLL
    for (int i = 0; i < kCount; ++i) gradients[i] = y[i] > 0.f && !(y[i] >= high) ? gradients[i] : 0.f;
    return;
  }
  DWS_UNROLL
  for (int i = 0; i < kCount; ++i) gradients[i] = ScaleFromOutput(gradients[i], y[i], activation);
}

// activation', from what went in.
DWS_DEVICE float DerivativeAt(float x, DeviceActivation activation) {
  switch (static_cast<ActivationKind>(activation.kind)) {
    case ActivationKind::kHardSwish:
      return x >= 3.f ? 1.f : x > -3.f ? fmaf(x, 1.f / 3.f, 0.5f) : 0.f;
    case ActivationKind::kSilu: {
      const float s = 1.f / (1.f + expf(-x));
      return s * fmaf(x, 1.f - s, 1.f);
    }
    case ActivationKind::kGelu:
      return fmaf(x * 0.39894228040143268f, expf(-0.5f * x * x), 0.5f * (1.f + erff(x * 0.70710678118654752f)));
    case ActivationKind::kLeakyRelu:
      return x > 0.f ? 1.f : activation.alpha;
    default:
      return 1.f;  // kernels come here for the activations above alone
  }
}

// gradient * factor, and 0 where the factor is, whatever the gradient.
DWS_DEVICE float Scale(float gradient, float factor) { return factor == 0.f ? 0.f : gradient * factor; }

// Puts DerivativeAt of each value in its place.
template <int kGroups, int kLength>
DWS_DEVICE void DerivativeOfAll(float (&values)[kGroups][kLength], DeviceActivation activation) {
  InGroups(values, [&](float value) { return DerivativeAt(value, activation); });
}

}  // namespace cuda
}  // namespace dwsconv

#endif  // DWSCONV_CUDA_BACKWARD_DERIVATIVE_CUH_
