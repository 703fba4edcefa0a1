#include "cc/plan/plan.h"

#include <algorithm>
#include <numeric>

#include "cc/core/make_problem.h"

namespace dwsconv {
namespace {

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t RoundUp(int64_t a, int64_t b) { return CeilDiv(a, b) * b; }

int64_t ZStride(const Problem& problem, const Machine& machine) {
  if (PackedPixels(problem, machine.vector_floats) > 0) return problem.CM();
  // A vector of room past the last channel for the depthwise stores, and rows whose length is no multiple of 4 KB: such
  // rows would all fall into the same sets of L1.
  const int64_t line = 64 / machine.z_bytes;
  const int64_t stride = RoundUp(problem.CM(), line) + line;
  return stride * machine.z_bytes % 4096 == 0 ? stride + line : stride;
}

}  // namespace

int64_t PackedPixels(const Problem& problem, int vector_floats) {
  // With more than half a vector of channels the unaligned loads cost what the fuller vectors save.
  if (2 * problem.C > vector_floats || problem.M != 1 || problem.stride_w != 1) return 0;
  return vector_floats / std::gcd(problem.C, static_cast<int64_t>(vector_floats));
}

void FinishPlan(const Problem& problem, const Machine& machine, Plan* plan) {
  plan->tasks =
      problem.N * CeilDiv(problem.output_pixels(), plan->block_pixels) * CeilDiv(problem.K, plan->block_channels);
  plan->threads = static_cast<int>(std::min<int64_t>(plan->threads, plan->tasks));
  plan->z_stride = ZStride(problem, machine);
  plan->scratch_bytes = plan->block_pixels * plan->z_stride * machine.z_bytes + 64;
}

}  // namespace dwsconv
