// How the depthwise kernels on tensor cores cut a tensor.
#ifndef DWSCONV_PLAN_CUDA_TENSOR_CUT_H_
#define DWSCONV_PLAN_CUDA_TENSOR_CUT_H_

#include <cstdint>

#include "cc/core/chain.h"

namespace dwsconv {

constexpr int kTensorWarps = 4, kTensorThreads = 32 * kTensorWarps;  // of a block

// A warp goes down two tiles of 8 columns each, of one image or two, for 16 channels.
struct TensorCut {
  int warps_log2 = 0;                  // of a block's warps that have channels of the same tiles side by side
  int channel_blocks = 0;              // blocks for all channels
  int column_tiles = 0, tiles = 0;     // of an image, and of all
  int pairs = 0;                       // of tiles
  int blocks = 0;                      // for all pairs and channels, channels first
  int segment_rows = 0, segments = 0;  // rows of a segment, and of an image in these
  int items = 0;                       // blocks x segments; 0: more than the kernels take

  int block_pairs() const { return kTensorWarps >> warps_log2; }
};

// Whether they are the ones for the chain's depthwise convolution: 16-bit elements, windows of 3x3 with stride 1 and of
// 5x5, channels in whole vectors of 16 bytes, from 8.0 on. With stride 2 a row of X serves fewer rows of Z: 3x3
// took 1.1 times as long on an H200 as by patches (docs/tuning.md).
bool HasTensorDepthwise(const Chain& chain, int capability);

// Cuts a depthwise convolution's result of `rows` x `columns` an image.
TensorCut CutTensor(const Chain& chain, int64_t rows, int64_t columns, int multiprocessors);

// The same for dD, whose warps add up what several strips give: by the chain alone, on which the parts of a sum depend.
// Segments are whole images, items are not counted.
TensorCut CutTensorFilter(const Chain& chain);

}  // namespace dwsconv

#endif  // DWSCONV_PLAN_CUDA_TENSOR_CUT_H_
