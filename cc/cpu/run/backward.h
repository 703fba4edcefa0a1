// The CPU backward pass: what the TensorFlow gradient op calls.
#ifndef DWSCONV_CPU_RUN_BACKWARD_H_
#define DWSCONV_CPU_RUN_BACKWARD_H_

#include <cstdint>
#include <string>

#include "cc/core/chain.h"
#include "cc/core/cpu_features.h"
#include "cc/core/parallel.h"
#include "cc/plan/backward_plan.h"

namespace dwsconv {

struct BackwardOptions {
  Isa isa = Isa::kGeneric;
  int num_threads = 1;
  ThreadPool* pool = nullptr;          // whose threads; null: this library's own
  const BackwardPlan* plan = nullptr;  // in the place of the planner's
};

// Why there is no backward pass for a chain, or "": it takes a depthwise convolution and a projection, and no other
// stage but the residual.
std::string BackwardRefuses(const Chain& chain);

// Computes the gradients whose buffers are not null. Z is computed again, nothing of the forward pass but its input and
// (for some activations) its output is read. The same bits for any number of threads and from run to run. Returns "" or
// what went wrong (memory). Never throws; gradients of an empty batch are zeros.
std::string Backward(const Chain& chain, const BackwardBuffers& buffers, const BackwardOptions& options);

// The planner's choice for these kernels and this CPU.
BackwardPlan BackwardPlanFor(const Chain& chain, Isa isa);

// How often this process ran Backward on an ISA's kernels, of those on scratch with repeated channels, and on the plain
// loops of geometries that no block holds: for tests that assert which path ran.
int64_t BackwardCalls(Isa isa);
int64_t BackwardRepeatedCalls();
int64_t BackwardPlainCalls();

}  // namespace dwsconv

#endif  // DWSCONV_CPU_RUN_BACKWARD_H_
