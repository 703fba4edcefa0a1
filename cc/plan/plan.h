// How one problem is cut into tasks: a pure function of the problem and the machine.
#ifndef DWSCONV_PLAN_PLAN_H_
#define DWSCONV_PLAN_PLAN_H_

#include <cstdint>
#include <string>

#include "cc/core/cpu_features.h"
#include "cc/core/problem.h"
#include "cc/plan/variant.h"

namespace dwsconv {

// What the planner needs to know of a machine and a kernel.
struct Machine {
  Isa isa = Isa::kGeneric;
  int64_t l1d_bytes = 32 << 10, l2_bytes = 1 << 20, l3_bytes = 32 << 20;
  int threads = 1;
  int vector_floats = 4;  // floats in a vector register
  int64_t z_bytes = 4;    // of an element of Z
  int tile_pixels = 6;    // rows of the pointwise register tile
  int tile_channels = 8;  // columns of it
};

// Whether several pixels share a vector: a first layer's 3 channels would leave most of it empty. Then Z's rows are
// dense (z_stride is C) and the depthwise filter is packed a second time, repeated over `packed_pixels` pixels, so that
// their channels fill whole vectors. 0 where pixels are not packed.
int64_t PackedPixels(const Problem& problem, int vector_floats);

// Whether a block's rows of X are copied with each channel repeated M times, so that the depthwise half runs as
// Repeated(problem): where the multipliers of C channels one after the other would leave vectors of `vector_floats`
// emptier. What a copy costs is one store a vector, for R * S multiply-adds.
bool RepeatsInput(const Problem& problem, int64_t vector_floats);

struct Plan {
  int64_t block_pixels = 0;    // consecutive output pixels (of one image, row-major) in one task
  int64_t block_channels = 0;  // output channels in one task
  int64_t tasks = 0;
  int threads = 1;            // used, at most Machine::threads
  int64_t scratch_bytes = 0;  // a thread: Z of one block, rows padded
  int64_t z_stride = 0;       // elements from one pixel of Z to the next
  int64_t repeat_bytes = 0;   // of scratch_bytes, at its end: the block's rows of X where RepeatsInput, else 0
  bool stream = false;        // Y is too large to stay in cache: write around it
  bool tuned = false;         // from the tuner's file (tuned_plans.h)
};

// What the communication model says the plan moves between L2 and beyond, in all.
double ModelledBytes(const Problem& problem, const Machine& machine, const Plan& plan);

// 0 < block_pixels <= Ho*Wo and 0 < block_channels <= K for every problem with Ho, Wo, K > 0.
Plan MakePlan(const Problem& problem, const Machine& machine);

// Fills what follows from the blocks, tasks, z_stride and scratch_bytes, and takes away threads that get no task.
// Without may_repeat for kernels that read something else than X.
void FinishPlan(const Problem& problem, const Machine& machine, Plan* plan, bool may_repeat = true);

}  // namespace dwsconv

#endif  // DWSCONV_PLAN_PLAN_H_
