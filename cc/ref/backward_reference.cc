#include "cc/ref/backward_reference.h"

#include <algorithm>
#include <cmath>

#include "cc/core/aligned_buffer.h"
#include "cc/core/half.h"
#include "cc/core/parallel.h"
#include "cc/ref/activation.h"

namespace dwsconv {
namespace {

// activation'(x), from what went in. At a kink as TensorFlow's own ops.
double Derivative(double x, const Activation& activation) {
  constexpr double kRootHalf = 0.70710678118654752440, kBell = 0.39894228040143267794;
  switch (activation.kind) {
    case ActivationKind::kNone:
      return 1;
    case ActivationKind::kRelu:
      return x > 0 && (x < activation.max_value || std::isinf(activation.max_value)) ? 1 : 0;
    case ActivationKind::kRelu6:
      return x > 0 && x < 6 ? 1 : 0;
    case ActivationKind::kHardSwish:
      return x >= 3 ? 1 : (x > -3 ? x / 3 + 0.5 : 0);
    case ActivationKind::kSilu: {
      const double s = 1 / (1 + std::exp(-x));
      return s * (1 + x * (1 - s));
    }
    case ActivationKind::kGelu:
      return 0.5 * std::erfc(-x * kRootHalf) + x * kBell * std::exp(-0.5 * x * x);
    case ActivationKind::kLeakyRelu:
      return x > 0 ? 1 : static_cast<double>(activation.alpha);
    case ActivationKind::kSigmoid: {
      const double s = 1 / (1 + std::exp(-x));
      return s * (1 - s);
    }
    case ActivationKind::kTanh:
      return 1 - std::tanh(x) * std::tanh(x);
    case ActivationKind::kElu:
      return x > 0 ? 1 : activation.alpha * std::exp(x);
    case ActivationKind::kMish: {
      const double t = std::tanh(std::log1p(std::exp(std::min(x, 40.0))));
      return t + x * (1 - t * t) / (1 + std::exp(-x));
    }
    case ActivationKind::kGeluTanh: {
      constexpr double kRoot = 0.79788456080286535588, kCubic = 0.044715;
      const double s = 1 / (1 + std::exp(-2 * kRoot * (x + kCubic * x * x * x)));
      return s + x * s * (1 - s) * 2 * kRoot * (1 + 3 * kCubic * x * x);
    }
    case ActivationKind::kBoundedRelu:
      if (x > activation.threshold) return x < activation.max_value ? 1 : 0;
      return activation.alpha;
    case ActivationKind::kPRelu:
      break;
  }
  return 1;
}

// activation'(x), from what came out, for those where that tells it.
double DerivativeFromOutput(double y, const Activation& activation) {
  if (activation.kind == ActivationKind::kSigmoid) return y * (1 - y);
  if (activation.kind == ActivationKind::kTanh) return 1 - y * y;
  if (activation.kind == ActivationKind::kElu) return y > 0 ? 1 : y + activation.alpha;
  return Derivative(y, activation);  // the sign and the bound are those of what went in
}

// Offset of element (n, h, w, c) of a tensor in the chain's layout.
int64_t Offset(Layout layout, int64_t H, int64_t W, int64_t C, int64_t n, int64_t h, int64_t w, int64_t c) {
  return layout == Layout::kNHWC ? ((n * H + h) * W + w) * C + c : ((n * C + c) * H + h) * W + w;
}

template <typename T>
class Pass {
 public:
  Pass(const Chain& p, const BackwardBuffers& b, int threads)
      : p_(p), b_(b), threads_(threads), CM_(p.CM()), pixels_(p.N * p.Ho * p.Wo) {}

  bool Run() {
    z_ = AllocateAligned<double>(pixels_ * CM_);
    dz_ = AllocateAligned<double>(pixels_ * CM_);
    dy_ = AllocateAligned<double>(pixels_ * p_.K);
    if (!z_ || !dz_ || !dy_) return false;
    ParallelFor(threads_, pixels_, [&](int64_t pixel, int) { Pixel(pixel); });
    ParallelFor(threads_, CM_, [&](int64_t cm, int) { Filters(cm); });
    if (b_.d_bias) {
      for (int64_t k = 0; k < p_.K; ++k) {
        double sum = 0;
        for (int64_t i = 0; i < pixels_; ++i) sum += dy_[i * p_.K + k];
        Put(b_.d_bias, k, sum);
      }
    }
    if (b_.d_input) ParallelFor(threads_, p_.N * p_.H, [&](int64_t row, int) { InputRow(row / p_.H, row % p_.H); });
    return true;
  }

 private:
  static double Get(const void* from, int64_t at) { return ToFloat(static_cast<const T*>(from)[at]); }
  static void Put(void* to, int64_t at, double v) { static_cast<T*>(to)[at] = FromFloat<T>(static_cast<float>(v)); }
  int64_t X(int64_t n, int64_t h, int64_t w, int64_t c) const {
    return Offset(p_.layout, p_.H, p_.W, p_.C, n, h, w, c);
  }

  // Calls visit(t, h, w) for the taps of output pixel (ho, wo) that lie inside the input.
  template <typename Visit>
  void Taps(int64_t ho, int64_t wo, const Visit& visit) const {
    for (int64_t r = 0; r < p_.R; ++r) {
      const int64_t h = ho * p_.stride_h - p_.pad_top + r * p_.dilation_h;
      if (h < 0 || h >= p_.H) continue;
      for (int64_t s = 0; s < p_.S; ++s) {
        const int64_t w = wo * p_.stride_w - p_.pad_left + s * p_.dilation_w;
        if (w >= 0 && w < p_.W) visit(r * p_.S + s, h, w);
      }
    }
  }

