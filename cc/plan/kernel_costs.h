// What kernels say of the time that they take. Files of one instruction set include this, so there is no STL here.
#ifndef DWSCONV_PLAN_KERNEL_COSTS_H_
#define DWSCONV_PLAN_KERNEL_COSTS_H_

#include <cstdint>

namespace dwsconv {

// For the planner, in cycles of a core: only their ratios steer its search. A kernel table has them
// (cc/cpu/kernels/kernel_table.h).
struct KernelCosts {
  // Of a depthwise multiply-add, in those of the pointwise half; where `grouped_rows` rows of a 3x3 window share loads;
  // in a part of a row.
  double depthwise = 1, grouped_depthwise = 1, part_row_depthwise = 1;
  int64_t grouped_rows = 1;
  // A register tile of fewer pixels takes as long as one of so many, and its end as long as so many more.
  double least_pixels = 1, pixels_per_tile = 0;
  double task = 0;  // its bookkeeping
  // Behind an expansion: what a piece of the channels costs beside its arithmetic, and how many times as long its
  // windows take where their rows do not stay in L1.
  double piece = 0, far_windows = 1;
};

}  // namespace dwsconv

#endif  // DWSCONV_PLAN_KERNEL_COSTS_H_
