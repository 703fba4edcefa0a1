#include "cc/plan/plan.h"

#include <algorithm>
#include <numeric>

#include "cc/core/make_problem.h"

namespace dwsconv {
namespace {

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t RoundUp(int64_t a, int64_t b) { return CeilDiv(a, b) * b; }

// Below this much arithmetic a second thread costs more to wake than it saves.
constexpr int64_t kFlopsPerThread = 500'000;

// More than this many pixels in a block gained nothing on any layer measured.
constexpr int64_t kMostPixels = 392;

// Tasks wanted for each thread, so that an unlucky one does not leave the others waiting.
constexpr int64_t kTasksPerThread = 4;

int64_t ZStride(const Problem& problem, const Machine& machine) {
  if (PackedPixels(problem, machine.vector_floats, machine.z_bytes) > 0) return problem.CM();
  // A vector of room past the last channel for the depthwise stores, and rows whose length is no multiple of 4 KB: such
  // rows would all fall into the same sets of L1.
  const int64_t line = 64 / machine.z_bytes;
  const int64_t stride = RoundUp(problem.CM(), line) + line;
  return stride * machine.z_bytes % 4096 == 0 ? stride + line : stride;
}

}  // namespace

const char* VariantName(Variant variant) {
  switch (variant) {
    case Variant::kAuto: return "auto";
    case Variant::kReference: return "reference";
    case Variant::kFused: return "fused";
  }
  return "?";
}

bool ParseVariant(const std::string& word, Variant* variant) {
  for (Variant known : {Variant::kAuto, Variant::kReference, Variant::kFused}) {
    if (word == VariantName(known)) {
      *variant = known;
      return true;
    }
  }
  return false;
}

int64_t PackedPixels(const Problem& problem, int vector_floats, int64_t z_bytes) {
  // With more than half a vector of channels the unaligned loads cost what the fuller vectors save. A Z of bfloat16
  // is read in pairs, which must not straddle pixels.
  if (2 * problem.C > vector_floats || problem.M != 1 || problem.stride_w != 1 || z_bytes != 4) return 0;
  return vector_floats / std::gcd(problem.C, static_cast<int64_t>(vector_floats));
}

void FinishPlan(const Problem& problem, const Machine& machine, Plan* plan) {
  plan->tasks = problem.N * CeilDiv(problem.output_pixels(), plan->block_pixels) *
                CeilDiv(problem.K, plan->block_channels);
  plan->threads = static_cast<int>(std::min<int64_t>(plan->threads, plan->tasks));
  plan->z_stride = ZStride(problem, machine);
  plan->scratch_bytes = plan->block_pixels * plan->z_stride * machine.z_bytes + 64;
}

Plan MakePlan(const Problem& problem, const Machine& machine) {
  Plan plan;
  const int64_t pixels = problem.output_pixels(), cm = problem.CM();

  const double flops = 2.0 * static_cast<double>(problem.N) * static_cast<double>(pixels) * static_cast<double>(cm) *
                       static_cast<double>(problem.R * problem.S + problem.K);
  plan.threads = static_cast<int>(
      std::clamp<double>(flops / static_cast<double>(kFlopsPerThread), 1.0, static_cast<double>(machine.threads)));

  // Z of a block in half of L2: the other half is for the input rows and the filter panel in use.
  int64_t block = machine.l2_bytes / 2 / (machine.z_bytes * ZStride(problem, machine));
  block = std::min(block, kMostPixels);
  if (plan.threads > 1) {
    block = std::min(block, CeilDiv(problem.N * pixels, plan.threads * kTasksPerThread));
  }
  block = std::min(RoundUp(std::max<int64_t>(block, 1), machine.tile_pixels), pixels);
  // Blocks of nearly equal size, of whole rows where a row is not too long: rows of one block share their inputs.
  if (block >= problem.Wo) {
    const int64_t rows = block / problem.Wo;
    plan.block_pixels = CeilDiv(problem.Ho, CeilDiv(problem.Ho, rows)) * problem.Wo;
  } else {
    plan.block_pixels = CeilDiv(pixels, CeilDiv(pixels, block));
  }
  const int64_t pixel_tasks = problem.N * CeilDiv(pixels, plan.block_pixels);

  // Too few pixels for the threads: share out the output channels too, at the price of computing Z once a share.
  const int64_t panels = CeilDiv(problem.K, machine.tile_channels);
  int64_t shares = 1;
  if (pixel_tasks < plan.threads) shares = std::min(CeilDiv(plan.threads, pixel_tasks), panels);
  plan.block_channels = std::min(CeilDiv(panels, shares) * machine.tile_channels, problem.K);
  const double y_bytes = static_cast<double>(SizeOf(problem.dtype)) * static_cast<double>(problem.N) * static_cast<double>(pixels) * static_cast<double>(problem.K);
  plan.stream = y_bytes > 0.75 * static_cast<double>(machine.l3_bytes);
  FinishPlan(problem, machine, &plan);
  return plan;
}

}  // namespace dwsconv
