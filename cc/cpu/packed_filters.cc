#include "cc/cpu/packed_filters.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <new>

#include "cc/core/half.h"

namespace dwsconv {
namespace {

std::atomic<int64_t> pack_calls{0};

int64_t RoundUp(int64_t a, int64_t b) { return (a + b - 1) / b * b; }

template <typename T>
void ToFloats(const T* from, int64_t n, float* to) {
  for (int64_t i = 0; i < n; ++i) to[i] = ToFloat(from[i]);
}
template <>
void ToFloats<float>(const float* from, int64_t n, float* to) {
  std::memcpy(to, from, static_cast<size_t>(n) * sizeof(float));
}

}  // namespace

const KernelTable& Kernels(Isa isa) {
#if defined(__x86_64__)
  if (isa == Isa::kAvx512) return KernelsAvx512();
  if (isa == Isa::kAvx2) return KernelsAvx2();
#endif
  (void)isa;
  return KernelsGeneric();
}

template <typename T>
void PackedFilters::Fill(const Problem& p, const ForwardBuffers& b, int64_t tile_channels) {
  const T* D = static_cast<const T*>(b.depthwise_filter);
  const T* P = static_cast<const T*>(b.pointwise_filter);
  const T* depthwise_bias = static_cast<const T*>(b.depthwise_bias);
  const int64_t taps = p.R * p.S, cm = p.CM();
  for (int64_t m = 0; m < p.M; ++m) {
    for (int64_t t = 0; t < taps; ++t) {
      float* to = depthwise_ + (m * taps + t) * channel_stride_;
      for (int64_t c = 0; c < p.C; ++c) to[c] = ToFloat(D[(t * p.C + c) * p.M + m]);
      std::fill(to + p.C, to + channel_stride_, 0.0f);
    }
    float* to = depthwise_bias_ + m * channel_stride_;
    std::fill(to, to + channel_stride_, 0.0f);
    if (depthwise_bias) {
      for (int64_t c = 0; c < p.C; ++c) to[c] = ToFloat(depthwise_bias[c * p.M + m]);
    }
  }
  // Rows of P in Z's channel order, m * C + c, where TensorFlow's is c * M + m.
  for (int64_t k = 0; k < p.K; k += tile_channels) {
    const int64_t n = std::min(tile_channels, p.K - k);
    float* to = panels_ + k * cm;
    for (int64_t m = 0; m < p.M; ++m) {
      for (int64_t c = 0; c < p.C; ++c, to += tile_channels) {
        ToFloats(P + (c * p.M + m) * p.K + k, n, to);
        std::fill(to + n, to + tile_channels, 0.0f);
      }
    }
  }
  const int64_t padded = RoundUp(p.K, tile_channels);
  std::fill(bias_, bias_ + padded, 0.0f);
  if (b.bias) ToFloats(static_cast<const T*>(b.bias), p.K, bias_);
}

std::unique_ptr<PackedFilters> PackedFilters::Make(const Problem& problem, Isa isa, const ForwardBuffers& buffers) {
  const KernelTable& kernels = Kernels(isa);
  std::unique_ptr<PackedFilters> packed(new (std::nothrow) PackedFilters);
  if (!packed) return nullptr;
  packed->of_ = problem;
  packed->isa_ = isa;
  const int64_t stride = RoundUp(problem.C, kernels.vector_floats);
  const int64_t padded_k = RoundUp(problem.K, kernels.tile_channels);
  packed->channel_stride_ = stride;
  // Each part starts on a cache line.
  int64_t depthwise, depthwise_bias, panels, total;
  if (__builtin_mul_overflow(problem.M * stride, problem.R * problem.S, &depthwise) ||
      __builtin_mul_overflow(problem.CM(), padded_k, &panels) || __builtin_add_overflow(depthwise, panels, &total)) {
    return nullptr;
  }
  depthwise = RoundUp(depthwise, 16);
  depthwise_bias = RoundUp(problem.M * stride, 16);
  panels = RoundUp(panels, 16);
  total = depthwise + depthwise_bias + panels + padded_k;
  packed->memory_ = AllocateAligned<float>(total);
  if (!packed->memory_) return nullptr;
  packed->bytes_ = total * static_cast<int64_t>(sizeof(float));
  packed->depthwise_ = packed->memory_.get();
  packed->depthwise_bias_ = packed->depthwise_ + depthwise;
  packed->panels_ = packed->depthwise_bias_ + depthwise_bias;
  packed->bias_ = packed->panels_ + panels;
  switch (problem.dtype) {
    case DType::kFloat32: packed->Fill<float>(problem, buffers, kernels.tile_channels); break;
    case DType::kBFloat16: packed->Fill<BFloat16>(problem, buffers, kernels.tile_channels); break;
    case DType::kFloat16: packed->Fill<Float16>(problem, buffers, kernels.tile_channels); break;
  }
  pack_calls.fetch_add(1, std::memory_order_relaxed);
  return packed;
}

bool PackedFilters::Serves(const Problem& p, Isa isa) const {
  return isa == isa_ && p.R == of_.R && p.S == of_.S && p.C == of_.C && p.M == of_.M && p.K == of_.K &&
         p.dtype == of_.dtype && p.has_depthwise_bias == of_.has_depthwise_bias && p.has_bias == of_.has_bias;
}

PackedFiltersPtr PackFilters(const Problem& problem, Isa isa, const ForwardBuffers& buffers) {
  return PackedFilters::Make(problem, isa, buffers);
}
bool Serves(const PackedFilters& packed, const Problem& problem, Isa isa) { return packed.Serves(problem, isa); }
int64_t PackedBytes(const PackedFilters& packed) { return packed.bytes(); }
int64_t PackCalls() { return pack_calls.load(std::memory_order_relaxed); }

}  // namespace dwsconv
