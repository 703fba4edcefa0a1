#include "cc/cpu/packed_filters.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <new>
#include <type_traits>

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

// Row `cm` of a panel of floats: n channels from `from`, zeros after them.
template <typename T>
void PanelRow(const T* from, int64_t n, int64_t cm, int64_t tile_channels, float* panel) {
  float* to = panel + cm * tile_channels;
  ToFloats(from, n, to);
  std::fill(to + n, to + tile_channels, 0.0f);
}

// The same in a panel of bfloat16 pairs: row cm is one half of the pairs of row cm / 2.
void PanelRow(const BFloat16* from, int64_t n, int64_t cm, int64_t tile_channels, BFloat16* panel) {
  BFloat16* to = panel + cm / 2 * 2 * tile_channels + cm % 2;
  for (int64_t i = 0; i < tile_channels; ++i) to[2 * i] = i < n ? from[i] : BFloat16{0};
}

// P [C*M][K] to panels, rows in Z's channel order, m * C + c, where TensorFlow's is c * M + m.
template <typename T, typename Z>
void PackPanels(const Problem& p, const T* P, int64_t tile_channels, int64_t pair, Z* panels) {
  const int64_t rows = RoundUp(p.CM(), pair);
  for (int64_t k = 0; k < p.K; k += tile_channels) {
    const int64_t n = std::min(tile_channels, p.K - k);
    Z* panel = panels + k * rows;
    for (int64_t m = 0; m < p.M; ++m) {
      for (int64_t c = 0; c < p.C; ++c) PanelRow(P + (c * p.M + m) * p.K + k, n, m * p.C + c, tile_channels, panel);
    }
    if (rows > p.CM()) PanelRow(P, 0, p.CM(), tile_channels, panel);
  }
}

}  // namespace

const KernelTable& Kernels(Isa isa, const Problem& problem) {
#if defined(__x86_64__)
  if (isa == Isa::kAvx512) {
    const bool bf16 = problem.dtype == DType::kBFloat16 && IsClamp(problem.mid.kind) && !problem.float_between &&
                      GetCpuFeatures().avx512_bf16;
    return bf16 ? KernelsAvx512Bf16() : KernelsAvx512();
  }
  if (isa == Isa::kAvx2) return KernelsAvx2();
#endif
  (void)isa, (void)problem;
  return KernelsGeneric();
}

template <typename T>
void PackedFilters::Fill(const Problem& p, const ForwardBuffers& b) {
  const T* D = static_cast<const T*>(b.depthwise_filter);
  const T* P = static_cast<const T*>(b.pointwise_filter);
  const T* depthwise_bias = static_cast<const T*>(b.depthwise_bias);
  const int64_t taps = p.R * p.S;
  // Channel c of tap t, where a vector's channels lie together and its taps one after the other.
  const int64_t vector = kernels_->vector_floats;
  const auto at = [=](int64_t c, int64_t t) { return (c / vector * taps + t) * vector + c % vector; };
  for (int64_t m = 0; m < p.M; ++m) {
    float* filter = depthwise_ + m * taps * channel_stride_;
    std::fill(filter, filter + taps * channel_stride_, 0.0f);
    for (int64_t t = 0; t < taps; ++t) {
      for (int64_t c = 0; c < p.C; ++c) filter[at(c, t)] = D ? ToFloat(D[(t * p.C + c) * p.M + m]) : 1.0f;
    }
    float* to = depthwise_bias_ + m * channel_stride_;
    std::fill(to, to + channel_stride_, 0.0f);
    if (depthwise_bias) {
      for (int64_t c = 0; c < p.C; ++c) to[c] = ToFloat(depthwise_bias[c * p.M + m]);
    }
  }
  if (packed_pixels_ > 0) {
    for (int64_t t = 0; t < taps; ++t) {
      for (int64_t i = 0; i < packed_pixels_ * p.C; ++i) packed_filter_[at(i, t)] = depthwise_[at(i % p.C, t)];
    }
    for (int64_t i = 0; i < packed_pixels_; ++i) std::copy_n(depthwise_bias_, p.C, packed_bias_ + i * p.C);
  }
  const int64_t tile_channels = kernels_->tile_channels;
  if (!P) {
    // K is 0: there is no pointwise half.
  } else if (kernels_->z_type == DType::kFloat32) {
    PackPanels(p, P, tile_channels, kernels_->pair, panels_);
  } else if constexpr (std::is_same_v<T, BFloat16>) {
    PackPanels(p, P, tile_channels, kernels_->pair, reinterpret_cast<BFloat16*>(panels_));
  }
  const int64_t padded = RoundUp(p.K, tile_channels);
  std::fill(bias_, bias_ + padded, 0.0f);
  if (b.bias) ToFloats(static_cast<const T*>(b.bias), p.K, bias_);
  if (slopes_) {
    std::fill(slopes_, slopes_ + padded, 0.0f);
    ToFloats(static_cast<const T*>(b.slopes), p.K, slopes_);
  }
  if (depthwise_slopes_) {
    const T* slopes = static_cast<const T*>(b.depthwise_slopes);
    for (int64_t m = 0; m < p.M; ++m) {
      for (int64_t c = 0; c < p.C; ++c) depthwise_slopes_[m * p.C + c] = ToFloat(slopes[c * p.M + m]);
    }
  }
}

