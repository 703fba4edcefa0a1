#include "cc/cpu/forward.h"

#include <algorithm>
#include <atomic>

#include "cc/core/parallel.h"
#include "cc/cpu/fused.h"
#include "cc/cpu/packed_filters.h"
#include "cc/plan/plan_cache.h"
#include "cc/ref/reference.h"

namespace dwsconv {
namespace {

std::atomic<int64_t> forward_calls[3];

// `packed` may be null for variants that read plain filters.
std::string ForwardChannelsLast(const Problem& problem, const ForwardBuffers& buffers, const PackedFilters* packed,
                                const ForwardOptions& options) {
  if (IsLadderStep(options.variant)) return options.ladder(problem, buffers, packed, options);
  return RunFused(problem, buffers, *packed, Stages(), options);
}

}  // namespace

std::string Forward(const Problem& problem, const ForwardBuffers& buffers, const PackedFilters* packed,
                    const ForwardOptions& options) {
  if (problem.N == 0 || problem.output_pixels() == 0) return "";
  if (options.variant == Variant::kReference) {
    ForwardReference(problem, buffers, options.num_threads);
    return "";
  }
  PackedFiltersPtr own;
  if (!ReadsPlainFilters(options.variant)) {
    CountForwardCall(options.isa);
    const bool may_repeat = !IsLadderStep(options.variant);
    if (packed == nullptr || !(packed->key() == PackKeyOf(problem, options.isa, may_repeat))) {
      own = PackFilters(problem, options.isa, buffers, may_repeat);
      if (!own) return kOutOfMemory;
      packed = own.get();
    }
  }
  if (problem.layout == Layout::kNHWC) return ForwardChannelsLast(problem, buffers, packed, options);
  return BetweenTranspositions(problem, problem.C, buffers, options,
                               [&](const Problem& inner, int64_t, const ForwardBuffers& inside) {
                                 return ForwardChannelsLast(inner, inside, packed, options);
                               });
}

Machine ForwardMachine(const Problem& problem, const ForwardOptions& options) {
  const CpuFeatures& cpu = GetCpuFeatures();
  const KernelTable& kernels = Kernels(options.isa, problem);
  Machine machine;
  machine.isa = options.isa;
  if (cpu.l1d_bytes > 0) machine.l1d_bytes = cpu.l1d_bytes;
  if (cpu.l2_bytes > 0) machine.l2_bytes = cpu.l2_bytes;
  if (cpu.l3_bytes > 0) machine.l3_bytes = cpu.l3_bytes;
  machine.threads = std::max(options.num_threads, 1);
  machine.vector_floats = kernels.vector_floats;
  machine.z_bytes = SizeOf(kernels.z_type);
  machine.tile_pixels = kernels.tile_pixels;
  machine.tile_channels = kernels.tile_channels;
  return machine;
}

Plan ForwardPlan(const Problem& problem, const ForwardOptions& options) {
  const Machine machine = ForwardMachine(problem, options);
  Plan plan;
  if (options.choice != nullptr) {
    if (ApplyPlanChoice(problem, machine, *options.choice, &plan).empty()) return plan;
  } else if (options.variant == Variant::kAuto && FindTunedPlan(problem, machine, &plan)) {
    return plan;
  }
  return CachedPlan(problem, machine);
}

std::string CheckPlanChoice(const Problem& problem, const ForwardOptions& options) {
  Plan plan;
  if (options.choice == nullptr) return "";
  return ApplyPlanChoice(problem, ForwardMachine(problem, options), *options.choice, &plan);
}

void CountForwardCall(Isa isa) { forward_calls[static_cast<int>(isa)].fetch_add(1, std::memory_order_relaxed); }

int64_t ForwardCalls(Isa isa) { return forward_calls[static_cast<int>(isa)].load(std::memory_order_relaxed); }

}  // namespace dwsconv
