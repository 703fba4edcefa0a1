#include "cc/plan/program_scales.h"

#include <algorithm>
#include <cstddef>

namespace dwsconv {
namespace {

bool IsOne(const std::vector<int64_t>& pair) {
  return std::all_of(pair.begin(), pair.end(), [](int64_t i) { return i == 1; });
}

// A depthwise convolution of one tap on an input of the program, and nothing else.
bool OnlyScales(const Program& program, const InferredProgram& inferred, size_t index) {
  const Step& step = program.steps[index];
  const InferredStep& at = inferred.steps[index];
  const Chain& c = at.chain;
  const bool no_pads =
      std::all_of(step.explicit_padding.begin(), step.explicit_padding.end(), [](int64_t pad) { return pad == 0; });
  return step.kind == StepKind::kChain && c.has_depthwise && !c.has_project && c.E == 0 && c.R == 1 && c.S == 1 &&
         c.M == 1 && IsOne(step.strides) && no_pads && !c.normalize && at.gate < 0 && at.residual < 0 &&
         c.mid.kind == ActivationKind::kNone && c.out.kind == ActivationKind::kNone &&
         at.xs[0] < static_cast<int>(program.inputs.size());
}

}  // namespace

std::vector<int> ScalesTaken(const Program& program, const InferredProgram& inferred) {
  std::vector<int> taken(program.steps.size(), -1);
  // A filter of float16 that is divided by 255 would leave its normal numbers.
  if (program.dtype == DType::kFloat16) return taken;
  const int inputs = static_cast<int>(program.inputs.size());
  std::vector<int> reads(inferred.shapes.size(), 0);
  const auto read = [&](int slot) {
    if (slot >= 0) ++reads[static_cast<size_t>(slot)];
  };
  for (const InferredStep& step : inferred.steps) {
    for (int slot : step.xs) read(slot);
    for (int slot : {step.y, step.gate, step.residual}) read(slot);
  }
  for (int slot : inferred.outputs) read(slot);
  for (size_t i = 0; i < program.steps.size(); ++i) {
    const InferredStep& at = inferred.steps[i];
    const Chain& c = at.chain;
    const bool is_dense =
        program.steps[i].kind == StepKind::kChain && !c.has_depthwise && c.has_project && c.E == 0 && c.groups == 1;
    if (!is_dense || c.normalize || at.gate >= 0 || at.xs[0] < inputs) continue;
    const int before = at.xs[0] - inputs;
    if (reads[static_cast<size_t>(at.xs[0])] == 1 && OnlyScales(program, inferred, static_cast<size_t>(before))) {
      taken[i] = before;
    }
  }
  return taken;
}

}  // namespace dwsconv
