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

// Multiply-adds of a chain's three products; the depthwise ones as those of dense products that take as long.
struct Work {
  double expand, depthwise, project;
};

Work WorkOf(const Chain& p, const Machine& machine) {
  const double z = static_cast<double>(p.output_pixels()) * static_cast<double>(p.CM());
  return {static_cast<double>(p.H * p.W * p.E) * static_cast<double>(p.C),
          z * static_cast<double>(p.R * p.S) * machine.costs.depthwise,
          p.has_project ? z * static_cast<double>(p.K) : 0};
}

// How many panels of A's channels a task takes, and how many the last thread has done at the end.
struct Pieces {
  int64_t panels = 0, until_end = 0;
};

Pieces ChoosePieces(const Chain& p, const Machine& machine, int threads) {
  const int64_t panels = CeilDiv(p.C, machine.tile_channels);
  const int64_t panel_bytes = p.H * p.W * machine.tile_channels * machine.z_bytes;
  const double cycles = machine.vector_floats * static_cast<double>(panels);
  const Work work = WorkOf(p, machine);
  Pieces best;
  double least = -1;
  for (int64_t each = 1; each <= panels && (each == 1 || each * panel_bytes <= kNearA); ++each) {
    const int64_t rounds = CeilDiv(p.N * CeilDiv(panels, each), threads);
    const double windows = work.depthwise * (each * panel_bytes <= machine.l1d_bytes ? 1 : machine.costs.far_windows);
    const double cost = static_cast<double>(rounds * each) * (work.expand / machine.product_rate + windows) / cycles +
                        static_cast<double>(rounds) * machine.costs.piece;
    if (least >= 0 && cost >= least) continue;
    least = cost;
    best = {each, rounds * each};
  }
  return best;
}

// Whether fewer images than threads had better share the channels of A than rows, of which A's are computed twice where
// two threads meet. With channels each thread writes lines of Z of all pixels, and the other threads read them, here or
// in the next step of a network; rows stay with the core that made them.
bool ChannelsBeatStrips(const Chain& p, const Machine& machine, int threads, const Pieces& pieces) {
  const Work work = WorkOf(p, machine);
  const int64_t strips = std::min(p.Ho, CeilDiv(threads, p.N));
  int64_t most_rows = 0, most_read = 0;
  for (int64_t strip = 0; strip < strips; ++strip) {
    const int64_t first = strip * p.Ho / strips, last = (strip + 1) * p.Ho / strips;
    int64_t begin, end;
    RowsRead(p, first, last, &begin, &end);
    most_rows = std::max(most_rows, last - first);
    most_read = std::max(most_read, end - begin);
  }
  // Strips are cut finer yet, so that the threads end together.
  const double rounds = static_cast<double>(p.N * strips) / threads;
  const double of_rows = rounds * static_cast<double>(most_rows) / static_cast<double>(p.Ho);
  const double by_strips = work.expand * rounds * static_cast<double>(most_read) / static_cast<double>(p.H) +
                           (work.depthwise + work.project) * of_rows;
  const double panels = static_cast<double>(CeilDiv(p.C, machine.tile_channels));
  const double others = static_cast<double>(p.N * p.output_pixels()) * static_cast<double>(p.CM()) / threads;
  const double shared =
      others * static_cast<double>(machine.z_bytes) * machine.cycles_per_shared_byte * machine.vector_floats;
  const double by_channels = (work.expand + work.depthwise) * static_cast<double>(pieces.until_end) / panels +
                             work.project * static_cast<double>(p.N) / threads + shared;
  return by_channels < by_strips;
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
  // As many strips for each thread.
  const int64_t strips = RoundUp(CeilDiv(p.Ho, plan->rows), CeilDiv(plan->threads, p.N));
  plan->strips = plan->by_channels || plan->channels < p.C ? 1 : std::min(p.Ho, strips);
  plan->tasks = p.N * (plan->by_channels ? CeilDiv(p.C, plan->channels) : plan->strips);
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
  plan.stream = machine.Streams(static_cast<double>(p.N) * moved * static_cast<double>(SizeOf(p.dtype)));

  const int64_t row_bytes = p.W * p.C * zb, z_row = p.Wo * plan.z_stride * zb, room = machine.l2_bytes / 2;
  const int64_t z_image = p.Ho * z_row, near = std::max<int64_t>(1, CeilDiv(p.H * row_bytes, kNearA));
  const auto finished = [&] {
    FinishExpandPlan(p, machine, &plan);
    return plan;
  };
  const int64_t least_a = p.H * p.W * panel * zb;
  if (MayCutChannels(p, machine) && least_a <= kLargestZ) {
    // Whole images: no row of A is computed twice.
    const bool enough = p.N >= 4 * plan.threads || p.N % plan.threads == 0;
    if (enough && z_image <= room) {
      plan.channels = std::min(p.C, RoundUp(CeilDiv(p.C, near), panel));
      plan.rows = p.Ho;
      return finished();
    }
    const int64_t z_thread = p.N * z_image / plan.threads;
    if (!enough && z_thread <= machine.l2_bytes * 3 / 4 && p.N * z_image <= kLargestZ) {
      const Pieces pieces = ChoosePieces(p, machine, plan.threads);
      if (ChannelsBeatStrips(p, machine, plan.threads, pieces)) {
        plan.channels = std::min(p.C, pieces.panels * panel);
        plan.rows = p.Ho;
        plan.by_channels = true;
        return finished();
      }
    }
  }
  // Strips of rows. A's rows are kept from strip to strip, so what many rows save is only the copy of those that stay
  // and the starts of strips; few rows keep A and Z near.
  plan.channels = p.C;
  const int64_t halo = std::max<int64_t>(0, (p.R - 1) * p.dilation_h + 1 - p.stride_h);
  const int64_t fit = (room - halo * row_bytes) / std::max<int64_t>(1, p.stride_h * row_bytes + z_row);
  const int64_t each = CeilDiv(p.Ho, p.N >= plan.threads ? 1 : CeilDiv(plan.threads, p.N));
  plan.rows = std::clamp<int64_t>(fit, 1, each);
  return finished();
}

}  // namespace dwsconv
