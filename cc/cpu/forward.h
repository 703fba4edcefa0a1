// The CPU forward pass: what the TensorFlow op and the pybind11 module call.
#ifndef DWSCONV_CPU_FORWARD_H_
#define DWSCONV_CPU_FORWARD_H_

#include <cstdint>
#include <memory>
#include <string>

#include "cc/core/cpu_features.h"
#include "cc/core/parallel.h"
#include "cc/core/problem.h"
#include "cc/cpu/pack_key.h"
#include "cc/plan/plan.h"
#include "cc/plan/tuned_plans.h"

namespace dwsconv {

// What was packed for kernels, and is kept from call to call. Immutable once made, so threads may share it.
class Packed {
 public:
  virtual ~Packed() = default;
  virtual int64_t bytes() const = 0;
};

// Filters and biases laid out for one ISA's kernels, in float.
class PackedFilters;
using PackedFiltersPtr = std::shared_ptr<const PackedFilters>;

// The filters and biases of `buffers` (input, residual and output are not read). Null when memory is out. Without
// may_repeat for kernels that read something else than X alone (RepeatsInput of plan.h).
PackedFiltersPtr PackFilters(const Problem& problem, Isa isa, const ForwardBuffers& buffers, bool may_repeat = true);

// Of filters that PackFilters would pack for a problem, and of those that it has packed.
PackKey PackKeyOf(const Problem& problem, Isa isa, bool may_repeat = true);
const PackKey& PackKeyOf(const PackedFilters& packed);

struct ForwardOptions;
using ForwardFunction = std::string (*)(const Problem& problem, const ForwardBuffers& buffers,
                                        const PackedFilters* packed, const ForwardOptions& options);

struct ForwardOptions {
  Isa isa = Isa::kGeneric;     // from ChooseIsa
  int num_threads = 1;         // at most this many; from ResolveThreads
  ThreadPool* pool = nullptr;  // whose threads; null: this library's own
  Variant variant = Variant::kAuto;
  const PlanChoice* choice =
      nullptr;                       // in the place of the planner's, one that CheckPlanChoice finds nothing wrong with
  ForwardFunction ladder = nullptr;  // cc/lab's, where IsLadderStep(variant)
};

// Computes the layer. `packed` may be null: then the filters are packed for this call. Returns "" or what went wrong
// (memory). Never throws; an empty batch returns at once.
std::string Forward(const Problem& problem, const ForwardBuffers& buffers, const PackedFilters* packed,
                    const ForwardOptions& options);

// What Forward would do for the problem: the choice of the options; else, for Variant::kAuto, the tuner's plan if there
// is one; else the planner's. The output is not empty.
Plan ForwardPlan(const Problem& problem, const ForwardOptions& options);

// The machine that plans are made for: this CPU, the kernels that serve the problem, the options' threads.
Machine ForwardMachine(const Problem& problem, const ForwardOptions& options);

// "" where the options have no choice, or one that fits the problem; else what is wrong. The output is not empty.
std::string CheckPlanChoice(const Problem& problem, const ForwardOptions& options);

// How often this process ran Forward on an ISA's kernels and packed filters: for tests that assert which path ran.
int64_t ForwardCalls(Isa isa);
void CountForwardCall(Isa isa);  // for the other entry, block.h
int64_t PackCalls();

}  // namespace dwsconv

#endif  // DWSCONV_CPU_FORWARD_H_
