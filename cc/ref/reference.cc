#include "cc/ref/reference.h"

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
void Run(const Chain& p, const Buffers& b, int threads) {
  const T* X = static_cast<const T*>(b.input);
  const T* D = static_cast<const T*>(b.depthwise_filter);
  const T* P = static_cast<const T*>(b.pointwise_filter);
  const T* depthwise_bias = static_cast<const T*>(b.depthwise_bias);
  const T* bias = static_cast<const T*>(b.bias);
  const T* residual = static_cast<const T*>(b.residual);
  T* Y = static_cast<T*>(b.output);
  const int64_t CM = p.CM();
  ParallelFor(threads, p.N * p.Ho, [&](int64_t task, int) {
    const int64_t n = task / p.Ho, ho = task % p.Ho;
    std::vector<double> z(CM);
    for (int64_t wo = 0; wo < p.Wo; ++wo) {
      for (int64_t cm = 0; cm < CM; ++cm) {
        double sum = 0;
        for (int64_t r = 0; r < p.R; ++r) {
          const int64_t h = ho * p.stride_h - p.pad_top + r * p.dilation_h;
          if (h < 0 || h >= p.H) continue;
          for (int64_t s = 0; s < p.S; ++s) {
            const int64_t w = wo * p.stride_w - p.pad_left + s * p.dilation_w;
            if (w < 0 || w >= p.W) continue;
            sum += static_cast<double>(ToFloat(X[Offset(p.layout, p.H, p.W, p.C, n, h, w, cm / p.M)])) *
                   ToFloat(D[(r * p.S + s) * CM + cm]);
          }
        }
        if (depthwise_bias) sum += ToFloat(depthwise_bias[cm]);
        z[cm] = Activate(sum, p.mid);
      }
      for (int64_t k = 0; k < p.K; ++k) {
        double sum = 0;
        for (int64_t cm = 0; cm < CM; ++cm) sum += z[cm] * ToFloat(P[cm * p.K + k]);
        const int64_t at = Offset(p.layout, p.Ho, p.Wo, p.K, n, ho, wo, k);
        if (bias) sum += ToFloat(bias[k]);
        if (residual) sum += ToFloat(residual[at]);
        Y[at] = FromFloat<T>(static_cast<float>(Activate(sum, p.out)));
      }
    }
  });
}

}  // namespace

void ForwardReference(const Chain& chain, const Buffers& buffers, int threads) {
  WithType(chain.dtype, [&](auto type) { return Run<decltype(type)>(chain, buffers, threads); });
}

}  // namespace dwsconv
