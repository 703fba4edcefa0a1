// The fused loop over blocks of output pixels, with what may stand between its two convolutions.
#ifndef DWSCONV_CPU_FUSED_H_
#define DWSCONV_CPU_FUSED_H_

#include <cstdint>
#include <functional>
#include <string>

#include "cc/core/problem.h"
#include "cc/cpu/forward.h"
#include "cc/cpu/packed_filters.h"

namespace dwsconv {

constexpr char kOutOfMemory[] = "out of memory for the working buffers of the depthwise-separable convolution";

// What a run does besides, or instead of, the two convolutions. By default nothing.
struct Stages {
  bool depthwise = true;  // false: one dense convolution, whose filter is that of the pointwise half, [R*S*C,K]
  bool pointwise = true;  // false: Y is Z; K is C*M and the packed filters' K is 0
  bool normalize = false;
  float epsilon = 0;
  const float* scale = nullptr;  // [N][scale_stride]: a factor for each image and channel of Z
  int64_t scale_stride = 0;      // the packed filters' channel_stride
};

// The problem whose packed filters and plan serve a dense convolution: 1x1, of what lies under a window.
Problem DenseAsPointwise(const Problem& problem);

// Channels-last buffers to channels-last buffers. Without a depthwise stage, `packed` is of DenseAsPointwise(problem).
std::string RunFused(const Problem& problem, const ForwardBuffers& buffers, const PackedFilters& packed,
                     const Stages& stages, const ForwardOptions& options);

// Runs channels-last code on channels-first buffers: a few images at a time between transpositions, so that the copies
// stay in cache and do not grow with the batch. X has x_channels channels. `run` gets the problem of those images, the
// first of them, and buffers whose input, residual and output are copies.
using ChannelsLastRun =
    std::function<std::string(const Problem& problem, int64_t first_image, const ForwardBuffers& buffers)>;
std::string BetweenTranspositions(const Problem& problem, int64_t x_channels, const ForwardBuffers& buffers,
                                  const ForwardOptions& options, const ChannelsLastRun& run);

// Rows of Z from its own channel order, m * C + c, to TensorFlow's, c * M + m: where they are the output.
void ToOutputOrder(const Problem& problem, int64_t z_item, int64_t z_stride, int64_t pixels, void* z);

// The parts of a DepthwiseArgs that the packed filters give.
void SetFilters(const PackedFilters& packed, DepthwiseArgs* args);

}  // namespace dwsconv

#endif  // DWSCONV_CPU_FUSED_H_
