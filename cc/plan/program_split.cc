#include "cc/plan/program_split.h"

#include <algorithm>
#include <string>
#include <vector>

#include "cc/plan/program_scales.h"

namespace dwsconv {
namespace {

constexpr int64_t kFewestImages = 8;
constexpr size_t kFewestSteps = 3;  // fewer share too little to be worth it

// Whether a step computes each image from that image alone, all tensors going with the batch.
bool GoesByImage(const Program& program, const InferredProgram& inferred, size_t index) {
  const Step& step = program.steps[index];
  const InferredStep& at = inferred.steps[index];
  const auto& output = inferred.shapes[static_cast<size_t>(at.output)];
  const int64_t batch = inferred.shapes[0][0];
  const auto fits = [&](int slot) {
    if (slot < 0) return true;
    const auto& shape = inferred.shapes[static_cast<size_t>(slot)];
    return shape[0] == batch && (!IsBinary(step.kind) || shape.size() == output.size());
  };
  if (IsBinary(step.kind) && at.y < 0) {
    const auto& y = program.weights[static_cast<size_t>(step.weight(Role::kY))].shape;
    if (y.size() > output.size() || (y.size() == output.size() && y[0] != 1)) return false;
  }
  return output[0] == batch && std::all_of(at.xs.begin(), at.xs.end(), fits) && fits(at.y) && fits(at.gate) &&
         fits(at.residual);
}

// How many of the first steps.
size_t FirstSteps(const Program& program, const InferredProgram& inferred, int64_t l2_bytes) {
  int64_t weights = 0;
  size_t steps = 0;
  for (; steps + 1 < program.steps.size(); ++steps) {
    for (int64_t weight : program.steps[steps].weights) {
      if (weight != kNone) weights += Elements(program.weights[static_cast<size_t>(weight)].shape);
    }
    // They are packed as floats, and read again for each image.
    if (4 * weights > l2_bytes / 2 || !GoesByImage(program, inferred, steps)) break;
  }
  return steps;
}

// The number of the tensor in a slot.
int64_t TensorOf(const Program& program, int slot) {
  const size_t index = static_cast<size_t>(slot), inputs = program.inputs.size();
  return index < inputs ? program.inputs[index].tensor : program.steps[index - inputs].output;
}

}  // namespace

bool SplitProgram(const Program& program, const InferredProgram& inferred, int64_t l2_bytes, int threads,
                  ProgramSplit* split) {
  const int64_t batch = inferred.shapes[0][0];
  if (batch < std::max<int64_t>(kFewestImages, 4 * threads)) return false;
  for (size_t i = 0; i < program.inputs.size(); ++i) {
    if (inferred.shapes[i][0] != batch) return false;
  }
  const size_t steps = FirstSteps(program, inferred, l2_bytes), inputs = program.inputs.size();
  if (steps < kFewestSteps) return false;
  // A scale and the convolution that takes it stay together.
  const std::vector<int> scales = ScalesTaken(program, inferred);
  const auto before = [steps](int step) { return step >= 0 && static_cast<size_t>(step) < steps; };
  if (std::any_of(scales.begin() + static_cast<std::ptrdiff_t>(steps), scales.end(), before)) return false;

  *split = ProgramSplit();
  Program &first = split->first, &rest = split->rest;
  first.dtype = rest.dtype = program.dtype;
  first.weight_count = rest.weight_count = program.weight_count;
  first.weights = rest.weights = program.weights;
  const auto middle = program.steps.begin() + static_cast<std::ptrdiff_t>(steps);
  first.steps.assign(program.steps.begin(), middle);
  rest.steps.assign(middle, program.steps.end());
  for (size_t i = 0; i < inputs; ++i) {
    first.inputs.push_back({program.inputs[i].name, program.inputs[i].tensor, inferred.shapes[i]});
    first.inputs.back().shape[0] = 1;
  }
  // What `rest` is given: each slot once. `output` is the program's output that it is, or -1.
  std::vector<int> given(inferred.shapes.size(), 0);
  const auto give = [&](int slot, int output) {
    if (given[static_cast<size_t>(slot)]++ > 0) return;
    const int64_t tensor = TensorOf(program, slot);
    const std::string name = std::to_string(tensor);
    const bool made = static_cast<size_t>(slot) >= inputs;
    split->rest_inputs.push_back({made, made ? static_cast<int>(first.outputs.size()) : slot});
    rest.inputs.push_back({name, tensor, inferred.shapes[static_cast<size_t>(slot)]});
    if (!made) return;
    first.outputs.push_back({name, tensor});
    split->first_outputs.push_back(output);
  };
  const auto early = [&](int slot) { return slot >= 0 && static_cast<size_t>(slot) < inputs + steps; };
  for (size_t o = 0; o < program.outputs.size(); ++o) {
    const int slot = inferred.outputs[o];
    const bool is_output = early(slot) && static_cast<size_t>(slot) >= inputs && given[static_cast<size_t>(slot)] == 0;
    if (early(slot)) give(slot, is_output ? static_cast<int>(o) : -1);
    if (is_output) continue;
    rest.outputs.push_back({program.outputs[o].name, program.outputs[o].tensor});
    split->rest_outputs.push_back(static_cast<int>(o));
  }
  for (size_t i = steps; i < program.steps.size(); ++i) {
    const InferredStep& step = inferred.steps[i];
    for (int slot : step.xs) {
      if (early(slot)) give(slot, -1);
    }
    for (int slot : {step.y, step.gate, step.residual}) {
      if (early(slot)) give(slot, -1);
    }
  }
  return !rest.outputs.empty() && !rest.inputs.empty() && !first.outputs.empty();
}

}  // namespace dwsconv
