#include "cc/cpu/pack.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <new>
#include <numeric>
#include <type_traits>

#include "cc/core/half.h"
#include "cc/core/whole.h"
#include "cc/plan/plan.h"

namespace dwsconv {
namespace {

std::atomic<int64_t> pack_calls{0};

constexpr int64_t kLine = 16;  // floats: each part starts on a cache line

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
void PackPanels(int64_t C, int64_t M, int64_t K, const T* P, int64_t tile_channels, int64_t depth, Z* panels) {
  const int64_t rows = RoundUp(C * M, depth);
  for (int64_t k = 0; k < K; k += tile_channels) {
    const int64_t n = std::min(tile_channels, K - k);
    Z* panel = panels + k * rows;
    for (int64_t m = 0; m < M; ++m) {
      for (int64_t c = 0; c < C; ++c) PanelRow(P + (c * M + m) * K + k, n, m * C + c, tile_channels, panel);
    }
    for (int64_t cm = C * M; cm < rows; ++cm) PanelRow(P, 0, cm, tile_channels, panel);
  }
}

// Panels of one of the groups of `one`, which are GroupsAsImages of those of P [R*S*C/groups][K]: where it takes some
// together, what is of two of them is zero.
template <typename T, typename Z>
void PackGroup(const Chain& all, const Chain& one, int64_t group, const T* P, int64_t tile_channels, int64_t depth,
               Z* panels) {
  constexpr int64_t kMostChannels = 64;
  T row[kMostChannels];
  const int64_t together = all.groups / one.groups, C = one.C / together, K = one.K / together;
  const int64_t terms = one.R * one.S * one.C, rows = RoundUp(terms, depth);
  for (int64_t k = 0; k < one.K; k += tile_channels) {
    const int64_t n = std::min(tile_channels, one.K - k);
    Z* const panel = panels + k * rows;
    for (int64_t i = 0; i < terms; ++i) {
      const int64_t tap = i / one.C, c = i % one.C;
      const int64_t first = std::max(k, c / C * K), last = std::min(k + n, (c / C + 1) * K);
      std::fill_n(row, n, T{});
      const T* const from = P + (tap * C + c % C) * all.K + group * one.K;
      if (first < last) std::copy(from + first, from + last, row + (first - k));
      PanelRow(row, n, i, tile_channels, panel);
    }
    for (int64_t i = terms; i < rows; ++i) PanelRow(P, 0, i, tile_channels, panel);
  }
}

// What a product sums over: all channels of Z, or what lies under a window of a dense convolution.
int64_t ProjectRows(const Chain& c) { return c.has_depthwise ? c.CM() : c.R * c.S * c.C; }

// What is packed: where pixels are taken together, the filter and the bias of so many.
Chain PackedAs(const Chain& chain) {
  const int64_t together = PixelsTogether(chain);
  return together > 1 ? Together(chain, together, together) : chain;
}

}  // namespace

int64_t PixelsTogether(const Chain& c) {
  const bool scales = c.has_depthwise && !c.has_project && c.E == 0 && !c.float_between() && c.R == 1 && c.S == 1 &&
                      c.M == 1 && c.mid.kind != ActivationKind::kPRelu;
  const bool same_pixels = c.stride_h == 1 && c.stride_w == 1 && c.Ho == c.H && c.Wo == c.W;
  return scales && same_pixels && c.C < 16 ? 16 / std::gcd(c.C, int64_t{16}) : 1;
}

Chain Together(const Chain& chain, int64_t pixels, int64_t together) {
  Chain c = chain;
  c.N = c.W = c.Wo = 1;
  c.H = c.Ho = pixels / together;
  c.C *= together;
  c.K *= together;
  return c;
}

PackKey PackKeyOf(const Chain& chain, Isa isa, bool may_repeat) {
  const KernelTable& kernels = Kernels(isa, chain);
  const bool repeats = may_repeat && RepeatsInput(chain, kernels.vector_floats);
  int64_t flags = 0;
  for (bool flag : {chain.has_depthwise, chain.has_project, chain.has_expand_bias, chain.has_depthwise_bias,
                    chain.has_bias, chain.expand.kind == ActivationKind::kPRelu,
                    chain.mid.kind == ActivationKind::kPRelu, chain.out.kind == ActivationKind::kPRelu, repeats}) {
    flags = 2 * flags + flag;
  }
  return {chain.E,
          chain.C,
          chain.M,
          chain.K,
          chain.R,
          chain.S,
          static_cast<int64_t>(chain.dtype),
          static_cast<int64_t>(reinterpret_cast<intptr_t>(&kernels)),
          PackedPixels(repeats ? Repeated(chain) : chain, kernels.vector_floats),
          PixelsTogether(chain),
          chain.groups,
          flags};
}

PackedProduct PackedProduct::OfGroup(int64_t group) const {
  PackedProduct one = *this;
  one.panels += group * group_panels;
  one.bias += group * group_bias;
  if (one.slopes != nullptr) one.slopes += group * group_bias;
  return one;
}

void PackedDepthwise::SetFilters(DepthwiseArgs* args) const {
  args->filter = filter;
  args->bias = bias;
  args->slopes = slopes;
  args->channel_stride = channel_stride;
  args->packed_pixels = packed_pixels;
  args->packed_filter = packed_filter;
  args->packed_bias = packed_bias;
}

template <typename T>
void PackedFilters::FillDepthwise(const Chain& c, const Buffers& b) {
  const T* const D = static_cast<const T*>(b.depthwise_filter);
  const T* const bias = static_cast<const T*>(b.depthwise_bias);
  const T* const slopes = static_cast<const T*>(b.depthwise_slopes);
  const PackedDepthwise& to = depthwise_;
  const int64_t taps = c.has_depthwise ? c.R * c.S : 1, C = c.C / together_;
  // Channel i of tap t, where a vector's channels lie together and its taps one after the other. In the filter the
  // channels of all pixels that are taken together are C, over and over.
  const int64_t vector = kernels_->vector_floats;
  const auto at = [=](int64_t i, int64_t t) { return (i / vector * taps + t) * vector + i % vector; };
  for (int64_t m = 0; m < c.M; ++m) {
    float* const filter = to.filter + m * taps * to.channel_stride;
    float* const bias_to = to.bias + m * to.channel_stride;
    std::fill(filter, filter + taps * to.channel_stride, 0.0f);
    std::fill(bias_to, bias_to + to.channel_stride, 0.0f);
    for (int64_t i = 0; i < c.C; ++i) {
      for (int64_t t = 0; t < taps; ++t) filter[at(i, t)] = D ? ToFloat(D[(t * C + i % C) * c.M + m]) : 1.0f;
      if (bias) bias_to[i] = ToFloat(bias[i % C * c.M + m]);
      if (to.slopes) to.slopes[m * c.C + i] = ToFloat(slopes[i * c.M + m]);
    }
  }
  for (int64_t i = 0; i < to.packed_pixels * c.C; ++i) {
    for (int64_t t = 0; t < taps; ++t) to.packed_filter[at(i, t)] = to.filter[at(i % c.C, t)];
    to.packed_bias[i] = to.bias[i % c.C];
  }
}

// A filter [C*M,K].
template <typename T>
void PackedFilters::FillProduct(int64_t C, int64_t M, int64_t K, const void* filter, const void* bias,
                                const void* slopes, const PackedProduct& to) {
  const int64_t tile_channels = kernels_->tile_channels, padded = RoundUp(K, tile_channels);
  const T* const P = static_cast<const T*>(filter);
  if (kernels_->product_type == DType::kFloat32) {
    PackPanels(C, M, K, P, tile_channels, kernels_->depth, to.panels);
  } else if constexpr (std::is_same_v<T, BFloat16>) {
    PackPanels(C, M, K, P, tile_channels, kernels_->depth, reinterpret_cast<BFloat16*>(to.panels));
  }
  std::fill(to.bias, to.bias + padded, 0.0f);
  if (bias) ToFloats(static_cast<const T*>(bias), K, to.bias);
  if (!to.slopes) return;
  std::fill(to.slopes, to.slopes + padded, 0.0f);
  ToFloats(static_cast<const T*>(slopes), K, to.slopes);
}

template <typename T>
void PackedFilters::FillGroups(const Buffers& b) {
  const Chain& c = chain_;
  const Chain one = GroupsAsImages(c, kernels_->vector_floats);
  const T* const P = static_cast<const T*>(b.pointwise_filter);
  for (int64_t group = 0; group < one.groups; ++group) {
    const PackedProduct to = project_.OfGroup(group);
    if (kernels_->product_type == DType::kFloat32) {
      PackGroup(c, one, group, P, kernels_->tile_channels, kernels_->depth, to.panels);
    } else if constexpr (std::is_same_v<T, BFloat16>) {
      PackGroup(c, one, group, P, kernels_->tile_channels, kernels_->depth, reinterpret_cast<BFloat16*>(to.panels));
    }
    std::fill_n(to.bias, project_.group_bias, 0.0f);
    if (b.bias) ToFloats(static_cast<const T*>(b.bias) + group * one.K, one.K, to.bias);
    if (to.slopes == nullptr) continue;
    std::fill_n(to.slopes, project_.group_bias, 0.0f);
    ToFloats(static_cast<const T*>(b.slopes) + group * one.K, one.K, to.slopes);
  }
}

template <typename T>
void PackedFilters::FillAll(const Buffers& b) {
  const Chain& c = chain_;
  FillDepthwise<T>(c, b);
  if (c.E > 0) FillProduct<T>(c.E, 1, c.C, b.expand_filter, b.expand_bias, b.expand_slopes, expand_);
  if (convert_.filter) {
    std::fill(convert_.filter, convert_.filter + convert_.channel_stride, 1.0f);
    std::fill(convert_.bias, convert_.bias + convert_.channel_stride, 0.0f);
  }
  if (!c.has_project) return;
  if (c.groups > 1) return FillGroups<T>(b);
  const int64_t M = c.has_depthwise ? c.M : 1;
  FillProduct<T>(ProjectRows(c) / M, M, c.K, b.pointwise_filter, b.bias, b.slopes, project_);
  if (b.float_bias != nullptr) std::copy_n(b.float_bias, c.K, project_.bias);
}

std::unique_ptr<PackedFilters> PackedFilters::Lay(const Chain& of, Isa isa, bool may_repeat) {
  std::unique_ptr<PackedFilters> packed(new (std::nothrow) PackedFilters);
  if (!packed) return nullptr;
  const KernelTable& kernels = Kernels(isa, of);
  packed->key_ = PackKeyOf(of, isa, may_repeat);
  packed->kernels_ = packed->run_ = &kernels;
  packed->repeats_ = may_repeat && RepeatsInput(of, kernels.vector_floats);
  packed->together_ = PixelsTogether(of);
  packed->chain_ = packed->Layer(PackedAs(of));
  const Chain& c = packed->chain_;
  const auto prelu = [](const Activation& a) { return a.kind == ActivationKind::kPRelu; };

  // Floats of a product's panels of `rows` by K; a pair of bfloat16 is one.
  const auto panels = [&](int64_t rows, int64_t K, int64_t* floats) {
    if (__builtin_mul_overflow(RoundUp(rows, kernels.depth), RoundUp(K, kernels.tile_channels), floats)) return false;
    if (kernels.product_type == DType::kBFloat16) *floats = (*floats + 1) / 2;
    return true;
  };
  const Chain one = GroupsAsImages(c, kernels.vector_floats);
  PackedDepthwise& d = packed->depthwise_;
  d.channel_stride = RoundUp(c.C, kernels.vector_floats);
  d.packed_pixels = PackedPixels(c, kernels.vector_floats);
  const int64_t taps = c.has_depthwise ? c.R * c.S : 1, C = packed->depthwise_.packed_pixels * c.C;
  int64_t filter, expand = 0, project = 0;
  if (__builtin_mul_overflow(c.M * d.channel_stride, taps, &filter) || !panels(c.E, c.E > 0 ? c.C : 0, &expand) ||
      !panels(ProjectRows(one), c.has_project ? one.K : 0, &packed->project_.group_panels) ||
      __builtin_mul_overflow(packed->project_.group_panels, one.groups, &project)) {
    return nullptr;
  }
  const bool converts = c.E > 0 && kernels.product_type != c.dtype;
  const int64_t x = converts ? RoundUp(c.E, kernels.vector_floats) : 0;
  packed->convert_.channel_stride = x;
  const int64_t expand_bias = c.E > 0 ? RoundUp(c.C, kernels.tile_channels) : 0;
  packed->project_.group_bias = c.has_project ? RoundUp(one.K, kernels.tile_channels) : 0;
  const int64_t bias = packed->project_.group_bias * one.groups;
  packed->parts_ = {{&d.filter, filter},
                    {&d.bias, c.M * d.channel_stride},
                    {&d.packed_filter, C * taps},
                    {&d.packed_bias, C},
                    {&packed->project_.panels, project},
                    {&packed->project_.bias, bias},
                    {&packed->project_.slopes, prelu(c.out) ? bias : 0},
                    {&d.slopes, prelu(c.mid) ? c.CM() : 0},
                    {&packed->expand_.panels, expand},
                    {&packed->expand_.bias, expand_bias},
                    {&packed->expand_.slopes, prelu(c.expand) ? expand_bias : 0},
                    {&packed->convert_.filter, x},
                    {&packed->convert_.bias, x}};
  int64_t total = 0;
  for (const Part& part : packed->parts_) {
    if (__builtin_add_overflow(total, RoundUp(part.floats, kLine), &total)) return nullptr;
  }
  if (__builtin_mul_overflow(total, static_cast<int64_t>(sizeof(float)), &packed->bytes_)) return nullptr;
  return packed;
}

void PackedFilters::Fill(const Buffers& buffers, float* memory) {
  for (const Part& part : parts_) {
    if (part.floats > 0) *part.at = memory;
    memory += RoundUp(part.floats, kLine);
  }
  WithType(chain_.dtype, [&](auto type) { FillAll<decltype(type)>(buffers); });
  pack_calls.fetch_add(1, std::memory_order_relaxed);
}

std::unique_ptr<PackedFilters> PackedFilters::Make(const Chain& chain, Isa isa, const Buffers& buffers,
                                                   bool may_repeat) {
  std::unique_ptr<PackedFilters> packed = Lay(chain, isa, may_repeat);
  if (!packed) return nullptr;
  packed->memory_ = AllocateAligned<float>(packed->bytes_ / static_cast<int64_t>(sizeof(float)));
  if (!packed->memory_) return nullptr;
  packed->Fill(buffers, packed->memory_.get());
  return packed;
}

int64_t PackCalls() { return pack_calls.load(std::memory_order_relaxed); }

}  // namespace dwsconv
