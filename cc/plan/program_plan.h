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
  int64_t offset = 0;  // bytes into the arena
};

struct ProgramPlan {
  std::vector<Place> places;  // by slot (InferredProgram)
  int64_t arena_bytes = 0;
  // Outputs that share a tensor with an input or another output: slots, and the outputs to copy them to.
  std::vector<std::pair<int, int>> copies;

  // Images one at a time through steps [0, image_steps), each thread in an arena of its own, of `image_bytes`. Tensors
  // that later steps read, and outputs, are whole and lie in `places`; of the others image_offset has the place there,
  // and -1 for those. 0 where it is all steps on the whole batch.
  int64_t image_steps = 0, image_bytes = 0;
  std::vector<int64_t> image_offset;  // by slot
};

// All sizes of `inferred` are known. Fills *plan and returns "", or says that the tensors are too large.
// `l2_bytes` and `threads` decide about images one at a time.
std::string MakeProgramPlan(const Program& program, const InferredProgram& inferred, int64_t l2_bytes, int threads,
                            ProgramPlan* plan);

// Whether a step may write where it reads `slot` of the inferred step: an op on single elements or rows.
bool MayShare(const Program& program, const InferredProgram& inferred, size_t step, int slot);

}  // namespace dwsconv

#endif  // DWSCONV_PLAN_PROGRAM_PLAN_H_
