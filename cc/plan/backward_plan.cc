#include "cc/plan/backward_plan.h"

#include <algorithm>
#include <numeric>

#include "cc/core/whole.h"

namespace dwsconv {
namespace {

// Tasks that many threads share, and the memory that their sums may take.
constexpr int64_t kTasks = 16;
constexpr int64_t kSumBytes = int64_t{8} << 20;
// More scratch than this a thread is not worth a block: geometries that need it are rare and odd.
constexpr int64_t kMostScratchFloats = int64_t{8} << 20;
// Measured over the layers of docs/tuning.md: a few hundred pixels pay for a pass over the filters, which need not stay
// in L2; narrower blocks read dY more often, wider ones leave too little of L2 to the pixels.
constexpr int64_t kMostPixels = 256;
constexpr int64_t kMostChannels = 160, kFewChannels = 96;
constexpr int64_t kLeastRows = 2;

// The least odd multiple of a cache line (16 floats) that holds n floats.
int64_t OddLines(int64_t n) { return (CeilDiv(n, 16) | 1) * 16; }

// a * b, or a bound that nothing accepts.
constexpr int64_t kTooMuch = int64_t{1} << 59;
int64_t Times(int64_t a, int64_t b) {
  int64_t product;
  return __builtin_mul_overflow(a, b, &product) ? kTooMuch : std::min(product, kTooMuch);
}

// The width between kFewChannels and kMostChannels that wastes the fewest columns on padding, the widest of those.
int64_t ChooseChannels(int64_t C) {
  int64_t best = 0, best_waste = 0;
  for (int64_t blocks = CeilDiv(C, kMostChannels); blocks <= CeilDiv(C, kFewChannels); ++blocks) {
    const int64_t channels = RoundUp(CeilDiv(C, blocks), kBackwardQuantum);
    const int64_t waste = CeilDiv(C, channels) * channels - C;
    if (best == 0 || waste < best_waste) {
      best = channels;
      best_waste = waste;
    }
  }
  return best;
}

// How many columns of scratch a channel of X is; without a projection dY is gathered as dZ, whose multipliers are
// neighbours.
int64_t ScratchTimes(const Chain& chain) {
  return !chain.has_project || RepeatsInput(chain, kBackwardQuantum) ? chain.M : 1;
}

}  // namespace

BackwardPlan FinishBackwardPlan(const Chain& chain, const Machine& machine, int64_t block_channels,
                                int64_t block_rows) {
  BackwardPlan plan;
  plan.times = ScratchTimes(chain);
  const Chain p = plan.times > 1 ? Repeated(chain) : chain;
  block_channels = std::min(Times(block_channels, plan.times), p.C);
  plan.blocks = CeilDiv(p.C, block_channels);
  // All multipliers of a channel are in one block.
  plan.block_channels = std::min(p.C, RoundUp(CeilDiv(p.C, plan.blocks), std::lcm(kBackwardQuantum, plan.times)));
  plan.blocks = CeilDiv(p.C, plan.block_channels);
  plan.block_rows = std::clamp<int64_t>(block_rows, 1, p.Ho);

  plan.padded_channels = RoundUp(plan.block_channels, kBackwardQuantum);
  plan.columns = Times(p.M, plan.padded_channels);
  const int64_t K = p.has_project ? p.K : 0;
  plan.padded_K = RoundUp(K, std::max<int64_t>(machine.tile_channels, kBackwardQuantum));
  plan.x_stride = OddLines(plan.padded_channels);
  plan.z_stride = OddLines(plan.columns);
  plan.g_stride = K > 0 ? OddLines(plan.padded_K) : 0;

  const int64_t reach_h = Times(p.R - 1, p.dilation_h), reach_w = Times(p.S - 1, p.dilation_w);
  plan.x_rows = std::min(Times(plan.block_rows - 1, p.stride_h) + reach_h + 1, kTooMuch);
  plan.x_columns = std::min(Times(p.Wo - 1, p.stride_w) + reach_w + 1, kTooMuch);
  plan.edges_apart = p.R > kSmallWindow || p.S > kSmallWindow;
  plan.history = CeilDiv(reach_h, p.stride_h);
  plan.below = std::max<int64_t>(0, (p.H - 1 + p.pad_top) / p.stride_h - (p.Ho - 1));
  if (plan.edges_apart) {  // rows outside of dZ are not read
    plan.history = std::min(plan.history, p.Ho - 1);
    plan.below = 0;
  }
  plan.left = std::max<int64_t>(0, CeilDiv(std::max<int64_t>(0, reach_w - p.pad_left), p.stride_w));
  plan.right = std::max<int64_t>(0, (p.W - 1 + p.pad_left) / p.stride_w - (p.Wo - 1));

  const int64_t pixels = Times(plan.block_rows, p.Wo);
  plan.x_floats = Times(Times(plan.x_rows, plan.x_columns), plan.x_stride);
  plan.z_floats = Times(pixels, plan.z_stride);
  plan.dz_floats =
      Times(Times(plan.history + plan.block_rows + plan.below, plan.left + p.Wo + plan.right), plan.z_stride);
  plan.g_floats = Times(pixels, plan.g_stride);
  plan.y_floats = p.out.kind == ActivationKind::kNone ? 0 : Times(p.Wo, plan.g_stride);
  const bool two_z = !IsClamp(p.mid.kind);  // before and after the activation
  const int64_t taps = Times(p.R, p.S);
  plan.list_floats = Times(Times(taps, p.M), 4);
  plan.fold_floats = plan.times > 1 ? Times(p.W, plan.padded_channels) : 0;
  const int64_t pair = machine.z_bytes == 2 && K > 0 ? 2 : 1;
  if (pair == 2) {
    plan.rounded_floats = Times(pixels, plan.g_stride) / 2;
    plan.g_pair_floats = Times(CeilDiv(pixels, 2), plan.g_stride);
    plan.z_pair_floats = Times(CeilDiv(pixels, 2), plan.z_stride);
  }
  // Each is at most kTooMuch, so the sum is far from overflow.
  const int64_t floats = plan.x_floats + plan.z_floats * (two_z ? 2 : 1) + plan.dz_floats + plan.g_floats +
                         plan.y_floats + plan.rounded_floats + plan.g_pair_floats + plan.z_pair_floats +
                         plan.fold_floats + plan.list_floats;
  plan.scratch_floats = RoundUp(std::min(floats, kTooMuch), kBackwardQuantum);
  plan.dp_floats = Times(plan.columns, plan.padded_K);
  plan.dd_floats = Times(taps, plan.columns);
  plan.sum_floats = plan.dp_floats + plan.dd_floats + plan.columns + plan.padded_K;
  plan.panel_floats = Times(RoundUp(plan.columns, std::max<int64_t>(machine.tile_channels, 1)),
                            RoundUp(K, std::max<int64_t>(machine.product_depth, pair)) / pair);
  plan.filter_floats = plan.dd_floats + plan.columns;

  // As many chunks as keep threads busy, as long as their sums stay small beside what they are sums of.
  const int64_t sums_bytes = Times(Times(plan.sum_floats, plan.blocks), 4);
  const int64_t wanted = std::clamp<int64_t>(std::max<int64_t>(kSumBytes / std::max<int64_t>(sums_bytes, 1), 2), 1,
                                             CeilDiv(kTasks, plan.blocks));
  if (p.N >= wanted) {
    plan.chunks = CeilDiv(p.N, CeilDiv(p.N, wanted));  // as many images in each, if that is possible
    plan.pieces = 1;
  } else {
    // Rows of dZ above a piece are computed twice, so a piece is several times as high as that.
    const int64_t least = std::max<int64_t>(8 * plan.history, 4);
    plan.pieces = std::clamp<int64_t>(CeilDiv(wanted, p.N), 1, std::max<int64_t>(p.Ho / least, 1));
    plan.chunks = p.N * plan.pieces;
  }
  plan.blocked = plan.scratch_floats <= kMostScratchFloats && plan.sum_floats < kTooMuch / 1024 &&
                 plan.panel_floats < kTooMuch / 1024 && plan.x_columns < kTooMuch / 2 && plan.x_rows < kTooMuch / 2;
  return plan;
}

BackwardPlan MakeBackwardPlan(const Chain& p, const Machine& machine) {
  const int64_t room = machine.l2_bytes / 4 * 4 / 5;  // floats in most of L2
  const int64_t times = ScratchTimes(p);
  const int64_t channels = std::max<int64_t>(1, ChooseChannels(p.C * times) / times);
  const auto floats = [&](int64_t rows) { return FinishBackwardPlan(p, machine, channels, rows).scratch_floats; };
  // With each block the rows that its windows share with the block before are read and moved again: no fewer than a
  // quarter of those, unless that takes far more than L2.
  int64_t rows = std::min(kLeastRows, p.Ho);
  const int64_t wanted = std::min(CeilDiv((p.R - 1) * p.dilation_h, 4 * p.stride_h), p.Ho);
  if (wanted > rows && floats(wanted) <= 2 * room) rows = wanted;
  while (rows < p.Ho && (rows + 1) * p.Wo <= kMostPixels && floats(rows + 1) <= room) {
    ++rows;
  }
  // Blocks of equal height.
  rows = CeilDiv(p.Ho, CeilDiv(p.Ho, rows));
  BackwardPlan plan = FinishBackwardPlan(p, machine, channels, rows);
  if (!plan.blocked) plan = FinishBackwardPlan(p, machine, kBackwardQuantum, 1);
  return plan;
}

}  // namespace dwsconv
