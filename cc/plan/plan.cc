#include "cc/plan/plan.h"

#include <algorithm>
#include <numeric>

#include "cc/core/whole.h"

namespace dwsconv {
namespace {

constexpr int64_t kMostRepeatedFloats = 64 << 10;
constexpr int64_t kLargestWindows = 1 << 20;    // bytes below a register tile of pixels
constexpr int64_t kTooMuch = int64_t{1} << 48;  // floats; no plan asks for that many

int64_t ZStride(const Chain& chain, const Machine& machine) {
  if (PackedPixels(chain, machine.vector_floats) > 0) return chain.CM();
  // A vector of room past the last channel for the depthwise stores, and rows whose length is no multiple of 4 KB: such
  // rows would all fall into the same sets of L1.
  const int64_t line = 64 / machine.z_bytes;
  const int64_t stride = RoundUp(chain.CM(), line) + line;
  return stride * machine.z_bytes % 4096 == 0 ? stride + line : stride;
}

}  // namespace

int64_t PackedPixels(const Chain& chain, int vector_floats) {
  // With more than half a vector of channels the unaligned loads cost what the fuller vectors save.
  if (2 * chain.C > vector_floats || chain.M != 1 || chain.stride_w != 1) return 0;
  return vector_floats / std::gcd(chain.C, static_cast<int64_t>(vector_floats));
}

bool RepeatsInput(const Chain& p, int64_t vector_floats) {
  if (p.M == 1 || p.E != 0) return false;
  // What a pixel reads has to be small beside L2, however large X is: filters are packed before it is known.
  const int64_t high = (p.R - 1) * p.dilation_h + 1, wide = (p.S - 1) * p.dilation_w + 1;
  int64_t floats;
  if (__builtin_mul_overflow(high, wide, &floats) || __builtin_mul_overflow(floats, p.CM(), &floats) ||
      floats > kMostRepeatedFloats) {
    return false;
  }
  // Worth it from a fifth of the vectors on.
  return 5 * CeilDiv(p.CM(), vector_floats) <= 4 * p.M * CeilDiv(p.C, vector_floats);
}

int64_t RepeatBytes(const Chain& p, int64_t pixels) {
  const int64_t rows = std::max<int64_t>(1, pixels / p.Wo), columns = std::min(pixels, p.Wo);
  const int64_t high = std::min(p.H, (rows - 1) * p.stride_h + (p.R - 1) * p.dilation_h + 1);
  const int64_t wide = pixels < p.Wo ? std::min(p.W, (columns - 1) * p.stride_w + (p.S - 1) * p.dilation_w + 1) : p.W;
  int64_t floats;
  const bool overflows = __builtin_mul_overflow(high * wide, p.CM(), &floats) || floats > kTooMuch;
  return RoundUp(4 * (overflows ? kTooMuch : floats), 64);
}

bool IsPointwise(const Chain& c) {
  return c.R == 1 && c.S == 1 && c.stride_h == 1 && c.stride_w == 1 && c.Ho == c.H && c.Wo == c.W;
}

Chain GroupsAsImages(const Chain& chain, int64_t vector_floats) {
  if (chain.groups == 1) return chain;
  const int64_t C = chain.C / chain.groups, K = chain.K / chain.groups;
  // Vectors of multiply-adds a pixel and tap, with so many groups as one.
  const auto work = [&](int64_t together) {
    return static_cast<double>(chain.groups * C) * static_cast<double>(CeilDiv(K * together, vector_floats));
  };
  int64_t best = 1;
  for (int64_t together = 2; together <= chain.groups && K * (together - 1) < vector_floats; ++together) {
    if (chain.groups % together == 0 && work(together) <= work(best)) best = together;
  }
  Chain one = chain;
  one.groups = chain.groups / best;
  one.N *= one.groups;
  one.C = C * best;
  one.K = K * best;
  return one;
}

bool ReadsWindows(const Chain& c, const Machine& machine) {
  const int64_t pixels = std::min<int64_t>(c.Wo, machine.tile_pixels);
  return !c.has_depthwise && c.has_project && c.E == 0 && !IsPointwise(c) && c.dilation_w == 1 && !c.float_between() &&
         !machine.rounds_z && machine.product_depth <= 2 && c.S * c.C % machine.product_depth == 0 &&
         2 * pixels >= machine.tile_pixels && WindowBytes(c, machine, pixels) <= kLargestWindows;
}

int64_t WindowHeight(const Chain& c, int64_t rows) { return (rows - 1) * c.stride_h + (c.R - 1) * c.dilation_h + 1; }

int64_t WindowWidth(const Chain& c, int64_t columns) {
  return (columns - 1) * c.stride_w + (c.S - 1) * c.dilation_w + 1;
}

int64_t WindowBytes(const Chain& c, const Machine& machine, int64_t pixels) {
  const int64_t high = WindowHeight(c, std::max<int64_t>(1, pixels / c.Wo));
  int64_t bytes;
  const bool overflows = __builtin_mul_overflow(high, WindowWidth(c, std::min(pixels, c.Wo)), &bytes) ||
                         __builtin_mul_overflow(bytes, c.C * machine.z_bytes, &bytes);
  return overflows ? kTooMuch : bytes;
}

Chain PlannedAs(const Chain& chain) {
  Chain c = chain;
  if (!chain.has_project) c.K = 1;
  if (chain.has_depthwise || !chain.has_project) return c;
  c.C = chain.R * chain.S * chain.C;
  c.R = c.S = c.stride_h = c.stride_w = c.dilation_h = c.dilation_w = 1;
  c.pad_top = c.pad_left = 0;
  c.H = c.Ho;
  c.W = c.Wo;
  return c;
}

void RowsRead(const Chain& c, int64_t first, int64_t last, int64_t* begin, int64_t* end) {
  *begin = std::clamp<int64_t>(first * c.stride_h - c.pad_top, 0, c.H);
  *end = std::clamp<int64_t>((last - 1) * c.stride_h - c.pad_top + (c.R - 1) * c.dilation_h + 1, *begin, c.H);
}

void FinishPlan(const Chain& chain, const Machine& machine, Plan* plan) {
  plan->tasks = chain.N * CeilDiv(chain.output_pixels(), plan->block_pixels) * CeilDiv(chain.K, plan->block_channels);
  plan->threads = static_cast<int>(std::min<int64_t>(plan->threads, plan->tasks));
  const bool repeats = RepeatsInput(chain, machine.vector_floats);
  plan->z_stride = ZStride(repeats ? Repeated(chain) : chain, machine);
  plan->repeat_bytes = repeats ? RepeatBytes(chain, plan->block_pixels) : 0;
  plan->scratch_bytes = plan->block_pixels * plan->z_stride * machine.z_bytes + 64;
  plan->windows = ReadsWindows(chain, machine);
  if (plan->windows) plan->scratch_bytes = WindowBytes(chain, machine, plan->block_pixels);
  if (repeats) plan->scratch_bytes = RoundUp(plan->scratch_bytes, 64) + plan->repeat_bytes;
}

}  // namespace dwsconv
