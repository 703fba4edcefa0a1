// How the kernels that slide down an image's columns cut it.
#ifndef DWSCONV_PLAN_CUDA_SLIDE_H_
#define DWSCONV_PLAN_CUDA_SLIDE_H_

#include <cstdint>

#include "cc/core/chain.h"

namespace dwsconv {

constexpr int kSlideThreads = 256;  // of a block, at most

// Of an image's row: places in it are 32-bit words there.
constexpr int64_t kMostRowBytes = int64_t{1} << 30;

constexpr int64_t kMostSlideItems = int64_t{1} << 30;  // an item after the last one is an int, too

struct SlideCut {
  int pieces = 0;                          // of a pixel's channels: what a thread has
  int group_pieces = 1, groups = 0;        // pieces of a block, a power of two; groups of a pixel's pieces
  int tile_columns = 0, column_tiles = 0;  // columns of a block, and of an image in these
  int segment_rows = 0, segments = 0;      // rows of a segment, and of an image in these

  int threads() const { return (group_pieces * tile_columns + 31) / 32 * 32; }
};

// Cuts images of `rows` x `columns`. words: 4-byte words of a piece. slots: threads that run at a time. extra_rows:
// what a segment takes besides its rows, in rows.
SlideCut CutSlide(const Chain& chain, int words, int64_t rows, int64_t columns, int64_t slots, int64_t extra_rows);

// The same for the kernel on tensor cores, whose warps go down two tiles of 8 columns each, for 16 channels.
constexpr int kTensorWarps = 4;  // of a block
// Rows of X in a warp's shared memory, of which one is read and the others are on their way.
constexpr int TensorRingRows(int window, int stride) {
  return stride == 2 && window == 3 ? 4 : window == 3 || stride == 2 ? 6 : 5;
}

struct TensorCut {
  int groups = 0;                      // of 16 channels
  int column_tiles = 0, tiles = 0;     // of an image, and of all
  int segment_rows = 0, segments = 0;  // rows of a segment, and of an image in these
  int items = 0;                       // 0: more than the kernel takes
};

TensorCut CutTensor(const Chain& chain, int64_t rows, int64_t columns, int multiprocessors);

// dX and dD with stride 1.
bool SlidesGradients(const Chain& chain);  // whether there is a kernel
int GradientSlideWords(const Chain& chain);
SlideCut CutGradientSlide(const Chain& chain);

}  // namespace dwsconv

#endif  // DWSCONV_PLAN_CUDA_SLIDE_H_
