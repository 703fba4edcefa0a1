#include "cc/lab/plain_steps.h"

#include <algorithm>

#include "cc/core/aligned_buffer.h"
#include "cc/core/half.h"
#include "cc/core/whole.h"
#include "cc/ref/activation.h"

namespace dwsconv {
namespace {

// The tensors of one call, with their element type.
template <typename T>
struct Arrays {
  Arrays(const Buffers& b, float* z)
      : X(static_cast<const T*>(b.input)),
        D(static_cast<const T*>(b.depthwise_filter)),
        P(static_cast<const T*>(b.pointwise_filter)),
        depthwise_bias(static_cast<const T*>(b.depthwise_bias)),
        bias(static_cast<const T*>(b.bias)),
        residual(static_cast<const T*>(b.residual)),
        Y(static_cast<T*>(b.output)),
        Z(z) {}
  const T *X, *D, *P, *depthwise_bias, *bias, *residual;
  T* Y;
  float* Z;  // [N*Ho*Wo][C*M]
};

template <typename T>
float At(const T* bias, int64_t i) {
  return bias ? ToFloat(bias[i]) : 0.0f;
}

// Y[at] from its sum, which has the bias in it already.
template <typename T>
void Finish(const Arrays<T>& a, const Activation& activation, int64_t at, float sum) {
  if (a.residual) sum += ToFloat(a.residual[at]);
  a.Y[at] = FromFloat<T>(Activate(sum, activation));
}

// --- Naive: image, channel, multiplier, column, row, filter column, filter row, and a store for each multiply-add.

template <typename T>
void NaiveDepthwise(const Chain& p, const Arrays<T>& a) {
  const int64_t CM = p.CM();
  for (int64_t n = 0; n < p.N; ++n) {
    for (int64_t c = 0; c < p.C; ++c) {
      for (int64_t m = 0; m < p.M; ++m) {
        const int64_t cm = c * p.M + m;
        for (int64_t wo = 0; wo < p.Wo; ++wo) {
          for (int64_t ho = 0; ho < p.Ho; ++ho) {
            // X may overlap Z for all the compiler knows, so each tap's sum is stored.
            float* z = a.Z + ((n * p.Ho + ho) * p.Wo + wo) * CM + cm;
            *z = At(a.depthwise_bias, cm);
            for (int64_t s = 0; s < p.S; ++s) {
              for (int64_t r = 0; r < p.R; ++r) {
                const int64_t h = ho * p.stride_h - p.pad_top + r * p.dilation_h;
                const int64_t w = wo * p.stride_w - p.pad_left + s * p.dilation_w;
                if (h < 0 || h >= p.H || w < 0 || w >= p.W) continue;
                *z += ToFloat(a.X[((n * p.H + h) * p.W + w) * p.C + c]) * ToFloat(a.D[(r * p.S + s) * CM + cm]);
              }
            }
            *z = Activate<float>(*z, p.mid);
          }
        }
      }
    }
  }
}

// Image, output channel, column, row, channel.
template <typename T>
void NaivePointwise(const Chain& p, const Arrays<T>& a) {
  const int64_t CM = p.CM();
  for (int64_t n = 0; n < p.N; ++n) {
    for (int64_t k = 0; k < p.K; ++k) {
      for (int64_t wo = 0; wo < p.Wo; ++wo) {
        for (int64_t ho = 0; ho < p.Ho; ++ho) {
          const int64_t pixel = (n * p.Ho + ho) * p.Wo + wo;
          float sum = At(a.bias, k);
          for (int64_t cm = 0; cm < CM; ++cm) sum += a.Z[pixel * CM + cm] * ToFloat(a.P[cm * p.K + k]);
          Finish(a, p.out, pixel * p.K + k, sum);
        }
      }
    }
  }
}

// --- Storage order: image, row, column, tap, and the channels innermost, where X, D and Z are contiguous.

// z[c*M+m] += x[c] * d[c*M+m] for kTaps taps of a filter row at once: one load and one store of z for all of them.
template <int kTaps, typename T>
inline void AddTaps(const T* x, int64_t tap_step, const T* d, int64_t filter_step, int64_t C, int64_t M, float* z) {
  if (M == 1) {
    for (int64_t c = 0; c < C; ++c) {
      float sum = ToFloat(x[c]) * ToFloat(d[c]);
#pragma GCC unroll 8
      for (int i = 1; i < kTaps; ++i) sum += ToFloat(x[i * tap_step + c]) * ToFloat(d[i * filter_step + c]);
      z[c] += sum;
    }
    return;
  }
  for (int64_t c = 0; c < C; ++c, d += M, z += M) {
    float v[kTaps];
#pragma GCC unroll 8
    for (int i = 0; i < kTaps; ++i) v[i] = ToFloat(x[i * tap_step + c]);
    for (int64_t m = 0; m < M; ++m) {
      float sum = v[0] * ToFloat(d[m]);
#pragma GCC unroll 8
      for (int i = 1; i < kTaps; ++i) sum += v[i] * ToFloat(d[i * filter_step + m]);
      z[m] += sum;
    }
  }
}

// Channels [c0, c1) of one output pixel, kTaps taps a store, what is left of a filter row one by one.
template <int kTaps, typename T>
inline void DepthwisePixel(const Chain& p, const Arrays<T>& a, int64_t n, int64_t ho, int64_t wo, int64_t c0,
                           int64_t c1) {
  const int64_t CM = p.CM();
  float* z = a.Z + ((n * p.Ho + ho) * p.Wo + wo) * CM + c0 * p.M;
  const int64_t channels = (c1 - c0) * p.M;
  for (int64_t i = 0; i < channels; ++i) z[i] = At(a.depthwise_bias, c0 * p.M + i);
  // The taps [s0, s1) that lie inside the row.
  const int64_t w = wo * p.stride_w - p.pad_left;
  const int64_t s0 = w < 0 ? std::min(p.S, CeilDiv(-w, p.dilation_w)) : 0;
  const int64_t s1 = w < p.W ? std::min(p.S, CeilDiv(p.W - w, p.dilation_w)) : 0;
  for (int64_t r = 0; r < p.R; ++r) {
    const int64_t h = ho * p.stride_h - p.pad_top + r * p.dilation_h;
    if (h < 0 || h >= p.H) continue;
    const T* row = a.X + (n * p.H + h) * p.W * p.C + c0;
    const T* filter = a.D + r * p.S * CM + c0 * p.M;
    const int64_t tap_step = p.dilation_w * p.C;
    int64_t s = s0;
    for (; s + kTaps <= s1; s += kTaps) {
      AddTaps<kTaps>(row + (w + s * p.dilation_w) * p.C, tap_step, filter + s * CM, CM, c1 - c0, p.M, z);
    }
    for (; s < s1; ++s) AddTaps<1>(row + (w + s * p.dilation_w) * p.C, tap_step, filter + s * CM, CM, c1 - c0, p.M, z);
  }
  if (p.mid.kind != ActivationKind::kNone) {
    for (int64_t i = 0; i < channels; ++i) z[i] = Activate(z[i], p.mid);
  }
}

template <int kTaps, typename T>
void Depthwise(const Chain& p, const Arrays<T>& a, const DepthwiseTile& tile) {
  for (int64_t n0 = 0; n0 < p.N; n0 += tile.n) {
    for (int64_t h0 = 0; h0 < p.Ho; h0 += tile.h) {
      for (int64_t w0 = 0; w0 < p.Wo; w0 += tile.w) {
        for (int64_t c0 = 0; c0 < p.C; c0 += tile.c) {
          for (int64_t n = n0; n < std::min(n0 + tile.n, p.N); ++n) {
            for (int64_t ho = h0; ho < std::min(h0 + tile.h, p.Ho); ++ho) {
              for (int64_t wo = w0; wo < std::min(w0 + tile.w, p.Wo); ++wo) {
                DepthwisePixel<kTaps>(p, a, n, ho, wo, c0, std::min(c0 + tile.c, p.C));
              }
            }
          }
        }
      }
    }
  }
}

// The report's three versions of its unrolled loop, and which filter widths jump to which.
template <typename T>
void UnrolledDepthwise(const Chain& p, const Arrays<T>& a, const DepthwiseTile& tile) {
  if (p.S % 2 == 0) {
    Depthwise<2>(p, a, tile);
  } else if (p.S % 5 == 0) {
    Depthwise<5>(p, a, tile);
  } else {
    Depthwise<3>(p, a, tile);
  }
}

// sums[k] += z[i] * P[i][k] for kChannels channels at once: P has rows of K elements.
template <int kChannels, typename T>
inline void AddChannels(const float* z, const T* P, int64_t K, int64_t k, float* sums) {
  for (int64_t j = 0; j < k; ++j) {
    float sum = z[0] * ToFloat(P[j]);
#pragma GCC unroll 8
    for (int i = 1; i < kChannels; ++i) sum += z[i] * ToFloat(P[i * K + j]);
    sums[j] += sum;
  }
}

// Pixel, channel, and the output channels innermost, where P and Y are contiguous; kChannels channels a store.
// `sums` holds tile.pixels * tile.k floats.
template <int kChannels, typename T>
void Pointwise(const Chain& p, const Arrays<T>& a, const PointwiseTile& tile, float* sums) {
  const int64_t CM = p.CM(), pixels = p.N * p.output_pixels();
  for (int64_t pixel0 = 0; pixel0 < pixels; pixel0 += tile.pixels) {
    const int64_t tile_pixels = std::min(tile.pixels, pixels - pixel0);
    for (int64_t k0 = 0; k0 < p.K; k0 += tile.k) {
      const int64_t ks = std::min(tile.k, p.K - k0);
      for (int64_t i = 0; i < tile_pixels; ++i) {
        for (int64_t j = 0; j < ks; ++j) sums[i * ks + j] = At(a.bias, k0 + j);
      }
      for (int64_t c0 = 0; c0 < CM; c0 += tile.cm) {
        const int64_t c1 = std::min(c0 + tile.cm, CM);
        for (int64_t i = 0; i < tile_pixels; ++i) {
          const float* z = a.Z + (pixel0 + i) * CM;
          int64_t c = c0;
          for (; c + kChannels <= c1; c += kChannels) {
            AddChannels<kChannels>(z + c, a.P + c * p.K + k0, p.K, ks, sums + i * ks);
          }
          for (; c < c1; ++c) AddChannels<1>(z + c, a.P + c * p.K + k0, p.K, ks, sums + i * ks);
        }
      }
      for (int64_t i = 0; i < tile_pixels; ++i) {
        for (int64_t j = 0; j < ks; ++j) Finish(a, p.out, (pixel0 + i) * p.K + k0 + j, sums[i * ks + j]);
      }
    }
  }
}

template <typename T>
bool Run(LadderStep step, const Chain& p, const Buffers& buffers, int64_t words, float* z) {
  const Arrays<T> a(buffers, z);
  if (step == LadderStep::kNaive) {
    NaiveDepthwise(p, a);
    NaivePointwise(p, a);
    return true;
  }
  const bool blocked = step == LadderStep::kBlocked;
  const DepthwiseTile whole = {1, p.Ho, p.Wo, p.C};
  const PointwiseTile pixel = {1, p.CM(), p.K};
  const PointwiseTile pointwise = blocked ? SolvePointwiseTile(p, words) : pixel;
  AlignedBuffer<float> sums = AllocateAligned<float>(pointwise.pixels * pointwise.k);
  if (!sums) return false;
  if (step == LadderStep::kReordered) {
    Depthwise<1>(p, a, whole);
    Pointwise<1>(p, a, pointwise, sums.get());
  } else {
    UnrolledDepthwise(p, a, blocked ? SolveDepthwiseTile(p, words) : whole);
    Pointwise<4>(p, a, pointwise, sums.get());
  }
  return true;
}

}  // namespace

bool ForwardLadder(LadderStep step, const Chain& chain, const Buffers& buffers, int64_t words, float* z) {
  return WithType(chain.dtype, [&](auto type) { return Run<decltype(type)>(step, chain, buffers, words, z); });
}

}  // namespace dwsconv
