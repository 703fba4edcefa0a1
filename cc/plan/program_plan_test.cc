// Where tensors lie: none where another one lives that is still to be read.
#include "cc/plan/program_plan.h"

#include <gtest/gtest.h>

#include <algorithm>
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

// Plays the steps: each cell of memory holds the slot that was written there last. What a step reads, and what the
// outputs are in the end, has to be there still: itself, or what it was made of in place or by a reshape.
void CheckPlan(const Planned& planned) {
  const Program& program = planned.program;
  const ProgramPlan& plan = planned.plan;
  const InferredProgram& inferred = planned.inferred;
  constexpr int64_t kCell = 64;
  std::vector<int> arena(static_cast<size_t>(plan.arena_bytes / kCell), -1);
  std::vector<std::vector<int>> outputs(program.outputs.size());
  const auto cells = [&](int slot) {
    const int64_t bytes = Elements(inferred.shapes[static_cast<size_t>(slot)]) * SizeOf(program.dtype);
    return (bytes + kCell - 1) / kCell;
  };
  const auto write = [&](int slot) {
    const Place& place = plan.places[static_cast<size_t>(slot)];
    ASSERT_NE(place.in, Place::In::kInput);
    if (place.in == Place::In::kOutput) {
      outputs[static_cast<size_t>(place.index)].assign(static_cast<size_t>(cells(slot)), slot);
      return;
    }
    ASSERT_EQ(place.offset % kCell, 0);
    ASSERT_LE(place.offset / kCell + cells(slot), static_cast<int64_t>(arena.size()));
    std::fill_n(arena.begin() + place.offset / kCell, cells(slot), slot);
  };
  const auto read = [&](int slot) {
    const Place& place = plan.places[static_cast<size_t>(slot)];
    for (int64_t i = 0; i < cells(slot); ++i) {
      if (place.in == Place::In::kArena) {
        ASSERT_EQ(arena[static_cast<size_t>(place.offset / kCell + i)], slot);
      }
      if (place.in == Place::In::kOutput) {
        ASSERT_LT(i, static_cast<int64_t>(outputs[static_cast<size_t>(place.index)].size()));
        ASSERT_EQ(outputs[static_cast<size_t>(place.index)][static_cast<size_t>(i)], slot);
      }
    }
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
    const Place& to = plan.places[static_cast<size_t>(step.output)];
    for (int slot : reads) {
      const int source = alias[static_cast<size_t>(slot)];
      read(source);
      const Place& from = plan.places[static_cast<size_t>(slot)];
      if (MayShare(program, inferred, i, slot) || from.in != to.in) continue;
      const bool apart = from.in == Place::In::kArena ? from.offset + cells(slot) * kCell <= to.offset ||
                                                            to.offset + cells(step.output) * kCell <= from.offset
                                                      : from.index != to.index;
      ASSERT_TRUE(apart) << "slot " << slot;
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

// Random steps on tensors of two sizes.
TEST(ProgramPlan, RandomPrograms) {
  Draw draw(5);
  for (int i = 0; i < 300; ++i) {
    Program program;
    program.inputs = {{"a", 0, {kUnknown, 4, 4, 16}}, {"b", 1, {kUnknown, 4, 4, 16}}};
    const int64_t steps = draw(1, 20);
    for (int64_t t = 2; t < 2 + steps; ++t) {
      Step step;
      const StepKind kinds[] = {StepKind::kActivation, StepKind::kAdd,     StepKind::kReshape,
                                StepKind::kSoftmax,    StepKind::kMaxPool, StepKind::kTranspose};
      step.kind = kinds[draw(0, 5)];
      step.xs = {draw(0, t - 1)};
      if (step.kind == StepKind::kAdd) step.y = draw(0, t - 1);
      step.shape = std::vector<int64_t>{4, 4, 16};
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
    CheckPlan(PlanOf(program, 2));
    if (HasFailure()) break;
  }
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