std::unique_ptr<PackedFilters> PackedFilters::Make(const Problem& of, Isa isa, const ForwardBuffers& buffers,
                                                   bool may_repeat) {
  const KernelTable& kernels = Kernels(isa, of);
  std::unique_ptr<PackedFilters> packed(new (std::nothrow) PackedFilters);
  if (!packed) return nullptr;
  packed->key_ = PackKeyOf(of, isa, may_repeat);
  packed->repeats_ = may_repeat && RepeatsInput(of, kernels.vector_floats);
  const Problem problem = packed->Layer(of);
  packed->kernels_ = packed->run_ = &kernels;
  const int64_t stride = RoundUp(problem.C, kernels.vector_floats);
  const int64_t padded_k = RoundUp(problem.K, kernels.tile_channels);
  packed->channel_stride_ = stride;
  // Each part starts on a cache line.
  int64_t depthwise, depthwise_bias, panels, total;
  if (__builtin_mul_overflow(problem.M * stride, problem.R * problem.S, &depthwise) ||
      __builtin_mul_overflow(RoundUp(problem.CM(), kernels.pair), padded_k, &panels) ||
      __builtin_add_overflow(depthwise, panels, &total)) {
    return nullptr;
  }
  if (kernels.z_type == DType::kBFloat16) panels = (panels + 1) / 2;
  depthwise = RoundUp(depthwise, 16);
  depthwise_bias = RoundUp(problem.M * stride, 16);
  panels = RoundUp(panels, 16);
  packed->packed_pixels_ = PackedPixels(problem, kernels.vector_floats);
  const int64_t packed_bias = RoundUp(packed->packed_pixels_ * problem.C, 16);
  const int64_t packed_filter = RoundUp(packed->packed_pixels_ * problem.C * problem.R * problem.S, 16);
  const int64_t bias = RoundUp(padded_k, 16);
  const int64_t slopes = problem.out.kind == ActivationKind::kPRelu && problem.K > 0 ? bias : 0;
  const int64_t depthwise_slopes = problem.mid.kind == ActivationKind::kPRelu ? RoundUp(problem.CM(), 16) : 0;
  total = depthwise + depthwise_bias + packed_filter + packed_bias + panels + bias + slopes + depthwise_slopes;
  packed->memory_ = AllocateAligned<float>(total);
  if (!packed->memory_) return nullptr;
  packed->bytes_ = total * static_cast<int64_t>(sizeof(float));
  packed->depthwise_ = packed->memory_.get();
  packed->depthwise_bias_ = packed->depthwise_ + depthwise;
  packed->packed_filter_ = packed->depthwise_bias_ + depthwise_bias;
  packed->packed_bias_ = packed->packed_filter_ + packed_filter;
  packed->panels_ = packed->packed_bias_ + packed_bias;
  packed->bias_ = packed->panels_ + panels;
  if (slopes > 0) packed->slopes_ = packed->bias_ + bias;
  if (depthwise_slopes > 0) packed->depthwise_slopes_ = packed->bias_ + bias + slopes;
  switch (problem.dtype) {
    case DType::kFloat32:
      packed->Fill<float>(problem, buffers);
      break;
    case DType::kBFloat16:
      packed->Fill<BFloat16>(problem, buffers);
      break;
    case DType::kFloat16:
      packed->Fill<Float16>(problem, buffers);
      break;
  }
  pack_calls.fetch_add(1, std::memory_order_relaxed);
  return packed;
}

PackKey PackKeyOf(const Problem& p, Isa isa, bool may_repeat) {
  const KernelTable& kernels = Kernels(isa, p);
  const bool repeats = may_repeat && RepeatsInput(p, kernels.vector_floats);
  int64_t flags = 0;
  for (bool flag :
       {p.has_depthwise_bias, p.has_bias, p.mid.kind == ActivationKind::kPRelu, p.out.kind == ActivationKind::kPRelu}) {
    flags = 2 * flags + flag;
  }
  PackKey key;
  key.main = {p.R,
              p.S,
              p.C,
              p.M,
              p.K,
              static_cast<int64_t>(p.dtype),
              static_cast<int64_t>(reinterpret_cast<intptr_t>(&kernels)),
              PackedPixels(repeats ? Repeated(p) : p, kernels.vector_floats),
              repeats,
              flags};
  return key;
}
const PackKey& PackKeyOf(const PackedFilters& packed) { return packed.key(); }

PackedFiltersPtr PackFilters(const Problem& problem, Isa isa, const ForwardBuffers& buffers, bool may_repeat) {
  return PackedFilters::Make(problem, isa, buffers, may_repeat);
}
int64_t PackCalls() { return pack_calls.load(std::memory_order_relaxed); }

}  // namespace dwsconv
