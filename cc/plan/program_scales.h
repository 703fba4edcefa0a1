// Scales and shifts of a program's input that the first convolution takes into its filter: `Rescaling` and
// `Normalization`, with which a picture begins, are a pass over memory of their own else.
#ifndef DWSCONV_PLAN_PROGRAM_SCALES_H_
#define DWSCONV_PLAN_PROGRAM_SCALES_H_

#include <vector>

#include "cc/core/program.h"
#include "cc/core/program_infer.h"

namespace dwsconv {

// Of each step: the step whose scale and shift of its input it may take, or -1. It reads what that step reads then, an
// input of the program, and nobody reads what that step would write. A matter of the steps alone, not of sizes.
std::vector<int> ScalesTaken(const Program& program, const InferredProgram& inferred);

}  // namespace dwsconv

#endif  // DWSCONV_PLAN_PROGRAM_SCALES_H_
