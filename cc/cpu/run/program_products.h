// A step of a program that multiplies two tensors: a product of matrices for each place of the axes in front.
#ifndef DWSCONV_CPU_RUN_PROGRAM_PRODUCTS_H_
#define DWSCONV_CPU_RUN_PROGRAM_PRODUCTS_H_

#include <cstdint>
#include <string>

#include "cc/core/cpu_features.h"
#include "cc/cpu/run/program_ops.h"

namespace dwsconv {

// Computes a `matmul`. Returns "" or what went wrong (memory).
std::string MultiplyStep(const StepCall& call, Isa isa);

// How many of them this process computed: for tests.
int64_t ProductSteps();

}  // namespace dwsconv

#endif  // DWSCONV_CPU_RUN_PROGRAM_PRODUCTS_H_
