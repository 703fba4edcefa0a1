#include "cc/ref/reference.h"

#include <cmath>
#include <vector>

#include "cc/core/half.h"
#include "cc/core/parallel.h"
#include "cc/ref/activation.h"

namespace dwsconv {
namespace {

// Offset of element (n, h, w, c) in a [N,H,W,C] or [N,C,H,W] tensor.
int64_t Offset(Layout layout, int64_t H, int64_t W, int64_t C, int64_t n, int64_t h, int64_t w, int64_t c) {
  return layout == Layout::kNHWC ? ((n * H + h) * W + w) * C + c : ((n * C + c) * H + h) * W + w;
}

template <typename T>
class Reference {
 public:
  Reference(const Chain& chain, const Buffers& buffers) : p_(chain), b_(buffers) {}

  void Row(int64_t n, int64_t ho) const {
    std::vector<double> z;
    for (int64_t wo = 0; wo < p_.Wo; ++wo) {
      Between(n, ho, wo, &z);
      for (int64_t k = 0; k < p_.K; ++k) {
        double sum = p_.has_project ? 0 : z[k];
        for (size_t i = 0; i < z.size() && p_.has_project; ++i) {
          sum += z[i] * At(b_.pointwise_filter, static_cast<int64_t>(i) * p_.K + k);
        }
        const int64_t at = Offset(p_.layout, p_.Ho, p_.Wo, p_.K, n, ho, wo, k);
        if (b_.bias != nullptr) sum += At(b_.bias, k);
        if (b_.residual != nullptr) sum += At(b_.residual, at);
        if (p_.has_project) sum = Activated(sum, p_.out, b_.slopes, k);
        static_cast<T*>(b_.output)[at] = FromFloat<T>(static_cast<float>(sum));
      }
    }
  }

 private:
  static double At(const void* from, int64_t i) { return ToFloat(static_cast<const T*>(from)[i]); }

  static double Activated(double x, const Activation& activation, const void* slopes, int64_t i) {
    if (activation.kind == ActivationKind::kPRelu) return x < 0 ? x * At(slopes, i) : x;
    return Activate(x, activation);
  }

  // A of a pixel inside the image.
  void Expanded(int64_t n, int64_t h, int64_t w, std::vector<double>* a) const {
    const int64_t channels = p_.x_channels();
    const auto x = [&](int64_t c) { return At(b_.input, Offset(p_.layout, p_.H, p_.W, channels, n, h, w, c)); };
    a->assign(static_cast<size_t>(p_.C), 0);
    for (int64_t c = 0; c < p_.C; ++c) {
      double& sum = (*a)[static_cast<size_t>(c)];
      if (p_.E == 0) {
        sum = x(c);
        continue;
      }
      for (int64_t e = 0; e < p_.E; ++e) sum += x(e) * At(b_.expand_filter, e * p_.C + c);
      if (b_.expand_bias != nullptr) sum += At(b_.expand_bias, c);
      sum = Activated(sum, p_.expand, b_.expand_slopes, c);
    }
  }

  // Z of an output pixel; where there is no depthwise convolution, what lies under the window.
  void Between(int64_t n, int64_t ho, int64_t wo, std::vector<double>* z) const {
    const int64_t taps = p_.R * p_.S, CM = p_.has_depthwise ? p_.CM() : taps * p_.C;
    std::vector<double> a;
    z->assign(static_cast<size_t>(CM), 0);
    for (int64_t tap = 0; tap < taps; ++tap) {
      const int64_t h = ho * p_.stride_h - p_.pad_top + tap / p_.S * p_.dilation_h;
      const int64_t w = wo * p_.stride_w - p_.pad_left + tap % p_.S * p_.dilation_w;
      if (h < 0 || h >= p_.H || w < 0 || w >= p_.W) continue;
      Expanded(n, h, w, &a);
      for (int64_t c = 0; c < p_.C; ++c) {
        const double value = a[static_cast<size_t>(c)];
        if (!p_.has_depthwise) {
          (*z)[static_cast<size_t>(tap * p_.C + c)] = value;
          continue;
        }
        for (int64_t cm = c * p_.M; cm < (c + 1) * p_.M; ++cm) {
          (*z)[static_cast<size_t>(cm)] += value * At(b_.depthwise_filter, tap * CM + cm);
        }
      }
    }
    double mean = 0, variance = 0;
    for (int64_t cm = 0; cm < CM; ++cm) {
      double& value = (*z)[static_cast<size_t>(cm)];
      if (p_.has_depthwise && b_.depthwise_bias != nullptr) value += At(b_.depthwise_bias, cm);
      if (p_.has_depthwise) value = Activated(value, p_.mid, b_.depthwise_slopes, cm);
      mean += value / static_cast<double>(CM);
    }
    if (p_.normalize) {
      for (double value : *z) variance += (value - mean) * (value - mean) / static_cast<double>(CM);
      for (double& value : *z) value = (value - mean) / std::sqrt(variance + static_cast<double>(p_.epsilon));
    }
    for (int64_t cm = 0; cm < CM && p_.has_gate; ++cm) (*z)[static_cast<size_t>(cm)] *= At(b_.gate, n * CM + cm);
  }

  const Chain& p_;
  const Buffers& b_;
};

}  // namespace

void ForwardReference(const Chain& chain, const Buffers& buffers, int threads) {
  WithType(chain.dtype, [&](auto type) {
    const Reference<decltype(type)> reference(chain, buffers);
    ParallelFor(threads, chain.N * chain.Ho,
                [&](int64_t task, int) { reference.Row(task / chain.Ho, task % chain.Ho); });
  });
}

}  // namespace dwsconv
