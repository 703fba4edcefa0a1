// The filters of the backward pass: into the layout of its kernels, and their gradients out of it.
#ifndef DWSCONV_CPU_RUN_BACKWARD_FILTERS_H_
#define DWSCONV_CPU_RUN_BACKWARD_FILTERS_H_

#include "cc/core/parallel.h"
#include "cc/cpu/run/backward_task.h"

namespace dwsconv {

// Fills what BackwardJob::filters and (if not null) panels point to.
void PackBackwardFilters(const BackwardJob& job, float* filters, float* panels, const Workers& workers);

// Adds up what the chunks summed, in their order, and stores the gradients of filters and biases that are wanted.
void ReduceSums(const BackwardJob& job, const Workers& workers);

}  // namespace dwsconv

#endif  // DWSCONV_CPU_RUN_BACKWARD_FILTERS_H_
