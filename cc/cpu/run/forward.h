// The CPU forward pass of a chain: what the TensorFlow ops and the pybind11 module call.
#ifndef DWSCONV_CPU_RUN_FORWARD_H_
#define DWSCONV_CPU_RUN_FORWARD_H_

#include <cstdint>
#include <string>

#include "cc/core/chain.h"
#include "cc/core/cpu_features.h"
#include "cc/core/parallel.h"
#include "cc/cpu/pack.h"
#include "cc/cpu/run/executor.h"
#include "cc/plan/plan.h"
#include "cc/plan/tuned_plans.h"

namespace dwsconv {

struct ForwardOptions;
using ForwardFunction = std::string (*)(const Chain& chain, const Buffers& buffers, const PackedFilters* packed,
                                        const ForwardOptions& options);

struct ForwardOptions {
  Isa isa = Isa::kGeneric;              // from ChooseIsa
  int num_threads = 1;                  // at most this many; from ResolveThreads
  ThreadPool* pool = nullptr;           // whose threads; null: this library's own
  const RowsDone* rows_done = nullptr;  // of chains with a depthwise stage, channels last
  // Of layers alone:
  Variant variant = Variant::kAuto;
  const PlanChoice* choice = nullptr;  // in the place of the planner's, one that CheckPlanChoice finds no fault with
  ForwardFunction ladder = nullptr;    // cc/lab's, where IsLadderStep(variant)
};

// Computes the chain. `packed` may be null, or of another key: then the filters are packed for this call. Returns "" or
// what went wrong (memory). Never throws; an empty batch returns at once.
std::string Forward(const Chain& chain, const Buffers& buffers, const PackedFilters* packed,
                    const ForwardOptions& options);

// What Forward would do for the chain: the choice of the options; else, for Variant::kAuto, the tuner's plan if there
// is one; else the planner's. The output is not empty.
Plan ForwardPlan(const Chain& chain, const ForwardOptions& options);

// The machine that plans are made for: this CPU, the kernels that serve the chain, the options' threads.
Machine ForwardMachine(const Chain& chain, const ForwardOptions& options);

// "" where the options have no choice, or one that fits the chain; else what is wrong. The output is not empty.
std::string CheckPlanChoice(const Chain& chain, const ForwardOptions& options);

// How often this process ran Forward on an ISA's kernels: for tests that assert which path ran.
int64_t ForwardCalls(Isa isa);

}  // namespace dwsconv

#endif  // DWSCONV_CPU_RUN_FORWARD_H_
