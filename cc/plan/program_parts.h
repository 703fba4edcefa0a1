// Tensors that lie inside other ones, so that nobody copies them: a part of MakeProgramPlan (program_plan.h).
#ifndef DWSCONV_PLAN_PROGRAM_PARTS_H_
#define DWSCONV_PLAN_PROGRAM_PARTS_H_

#include <cstdint>
#include <vector>

#include "cc/core/program.h"
#include "cc/core/program_infer.h"

namespace dwsconv {

// Some channels of a larger tensor: rows of the last axis that lie apart.
struct Part {
  int of = -1;  // the larger one's slot; -1 of a tensor that lies for itself
  int64_t first = 0;
  // Whether the larger one was there first, and a crop takes the part where it lies. Otherwise the larger one is a
  // concatenation, and the part's step writes it there.
  bool is_view = false;
};

// By slot.
std::vector<Part> FindParts(const Program& program, const InferredProgram& inferred);

// All slots that a step reads.
std::vector<int> Reads(const InferredStep& step);

}  // namespace dwsconv

#endif  // DWSCONV_PLAN_PROGRAM_PARTS_H_
