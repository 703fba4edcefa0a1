// The steps of a program that are no convolutions: how each is cut into parts for the kernels of step_table.h.
#ifndef DWSCONV_CPU_RUN_PROGRAM_OPS_H_
#define DWSCONV_CPU_RUN_PROGRAM_OPS_H_

#include <cstdint>
#include <vector>

#include "cc/core/parallel.h"
#include "cc/core/program.h"
#include "cc/core/program_infer.h"
#include "cc/cpu/kernels/step_table.h"
#include "cc/plan/program_plan.h"

namespace dwsconv {

// One step of a call: its shapes, and where its tensors lie.
struct StepCall {
  const Program& program;
  const InferredProgram& inferred;
  const ProgramPlan& plan;
  size_t index;
  const std::vector<char*>& at;  // by slot
  const char* weights;           // the flat weights
  const StepTable& kernels;
  Workers workers;
  const float* row_sums = nullptr;  // of a mean: those of its input, [N][H][C]; null where it has to add them up

  const Step& step() const { return program.steps[index]; }
  const InferredStep& slots() const { return inferred.steps[index]; }
  const std::vector<int64_t>& shape(int slot) const { return inferred.shapes[static_cast<size_t>(slot)]; }
  // Elements from one row of the last axis to the next.
  int64_t row_step(int slot) const {
    const int64_t step = plan.places[static_cast<size_t>(slot)].row_step;
    return step > 0 ? step : shape(slot).back();
  }
  const char* x() const { return at[static_cast<size_t>(slots().xs[0])]; }
  char* output() const { return at[static_cast<size_t>(slots().output)]; }
  int64_t item() const { return SizeOf(program.dtype); }
  int type() const { return static_cast<int>(program.dtype); }
  // Null where the step has none.
  const char* Weight(Role role) const {
    const int64_t index = step().weight(role);
    return index == kNone ? nullptr : weights + program.weights[static_cast<size_t>(index)].offset * item();
  }
};

// sums[n][row][c] = the sum over a row of what the chain gives, for some rows and channels: in the order of a mean.
void SumRows(const StepCall& call, int64_t n, int64_t row, int64_t rows, int64_t c, int64_t channels, float* sums);

// Computes any step but a chain, a dense one and a product. The output has elements.
void RunStep(const StepCall& call);

}  // namespace dwsconv

#endif  // DWSCONV_CPU_RUN_PROGRAM_OPS_H_
