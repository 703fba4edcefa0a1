#include "cc/plan/expand_plan.h"

#include <algorithm>

#include "cc/core/whole.h"

namespace dwsconv {
namespace {

constexpr int64_t kNearA = 96 << 10;  // of A between its two convolutions, where channels are taken by pieces
constexpr int64_t kLargestZ = int64_t{8} << 20;  // of all images, where tasks are channels; likewise of a piece of A

// How Y is shared out once all of Z is there: what leaves no thread waiting, of that what moves the fewest bytes. Each
// task reads its pixels of Z and its share of the filter.
void ShareOutput(const Chain& p, const Machine& machine, Plan* plan) {
  const int64_t pixels = p.output_pixels(), panels = CeilDiv(p.K, machine.tile_channels);
  // What needs all channels of Z happens once, in the task that has them all.
  const bool whole = p.float_between() || machine.rounds_z || !p.has_project;
  const double item = static_cast<double>(machine.z_bytes), cm = static_cast<double>(p.CM());
  const double multiply =
      cm * static_cast<double>(machine.tile_channels) / machine.vector_floats / machine.product_rate;
  double least = -1;
  for (int64_t shares = 1; shares <= (whole ? 1 : std::min<int64_t>(panels, plan->threads)); ++shares) {
    const int64_t most = std::min(CeilDiv(pixels, machine.tile_pixels), CeilDiv(2 * plan->threads, p.N * shares));
    for (int64_t blocks = 1; blocks <= most; ++blocks) {
      const double rounds = static_cast<double>(CeilDiv(p.N * blocks * shares, plan->threads));
      const double rows = static_cast<double>(CeilDiv(pixels, blocks));
      const double share = static_cast<double>(CeilDiv(panels, shares));
      const double bytes = item * cm * (rows + share * static_cast<double>(machine.tile_channels));
      const double cycles = rounds * (rows * share * multiply + bytes * machine.cycles_per_byte);
      if (least >= 0 && cycles >= least) continue;
      least = cycles;
      plan->y_blocks = blocks;
      plan->y_shares = shares;
    }
  }
}

}  // namespace

bool MayCutChannels(const Chain& p, const Machine& machine) {
  return p.M == 1 && p.C >= 2 * machine.tile_channels && PackedPixels(p, machine.vector_floats) == 0;
}

void FinishExpandPlan(const Chain& p, const Machine& machine, Plan* plan) {
  const int64_t zb = machine.z_bytes;
  Plan one;
  one.block_pixels = one.block_channels = 1;
  FinishPlan(p, machine, &one);
  plan->z_stride = one.z_stride;
  // Whole images may need rows that no output reads; a strip holds what its rows read.
  const bool pieces = plan->channels < p.C || plan->by_channels;
  const int64_t read = std::min(p.H, (plan->rows - 1) * p.stride_h + (p.R - 1) * p.dilation_h + 1);
  const int64_t a_rows = pieces ? p.H : read, images = plan->by_channels ? p.N : 1;
  plan->a_bytes = a_rows * p.W * plan->channels * zb + 64;
  plan->z_bytes = images * plan->rows * p.Wo * plan->z_stride * zb + 64;
  plan->tasks = p.N * (plan->by_channels ? CeilDiv(p.C, plan->channels) : CeilDiv(p.Ho, plan->rows));
  plan->scratch_bytes = RoundUp(plan->a_bytes, 64) + (plan->by_channels ? 0 : RoundUp(plan->z_bytes, 64));
  if (plan->by_channels) ShareOutput(p, machine, plan);
}

Plan MakeExpandPlan(const Chain& p, const Machine& machine) {
  const int64_t zb = machine.z_bytes, panel = machine.tile_channels;
  Plan plan;
  plan.rows = 1;
  plan.channels = p.C;
  FinishExpandPlan(p, machine, &plan);
  const double flops = 2.0 * static_cast<double>(p.N) *
                       (static_cast<double>(p.H * p.W) * static_cast<double>(p.E * p.C) +
                        static_cast<double>(p.output_pixels()) * static_cast<double>(p.CM()) *
                            static_cast<double>(p.R * p.S + (p.has_project ? p.K : 0)));
  plan.threads = static_cast<int>(std::clamp<double>(flops / machine.flops_per_thread, 1.0, machine.threads));
  const double moved =
      static_cast<double>(p.H * p.W * p.E) + static_cast<double>(p.output_pixels() * p.K) * (p.has_residual ? 2 : 1);
  plan.stream = machine.streams &&
                static_cast<double>(p.N) * moved * static_cast<double>(SizeOf(p.dtype)) > kShareOfL3 * machine.l3_bytes;

  const int64_t row_bytes = p.W * p.C * zb, z_row = p.Wo * plan.z_stride * zb, room = machine.l2_bytes / 2;
  const auto piece = [&](int64_t pieces) { return std::min(p.C, RoundUp(CeilDiv(p.C, pieces), panel)); };
  const int64_t z_image = p.Ho * z_row, near = std::max<int64_t>(1, CeilDiv(p.H * row_bytes, kNearA));
  const auto finished = [&] {
    FinishExpandPlan(p, machine, &plan);
    return plan;
  };
  const int64_t least_a = p.H * p.W * panel * zb;
  if (MayCutChannels(p, machine) && z_image <= room && least_a <= kLargestZ) {
    // Whole images: no row of A is computed twice.
    plan.channels = piece(near);
    plan.rows = p.Ho;
    if (p.N >= 4 * plan.threads || p.N % plan.threads == 0) return finished();
    if (p.N * z_image <= kLargestZ) {
      // As many pieces an image as keep all threads busy to the end.
      const int64_t rounds = CeilDiv(p.N * near, plan.threads);
      plan.channels = piece(CeilDiv(rounds * plan.threads, p.N));
      plan.by_channels = true;
      return finished();
    }
  }
  // Strips of rows. A's rows are kept from strip to strip, so what many rows save is only the copy of those that stay
  // and the starts of strips; few rows keep A and Z near.
  plan.channels = p.C;
  const int64_t halo = std::max<int64_t>(0, (p.R - 1) * p.dilation_h + 1 - p.stride_h);
  const int64_t fit = (room - halo * row_bytes) / std::max<int64_t>(1, p.stride_h * row_bytes + z_row);
  // Enough strips for the threads, and those of one thread of equal height.
  const int64_t strips = p.N >= plan.threads ? 1 : CeilDiv(plan.threads, p.N);
  const int64_t rows = std::clamp<int64_t>(fit, 1, std::max<int64_t>(1, CeilDiv(p.Ho, strips)));
  plan.rows = CeilDiv(p.Ho, CeilDiv(CeilDiv(p.Ho, rows), strips) * strips);
  return finished();
}

}  // namespace dwsconv
