// One task of the backward pass: a block of channels by a chunk of pixels (see backward_plan.h).
#ifndef DWSCONV_CPU_RUN_BACKWARD_TASK_H_
#define DWSCONV_CPU_RUN_BACKWARD_TASK_H_

#include <cstdint>

#include "cc/core/chain.h"
#include "cc/cpu/kernels/backward_table.h"
#include "cc/plan/backward_plan.h"

namespace dwsconv {

// What all tasks share.
struct BackwardJob {
  const Chain* chain;  // channels last; Repeated where plan->times > 1
  const BackwardBuffers* buffers;
  const BackwardPlan* plan;
  const BackwardTable* kernels;
  const void* at;  // what the last activation's derivative is taken at: Y, or what went into it; may be null
  DType at_dtype;
  const float* filters;  // [blocks][filter_floats]: D [M][R*S][padded_channels], then the bias [M][padded_channels]
  const float* panels;   // [blocks][panel_floats], of product_type; null where no gradient needs dZ
  float* sums;           // [chunks][blocks][sum_floats]: dP, dD, the biases' gradients
  bool stream_dx;        // dX is too large to stay in cache: write around it
  bool wants_dz, wants_dp, wants_dx, wants_dd, wants_mid_bias, wants_bias;
};

// `scratch` is the worker's, plan->scratch_floats.
void RunBackwardTask(const BackwardJob& job, int64_t chunk, int64_t block, float* scratch);

}  // namespace dwsconv

#endif  // DWSCONV_CPU_RUN_BACKWARD_TASK_H_
