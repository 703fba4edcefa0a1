// How a chain is cut into tasks: a pure function of the chain and the machine.
#ifndef DWSCONV_PLAN_PLAN_H_
#define DWSCONV_PLAN_PLAN_H_

#include <cstdint>
#include <string>

#include "cc/core/chain.h"
#include "cc/core/cpu_features.h"
#include "cc/plan/kernel_costs.h"
#include "cc/plan/variant.h"

namespace dwsconv {

// What the planner needs to know of a machine and a kernel.
struct Machine {
  Isa isa = Isa::kGeneric;
  int64_t l1d_bytes = 32 << 10, l2_bytes = 1 << 20, l3_bytes = 32 << 20;
  double stream_share = 0.5;  // of L3, as in CpuFeatures
  int threads = 1;
  // Below this much arithmetic a second thread costs more to call than it saves: to wake it, or, where it waits for the
  // next step of a network (team.h), to tell it.
  double flops_per_thread = 500'000;
  int vector_floats = 4;  // floats in a vector register
  int64_t z_bytes = 4;    // of an element of Z
  int tile_pixels = 6;    // rows of the pointwise register tile
  int tile_channels = 8;  // columns of it
  int product_depth = 1;  // terms of a product's sum that an instruction takes at once
  bool rounds_z = false;  // Z is rounded to the products' type in place, once it is whole
  int product_rate = 1;   // multiply-adds of the pointwise half in the time of one of floats
  KernelCosts costs;      // follows from what else is here of the kernel
  // A byte from beyond L2, at a few bytes a cycle; one out of L2; one of memory that two cores write and read in turn.
  double cycles_per_byte = 1.0 / 8, cycles_per_near_byte = 1.0 / 128, cycles_per_shared_byte = 1.0 / 3;

  // Whether stores go around the caches in a call through which so many bytes pass.
  bool Streams(double bytes) const { return bytes > stream_share * static_cast<double>(l3_bytes); }
};

// Whether several pixels share a vector: a first layer's 3 channels would leave most of it empty. Then Z's rows are
// dense (z_stride is C) and the depthwise filter is packed a second time, repeated over `packed_pixels` pixels, so that
// their channels fill whole vectors. 0 where pixels are not packed.
int64_t PackedPixels(const Chain& chain, int vector_floats);

// Whether a block's rows of X are copied with each channel repeated M times, so that the depthwise half runs as
// Repeated(chain): where the multipliers of C channels one after the other would leave vectors of `vector_floats`
// emptier. What a copy costs is one store a vector, for R * S multiply-adds. Never behind an expansion.
bool RepeatsInput(const Chain& chain, int64_t vector_floats);

// Of the rows of X under `pixels` output pixels of an image, as floats with each channel M times: whole rows, or what
// lies under a part of one.
int64_t RepeatBytes(const Chain& chain, int64_t pixels);

// A dense convolution of which each pixel needs one.
bool IsPointwise(const Chain& chain);

// A convolution of groups as as many images of one group each: N, C and K are those. Groups that would leave vectors of
// `tile_channels`' width empty are taken together, as one with zeros in its filter, where that is less to compute. All
// other chains as they are.
Chain GroupsAsImages(const Chain& chain, int64_t vector_floats);

// A dense convolution whose products read X under their windows: runs of S*C numbers in each of R rows. A block whose
// windows reach past an edge, or whose X is of another type than the products, reads a copy of its rows of X with what
// lies outside. Elsewhere what lies under each pixel's window is copied: where an instruction takes terms of two runs,
// and in rows of a few pixels, where products by rows are slow.
bool ReadsWindows(const Chain& chain, const Machine& machine);

// The rows of X, and those outside, below the windows of so many output rows; likewise of columns.
int64_t WindowHeight(const Chain& chain, int64_t rows);
int64_t WindowWidth(const Chain& chain, int64_t columns);

// Of the copy for a block of `pixels`: that of whole rows, or of a part of one.
int64_t WindowBytes(const Chain& chain, const Machine& machine, int64_t pixels);

struct Plan {
  int64_t tasks = 0;
  int threads = 1;            // used, at most Machine::threads
  int64_t scratch_bytes = 0;  // a thread
  int64_t z_stride = 0;       // elements from one pixel of Z to the next
  bool stream = false;        // Y is too large to stay in cache: write around it
  bool tuned = false;         // from the tuner's file (tuned_plans.h)

  // Without an expansion a task is a block: consecutive output pixels (of one image, row-major), and output channels.
  // Its scratch is Z of the block, rows padded.
  int64_t block_pixels = 0, block_channels = 0;
  bool windows = false;      // ReadsWindows; scratch is of WindowBytes then
  int64_t repeat_bytes = 0;  // of scratch_bytes, at its end: the block's rows of X where RepeatsInput, else 0

  // Behind an expansion A, several times the size of X, never exists as a whole. A task is one of
  // `strips` of an image, of `rows` output rows at most. It computes A's rows below their windows, `channels` of them
  // at a time (all, or a multiple of the register tile), then as many channels of Z, and at last Y. With all channels
  // at a time a thread keeps the rows that its next task reads again. Its scratch is A and Z.
  int64_t rows = 0, channels = 0, strips = 1;
  // With few small images the tasks are (image, channels) first, until all of Z is there, and then parts of Y: of an
  // image y_blocks of pixels times y_shares of output channels.
  bool by_channels = false;
  int64_t y_blocks = 1, y_shares = 1;
  int64_t a_bytes = 0;  // of A, a thread
  int64_t z_bytes = 0;  // of Z, a thread; with by_channels of all images, and not in scratch_bytes
};

// What the communication model says the plan moves between L2 and beyond, in all.
double ModelledBytes(const Chain& chain, const Machine& machine, const Plan& plan);

// The output is not empty. Without an expansion 0 < block_pixels <= Ho*Wo and 0 < block_channels <= K.
Plan MakePlan(const Chain& chain, const Machine& machine);

// Fills what follows from the blocks, tasks, z_stride and scratch_bytes, and takes away threads that get no task.
void FinishPlan(const Chain& chain, const Machine& machine, Plan* plan);

// The chain that blocks are planned for: a dense convolution is a projection of what lies under its windows, and a
// chain without a projection hardly has one, to a single channel.
Chain PlannedAs(const Chain& chain);

// A's rows that output rows [first, last) read: [*begin, *end), inside the image.
void RowsRead(const Chain& chain, int64_t first, int64_t last, int64_t* begin, int64_t* end);

}  // namespace dwsconv

#endif  // DWSCONV_PLAN_PLAN_H_
