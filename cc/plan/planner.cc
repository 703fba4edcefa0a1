// The search for a plan: an integer search of the communication model of docs/kernels.md, over whole-row blocks and
// shares of the output channels.
//
// A block of `rows` output rows reads its input rows with their halo, the pointwise filter's share, and writes its part
// of Y. Moving fewer bytes wants large blocks; so do register tiles (few part-filled). Against that stand the capacity
// of L2, in which Z of a block has to stay between its two halves, and threads that wait for the last task.
#include <algorithm>
#include <cmath>

#include "cc/core/whole.h"
#include "cc/plan/expand_plan.h"
#include "cc/plan/plan.h"

namespace dwsconv {
namespace {

constexpr int64_t kMostEqualBlocks = 8;  // a thread
constexpr double kFlopsPerCycle = 32;    // of a thread that waits for nothing

// Scratch has to stay small for a thread, whatever its L2.
constexpr int64_t kLargestScratch = 1 << 20;

// The input rows that a block of `pixels` output pixels reads.
int64_t InputRows(const Chain& p, int64_t pixels) {
  const int64_t rows = std::max<int64_t>(1, CeilDiv(pixels, p.Wo));
  return std::min(p.H, (rows - 1) * p.stride_h + (p.R - 1) * p.dilation_h + 1);
}

// The columns of them: all, or those below a part of a row.
int64_t InputColumns(const Chain& p, int64_t pixels) {
  return pixels >= p.Wo ? p.W : std::min(p.W, (pixels - 1) * p.stride_w + (p.S - 1) * p.dilation_w + 1);
}

// How a block of pixels fares in the model.
struct Cost {
  double cycles = 0;  // until the last thread ends
  double bytes = 0;   // moved between L2 and beyond
};

// Input rows that a block of `pixels` output pixels reads on average, times the image's blocks, over the image's rows:
// 1 where nothing is read twice.
double Halo(const Chain& p, int64_t pixels) {
  const double blocks = static_cast<double>(CeilDiv(p.output_pixels(), pixels));
  const double read = static_cast<double>(InputRows(p, pixels));
  // Parts of one row share its input rows, which the caches still hold.
  const double distinct = pixels >= p.Wo ? blocks : static_cast<double>(p.Ho);
  return std::max(1.0, distinct * read / static_cast<double>(p.H));
}

// Of a multiply-add of the depthwise half, in those of the pointwise half.
double DepthwiseCycles(const Chain& p, const KernelCosts& costs, int64_t pixels) {
  const bool groups =
      p.R == 3 && p.S == 3 && p.stride_h == 1 && p.stride_w == 1 && p.dilation_h == 1 && p.dilation_w == 1;
  const int64_t rows = pixels / p.Wo, grouped = groups ? rows / costs.grouped_rows * costs.grouped_rows : 0;
  const int64_t part = pixels - rows * p.Wo;
  return (static_cast<double>(grouped * p.Wo) * costs.grouped_depthwise +
          static_cast<double>((rows - grouped) * p.Wo) * costs.depthwise +
          static_cast<double>(part) * costs.part_row_depthwise) /
         static_cast<double>(pixels);
}

// The pixels that the products of a block of `pixels` take as long for. Register tiles are of nearly equal size; one of
// few pixels waits for its own sums, and each has its end.
double PaidPixels(int64_t pixels, const Machine& machine) {
  const double tiles = static_cast<double>(CeilDiv(pixels, machine.tile_pixels));
  return tiles *
         (std::max(static_cast<double>(pixels) / tiles, machine.costs.least_pixels) + machine.costs.pixels_per_tile);
}

// How many tasks the slowest thread computes.
double TasksOfSlowest(const Chain& p, const Plan& plan) {
  const int64_t pixels = p.output_pixels(), shares = CeilDiv(p.K, plan.block_channels);
  const double N = static_cast<double>(p.N), blocks = static_cast<double>(CeilDiv(pixels, plan.block_pixels));
  const double whole = N * static_cast<double>(pixels) / static_cast<double>(plan.block_pixels) *
                       static_cast<double>(shares);  // tasks, the smaller ones in part
  // Tasks go to whoever is free: at the end some thread may have to wait for one task of another.
  const double rounds = std::ceil(N * blocks * static_cast<double>(shares) / plan.threads);
  const double slowest = std::min(rounds, whole / plan.threads + 1 - 1.0 / plan.threads);
  return std::max(whole / plan.threads, slowest);
}

Cost Model(const Chain& p, const Machine& machine, const Plan& plan) {
  const double item = static_cast<double>(SizeOf(p.dtype));
  const double N = static_cast<double>(p.N), cm = static_cast<double>(p.CM());
  const int64_t pixels = p.output_pixels(), blocks = CeilDiv(pixels, plan.block_pixels);
  const int64_t shares = CeilDiv(p.K, plan.block_channels);
  const double vector = machine.vector_floats;
  const double padded_k = static_cast<double>(RoundUp(plan.block_channels, machine.tile_channels) * shares);

  const double x_bytes = item * N * static_cast<double>(p.H * p.W * p.C) * static_cast<double>(shares);
  const double halo_bytes = x_bytes * (Halo(p, plan.block_pixels) - 1);
  const double y_bytes = item * N * static_cast<double>(pixels * p.K);
  // A share of the filter that fits into L2 beside Z stays there from block to block of a thread.
  const double share_bytes = static_cast<double>(machine.z_bytes) * cm * padded_k / static_cast<double>(shares);
  const bool stays =
      share_bytes + static_cast<double>(plan.scratch_bytes) < 0.5 * static_cast<double>(machine.l2_bytes);
  const double loads = stays ? static_cast<double>(std::min<int64_t>(plan.threads * shares, plan.tasks))
                             : static_cast<double>(plan.tasks);
  const double far_bytes = x_bytes + y_bytes + share_bytes * loads;
  Cost cost;
  // A block's halo was the block before's. It is still in L2, unless a filter that does not stay has come by meanwhile.
  // A line of Y is fetched before it is stored into, unless it goes around the caches. Blocks do not change that, so
  // the search leaves it out.
  const double fetched_bytes = plan.stream ? 0 : y_bytes;
  cost.bytes = far_bytes + item * cm * static_cast<double>(p.R * p.S) + (stays ? 0 : halo_bytes) + fetched_bytes;

  // Of a whole block; the last of an image may be smaller.
  const double taps = static_cast<double>(p.R * p.S);
  const double depthwise = static_cast<double>(plan.block_pixels) * cm * taps / vector *
                           DepthwiseCycles(p, machine.costs, plan.block_pixels);
  const double pointwise = PaidPixels(plan.block_pixels, machine) * cm * padded_k / static_cast<double>(shares) /
                           vector / machine.product_rate;
  // Z is written once and read by each panel of the filter: for nothing out of L1, at a price out of L2.
  const double panels = padded_k / static_cast<double>(shares * machine.tile_channels);
  const double z = 2 * plan.scratch_bytes <= machine.l1d_bytes
                       ? 0
                       : static_cast<double>(plan.scratch_bytes) * (1 + panels) * machine.cycles_per_near_byte;
  const double task = depthwise + pointwise + z + machine.costs.task;
  const double far = far_bytes * machine.cycles_per_byte, near = halo_bytes * machine.cycles_per_near_byte;
  cost.cycles = TasksOfSlowest(p, plan) * task + (far + near) / plan.threads;
  return cost;
}

// The same of a dense convolution whose products read X under their windows.
double WindowCycles(const Chain& c, const Machine& machine, const Plan& plan) {
  const int64_t rows = std::max<int64_t>(1, plan.block_pixels / c.Wo), columns = std::min(plan.block_pixels, c.Wo);
  const int64_t panels = CeilDiv(plan.block_channels, machine.tile_channels), terms = c.R * c.S * c.C;
  const double pixels = static_cast<double>(rows) * PaidPixels(columns, machine);
  const double products = pixels * static_cast<double>(terms) *
                          static_cast<double>(panels * machine.tile_channels / machine.vector_floats) /
                          machine.product_rate;
  const double window = static_cast<double>(plan.scratch_bytes);
  const double share = static_cast<double>(terms) * static_cast<double>(panels * machine.tile_channels) *
                       static_cast<double>(machine.z_bytes);
  // Each panel's products pass over the rows, and each register tile's over its panel.
  const double tiles = static_cast<double>(rows * CeilDiv(columns, machine.tile_pixels));
  const double passes = 2 * plan.scratch_bytes <= machine.l1d_bytes ? 0 : 4 * static_cast<double>(1 + panels);
  const double near = window * passes + share * tiles;
  // A share of the filter that fits into L2 beside the rows stays there from block to block of a thread.
  const bool stays = share + window < 0.5 * static_cast<double>(machine.l2_bytes);
  const int64_t shares = CeilDiv(c.K, plan.block_channels);
  const double loads = static_cast<double>(stays ? std::min<int64_t>(plan.threads * shares, plan.tasks) : plan.tasks);
  const double far = share * loads + window * static_cast<double>(plan.tasks);
  return TasksOfSlowest(c, plan) * (products + near * machine.cycles_per_near_byte + machine.costs.task) +
         far * machine.cycles_per_byte / plan.threads;
}

// The best blocks of whole rows, or of a part of one where whole ones have no room.
Plan SearchWindows(const Chain& chain, const Machine& machine, const Plan& begun) {
  const int64_t panels = CeilDiv(chain.K, machine.tile_channels);
  const int64_t room = std::min(kLargestScratch, machine.l2_bytes / 2);
  Plan best;
  double least = -1;
  const auto consider = [&](int64_t pixels, int64_t shares) {
    Plan plan = begun;
    plan.block_pixels = pixels;
    plan.block_channels = std::min(CeilDiv(panels, shares) * machine.tile_channels, chain.K);
    FinishPlan(chain, machine, &plan);
    const double cycles = WindowCycles(chain, machine, plan);
    if (least < 0 || cycles < least) {
      least = cycles;
      best = plan;
    }
  };
  for (int64_t shares = 1; shares <= std::min<int64_t>(panels, begun.threads); ++shares) {
    int64_t columns = chain.Wo;
    while (columns > machine.tile_pixels && WindowBytes(chain, machine, columns) > room) columns = CeilDiv(columns, 2);
    if (columns < chain.Wo) {
      consider(columns, shares);
      continue;
    }
    for (int64_t rows = 1; rows == 1 || WindowBytes(chain, machine, rows * chain.Wo) <= room;) {
      const int64_t blocks = CeilDiv(chain.Ho, rows);
      consider(rows * chain.Wo, shares);
      if (blocks == 1) break;
      rows = CeilDiv(chain.Ho, blocks - 1);
    }
  }
  return best;
}

// Threads and stores of a call of a chain as PlannedAs gives it.
Plan Begin(const Chain& chain, const Machine& machine) {
  const int64_t pixels = chain.output_pixels();
  const double flops = 2.0 * static_cast<double>(chain.N) * static_cast<double>(pixels) *
                       static_cast<double>(chain.CM()) * static_cast<double>(chain.R * chain.S + chain.K);
  // Few pixels wait for the filter, which is read once a call, from far away.
  const double filter_bytes = static_cast<double>(chain.CM()) * static_cast<double>(chain.K * machine.z_bytes);
  const double work = std::max(flops, filter_bytes * machine.cycles_per_byte * kFlopsPerCycle);
  const int threads = static_cast<int>(std::clamp<double>(work / machine.flops_per_thread, 1.0, machine.threads));
  // What a call reads and writes: where that does not stay in L3, Y is on its way to memory in any case.
  const double y = static_cast<double>(pixels) * static_cast<double>(chain.K) * (chain.has_residual ? 2 : 1);
  const double x = static_cast<double>(chain.H * chain.W * chain.C);
  const bool stream =
      machine.Streams(static_cast<double>(chain.N) * (x + y) * static_cast<double>(SizeOf(chain.dtype)));
  Plan plan;
  plan.threads = threads;
  plan.stream = stream;
  return plan;
}

// The best blocks for a chain as PlannedAs gives it.
Plan SearchBlocks(const Chain& chain, const Machine& machine, const Plan& begun) {
  const int64_t pixels = chain.output_pixels(), panels = CeilDiv(chain.K, machine.tile_channels);
  const int64_t most = std::min(kLargestScratch, machine.l2_bytes / 2), room = machine.l2_bytes * 3 / 4;
  const int threads = begun.threads;
  Plan best;
  double least = -1;
  const auto consider = [&](int64_t block_pixels, int64_t shares) {
    Plan plan = begun;
    plan.block_pixels = block_pixels;
    plan.block_channels = std::min(CeilDiv(panels, shares) * machine.tile_channels, chain.K);
    FinishPlan(chain, machine, &plan);
    // Z stays in L2 between the halves, and with it the input rows, of which the next block's are fetched meanwhile.
    const int64_t rows_bytes =
        InputRows(chain, block_pixels) * InputColumns(chain, block_pixels) * chain.C * SizeOf(chain.dtype);
    // The first and smallest block is taken whatever it needs: some plan there must be.
    if (least >= 0 && (plan.scratch_bytes > most || plan.scratch_bytes + rows_bytes > room)) return;
    const double cycles = Model(chain, machine, plan).cycles;
    if (least < 0 || cycles < least) {
      least = cycles;
      best = plan;
    }
  };
  const auto consider_blocks = [&](int64_t shares) {
    // With very many channels not even one register tile fits: as many pixels as do.
    Plan pixel;
    pixel.block_pixels = pixel.block_channels = pixel.threads = 1;
    FinishPlan(chain, machine, &pixel);
    const int64_t fitting = std::clamp<int64_t>(most / pixel.scratch_bytes, 1, machine.tile_pixels);
    if (fitting < machine.tile_pixels) consider(std::min(fitting, pixels), shares);
    // Parts of a row, down to one register tile, the smallest first; then whole rows. ceil(Ho / rows) takes only about
    // 2 sqrt(Ho) values: go from one to the next.
    for (int64_t parts = CeilDiv(chain.Wo, machine.tile_pixels); parts > 1; parts = CeilDiv(parts, 2)) {
      consider(RoundUp(CeilDiv(chain.Wo, parts), machine.tile_pixels), shares);
    }
    for (int64_t rows = 1; rows <= chain.Ho;) {
      const int64_t blocks = CeilDiv(chain.Ho, rows);
      consider(rows * chain.Wo, shares);
      if (blocks == 1) break;
      rows = CeilDiv(chain.Ho, blocks - 1);
    }
    // As many pixels for each thread, wherever in a row that ends: of few rows some thread would have one more.
    for (int64_t each = 1; each <= kMostEqualBlocks; ++each) {
      const int64_t block = CeilDiv(pixels * chain.N * shares, threads * each);
      if (block < machine.tile_pixels) break;
      if (block < pixels) consider(block, shares);
    }
  };
  // Sharing out the output channels computes Z once a share, so it is for threads that pixels cannot keep busy.
  for (int64_t shares = 1; shares <= std::min<int64_t>(panels, threads); ++shares) consider_blocks(shares);
  return best;
}

}  // namespace

double ModelledBytes(const Chain& chain, const Machine& machine, const Plan& plan) {
  return Model(chain, machine, plan).bytes;
}

Plan MakePlan(const Chain& chain, const Machine& machine) {
  if (chain.E > 0) return MakeExpandPlan(chain, machine);
  const Chain planned = PlannedAs(chain);
  const Plan begun = Begin(planned, machine);
  if (ReadsWindows(chain, machine)) return SearchWindows(chain, machine, begun);
  Plan plan = SearchBlocks(planned, machine, begun);
  if (chain.has_depthwise || IsPointwise(chain)) return plan;
  // What lies under the windows of a dense convolution is several times X: it had better stay in L1.
  const int64_t fit = machine.l1d_bytes / 2 / (plan.z_stride * machine.z_bytes) / machine.tile_pixels;
  plan.block_pixels = std::min(plan.block_pixels, std::max<int64_t>(fit, 4) * machine.tile_pixels);
  FinishPlan(planned, machine, &plan);
  return plan;
}

}  // namespace dwsconv
