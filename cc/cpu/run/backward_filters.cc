#include "cc/cpu/run/backward_filters.h"

#include <algorithm>

#include "cc/core/half.h"
#include "cc/core/whole.h"

namespace dwsconv {
namespace {

// Channels of one task: a cache line of a panel's row is theirs alone.
constexpr int64_t kGroup = kBackwardQuantum;

// Whether any output reads an input in bounds through tap t of an axis.
bool TapUsed(int64_t t, int64_t dilation, int64_t stride, int64_t pad, int64_t in, int64_t out) {
  const int64_t offset = t * dilation - pad;
  const int64_t first = offset >= 0 ? 0 : (-offset + stride - 1) / stride;
  return first < out && first * stride + offset < in;
}

// One group of channels of one block.
struct Group {
  int64_t block, first, channels;  // `first` within the block; channels 0 where the block ends before
  int64_t input_channel;           // of the first
};

Group GroupOf(const Chain& p, const BackwardPlan& plan, int64_t task) {
  const int64_t groups = plan.padded_channels / kGroup;
  Group g;
  g.block = task / groups;
  g.first = task % groups * kGroup;
  g.input_channel = g.block * plan.block_channels + g.first;
  g.channels = std::clamp<int64_t>(std::min(plan.block_channels - g.first, p.C - g.input_channel), 0, kGroup);
  return g;
}

template <typename T>
void PackTaps(const BackwardJob& job, const Group& g, float* filters) {
  const Chain& p = *job.chain;
  const BackwardPlan& plan = *job.plan;
  const T* const D = static_cast<const T*>(job.buffers->depthwise_filter);
  const T* const bias = static_cast<const T*>(job.buffers->depthwise_bias);
  const int64_t taps = p.R * p.S;
  for (int64_t m = 0; m < p.M; ++m) {
    for (int64_t t = 0; t < taps; ++t) {
      // Padding is zeros here, and zero times what nobody ever multiplies with must not become NaN.
      const bool used = TapUsed(t / p.S, p.dilation_h, p.stride_h, p.pad_top, p.H, p.Ho) &&
                        TapUsed(t % p.S, p.dilation_w, p.stride_w, p.pad_left, p.W, p.Wo);
      float* const to = filters + (m * taps + t) * plan.padded_channels + g.first;
      for (int64_t c = 0; c < kGroup; ++c) {
        to[c] = used && c < g.channels ? ToFloat(D[(t * p.C + g.input_channel + c) * p.M + m]) : 0.0f;
      }
    }
    float* const to = filters + plan.dd_floats + m * plan.padded_channels + g.first;
    for (int64_t c = 0; c < kGroup; ++c) {
      to[c] = bias != nullptr && c < g.channels ? ToFloat(bias[(g.input_channel + c) * p.M + m]) : 0.0f;
    }
  }
}

// Columns of the transposed pointwise filter, elements Z.
template <typename T, typename Z>
void PackColumns(const BackwardJob& job, const Group& g, Z* panels) {
  const Chain& p = *job.chain;
  const int64_t tile = job.kernels->tile_channels, step = std::min(kGroup, tile), pair = job.kernels->pair;
  const int64_t padded_K = RoundUp(p.K, job.kernels->depth);
  const T* const P = static_cast<const T*>(job.buffers->pointwise_filter);
  for (int64_t m = 0; m < p.M; ++m) {
    for (int64_t i = 0; i < kGroup; i += step) {
      const int64_t column = m * job.plan->padded_channels + g.first + i;
      const int64_t n = std::clamp<int64_t>(g.channels - i, 0, step);
      const T* const from = P + ((g.input_channel + i) * p.M + m) * p.K;
      Z* const to = panels + column / tile * tile * padded_K + column % tile * pair;
      for (int64_t k = 0; k < padded_K; ++k) {
        Z* const row = to + k / pair * tile * pair + k % pair;
        const int64_t filled = k < p.K ? n : 0;
        for (int64_t j = 0; j < filled; ++j) row[j * pair] = FromFloat<Z>(ToFloat(from[j * p.M * p.K + k]));
        for (int64_t j = filled; j < step; ++j) row[j * pair] = Z{};
      }
    }
  }
}

template <typename T>
void PackGroup(const BackwardJob& job, const Group& g, float* filters, float* panels) {
  PackTaps<T>(job, g, filters + g.block * job.plan->filter_floats);
  if (panels == nullptr) return;
  float* const of_block = panels + g.block * job.plan->panel_floats;
  if (job.kernels->product_type == DType::kFloat32) {
    PackColumns<T>(job, g, of_block);
  } else {
    PackColumns<T>(job, g, reinterpret_cast<BFloat16*>(of_block));
  }
}

// The gradient of the pointwise filter for one group.
template <typename T>
void ReduceColumns(const BackwardJob& job, const Group& g, const float* sums, int64_t chunk_floats) {
  const Chain& p = *job.chain;
  const BackwardPlan& plan = *job.plan;
  const int64_t tile = job.kernels->tile_channels;
  T* const dP = static_cast<T*>(job.buffers->d_pointwise_filter);
  for (int64_t m = 0; m < p.M; ++m) {
    const int64_t column = m * plan.padded_channels + g.first;
    for (int64_t k = 0; k < p.K; k += tile) {
      const int64_t n = std::min(tile, p.K - k);
      for (int64_t c = 0; c < g.channels; ++c) {
        const float* const from = sums + k * plan.columns + (column + c) * tile;
        T* const to = dP + ((g.input_channel + c) * p.M + m) * p.K + k;
        float total[64];  // a tile is no wider
        std::copy_n(from, n, total);
        for (int64_t chunk = 1; chunk < plan.chunks; ++chunk) {
          for (int64_t i = 0; i < n; ++i) total[i] += from[chunk * chunk_floats + i];
        }
        for (int64_t i = 0; i < n; ++i) to[i] = FromFloat<T>(total[i]);
      }
    }
  }
}

template <typename T>
void ReduceGroup(const BackwardJob& job, const Group& g) {
  const Chain& p = *job.chain;
  const BackwardPlan& plan = *job.plan;
  const BackwardBuffers& b = *job.buffers;
  const int64_t chunk_floats = plan.blocks * plan.sum_floats, taps = p.R * p.S;
  const float* const sums = job.sums + g.block * plan.sum_floats;
  const auto total = [&](const float* from) {
    float sum = *from;
    for (int64_t chunk = 1; chunk < plan.chunks; ++chunk) sum += from[chunk * chunk_floats];
    return FromFloat<T>(sum);
  };
  if (b.d_pointwise_filter != nullptr) ReduceColumns<T>(job, g, sums, chunk_floats);
  const float *const dd = sums + plan.dp_floats, *const mid_bias = dd + plan.dd_floats;
  for (int64_t m = 0; m < p.M; ++m) {
    for (int64_t c = 0; c < g.channels; ++c) {
      const int64_t cm = (g.input_channel + c) * p.M + m;
      if (b.d_depthwise_bias != nullptr) {
        static_cast<T*>(b.d_depthwise_bias)[cm] = total(mid_bias + m * plan.padded_channels + g.first + c);
      }
      for (int64_t t = 0; b.d_depthwise_filter != nullptr && t < taps; ++t) {
        static_cast<T*>(b.d_depthwise_filter)[t * p.CM() + cm] =
            total(dd + (m * taps + t) * plan.padded_channels + g.first + c);
      }
    }
  }
  if (b.d_bias != nullptr && g.input_channel == 0) {
    const float* const bias = mid_bias + plan.columns;
    for (int64_t k = 0; k < p.K; ++k) static_cast<T*>(b.d_bias)[k] = total(bias + k);
  }
}

int64_t Groups(const BackwardPlan& plan) { return plan.blocks * (plan.padded_channels / kGroup); }

}  // namespace

void PackBackwardFilters(const BackwardJob& job, float* filters, float* panels, const Workers& workers) {
  const BackwardPlan& plan = *job.plan;
  // A panel's columns past the last group: only where the block does not fill its last tile.
  const int64_t tile = job.kernels->tile_channels;
  if (panels != nullptr && plan.columns % tile != 0) {
    for (int64_t block = 0; block < plan.blocks; ++block) {
      float* const end = panels + (block + 1) * plan.panel_floats;
      std::fill(end - plan.panel_floats / (plan.columns / tile + 1), end, 0.0f);
    }
  }
  ParallelFor(workers, Groups(plan), [&](int64_t task, int) {
    const Group g = GroupOf(*job.chain, plan, task);
    WithType(job.chain->dtype, [&](auto type) { PackGroup<decltype(type)>(job, g, filters, panels); });
  });
}

void ReduceSums(const BackwardJob& job, const Workers& workers) {
  ParallelFor(workers, Groups(*job.plan), [&](int64_t task, int) {
    const Group g = GroupOf(*job.chain, *job.plan, task);
    WithType(job.chain->dtype, [&](auto type) { ReduceGroup<decltype(type)>(job, g); });
  });
}

}  // namespace dwsconv