  // Z, dY before the activation, and dZ before the activation between the halves.
  void Pixel(int64_t pixel) {
    const int64_t n = pixel / (p_.Ho * p_.Wo), ho = pixel / p_.Wo % p_.Ho, wo = pixel % p_.Wo;
    double *z = z_.get() + pixel * CM_, *dz = dz_.get() + pixel * CM_, *dy = dy_.get() + pixel * p_.K;
    for (int64_t cm = 0; cm < CM_; ++cm) {
      double sum = 0;
      Taps(ho, wo, [&](int64_t t, int64_t h, int64_t w) {
        sum += Get(b_.input, X(n, h, w, cm / p_.M)) * Get(b_.depthwise_filter, t * CM_ + cm);
      });
      if (b_.depthwise_bias) sum += Get(b_.depthwise_bias, cm);
      z[cm] = Activate(sum, p_.mid);
      dz[cm] = Derivative(sum, p_.mid);
    }
    for (int64_t k = 0; k < p_.K; ++k) {
      const int64_t at = Offset(p_.layout, p_.Ho, p_.Wo, p_.K, n, ho, wo, k);
      double slope = 1;
      if (DerivativeFromInput(p_.out)) {
        double sum = 0;
        for (int64_t cm = 0; cm < CM_; ++cm) sum += z[cm] * Get(b_.pointwise_filter, cm * p_.K + k);
        if (b_.bias) sum += Get(b_.bias, k);
        if (b_.residual) sum += Get(b_.residual, at);
        slope = Derivative(sum, p_.out);
      } else if (p_.out.kind != ActivationKind::kNone) {
        slope = DerivativeFromOutput(Get(b_.output, at), p_.out);
      }
      dy[k] = slope == 0 ? 0 : slope * Get(b_.grad, at);
      if (b_.d_residual) Put(b_.d_residual, at, dy[k]);
    }
    for (int64_t cm = 0; cm < CM_; ++cm) {
      double sum = p_.has_project ? 0 : dy[cm];
      for (int64_t k = 0; p_.has_project && k < p_.K; ++k) sum += dy[k] * Get(b_.pointwise_filter, cm * p_.K + k);
      dz[cm] = dz[cm] == 0 ? 0 : dz[cm] * sum;
    }
  }

  void Filters(int64_t cm) {
    for (int64_t k = 0; b_.d_pointwise_filter && k < p_.K; ++k) {
      double sum = 0;
      for (int64_t i = 0; i < pixels_; ++i) sum += z_[i * CM_ + cm] * dy_[i * p_.K + k];
      Put(b_.d_pointwise_filter, cm * p_.K + k, sum);
    }
    if (b_.d_depthwise_bias) {
      double sum = 0;
      for (int64_t i = 0; i < pixels_; ++i) sum += dz_[i * CM_ + cm];
      Put(b_.d_depthwise_bias, cm, sum);
    }
    for (int64_t t = 0; b_.d_depthwise_filter && t < p_.R * p_.S; ++t) {
      double sum = 0;
      for (int64_t i = 0; i < pixels_; ++i) {
        const int64_t n = i / (p_.Ho * p_.Wo);
        const int64_t h = i / p_.Wo % p_.Ho * p_.stride_h - p_.pad_top + t / p_.S * p_.dilation_h;
        const int64_t w = i % p_.Wo * p_.stride_w - p_.pad_left + t % p_.S * p_.dilation_w;
        if (h < 0 || h >= p_.H || w < 0 || w >= p_.W) continue;
        sum += dz_[i * CM_ + cm] * Get(b_.input, X(n, h, w, cm / p_.M));
      }
      Put(b_.d_depthwise_filter, t * CM_ + cm, sum);
    }
  }

  void InputRow(int64_t n, int64_t h) {
    for (int64_t w = 0; w < p_.W; ++w) {
      for (int64_t c = 0; c < p_.C; ++c) {
        double sum = 0;
        for (int64_t r = 0; r < p_.R; ++r) {
          const int64_t y = h + p_.pad_top - r * p_.dilation_h;
          if (y < 0 || y % p_.stride_h != 0 || y / p_.stride_h >= p_.Ho) continue;
          for (int64_t s = 0; s < p_.S; ++s) {
            const int64_t x = w + p_.pad_left - s * p_.dilation_w;
            if (x < 0 || x % p_.stride_w != 0 || x / p_.stride_w >= p_.Wo) continue;
            const int64_t pixel = (n * p_.Ho + y / p_.stride_h) * p_.Wo + x / p_.stride_w;
            for (int64_t cm = c * p_.M; cm < (c + 1) * p_.M; ++cm) {
              sum += dz_[pixel * CM_ + cm] * Get(b_.depthwise_filter, (r * p_.S + s) * CM_ + cm);
            }
          }
        }
        Put(b_.d_input, X(n, h, w, c), sum);
      }
    }
  }

  const Chain& p_;
  const BackwardBuffers& b_;
  const int threads_;
  const int64_t CM_, pixels_;
  AlignedBuffer<double> z_, dz_, dy_;
};

}  // namespace

bool BackwardReference(const Chain& chain, const BackwardBuffers& buffers, int threads) {
  return WithType(chain.dtype, [&](auto type) { return Pass<decltype(type)>(chain, buffers, threads).Run(); });
}

}  // namespace dwsconv
