// How a block that a 1x1 convolution leads is cut into tasks. Its expanded tensor A, several times the size of X, never
// exists as a whole.
#ifndef DWSCONV_PLAN_EXPAND_PLAN_H_
#define DWSCONV_PLAN_EXPAND_PLAN_H_

#include <cstdint>

#include "cc/core/block.h"
#include "cc/plan/plan.h"

namespace dwsconv {

struct ExpandPlan {
  // A task is `rows` output rows of one image. It computes A's rows below their windows, `channels` of them at a time
  // (all, or a multiple of the register tile), then as many channels of Z, and at last Y. With all channels at a time a
  // thread keeps the rows that its next task reads again.
  int64_t rows = 0;
  int64_t channels = 0;
  // With few small images the tasks are (image, channels) first, until all of Z is there, and then parts of Y.
  bool by_channels = false;
  int64_t z_pixels = 0;  // pixels of Z that are kept at a time, unless by_channels: Y follows piece by piece
  int threads = 1;
  int64_t z_stride = 0;  // elements
  int64_t a_bytes = 0;   // of A, a thread
  int64_t z_bytes = 0;   // of Z, a thread; with by_channels of all images
  bool stream = false;   // write Y around the caches
};

// Output pixels > 0, E > 0.
ExpandPlan MakeExpandPlan(const Block& block, const Machine& machine);

// A's rows that output rows [first, last) read: [*begin, *end), inside the image.
void RowsRead(const Problem& problem, int64_t first, int64_t last, int64_t* begin, int64_t* end);

}  // namespace dwsconv

#endif  // DWSCONV_PLAN_EXPAND_PLAN_H_
