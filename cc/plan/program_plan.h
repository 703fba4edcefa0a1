// Where the tensors of a program lie: a pure function of the program and its shapes.
#ifndef DWSCONV_PLAN_PROGRAM_PLAN_H_
#define DWSCONV_PLAN_PROGRAM_PLAN_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "cc/core/program.h"
#include "cc/core/program_infer.h"

namespace dwsconv {

// Memory of a tensor: an input or an output of the call, by its index, or a part of the arena.
struct Place {
  enum class In { kInput, kOutput, kArena } in = In::kArena;
  int index = 0;
  int64_t offset = 0;  // bytes into it
  // Of a tensor that lies inside another one, of which it is a crop or which will be its concatenation: elements from
  // one row of its last axis to the next. 0 where it is dense.
  int64_t row_step = 0;
};

struct ProgramPlan {
  std::vector<Place> places;  // by slot (InferredProgram)
  std::vector<int> wholes;    // by slot: the concatenation that it lies inside, or -1
  int64_t arena_bytes = 0;
  // Outputs that share a tensor with an input or another output: slots, and the outputs to copy them to.
  std::vector<std::pair<int, int>> copies;
  // By step: of a mean over what a depthwise chain gives, that chain, which adds up rows as it makes them, and the
  // other way round; else -1.
  std::vector<int> sums;
};

// All sizes of `inferred` are known. Fills *plan and returns "", or says that the tensors are too large.
std::string MakeProgramPlan(const Program& program, const InferredProgram& inferred, ProgramPlan* plan);

// Whether `slot` lies inside the tensor `whole` already, which has nothing left to copy of it.
bool IsInside(const ProgramPlan& plan, int slot, int whole);

// Whether a step may write where it reads `slot` of the inferred step: an op on single elements or rows.
bool MayShare(const Program& program, const InferredProgram& inferred, size_t step, int slot);

}  // namespace dwsconv

#endif  // DWSCONV_PLAN_PROGRAM_PLAN_H_
