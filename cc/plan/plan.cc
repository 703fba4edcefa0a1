#include "cc/plan/plan.h"

#include <algorithm>
#include <numeric>

#include "cc/core/make_problem.h"

namespace dwsconv {
namespace {

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t RoundUp(int64_t a, int64_t b) { return CeilDiv(a, b) * b; }

constexpr int64_t kMostRepeatedFloats = 64 << 10;
constexpr int64_t kTooMuch = int64_t{1} << 48;  // floats; no plan asks for that many

int64_t ZStride(const Problem& problem, const Machine& machine) {
  if (PackedPixels(problem, machine.vector_floats) > 0) return problem.CM();
  // A vector of room past the last channel for the depthwise stores, and rows whose length is no multiple of 4 KB: such
  // rows would all fall into the same sets of L1.
  const int64_t line = 64 / machine.z_bytes;
  const int64_t stride = RoundUp(problem.CM(), line) + line;
  return stride * machine.z_bytes % 4096 == 0 ? stride + line : stride;
}

// Of the rows of X under `pixels` output pixels of an image, in float with each channel M times: whole rows, or what
// lies under a part of one (fused.cc takes them apart).
int64_t RepeatBytes(const Problem& p, int64_t pixels) {
  const int64_t rows = std::max<int64_t>(1, pixels / p.Wo), columns = std::min(pixels, p.Wo);
  const int64_t high = std::min(p.H, (rows - 1) * p.stride_h + (p.R - 1) * p.dilation_h + 1);
  const int64_t wide = pixels < p.Wo ? std::min(p.W, (columns - 1) * p.stride_w + (p.S - 1) * p.dilation_w + 1) : p.W;
  int64_t floats;
  const bool overflows = __builtin_mul_overflow(high * wide, p.CM(), &floats) || floats > kTooMuch;
  return RoundUp(4 * (overflows ? kTooMuch : floats), 64);
}

}  // namespace

int64_t PackedPixels(const Problem& problem, int vector_floats) {
  // With more than half a vector of channels the unaligned loads cost what the fuller vectors save.
  if (2 * problem.C > vector_floats || problem.M != 1 || problem.stride_w != 1) return 0;
  return vector_floats / std::gcd(problem.C, static_cast<int64_t>(vector_floats));
}

bool RepeatsInput(const Problem& p, int64_t vector_floats) {
  if (p.M == 1) return false;
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

void FinishPlan(const Problem& problem, const Machine& machine, Plan* plan, bool may_repeat) {
  plan->tasks =
      problem.N * CeilDiv(problem.output_pixels(), plan->block_pixels) * CeilDiv(problem.K, plan->block_channels);
  plan->threads = static_cast<int>(std::min<int64_t>(plan->threads, plan->tasks));
  const bool repeats = may_repeat && RepeatsInput(problem, machine.vector_floats);
  plan->z_stride = ZStride(repeats ? Repeated(problem) : problem, machine);
  plan->repeat_bytes = repeats ? RepeatBytes(problem, plan->block_pixels) : 0;
  plan->scratch_bytes = plan->block_pixels * plan->z_stride * machine.z_bytes + 64;
  if (repeats) plan->scratch_bytes = RoundUp(plan->scratch_bytes, 64) + plan->repeat_bytes;
}

}  // namespace dwsconv
