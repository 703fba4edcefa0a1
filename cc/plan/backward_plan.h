// How the backward pass of one chain is cut into tasks: a pure function of the chain and the machine.
//
// Everything but the sums over output channels is separate for each input channel: Z, the gradient of Z, and the
// gradients of input and filters. So a task takes a block of channels and a chunk of the pixels, recomputes Z, and
// needs nothing of other tasks; what it sums over its pixels goes into sums of its own, which are added up in order of
// the chunks. Neither chunks nor blocks depend on the number of threads, so results don't.
#ifndef DWSCONV_PLAN_BACKWARD_PLAN_H_
#define DWSCONV_PLAN_BACKWARD_PLAN_H_

#include <cstdint>

#include "cc/core/chain.h"
#include "cc/plan/plan.h"

namespace dwsconv {

// Channels of a block are padded to a multiple of this many floats in scratch, whatever the vectors.
constexpr int64_t kBackwardQuantum = 16;

// Windows of at most so many rows and columns go through loops of whole grids of taps, with zeros around dZ.
constexpr int64_t kSmallWindow = 7;

struct BackwardPlan {
  // M where scratch holds each channel of X so many times, and all is as in Repeated(chain), whose channels the sizes
  // below count; else 1.
  int64_t times = 1;

  // The window is larger than kSmallWindow: rows of dX near an edge take the taps that there are rows of dZ for.
  bool edges_apart = false;

  // A task: input channels [block * block_channels, ...) by the chunk's output rows.
  int64_t block_channels = 0, blocks = 0;
  int64_t block_rows = 0;  // output rows that are in scratch at once
  // A chunk: whole images if N >= chunks, else one of `pieces` runs of rows of one image.
  int64_t chunks = 0, pieces = 1;

  // Scratch, in floats. Strides between pixels are odd multiples of a cache line, so that a column of pixels does not
  // fall into few sets of L1.
  int64_t padded_channels = 0;  // block_channels rounded up to kBackwardQuantum
  int64_t columns = 0;          // M * padded_channels: channel c of the block by multiplier m is column m * padded + c
  int64_t padded_K = 0;         // K rounded up to the register tile
  int64_t x_stride = 0, z_stride = 0, g_stride = 0;  // from one pixel to the next
  int64_t x_rows = 0, x_columns = 0;                 // of X with its padding under block_rows output rows
  int64_t history = 0;                               // rows of dZ above the block that its rows of dX need
  int64_t below = 0;                                 // rows of zeros under the last row of dZ that dX needs
  int64_t left = 0, right = 0;                       // columns of zeros beside dZ
  int64_t x_floats = 0, z_floats = 0, dz_floats = 0, g_floats = 0, y_floats = 0;
  // Where the products' factors are bfloat16: rows of dY, and pairs of pixels of dY and of Z; else 0. In floats.
  int64_t rounded_floats = 0, g_pair_floats = 0, z_pair_floats = 0;
  int64_t fold_floats = 0;     // a row of dX before its multipliers are summed, where times > 1
  int64_t list_floats = 0;     // the taps' addresses, two lists
  int64_t scratch_floats = 0;  // a thread, in all

  // Sums of one task, in floats: dP, dD, and the gradients of both biases.
  int64_t dp_floats = 0, dd_floats = 0, sum_floats = 0;
  // Packed filters of one block, in floats.
  int64_t panel_floats = 0, filter_floats = 0;

  // False: the geometry (a dilation of thousands, say) needs more scratch than is sane, and plain loops do.
  bool blocked = false;

  int64_t tasks() const { return chunks * blocks; }
};

// machine.z_bytes says which: 2 for bfloat16.
BackwardPlan MakeBackwardPlan(const Chain& chain, const Machine& machine);

// The same with the blocks given, in channels of X and in rows: for measurements and tests. Both at least 1.
BackwardPlan FinishBackwardPlan(const Chain& chain, const Machine& machine, int64_t block_channels, int64_t block_rows);

}  // namespace dwsconv

#endif  // DWSCONV_PLAN_BACKWARD_PLAN_H_
