// Where tensors lie: none where another one lives that is still to be read.
#include "cc/plan/program_plan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <string>
#include <vector>

#include "cc/core/program_text.h"
#include "cc/core/testing_program.h"
#include "cc/plan/testing_chains.h"

namespace dwsconv {
namespace {

struct Planned {
  Program program;
  InferredProgram inferred;
  ProgramPlan plan;
};

Planned PlanOf(const Program& program, int64_t batch) {
  Planned planned;
  planned.program = program;
  std::vector<Shape> shapes;
  for (const ProgramInput& input : program.inputs) {
    std::vector<int64_t> shape = input.shape;
    std::replace(shape.begin(), shape.end(), kUnknown, batch);
    shapes.push_back(shape);
  }
  EXPECT_EQ(InferProgram(program, shapes, &planned.inferred), "");
  EXPECT_EQ(MakeProgramPlan(program, planned.inferred, &planned.plan), "");
  return planned;
}

// Plays the steps: each element of memory holds the slot that was written there last. What a step reads, and what the
// outputs are in the end, has to be there still: itself, or what it was made of in place, by a reshape or in parts.
void CheckPlan(const Planned& planned) {
  const Program& program = planned.program;
  const ProgramPlan& plan = planned.plan;
  const InferredProgram& inferred = planned.inferred;
  const int64_t item = SizeOf(program.dtype);
  std::vector<int> arena(static_cast<size_t>(plan.arena_bytes / item), -1);
  std::vector<std::vector<int>> outputs(program.outputs.size());
  for (size_t o = 0; o < outputs.size(); ++o) {
    outputs[o].assign(static_cast<size_t>(Elements(inferred.shapes[static_cast<size_t>(inferred.outputs[o])])), -1);
  }
  // Where the elements of a slot lie, but for inputs.
  const auto elements = [&](int slot) {
    const Place& place = plan.places[static_cast<size_t>(slot)];
    const auto& shape = inferred.shapes[static_cast<size_t>(slot)];
    std::vector<int>& memory = place.in == Place::In::kArena
                                   ? arena
                                   : outputs[place.in == Place::In::kOutput ? static_cast<size_t>(place.index) : 0];
    std::vector<int*> all;
    if (place.in == Place::In::kInput) return all;
    const int64_t row = shape.back(), step = place.row_step > 0 ? place.row_step : row;
    EXPECT_EQ(place.offset % item, 0);
    for (int64_t i = 0; i < Elements(shape); ++i) {
      const int64_t at = place.offset / item + i / row * step + i % row;
      EXPECT_LT(at, static_cast<int64_t>(memory.size()));
      if (at < static_cast<int64_t>(memory.size())) all.push_back(&memory[static_cast<size_t>(at)]);
    }
    return all;
  };
  // A concatenation leaves its parts what they are.
  const auto is_part = [&](int element, int slot) { return element >= 0 && IsInside(plan, element, slot); };
  const auto write = [&](int slot) {
    ASSERT_NE(plan.places[static_cast<size_t>(slot)].in, Place::In::kInput);
    for (int* element : elements(slot)) *element = is_part(*element, slot) ? *element : slot;
  };
  const auto read = [&](int slot) {
    for (const int* element : elements(slot)) ASSERT_TRUE(*element == slot || is_part(*element, slot)) << slot;
  };
  std::vector<int> alias(inferred.shapes.size());  // a reshaped tensor is the one that it was made of
  for (size_t slot = 0; slot < alias.size(); ++slot) alias[slot] = static_cast<int>(slot);
  for (size_t i = 0; i < program.steps.size(); ++i) {
    SCOPED_TRACE("step " + std::to_string(i));
    const InferredStep& step = inferred.steps[i];
    if (program.steps[i].kind == StepKind::kReshape) {
      alias[static_cast<size_t>(step.output)] = alias[static_cast<size_t>(step.xs[0])];
      continue;
    }
    std::vector<int> reads = step.xs;
    for (int slot : {step.y, step.gate, step.residual}) {
      if (slot >= 0) reads.push_back(slot);
    }
    for (int slot : reads) {
      const int source = alias[static_cast<size_t>(slot)];
      read(source);
      if (MayShare(program, inferred, i, slot) || IsInside(plan, slot, step.output)) continue;
      const std::vector<int*> from = elements(source), to = elements(step.output);
      const std::set<int*> written(to.begin(), to.end());
      for (int* element : from) ASSERT_EQ(written.count(element), 0u) << "slot " << slot;
    }
    write(step.output);
  }
  std::vector<int> copied(program.outputs.size(), 0);
  for (const auto& [slot, output] : plan.copies) ++copied[static_cast<size_t>(output)];
  for (size_t o = 0; o < program.outputs.size(); ++o) {
    const int slot = inferred.outputs[o];
    read(alias[static_cast<size_t>(slot)]);
    const Place& place = plan.places[static_cast<size_t>(slot)];
    const bool in_place = place.in == Place::In::kOutput && place.index == static_cast<int>(o);
    EXPECT_EQ(copied[o], in_place ? 0 : 1);
  }
}

TEST(ProgramPlan, EveryOp) {
  Program program;
  ASSERT_EQ(ParseProgram(EveryOp(), &program), "");
  for (int64_t batch : {1, 3}) CheckPlan(PlanOf(program, batch));
  // One output is another one reshaped, one is an input.
  program.outputs.push_back({"image", 0});
  program.outputs.push_back({"again", 18});
  program.outputs.push_back({"halves", 13});
  program.outputs.push_back({"peaks", 12});
  CheckPlan(PlanOf(program, 2));
}

// Random steps on tensors of one size of pixels, some of which are concatenated.
TEST(ProgramPlan, RandomPrograms) {
  Draw draw(5);
  int inside = 0;
  for (int i = 0; i < 600; ++i) {
    Program program;
    program.inputs = {{"a", 0, {kUnknown, 4, 4, 16}}, {"b", 1, {kUnknown, 4, 4, 16}}};
    const int64_t steps = draw(1, 20);
    std::vector<int64_t> sizes(static_cast<size_t>(2 + steps), 16);  // channels by tensor
    for (int64_t t = 2; t < 2 + steps; ++t) {
      Step step;
      const StepKind kinds[] = {StepKind::kActivation,  StepKind::kAdd,      StepKind::kReshape,
                                StepKind::kSoftmax,     StepKind::kMaxPool,  StepKind::kMaxPool,
                                StepKind::kConcatenate, StepKind::kTranspose};
      step.kind = kinds[draw(0, 7)];
      step.xs = {draw(0, t - 1)};
      int64_t& size = sizes[static_cast<size_t>(t)];
      size = sizes[static_cast<size_t>(step.xs[0])];
      if (step.kind == StepKind::kAdd) {
        const int64_t y = draw(0, t - 1);
        step.y = sizes[static_cast<size_t>(y)] == size ? y : step.xs[0];
      }
      if (step.kind == StepKind::kConcatenate) {
        step.axis = 3;
        for (int64_t more = draw(0, 3); more > 0; --more) step.xs.push_back(draw(0, t - 1));
        size = 0;
        for (int64_t x : step.xs) size += sizes[static_cast<size_t>(x)];
      }
      step.shape = std::vector<int64_t>{4, 4, size};
      step.axes = {0, 2, 1, 3};
      step.window = {3, 3};
      step.strides = {1, 1};
      step.padding = "same";
      step.output = t;
      program.steps.push_back(step);
    }
    for (int64_t o = draw(1, 3); o > 0; --o) {
      program.outputs.push_back({std::to_string(o), draw(0, 1 + steps)});
    }
    const Planned planned = PlanOf(program, 2);
    CheckPlan(planned);
    if (HasFailure()) break;
    for (int whole : planned.plan.wholes) inside += whole >= 0;
  }
  EXPECT_GT(inside, 100);
}

// A U-Net's skip: a pool reads it where it lies, between the channels that the concatenation adds.
TEST(ProgramPlan, PartsLieInsideTheirConcatenation) {
  Program program;
  program.inputs = {{"x", 0, {1, 8, 8, 16}}};
  const auto add = [&](StepKind kind, std::vector<int64_t> xs) {
    Step step;
    step.kind = kind;
    step.window = step.strides = {2, 2};
    step.scale = {2, 2};
    step.method = "nearest";
    step.axis = 3;
    step.xs = std::move(xs);
    step.output = static_cast<int64_t>(program.steps.size()) + 1;
    if (kind == StepKind::kAdd) step.y = step.xs[0];
    program.steps.push_back(step);
  };
  add(StepKind::kAdd, {0});
  add(StepKind::kMaxPool, {1});
  add(StepKind::kResize, {2});
  add(StepKind::kConcatenate, {3, 1});
  program.outputs = {{"y", 4}};
  const Planned planned = PlanOf(program, 1);
  CheckPlan(planned);
  EXPECT_EQ(planned.plan.wholes, (std::vector<int>{-1, 4, -1, 4, -1}));
  EXPECT_EQ(planned.plan.places[3].offset, 0);
  EXPECT_EQ(planned.plan.places[1].offset, 16 * 4);
  EXPECT_EQ(planned.plan.places[1].row_step, 32);
}

TEST(ProgramPlan, ReusesMemory) {
  Program program;
  program.inputs = {{"x", 0, {1, 8, 8, 16}}};
  for (int64_t t = 1; t <= 10; ++t) {
    Step step;
    step.kind = t % 2 == 0 ? StepKind::kActivation : StepKind::kMaxPool;
    step.window = {3, 3};
    step.strides = {1, 1};
    step.padding = "same";
    step.xs = {t - 1};
    step.output = t;
    program.steps.push_back(step);
  }
  program.outputs = {{"y", 10}};
  const Planned planned = PlanOf(program, 1);
  CheckPlan(planned);
  // A pool reads one tensor and writes another; the activations between them are in place.
  EXPECT_EQ(planned.plan.arena_bytes, 2 * 8 * 8 * 16 * 4);
}

}  // namespace
}  // namespace dwsconv
