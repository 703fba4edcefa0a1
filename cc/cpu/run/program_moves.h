// The steps of a program that only move the elements of one tensor.
#ifndef DWSCONV_CPU_RUN_PROGRAM_MOVES_H_
#define DWSCONV_CPU_RUN_PROGRAM_MOVES_H_

#include "cc/cpu/run/program_ops.h"

namespace dwsconv {

// Computes a crop, a transpose or a depth_to_space. The output has elements.
void Move(const StepCall& call);

}  // namespace dwsconv

#endif  // DWSCONV_CPU_RUN_PROGRAM_MOVES_H_
